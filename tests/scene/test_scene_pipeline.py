"""The whole of `v3d scene` on small renders of a room, with a model that renders the truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from room_scene import rendered, ring

from v3d import cli
from v3d.callbacks import OnStep
from v3d.cameras import Cameras
from v3d.errors import V3DError
from v3d.files import write_json
from v3d.metrics import psnr
from v3d.placement import Similarity
from v3d.scene import pipeline
from v3d.scene.clips import CLIP, MAX_ANCHORS, generate_path, spread
from v3d.scene.model import SceneViews
from v3d.scene.normalise import normalise
from v3d.scene.presets import SCENE_PRESETS
from v3d.settings import SceneSettings
from v3d.splats.rasterize import splat_renderer
from v3d.views import Views, save_views

SIZE = 32
WIDE = 44  # photos are wider than the model's squares


def inverse(normalisation: Similarity) -> Similarity:
    """The way from the normalised world to the capture's own."""
    return Similarity(torch.linalg.inv(normalisation.matrix))


class Oracle:
    """A scene model that renders the true views; its guide is darker. Keeps its calls."""

    size = SIZE
    hash = "oracle"

    def __init__(self, normalisation: Similarity) -> None:
        self.back = inverse(normalisation)
        self.calls: list[tuple[Views, Cameras, int]] = []
        self.beside: list[Views | None] = []

    def __call__(
        self,
        sources: Views,
        targets: Cameras,
        *,
        generated: Views | None = None,
        seed: int = 0,
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> SceneViews:
        self.calls.append((sources, targets, seed))
        self.beside.append(generated)
        views, depth = rendered(self.back.apply(targets))
        if on_step:
            on_step(1, 1)
        depth = depth[:, ::4, ::4].contiguous() / self.back.scale
        placed = Views(views.rgb, views.alpha, targets)
        return SceneViews(placed, replace(placed, rgb=views.rgb * 0.8), depth)


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    """Ten of a ring, wider than high."""
    square = ring(10, SIZE)
    K = square.K.clone()
    K[:, 0, 2] = WIDE / 2
    return Cameras(square.c2w, K, WIDE, SIZE)


@pytest.fixture(scope="module")
def folder(cameras: Cameras, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captures") / "room"
    save_views(rendered(cameras)[0], folder)
    transforms = json.loads((folder / "transforms.json").read_text())
    transforms["frames"].append(transforms["frames"][0] | {"file_path": "views/lost.png"})
    write_json(folder / "transforms.json", transforms)
    return folder


@pytest.fixture
def oracle(cameras: Cameras) -> Oracle:
    return Oracle(normalise(cameras)[1])


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = SCENE_PRESETS["draft"]
    fit = replace(draft.fit, points=1500, fit=replace(draft.fit.fit, iterations=80, densify=None))
    monkeypatch.setitem(SCENE_PRESETS, "standard", replace(draft, fit=fit, video_size=WIDE))


def reused(asset: pipeline.SceneAsset) -> dict[str, bool]:
    return {name: record["reused"] for name, record in asset.report["stages"].items()}


def test_photos_become_views_and_gaussians(folder: Path, oracle: Oracle, tmp_path: Path) -> None:
    settings = SceneSettings(frames=6, sources=(0, 4, 9))
    asset = pipeline.generate_scene(folder, tmp_path, settings, model=oracle)
    assert asset.folder == tmp_path / "room"
    names = {p.name for p in asset.folder.iterdir()}
    assert {
        "views",
        "transforms.json",
        "views.mp4",
        "splats.ply",
        "splats.mp4",
        "preview.png",
        "report.json",
    } <= names
    assert asset.views is not None
    assert asset.views.rgb.shape == (6, SIZE, SIZE, 3)
    assert asset.given.rgb.shape == (10, SIZE, WIDE, 3)
    assert float(asset.given.cameras.centers.norm(dim=-1).max()) == pytest.approx(1.5, abs=1e-4)
    assert [len(sources) for sources, _, _ in oracle.calls] == [3]

    drawn = splat_renderer(asset.splats)(asset.given.cameras)
    assert psnr(drawn, asset.given.rgb).mean() > 15

    report = json.loads((asset.folder / "report.json").read_text())
    assert list(report["stages"]) == ["read", "views", "splats", "video"]
    assert report["stages"]["read"]["photos"] == 10
    (warning,) = report["warnings"]
    assert "lost.png" in warning
    matrix = torch.tensor(report["stages"]["read"]["normalisation"]["matrix"], dtype=torch.float64)
    back = inverse(Similarity(matrix)).apply(asset.given.cameras)
    torch.testing.assert_close(back.c2w, ring(10).c2w, atol=1e-4, rtol=0)


def test_a_second_run_loads_and_a_changed_setting_costs_what_depends_on_it(
    folder: Path, oracle: Oracle, tmp_path: Path
) -> None:
    settings = SceneSettings(path="spiral", frames=3)
    first = pipeline.generate_scene(folder, tmp_path, settings, model=oracle)
    second = pipeline.generate_scene(folder, tmp_path, settings, model=oracle)
    assert all(reused(second).values()) and len(oracle.calls) == 1
    assert torch.equal(first.splats.means, second.splats.means)
    assert first.views is not None and second.views is not None
    assert torch.equal(first.views.rgb, second.views.rgb)
    other = pipeline.generate_scene(folder, tmp_path, replace(settings, frames=4), model=oracle)
    assert reused(other) == {"read": True, "views": False, "splats": False, "video": False}
    forced = pipeline.generate_scene(folder, tmp_path, settings, model=oracle, force=True)
    assert not any(reused(forced).values())


def test_photos_alone(folder: Path, tmp_path: Path) -> None:
    asset = pipeline.generate_scene(folder, tmp_path, SceneSettings(path="none", frames=4))
    assert asset.views is None
    names = {p.name for p in asset.folder.iterdir()}
    assert "splats.mp4" in names and not {"views", "views.mp4", "transforms.json"} & names
    assert list(asset.report["stages"]) == ["read", "splats", "video"]
    assert psnr(splat_renderer(asset.splats)(asset.given.cameras), asset.given.rgb).mean() > 15


def test_a_damaged_stage_is_computed_again(folder: Path, oracle: Oracle, tmp_path: Path) -> None:
    """A run that lost a view must not go on with the others."""
    settings = SceneSettings(path="spiral", frames=3)
    pipeline.generate_scene(folder, tmp_path, settings, model=oracle)
    (tmp_path / "room/given/views/004.png").unlink()
    (tmp_path / "room/views/001.png").unlink()
    again = pipeline.generate_scene(folder, tmp_path, settings, model=oracle)
    assert reused(again) == {"read": False, "views": False, "splats": True, "video": True}
    assert again.views is not None and (len(again.given), len(again.views)) == (10, 3)


def test_a_path_from_a_file_is_in_the_world_of_the_photos(
    folder: Path, cameras: Cameras, oracle: Oracle, tmp_path: Path
) -> None:
    save_views(rendered(cameras[[2, 3]])[0], tmp_path / "path")
    settings = SceneSettings(path=str(tmp_path / "path/transforms.json"))
    asset = pipeline.generate_scene(folder, tmp_path / "out", settings, model=oracle)
    assert asset.views is not None
    torch.testing.assert_close(asset.views.cameras.c2w, asset.given.cameras.c2w[[2, 3]], atol=1e-5, rtol=0)


def test_long_paths_are_drawn_anchors_first(oracle: Oracle) -> None:
    """Clips between anchors are given those next to them beside the photos; the path comes back in order."""
    placed = Cameras(ring(10, SIZE).c2w, ring(10, SIZE).K, SIZE, SIZE)
    path = inverse(oracle.back).apply(ring(40, 8))
    photos = replace(rendered(placed)[0], cameras=inverse(oracle.back).apply(placed))
    drawn = generate_path(oracle, photos, path, seed=5)
    torch.testing.assert_close(drawn.views.cameras.c2w, path.c2w)
    assert len(drawn.depth) == len(drawn.guide) == len(drawn.views) == 40
    assert len(oracle.calls) > 2
    assert all(len(sources) == 10 and len(targets) <= CLIP for sources, targets, _ in oracle.calls)
    assert len(oracle.calls[0][1]) == CLIP and oracle.beside[0] is None
    for beside in oracle.beside[1:]:
        assert beside is not None and 0 < len(beside) <= MAX_ANCHORS
        apart = (beside.cameras.centers[:, None] - path.centers).norm(dim=-1)
        assert float(apart.amin(1).max()) < 1e-5
    assert len({seed for _, _, seed in oracle.calls}) == len(oracle.calls)  # no noise is used twice


def test_sources_that_differ_most() -> None:
    cameras = ring(20)
    chosen = spread(cameras, 5)
    assert len(set(chosen)) == 5 and {0, 19} <= set(chosen[:4])
    assert spread(cameras, 3) == chosen[:3]
    assert sorted(spread(cameras[[3, 7]], 8)) == [0, 1]
    assert spread(cameras[[4]], 8) == [0]
    # Cameras in one place that look in different directions differ, too.
    turned = Cameras(cameras.c2w.clone(), cameras.K, 64, 64)
    turned.c2w[:, :3, 3] = 0
    assert {0, 19} <= set(spread(turned, 3))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (SceneSettings(path="helix"), "no path 'helix'"),
        (SceneSettings(sources=(0, 10)), "no photo number 10"),
        (SceneSettings(model="nowhere/at/all"), "nowhere"),
        (SceneSettings(path="nowhere.json"), "nowhere.json"),
    ],
)
def test_unusable_settings(folder: Path, tmp_path: Path, settings: SceneSettings, sentence: str) -> None:
    with pytest.raises(V3DError, match=sentence) as caught:
        pipeline.generate_scene(folder, tmp_path, settings)
    assert "\n" not in str(caught.value)


def test_one_photo(folder: Path, cameras: Cameras, tmp_path: Path) -> None:
    save_views(rendered(cameras[[4]])[0], tmp_path / "one")
    with pytest.raises(V3DError, match="One photo alone"):
        pipeline.generate_scene(tmp_path / "one", tmp_path / "out", SceneSettings(path="none"))
    oracle = Oracle(normalise(cameras[[4]])[1])
    asset = pipeline.generate_scene(tmp_path / "one", tmp_path / "out", SceneSettings(frames=3), model=oracle)
    assert asset.views is not None and len(asset.given) == 1
    with pytest.raises(V3DError, match="would replace"):
        pipeline.generate_scene(tmp_path / "one", tmp_path, model=oracle)


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["scene", str(folder), "-o", str(tmp_path), "--path", "none", "--frames", "2"]
    assert cli.main(arguments) == 0
    assert "splats: " in capsys.readouterr().err
    assert (tmp_path / "room/splats.ply").is_file()
    assert cli.main(["scene", str(tmp_path / "none"), "-o", str(tmp_path)]) == 2
    write_json(tmp_path / "empty/transforms.json", {"frames": []})
    assert cli.main(["scene", str(tmp_path / "empty"), "-o", str(tmp_path / "x")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("v3d:")]
    assert len(errors) == 2
