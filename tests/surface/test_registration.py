"""Photos of known shapes, each framed on its own, against the places and sizes they must come back to."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
import trimesh
from torch import Tensor

from shapes import ball_views, box_mesh, mesh_of, textured
from v3d.cameras import Cameras, cat_cameras, orbit
from v3d.compositing import off_white, resize_rgba
from v3d.errors import V3DError
from v3d.framing import frame_mesh, frame_photo, visible_box
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.metrics import mask_iou
from v3d.surface.registration import register_photos
from v3d.views import Views

SIDES = (0.0, 90.0, 180.0, 270.0)
SIZE = 256


def cameras_at(azimuths: Sequence[float], elevation: float = 0.0) -> Cameras:
    return cat_cameras([orbit(1, size=SIZE, azimuth=a, elevation=elevation) for a in azimuths])


def true_photos(
    mesh: Mesh, azimuths: Sequence[float] = SIDES, elevation: float = 0.0, depth: float = 0.0
) -> list[Tensor]:
    """What the orbit's cameras see of the framed mesh: straight alpha [SIZE, SIZE, 4].

    With `depth` it stands so much farther from the front's camera, and is larger, so that the front shows the
    same.
    """
    vertices = frame_mesh(mesh.vertices, cameras_at(SIDES, elevation))
    front = cameras_at((0.0,), elevation)
    vertices = vertices * (1 + depth / 2) + depth * front.c2w[0, :3, 2]
    cameras = cameras_at(azimuths, elevation)
    out = render(Mesh(vertices, mesh.faces, mesh.uv, mesh.texture), cameras, supersample=2)
    return photos_of(Views(out.rgb, out.alpha, cameras))


def photos_of(views: Views) -> list[Tensor]:
    straight = off_white(views.rgb, views.alpha, 1e-3).clamp(0, 1)
    return list(torch.cat([straight, views.alpha[..., None]], -1))


def taken(photo: Tensor, scale: float = 1.0, roll: float = 0.0) -> Tensor:
    """The photo at another scale, turned clockwise by `roll` degrees, framed on its own."""
    side = round(1.6 * len(photo))
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    cos, sin = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    place = torch.stack([x, y], -1) - side / 2
    place = torch.stack(
        [cos * place[..., 0] + sin * place[..., 1], cos * place[..., 1] - sin * place[..., 0]], -1
    )
    premultiplied = torch.cat([photo[..., :3] * photo[..., 3:], photo[..., 3:]], -1).permute(2, 0, 1)[None]
    grid = (place / scale / (len(photo) / 2))[None]
    moved = F.grid_sample(premultiplied, grid, align_corners=False)[0].permute(1, 2, 0)
    rgb = (moved[..., :3] / moved[..., 3:].clamp_min(1e-4)).clamp(0, 1)
    return frame_photo(torch.cat([rgb, moved[..., 3:]], -1))


def body() -> Mesh:
    """An asymmetric body: a slab, a tower on one corner and a fin on the object's left."""
    boxes = (
        ((0.8, 1.0, 0.3), (0.0, 0.0, 0.0)),
        ((0.3, 0.4, 0.8), (-0.2, -0.25, 0.4)),
        ((0.1, 0.3, 0.5), (0.1, 0.45, 0.3)),
    )
    parts = []
    for sides, centre in boxes:
        part = trimesh.creation.box(extents=sides).subdivide().subdivide()
        part.apply_translation(centre)
        parts.append(part)
    return textured(trimesh.util.concatenate(parts), seed=3, cells=6)


def size_of(photo: Tensor) -> float:
    """Square root of the object's area, in image sides: finer than a pixel."""
    return math.sqrt(float(photo[..., 3].mean()))


def agreement(
    photos: Sequence[Tensor], mesh: Mesh, azimuths: Sequence[float] = SIDES, elevation: float = 0.0
) -> float:
    """The least intersection over union of an outline and the true one.

    The truth is known up to its depth as the front sees it, which outlines alone say roughly.
    """
    return max(
        min(
            float(mask_iou(resize_rgba(photo, SIZE, SIZE)[None, ..., 3], true[None, ..., 3]))
            for photo, true in zip(photos, true_photos(mesh, azimuths, elevation, depth), strict=True)
        )
        for depth in (-0.12, -0.08, -0.04, 0.0, 0.04, 0.08, 0.12)
    )


def test_one_photo_is_returned_unchanged() -> None:
    photo = true_photos(box_mesh(1, 1, 1))[0]
    result = register_photos([photo], [0.0])
    assert result.photos[0] is photo and result.notes == ()


@pytest.mark.parametrize("mesh", [box_mesh(0.5, 1.0, 0.8), body()], ids=["box", "body"])
def test_scales_come_back_to_one_per_cent(mesh: Mesh) -> None:
    truth = true_photos(mesh)
    photos = [truth[0], *(taken(p, s) for p, s in zip(truth[1:], (0.8, 1.25, 0.9), strict=True))]
    result = register_photos(photos, SIDES)
    size = size_of(result.photos[0]) / size_of(truth[0])
    for photo, true in zip(result.photos, truth, strict=True):
        assert size_of(photo) == pytest.approx(size * size_of(true), rel=0.012)
    assert agreement(result.photos, mesh) > 0.95
    assert result.notes == ()


def test_a_tilted_photo_is_turned_upright() -> None:
    truth = true_photos(body())
    photos = [truth[0], taken(truth[1], 0.9), taken(truth[2], 1.1, roll=5), taken(truth[3])]
    result = register_photos(photos, SIDES)
    assert agreement(result.photos, body()) > 0.93
    assert result.notes == ()


def test_front_and_left() -> None:
    truth = true_photos(body(), (0.0, 90.0))
    photos = [truth[0], taken(truth[1], 1.25)]
    result = register_photos(photos, (0.0, 90.0))
    assert agreement(result.photos, body(), (0.0, 90.0)) > 0.95
    torch.testing.assert_close(result.photos[0][..., 3], frame_photo(photos[0])[..., 3])


def test_front_and_back_share_their_mirrored_outline() -> None:
    truth = true_photos(body(), (0.0, 180.0))
    result = register_photos([truth[0], taken(truth[1], 0.8, roll=5)], (0.0, 180.0))
    assert agreement(result.photos, body(), (0.0, 180.0)) > 0.75


@pytest.mark.parametrize("elevation", [20.0, -10.0])
def test_photos_from_another_height(elevation: float) -> None:
    truth = true_photos(body(), elevation=elevation)
    photos = [taken(p, s) for p, s in zip(truth, (1.0, 0.8, 1.25, 0.9), strict=True)]
    result = register_photos(photos, SIDES, elevation=elevation)
    assert agreement(result.photos, body(), elevation=elevation) > 0.93
    assert result.notes == ()


def test_other_azimuths_in_any_order() -> None:
    azimuths = (120.0, 315.0, 0.0, 60.0, 200.0)
    truth = true_photos(body(), azimuths)
    photos = [taken(p, s) for p, s in zip(truth, (0.8, 1.1, 1.0, 0.9, 1.25), strict=True)]
    result = register_photos(photos, azimuths)
    assert agreement(result.photos, body(), azimuths) > 0.92
    assert result.notes == ()


def test_a_ball_stays_as_it_is() -> None:
    photos = [
        taken(p, s) for p, s in zip(photos_of(ball_views(cameras_at(SIDES))), (1, 0.8, 1.2, 1), strict=True)
    ]
    result = register_photos(photos, SIDES)
    assert result.notes == ()
    for photo in result.photos:
        assert size_of(photo) == pytest.approx(size_of(result.photos[0]), rel=0.01)
        left, top, right, bottom = visible_box(photo[..., 3])
        assert max(abs(left + right - len(photo)), abs(top + bottom - len(photo))) <= 4


def test_a_photo_mirrored_by_mistake_is_named() -> None:
    photos = true_photos(body())
    photos[2] = photos[2].flip(1)
    (note,) = register_photos(photos, SIDES).notes
    assert "at 180 degrees" in note and "mirrored" in note


def test_exchanged_photos_are_named() -> None:
    photos = true_photos(body())
    photos[1], photos[2] = photos[2], photos[1]
    (note,) = register_photos(photos, SIDES).notes
    assert "at 90 and 180 degrees" in note and "exchanged" in note


def test_left_and_right_exchanged_are_noticed_by_colours_where_outlines_are_symmetrical() -> None:
    mesh = textured(trimesh.creation.cylinder(0.4, 1.0, sections=48).subdivide(), seed=1)
    photos = true_photos(mesh)
    assert register_photos(photos, SIDES).notes == ()
    photos[1], photos[3] = photos[3], photos[1]
    (note,) = register_photos(photos, SIDES).notes
    assert "at 90 and 270 degrees fit better exchanged" in note


def test_a_photo_of_another_object_is_named_with_how_far_it_is_off() -> None:
    photos = true_photos(body())
    photos[2] = true_photos(mesh_of(trimesh.creation.cone(0.9, 0.8)))[2]
    (note,) = register_photos(photos, SIDES).notes
    assert "at 180 degrees does not fit" in note and "% of the object's size" in note


def test_a_symmetrical_object_gives_no_note_however_its_photos_are_exchanged() -> None:
    photos = true_photos(mesh_of(trimesh.creation.cone(0.5, 1.0)))
    photos[1], photos[3] = photos[3].flip(1), photos[1]
    assert register_photos(photos, SIDES).notes == ()


def test_pixels_of_upright_photos_are_kept() -> None:
    """A sharper photo stays sharper: it is cut and padded, not resampled."""
    photos = [frame_photo(photo) for photo in true_photos(body())]
    photos[1] = frame_photo(photos[1].repeat_interleave(3, 0).repeat_interleave(3, 1))
    result = register_photos(photos, SIDES)
    for before, after in zip(photos, result.photos, strict=True):
        assert after[..., 3].sum() == pytest.approx(float(before[..., 3].sum()), rel=1e-6)
        assert (after[..., :3] * after[..., 3:]).sum() == pytest.approx(
            float((before[..., :3] * before[..., 3:]).sum()), rel=1e-5
        )
    assert len(result.photos[1]) > 2 * len(result.photos[3])


def test_wide_objects_stay_within_their_images() -> None:
    photos = [frame_photo(p) for p in true_photos(box_mesh(2.0, 0.5, 0.6))]
    result = register_photos(photos, SIDES)
    for photo in result.photos:
        left, top, right, bottom = visible_box(photo[..., 3])
        assert min(left, top) >= 0.01 * len(photo) and max(right, bottom) <= 0.99 * len(photo)


def test_empty_and_tiny_photos_are_refused() -> None:
    photo = true_photos(box_mesh(1, 1, 1), (0.0,))[0]
    with pytest.raises(V3DError, match="shows no object"):
        register_photos([photo, torch.zeros(64, 64, 4)], (0.0, 90.0))
    tiny = torch.zeros(64, 64, 4)
    tiny[30:34, 30:34] = 1
    with pytest.raises(V3DError, match="only 4 pixels"):
        register_photos([photo, tiny], (0.0, 90.0))
