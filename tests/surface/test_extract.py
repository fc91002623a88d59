"""Meshes from distance fields: closed, outward, within budget."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from v3d.errors import V3DError
from v3d.meshes.mesh import Mesh
from v3d.surface import extract
from v3d.surface.extract import extract_mesh, is_closed, marching_cubes
from v3d.surface.grid import Grid, empty_grid


def field(resolution: int = 48) -> tuple[Grid, Tensor]:
    grid = empty_grid([resolution] * 3, torch.full((3,), -1.0), 2 / (resolution - 1))
    return grid, grid.points()


def ball(points: Tensor, center: tuple[float, float, float], radius: float) -> Tensor:
    return (points - torch.tensor(center)).norm(dim=-1) - radius


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def test_sphere() -> None:
    grid, points = field()
    mesh = extract_mesh(Grid(ball(points, (0.1, 0, 0), 0.6), grid.origin, grid.voxel))
    radius = (mesh.vertices - torch.tensor([0.1, 0, 0])).norm(dim=-1)
    assert float((radius - 0.6).abs().max()) < 0.01
    assert volume(mesh) == pytest.approx(4 / 3 * 3.14159 * 0.6**3, rel=0.01)
    assert is_closed(mesh.faces.numpy())


@pytest.mark.parametrize("faces", [200, 1000, 4000])
def test_face_budget_and_closedness(faces: int) -> None:
    grid, points = field()
    ring = torch.stack([points[..., :2].norm(dim=-1) - 0.6, points[..., 2]], -1).norm(dim=-1) - 0.18
    mesh = extract_mesh(Grid(ring, grid.origin, grid.voxel), faces=faces)
    assert len(mesh.faces) <= faces
    assert is_closed(mesh.faces.numpy())
    assert volume(mesh) == pytest.approx(2 * 3.14159**2 * 0.6 * 0.18**2, rel=0.05)
    # A torus stays a torus: Euler characteristic 0.
    assert len(mesh.vertices) - len(mesh.faces) // 2 == 0


@pytest.mark.parametrize("seed", range(6))
def test_any_field_gives_a_closed_surface(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.nn.functional.interpolate(
        torch.randn(1, 1, 7, 7, 7, generator=generator), (32,) * 3, mode="trilinear"
    )
    noise = noise[0, 0] * 0.2 + torch.randn(32, 32, 32, generator=generator) * 0.01 * (seed % 3)
    noise[noise.abs() < 0.003] = 0.0
    mesh = extract_mesh(Grid(noise, torch.zeros(3), 1 / 31), faces=3000)
    assert is_closed(mesh.faces.numpy())
    assert volume(mesh) > 0


def test_specks_and_inner_shells_go_and_large_parts_stay() -> None:
    grid, points = field(64)
    sdf = ball(points, (-0.4, 0, 0), 0.45)
    sdf = torch.maximum(sdf, -ball(points, (-0.4, 0, 0), 0.2))  # a cavity
    sdf = torch.minimum(sdf, ball(points, (0.5, 0, 0), 0.3))  # a second part
    sdf = torch.minimum(sdf, ball(points, (0.2, 0.8, 0.8), 0.08))  # a speck
    mesh = extract_mesh(Grid(sdf, grid.origin, grid.voxel))
    assert volume(mesh) == pytest.approx(4 / 3 * 3.14159 * (0.45**3 + 0.3**3), rel=0.02)
    assert float(mesh.vertices[:, 2].max()) < 0.5


def test_a_solid_that_leaves_the_box_is_closed_at_its_border() -> None:
    grid, points = field(24)
    mesh = marching_cubes(Grid(ball(points, (0, 0, 0), 1.2), grid.origin, grid.voxel))
    assert is_closed(mesh.faces.numpy())
    assert volume(mesh) > 0


def test_an_empty_field_is_refused() -> None:
    grid, _ = field(8)
    with pytest.raises(V3DError, match="no surface"):
        extract_mesh(Grid(torch.ones(8, 8, 8), grid.origin, grid.voxel))


def test_is_closed_sees_a_hole_and_a_flipped_face() -> None:
    grid, points = field(16)
    faces = marching_cubes(Grid(ball(points, (0, 0, 0), 0.5), grid.origin, grid.voxel)).faces.numpy()
    assert is_closed(faces)
    assert not is_closed(faces[1:])
    flipped = faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert not is_closed(flipped)


@pytest.mark.parametrize(
    ("resolution", "radius", "budget", "faces", "tolerance"),
    [(48, 0.06, 400, 400, 0.03), (32, 0.08, 60, 120, 0.2)],
)
def test_thin_rods_that_quadrics_tear_stay_closed(
    resolution: int, radius: float, budget: int, faces: int, tolerance: float
) -> None:
    """Rods along the edges of a cube: quadrics tear the first when hasty, the second at its budget anyhow."""
    grid, points = field(resolution)
    a, b, c = (points.abs() - 0.6).unbind(-1)
    rods = [
        torch.stack([x, y, z.clamp_min(0)], -1).norm(dim=-1) for x, y, z in ((a, b, c), (b, c, a), (c, a, b))
    ]
    frame = Grid(torch.stack(rods).amin(0) - radius, grid.origin, grid.voxel)
    whole, mesh = extract_mesh(frame, faces=1_000_000), extract_mesh(frame, faces=budget)
    hasty = extract._quadrics(whole.vertices.double().numpy(), whole.faces.numpy(), budget, 7)[1]
    assert not is_closed(hasty)
    assert is_closed(mesh.faces.numpy()) and len(mesh.faces) <= faces
    assert volume(mesh) == pytest.approx(volume(whole), rel=tolerance)
