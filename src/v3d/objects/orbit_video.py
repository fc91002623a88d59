"""A video of a turn around an object -> posed views: frames, cut-outs, cameras."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, overload

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.cameras import Cameras
from v3d.capture.matting import cut_out
from v3d.capture.plain import layers_on_plain
from v3d.capture.readers import read_object_views
from v3d.capture.sfm import pose_photos
from v3d.capture.video import Frames, read_frames
from v3d.compositing import off_white, over_white
from v3d.errors import V3DError
from v3d.placement import nearest_to_axes, place, up_direction
from v3d.splats.fit import FitSettings, fit
from v3d.splats.initial import initial_splats
from v3d.splats.rasterize import rasterize
from v3d.surface.orbit_poses import sights_of, tolerant_hull
from v3d.surface.turntable import VIEWS, Turntable, turntable_views
from v3d.views import Views

FRAMES = 144
"""Frames that are looked at, of plain grounds."""
_FRAMES_CUT = 72  # of other grounds, where every cut-out takes time
_NO_TURN = "The frames do not fit one turn; their cameras were found by structure from motion."
_JUDGED = 96  # pixels of views by which readings are judged
_QUICK = FitSettings(iterations=250, densify=None)
_PLAIN = 0.9  # share of frames whose ground must be plain


class _CutFrames(Sequence[NDArray[np.float32]]):
    """Straight RGBA frames [H, W, 4] float32 of one size, kept in 8 bits and as far as they show anything."""

    def __init__(self, height: int, width: int) -> None:
        self._shape = height, width, 4
        self._kept: list[tuple[slice, slice, NDArray[np.uint8]]] = []

    def append(self, rgb: NDArray[np.float32], alpha: NDArray[np.float32]) -> None:
        """Add a frame: colours [H, W, 3] and alpha [H, W]."""
        box = []
        for axis in (1, 0):
            shown = np.flatnonzero((alpha > 1 / 255).any(axis))
            box.append(slice(int(shown[0]), int(shown[-1]) + 1) if len(shown) else slice(0, 0))
        image = np.dstack([rgb[box[0], box[1]], alpha[box[0], box[1]]])
        self._kept.append((box[0], box[1], (image * 255).round().astype(np.uint8)))

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> NDArray[np.float32]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[NDArray[np.float32]]: ...
    def __getitem__(self, index: int | slice) -> NDArray[np.float32] | Sequence[NDArray[np.float32]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        rows, columns, image = self._kept[index]
        out = np.zeros(self._shape, np.float32)
        out[rows, columns] = image.astype(np.float32) / np.float32(255)
        return out


def views_of_video(
    path: str | Path,
    *,
    views: int = VIEWS,
    max_size: int = 1024,
    elevation: float | None = None,
    fov: float = 60.0,
    clockwise: bool | None = None,
    poses: Literal["auto", "turntable", "sfm"] = "auto",
    on_step: OnStep | None = None,
) -> Turntable:
    """Read a video that goes around an object, or in which the object turns.

    Args:
        path: a video file or an animation.
        views: frames that become views at most.
        max_size: frames are reduced to so many pixels along their longer side as they are decoded.
        elevation: of the camera above the object's horizon, degrees; None to find it; for `turntable`.
        fov: full field of view along the frames' longer side, degrees; for `turntable`.
        clockwise: which way the camera went, seen from above; None to find it.
        poses: how cameras are found: on a circle (`v3d.surface.turntable`), or by structure from motion
            (needs the extra `colmap`, and detail on the object or a ground that turns with it); auto tries
            the second where the first does not fit and the extra is there.
        on_step: called with the steps done and the steps in all.

    Raises:
        V3DError: the video cannot be read, shows no object, or its frames do not fit together.
    """
    step = on_step or (lambda done, total: None)
    if poses == "sfm":
        return _by_structure(read_frames(path, views, max_size=max_size, on_step=on_step), Path(path).name)
    frames = read_frames(path, FRAMES, max_size=max_size, on_step=lambda i, n: step(i, 3 * n + 20))
    count = len(frames)
    cut, stamps, notes = _cut(frames, lambda i, n: step(count + i * count // n, 3 * count + 20))
    del frames  # hundreds of MB
    found = turntable_views(
        cut,
        stamps,
        elevation=elevation,
        fov=fov,
        clockwise=clockwise,
        views=views,
        judge=disagreement,
        on_step=lambda i, n: step(2 * count + i * (count + 20) // n, 3 * count + 20),
    )
    if poses == "auto" and not found.fits and find_spec("pycolmap") is not None:
        try:
            other = _by_structure(read_frames(path, views, max_size=max_size), Path(path).name)
        except V3DError:
            pass  # too little to see: the circle is the better guess
        else:
            return replace(other, notes=(_NO_TURN, *other.notes))
    return replace(found, notes=(*notes, *found.notes))


def disagreement(views: Views) -> float:
    """How badly views disagree: the mean error of a few Gaussians fitted to them quickly, over their area.

    Outlines alone say little of which way a camera went around a nearly symmetric object; colours on its
    surface do, once Gaussians have settled where they are.
    """
    small = views.reduced(_JUDGED)
    alpha = small.alpha[..., None]
    straight = torch.cat([off_white(small.rgb, small.alpha, 1e-3), alpha], -1)
    fov = 2 * math.degrees(math.atan(small.cameras.width / 2 / float(small.cameras.K[0, 0, 0])))
    sights = sights_of(straight, fov)
    reach = torch.full(
        (3,), 1.1 * float(small.cameras.centers.norm(dim=-1).mean()) * math.tan(math.radians(fov) / 2)
    )
    hull = tolerant_hull(sights, small.cameras, (-reach, reach), max(1, len(small) // 6))
    fitted = fit(small, initial_splats(hull, small, 3000), _QUICK)
    with torch.no_grad():
        shown = rasterize(fitted, small.cameras)
    target = torch.cat([small.rgb - (1 - alpha), alpha], -1)
    found = torch.cat([shown.rgb, shown.alpha[..., None]], -1)
    return float((found - target).abs().mean() / alpha.mean())


def _cut(frames: Frames, on_step: OnStep) -> tuple[_CutFrames, NDArray[np.float64], tuple[str, ...]]:
    """The object cut out by colour where the frames' ground is plain, otherwise of fewer by `cut_out`."""
    tried = range(0, len(frames), max(1, len(frames) // 12))
    plain = [layers_on_plain(_unit(frames.images[i])) is not None for i in tried]
    by_colour = sum(plain) >= _PLAIN * len(plain)
    count = len(frames) if by_colour else min(_FRAMES_CUT, len(frames))
    chosen = np.unique(np.linspace(0, len(frames) - 1, count).round().astype(int))
    cut = _CutFrames(*frames.images.shape[1:3])
    kept, found = [], set()
    for done, i in enumerate(chosen):
        rgb = _unit(frames.images[i])
        layers = layers_on_plain(rgb) if by_colour else None
        if layers is None:
            try:
                cutout = cut_out(rgb)
            except V3DError:  # a frame without the object
                continue
            layers = cutout.rgb, cutout.alpha
            found.add(cutout.method)
        cut.append(*layers)
        kept.append(frames.times[i])
        on_step(done + 1, len(chosen))
    lost = len(chosen) - len(cut)
    notes = [f"No object stands out in {lost} of {len(chosen)} frames, which were left out."] if lost else []
    if not by_colour and found:
        notes.append(
            f"The frames' ground is not plain: the object was cut out of each ({', '.join(sorted(found))})."
        )
    return cut, np.asarray(kept), tuple(notes)


def _unit(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    return image.astype(np.float32) / np.float32(255)


def _by_structure(frames: Frames, name: str) -> Turntable:
    """Cameras by structure from motion, stood upright around the object, the first at azimuth 0."""
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(frames.images):
            PIL.Image.fromarray(image).save(Path(folder) / f"{i:03d}.png")
        try:
            capture = pose_photos(folder)
        except V3DError as error:
            raise V3DError(str(error).replace(folder, name)) from error
        photos = sorted(capture.photos, key=lambda photo: photo.file.name)
        found = read_object_views(photos)
    if bool((found.alpha == 1).all()):
        found = Views(*_cut_views(found.rgb), found.cameras)
    cameras, _ = place(_upright(found.cameras))
    azimuths = torch.atan2(cameras.centers[:, 1], cameras.centers[:, 0]).double()
    cameras = cameras.turned(-float(azimuths[0].rad2deg()))
    steps = (azimuths.diff() + torch.pi) % (2 * torch.pi) - torch.pi
    left = len(frames) - len(found)
    notes = (f"{left} frames do not fit to the others and were left out.",) if left else ()
    return Turntable(Views(found.rgb, found.alpha, cameras), float(steps.sum()) < 0, notes)


def _cut_views(rgb: Tensor) -> tuple[Tensor, Tensor]:
    """Colours on white and alpha of opaque views [V, H, W, 3]."""
    cut = [cut_out(image.numpy()) for image in rgb]
    alpha = torch.stack([torch.from_numpy(c.alpha) for c in cut])
    return over_white(torch.stack([torch.from_numpy(c.rgb) for c in cut]), alpha), alpha


def _upright(cameras: Cameras) -> Cameras:
    """The cameras in a world whose z axis is up for them, with what they look at at its origin."""
    up = up_direction(cameras)
    x = torch.linalg.cross(up, torch.eye(3, dtype=up.dtype)[int(up.abs().argmin())])
    x = x / x.norm()
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = torch.stack([x, torch.linalg.cross(up, x), up])
    c2w = turn @ cameras.c2w.double()
    centre = nearest_to_axes(Cameras(c2w, cameras.K, cameras.width, cameras.height))
    if centre is not None:
        c2w[:, :3, 3] -= centre
    return Cameras(c2w.float(), cameras.K, cameras.width, cameras.height)
