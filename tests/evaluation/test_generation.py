from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made import Made

from v3d.cameras import orbit
from v3d.diffusion.photos import OrbitPhotos, with_photos
from v3d.errors import V3DError
from v3d.evaluation.generation import evaluate_generation, orbit_scores, repeat_photo, shape_scores
from v3d.evaluation.nearest import NearestObject
from v3d.evaluation.photos import TruePhotos
from v3d.evaluation.protocol import GENERATION, ObjectProtocol
from v3d.evaluation.settings import GenerationSettings
from v3d.evaluation.testset import TestObject
from v3d.framing import photo_of, visible_box
from v3d.meshes.mesh import Mesh
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS
from v3d.surface.registration import Registered
from v3d.surface.settings import Level, SurfaceSettings
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
    others = ["repeat the photo", "nearest training object", "generated, 1 photo"]
    assert list(result.scores) == ["true views", *others] and not result.failures
    assert result.scores["true views"]["psnr"] == 100 and result.scores["true views"]["mask_iou"] == 1
    for name in others:
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


def test_views_that_photos_were_given_of_do_not_count(pillar: TestObject):
    truth = SMALL.true_orbit(pillar)
    rgb = truth.rgb.clone()
    rgb[[0, 9]] = 0
    wrong = Views(rgb, truth.alpha, truth.cameras)
    assert orbit_scores(wrong, truth, given={0, 9}) == orbit_scores(truth, truth, given={0, 9})
    assert orbit_scores(wrong, truth, given={0})["back.psnr"] < 100


def knowing(item: TestObject, protocol: ObjectProtocol, asked: list[OrbitPhotos]) -> Made:
    """A generator that returns the truth, and the photos as they come (`with_photos`)."""
    truth = protocol.true_orbit(item)

    def generate(photos: OrbitPhotos, *, seed: int, steps: int | None, guidance: float | None) -> Views:
        asked.append(photos)
        return with_photos(truth, photos)

    return Made(generate)


def test_four_photos_of_a_generator_that_knows_the_object_score_as_true_views(pillar: TestObject):
    asked: list[OrbitPhotos] = []
    generator = knowing(pillar, SMALL, asked)
    draft = replace(PRESETS["draft"], hull=48, faces=2000)
    settings = GenerationSettings(photos=(4, 1, 2))
    result = evaluate_generation(pillar, SMALL, settings, generator, preset=draft)
    rows = ["generated, 4 photos", "generated, 1 photo", "generated, 2 photos"]
    assert list(result.scores) == ["true views", "repeat the photo", *rows] and not result.failures
    true_views = result.scores["true views"]
    for row in rows:  # with 20 views, 18 and 19
        scores = result.scores[row]
        assert scores["psnr"] == scores["back.psnr"] == 100 and scores["mask_iou"] == 1
        assert scores["mesh.iou"] > true_views["mesh.iou"] - 0.03
        assert scores["mesh.chamfer"] < true_views["mesh.chamfer"] + 0.006
    assert [photos.azimuths for photos in asked] == [(0, 90, 180, 270), (0,), (0, 90)]
    torch.testing.assert_close(asked[1].images[0], photo_of(SMALL.true_orbit(pillar)))
    for photos in asked:
        assert set(photos.among(SMALL.cameras())) == ({0, 9} if len(photos) == 4 else {0})


def test_photos_are_cut_to_framings_of_their_own_before_they_are_registered(
    pillar: TestObject, monkeypatch: pytest.MonkeyPatch
):
    given: list[torch.Tensor] = []

    def register(
        photos: Sequence[torch.Tensor], azimuths: Sequence[float], *, elevation: float
    ) -> Registered:
        given.extend(photos)
        assert list(azimuths) == [0, 90, 180] and elevation == 20
        return Registered(tuple(photos), ())

    monkeypatch.setattr("v3d.evaluation.photos.register_photos", register)
    protocol = replace(SMALL, elevation=20.0)
    photos = TruePhotos(pillar, protocol, protocol.true_orbit(pillar))(3)
    assert photos.elevation == 20 and len(given) == 3
    for photo in given:
        left, top, right, bottom = visible_box(photo[..., 3])
        longer, size = max(right - left, bottom - top), len(photo)
        assert longer > 48  # of 96 pixels: twice the size of the views
        assert longer / size == pytest.approx(0.7, abs=0.02)
        assert abs(left + right - size) <= 1 and abs(top + bottom - size) <= 1


def test_objects_seen_from_above_are_framed_for_that_height(pillar: TestObject):
    protocol = replace(SMALL, elevation=30.0)
    truth = protocol.true_orbit(pillar)
    torch.testing.assert_close(truth.cameras.c2w, orbit(18, size=48, elevation=30).c2w)
    left, top, right, bottom = visible_box(truth.alpha[0])
    assert max(right - left, bottom - top) == pytest.approx(0.7 * 48, abs=1)
    assert abs(left + right - 48) <= 1 and abs(top + bottom - 48) <= 1
    asked: list[OrbitPhotos] = []
    settings = GenerationSettings(photos=(1, 4), elevation=30.0)
    draft = replace(PRESETS["draft"], hull=48, faces=2000)
    result = evaluate_generation(pillar, protocol, settings, knowing(pillar, protocol, asked), preset=draft)
    assert [photos.elevation for photos in asked] == [30, 30]
    torch.testing.assert_close(asked[0].images[0], photo_of(truth))
    for row in ("generated, 1 photo", "generated, 4 photos"):
        assert result.scores[row]["psnr"] == 100
        assert result.scores[row]["mesh.iou"] > 0.8  # upright, in the world of the true mesh


def test_a_side_that_shows_nothing_is_a_failure_of_its_rows_alone(pillar: TestObject):
    flat = pillar.mesh.vertices * torch.tensor([1e-3, 1.0, 1.0])
    sheet = replace(pillar, mesh=replace(pillar.mesh, vertices=flat))
    settings = GenerationSettings(photos=(1, 2), mesh="none")
    result = evaluate_generation(sheet, SMALL, settings, knowing(sheet, SMALL, []))
    assert list(result.failures) == ["generated, 2 photos"] and "generated, 1 photo" in result.scores


def test_the_hull_stands_beside_the_mesh_where_that_is_another(pillar: TestObject):
    truth = SMALL.true_orbit(pillar)
    draft = replace(PRESETS["draft"], hull=32, gaussians=150, faces=500)
    alone = shape_scores(BuildInputs(truth), SMALL.place(pillar.mesh), SMALL, draft, seed=0)
    assert "mesh.f_score" in alone and "hull.iou" not in alone
    levels = (Level(1.5, 5, (0.8, 0.5)),)
    fitted = replace(
        draft,
        splats=replace(draft.splats, iterations=10),
        surface=SurfaceSettings(levels=levels, image_size=48, nodes=20_000),
    )
    both = shape_scores(BuildInputs(truth), SMALL.place(pillar.mesh), SMALL, fitted, seed=0)
    for metric in ("chamfer", "iou", "f_score"):
        assert both[f"hull.{metric}"] == pytest.approx(alone[f"mesh.{metric}"])
        assert both[f"mesh.{metric}"] != both[f"hull.{metric}"]


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
    generated = result.scores["generated, 1 photo"]
    assert generated["mesh.iou"] == generated["mesh.f_score"] == generated["mask_iou"] == 0
    true_views = result.scores["true views"]
    assert true_views["mesh.iou"] > 0.8 and true_views["consistency.iou"] > 0.9
    assert true_views["consistency.psnr"] > result.scores["repeat the photo"]["consistency.psnr"]
