"""Pictures around an object as generators write them: a folder, one image with a grid, or a video."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from v3d.capture.images import read_image
from v3d.capture.matting import cut_out
from v3d.capture.orbit_law import OrbitLaw
from v3d.capture.photo_files import SUFFIXES
from v3d.capture.sfm import list_photos
from v3d.capture.video import read_frames
from v3d.errors import V3DError

Image = NDArray[np.float32]

_MOST = 36  # frames of a video whose law does not say how many there are
_OTHER = ("normal", "normals", "mask", "masks", "depth")  # words in the names of files that are no pictures


def read_pictures(
    path: Path, law: OrbitLaw | None, grid: tuple[int, int] | None = None, *, max_size: int
) -> list[Image]:
    """The pictures of an object in the order of the law, cut out.

    A picture's alpha is kept where it has any; others are cut out by `v3d.capture.matting.cut_out`.

    Args:
        path: a folder of images, taken in the order of their names (numbers count as numbers); one image,
            split by a grid; or a video, of which every frame counts.
        law: says how many pictures there are; None takes what the folder or video has.
        grid: rows and columns of one image; by default the law's.
        max_size: longer side of a picture at most, in pixels; larger ones are reduced as they are read.

    Returns:
        Straight RGBA [H, W, 4] each, in [0, 1].

    Raises:
        V3DError: nothing readable is there, there are more or fewer pictures than the law has, the grid does
            not divide the image, or a picture shows no object.
    """
    if not path.exists():
        raise V3DError(f"{path} does not exist.")
    if grid is None and law is not None:
        grid = law.grid
    if path.is_dir():
        images = _folder(path, law, grid, max_size)
    elif path.suffix.lower() in SUFFIXES:
        images = _split(path, grid, max_size)
    else:
        most = _MOST if law is None else 2 * len(law)
        frames = read_frames(path, most, max_size=max_size).images / np.float32(255)
        images = [np.dstack([frame, np.ones_like(frame[..., :1])]) for frame in frames]
        if law is not None and len(images) == most:
            raise V3DError(
                f"{path} has {most} pictures or more where the law of their cameras has {len(law)}."
            )
    if law is not None and len(images) != len(law):
        raise V3DError(f"{path} has {len(images)} pictures where the law of their cameras has {len(law)}.")
    return _cut_out_all(images)


def _folder(path: Path, law: OrbitLaw | None, grid: tuple[int, int] | None, max_size: int) -> list[Image]:
    """The folder's pictures; a single image in it is a grid."""
    files = list_photos(path)
    if len(files) == 1 and grid is not None:
        return _split(files[0], grid, max_size)
    others = [f for f in files if set(re.split(r"[^a-z]+", f.stem.lower())) & set(_OTHER)]
    files = sorted((f for f in files if f not in others), key=_natural)
    if law is not None and law.sides:
        files = _by_side(files, law.sides)
    if not files:
        raise V3DError(f"{path} has no pictures; give a folder of PNG, JPEG or WebP files.")
    return [read_image(file, max_size)[0] for file in files]


def _by_side(files: Sequence[Path], sides: Sequence[str]) -> list[Path]:
    """The files whose names end with the sides, in their order; all files where no name says its side."""
    longest_first = sorted(sides, key=len, reverse=True)
    named: dict[str, Path] = {}
    for file in files:
        stem = file.stem.lower().removesuffix("_masked")
        side = next((s for s in longest_first if re.search(rf"(^|[^a-z]){s}$", stem)), None)
        if side is not None:
            named.setdefault(side, file)
    if not named:
        return list(files)
    missing = [side for side in sides if side not in named]
    if missing:
        raise V3DError(f"There is no picture of the side {missing[0]} beside {files[0].name}.")
    return [named[side] for side in sides]


def _split(path: Path, grid: tuple[int, int] | None, max_size: int) -> list[Image]:
    """The cells of a grid, row by row."""
    if grid is None:
        raise V3DError(f"{path.name} is one image: say how its pictures lie, for example --grid 3x2.")
    rows, columns = grid
    image = read_image(path, max_size * max(rows, columns))[0]
    height, width = image.shape[0] // rows, image.shape[1] // columns
    if abs(height * rows - image.shape[0]) + abs(width * columns - image.shape[1]) or min(height, width) < 1:
        raise V3DError(
            f"{path.name} of {image.shape[1]} x {image.shape[0]} pixels does not divide into {rows} rows and "
            f"{columns} columns."
        )
    if max(height, width) > 1.1 * min(height, width):
        raise V3DError(
            f"{rows} rows and {columns} columns of {path.name} would be {width} x {height} pixels each; "
            "pictures are square: check --grid ROWSxCOLUMNS."
        )
    cells = image.reshape(rows, height, columns, width, 4).swapaxes(1, 2)
    return [np.ascontiguousarray(cell) for cell in cells.reshape(-1, height, width, 4)]


def _cut_out_all(images: Sequence[Image]) -> list[Image]:
    """The pictures with the object's alpha."""
    out = []
    for i, image in enumerate(images):
        if (image[..., 3] < 0.5).mean() < 0.005:
            try:
                found = cut_out(np.ascontiguousarray(image[..., :3]))
            except V3DError as error:
                raise V3DError(f"Picture {i}: {error}") from error
            image = np.dstack([found.rgb, found.alpha])
        out.append(image)
    return out


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key that sorts 2 before 10."""
    parts = re.split(r"(\d+)", path.stem.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
