"""Draw the pictures of README.md and docs/gallery.md from finished runs.

python scripts/make_pictures.py docs/images/reconstruct.jpg RUN RUN --views 16 2 --turns 150 60

A row a run: what was given (the photo, or one of the views), then splats, mesh and bare shape from that
camera, and the mesh from a place where no view stood: 25 degrees above, and turned.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import tyro
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from v3d.cameras import Cameras, orbit
from v3d.capture.images import read_image
from v3d.capture.readers import load_views
from v3d.compositing import over_white
from v3d.meshes.files import load_mesh
from v3d.preview import clay, textured
from v3d.splats.files.ply import load_ply
from v3d.splats.rasterize import splat_renderer

GAP, LABEL, INK = 16, 36, (80, 80, 80)
DRAWN = ("Splats", "Mesh", "Shape", "Mesh, from above")


def main(
    out: tyro.conf.Positional[Path],
    runs: tyro.conf.Positional[tuple[Path, ...]],
    views: tuple[int, ...] = (),
    turns: tuple[float, ...] = (),
    tile: int = 300,
    fill: float = 0.92,
) -> None:
    """Draw a row for every run folder and save the picture.

    Args:
        out: .png or .jpg file.
        runs: folders of finished runs.
        views: number of the view to show, one a run; by default the first.
        turns: degrees from that view to the one from above, one a run; by default 150.
        tile: pixels of a small picture's side.
        fill: share of it that the object fills.
    """
    chosen = zip(runs, views or (0,) * len(runs), turns or (150.0,) * len(runs), strict=True)
    rows = [trimmed(row(run, view, turn, tile, fill)) for run, view, turn in chosen]
    headings = ("Photo" if (runs[0] / "photo.png").exists() else "Given view", *DRAWN)
    heights = [row.shape[1] for row in rows]
    size = (GAP + len(headings) * (tile + GAP), LABEL + sum(heights) + GAP * len(rows))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for column, name in enumerate(headings):
        left, top = GAP + column * (tile + GAP), LABEL
        draw.text((left + tile / 2, LABEL / 2), name, INK, font, anchor="mm")
        for images, height in zip(rows, heights, strict=True):
            sheet.paste(as_image(images[column]), (left, top))
            top += height + GAP
    sheet.save(out, quality=90)


def trimmed(images: Tensor) -> Tensor:
    """Images [N, H, W, 3] without the rows of pixels that are white in all of them, but for a margin."""
    used = (images < 0.98).any(-1).any(-1).any(0).nonzero()[:, 0]
    return images[:, max(int(used[0]) - GAP, 0) : int(used[-1]) + GAP]


def row(run: Path, view: int, turn: float, tile: int, fill: float) -> Tensor:
    """Five images [5, tile, tile, 3] of one run."""
    given = load_views(run)
    splats, mesh = load_ply(run / "splats.ply"), load_mesh(run / "mesh.glb")
    zoom = zoom_to(given.alpha.amax(0), fill)  # of all views, so that a turned object fits as well
    camera = zoomed(given.cameras[view].resized(tile, tile), zoom)
    above = zoomed(orbit(1, size=tile, azimuth=360 * view / len(given) + turn, elevation=25), zoom)
    if (run / "photo.png").exists():
        rgba = torch.from_numpy(read_image(run / "photo.png")[0])
        source = crop(over_white(rgba[..., :3], rgba[..., 3]), zoom_to(rgba[..., 3], fill), tile)
    else:
        source = crop(given.rgb[view], zoom, tile)
    drawn = [
        splat_renderer(splats)(camera),
        textured(mesh)(camera),
        clay(mesh)(camera),
        textured(mesh)(above),
    ]
    return torch.stack([source, *(image[0] for image in drawn)])


def zoom_to(alpha: Tensor, fill: float) -> float:
    """How much larger an outline [H, W] may be shown around the image's middle to fill this share of it."""
    rows, columns = (alpha > 0.5).nonzero().T
    reach = max(
        float((x + 0.5 - n / 2).abs().max()) / (n / 2)
        for x, n in zip((rows, columns), alpha.shape, strict=True)
    )
    return fill / reach


def zoomed(cameras: Cameras, zoom: float) -> Cameras:
    """Cameras with a focal length that is `zoom` times longer."""
    K = cameras.K.clone()
    K[:, :2, :2] *= zoom
    return replace(cameras, K=K)


def crop(rgb: Tensor, zoom: float, size: int) -> Tensor:
    """The middle of an image [H, W, 3], enlarged by `zoom`, at `size` x `size` pixels."""
    side = rgb.shape[0]
    low, high = side / 2 - side / zoom / 2, side / 2 + side / zoom / 2
    image = as_image(rgb).resize(
        (size, size),
        Image.Resampling.LANCZOS,
        box=(max(low, 0), max(low, 0), min(high, side), min(high, side)),
    )
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3) / 255


def as_image(rgb: Tensor) -> Image.Image:
    """A tensor [H, W, 3] in [0, 1] as a picture."""
    return Image.fromarray((rgb.clamp(0, 1) * 255).round().byte().cpu().numpy())


if __name__ == "__main__":
    tyro.cli(main)
