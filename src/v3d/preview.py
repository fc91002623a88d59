"""Pictures of an asset: the turntable and the contact sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from v3d.cameras import Cameras, cat_cameras, orbit
from v3d.compositing import over_white
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render
from v3d.views import Views

RenderFn = Callable[[Cameras], Tensor]
"""Cameras -> images [V, H, W, 3] in [0, 1], on white."""

COLUMNS = 6
"""The most images in a row of a sheet."""
_GAP, _LABEL = 12, 22  # pixels
_INK, _LINE = (96, 96, 96), (232, 232, 232)


def turntable(render: RenderFn, *, frames: int = 36, size: int = 384, elevation: float = 12.0) -> Tensor:
    """Frames [N, size, size, 3] of one turn, seen a little from above; the last leads into the first.

    Args:
        render: renders the object.
        frames: number of frames, N.
        size: width and height of a frame in pixels.
        elevation: of the camera, in degrees.
    """
    cameras = orbit(frames, size=size, elevation=elevation)
    return torch.cat([render(cameras[i]) for i in range(frames)])


def textured(mesh: Mesh) -> RenderFn:
    """A function that renders the mesh with its texture, under a mild light over the camera's shoulder."""
    return lambda cameras: _lit(mesh, cameras, ambient=0.72)


def clay(mesh: Mesh) -> RenderFn:
    """A function that renders the bare shape, grey, under a stronger light, so that every dent shows."""
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
        views: at least one; six are chosen, evenly spread.
        photo: [H, W, 4] RGBA in [0, 1], straight alpha.
        splats: a function that renders the splats (see `v3d.splats.rasterize.splat_renderer`).
        mesh: with or without texture.
        tile: side of the small pictures in pixels.
    """
    chosen = [i * len(views) // COLUMNS for i in range(min(COLUMNS, len(views)))]
    zoom = _zoom(views.alpha[chosen])
    cameras = _zoomed(_padded(views.cameras[chosen]).resized(tile, tile), zoom)
    rows = [("Views", [_crop(rgb, zoom, tile) for rgb in views.rgb[chosen]])]
    if splats is not None:
        rows.append(("Splats", [_image(rgb) for rgb in splats(cameras)]))
    if mesh is not None:
        for name, draw_mesh, stand in (
            ("Mesh", textured(mesh), cameras),
            ("Shape", clay(mesh), cameras),
            ("From above", textured(mesh), _raised(cameras, elevation=25.0)),
        ):
            rows.append((name, [_image(rgb) for rgb in draw_mesh(stand)]))

    height = max(len(rows), 2) * (tile + _LABEL + _GAP) + _GAP
    panels = []
    if photo is not None:
        side = (height - 3 * _GAP - 2 * _LABEL) // 2
        on_white = over_white(photo[..., :3], photo[..., 3])
        panels.append(("Photo", _crop(on_white, _zoom(photo[None, ..., 3]), side)))
        if mesh is not None:
            beside = _raised(cameras[0].resized(side, side), azimuth=-35.0, elevation=15.0)
            panels.append(("Asset", _image(textured(mesh)(beside)[0])))
    return _sheet(rows, panels, tile)


def sheet_of_rows(rows: Mapping[str, Tensor], *, tile: int = 192) -> Image.Image:
    """One picture of rows of images, each under its name.

    Args:
        rows: images [V, H, W, 3] in [0, 1] by their name; of more than `COLUMNS`, so many evenly spread.
        tile: side of the small pictures in pixels.
    """
    chosen = {
        name: [images[i * len(images) // COLUMNS] for i in range(COLUMNS)]
        if len(images) > COLUMNS
        else images
        for name, images in rows.items()
    }
    return _sheet(
        [(name, [_crop(rgb, 1.0, tile) for rgb in images]) for name, images in chosen.items()], [], tile
    )


def _sheet(
    rows: Sequence[tuple[str, list[Image.Image]]], panels: Sequence[tuple[str, Image.Image]], tile: int
) -> Image.Image:
    """Large pictures below each other on the left, rows of small ones beside them."""
    height = max(len(rows), 2) * (tile + _LABEL + _GAP) + _GAP
    left = _GAP + (panels[0][1].width + 2 * _GAP if panels else 0)
    columns = max(len(images) for _, images in rows)
    sheet = Image.new("RGB", (left + columns * (tile + _GAP), height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for k, (name, picture) in enumerate(panels):
        y = _GAP + k * (picture.height + _LABEL + _GAP)
        draw.text((_GAP, y), name, _INK, font)
        sheet.paste(picture, (_GAP, y + _LABEL))
    y = _GAP
    for name, images in rows:
        draw.text((left, y), name, _INK, font)
        draw.line((left + draw.textlength(name, font) + 8, y + 9, sheet.width - _GAP, y + 9), _LINE)
        for column, image in enumerate(images):
            sheet.paste(image, (left + column * (tile + _GAP), y + _LABEL))
        y += tile + _LABEL + _GAP
    return sheet


def _lit(mesh: Mesh, cameras: Cameras, *, ambient: float) -> Tensor:
    """Images [V, H, W, 3] under a light over the left shoulder of each camera."""
    cameras = cameras.to(mesh.vertices.device)
    # Camera axes: x right, y down, z forward.
    over_shoulder = torch.tensor([-0.5, -0.7, -0.6])
    images = []
    for i in range(len(cameras)):
        direction = cameras.c2w[i, :3, :3] @ over_shoulder.to(cameras.c2w)
        images.append(render(mesh, cameras[i], light=Light(direction, ambient)).rgb)
    return torch.cat(images)


def _raised(cameras: Cameras, *, azimuth: float = 0.0, elevation: float) -> Cameras:
    """Cameras as far from the origin as these and `azimuth` further round it, at this elevation."""
    raised = []
    for i, center in enumerate(cameras.centers.double()):
        around = float(torch.rad2deg(torch.atan2(center[1], center[0]))) + azimuth
        moved = orbit(1, radius=float(center.norm()), azimuth=around, elevation=elevation)
        raised.append(replace(cameras[i], c2w=moved.c2w.to(cameras.c2w)))
    return cat_cameras(raised)


def _zoom(alpha: Tensor) -> float:
    """How much larger silhouettes [V, H, W] can be shown around the image centre, with a margin."""
    rows, columns = (alpha > 0.5).any(0).nonzero().T
    if len(rows) == 0:
        return 1.0
    height, width = alpha.shape[1:]
    half = max(height, width) / 2
    reach = max(float((x + 0.5 - n / 2).abs().max()) / half for x, n in ((rows, height), (columns, width)))
    return max(0.85 / reach, 1.0)


def _padded(cameras: Cameras) -> Cameras:
    """The cameras of the images after these were padded to squares, as `_crop` does."""
    side = max(cameras.width, cameras.height)
    K = cameras.K.clone()
    K[:, 0, 2] += (side - cameras.width) // 2
    K[:, 1, 2] += (side - cameras.height) // 2
    return replace(cameras, K=K, width=side, height=side)


def _zoomed(cameras: Cameras, zoom: float) -> Cameras:
    centre = cameras.K.new_tensor([cameras.width / 2, cameras.height / 2])
    K = cameras.K.clone()
    K[:, :2, :2] *= zoom
    K[:, :2, 2] = (K[:, :2, 2] - centre) * zoom + centre
    return replace(cameras, K=K)


def _crop(rgb: Tensor, zoom: float, size: int) -> Image.Image:
    """The middle 1/zoom of an image [H, W, 3], at `size` x `size` pixels."""
    height, width = rgb.shape[:2]
    side = max(height, width)
    square = Image.new("RGB", (side, side), "white")
    square.paste(_image(rgb), ((side - width) // 2, (side - height) // 2))
    low, high = side / 2 - side / zoom / 2, side / 2 + side / zoom / 2
    return square.resize((size, size), Image.Resampling.LANCZOS, box=(low, low, high, high))


def _image(rgb: Tensor) -> Image.Image:
    return Image.fromarray((rgb.clamp(0, 1) * 255).round().byte().cpu().numpy())
