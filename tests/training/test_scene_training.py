"""Training for scenes: PixelNeRF and the scene model learn and load; caches belong to their networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from v3d.cameras import orbit
from v3d.data.render_scenes import render_scenes
from v3d.data.scene_shards import SceneShards
from v3d.data.settings import RenderScenesSettings
from v3d.errors import V3DError
from v3d.networks.perceptual import Perceptual
from v3d.networks.pixelnerf import PixelNeRF, PixelNeRFConfig, load_pixelnerf
from v3d.scene.model import SceneModel
from v3d.training.examples import Clip, SceneExamples
from v3d.training.export import export_pixelnerf
from v3d.training.guides import SceneGuides
from v3d.training.rays import draw_rays, draw_square
from v3d.training.recipe import PixelNeRFRecipe, VideoRecipe
from v3d.training.session import train
from v3d.training.task import BatchShare
from v3d.training.tasks.pixelnerf import PixelNeRFTask
from v3d.training.tasks.video import VideoTask, colours_of, on_background
from v3d.views import Views

TINY = PixelNeRFConfig(
    size=32, width=64, depth=1, grid=8, planes=4, near=0.1, far=8.0, samples=6, drawn=32, opaque=True
)


@pytest.fixture(scope="module")
def scenes(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes of six views at 32 pixels."""
    out = tmp_path_factory.mktemp("scenes")
    render_scenes([meshes], out, RenderScenesSettings(scenes=4, per_shard=2, views=6, size=32))
    return out


@pytest.fixture(scope="module")
def nerf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small untrained PixelNeRF."""
    folder = tmp_path_factory.mktemp("pixelnerf")
    torch.manual_seed(0)
    export_pixelnerf(PixelNeRF(TINY), folder)
    return folder


def small_scenes(folder: Path, **sizes: Any) -> PixelNeRFRecipe:
    """The smoke recipe for scenes at 32 pixels, with the network's `sizes`."""
    smoke = PixelNeRFRecipe.smoke()
    return replace(smoke, data=folder, examples="scenes", network=replace(smoke.network, size=32, **sizes))


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_pixelnerf_learns_scenes(scenes: Path, tmp_path: Path) -> None:
    recipe = small_scenes(scenes, patch=4, near=0.1, far=8.0)
    recipe = replace(recipe, validation=scenes, source_counts=(1, 2), pixels=16, views=2)
    lines: list[dict[str, float]] = []
    train(recipe, tmp_path, device="cpu", on_line=lines.append)
    curve = losses(tmp_path)
    assert curve[recipe.steps] < 0.9 * curve[recipe.log_steps]
    assert load_pixelnerf(tmp_path / "model").config.opaque
    assert "psnr of repeating" in lines[-1]


def test_all_views_of_a_long_scene_are_validated_alike(meshes: Path, tmp_path: Path) -> None:
    """Only orbits have views from around."""
    render_scenes([meshes], tmp_path, RenderScenesSettings(scenes=2, views=24, size=32))
    recipe = replace(small_scenes(tmp_path, patch=4), validation=tmp_path)
    task = PixelNeRFTask(recipe)
    measured, _ = task.validate(task.network.eval())
    assert set(measured) == {"psnr", "psnr of repeating", "psnr reversed"}


def test_the_scene_model_learns_and_draws(scenes: Path, nerf: Path, tmp_path: Path) -> None:
    recipe = replace(VideoRecipe.scenes_smoke(), data=scenes, validation=scenes, pixelnerf=nerf)
    lines: list[dict[str, float]] = []
    train(recipe, tmp_path, device="cpu", on_line=lines.append)
    curve = losses(tmp_path)
    assert curve[recipe.steps] < 0.9 * curve[recipe.log_steps]
    assert {"psnr of one step, 1", "lpips of guide, 2"} <= lines[-1].keys()

    model = SceneModel.load(tmp_path / "model")
    rgb, cameras, _ = SceneShards(scenes)[0]
    photos = Views(rgb[:3].float() / 255, torch.ones(3, 32, 32), cameras[:3])
    a = model(photos, cameras[3:5], seed=1)
    b = model(photos[[2, 0, 1]], cameras[3:5], seed=1)
    assert a.views.rgb.shape == (2, 32, 32, 3) and a.depth.shape == (2, 32, 32)
    torch.testing.assert_close(a.guide.rgb, b.guide.rgb, atol=2e-2, rtol=0)  # bfloat16 where the CPU has it
    assert float((a.views.rgb - b.views.rgb).abs().mean()) < 5e-3


def test_choices_are_kept_for_their_network(scenes: Path, nerf: Path, tmp_path: Path) -> None:
    for path in scenes.glob("scenes-*"):
        (tmp_path / path.name).symlink_to(path)
    network = load_pixelnerf(nerf)
    data = SceneGuides(SceneShards(tmp_path), network, 2, (1, 2), 3)
    one = data.draw(0, 2, 3, torch.Generator().manual_seed(0))
    assert len(data) == 4 and one.views.shape == (3, 4, 32, 32) and one.photos.shape == (2, 4, 32, 32)
    assert one.guide.warped.shape == (3, 2, 5, 32, 32) and len(one.cameras) == 5
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob(".guides-*/*")}
    again = SceneGuides(SceneShards(tmp_path), network, 2, (1, 2), 3).draw(
        0, 2, 3, torch.Generator().manual_seed(0)
    )
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob(".guides-*/*")} == files
    assert torch.equal(one.guide.images, again.guide.images)
    other = data.draw(0, 2, 3, torch.Generator().manual_seed(1))  # the same views in other colours
    assert torch.equal(one.cameras.c2w, other.cameras.c2w) and not torch.equal(one.views, other.views)
    torch.testing.assert_close(one.guide.images.sort(1).values, other.guide.images.sort(1).values)
    SceneGuides(SceneShards(tmp_path), network, 2, (1,), 3)
    assert len(list(tmp_path.glob(".guides-*"))) == 2
    with pytest.raises(V3DError, match="have 6 views, too few for 4 photos and 3 others"):
        SceneGuides(SceneShards(tmp_path), network, 2, (1, 4), 3)


def test_choices_stay_with_their_scene_when_an_earlier_shard_arrives(
    scenes: Path, nerf: Path, tmp_path: Path
) -> None:
    """Workers finish shards in any order, and training looks at what has arrived."""
    first, second = sorted(scenes.glob("scenes-*"))
    network = load_pixelnerf(nerf)
    (tmp_path / second.name).symlink_to(second)
    before = SceneGuides(SceneShards(tmp_path), network, 1, (1,), 2)
    (tmp_path / first.name).symlink_to(first)
    after = SceneGuides(SceneShards(tmp_path), network, 1, (1,), 2)
    assert (len(before), len(after)) == (2, 4)
    a, b = (data.draw(i, 1, 2, torch.Generator().manual_seed(0)) for data, i in ((before, 1), (after, 3)))
    assert torch.equal(a.guide.images, b.guide.images) and torch.equal(a.cameras.c2w, b.cameras.c2w)
    assert not torch.equal(a.views, after.draw(1, 1, 2, torch.Generator().manual_seed(0)).views)


def test_rays_are_drawn_with_the_colours_of_their_pixels() -> None:
    """A picture whose colour is its pixel's place: rays projected back must land where their colour says."""
    size = 16
    y, x = torch.meshgrid(*(torch.arange(size) / size for _ in range(2)), indexing="ij")
    image = torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)])[None]
    cameras = orbit(3, size=size, elevation=20.0)[1]
    clip = Clip(image, cameras, image, cameras, x[None] + 1)
    origins, directions, colours, depth = draw_rays(clip, size, 50, torch.Generator().manual_seed(0))
    pixels, _ = cameras.project(origins + 2 * directions)
    torch.testing.assert_close(pixels[0] - 0.5, colours[:, :2] * size, atol=1e-3, rtol=0)
    torch.testing.assert_close(depth[:, 0], colours[:, 0] + 1)


def test_a_square_is_a_piece_of_the_first_target() -> None:
    """Its rays go through the pixels whose colours are returned, rows first."""
    size, side = 16, 6
    y, x = torch.meshgrid(*(torch.arange(size) / size for _ in range(2)), indexing="ij")
    image = torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)])[None]
    cameras = orbit(3, size=size, elevation=20.0)
    clip = Clip(image, cameras[0], torch.cat([image, 1 - image]), cameras[1:])
    origins, directions, colours = draw_square(clip, side, torch.Generator().manual_seed(0))
    assert colours.shape == (side, side, 3)
    pixels, _ = cameras[1].project(origins + 2 * directions)
    torch.testing.assert_close(pixels[0] - 0.5, colours.flatten(0, 1)[:, :2] * size, atol=1e-3, rtol=0)
    assert (colours[0, 1:, 0] > colours[0, :-1, 0]).all() and (colours[1:, 0, 1] > colours[:-1, 0, 1]).all()


def test_squares_do_not_change_what_single_rays_are_asked(scenes: Path) -> None:
    """The squared error and the depth are those of a recipe without squares; LPIPS comes on top."""
    recipe = replace(small_scenes(scenes, near=0.1, far=10.0), source_counts=(1, 2))
    share = BatchShare(0, 0, 0.0, 2, [0, 1], seed=3, device=torch.device("cpu"))
    with_squares = PixelNeRFTask(replace(recipe, lpips=0.5, square=16))
    values = with_squares.losses(with_squares.network, share)
    some = PixelNeRFTask(replace(recipe, lpips=0.5, square=16, square_share=0.5, square_error=2.0))
    half = some.losses(some.network, share)  # the first sample has a square that counts for both
    assert half["lpips"].isnan().tolist() == [False, True]
    torch.testing.assert_close(half["lpips"][0], values["lpips"][0], atol=1e-4, rtol=1e-3)
    task = PixelNeRFTask(replace(recipe, lpips=0.0))
    plain = task.losses(task.network, share)
    torch.testing.assert_close(values["depth"], plain["depth"], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(values["loss"] - 0.5 * values["lpips"], plain["loss"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(half["loss"][1], plain["loss"][1], atol=1e-4, rtol=1e-3)
    extra = (half["loss"] - half["lpips"] - plain["loss"]).detach()  # LPIPS counts twice, and so does the
    assert float(extra[0]) > 0  # squared error
    late = PixelNeRFTask(replace(recipe, lpips=0.5, square=16, lpips_after=0.5))
    assert "lpips" not in late.losses(late.network, share)
    assert "lpips" not in plain and (values["lpips"] > 0).all()
    with pytest.raises(V3DError, match="square is a whole number from 4"):
        replace(recipe, lpips=0.5, square=0)
    with pytest.raises(V3DError, match="at most the 32 pixels"):
        PixelNeRFTask(replace(recipe, lpips=0.5, square=33))
    for wrong, sentence in (
        ({"fine": 0}, "at least one sample"),
        ({"samples": 0}, "samples is a whole number of 1 or more, not 0"),
        ({"texture": -1}, "texture is a whole number from 0 to 1024, not -1"),
    ):
        with pytest.raises(V3DError, match=sentence):
            PixelNeRFTask(replace(recipe, network=replace(recipe.network, **wrong)))
    for wrong in ({"patch": 5}, {"grid": 10}, {"width": 96}):
        with pytest.raises(V3DError, match="must be a multiple of --patch"):
            PixelNeRFTask(replace(recipe, network=replace(recipe.network, **wrong)))
    # Colours of 32 x 32 pixels beside rays of 24 x 24 would belong to other places.
    with pytest.raises(V3DError, match=r"multiple of --pixels \(24\)"):
        PixelNeRFTask(replace(recipe, pixels=24))


def test_one_step_is_judged_as_it_is_drawn(scenes: Path, nerf: Path) -> None:
    """LPIPS is that of the views that the model generates in one step, for the first samples only."""
    recipe = replace(
        VideoRecipe.scenes_smoke(), data=scenes, pixelnerf=nerf, drop=0.0, lpips=2.0, first_steps=0.5
    )
    task, share = (
        VideoTask(recipe),
        BatchShare(0, 0, 0.0, 4, [0, 1, 2, 3], seed=3, device=torch.device("cpu")),
    )
    values = task.losses(task.network, share)
    assert values["lpips"].isnan().tolist() == [False, False, True, True]
    values["loss"].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.network.parameters())
    plain = VideoTask(replace(recipe, lpips=0.0))
    alone = plain.losses(plain.network, share)["loss"]
    torch.testing.assert_close(values["loss"][2:], alone[2:])  # the others follow the noise distribution
    torch.testing.assert_close((values["loss"] - 2 * values["lpips"])[:2], alone[:2])

    some = task.data.draw(0, 2, 2, torch.Generator().manual_seed(0))
    true, generated = colours_of(some.views), colours_of(some.guide.images)
    lpips = Perceptual.load("lpips")
    a, b = (t[:, 8:24, 8:24] for t in (generated, true))
    torch.testing.assert_close(task.lpips(generated[None], true[None], [8, 8])[0], lpips(a, lpips.prepare(b)))


def test_another_ground_shows_alpha() -> None:
    colour, alpha, ground = (
        torch.rand(3, 1, 1),
        torch.tensor([[[0.0, 0.3, 1.0]]]),
        torch.tensor([0.1, 0.5, 1.0]),
    )
    image = torch.cat([colour * alpha + 1 - alpha, alpha]) * 2 - 1
    wanted = colour * alpha + (1 - alpha) * ground[:, None, None]
    torch.testing.assert_close(on_background(image, ground), wanted.permute(1, 2, 0))
    torch.testing.assert_close(on_background(image, torch.ones(3)), colours_of(image))


def test_sources_and_targets_of_a_scene_are_different_views(scenes: Path) -> None:
    clip = SceneExamples(scenes).clip(0, 2, 3, torch.Generator().manual_seed(0), any_front=True)
    centers = torch.cat([clip.source_cameras.centers, clip.target_cameras.centers])
    assert len(clip.sources) == 2 and len(clip.targets) == 3
    assert len(torch.unique(centers.round(decimals=4), dim=0)) == 5
    with pytest.raises(V3DError, match="has 6 views, too few for 3 photos and 4 others"):
        SceneExamples(scenes).clip(0, 3, 4, torch.Generator().manual_seed(0), any_front=True)
