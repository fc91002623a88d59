"""COLMAP models (also MVImgNet's): cameras and images, .bin or .txt -> `Capture`.

COLMAP's cameras have OpenCV axes and pixels whose first centre is (0.5, 0.5), as V3D's; its poses are
world-to-camera quaternions (w, x, y, z) and translations.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from v3d.capture.lens import Lens
from v3d.capture.posed import Capture, PosedPhoto, rigid_motion
from v3d.errors import V3DError

_MODELS = ("", "sparse", "sparse/0", "colmap/sparse/0")


@dataclass(frozen=True)
class _Model:
    """A camera model: the numbers of its cameras are focal lengths, then cx and cy, then coefficients.

    Attributes:
        focals: how many focal lengths: 1 or 2.
        places: where each coefficient stands in `Lens.distortion`.
        fisheye: whether they belong to OpenCV's fisheye model.
    """

    focals: int
    places: tuple[int, ...] = ()
    fisheye: bool = False

    def lens(self, width: int, height: int, numbers: list[float]) -> Lens:
        """The lens of a camera's numbers.

        Raises:
            ValueError: there are too few or too many, or one is senseless.
        """
        if len(numbers) != self.focals + 2 + len(self.places):
            raise ValueError(f"{self.focals + 2 + len(self.places)} numbers belong to it, not {len(numbers)}")
        cx, cy = numbers[self.focals : self.focals + 2]
        distortion = [0.0] * max(4, len(self.places))
        for place, value in zip(self.places, numbers[self.focals + 2 :], strict=True):
            distortion[place] = value
        fx, fy = numbers[0], numbers[self.focals - 1]
        coefficients = tuple(distortion) if self.places else ()
        return Lens(width, height, fx, fy, cx, cy, coefficients, self.fisheye).validated()


# In COLMAP's order: its binary files hold the index.
_CAMERAS: dict[str, _Model | None] = {
    "SIMPLE_PINHOLE": _Model(1),
    "PINHOLE": _Model(2),
    "SIMPLE_RADIAL": _Model(1, (0,)),
    "RADIAL": _Model(1, (0, 1)),
    "OPENCV": _Model(2, (0, 1, 2, 3)),
    "OPENCV_FISHEYE": _Model(2, (0, 1, 2, 3), fisheye=True),
    "FULL_OPENCV": _Model(2, (0, 1, 2, 3, 4, 5, 6, 7)),
    "FOV": None,
    "SIMPLE_RADIAL_FISHEYE": _Model(1, (0,), fisheye=True),
    "RADIAL_FISHEYE": _Model(1, (0, 1), fisheye=True),
    "THIN_PRISM_FISHEYE": None,
}
_COUNTS = (3, 4, 4, 5, 8, 8, 12, 5, 4, 5, 12)  # of numbers, by the same index


def find_model(folder: Path) -> Path | None:
    """The folder with the cameras and images of a COLMAP model, at or below `folder`."""
    for name in _MODELS:
        for suffix in (".bin", ".txt"):
            if all((folder / name / (stem + suffix)).is_file() for stem in ("cameras", "images")):
                return folder / name
    return None


def read_colmap(model: Path, root: Path | None = None) -> Capture:
    """The posed photos of a model, in the order of their names.

    Args:
        model: the folder with cameras and images, .bin (preferred) or .txt.
        root: the folder that has the photos, in `images/` or directly; by default `model` or one of the three
            folders above it.

    Raises:
        V3DError: a file is broken or cut short, a camera model is not known, a pose is not a rigid motion, no
            photo is listed.
    """
    binary = (model / "cameras.bin").is_file() and (model / "images.bin").is_file()
    suffix = ".bin" if binary else ".txt"
    cameras_file, images_file = model / f"cameras{suffix}", model / f"images{suffix}"
    lenses = dict((_binary_cameras if binary else _text_cameras)(cameras_file))
    around = [root] if root is not None else [model, *model.resolve().parents[:3]]
    photos, missing = [], []
    for name, camera, numbers in sorted((_binary_images if binary else _text_images)(images_file)):
        if camera not in lenses:
            raise V3DError(
                f"{images_file}: {name} has camera {camera}, which {cameras_file.name} does not list."
            )
        candidates = (folder / name for top in around for folder in (top / "images", top))
        file = next((candidate for candidate in candidates if candidate.is_file()), None)
        c2w = _c2w(numbers, f"{images_file}: the pose of {name}")
        if file is not None:
            photos.append(PosedPhoto(file, c2w, lenses[camera]))
        else:
            missing.append(around[0] / "images" / name)
    if not photos and not missing:
        raise V3DError(f"{images_file} lists no posed photo.")
    return Capture(tuple(photos), tuple(missing))


def _c2w(numbers: tuple[float, ...], where: str) -> Tensor:
    """Camera to world [4, 4] from a quaternion and a translation of the world-to-camera motion."""
    q, t = torch.tensor(numbers[:4], dtype=torch.float64), torch.tensor(numbers[4:], dtype=torch.float64)
    if not abs(float(q.norm()) - 1) < 0.01:
        raise V3DError(f"{where} has no unit quaternion.")
    w, x, y, z = (q / q.norm()).tolist()
    R = torch.tensor(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ],
        dtype=torch.float64,
    )
    return rigid_motion(torch.cat([R.T, -R.T @ t[:, None]], 1), where)


def _lens(file: Path, model: str, width: int, height: int, numbers: list[float]) -> Lens:
    known = _CAMERAS.get(model)
    if known is None:
        names = ", ".join(name for name, model_ in _CAMERAS.items() if model_)
        raise V3DError(
            f"{file}: the camera model {model} is not known (known: {names}); "
            "run COLMAP's image_undistorter first."
        )
    try:
        return known.lens(width, height, numbers)
    except ValueError as error:
        raise V3DError(f"{file}: a {model} camera is not usable ({error}).") from error


class _Bytes:
    """Little-endian numbers from a file that may be cut short."""

    def __init__(self, file: Path) -> None:
        self.file, self.data, self.at = file, file.read_bytes(), 0

    def take(self, layout: str) -> tuple[float, ...]:
        start, self.at = self.at, self.at + struct.calcsize("<" + layout)
        if self.at > len(self.data):
            raise V3DError(f"{self.file} is cut short; export the model again.")
        return struct.unpack_from("<" + layout, self.data, start)

    def whole(self, layout: str) -> list[int]:
        return [int(value) for value in self.take(layout)]

    def name(self) -> str:
        start, self.at = self.at, self.data.find(b"\0", self.at) + 1
        if self.at == 0:
            raise V3DError(f"{self.file} is cut short; export the model again.")
        return self.data[start : self.at - 1].decode("utf-8", "replace")


def _binary_cameras(file: Path) -> Iterator[tuple[int, Lens]]:
    read = _Bytes(file)
    names = list(_CAMERAS)
    for _ in range(read.whole("Q")[0]):
        camera, model, width, height = read.whole("IiQQ")
        if not 0 <= model < len(names):
            raise V3DError(
                f"{file}: camera model {model} is not known; run COLMAP's image_undistorter first."
            )
        numbers = list(read.take(f"{_COUNTS[model]}d"))
        yield camera, _lens(file, names[model], width, height, numbers)


def _binary_images(file: Path) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    read = _Bytes(file)
    for _ in range(read.whole("Q")[0]):
        read.take("I")
        numbers = read.take("7d")
        (camera,), name = read.whole("I"), read.name()
        (points,) = read.whole("Q")
        read.at += 24 * points  # x, y and the 3D point's index, which are not needed
        if read.at > len(read.data):
            raise V3DError(f"{file} is cut short; export the model again.")
        yield name, camera, numbers


def _lines(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise V3DError(f"{file} is not a text file; export the model again.") from error
    return [line for line in lines if not line.startswith("#")]


def _text_cameras(file: Path) -> Iterator[tuple[int, Lens]]:
    for line in filter(None, _lines(file)):
        try:
            camera, model, width, height, *numbers = line.split()
            row = int(camera), int(width), int(height), [float(value) for value in numbers]
        except ValueError as error:
            raise V3DError(f"{file} has a line that is not a camera: {line[:60]!r}.") from error
        yield row[0], _lens(file, model, *row[1:])


def _text_images(file: Path) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    """Two lines an image: the pose, and the points that it sees (which may be empty)."""
    lines = _lines(file)
    while lines and not lines[0]:
        lines.pop(0)
    for line in filter(None, lines[::2]):
        try:
            _, *numbers, camera, name = line.split(maxsplit=9)
            row = name, int(camera), tuple(float(value) for value in numbers)
        except ValueError as error:
            raise V3DError(f"{file} has a line that is not an image: {line[:60]!r}.") from error
        if len(row[2]) != 7:
            raise V3DError(f"{file} has a line that is not an image: {line[:60]!r}.")
        yield row
