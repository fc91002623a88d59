"""Maps that a light mesh takes from a dense one, against what the dense surface is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from shapes import box_mesh, sphere_mesh
from v3d.finishing.baking import bake_maps, carry_colours, vertex_sky
from v3d.meshes.mesh import Mesh
from v3d.meshes.padding import pad
from v3d.meshes.rendering import rasterize_uv, sample_texture
from v3d.meshes.tangents import vertex_tangents
from v3d.texture.unwrap import unwrap

SIZE = 128


def decoded(light: Mesh, normal_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [N, 3] of the texels, and the normals that a viewer sees there: glTF's frame, term by term."""
    fragments = rasterize_uv(light, SIZE)
    inside = fragments.face[0] >= 0
    corners, weights = light.faces[fragments.face[0][inside]], fragments.barycentric[0][inside][..., None]
    tangents = vertex_tangents(light, light.vertex_normals)
    n = F.normalize((light.vertex_normals[corners] * weights).sum(1), dim=-1)
    t = F.normalize((tangents[corners][..., :3] * weights).sum(1), dim=-1)
    b = F.normalize(torch.linalg.cross(n, t), dim=-1) * tangents[corners[:, 0], 3:]
    x, y, z = (normal_map[inside] * 2 - 1).unbind(-1)
    seen = F.normalize(x[:, None] * t + y[:, None] * b + z[:, None] * n, dim=-1)
    return (light.vertices[corners] * weights).sum(1), seen


def test_a_coarse_ball_is_shaded_like_a_ball() -> None:
    """320 faces with the normals of 20,480: every texel's normal points away from the centre."""
    light, dense = unwrap(sphere_mesh(0.5, 2), size=SIZE), sphere_mesh(0.5, 5)
    maps = bake_maps(light, dense, SIZE)
    points, seen = decoded(light, (maps.normal * 255).round() / 255)
    radial = F.normalize(points, dim=-1)
    baked = (seen * radial).sum(-1).clamp(-1, 1).acos().rad2deg()
    assert float(baked.quantile(0.99)) < 1.0
    # A convex body sees all of the sky.
    assert float(maps.occlusion.min()) > 0.99


def test_a_groove_that_the_light_mesh_has_lost_comes_back() -> None:
    """A plate with a wave along u against a flat one: the slope in the map is the wave's, and up is up."""
    x = torch.linspace(-0.5, 0.5, 201)
    u, v = torch.meshgrid(x, x, indexing="ij")
    wave = 0.005 * torch.sin(u * 20) + 0.004 * torch.cos(v * 15)
    i = (torch.arange(200)[:, None] * 201 + torch.arange(200)).reshape(-1)
    faces = torch.cat([torch.stack([i, i + 201, i + 202], 1), torch.stack([i, i + 202, i + 1], 1)])
    dense = Mesh(torch.stack([u, v, wave], -1).reshape(-1, 3), faces)
    corners = torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    uv = torch.stack([corners[:, 0] + 0.5, 0.5 - corners[:, 1]], -1)  # +y of the plate is up in the image
    light = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv)
    normal = bake_maps(light, dense, SIZE).normal * 2 - 1
    at = (torch.arange(SIZE) + 0.5) / SIZE - 0.5
    slope_x = -0.1 * torch.cos(at * 20)[None].expand(SIZE, SIZE)
    slope_y = 0.06 * torch.sin(-at * 15)[:, None].expand(SIZE, SIZE)  # rows run down
    wanted = F.normalize(torch.stack([slope_x, slope_y, torch.ones(SIZE, SIZE)], -1), dim=-1)
    inner = slice(4, -4)
    torch.testing.assert_close(normal[inner, inner], wanted[inner, inner], atol=0.01, rtol=0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_tangents_run_along_u_and_w_tells_mirrored_textures(mirrored: bool) -> None:
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    u = 1 - corners[:, 0] if mirrored else corners[:, 0]
    plate = Mesh(corners, torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.stack([u, 1 - corners[:, 1]], -1))
    tangents = vertex_tangents(plate, plate.vertex_normals)
    along, w = (-1.0, -1.0) if mirrored else (1.0, 1.0)
    torch.testing.assert_close(tangents, torch.tensor([[along, 0, 0, w]]).expand(4, 4))
    # w * cross(n, t) is up in the image, which is +y here.
    up = tangents[:, 3:] * torch.linalg.cross(plate.vertex_normals, tangents[:, :3])
    torch.testing.assert_close(up, torch.tensor([[0.0, 1, 0]]).expand(4, 3))


def test_a_wall_hides_half_of_the_sky() -> None:
    """At the foot of a high wall half of the cosine's weight is hidden, far from it nothing."""
    floor = torch.tensor([[-1.0, -1, 0], [0, -1, 0], [0, 1, 0], [-1, 1, 0]])
    wall = torch.tensor([[0.0, -1, 0], [0, -1, 2], [0, 1, 2], [0, 1, 0]])
    spots = torch.tensor([[-0.01, 0, 0], [-0.005, 0.01, 0], [-0.01, 0.01, 0.0]])
    far = spots - torch.tensor([0.9, 0, 0])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 6, 5], [4, 7, 6], [8, 9, 10], [11, 12, 13]])
    scene = Mesh(torch.cat([floor, wall, spots, far]), faces)
    upward = scene.face_normals[4:, 2].sign()
    scene = replace(scene, faces=torch.where((upward > 0)[:, None], faces[4:], faces[4:].flip(1)))
    scene = replace(scene, faces=torch.cat([faces[:4], scene.faces]))
    sky = vertex_sky(scene)
    torch.testing.assert_close(sky[8:11], torch.full((3,), 0.5), atol=0.04, rtol=0)
    torch.testing.assert_close(sky[11:], torch.ones(3))


def test_colours_are_carried_to_another_mesh_of_the_same_surface() -> None:
    """From one unwrap to another: the colour of a place is what it was."""
    source = unwrap(box_mesh(0.4, 0.5, 0.6), size=SIZE)
    fragments = rasterize_uv(source, SIZE)
    corners = source.vertices[source.faces[fragments.face[0].clamp_min(0)]]
    image = (corners * fragments.barycentric[0][..., None]).sum(-2) + 0.5
    source = replace(source, texture=pad(image, fragments.face[0] >= 0))
    dense = box_mesh(0.4, 0.5, 0.6)
    other = unwrap(replace(dense, faces=dense.faces.flip(0)), size=96)
    carried = carry_colours(other, source, 96)
    inner = rasterize_uv(other, 96)
    inside = inner.face[0] >= 0
    weights = inner.barycentric[0][inside][..., None]
    uv = (other.uv[other.faces[inner.face[0][inside]]] * weights).sum(1)
    place = (other.vertices[other.faces[inner.face[0][inside]]] * weights).sum(1) + 0.5
    found = sample_texture(carried.texture, uv, nearest=True)
    assert float((found - place).abs().amax(-1).quantile(0.95)) < 0.015
