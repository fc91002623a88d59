"""Draw the pictures of README.md and docs/gallery.md.

python scripts/make_pictures.py runs docs/images/reconstruct.jpg RUN RUN --views 16 2 --turns 150 60
python scripts/make_pictures.py photos docs/images/four_photos.jpg RUN
python scripts/make_pictures.py gallery CORPUS.npz docs/images FOLDER

`runs` draws a row a run: what was given (the photo, or one of the views), then splats, mesh and bare shape
from that camera, and the mesh from a place where no view stood: 25 degrees above, and turned. `photos` draws
one run: its photos, then mesh, splats and shape from between them. `gallery` makes ten assets of four photos
and ten of one, in FOLDER, where a stopped run goes on, and draws each from eight sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import tyro
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import make_examples
from v3d.cameras import Cameras, orbit
from v3d.capture.images import read_image
from v3d.capture.readers import load_views
from v3d.compositing import over_white
from v3d.meshes.files import load_mesh
from v3d.objects.pipeline import generate
from v3d.preview import clay, textured
from v3d.settings import GenerateSettings, Quality
from v3d.splats.files.ply import load_ply
from v3d.splats.rasterize import splat_renderer

GAP, LABEL, INK = 16, 36, (80, 80, 80)
DRAWN = ("Splats", "Mesh", "Shape", "Mesh, from above")
SIDES = tuple(f"{45 * i}°" for i in range(8))
ABOVE = 12.0  # degrees that cameras which look at assets stand above them
BESIDE = 30.0  # degrees from the front to the single photo, which shows two sides
GALLERY = {  # object of the validation split -> azimuth of its front
    "kay__character_pack_adventures_mage": 0.0,
    "qf__farm_animals_animated_zebra": 0.0,
    "quat__cute_fish_pack_clownfish": 0.0,
    "mmmm__veh_tank1": 0.0,
    "ycb__072_a_toy_airplane": 180.0,
    "ycb__010_potted_meat_can": 180.0,
    "gso__cole_hardware_hammer_black": 0.0,
    "quat__rpg_items_pack_chest_open": 0.0,
    "ken__furniture_pack_bedbunk": 0.0,
    "kay__medieval_hexagon_pack_waterplant_c": 0.0,
}


def runs(
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
    save_rows(rows, ("Photo" if (runs[0] / "photo.png").exists() else "Given view", *DRAWN), out)


def photos(out: tyro.conf.Positional[Path], run: tyro.conf.Positional[Path], tile: int = 330) -> None:
    """Draw the photos of a run of several, and what it made, from between them and above.

    Args:
        out: .png or .jpg file.
        run: folder of the finished run.
        tile: pixels of a picture's side.
    """
    paths = sorted(run.glob("photo*.png"), key=lambda path: float(path.stem[6:] or 0))  # by azimuth
    given = [framed(path, 0.92, tile // 2) for path in paths[:4]]
    blank = torch.ones_like(given[0])
    given += [blank] * (4 - len(given))
    square = torch.cat([torch.cat(given[:2], 1), torch.cat(given[2:], 1)])
    mesh, splats = load_mesh(run / "mesh.glb"), load_ply(run / "splats.ply")
    cameras = around_asset(mesh.vertices, 8, tile)
    drawn = [
        textured(mesh)(cameras[1]),
        textured(mesh)(cameras[3]),
        splat_renderer(splats)(cameras[5]),
        clay(mesh)(cameras[7]),
    ]
    images = torch.stack([square, *(image[0] for image in drawn)])
    save_rows([trimmed(images)], ("Photos", "Mesh", "Mesh", "Splats", "Shape"), out)


def gallery(
    corpus: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[Path],
    folder: tyro.conf.Positional[Path],
    quality: Quality = "standard",
    tile: int = 140,
) -> None:
    """Make ten assets of four photos and ten of one, and draw each from eight sides.

    Args:
        corpus: the packed corpus of validation objects.
        images: folder for `gallery_four.jpg` and `gallery_one.jpg`.
        folder: of the runs and their photos.
        quality: of the assets.
        tile: pixels of a small picture's side.
    """
    rows: dict[str, list[Tensor]] = {"four": [], "one": []}
    for name, front in GALLERY.items():
        for kind, run in make_assets(corpus, folder, name, front, quality).items():
            mesh = load_mesh(run / "mesh.glb")
            sides = textured(mesh)(around_asset(mesh.vertices, len(SIDES), tile))
            photo = framed(run / "photo.png", 0.92, tile)
            rows[kind].append(trimmed(torch.cat([photo[None], sides])))
    for kind, drawn in rows.items():
        save_rows(drawn, ("Photo", *SIDES), images / f"gallery_{kind}.jpg", gap=6)


def make_assets(corpus: Path, folder: Path, name: str, front: float, quality: Quality) -> dict[str, Path]:
    """Render the photos of an object, make its two assets -> the folders of their runs."""
    item = make_examples.read(corpus, name)
    paths = {}
    for side in make_examples.SIDES:
        paths[side.azimuth] = folder / "photos" / f"{name}_{side.azimuth:g}.png"
        photo = make_examples.photo_of_side(item, side, front)
        make_examples.save(photo, None, paths[side.azimuth])
    beside = folder / "photos" / f"{name}.png"
    photo = make_examples.photo_of_side(item, make_examples.SIDES[0], front + BESIDE)
    make_examples.save(photo, None, beside)
    settings = GenerateSettings(quality=quality)
    return {
        "four": generate(paths, folder / "four", settings).folder,
        "one": generate(beside, folder / "one", settings).folder,
    }


def save_rows(rows: Sequence[Tensor], headings: Sequence[str], out: Path, *, gap: int = GAP) -> None:
    """Save rows of images [N, H, tile, 3] below each other, each column under its heading."""
    heights, tile = [row.shape[1] for row in rows], rows[0].shape[2]
    size = (gap + len(headings) * (tile + gap), LABEL + sum(heights) + gap * len(rows))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for column, name in enumerate(headings):
        left, top = gap + column * (tile + gap), LABEL
        draw.text((left + tile / 2, LABEL / 2), name, INK, font, anchor="mm")
        for images, height in zip(rows, heights, strict=True):
            sheet.paste(as_image(images[column]), (left, top))
            top += height + gap
    sheet.save(out, quality=90)


def around_asset(vertices: Tensor, views: int, size: int) -> Cameras:
    """Cameras around an asset, a little above it, that it fills."""
    cameras = orbit(views, size=size, elevation=ABOVE)
    xy, _ = cameras.project(vertices)
    return zoomed(cameras, 0.96 / float((2 * xy / size - 1).abs().max()))


def framed(path: Path, fill: float, size: int) -> Tensor:
    """A photo with alpha [size, size, 3] on white, the object enlarged to fill it."""
    rgba = torch.from_numpy(read_image(path)[0])
    return crop(over_white(rgba[..., :3], rgba[..., 3]), zoom_to(rgba[..., 3], fill), size)


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
        source = framed(run / "photo.png", fill, tile)
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
    tyro.extras.subcommand_cli_from_dict({"runs": runs, "photos": photos, "gallery": gallery})
