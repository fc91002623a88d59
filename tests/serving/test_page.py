"""One asset on the page in real Chromium, from four photos to the file that is downloaded."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, SECONDS, chromium, free_port, opened, serving, status, upload
from PIL import Image

from shapes import Draw
from v3d.meshes.files import load_mesh

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def redness(page: Any, viewer: str) -> float:
    """Share of the middle of a viewer that is red, as soon as it is more than nothing."""
    shown = 0.0
    for _ in range(60):
        page.wait_for_timeout(1000)
        pixels = Image.open(io.BytesIO(page.locator(viewer).screenshot(timeout=SECONDS))).convert("RGB")
        rgb = np.asarray(pixels, np.int16)
        middle = rgb[rgb.shape[0] // 4 : -rgb.shape[0] // 4, rgb.shape[1] // 4 : -rgb.shape[1] // 4]
        shown = float((middle[..., 0] - middle[..., 1] > 60).mean())
        if shown > 0.05:
            break
    return shown


def test_four_photos_become_an_asset_that_outlives_the_server(
    browser: Any, draw: Draw, tmp_path: Path
) -> None:
    port = free_port()
    with serving(tmp_path / "jobs", port) as address:
        page = opened(browser, address)
        for side, width in (("front", 30), ("left", 22), ("back", 30), ("right", 22)):
            upload(page, f"#v3d-{side}", draw(f"{side}.png", width))
        page.click("#v3d-make")
        stages = []
        for stage in ("photo", "views", "splats"):  # progress moves
            page.wait_for_function(
                "stage => [...document.querySelectorAll('#v3d-status .now')].some(s => s.innerText == stage)",
                arg=stage,
                timeout=SECONDS,
            )
            stages.append(int(page.get_attribute("#v3d-status [role=progressbar]", "aria-valuenow")))
        assert stages == sorted(stages) and stages[-1] > 50
        page.wait_for_selector("#v3d-status img.v3d-live", timeout=SECONDS)  # the Gaussians as they fit
        status(page, "Done in")

        viewer = page.frame_locator("#v3d-viewer iframe")
        viewer.locator("body[data-shown=splats]").wait_for(timeout=SECONDS)
        for mode in ("splats", "mesh"):
            viewer.locator(f"button[data-mode={mode}]").click()
            viewer.locator(f"body[data-shown={mode}]").wait_for()
            assert redness(page, "#v3d-viewer iframe") > 0.05  # the drawing is red
        page.screenshot(path=tmp_path / "page.png")
        with page.expect_download() as download:
            page.click("#v3d-files a[download='mesh.glb']")
        download.value.save_as(tmp_path / "got.glb")
        assert load_mesh(tmp_path / "got.glb").texture is not None
        with page.expect_download() as download:
            page.click("#v3d-files a[download='front.zip']")
        download.value.save_as(tmp_path / "all.zip")
        with zipfile.ZipFile(tmp_path / "all.zip") as archive:
            assert {"mesh.glb", "splats.ply", "turntable.mp4", "preview.png", "viewer.html"} <= set(
                archive.namelist()
            )

        page.click("#v3d-results button[role=tab]:has-text('Views')")
        source = "document.querySelector('#v3d-views .v3d-view').src"
        page.focus("#v3d-views input[type=range]")
        page.keyboard.press("ArrowRight")
        assert page.evaluate(source).endswith("view_001.png")
        assert page.evaluate("document.querySelector('#v3d-views .v3d-view').naturalWidth") == 128
        assert page.elsewhere == []

    with serving(tmp_path / "jobs", port) as address:  # the browser still knows its job
        page.goto(address, wait_until="domcontentloaded")
        status(page, "Done in")
        (folder,) = (f for f in (tmp_path / "jobs").iterdir() if len(f.name) == 16)
        (folder / "result/splats.ply").unlink()  # behind the page's back
        page.reload(wait_until="domcontentloaded")
        status(page, "Done in")
        page.wait_for_selector("#v3d-files a[download='mesh.glb']")
        page.context.close()
