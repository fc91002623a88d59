"""The contact sheet and the turntable show what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import trimesh
from torch import Tensor

from v3d.cameras import Cameras, orbit
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.preview import clay, contact_sheet, textured, turntable
from v3d.views import Views

TILE = 48


def asset() -> tuple[Mesh, Views]:
    """A ball, blue in front (+x) and red behind, and its views."""
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.4)
    vertices = torch.tensor(ball.vertices, dtype=torch.float32)
    uv = torch.stack([0.25 + 0.5 * (vertices[:, 0] < 0), torch.full((len(vertices),), 0.5)], -1)
    texture = torch.tensor([[[0.1, 0.2, 0.9]] * 4 + [[0.9, 0.1, 0.1]] * 4])
    mesh = Mesh(vertices, torch.tensor(ball.faces), uv, texture)
    cameras = orbit(18, size=64)
    out = render(mesh, cameras, supersample=1)
    return mesh, Views(out.rgb, out.alpha, cameras)


def test_contact_sheet_shows_every_row_from_the_same_cameras() -> None:
    mesh, views = asset()
    photo = torch.cat([views.rgb[0], views.alpha[0][..., None]], -1)
    seen = []

    def splats(cameras: Cameras) -> Tensor:
        seen.append(cameras)
        return torch.ones(len(cameras), TILE, TILE, 3) * torch.tensor([0.0, 1.0, 0.0])

    full = np.asarray(contact_sheet(views, photo=photo, splats=splats, mesh=mesh, tile=TILE)) / 255
    assert len(seen[0]) == 6 and (seen[0].width, seen[0].height) == (TILE, TILE)
    torch.testing.assert_close(seen[0].c2w, views.cameras.c2w[::3])

    height, left = TILE + 34, full.shape[1] - 6 * (TILE + 12)
    middle = [
        [full[12 + 22 + r * height + TILE // 2, left + c * (TILE + 12) + TILE // 2] for c in range(6)]
        for r in range(5)
    ]
    views_row, splats_row, mesh_row, clay_row, above_row = middle
    for row in (views_row, mesh_row, above_row):
        assert row[0][2] > 0.6 > 0.3 > row[0][0], "the front is blue"
        assert row[3][0] > 0.6 > 0.3 > row[3][2], "the back is red"
    assert np.allclose(splats_row, [0, 1, 0], atol=0.01)
    assert np.ptp(np.array(clay_row), axis=1).max() < 0.01 and np.array(clay_row).max() < 0.95
    assert full.shape[0] == 5 * height + 12


def test_contact_sheet_of_what_there_is() -> None:
    mesh, views = asset()
    only_views = contact_sheet(views[[0, 1]], tile=TILE)
    assert only_views.width == 12 + 2 * (TILE + 12)
    blank = Views(torch.ones(1, 32, 40, 3), torch.zeros(1, 32, 40), orbit(1, size=40).resized(40, 32))
    assert contact_sheet(blank, tile=TILE).height > TILE
    assert contact_sheet(views, mesh=mesh, tile=TILE).height > 4 * TILE


def test_turntable_turns_and_closes() -> None:
    mesh, _ = asset()
    frames = turntable(textured(mesh), frames=4, size=32)
    assert frames.shape == (4, 32, 32, 3)
    centre = frames[:, 16, 16]
    assert centre[0, 2] > centre[0, 0] and centre[2, 0] > centre[2, 2]
    # A ball of clay under a light that follows the camera looks the same from every side.
    grey = turntable(clay(mesh), frames=3, size=32)
    assert (grey[0] - grey[1]).abs().mean() < 0.01
    assert grey[0][16, 16].std() < 1e-6


def test_rows_show_what_is_not_square_undistorted() -> None:
    """Wide views: the mesh below each is where the view shows it."""
    mesh, views = asset()
    K = views.cameras.K.clone()
    K[:, 0, 2] = 48.0
    cameras = replace(views.cameras, K=K, width=96)
    out = render(mesh, cameras, supersample=1)
    sheet = contact_sheet(Views(out.rgb, out.alpha, cameras), mesh=mesh, tile=TILE)
    full = np.asarray(sheet)[..., :3].min(-1) < 128
    shown, drawn = (full[12 + 22 + r * (TILE + 34) :][:TILE, 12 : 12 + TILE] for r in (0, 1))
    assert (shown & drawn).sum() / (shown | drawn).sum() > 0.9
    rows, columns = shown.nonzero()
    assert abs(np.ptp(rows) - np.ptp(columns)) <= 1  # a ball is round
