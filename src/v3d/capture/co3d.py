"""CO3D: the sequences of frame_annotations.jgz -> `Capture`.

Its cameras follow PyTorch3D: points are rows, `x_camera = x_world R + T`; the camera's x points left, y up, z
forward; a point is seen at `ndc = focal * (x, y) / z + principal_point`, where x grows to the left and y up.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from v3d.capture.lens import Lens
from v3d.capture.posed import Capture, PosedPhoto, rigid_motion
from v3d.errors import V3DError
from v3d.text_files import DECODER, regular_file, usable_name

ANNOTATIONS = "frame_annotations.jgz"
_BLOCK = 1 << 20
_MAX_ENTRY = 1 << 24  # characters of one frame; they take about two thousand
_MAX_TOTAL = 1 << 32  # characters of a category, whose file is compressed
_MAX_FRAMES = 100_000  # of one sequence
# PyTorch3D's camera axes in OpenCV's.
_FLIP = torch.diag(torch.tensor([-1.0, -1.0, 1.0], dtype=torch.float64))


def find_annotations(folder: Path) -> Path | None:
    """The annotations of a category folder, or of the category that the sequence folder lies in."""
    return next((f for f in (folder / ANNOTATIONS, folder.parent / ANNOTATIONS) if f.is_file()), None)


def read_co3d(folder: Path) -> Capture:
    """The posed photos of one sequence with their masks, in the order of their frame numbers.

    Args:
        folder: CATEGORY/SEQUENCE, beside the category's frame_annotations.jgz; the category itself if the
            file has one sequence only.

    Raises:
        V3DError: the annotations are broken or have no such sequence, a pose is not a rigid motion.
    """
    file = find_annotations(folder)
    if file is None:
        raise V3DError(f"{folder} has no {ANNOTATIONS}.")
    roots = (file.parent.parent, file.parent)  # names begin with the category
    photos, missing = [], []
    for entry in sorted((_entry(file, frame) for frame in _frames(file, folder)), key=lambda e: e.number):
        image = next((root / entry.image for root in roots if (root / entry.image).is_file()), None)
        if image is None:
            missing.append(roots[0] / entry.image)
            continue
        root = image.parents[len(Path(entry.image).parts) - 1]
        mask = None if entry.mask is None else root / entry.mask
        photos.append(PosedPhoto(image, entry.c2w, entry.lens, mask))
    return Capture(tuple(photos), tuple(missing))


def _frames(file: Path, folder: Path) -> list[dict[str, Any]]:
    """The annotations of the sequence in `folder`, in the order of the file."""
    category = file.parent
    wanted = folder.name if folder != category else None
    frames: list[dict[str, Any]] = []
    sequences = set()
    for frame in _annotations(file):
        if not isinstance(frame, dict):
            raise V3DError(f"{file} has an entry that is no frame.")
        sequence = str(frame.get("sequence_name"))
        sequences.add(sequence)
        if wanted in (None, sequence):
            frames.append(frame)
        if len(frames) > _MAX_FRAMES:
            raise V3DError(f"{file} has more than {_MAX_FRAMES} frames of one sequence.")
        if wanted is None and len(sequences) > 1:
            raise V3DError(f"{category} has several sequences; give one of its folders.")
    if not frames:
        raise V3DError(f"{file} has no frame of the sequence {folder.name}.")
    return frames


@dataclass(frozen=True)
class _Entry:
    """One annotation: frame number, names of the photo and its mask, camera."""

    number: int
    image: str
    mask: str | None
    c2w: Tensor
    lens: Lens


def _entry(file: Path, frame: dict[str, Any]) -> _Entry:
    """The annotation's numbers, in V3D's conventions."""
    try:
        number, name = int(frame["frame_number"]), usable_name(frame["image"]["path"], f"{file}: a frame")
        height, width = (int(side) for side in frame["image"]["size"])
        mask = (frame.get("mask") or {}).get("path")
        view = frame["viewpoint"]
        kind = view.get("intrinsics_format", "ndc_norm_image_bounds")
        x, y = _half_units(kind, width, height)
        (fx, fy), (px, py) = view["focal_length"], view["principal_point"]
        # ndc grows to the left and up, pixels to the right and down, and the middle is (0, 0).
        lens = Lens(width, height, fx * x, fy * y, width / 2 - px * x, height / 2 - py * y).validated()
        R = torch.tensor(view["R"], dtype=torch.float64).reshape(3, 3)
        T = torch.tensor(view["T"], dtype=torch.float64).reshape(3)
        mask = None if mask is None else usable_name(mask, f"{file}, {name}: the mask")
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise V3DError(f"{file} has a frame without a usable image and viewpoint ({error}).") from error
    where = f"{file.name}, {name}: the viewpoint"
    c2w = rigid_motion(torch.cat([R @ _FLIP, -(R @ T)[:, None]], 1), where)
    return _Entry(number, name, mask, c2w, lens)


def _half_units(kind: str, width: int, height: int) -> tuple[float, float]:
    """Pixels that one unit of ndc is long, along x and y."""
    if kind == "ndc_norm_image_bounds":
        return width / 2, height / 2
    if kind == "ndc_isotropic":
        return min(width, height) / 2, min(width, height) / 2
    raise ValueError(f"its intrinsics format {kind} is not known")


def _annotations(file: Path) -> Iterator[Any]:
    """The elements of the JSON array one by one: a category's file is too large to hold as a whole."""
    text, at, total, ended = "", 0, 0, False
    try:
        with gzip.open(regular_file(file), "rt", encoding="utf-8") as stream:
            if stream.read(1) != "[":
                raise V3DError(f"{file} is not a list of frames.")
            while True:
                while at < len(text) and text[at] in " \t\r\n,":
                    at += 1
                if text[at : at + 1] == "]":
                    return
                try:
                    entry, at = DECODER.raw_decode(text, at)
                    yield entry
                except ValueError as error:  # perhaps cut by the end of the block
                    if ended:
                        raise V3DError(f"{file} is damaged or cut short ({error}).") from error
                    if len(text) - at > _MAX_ENTRY or total > _MAX_TOTAL:
                        raise V3DError(f"{file} has a frame, or in all more, than can be read.") from error
                    block = stream.read(max(_BLOCK, len(text) - at))
                    text, at, total, ended = text[at:] + block, 0, total + len(block), not block
    except RecursionError as error:
        raise V3DError(f"{file} is not usable: its lists or objects are nested too deeply.") from error
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise V3DError(f"{file} is damaged or cut short ({error}).") from error
