"""What users of the page do wrong, correct, queue and cancel, in real Chromium; runs end with the views."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import urllib.request
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, SECONDS, chromium, free_port, opened, serving, status, upload
from PIL import Image

from shapes import Draw, sphere_mesh
from v3d.cameras import orbit
from v3d.meshes.files import load_mesh
from v3d.meshes.ply import save_ply_mesh
from v3d.meshes.rendering import render
from v3d.views import Views, save_views

pytest.importorskip("gradio")
pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def address(jobs: Path) -> Iterator[str]:
    with serving(jobs, free_port(), "views") as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    page = opened(browser, address)
    yield page
    assert page.elsewhere == []
    page.context.close()


def newest(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/v1/jobs?limit=1") as answer:
        jobs: list[dict[str, Any]] = json.load(answer)["jobs"]
    return jobs[0] if jobs else {"id": "", "state": ""}


def made(page: Any, address: str, before: str) -> str:
    """The id of a job that is newer than `before`, when the page says that it is done."""
    for _ in range(300):
        if newest(address)["id"] != before and newest(address)["state"] == "done":
            break
        page.wait_for_timeout(500)
    status(page, "Done in")
    id: str = newest(address)["id"]
    assert id != before
    return id


def cutout(jobs: Path, id: str) -> Any:
    """Alpha of a job's front photo as it was used."""
    with Image.open(jobs / id / "result/cutout.png") as image:
        return np.asarray(image)[..., 3]


def test_what_is_wrong_is_said_and_the_button_works_again(
    page: Any, address: str, draw: Draw, tmp_path: Path
) -> None:
    page.click("#v3d-make")
    page.wait_for_selector("text=There is no photo of the front")
    page.click("button[role=tab]:has-text('Scene')")
    (tmp_path / "evil.zip").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    page.set_input_files("#v3d-scene-file input[type=file]", tmp_path / "evil.zip")
    page.wait_for_selector("#v3d-scene-file >> text=evil")
    page.click("#v3d-make-scene")
    page.wait_for_selector("text=evil.zip is none of what can be read")
    page.click("button[role=tab]:has-text('Photos')")
    upload(page, "#v3d-front", draw("cup.png"))
    page.click("#v3d-make")
    status(page, "photo")
    page.click("#v3d-cancel")
    assert "cancelled" in status(page, "cancelled")
    assert newest(address)["state"] == "cancelled"


def test_a_corrected_cut_out_changes_the_result(page: Any, address: str, draw: Draw, jobs: Path) -> None:
    before = newest(address)["id"]
    upload(page, "#v3d-front", draw("cup.png"))
    page.click("#v3d-make")
    first = made(page, address, before)
    plain = cutout(jobs, first)
    page.click("#v3d-cutout button")
    page.wait_for_selector("#v3d-cutout-note:has-text('cut away')", timeout=SECONDS)
    canvas = page.locator("#v3d-editor canvas").first
    canvas.wait_for()
    page.wait_for_function("() => /[0-9]%/.test(document.querySelector('#v3d-editor').innerText)")
    page.wait_for_timeout(3000)  # the editor draws its picture
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 0.42 * box["width"], y, steps=12)  # from the object to the right
    page.mouse.up()
    page.wait_for_timeout(2000)
    page.click("#v3d-make")
    second = made(page, address, first)
    with Image.open(jobs / second / "input/front_mask") as mask:
        assert mask.mode == "L" and mask.size == (120, 90)
    corrected = cutout(jobs, second)
    added = (corrected > 127) & (plain <= 127)
    assert added.sum() > 30 and np.nonzero(added)[1].min() > 60  # right of the middle
    assert ((corrected <= 127) & (plain > 127)).sum() < 20
    page.click("#v3d-reset")
    page.wait_for_timeout(2000)
    page.click("#v3d-make")
    third = made(page, address, second)
    assert not (jobs / third / "input/front_mask").exists() and (cutout(jobs, third) == plain).all()


def test_two_users_each_see_their_own_job(browser: Any, address: str, draw: Draw, jobs: Path) -> None:
    pages = [opened(browser, address) for _ in range(2)]
    ids = []
    for page, width in zip(pages, (30, 15), strict=True):
        upload(page, "#v3d-front", draw(f"cup{width}.png", width))
        page.click("#v3d-make")
        page.wait_for_function(
            "() => /Waiting|photo|views|Done/.test(document.querySelector('#v3d-status').innerText)"
        )
        ids.append(newest(address)["id"])
        page.get_by_label("Seed").first.fill("9")  # after it was queued: for the next one
    for page in pages:
        status(page, "Done in")
        assert page.elsewhere == []
        page.context.close()
    with sqlite3.connect(jobs / "jobs.sqlite") as rows:
        asked = [rows.execute("SELECT request FROM jobs WHERE id = ?", (id,)).fetchone()[0] for id in ids]
    assert [json.loads(request)["settings"]["seed"] for request in asked] == [0, 0]
    wide, narrow = (int((cutout(jobs, id) > 127).any(0).sum()) for id in ids)
    assert (wide, narrow) == (60, 30)


def zipped_ball(folder: Path) -> Path:
    """A zip of posed views of a ball."""
    cameras = orbit(6, size=48)
    seen = render(sphere_mesh(), cameras)
    save_views(Views(seen.rgb, seen.alpha, cameras), folder / "ball")
    with zipfile.ZipFile(folder / "ball.zip", "w") as archive:
        for path in sorted((folder / "ball").rglob("*.*")):
            archive.write(path, path.relative_to(folder))
    return folder / "ball.zip"


def test_a_scene_can_be_turned(page: Any, address: str, tmp_path: Path) -> None:
    before = newest(address)["id"]
    page.click("button[role=tab]:has-text('Scene')")
    page.set_input_files("#v3d-scene-file input[type=file]", zipped_ball(tmp_path))
    page.wait_for_selector("#v3d-scene-file >> text=ball")
    page.click("#v3d-path label:has-text('none')")
    page.click("#v3d-make-scene")
    id = made(page, address, before)
    assert newest(address)["kind"] == "scene" and "splats.ply" in newest(address)["files"]
    viewer = page.frame_locator(f"#v3d-viewer iframe[src*='{id}']")
    viewer.locator("body[data-shown=splats]").wait_for(timeout=SECONDS)


def test_a_mesh_is_textured_with_posed_views(page: Any, address: str, jobs: Path, tmp_path: Path) -> None:
    before = newest(address)["id"]
    save_ply_mesh(sphere_mesh(), tmp_path / "ball.ply")
    page.click("button[role=tab]:has-text('Texture a mesh')")
    page.set_input_files("#v3d-mesh-file input[type=file]", tmp_path / "ball.ply")
    page.wait_for_selector("#v3d-mesh-file >> text=ball")
    page.set_input_files("#v3d-texture-zip input[type=file]", zipped_ball(tmp_path))
    page.wait_for_selector("#v3d-texture-zip >> text=ball")
    page.click("#v3d-make-texture")
    id = made(page, address, before)
    assert load_mesh(jobs / id / "result/mesh.glb").texture is not None
    viewer = page.frame_locator(f"#v3d-viewer iframe[src*='{id}']")
    viewer.locator("body[data-shown=mesh]").wait_for(timeout=SECONDS)


def test_own_views_are_taken(page: Any, address: str, tmp_path: Path) -> None:
    zipped_ball(tmp_path)
    page.click("button[role=tab]:has-text('Views or video')")
    page.set_input_files("#v3d-views-file input[type=file]", tmp_path / "ball.zip")
    page.wait_for_selector("#v3d-views-file >> text=ball")
    page.click("#v3d-make-views")
    status(page, "Done in")
    job = newest(address)
    assert job["kind"] == "reconstruct" and job["state"] == "done"
    page.click("#v3d-results button[role=tab]:has-text('Views')")
    assert page.locator("#v3d-views .v3d-strip img").count() == 6


def test_examples_fill_the_form(page: Any) -> None:
    page.locator("#v3d-examples tbody tr").first.click()
    for side in ("front", "left", "back", "right"):
        page.wait_for_selector(f"#v3d-{side} img")


def test_it_fits_a_phone(browser: Any, address: str) -> None:
    page = opened(browser, address, color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(c) for c in ground[4:-1].split(",")[:3]) < 40  # dark where the system is
    for field in page.locator("#v3d-forms input:visible, #v3d-forms button:visible").all():
        name = field.evaluate("e => e.ariaLabel || e.title || e.innerText || e.labels?.[0]?.innerText || ''")
        assert name.strip() or field.get_attribute("type") in ("file", "radio")
    page.context.close()


def test_agents_find_three_tools(address: str, draw: Draw) -> None:
    pytest.importorskip("mcp")
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def use() -> tuple[set[str], str, str]:
        url = f"{address}/gradio_api/mcp/"
        async with streamablehttp_client(url) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            tools = await session.list_tools()
            made = await session.call_tool("make_asset", {"photo": str(draw("cup.png"))})
            id = made.content[0].text
            told = await session.call_tool("job_status", {"job": id})
            return {tool.name for tool in tools.tools}, id, told.content[0].text

    with ThreadPoolExecutor() as pool:  # this thread runs the browser's loop
        names, id, told = pool.submit(asyncio.run, use()).result()
    assert names == {"make_asset", "job_status", "job_files"}
    assert newest(address)["id"] == id and ("queued" in told or "running" in told)
