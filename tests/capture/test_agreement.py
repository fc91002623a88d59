"""Objects from posed photos with backgrounds: `v3d.capture.agreement`."""

from __future__ import annotations

import pytest
import torch
import trimesh
from torch import Tensor

from shapes import textured
from v3d.cameras import Cameras, cat_cameras, orbit
from v3d.capture.agreement import cut_out_agreeing
from v3d.capture.matting import cut_out_salient
from v3d.errors import V3DError
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render
from v3d.metrics import mask_iou
from v3d.views import Views

LIGHT = Light(torch.tensor([1.0, 0.5, 2.0]), 0.6)


def figure() -> Mesh:
    """A body, a head and two arms, on the table's height."""
    body = trimesh.creation.cylinder(0.25, 0.6)
    head = trimesh.creation.icosphere(3, 0.22)
    head.apply_translation([0, 0, 0.45])
    arms = trimesh.creation.box(extents=(0.16, 1.0, 0.14))
    arms.apply_translation([0, 0, 0.1])
    return textured(trimesh.boolean.union([body, head, arms]), seed=3, cells=3)


def room(seed: int) -> list[Mesh]:
    """A textured room, and in it a textured table under the figure: both the same in all views."""
    walls = trimesh.creation.box(extents=(9, 9, 6)).subdivide().subdivide()
    table = trimesh.creation.cylinder(1.3, 0.1)
    table.apply_translation([0, 0, -0.36])
    return [textured(walls, seed, cells=12), textured(table, seed + 1, cells=9)]


def photographed(cameras: Cameras, seed: int = 0) -> tuple[Views, Tensor]:
    """Opaque views of the figure in its room, and its true alpha [V, H, W]."""
    rgb = torch.zeros(len(cameras), cameras.height, cameras.width, 3)
    for mesh in (*room(seed), figure()):
        shown = render(mesh, cameras, light=LIGHT)
        a = shown.alpha[..., None]
        rgb = rgb * (1 - a) + shown.rgb - (1 - a)
    return Views(rgb.clamp(0, 1), torch.ones_like(shown.alpha), cameras), shown.alpha


def around(count: int, size: int = 160) -> Cameras:
    low, high = (orbit(count // 2, size=size, elevation=e, azimuth=e, fov=50) for e in (18, 42))
    return cat_cameras([low, high])


def elsewhere(views: Views) -> Views:
    """The same in a world as other tools leave it: 40 times larger, hundreds of units off."""
    c2w = views.cameras.c2w.double().clone()
    c2w[:, :3, 3] = 40 * c2w[:, :3, 3] + torch.tensor([500.0, -300.0, 20.0])
    cameras = Cameras(c2w, views.cameras.K.double(), views.cameras.width, views.cameras.height)
    return Views(views.rgb, views.alpha, cameras)


def test_views_agree_on_an_object_before_anything() -> None:
    views, truth = photographed(around(12), seed=2)
    views = elsewhere(views)
    steps: list[tuple[int, int]] = []
    found, notes = cut_out_agreeing(views, on_step=lambda done, total: steps.append((done, total)))
    together = mask_iou(found.alpha, truth)
    alone = [torch.from_numpy(cut_out_salient(photo).alpha) for photo in views.rgb.numpy()]
    assert float(together.mean()) > 0.92
    assert float(together.min()) > 0.75
    assert float(together.mean()) > float(mask_iou(torch.stack(alone), truth).mean()) + 0.03
    assert steps == [(i + 1, 36) for i in range(36)]
    assert "agree" in notes[0]
    assert found.cameras is views.cameras
    outside = found.alpha == 0
    assert bool((found.rgb[outside] == 1).all())


def test_what_is_missing_is_told() -> None:
    views, _ = photographed(around(12, size=96))
    with pytest.raises(V3DError, match=r"3 photos are too few .*give masks"):
        cut_out_agreeing(views[:3])
    # The same six photos, of cameras in another order: no place in space is where they see an object.
    noise = torch.rand(6, 12, 12, 3, generator=torch.Generator().manual_seed(0))
    clutter = torch.nn.functional.interpolate(noise.permute(0, 3, 1, 2), (96, 96), mode="nearest")
    with pytest.raises(V3DError, match=r"Only \d of 6 photos agree .*give masks"):
        cut_out_agreeing(Views(clutter.permute(0, 2, 3, 1), views.alpha[:6], views.cameras[:6]))
    side_by_side = views.cameras.c2w[:1].repeat(6, 1, 1)
    side_by_side[:, 0, 3] += torch.arange(6)
    cameras = Cameras(side_by_side, views.cameras.K[:6], 96, 96)
    with pytest.raises(V3DError, match="do not look at one place"):
        cut_out_agreeing(Views(views.rgb[:6], views.alpha[:6], cameras))
