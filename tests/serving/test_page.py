"""The page in real Chromium: needs the extra `app`, playwright for Python and a chromium on the path."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shapes import Draw
from v3d.meshes.files import load_mesh

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """`v3d app` in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "v3d", "app", "-o", str(tmp_path / "jobs"), "--port", str(port)]
    server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    url = f"http://localhost:{port}"
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def page(address: str) -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--enable-unsafe-swiftshader"]
        )
        page = browser.new_context(viewport={"width": 1280, "height": 1000}, accept_downloads=True).new_page()
        page.asked = []
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_selector("#v3d-make", timeout=60_000)
        yield page
        browser.close()


def status(page: Any, words: str, seconds: float = 200) -> str:
    """The status line as soon as it has these words."""
    page.wait_for_function(
        "words => document.querySelector('#v3d-status')?.innerText.includes(words)",
        arg=words,
        timeout=seconds * 1000,
    )
    text: str = page.inner_text("#v3d-status")
    return text


def test_a_photo_becomes_a_mesh_that_can_be_seen_and_downloaded(
    page: Any, address: str, draw: Draw, tmp_path: Path
) -> None:
    page.set_input_files("#v3d-front input[type=file]", draw("cup.png"))
    page.wait_for_selector("#v3d-front img")
    page.click("#v3d-make")
    status(page, "photo")  # the stages are there while it runs
    status(page, "Done in")
    page.wait_for_selector("#v3d-mesh canvas", timeout=60_000)
    time.sleep(6)  # the viewer draws
    page.locator("#v3d-mesh").screenshot(path=tmp_path / "mesh.png")
    shown = np.asarray(Image.open(tmp_path / "mesh.png").convert("RGB"), np.int16)
    middle = shown[shown.shape[0] // 4 : -shown.shape[0] // 4, shown.shape[1] // 4 : -shown.shape[1] // 4]
    red = (middle[..., 0] - middle[..., 1] > 60).mean()
    assert red > 0.05  # the drawing is red

    with page.expect_download() as download:
        page.click("#v3d-files a[download='mesh.glb']")
    download.value.save_as(tmp_path / "got.glb")
    assert load_mesh(tmp_path / "got.glb").texture is not None
    own = address.removeprefix("http://localhost")
    assert all(
        own in url or url.startswith(("data:", "blob:")) for url in page.asked
    )  # nothing from elsewhere

    page.reload(wait_until="domcontentloaded")
    status(page, "Done in")  # the job is still there


def test_what_is_wrong_is_said_and_a_job_can_be_cancelled(page: Any, draw: Draw) -> None:
    page.click("#v3d-make")
    page.wait_for_selector("text=no photo of the front", timeout=20_000)
    page.set_input_files("#v3d-front input[type=file]", draw("cup.png"))
    page.wait_for_selector("#v3d-front img")
    page.click("#v3d-make")
    status(page, "photo")
    page.click("#v3d-cancel")
    assert "cancelled" in status(page, "cancelled")
