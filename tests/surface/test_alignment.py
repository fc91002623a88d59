"""Pictures that are a little off are put right by their outlines."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from shapes import ball_views, lopsided_mesh
from v3d.cameras import Cameras, around, orbit
from v3d.meshes.rendering import render
from v3d.surface.alignment import Spread, _corrected, align_outlines
from v3d.views import Views

SIZE = 96


def pictures(cameras: Cameras) -> Views:
    image = render(lopsided_mesh(), cameras, supersample=2)
    return Views(image.rgb, image.alpha, cameras)


def off(cameras: Cameras, roll: float = 0.0, seed: int = 0) -> Cameras:
    """Cameras whose pictures are off by 2 % of size, 2 pixels and up to `roll` radians."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.tensor([0.02, 2.0, 2.0, roll])
    found = spread * (2 * torch.rand(len(cameras), 4, generator=generator) - 1)
    return _corrected(cameras, found - found.mean(0))


def projected(cameras: Cameras) -> Tensor:
    points = torch.tensor([[0.3, 0.2, 0.1], [-0.3, 0.1, -0.4], [0.1, -0.3, 0.4], [0.0, 0.5, 0.0]])
    return cameras.project(points)[0]


def test_a_similarity_of_the_camera_is_that_of_its_picture() -> None:
    cameras = orbit(3, size=SIZE)
    found = torch.tensor([[0.05, 3.0, -2.0, 0.1]]).repeat(3, 1)
    picture = projected(_corrected(cameras, found)) - SIZE / 2
    cos, sin = torch.tensor(0.1).cos(), torch.tensor(0.1).sin()
    turned = torch.stack(
        [cos * picture[..., 0] - sin * picture[..., 1], sin * picture[..., 0] + cos * picture[..., 1]], -1
    )
    placed = torch.tensor(0.05).exp() * turned + torch.tensor([3.0, -2.0]) + SIZE / 2
    assert torch.allclose(placed, projected(cameras), atol=1e-3)


@pytest.mark.parametrize("roll", [0.0, 0.05])
def test_cameras_of_jittered_pictures_are_found(roll: float) -> None:
    law = orbit(12, size=SIZE, elevation=15.0)
    true = off(law, roll)
    given = replace(pictures(true), cameras=law)
    aligned = align_outlines(given, Spread(roll=roll))
    before = (projected(law) - projected(true)).norm(dim=-1).mean()
    after = (projected(aligned.cameras) - projected(true)).norm(dim=-1).mean()
    assert before > 1.2
    assert after < 0.35 * before
    assert aligned.gap < 0.2 * aligned.before


def test_true_cameras_stay() -> None:
    law = orbit(12, size=SIZE)
    aligned = align_outlines(pictures(law))
    assert float((projected(aligned.cameras) - projected(law)).norm(dim=-1).max()) < 0.4
    assert aligned.gap < 0.002


def test_the_gap_tells_a_wrong_law_from_the_right_one() -> None:
    azimuths = [30.0 * i for i in range(12)]
    views = pictures(around(azimuths, size=SIZE, elevation=15.0))
    right = align_outlines(views).gap
    for wrong in (
        around([-a for a in azimuths], size=SIZE, elevation=15.0),
        around(azimuths, size=SIZE, elevation=30.0),
        around(azimuths, size=SIZE, elevation=0.0),
    ):
        assert align_outlines(replace(views, cameras=wrong)).gap > 4 * right


def test_a_ball_fits_every_way_round() -> None:
    views = ball_views(orbit(8, size=SIZE))
    other = replace(views, cameras=views.cameras[[0, 7, 6, 5, 4, 3, 2, 1]])
    assert align_outlines(other).gap == pytest.approx(align_outlines(views).gap, abs=5e-4)


def test_an_empty_view_is_refused() -> None:
    views = ball_views(orbit(4, size=SIZE))
    views.alpha[2] = 0
    with pytest.raises(ValueError, match="no object"):
        align_outlines(views)
