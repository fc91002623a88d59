"""The one-file viewer in real Chromium, from the disk and without a network.

Its pictures are compared with those of V3D's own renderers, from the same camera.
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from glyphs import letter
from shapes import textured
from v3d import cli
from v3d.cameras import Cameras, look_at
from v3d.errors import V3DError
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.preview import textured as mesh_renderer
from v3d.splats.files.write import write_splats
from v3d.splats.rasterize import splat_renderer
from v3d.viewer.page import save_viewer

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")

SIDE = 240
COLOURS = [[[0.9, 0.1, 0.1], [0.1, 0.7, 0.2]], [[0.1, 0.2, 0.9], [0.9, 0.8, 0.1]]]
Page = Any  # playwright's


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    flags = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox"]
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[[Path], Page]]:
    """Opens a file: without a network, with fingers, and standing still."""
    size = {"width": SIDE, "height": SIDE}
    context = browser.new_context(viewport=size, offline=True, reduced_motion="reduce", has_touch=True)
    context.set_default_timeout(120_000)

    def opens(path: Path) -> Page:
        page = context.new_page()
        page.asked, page.wrong = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("console", lambda said: said.type == "error" and page.wrong.append(said.text))
        page.goto(path.as_uri())
        page.wait_for_selector("body[data-shown], #message:not([hidden])", state="attached")
        page.add_style_tag(
            content="#bar { position: fixed; bottom: 0; opacity: 0; } #about { display: none; }"
        )
        page.evaluate("() => { const g = byId('ground'); g.value = '#ffffff'; g.oninput(); }")
        return page

    yield opens
    context.close()


def shown(page: Page, mode: str | None = None) -> np.ndarray:
    """The picture [SIDE, SIDE, 3] in [0, 1]."""
    if mode is not None:
        page.click(f"[data-mode={mode}]")
        page.wait_for_selector(f"body[data-shown={mode}]", state="attached")
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return np.asarray(picture, np.float32) / 255


def camera_of_the_page(points: torch.Tensor, azimuth: float = 0.0) -> Cameras:
    """Where the page looks from at first, at things whose points [P, 3] it shows."""
    low, high = points.amin(0), points.amax(0)
    centre, radius = (low + high) / 2, float((high - low).norm()) / 2
    elevation, half = 0.17, math.radians(17.5)
    back = [math.cos(elevation) * f(azimuth) for f in (math.cos, math.sin)] + [math.sin(elevation)]
    eye = centre + radius / math.sin(half) * torch.tensor(back)
    focal = SIDE / 2 / math.tan(half)
    K = torch.tensor([[focal, 0, SIDE / 2], [0, focal, SIDE / 2], [0, 0, 1]])
    return Cameras(look_at(eye[None], centre.tolist()), K[None], SIDE, SIDE)


def panel() -> Mesh:
    """A panel that leans, of many colours: alike in no mirror."""
    corners = torch.tensor([[0.1, -0.5, -0.4], [0.1, 0.5, -0.4], [-0.2, 0.5, 0.4], [-0.2, -0.5, 0.4]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    uv = torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    return Mesh(corners, faces, uv, torch.tensor(COLOURS).repeat_interleave(64, 0).repeat_interleave(64, 1))


def test_gaussians_look_as_the_rasterizer_draws_them(tmp_path: Path, opened: Callable[[Path], Page]) -> None:
    save_viewer(tmp_path / "a.html", letter(), None)
    page = opened(tmp_path / "a.html")
    picture = shown(page)
    expected = splat_renderer(letter())(camera_of_the_page(letter().means))[0].numpy()
    error = np.abs(picture - expected).mean()
    wrong = min(np.abs(turned - expected).mean() for turned in (expected[:, ::-1], expected[::-1]))
    assert error < 0.004 and error < 0.05 * wrong, (error, wrong)
    assert page.wrong == []
    assert not page.is_visible("[data-mode=mesh]")


def test_a_mesh_looks_as_the_renderer_draws_it(tmp_path: Path, opened: Callable[[Path], Page]) -> None:
    save_viewer(tmp_path / "a.html", letter(), panel())
    page = opened(tmp_path / "a.html")
    picture = shown(page, "mesh")
    expected = mesh_renderer(panel())(camera_of_the_page(panel().vertices))[0].numpy()
    assert np.abs(picture - expected).mean() < 0.02  # that renderer lights it a little
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        pixel = picture[int((0.4 + 0.2 * row) * SIDE), int((0.4 + 0.2 * column) * SIDE)]
        assert np.abs(pixel - COLOURS[row][column]).max() < 2 / 255, (row, column)
    shape, wires = shown(page, "shape"), shown(page, "wires")
    assert np.ptp(shape[SIDE // 2, SIDE // 2]) < 0.1  # grey
    assert (wires.mean(-1) < 0.3).sum() > 100  # dark lines
    assert page.wrong == []


def test_it_turns_by_itself_by_hand_and_by_key(tmp_path: Path, opened: Callable[[Path], Page]) -> None:
    save_viewer(tmp_path / "a.html", letter(), None)
    page = opened(tmp_path / "a.html")
    still = shown(page)
    assert np.array_equal(still, shown(page))
    page.click("#turn")
    page.wait_for_timeout(300)
    assert np.abs(shown(page) - still).mean() > 1e-3
    page.click("#turn")
    page.dblclick("#canvas")  # back to the start
    assert np.abs(shown(page) - still).mean() < 1e-3
    page.mouse.move(120, 60)
    page.mouse.down()
    page.mouse.move(120 - 30, 60, steps=3)
    page.mouse.up()
    # To the left by an eighth of the window: the camera goes 0.5 radians to the object's left.
    expected = splat_renderer(letter())(camera_of_the_page(letter().means, 0.5))[0].numpy()
    assert np.abs(shown(page) - expected).mean() < 0.004
    page.focus("#canvas")
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    assert np.abs(shown(page) - still).mean() < 1e-3


def test_two_fingers_bring_it_closer_or_away(tmp_path: Path, opened: Callable[[Path], Page]) -> None:
    save_viewer(tmp_path / "a.html", letter(), None)
    page = opened(tmp_path / "a.html")
    covered = (shown(page).min(-1) < 0.9).sum()
    fingers = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 60), ("touchMove", 40), ("touchMove", 30), ("touchEnd", None)):
        points = [] if apart is None else [{"x": 120 + side * apart, "y": 100} for side in (-1, 1)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert 3 < covered / (shown(page).min(-1) < 0.9).sum() < 5  # half as large, either way


def test_the_ground_takes_a_colour(tmp_path: Path, opened: Callable[[Path], Page]) -> None:
    save_viewer(tmp_path / "a.html", letter(), None)
    page = opened(tmp_path / "a.html")
    page.evaluate("() => { const g = byId('ground'); g.value = '#204060'; g.oninput(); }")
    assert (shown(page)[-3, -3] * 255).round().tolist() == [0x20, 0x40, 0x60]


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path, opened: Callable[[Path], Page]) -> None:
    save_viewer(tmp_path / "a.html", letter(), panel(), title="<b>a & b</b>")
    page = opened(tmp_path / "a.html")
    assert page.asked == [(tmp_path / "a.html").as_uri()]
    assert page.title() == "<b>a & b</b>"


def test_the_command_shows_runs_meshes_and_gaussians(
    tmp_path: Path, opened: Callable[[Path], Page], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    save_glb(panel(), run / "mesh.glb")
    write_splats(run / "splats.ply", letter())
    write_splats(tmp_path / "splats.glb", letter())
    expected = {run: "2 triangles", run / "mesh.glb": "2 triangles", run / "splats.ply": "11 Gaussians"}
    for asset, said in (expected | {tmp_path / "splats.glb": "11 Gaussians"}).items():
        assert cli.main(["view", str(asset), "--no-open"]) == 0
        path = Path(capsys.readouterr().out.strip())
        assert path == run / "viewer.html" or asset != run
        assert said in opened(path).locator("#about").text_content()
    assert cli.main(["view", str(tmp_path), "--no-open"]) == 2
    assert "no folder of a run" in capsys.readouterr().err


def test_there_must_be_something(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="neither Gaussians nor a mesh"):
        save_viewer(tmp_path / "a.html", None, None)


def test_a_mesh_without_texture_shows_its_shape(tmp_path: Path, opened: Callable[[Path], Page]) -> None:
    import trimesh

    ball = textured(trimesh.creation.icosphere(subdivisions=2), 0)
    save_viewer(tmp_path / "a.html", None, Mesh(ball.vertices, ball.faces))
    page = opened(tmp_path / "a.html")
    assert np.array_equal(shown(page, "mesh"), shown(page, "shape"))
    assert page.wrong == []
