from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made import Made

from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.evaluation.generation import evaluate_generation, orbit_scores, repeat_photo
from v3d.evaluation.nearest import NearestObject
from v3d.evaluation.protocol import GENERATION
from v3d.evaluation.settings import GenerationSettings
from v3d.evaluation.testset import TestObject
from v3d.framing import photo_of
from v3d.meshes.mesh import Mesh
from v3d.objects.presets import PRESETS
from v3d.views import Views

SMALL = replace(GENERATION, size=48, supersample=2, samples=2000, directions=9)


@pytest.fixture(scope="module")
def pillar(meshes: dict[str, Mesh]) -> TestObject:
    return TestObject("pillar", meshes["pillar"], palette=False, real_scan=False)


def test_every_table_has_true_views_and_both_baselines(pillar: TestObject, packed: Path, tmp_path: Path):
    truth = SMALL.true_orbit(pillar)
    asked: list[torch.Tensor] = []

    def backwards(photos: OrbitPhotos, *, seed: int, steps: int | None, guidance: float | None) -> Views:
        """A generator that knows the object but turns it the wrong way."""
        asked.append(photos.images[0])
        order = [-i % 18 for i in range(18)]
        return Views(truth.rgb[order], truth.alpha[order], truth.cameras)

    nearest = NearestObject.open(packed, tmp_path / "index.safetensors", SMALL, exclude={"pillar"})
    result = evaluate_generation(pillar, SMALL, GenerationSettings(mesh="none"), Made(backwards), nearest)
    assert list(result.scores) == ["true views", "repeat the photo", "nearest training object", "generated"]
    assert not result.failures
    assert result.scores["true views"]["psnr"] == 100 and result.scores["true views"]["mask_iou"] == 1
    for name in ("repeat the photo", "nearest training object", "generated"):
        assert 3 < result.scores[name]["psnr"] < 40
    torch.testing.assert_close(asked[0], photo_of(truth))


def test_frame_zero_does_not_count_and_the_back_half_is_the_far_side(pillar: TestObject):
    truth = SMALL.true_orbit(pillar)
    rgb = truth.rgb.clone()
    rgb[0] = 0
    assert orbit_scores(Views(rgb, truth.alpha, truth.cameras), truth)["psnr"] == 100
    rgb = truth.rgb.clone()
    rgb[[1, 2, 3, 4, 14, 15, 16, 17]] = 0  # up to 80 degrees from the photo
    scores = orbit_scores(Views(rgb, truth.alpha, truth.cameras), truth)
    assert scores["back.psnr"] == 100 > scores["psnr"]
    rgb[5] = 0
    assert orbit_scores(Views(rgb, truth.alpha, truth.cameras), truth)["back.psnr"] < 100


def test_repeating_the_photo_is_right_about_the_front(pillar: TestObject):
    truth = SMALL.true_orbit(pillar)
    views = repeat_photo(photo_of(truth), truth)
    torch.testing.assert_close(views.rgb[0], truth.rgb[0], atol=1e-3, rtol=0)
    assert torch.equal(views.rgb[0], views.rgb[9])


def test_the_nearest_object_of_a_training_photo_is_itself(
    pillar: TestObject, packed: Path, tmp_path: Path, meshes: dict[str, Mesh]
):
    cache = tmp_path / "index.safetensors"
    seen: list[int] = []
    nearest = NearestObject.open(packed, cache, SMALL, on_step=lambda done, total: seen.append(done))
    assert seen == [1, 2]
    for place, name in enumerate(meshes):
        item = TestObject(name, meshes[name], False, False)
        truth = SMALL.true_orbit(item)
        assert nearest.find(photo_of(truth)) == (place, 0)
        assert nearest.find(photo_of(truth[4]))[0] == place
        views = nearest(photo_of(truth), SMALL)
        assert orbit_scores(views, truth)["psnr"] > 28  # the same orbit, but for quantised vertices

    seen.clear()
    again = NearestObject.open(packed, cache, SMALL, on_step=lambda done, total: seen.append(done))
    assert not seen and torch.equal(again.photos, nearest.photos)
    cache.write_bytes(b"broken")
    NearestObject.open(packed, cache, SMALL, on_step=lambda done, total: seen.append(done))
    assert seen == [1, 2]
    with pytest.raises(V3DError, match="no object"):
        NearestObject.open(packed, cache, SMALL, exclude=set(meshes))


def test_views_of_no_solid_have_no_mesh(pillar: TestObject):
    def nothing(photos: OrbitPhotos, *, seed: int, steps: int | None, guidance: float | None) -> Views:
        truth = SMALL.true_orbit(pillar)
        return Views(torch.ones_like(truth.rgb), torch.zeros_like(truth.alpha), truth.cameras)

    result = evaluate_generation(
        pillar, SMALL, GenerationSettings(), Made(nothing), preset=replace(PRESETS["draft"], faces=2000)
    )
    assert result.scores["generated"]["mesh.iou"] == 0 and result.scores["generated"]["mask_iou"] == 0
    true_views = result.scores["true views"]
    assert true_views["mesh.iou"] > 0.8 and true_views["consistency.iou"] > 0.9
    assert true_views["consistency.psnr"] > result.scores["repeat the photo"]["consistency.psnr"]
