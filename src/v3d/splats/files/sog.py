"""Gaussians as `.sog`, PlayCanvas's format for the web: a zip of lossless WebP images and `meta.json`.

The smallest of all, as the images compress well. Version 2 is written and read. Axes as in `.ply`.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
from typing import Any

import numpy as np
from PIL import Image

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.splats.files.axes import WORLD, turned
from v3d.splats.files.encoding import (
    MOST_GAUSSIANS,
    SH_DC,
    Array,
    FileSplats,
    check_count,
    logit,
    made_of,
    three_smallest,
    to_numpy,
    with_largest,
)
from v3d.splats.files.ply import AXES
from v3d.splats.gaussians import Splats, morton_order

_CODES = 256
_ROUNDS = 20  # of the clustering; more change nothing that is seen
_MOST_PIXELS = MOST_GAUSSIANS + 4096 * 8  # images are rectangles
_MOST_META = 1 << 20
_WHOLE = 65535


def save_sog(path: str | os.PathLike[str], splats: Splats) -> None:
    """Write SOG 2: positions of 16 bits, rotations of 26, opacity of 8, and codebooks of 256 for the rest.

    Raises:
        V3DError: there are no Gaussians, or the file cannot be written.
    """
    if len(splats) == 0:
        raise V3DError("There are no Gaussians, so there is nothing to save.")
    splats = turned(splats[morton_order(splats.means)], WORLD, AXES)
    count = len(splats)
    width = math.ceil(math.sqrt(count) / 4) * 4
    size = (width, math.ceil(count / width / 4) * 4)
    means = to_numpy(splats.means).astype(np.float64)
    means = np.sign(means) * np.log1p(np.abs(means))
    low, high = means.min(0), means.max(0)
    steps = np.rint((means - low) / np.maximum(high - low, 1e-9) * _WHOLE).astype(np.uint16)
    largest, three = three_smallest(splats.quats)
    scale_codes, scales = _codebook(to_numpy(splats.log_scales))
    colour_codes, colours = _codebook(to_numpy((splats.rgb - 0.5) / SH_DC))
    opacity = np.rint(to_numpy(splats.opacity)[:, None] * 255)
    images = {
        "means_l": steps & 255,
        "means_u": steps >> 8,
        "scales": scales,
        "quats": np.c_[np.rint((three * math.sqrt(0.5) + 0.5) * 255), 252 + largest],
        "sh0": np.c_[colours, opacity],
    }
    meta = {
        "version": 2,
        "asset": {"generator": "V3D"},
        "count": count,
        "means": {
            "mins": low.tolist(),
            "maxs": high.tolist(),
            "files": ["means_l.webp", "means_u.webp"],
        },
        "scales": {"codebook": scale_codes.tolist(), "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": colour_codes.tolist(), "files": ["sh0.webp"]},
    }
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, rows in images.items():
            # A ZipInfo of its own has a fixed date: the same Gaussians make the same bytes.
            archive.writestr(zipfile.ZipInfo(f"{name}.webp"), _webp(rows, size))
        archive.writestr(zipfile.ZipInfo("meta.json"), json.dumps(meta))


def read_sog(data: bytes) -> FileSplats:
    """The Gaussians of a `.sog` file of version 2.

    Raises:
        V3DError: it is no such file, of another version, or broken.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if "meta.json" not in archive.namelist():
            raise V3DError("it is a zip without meta.json, so no .sog file")
        meta = json.loads(_member(archive, "meta.json", _MOST_META))
        if meta.get("version") != 2:
            raise V3DError("it is not SOG of version 2; open it in SuperSplat and save it again")
        count = check_count(int(meta["count"]))

        def rows(part: str, number: int = 0) -> Array:
            name = str(meta[part]["files"][number])
            return _pixels(_member(archive, name, 5 * _MOST_PIXELS), name, count)

        steps = rows("means")[:, :3].astype(np.float64) + 256.0 * rows("means", 1)[:, :3]
        scales, turns, colours = rows("scales")[:, :3], rows("quats"), rows("sh0")
    low, high = _numbers(meta["means"]["mins"], 3), _numbers(meta["means"]["maxs"], 3)
    means = low + steps / _WHOLE * (high - low)
    if len(turns) and int(turns[:, 3].min()) < 252:
        raise V3DError("its rotations are broken; copy it again")
    splats = made_of(
        np.sign(means) * np.expm1(np.abs(means)),
        with_largest(turns[:, 3] - 252, (turns[:, :3] / 255.0 - 0.5) * math.sqrt(2)),
        _numbers(meta["scales"]["codebook"], _CODES)[scales],
        logit(colours[:, 3] / 255.0),
        0.5 + SH_DC * _numbers(meta["sh0"]["codebook"], _CODES)[colours[:, :3]],
    )
    return FileSplats(splats, AXES, int(meta.get("shN", {}).get("bands", 0)))


def _codebook(values: Array) -> tuple[Array, Array]:
    """256 numbers [256], and which of them stands for each value (uint8), by k-means in one dimension."""
    flat = np.sort(values.reshape(-1).astype(np.float64))
    # Half of the codes begin where the values are, half evenly, so that none is far from its code.
    ranks = np.linspace(0, len(flat) - 1, _CODES // 2).round().astype(int)
    codes = np.sort(np.r_[flat[ranks], np.linspace(flat[0], flat[-1], _CODES // 2)])
    sums = np.r_[0, np.cumsum(flat)]
    for _ in range(_ROUNDS):
        cuts = np.r_[0, np.searchsorted(flat, (codes[1:] + codes[:-1]) / 2), len(flat)]
        counts = np.diff(cuts)
        codes = np.sort(np.where(counts > 0, np.diff(sums[cuts]) / np.maximum(counts, 1), codes))
    return codes, np.searchsorted((codes[1:] + codes[:-1]) / 2, values).astype(np.uint8)


def _webp(rows: Array, size: tuple[int, int]) -> bytes:
    """An image [H, W, 4] whose first pixels are rows [N, 3 or 4] of uint8."""
    pixels = np.zeros((size[0] * size[1], 4), np.uint8)
    pixels[:, 3] = 255
    pixels[: len(rows), : rows.shape[1]] = rows
    file = io.BytesIO()
    image = Image.fromarray(pixels.reshape(size[1], size[0], 4), "RGBA")
    image.save(file, "WEBP", lossless=True, exact=True)  # colours under an alpha of 0 are data, too
    return file.getvalue()


def _pixels(data: bytes, name: str, count: int) -> Array:
    """The first pixels [N, 4] of an image."""
    with Image.open(io.BytesIO(data), formats=("WEBP",)) as image:
        if not count <= image.width * image.height <= _MOST_PIXELS:
            raise V3DError(f"{name} has {image.width} x {image.height} pixels for {count:,} Gaussians")
        return np.asarray(image.convert("RGBA")).reshape(-1, 4)[:count]


def _member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
    if name not in archive.namelist():
        raise V3DError(f"it lacks {name[:80]}")
    with archive.open(name) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise V3DError(f"{name[:80]} in it is too large")
    return data


def _numbers(values: Any, count: int) -> Array:
    numbers = np.array(values, np.float64)
    if numbers.shape != (count,):
        raise V3DError(f"it has {numbers.size} numbers where {count} should be")
    return numbers
