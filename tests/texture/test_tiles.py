"""Meshes of other programs in a square of tiles: uv that repeat, several materials, turned faces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shapes import sphere_mesh
from v3d.cameras import orbit
from v3d.meshes.mesh import Mesh
from v3d.meshes.reading.parts import Part
from v3d.texture.tiles import area_seen, facing, tiled

SQUARE = np.array([[0, -1, -1], [0, 1, -1], [0, 1, 1], [0, -1, 1]], float)
FACES = np.array([[0, 1, 2], [0, 2, 3]])
WHOLE = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], float)


def square(uv: np.ndarray, material: int = 0) -> Part:
    return Part(SQUARE, FACES, (), uv=uv[FACES], material=material)


def test_uv_inside_stay_and_materials_take_tiles() -> None:
    made = tiled([square(WHOLE, 5), square(WHOLE, -1), square(WHOLE * 0.5, 5)], 16)
    assert (made.materials, made.tile, made.size) == ((-1, 5), 16, 32)
    assert made.mesh.uv is not None
    texture = torch.zeros(32, 32, 3)
    texture[:16, :16, 0], texture[:16, 16:, 1] = 1, 1
    pieces = made.textures(texture)
    assert torch.equal(pieces[-1], torch.tensor([1.0, 0, 0]).expand(16, 16, 3))
    assert torch.equal(pieces[5], torch.tensor([0, 1.0, 0]).expand(16, 16, 3))
    assert made.mesh.uv[:4].min(0).values.tolist() == [0.5, 0]  # of material 5: the second tile
    assert made.shared() == pytest.approx(0.25 / 2.25, abs=0.02)


def test_repeats_are_cut_into_the_texture_and_counted_as_shared() -> None:
    made = tiled([square(WHOLE * (3, 1) - (0.5, 0))], 32)
    mesh = made.mesh
    assert mesh.uv is not None
    assert mesh.uv.min() >= 0 and mesh.uv.max() <= 1
    assert float(mesh.face_areas.sum()) == pytest.approx(4)  # the surface is all there
    # u runs three textures over y from -1 to 1, from half a texture before its start.
    expected = (mesh.vertices[mesh.faces][..., 1] + 1) * 1.5 - 0.5
    expected = expected - expected.mean(1, keepdim=True).floor()
    assert torch.allclose(mesh.uv[mesh.faces][..., 0], expected, atol=1e-5)
    assert made.shared() == pytest.approx(2 / 3, abs=0.05)


def test_many_materials_fit_in_memory() -> None:
    made = tiled([square(WHOLE, k) for k in range(10)], 2048)
    assert (made.rows, made.tile) == (4, 1024)


def test_faces_are_turned_to_who_sees_them() -> None:
    ball = sphere_mesh(0.6)
    inside_out = ball.faces.clone()
    inside_out[::2] = inside_out[::2].flip(1)
    mended, share = facing(Mesh(ball.vertices, inside_out), orbit(12, size=128, elevation=20))
    assert share == pytest.approx(0.5, abs=0.1)
    seen = (mended.face_normals * ball.vertices[ball.faces].mean(1)).sum(-1) > 0
    outward = seen.float().mean()
    assert outward > 0.9  # what no camera sees stays as it was


def test_one_side_of_a_ball_is_seen() -> None:
    half = area_seen(sphere_mesh(0.6, 4), [orbit(1, size=256)])
    assert half == pytest.approx((1 - 0.6 / 2) / 2, abs=0.03)  # a cap: the horizon is at r^2 / distance
