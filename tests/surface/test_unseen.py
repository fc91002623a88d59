"""What cameras see of a surface, and the cover over what they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from v3d.cameras import orbit
from v3d.evaluation.mesh_metrics import sample_surface
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.surface import unseen
from v3d.surface.carving import carve
from v3d.surface.extract import extract_mesh, is_closed
from v3d.surface.grid import Grid, empty_grid
from v3d.surface.silhouette import silhouette_iou
from v3d.surface.unseen import cover_unseen, facing
from v3d.views import Views


def field(kind: str, resolution: int = 56) -> Grid:
    """A ball of radius 0.6, or an upright can of radius 0.5 and height 0.8."""
    grid = empty_grid([resolution] * 3, torch.full((3,), -0.8), 1.6 / (resolution - 1))
    x = grid.points()
    if kind == "ball":
        sdf = x.norm(dim=-1) - 0.6
    else:
        sdf = torch.maximum(x[..., :2].norm(dim=-1) - 0.5, x[..., 2].abs() - 0.4)
    return replace(grid, values=sdf)


def hull(mesh: Mesh, size: int = 96) -> tuple[Grid, Views]:
    cameras = orbit(18, size=size)
    grey = replace(mesh, uv=torch.zeros(len(mesh.vertices), 2), texture=torch.full((4, 4, 3), 0.5))
    image = render(grey, cameras, supersample=2)
    views = Views(image.rgb, image.alpha, cameras)
    return carve(views, resolution=64), views


def test_facing_is_the_cosine_where_nothing_is_in_the_way() -> None:
    ball, cameras = extract_mesh(field("ball")), orbit(1, size=128)
    normals = torch.nn.functional.normalize(ball.vertices, dim=-1)
    cosine = facing(ball.vertices, normals, ball, cameras)[0]
    to_camera = torch.nn.functional.normalize(cameras.centers[0] - ball.vertices, dim=-1)
    exact = (to_camera * normals).sum(-1)
    front = exact > 0.2
    torch.testing.assert_close(cosine[front], exact[front])
    assert (cosine[exact < 0] == 0).all()


def test_facing_knows_what_another_part_hides_and_what_is_out_of_the_image() -> None:
    ball, cameras = extract_mesh(field("ball")), orbit(1, size=64)
    toward = torch.nn.functional.normalize(cameras.centers, dim=-1)
    behind, beside = -1.2 * toward, torch.tensor([[0.0, 0.0, 5.0]])
    points = torch.cat([0.6 * toward, behind, beside])
    cosine = facing(points, toward.expand(3, 3), ball, cameras)[0]
    assert float(cosine[0]) == pytest.approx(1, abs=1e-4)
    assert cosine[1:].tolist() == [0, 0]


def test_the_hulls_cones_on_a_can_become_flat_ends() -> None:
    carved, views = hull(extract_mesh(field("can")))
    cone, flat = extract_mesh(carved), extract_mesh(carved, cameras=views.cameras)
    assert float(cone.vertices[:, 2].max()) > 0.47
    assert float(flat.vertices[:, 2].abs().max()) < 0.43
    x, face = sample_surface(flat, 5000)
    middle = x[(x[:, :2].norm(dim=-1) < 0.4) & (flat.face_normals[face][:, 2].abs() > 0.5)]
    assert len(middle) > 500
    assert float((middle[:, 2].abs() - 0.4).abs().max()) < 0.03
    assert is_closed(flat.faces.numpy())


def test_a_ball_stays_round(monkeypatch: pytest.MonkeyPatch) -> None:
    carved, views = hull(extract_mesh(field("ball")))

    def error() -> float:
        covered = extract_mesh(carved, cameras=views.cameras)
        return float((sample_surface(covered, 5000)[0].norm(dim=-1) - 0.6).abs().mean())

    bent = error()
    monkeypatch.setattr(unseen, "CREASE", 0.0)  # films only
    assert bent < 0.003
    assert error() > 1.5 * bent


@pytest.mark.parametrize("kind", ["ball", "can"])
def test_outlines_stay(kind: str) -> None:
    carved, views = hull(extract_mesh(field(kind)))
    before, after = (silhouette_iou(extract_mesh(carved, cameras=c), views) for c in (None, views.cameras))
    assert after > before - 0.005


def test_seen_vertices_and_faces_stay() -> None:
    sdf = field("ball")
    ball = extract_mesh(sdf)
    covered = cover_unseen(ball, orbit(18, size=96), sdf)
    moved = (covered.vertices != ball.vertices).any(-1)
    height = ball.vertices[:, 2].abs()
    assert bool(moved.any())
    assert float(height[moved].min()) > 0.45  # only the poles, which no camera of an orbit sees
    assert torch.equal(covered.faces, ball.faces)


def test_a_part_that_no_camera_sees_stays() -> None:
    sdf = field("ball", 32)
    ball = extract_mesh(sdf)
    n = len(ball.vertices)
    both = Mesh(torch.cat([ball.vertices, 0.3 * ball.vertices]), torch.cat([ball.faces, n + ball.faces]))
    covered = cover_unseen(both, orbit(18, size=64), sdf)
    assert torch.equal(covered.vertices[n:], both.vertices[n:])
    assert not torch.equal(covered.vertices[:n], both.vertices[:n])


def test_the_cover_does_not_leave_the_solid() -> None:
    # A can with a deep groove round its top: a film from rim to rim would bridge it, the field says it is
    # empty.
    grid = field("can")
    x = grid.points()
    r = x[..., :2].norm(dim=-1)
    groove = torch.maximum((r - 0.3).abs() - 0.12, 0.1 - x[..., 2])
    grid = replace(grid, values=torch.maximum(grid.values, -groove))
    covered = cover_unseen(extract_mesh(grid), orbit(18, size=96), grid)
    assert float(grid.sample(covered.vertices).max()) < 0.5 * grid.voxel
