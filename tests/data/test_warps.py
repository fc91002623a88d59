"""Distorted and combined shapes: maps without folds, symmetry kept, colours kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from v3d.data.combining import combine, join
from v3d.data.orbit_shards import OrbitShards
from v3d.data.render_orbits import render_meshes
from v3d.data.settings import RenderSettings
from v3d.data.warps import Warp, random_warp
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import sample_texture


def box(x: float, y: float, z: float, colour: float, texels: int = 4) -> Mesh:
    corners = torch.cartesian_prod(*(torch.tensor([-s / 2, s / 2]) for s in (x, y, z)))
    faces = torch.tensor([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]])
    return Mesh(corners, faces, torch.rand(8, 2), torch.full((texels, texels, 3), colour))


def warps(symmetric: bool) -> list[Warp]:
    found = [random_warp(torch.Generator().manual_seed(s)) for s in range(60)]
    return [w for w in found if w.symmetric == symmetric][:15]


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_warp_moves_points_but_never_folds_space(symmetric: bool) -> None:
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x = torch.cat([x, torch.tensor([[-1.0] * 3, [1.0] * 3])])  # fixes the box
    for warp in warps(symmetric):
        assert float((warp(x) - x).abs().max()) > 0.02
        step = 1e-3
        columns = [(warp(x + step * e) - warp(x - step * e)) / (2 * step) for e in torch.eye(3)]
        determinant = torch.linalg.det(torch.stack(columns, -1))
        assert float(determinant.min()) > 0.05


def test_a_warp_does_not_depend_on_place_and_scale() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    (warp, *_) = warps(False)
    shift = torch.tensor([3.0, -2.0, 1.0])
    torch.testing.assert_close(warp(4 * x + shift), 4 * warp(x) + shift, atol=1e-4, rtol=1e-4)


def test_symmetric_warps_keep_left_and_right_alike_and_others_do_not() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    mirror = torch.tensor([1.0, -1.0, 1.0])
    x = torch.cat([x, x * mirror])
    for symmetric in (True, False):
        for warp in warps(symmetric):
            left, right = warp(x).chunk(2)
            assert torch.allclose(left * mirror, right, atol=1e-5) == symmetric


def test_joined_meshes_keep_their_colours() -> None:
    a, b = box(1, 1, 1, 0.2, texels=8), box(1, 2, 1, 0.9, texels=4)
    both = join([a, b, a])
    assert both.uv is not None and both.texture is not None and len(both.faces) == 18
    assert both.texture.shape == (12, 8, 3)  # a texture that two parts wear is kept once
    colours = sample_texture(both.texture, both.uv, nearest=True)
    for part, colour in zip(colours.split(8), (0.2, 0.9, 0.2), strict=True):
        torch.testing.assert_close(part, torch.full((8, 3), colour))
    torch.testing.assert_close(both.vertices[both.faces[6:12]], b.vertices[b.faces])


def test_combined_objects_touch_and_stand_on_each_other_or_on_one_ground() -> None:
    a, b = box(1.0, 1.0, 2.0, 0.2), box(5.0, 5.0, 5.0, 0.9)
    stacked = 0
    for seed in range(30):
        both = combine(a, b, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(both.vertices[:8], a.vertices)
        low, high = both.vertices[8:].amin(0), both.vertices[8:].amax(0)
        assert 0.4 * 2.0 - 1e-4 <= float(high[2] - low[2]) <= 2.0 + 1e-4
        if abs(float(low[2]) + 1.0) > 1e-4:  # not on the ground
            stacked += 1
            torch.testing.assert_close((low + high)[:2] / 2, torch.zeros(2), atol=1e-4, rtol=0)
            assert float(low[2]) <= 1.0 + 1e-4 < float(high[2])
    assert 8 < stacked < 28


def test_orbits_of_two_objects_name_both(meshes: Path, tmp_path: Path) -> None:
    render_meshes([meshes], tmp_path, RenderSettings(rounds=2, combined=1.0, size=48))
    shards = OrbitShards(tmp_path)
    names = [shards.id(i) for i in range(len(shards))]
    assert len(names) == 8 and all(name.count("+") == 1 for name in names)
