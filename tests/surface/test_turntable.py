"""Orbits of shapes, walked in known ways, against the cameras and shapes that must be found."""

from __future__ import annotations

import functools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh
from numpy.typing import NDArray
from torch import Tensor

from shapes import ball_views, textured
from v3d.cameras import Cameras, orbit
from v3d.compositing import off_white
from v3d.errors import V3DError
from v3d.framing import frame_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.metrics import mask_iou
from v3d.surface.carving import carve
from v3d.surface.grid import Grid
from v3d.surface.orbit_poses import AZIMUTH, DISTANCE, ELEVATION, YAW, cameras_at
from v3d.surface.turntable import Turntable, direction, turntable_views
from v3d.views import Views

SIZE = 128


@functools.cache
def body() -> Mesh:
    """An asymmetric body with colours: a slab, a tower on one corner and a fin on the object's left."""
    boxes = (
        ((0.8, 1.0, 0.3), (0.0, 0.0, -0.1)),
        ((0.3, 0.4, 0.8), (-0.2, -0.25, 0.2)),
        ((0.1, 0.3, 0.5), (0.1, 0.45, 0.1)),
    )
    parts = [trimesh.creation.box(extents=sides).subdivide().apply_translation(at) for sides, at in boxes]
    mesh = textured(trimesh.util.concatenate(parts), seed=3, cells=12)
    return Mesh(frame_mesh(mesh.vertices, orbit(18)), mesh.faces, mesh.uv, mesh.texture)


def frames_of(mesh: Mesh, cameras: Cameras) -> list[NDArray[np.float32]]:
    """Straight RGBA frames."""
    frames = []
    for i in range(len(cameras)):
        out = render(mesh, cameras[i])
        rgb = off_white(out.rgb[0], out.alpha[0], 1e-3).clamp(0, 1)
        frames.append(torch.cat([rgb, out.alpha[0, ..., None]], -1).numpy())
    return frames


def walked(azimuths: NDArray[np.float64], fov: float = 60.0) -> Cameras:
    """A steady camera at these azimuths, degrees."""
    poses = torch.zeros(len(azimuths), 6, dtype=torch.float64)
    poses[:, AZIMUTH] = torch.from_numpy(np.radians(azimuths))
    return cameras_at(poses, fov, SIZE)


def measured(hull: Grid) -> tuple[Tensor, float]:
    """Centre of mass and cube root of the volume of a solid."""
    inside = hull.points()[hull.values < 0]
    return inside.mean(0), (len(inside) * hull.voxel**3) ** (1 / 3)


def hull_iou(found: Turntable) -> float:
    """Volume IoU of the views' hull with that of 36 true views, placed on it and turned by a few degrees."""
    cameras = orbit(36, size=SIZE)
    out = render(body(), cameras)
    true, ours = (carve(views, resolution=64) for views in (Views(out.rgb, out.alpha, cameras), found.views))
    (centre, size), (our_centre, our_size) = measured(true), measured(ours)
    points = torch.rand(30_000, 3, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
    a, best = true.sample(points) < 0, 0.0
    for degrees in range(-8, 9):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = torch.tensor([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
        b = ours.sample((points - centre) @ turn * (our_size / size) + our_centre) < 0
        best = max(best, float((a & b).sum() / (a | b).sum()))
    return best


def found_in(azimuths: NDArray[np.float64], times: NDArray[np.float64] | None = None) -> Turntable:
    frames = frames_of(body(), walked(azimuths))
    return turntable_views(frames, np.arange(len(frames)) / 10 if times is None else times)


def azimuths_of(views: Views) -> NDArray[np.float64]:
    x, y = views.cameras.centers[:, 0], views.cameras.centers[:, 1]
    return torch.rad2deg(torch.atan2(y, x)).numpy().astype(np.float64)


def off(found: Turntable, azimuths: NDArray[np.float64]) -> float:
    """The largest error of azimuths in degrees."""
    return float(np.abs((azimuths_of(found.views) - azimuths + 180) % 360 - 180).max())


@pytest.mark.parametrize(("steps", "fov", "elevation"), [(18, 60.0, 0.0), (21, 33.8, 10.0), (16, 49.0, 30.0)])
@pytest.mark.parametrize("clockwise", [False, True])
def test_direction_of_generators_views(steps: int, fov: float, elevation: float, clockwise: bool) -> None:
    cameras = orbit(
        steps, size=96, fov=fov, radius=1.15 / math.tan(math.radians(fov / 2)), elevation=elevation
    )
    out = render(body(), cameras)
    order = [-i % steps for i in range(steps)] if clockwise else list(range(steps))
    way = direction(Views(out.rgb[order], out.alpha[order], cameras))
    assert (way.clockwise, way.sure) == (clockwise, True)


def test_outlines_that_fit_both_ways_leave_it_to_colours() -> None:
    can = textured(trimesh.creation.cylinder(0.3, 0.9, sections=64).subdivide(), seed=1, cells=9)
    cameras = orbit(18, size=96)
    out = render(can, cameras)
    views = Views(out.rgb, out.alpha, cameras)
    assert (direction(views).clockwise, direction(views).sure) == (False, True)
    mirrored = Views(out.rgb, out.alpha, cameras[[-i % 18 for i in range(18)]])
    assert (direction(mirrored).clockwise, direction(mirrored).sure) == (True, True)


def test_a_ball_of_one_colour_leaves_the_direction_open() -> None:
    views = ball_views(orbit(18, size=96), colour=lambda normal: torch.full_like(normal, 0.4))
    assert not direction(views).sure


@pytest.mark.parametrize("sign", [1, -1])
def test_an_orbit_of_ours_comes_back_with_the_orbits_cameras(sign: int) -> None:
    found = found_in(sign * np.arange(18) * 20.0)
    assert found.clockwise == (sign < 0)
    expected = orbit(18, size=SIZE)
    assert (found.views.cameras.c2w - expected.c2w).abs().max() < 0.01
    torch.testing.assert_close(found.views.cameras.K, expected.K)
    frames = frames_of(body(), walked(np.arange(18) * 20.0))  # the frames' pixels are kept
    alpha = torch.stack([torch.from_numpy(frame[..., 3]) for frame in frames])
    assert (found.views.alpha - alpha).abs().max() < 1e-5
    assert not [note for note in found.notes if "clockwise" not in note]


def test_standing_still_at_both_ends_is_left_out() -> None:
    azimuths = np.r_[np.zeros(30), np.arange(72) * 5.0, np.full(30, 355.0)]
    found = found_in(-azimuths)
    assert found.clockwise and len(found.views) == 36
    assert off(found, np.arange(36) * 10.0) < 6
    assert hull_iou(found) > 0.92
    assert any("stands still" in note for note in found.notes)


def test_standing_still_on_the_way_is_left_out() -> None:
    azimuths = np.r_[np.arange(40) * 5.0, np.full(30, 200.0), np.arange(41, 72) * 5.0]
    found = found_in(azimuths)
    assert not found.clockwise
    assert hull_iou(found) > 0.92


@pytest.mark.parametrize("degrees", [330.0, 540.0, 720.0])
def test_turns_that_do_not_close_or_pass_twice(degrees: float) -> None:
    azimuths = np.linspace(0, degrees, 66)
    found = found_in(azimuths)
    assert not found.clockwise
    assert hull_iou(found) > 0.93
    (note,) = found.notes
    stated = float(note.split(" by ")[1].split(" degrees")[0])
    assert stated == pytest.approx(degrees, rel=0.03)


def test_times_tell_where_the_camera_was() -> None:
    """Frames at irregular times, of an even walk."""
    step = np.random.default_rng(0).choice([16, 33, 66, 120], 36).astype(float)
    times = np.cumsum(step) - step[0]
    azimuths = times / (times[-1] + step[0]) * 360
    found = found_in(azimuths, times / 1000)
    assert off(found, azimuths) < 4


def test_a_walk_that_slows_down_and_hurries() -> None:
    along = np.arange(60) / 60
    azimuths = 360 * (along + 0.5 * np.sin(2 * np.pi * along) / (2 * np.pi))
    assert hull_iou(found_in(azimuths)) > 0.8


def shaken(seed: int = 0) -> Tensor:
    poses = torch.zeros(36, 6, dtype=torch.float64)
    poses[:, AZIMUTH] = torch.deg2rad(torch.arange(36) * 10.0)
    noise = torch.randn(36, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    poses[:, YAW:] = math.radians(3) * noise[:, YAW:]
    poses[:, DISTANCE], poses[:, ELEVATION] = 0.02 * noise[:, 0], math.radians(1) * noise[:, 1]
    return poses


def test_a_hand_that_shakes_by_three_degrees() -> None:
    poses = shaken()
    frames = frames_of(body(), cameras_at(poses, 60.0, SIZE))
    found = turntable_views(frames, np.arange(36) / 10)
    assert not found.clockwise and len(found.views) == 36
    assert any("shakes" in note for note in found.notes)
    # Where the cameras stood, up to a similarity, in units of their distance.
    a, b = found.views.cameras.centers.double(), cameras_at(poses, 60.0, SIZE).centers.double()
    a, b = a - a.mean(0), b - b.mean(0)
    U, S, Vh = torch.linalg.svd(b.mT @ a)
    moved = (S.sum() / a.square().sum()) * a @ (U @ Vh).mT
    assert float((moved - b).norm(dim=-1).mean()) / 2 < 0.08
    assert hull_iou(found) > 0.84


def test_an_object_far_off_the_middle_is_centred_and_scaled() -> None:
    """It stands low and left in wide frames, small, on an axis of its own."""
    cameras = walked(np.arange(24) * 15.0, fov=20.0)  # what a crop of the frame shows
    frames = []
    for frame in frames_of(body(), cameras):
        wide = np.zeros((2 * SIZE, 4 * SIZE, 4), np.float32)
        wide[100 : 100 + SIZE, 60 : 60 + SIZE] = frame
        frames.append(wide)
    fov = 2 * math.degrees(math.atan(4 * math.tan(math.radians(10))))
    mesh = Mesh(body().vertices * 0.35, body().faces, body().uv, body().texture)
    small = [np.zeros_like(frame) for frame in frames]
    for i, frame in enumerate(frames_of(mesh, cameras)):
        small[i][100 : 100 + SIZE, 60 : 60 + SIZE] = frame
    found = turntable_views(small, np.arange(24) / 10, fov=fov)
    height, width = (found.views.alpha > 0.5).any(0).nonzero().aminmax(dim=0)[1].tolist()
    low, high = carve(found.views, resolution=64).bounds
    assert 0.5 < float((high - low).max()) < 1.9
    assert max(height, width) < found.views.cameras.width
    assert float(((low + high) / 2)[2].abs()) < 0.1
    assert not found.clockwise


def test_frames_of_nothing_and_of_different_things() -> None:
    with pytest.raises(V3DError, match="Only 0 frames show an object"):
        turntable_views([np.zeros((32, 32, 4), np.float32)] * 8, np.arange(8))
    frames = frames_of(body(), walked(np.random.default_rng(1).uniform(0, 360, 24)))
    found = turntable_views(frames, np.arange(24) / 10)
    assert any("do not fit one turn" in note for note in found.notes)


@pytest.mark.parametrize(("elevation", "way"), [(0.0, 1), (18.0, -1), (32.0, 1)])
def test_the_cameras_height_is_found(elevation: float, way: int) -> None:
    cameras = orbit(24, size=SIZE, elevation=elevation)
    frames = frames_of(body(), cameras[[way * i % 24 for i in range(24)]])
    found = turntable_views(frames, np.arange(24) / 12.0)
    assert found.clockwise == (way < 0) and found.fits
    heights = re.findall(r"height was found to be ([-.\d]+) degrees", " ".join(found.notes))
    assert [float(h) for h in heights] == [pytest.approx(elevation, abs=1.5)] * (elevation != 0)
    # The world may be moved along the axis and scaled; then the views show the object where it is.
    ours = found.views.cameras
    scale = float(ours.centers[0, 0] / cameras.centers[0, 0])
    lower = float(cameras.centers[0, 2] - ours.centers[0, 2] / scale)
    vertices = (body().vertices - torch.tensor([0.0, 0.0, lower])) * scale
    shown = render(replace(body(), vertices=vertices), ours)
    assert float(mask_iou(shown.alpha, found.views.alpha).mean()) > 0.93  # a degree moves an outline
