"""COLMAP models (also MVImgNet's): cameras and images, .bin or .txt -> `Capture`.

COLMAP's cameras have OpenCV axes and pixels whose first centre is (0.5, 0.5), as V3D's; its poses are
world-to-camera quaternions (w, x, y, z) and translations.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from v3d.capture.lens import Lens
from v3d.capture.photo_files import PhotoFiles, best_folders
from v3d.capture.posed import Capture, PosedPhoto, rigid_motion, rotation
from v3d.errors import V3DError
from v3d.text_files import read_lines, regular_file, shortened, usable_name

# Below a capture's folder, in the layouts of COLMAP, nerfstudio, Gaussian Splatting's convert.py, Metashape.
_PLACES = (
    "",
    "sparse",
    "sparse/*",
    "colmap",
    "colmap/sparse",
    "colmap/sparse/*",
    "dense/sparse",
    "dense/*/sparse",
    "undistorted/sparse",
    "distorted/sparse",
    "distorted/sparse/*",
)
_MAX_POINTS = 100_000


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


def find_model(folder: Path) -> tuple[Path, tuple[str, ...]] | None:
    """The folder with a COLMAP model's cameras and images, at or below `folder`, and remarks on the choice.

    Places are tried in the order of `_PLACES`: undistorted models before distorted ones. Where one place has
    several models, as COLMAP leaves them when photos fall apart, the one with most images is taken.
    """
    for place in _PLACES:
        found = [model for model in sorted(folder.glob(place)) if _files(model)] if place else []
        if not place and _files(folder):
            found = [folder]
        if not found:
            continue
        if len(found) == 1:
            return found[0], ()
        counts = {model: _count(model) for model in found}
        best = max(found, key=lambda model: counts[model])
        others = ", ".join(str(counts[model]) for model in found if model != best)
        remark = (
            f"{len(found)} COLMAP models are there; the one with most images is taken, "
            f"{best.relative_to(folder)} with {counts[best]} (the others have {others})."
        )
        return best, (remark,)
    return None


def _files(model: Path) -> tuple[Path, Path] | None:
    """The files of cameras and images, .bin before .txt, if both are there."""
    for suffix in (".bin", ".txt"):
        cameras, images = model / f"cameras{suffix}", model / f"images{suffix}"
        if cameras.is_file() and images.is_file():
            return cameras, images
    return None


def _count(model: Path) -> int:
    """How many images a model has; 0 where its file is broken."""
    files = _files(model)
    assert files is not None
    try:
        if files[1].suffix == ".bin":
            return _Bytes(files[1]).whole("Q")[0]
        return sum(1 for _ in _text_images(files[1]))
    except V3DError:
        return 0


def read_colmap(model: Path, root: Path | None = None, remarks: tuple[str, ...] = ()) -> Capture:
    """The posed photos of a model, in the order of their names, and its points.

    Args:
        model: the folder with cameras and images, .bin (preferred) or .txt.
        root: the folder that has the photos, directly or in one of `v3d.capture.photo_files.PHOTO_FOLDERS`;
            by default `model` or one of the three folders above it.
        remarks: on the choice of the model, for the capture's notes.

    Raises:
        V3DError: a file is broken or cut short, a camera model is not known, a pose is not a rigid motion, no
            photo is listed.
    """
    files = _files(model)
    if files is None:
        raise V3DError(f"{model} has no cameras and images of a COLMAP model.")
    cameras_file, images_file = files
    binary = images_file.suffix == ".bin"
    lenses = dict((_binary_cameras if binary else _text_cameras)(cameras_file))
    rows = sorted(
        (usable_name(name, str(images_file)), camera, numbers)
        for name, camera, numbers in (_binary_images if binary else _text_images)(images_file)
    )
    if not rows:
        raise V3DError(f"{images_file} lists no posed photo.")
    tops = [root] if root is not None else [model, *model.resolve().parents[:3]]
    folders = best_folders(tops, [name for name, *_ in rows])
    photo_files = PhotoFiles(folders)
    photos, missing = [], []
    for name, camera, numbers in rows:
        if camera not in lenses:
            raise V3DError(
                f"{images_file}: {name} has camera {camera}, which {cameras_file.name} does not list."
            )
        file = photo_files.find(name)
        c2w = _c2w(numbers, f"{images_file}: the pose of {name}")
        if file is not None:
            photos.append(PosedPhoto(file, c2w, lenses[camera]))
        else:
            missing.append((folders[0] if len(folders) == 1 else tops[0] / "images") / name)
    return Capture(tuple(photos), tuple(missing), (*remarks, *photo_files.notes), read_points(model))


def read_points(model: Path) -> Tensor | None:
    """The points [P, 3] float64 of a model, of large ones a sample; None where it has no (readable) ones.

    Nothing depends on them but a scene's scale, so a broken file is taken for none.
    """
    try:
        if (model / "points3D.bin").is_file():
            rows = _binary_points(model / "points3D.bin")
        elif (model / "points3D.txt").is_file():
            rows = _text_points(model / "points3D.txt")
        else:
            return None
        points = torch.tensor(list(islice(rows, _MAX_POINTS)), dtype=torch.float64).reshape(-1, 3)
    except (V3DError, ValueError):
        return None
    points = points[torch.isfinite(points).all(-1)]
    return points if len(points) else None


def _c2w(numbers: tuple[float, ...], where: str) -> Tensor:
    """Camera to world [4, 4] from a quaternion and a translation of the world-to-camera motion."""
    R, t = rotation(numbers[:4], where), torch.tensor(numbers[4:], dtype=torch.float64)
    return rigid_motion(torch.cat([R.T, -R.T @ t[:, None]], 1), where)


def _lens(file: Path, model: str, width: int, height: int, numbers: list[float]) -> Lens:
    known = _CAMERAS.get(model)
    if known is None:
        names = ", ".join(name for name, model_ in _CAMERAS.items() if model_)
        raise V3DError(
            f"{file}: the camera model {shortened(model)} is not known (known: {names}); "
            "run COLMAP's image_undistorter first."
        )
    try:
        return known.lens(width, height, numbers)
    except ValueError as error:
        raise V3DError(f"{file}: a {model} camera is not usable ({error}).") from error


class _Bytes:
    """Little-endian numbers from a file that may be cut short."""

    def __init__(self, file: Path) -> None:
        self.file, self.at = regular_file(file), 0
        with file.open("rb") as stream:  # mapped, not read: the points in it may take gigabytes
            empty = not stream.read(1)
            self.data = b"" if empty else mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

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


def _binary_points(file: Path) -> Iterator[tuple[float, ...]]:
    read = _Bytes(file)
    for _ in range(read.whole("Q")[0]):
        read.take("Q")
        yield read.take("3d")
        read.take("3Bd")
        (seen,) = read.whole("Q")
        read.at += 8 * seen


def _text_points(file: Path) -> Iterator[tuple[float, ...]]:
    for line in read_lines(file):
        yield tuple(float(value) for value in line.split(maxsplit=4)[1:4])


def _text_cameras(file: Path) -> Iterator[tuple[int, Lens]]:
    for line in read_lines(file):
        try:
            camera, model, width, height, *numbers = line.split()
            row = int(camera), int(width), int(height), [float(value) for value in numbers]
        except ValueError as error:
            raise V3DError(f"{file} has a line that is not a camera: {line[:60]!r}.") from error
        yield row[0], _lens(file, model, *row[1:])


def _text_images(file: Path) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    """The poses; a line of the points that an image sees may follow it, may be empty, or may be left out."""
    points_may_follow = False
    for line in read_lines(file):
        if points_may_follow and _lists_points(line):
            points_may_follow = False
            continue
        points_may_follow = True
        try:
            _, *numbers, camera, name = line.split(maxsplit=9)
            row = name, int(camera), tuple(float(value) for value in numbers)
        except ValueError as error:
            raise V3DError(f"{file} has a line that is not an image: {line[:60]!r}.") from error
        if len(row[2]) != 7:
            raise V3DError(f"{file} has a line that is not an image: {line[:60]!r}.")
        yield row


def _lists_points(line: str) -> bool:
    """Whether a line is x, y and a point's index, again and again, and no pose, which ends with a name."""
    fields = line.split(maxsplit=12)
    try:
        for field in fields[:12]:
            float(field)
    except ValueError:
        return False
    return len(fields) > 12 or len(fields) % 3 == 0
