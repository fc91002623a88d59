"""The hold-out protocol on small renders, with a drawer that knows the truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from v3d import cli
from v3d.callbacks import OnStep
from v3d.cameras import Cameras, intrinsics, look_at
from v3d.errors import V3DError
from v3d.evaluation.report import summarise
from v3d.evaluation.scenes import (
    SceneProtocol,
    TestScene,
    evaluate_scene,
    load_scenes,
    nearest_source,
    scene_ids,
)
from v3d.evaluation.settings import SceneEvaluationSettings
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render
from v3d.networks.perceptual import Perceptual
from v3d.scene.model import SceneViews
from v3d.scene.presets import SCENE_PRESETS
from v3d.views import Views, save_views

SIZE = 32
SMALL = SceneProtocol(size=SIZE, views=9, sources=(1, 3))


def arc(count: int, size: int = SIZE) -> Cameras:
    phi = torch.linspace(-0.8, 0.8, count)
    centers = torch.stack([1.4 * phi.cos(), 1.4 * phi.sin(), torch.full_like(phi, 0.5)], -1)
    return Cameras(look_at(centers), intrinsics(60, size, size).repeat(count, 1, 1), size, size)


@pytest.fixture(scope="module")
def ball(request: pytest.FixtureRequest) -> Mesh:
    mesh: Mesh = request.getfixturevalue("meshes")["ball"]
    return replace(mesh, vertices=mesh.vertices * 2)


def look(ball: Mesh, cameras: Cameras) -> tuple[Views, torch.Tensor]:
    image = render(ball, cameras, light=Light(torch.tensor([1.0, 0.5, 1.0])))
    sky = torch.tensor([0.4, 0.6, 0.9])
    rgb = image.rgb + (1 - image.alpha)[..., None] * (sky - 1)
    return Views(rgb, torch.ones_like(image.alpha), cameras), image.depth * (image.alpha > 0.99)


class Oracle:
    """Draws the truth; its guide is grey. Remembers the sources."""

    size = SIZE
    hash = "oracle"

    def __init__(self, ball: Mesh) -> None:
        self.ball = ball
        self.shown: list[Views] = []

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
        self.shown.append(sources)
        views, depth = look(self.ball, targets)
        return SceneViews(views, replace(views, rgb=torch.full_like(views.rgb, 0.5)), depth[:, ::4, ::4])


@pytest.fixture(scope="module")
def scene(ball: Mesh) -> TestScene:
    return TestScene("ball", look(ball, arc(9))[0], real=False)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = SCENE_PRESETS["draft"]
    fit = replace(draft.fit, points=800, fit=replace(draft.fit.fit, iterations=120, densify=None))
    monkeypatch.setitem(SCENE_PRESETS, "draft", replace(draft, fit=fit))


def test_fewer_sources_are_a_part_of_more_and_targets_stay() -> None:
    cameras = arc(9)
    sources, targets = SMALL.split(cameras)
    assert len(sources) == 3 and sorted(sources + targets) == list(range(9))
    assert sources[0] == 4 and set(sources[1:]) == {0, 8}  # the middle, then the ends
    more, fewer = replace(SMALL, sources=(1, 2)).split(cameras)[0], sources[:2]
    assert more == fewer
    with pytest.raises(V3DError, match="leaves none"):
        SMALL.split(cameras[[0, 1, 2]])


def test_every_method_from_every_number_of_photos(scene: TestScene, ball: Mesh) -> None:
    oracle = Oracle(ball)
    network = Perceptual.load("vae")
    result = evaluate_scene(scene, SMALL, SceneEvaluationSettings(), oracle, [network])
    assert not result.failures
    names = (
        "nearest source view",
        "PixelNeRF RGB alone",
        "generated",
        "splats of the photos",
        "splats of photos and generated",
    )
    assert set(result.scores) == {f"{k}: {name}" for k in ("1 photo", "3 photos") for name in names}
    for scores in result.scores.values():
        assert set(scores) == {"psnr", "ssim", "vae-mini", "seconds"}
    one, three = ({n: result.scores[f"{k}: {n}"] for n in names} for k in ("1 photo", "3 photos"))
    assert one["generated"]["psnr"] > 60 and one["generated"]["vae-mini"] < 1e-3
    assert one["PixelNeRF RGB alone"]["psnr"] < 20 < three["nearest source view"]["psnr"] + 10
    assert three["nearest source view"]["psnr"] > one["nearest source view"]["psnr"]
    for few in (one, three):  # what is generated here is true, so it must help
        alone, more = few["splats of the photos"], few["splats of photos and generated"]
        assert more["psnr"] > alone["psnr"] + 1
    # Sources are the sources and nothing else.
    order, _ = SMALL.split(scene.views.cameras)
    for shown, count in zip(oracle.shown, (1, 3), strict=True):
        for camera in shown.cameras.c2w:
            assert any(torch.equal(camera, c) for c in scene.views.cameras.c2w[order[:count]])
    assert set(summarise([result])["all objects"]) == set(result.scores)


def test_a_model_that_fails_takes_only_its_own_methods_along(scene: TestScene, ball: Mesh) -> None:
    class Failing(Oracle):
        def __call__(self, *args: object, **kwargs: object) -> SceneViews:
            raise V3DError("Out of luck.")

    result = evaluate_scene(scene, replace(SMALL, sources=(1,)), SceneEvaluationSettings(), Failing(ball))
    assert set(result.scores) == {"1 photo: nearest source view", "1 photo: splats of the photos"}
    failed = ("generated", "PixelNeRF RGB alone", "splats of photos and generated")
    assert result.failures == {f"1 photo: {name}": "Out of luck." for name in failed}


def test_without_a_model_the_baselines_are_left(scene: TestScene) -> None:
    settings = SceneEvaluationSettings(splats=False)
    result = evaluate_scene(scene, SMALL, settings, None)
    assert set(result.scores) == {"1 photo: nearest source view", "3 photos: nearest source view"}


def test_the_nearest_source_is_near_in_place_and_direction(scene: TestScene) -> None:
    shown = scene.views[[0, 4, 8]]
    views = nearest_source(shown, scene.views.cameras[[1, 5, 7, 4]])
    for k, source in enumerate((0, 1, 2, 1)):
        assert torch.equal(views.rgb[k], shown.rgb[source])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "no scene"), (["a", "--sources"], "--sources"), (["a", "--sources", "0"], "--sources")],
)
def test_nothing_to_evaluate_is_an_error(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "r"
    assert cli.main(["evaluate", "scenes", *arguments, "--out", str(out), "--model", "none"]) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture
def shards(ball: Mesh, tmp_path: Path) -> Path:
    views, depth = look(ball, arc(9))
    rgb = (views.rgb * 255 + 0.5).byte()[None].repeat(2, 1, 1, 1, 1)
    tensors = {
        "rgb": rgb,
        "c2w": views.cameras.c2w[None].repeat(2, 1, 1, 1),
        "K": views.cameras.K[None].repeat(2, 1, 1, 1),
        "depth": depth[None, :, ::4, ::4].half().repeat(2, 1, 1, 1).contiguous(),
    }
    about = {"numbers": "[0, 1]", "objects": '[["ball"], ["ball"]]', "licences": '[["CC0"], ["CC0"]]'}
    (tmp_path / "rendered").mkdir()
    save_file(tensors, tmp_path / "rendered/scenes-00000.safetensors", metadata=about)
    return tmp_path / "rendered"


def test_shards_and_captures(shards: Path, scene: TestScene, tmp_path: Path) -> None:
    wide = arc(9)
    K = wide.K.clone()
    K[:, 0, 2] = 20
    rgb = torch.nn.functional.pad(scene.views.rgb, (0, 0, 4, 4), value=0.5)
    views = Views(rgb, torch.ones(rgb.shape[:3]), Cameras(wide.c2w, K, 40, SIZE))
    save_views(views, tmp_path / "capture")
    paths = (shards, tmp_path / "capture")
    ids = scene_ids(paths)
    assert ids == ["rendered-00000", "rendered-00001", "capture"]
    assert scene_ids(paths, 2) == ["rendered-00000", "rendered-00001"]
    rendered, capture = load_scenes(paths, ["rendered-00001", "capture"], replace(SMALL, views=5))
    assert not rendered.real and capture.real
    assert rendered.views.rgb.shape == capture.views.rgb.shape == (5, SIZE, SIZE, 3)
    assert rendered.hash != capture.hash
    torch.testing.assert_close(capture.views.rgb, scene.views.rgb[[0, 1, 3, 5, 7]], atol=0.003, rtol=0)
    assert float(capture.views.cameras.centers.norm(dim=-1).max()) == pytest.approx(1.5, abs=1e-4)


def test_command_goes_on_where_it_stopped(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "scenes", str(shards), "--out", str(tmp_path / "r"), "--model", "none"]
    arguments += ["--sources", "1", "2", "--no-splats"]
    assert cli.main([*arguments, "--limit", "1"]) == 0
    assert cli.main(arguments) == 0
    told = capsys.readouterr()
    assert told.err.count("rendered-00000") == 1 and "2/2 rendered-00001" in told.err
    assert "| 2 photos: nearest source view | 2 |" in told.out
    report = json.loads((tmp_path / "r/report.json").read_text())
    assert report["provenance"]["protocol"]["version"] == "scenes-1"
    assert report["provenance"]["objects"] == 2
    assert cli.main([*arguments, "--sources", "1"]) == 2  # other settings, same folder
