"""Pictures for people: the turntable and the contact sheet that stands for an asset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from v3d.cameras import Cameras, cat_cameras, orbit
from v3d.mesh import Mesh
from v3d.rendering import Light, render
from v3d.views import Views

RenderFn = Callable[[Cameras], Tensor]
"""Cameras -> images [V, H, W, 3] in [0, 1], on white."""

COLUMNS = 6
_ELEVATION = 25.0
_GAP, _LABEL = 12, 22  # pixels
_INK, _LINE = (96, 96, 96), (232, 232, 232)


def turntable(render: RenderFn, *, frames: int = 36, size: int = 384, elevation: float = 12.0) -> Tensor:
    """Frames [N, size, size, 3] of one turn, seen a little from above; the last frame leads into the first."""
    cameras = orbit(frames, size=size, elevation=elevation)
    return torch.cat([render(cameras[i]) for i in range(frames)])


def textured(mesh: Mesh) -> RenderFn:
    """The mesh with its texture under a mild light that stands beside the camera."""
    return lambda cameras: _lit(mesh, cameras, ambient=0.72)


def clay(mesh: Mesh) -> RenderFn:
    """The bare shape: grey, under a stronger light, so that every dent shows."""
    bare = Mesh(mesh.vertices, mesh.faces)
    return lambda cameras: _lit(bare, cameras, ambient=0.1)


def contact_sheet(
    views: Views,
    *,
    photo: Tensor | None = None,
    splats: RenderFn | None = None,
    mesh: Mesh | None = None,
    tile: int = 192,
) -> Image.Image:
    """One picture of everything: the photo, and below each other six views, splats, mesh and bare shape.

    The rows look from the same cameras, so that columns can be compared; the last row looks from above.

    Args:
        photo: [H, W, 4] RGBA in [0, 1].
        splats: renders the splats.
        tile: side of the small pictures in pixels.
    """
    chosen = [i * len(views) // COLUMNS for i in range(min(COLUMNS, len(views)))]
    cameras = views.cameras[chosen].resized(tile, tile)
    rows = [("Views", views[chosen].resized(tile).rgb)]
    if splats is not None:
        rows.append(("Splats", splats(cameras)))
    if mesh is not None:
        raised = _raised(cameras)
        rows.append(("Mesh", textured(mesh)(cameras)))
        rows.append(("Shape", clay(mesh)(cameras)))
        rows.append(("From above", textured(mesh)(raised)))

    height = len(rows) * (tile + _LABEL + _GAP) + _GAP
    panel = min(2 * tile, height - 2 * _GAP - _LABEL) if photo is not None else 0
    left = panel + 3 * _GAP if photo is not None else _GAP
    sheet = Image.new("RGB", (left + len(chosen) * (tile + _GAP), height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    if photo is not None:
        picture = photo[..., :3] * photo[..., 3:] + 1 - photo[..., 3:]
        draw.text((_GAP, _GAP), "Photo", _INK, font)
        sheet.paste(_image(picture).resize((panel, panel), Image.Resampling.LANCZOS), (_GAP, _GAP + _LABEL))
    if photo is not None and mesh is not None:
        # The hero: the asset from beside the photo's camera, as large as the photo.
        y = 2 * _GAP + _LABEL + panel
        hero = _raised(cameras[0].resized(2 * panel, 2 * panel), azimuth=-35.0, elevation=15.0)
        draw.text((_GAP, y), "Asset", _INK, font)
        sheet.paste(
            _image(textured(mesh)(hero)[0]).resize((panel, panel), Image.Resampling.LANCZOS),
            (_GAP, y + _LABEL),
        )
    y = _GAP
    for name, images in rows:
        draw.text((left, y), name, _INK, font)
        draw.line((left + draw.textlength(name, font) + 8, y + 9, sheet.width - _GAP, y + 9), _LINE)
        for column, image in enumerate(images):
            sheet.paste(_image(image), (left + column * (tile + _GAP), y + _LABEL))
        y += tile + _LABEL + _GAP
    return sheet


def _lit(mesh: Mesh, cameras: Cameras, *, ambient: float) -> Tensor:
    """Images under a light over the left shoulder of each camera."""
    # Camera axes: x right, y down, z forward.
    over_shoulder = torch.tensor([-0.5, -0.7, -0.6])
    images = []
    for i in range(len(cameras)):
        direction = cameras.c2w[i, :3, :3] @ over_shoulder.to(cameras.c2w)
        images.append(render(mesh, cameras[i], light=Light(direction, ambient)).rgb)
    return torch.cat(images)


def _raised(cameras: Cameras, azimuth: float = 0.0, elevation: float = _ELEVATION) -> Cameras:
    """Cameras as far from the origin as these and `azimuth` further round it, at this elevation."""
    raised = []
    for i, center in enumerate(cameras.centers.double()):
        around = float(torch.rad2deg(torch.atan2(center[1], center[0]))) + azimuth
        moved = orbit(1, radius=float(center.norm()), azimuth=around, elevation=elevation)
        raised.append(replace(cameras[i], c2w=moved.c2w.to(cameras.c2w)))
    return cat_cameras(raised)


def _image(rgb: Tensor) -> Image.Image:
    return Image.fromarray((rgb.clamp(0, 1) * 255).round().byte().cpu().numpy())
