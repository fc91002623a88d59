"""The scale of a scene whose cameras look in parallel comes from what they see."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from room_scene import rendered
from torch import Tensor

from v3d.cameras import Cameras, intrinsics, look_at
from v3d.capture.readers import find_photos
from v3d.placement import Similarity
from v3d.run import RunFolder
from v3d.scene.depth import content_depth, depth_of_matches, depth_of_points
from v3d.scene.normalise import focus, meet_clearly, normalise
from v3d.scene.pipeline import read_stage
from v3d.scene.presets import SCENE_PRESETS
from v3d.settings import SceneSettings
from v3d.views import Views, save_views

SIZE = 192
EYE, TARGET = torch.tensor([1.8, -1.2, 0.5]), (-0.2, 0.0, -0.1)


def side_by_side(count: int = 2, baseline: float = 0.15, inwards: float = 0.0) -> Cameras:
    """Cameras in a row across their view of the room.

    Args:
        inwards: the share of the way from looking in parallel to looking at one point.
    """
    middle = look_at(EYE[None], TARGET)[0]
    offsets = torch.linspace(-0.5, 0.5, count)[:, None] * baseline * (count - 1)
    centers = EYE + offsets * middle[:3, 0]
    ahead = torch.tensor(TARGET) + (1 - inwards) * offsets * middle[:3, 0]
    c2w = torch.stack([look_at(c[None], t.tolist())[0] for c, t in zip(centers, ahead, strict=True)])
    return Cameras(c2w, intrinsics(60.0, SIZE, SIZE).repeat(count, 1, 1), SIZE, SIZE)


def true_depth(depth: Tensor) -> float:
    return float(depth[depth > 0].median())


@pytest.fixture(scope="module")
def pair() -> tuple[Views, float]:
    """Two parallel photos of the room, and how far away it is: the median of all pixels.

    Features lie rather on the objects than on the walls behind them.
    """
    views, depth = rendered(side_by_side())
    return views, true_depth(depth)


def elsewhere(views: Views, scale: float, shift: tuple[float, ...]) -> Views:
    """The views in a world of another unit and origin, in double precision."""
    matrix = torch.eye(4).double()
    matrix[:3] *= scale
    matrix[:3, 3] = torch.tensor(shift, dtype=torch.float64)
    cameras = Cameras(views.cameras.c2w.double(), views.cameras.K.double(), SIZE, SIZE)
    return replace(views, cameras=Similarity(matrix).apply(cameras))


def test_depth_of_a_stereo_pair(pair: tuple[Views, float]) -> None:
    views, depth = pair
    assert not meet_clearly(views.cameras)
    assert depth_of_matches(views) == pytest.approx(depth, rel=0.25)
    far = elsewhere(views, 40.0, (5e5, 4e6, 200.0))
    assert depth_of_matches(far) == pytest.approx(40 * depth, rel=0.25)


def test_depth_of_a_real_pair() -> None:
    """The calibrated pair that scikit-image ships, with its measured disparities."""
    data = pytest.importorskip("skimage.data")
    try:
        left, right, disparity = data.stereo_motorcycle()
    except (ModuleNotFoundError, OSError) as error:  # a version that would download them
        pytest.skip(str(error))
    height, width = left.shape[:2]
    c2w, K = torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1)
    c2w[1, 0, 3] = 0.193001
    K[:, 0, 0], K[:, 1, 1], K[:, 1, 2] = 994.978, 994.978, 254.877
    K[:, 0, 2] = torch.tensor([311.193, 342.279])
    images = torch.from_numpy(np.stack([left, right])).float() / 255
    views = Views(images, torch.ones(2, height, width), Cameras(c2w, K, width, height)).reduced(256)
    truth = 0.193001 * 994.978 / (disparity[np.isfinite(disparity)] + 31.086)
    assert depth_of_matches(views) == pytest.approx(float(np.median(truth)), rel=0.1)


@pytest.mark.parametrize("inwards", [0.0, 0.1, 1.0])
def test_the_scale_does_not_hang_on_how_parallel_the_axes_are(
    pair: tuple[Views, float], inwards: float
) -> None:
    """With a baseline of a twelfth of the distance the axes meet at 5 degrees, at most."""
    views, depth = rendered(side_by_side(inwards=inwards))
    found = content_depth(views)
    cameras, similarity = normalise(views.cameras, depth=found)
    assert similarity.scale == pytest.approx(1.5 / true_depth(depth), rel=0.3)
    torch.testing.assert_close(focus(cameras), torch.zeros(3).double(), atol=1e-4, rtol=0)
    assert float(cameras.centers.norm(dim=-1).max()) == pytest.approx(1.5, abs=1e-4)


def test_without_content_the_baseline_alone_would_scale(pair: tuple[Views, float]) -> None:
    """What is wrong without the content: the scene stands far outside of the world."""
    views, depth = pair
    assert normalise(views.cameras)[1].scale * depth > 20


def test_axes_that_meet_clearly_need_no_content() -> None:
    cameras = side_by_side(3, 0.9, inwards=1.0)
    assert meet_clearly(cameras)
    torch.testing.assert_close(normalise(cameras, depth=77.0)[0].c2w, normalise(cameras)[0].c2w)


def test_outward_cameras_are_scaled_by_what_they_see() -> None:
    angles = torch.arange(8) * math.pi / 4
    outward = torch.stack([angles.cos(), angles.sin(), torch.zeros(8)], -1)
    c2w = torch.stack([look_at(0.1 * d[None], (10 * d).tolist())[0] for d in outward])
    cameras = Cameras(c2w.double(), intrinsics(60.0, 64, 64).double().repeat(8, 1, 1), 64, 64)
    normalised, similarity = normalise(cameras, depth=4.0)
    assert similarity.scale == pytest.approx(1.5 / 4)
    torch.testing.assert_close(normalised.centers.mean(0), torch.zeros(3).double(), atol=1e-6, rtol=0)


def test_depth_of_points() -> None:
    cameras = side_by_side()
    depths = torch.linspace(1, 5, 101)
    ahead = cameras.centers.mean(0) + depths[:, None] * cameras.c2w[0, :3, 2]
    behind = cameras.centers.mean(0) - 20 * cameras.c2w[:1, :3, 2].expand(200, 3)
    assert depth_of_points(cameras, torch.cat([ahead, behind])) == pytest.approx(3.0, abs=0.05)
    assert depth_of_points(cameras, behind) is None


def test_one_photo_has_the_depth_of_its_points() -> None:
    cameras = side_by_side(1)
    normalised, similarity = normalise(cameras, depth=6.0)
    assert similarity.scale == pytest.approx(0.25)
    assert float(normalised.centers.norm()) == pytest.approx(1.5, abs=1e-5)


def test_photos_without_anything_in_common_tell_nothing() -> None:
    blank = Views(torch.ones(2, 64, 64, 3), torch.ones(2, 64, 64), side_by_side().resized(64, 64))
    assert content_depth(blank) is None
    noise = torch.rand(2, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    assert content_depth(replace(blank, rgb=noise)) is None
    assert content_depth(blank[:1]) is None


def test_the_run_says_how_deep_the_scene_is_or_that_nothing_tells(
    pair: tuple[Views, float], tmp_path: Path
) -> None:
    views, depth = pair
    for name, photos, count in (("room", views, 0), ("blank", replace(views, rgb=0 * views.rgb + 1), 1)):
        save_views(photos, tmp_path / name)
        with RunFolder(tmp_path / f"run-{name}", SceneSettings()) as run:
            given, _ = read_stage(run, find_photos(tmp_path / name), SCENE_PRESETS["standard"], "auto")
        record = run.report["stages"]["read"]
        assert given.cameras.c2w.dtype == torch.float32
        assert len(record["warnings"]) == count
        if count:
            assert "its scale is a guess" in record["warnings"][0]
        else:
            assert record["depth"] == pytest.approx(depth, rel=0.25)
            assert record["normalisation"]["scale"] == pytest.approx(1.5 / depth, rel=0.3)


def test_a_geo_referenced_scene_that_is_y_up(tmp_path: Path) -> None:
    """Its poses reach the normalised world to 1e-4 and upright; a given up is taken instead."""
    angles = torch.linspace(0, 4, 6)
    centers = torch.stack([1.5 * angles.cos(), 1.5 * angles.sin(), torch.full_like(angles, 0.5)], -1)
    c2w = look_at(centers.double())
    y_up = torch.tensor([[1.0, 0, 0, 4075539.8], [0, 0, 1, 931735.2], [0, -1, 0, 4801629.6], [0, 0, 0, 1]])
    K = intrinsics(60.0, 32, 32).double().repeat(6, 1, 1)
    own = y_up.double() @ c2w
    save_views(
        Views(torch.rand(6, 32, 32, 3), torch.ones(6, 32, 32), Cameras(own, K, 32, 32)), tmp_path / "a"
    )
    scale = 1.5 / float(centers.norm(dim=-1).max())
    truth = torch.cat([c2w[:, :3, :3], scale * c2w[:, :3, 3:]], -1).float()
    for name, up, upright in (("auto", "auto", True), ("y", "y", True), ("z", "z", False)):
        with RunFolder(tmp_path / name, SceneSettings()) as run:
            given, _ = read_stage(run, find_photos(tmp_path / "a"), SCENE_PRESETS["draft"], up)
        error = float((given.cameras.c2w[:, :3] - truth).abs().max())
        assert error < 1e-4 if upright else error > 0.5
        notes = run.report["stages"]["read"]["warnings"]
        assert [note for note in notes if "its up is y" in note] == (notes if up == "auto" else [])
