"""Photos stand where they were taken, exactly, among the views of their orbit."""

from __future__ import annotations

import pytest
import torch

from v3d.cameras import around, orbit
from v3d.diffusion.photos import OrbitPhotos, with_photos
from v3d.errors import V3DError
from v3d.metrics import soft_iou
from v3d.views import Views


def disc(radius: float, size: int = 32) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return ((x**2 + y**2) < radius**2).float()


def photo(radius: float, seed: int = 0, size: int = 32) -> torch.Tensor:
    rgb = torch.rand(size, size, 3, generator=torch.Generator().manual_seed(seed))
    return torch.cat([rgb, disc(radius, size)[..., None]], -1)


def grey_orbit(views: int, elevation: float = 0.0) -> Views:
    cameras = orbit(views, size=32, elevation=elevation)
    return Views(torch.full((views, 32, 32, 3), 0.5), disc(0.6).repeat(views, 1, 1), cameras)


def test_one_photo_takes_the_place_of_view_0_where_the_framing_was_kept() -> None:
    views = grey_orbit(3)
    close, far = OrbitPhotos((photo(0.62),)), OrbitPhotos((photo(0.9),))
    kept = with_photos(views, close)
    given = close.as_views(32)
    assert torch.equal(kept.rgb[0], given.rgb[0]) and torch.equal(kept.alpha[0], disc(0.62))
    assert torch.equal(kept.rgb[1:], views.rgb[1:]) and float(views.rgb[0].mean()) == 0.5  # a copy
    assert torch.equal(with_photos(views, far).rgb, views.rgb)


@pytest.mark.parametrize("elevation", [0.0, 20.0])
def test_several_photos_are_exactly_what_their_views_show(elevation: float) -> None:
    """Those of views of the orbit in their places, those between them added, all in one turn."""
    images = tuple(photo(0.9 - 0.1 * i, seed=i) for i in range(4))
    photos = OrbitPhotos(images, (0.0, 90.0, 180.0, 275.5), elevation)
    views = with_photos(grey_orbit(18, elevation), photos)
    assert len(views) == 20
    expected = sorted([*(20.0 * i for i in range(18)), 90.0, 275.5])
    assert torch.allclose(views.cameras.c2w, around(expected, size=32, elevation=elevation).c2w, atol=1e-5)
    found = photos.among(views.cameras)
    assert {expected[v] for v in found} == set(photos.azimuths)
    given = photos.as_views(32)
    for i, azimuth in enumerate(photos.azimuths):
        v = expected.index(azimuth)
        assert found[v] is images[i]
        assert torch.equal(views.rgb[v], given.rgb[i]) and torch.equal(views.alpha[v], given.alpha[i])
    others = [v for v in range(20) if v not in found]
    assert float((views.rgb[others] - 0.5).abs().max()) == 0


def test_one_image_for_two_sides_stands_on_both() -> None:
    same = photo(0.7)
    views = with_photos(grey_orbit(18), OrbitPhotos((same, same), (0.0, 180.0)))
    for v in (0, 9):
        assert torch.equal(views.rgb[v], OrbitPhotos((same,)).as_views(32).rgb[0])


def test_photos_from_another_height_stand_at_no_view_of_a_level_orbit() -> None:
    photos = OrbitPhotos((photo(0.6), photo(0.6, seed=1)), (0.0, 180.0), 15.0)
    assert photos.among(orbit(18, size=8)) == {}
    assert list(photos.among(orbit(18, size=8, elevation=15.0))) == [0, 9]


@pytest.mark.parametrize(
    ("azimuths", "elevation", "says"),
    [
        ((), 0.0, "front"),
        ((90.0,), 0.0, "front"),
        ((0.0, 90.0, 450.0), 0.0, r"same side \(azimuth 90\)"),
        ((0.0, 359.7), 0.0, "same side"),
        ((0.0, float("nan")), 0.0, "number of degrees"),
        ((0.0,), 80.0, "between -60 and 60"),
        ((0.0,), float("nan"), "elevation is nan"),
    ],
)
def test_sides_that_make_no_orbit_are_refused(
    azimuths: tuple[float, ...], elevation: float, says: str
) -> None:
    with pytest.raises(V3DError, match=says):
        OrbitPhotos(tuple(photo(0.6) for _ in azimuths), azimuths, elevation)


def test_overlap_is_the_intersection_over_the_union() -> None:
    a, b = torch.zeros(2, 4, 4)
    a[:2], b[1:3] = 1, 1
    assert abs(soft_iou(a, b) - 1 / 3) < 1e-6 and soft_iou(a, a) == 1 and soft_iou(a * 0, b * 0) == 0
