from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from shapes import box_mesh, sphere_mesh
from v3d.evaluation import mesh_metrics
from v3d.meshes.mesh import Mesh

compare = partial(mesh_metrics.compare_meshes, samples=3000, directions=9)  # less than the tables use
volume_iou = partial(mesh_metrics.volume_iou, points=2**14, directions=24, size=128)


def moved(mesh: Mesh, seed: int = 0) -> Mesh:
    """Rotated, translated, with vertices and faces in another order."""
    g = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=g))[0]
    rotation = rotation * torch.sign(torch.det(rotation))
    order = torch.randperm(len(mesh.vertices), generator=g)
    vertices = torch.empty_like(mesh.vertices)
    vertices[order] = mesh.vertices @ rotation.T + torch.tensor([0.3, -0.2, 0.1])
    return Mesh(vertices, order[mesh.faces][torch.randperm(len(mesh.faces), generator=g)])


def test_points_are_uniform_over_the_area():
    mesh = box_mesh(1.0, 2.0, 3.0)
    points, face = mesh_metrics.sample_surface(mesh, 8000)
    share = torch.bincount(face, minlength=12) / 8000
    area = torch.tensor([math.prod(e) / 2 for e in ((2, 3), (1, 3), (1, 2))])
    for a in area:  # four triangles of each size
        assert ((share - a / 22).abs() < 2e-3).sum() >= 4
    assert torch.allclose((points.abs() / torch.tensor([0.5, 1.0, 1.5])).amax(1), torch.ones(8000), atol=1e-5)


def test_point_triangle_distance_agrees_with_trimesh():
    g = torch.Generator().manual_seed(0)
    corners = torch.randn(200, 3, 3, generator=g, dtype=torch.float64)
    points = torch.randn(200, 3, generator=g, dtype=torch.float64)
    closest = trimesh.triangles.closest_point(corners.numpy(), points.numpy())
    expected = torch.from_numpy(np.linalg.norm(closest - points.numpy(), axis=1))
    torch.testing.assert_close(
        mesh_metrics.point_triangle_distance(points, corners), expected, atol=1e-9, rtol=0
    )


def test_distance_to_a_triangle_without_area_is_that_to_a_segment():
    corners = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]])
    torch.testing.assert_close(
        mesh_metrics.point_triangle_distance(torch.tensor([[1.5, 3.0, 4.0]]), corners), torch.tensor([5.0])
    )


def test_surface_distance_agrees_with_trimesh_and_with_a_dense_cloud():
    source, target = box_mesh(0.9, 0.7, 0.5), moved(sphere_mesh(0.4, 2))
    result = mesh_metrics.surface_distance(source, target, samples=400)
    points, _ = mesh_metrics.sample_surface(source, 400)
    reference = trimesh.Trimesh(target.vertices.numpy(), target.faces.numpy(), process=False)
    _, exact, _ = trimesh.proximity.closest_point_naive(reference, points.numpy())
    assert np.abs(result.distance.numpy() - exact).max() < 1e-5
    cloud, _ = mesh_metrics.sample_surface(target, 400_000, seed=7)
    nearest, _ = cKDTree(cloud.numpy()).query(points.numpy())
    assert np.abs(result.distance.numpy() - nearest).max() < 2e-3
    assert result.distance.mean() <= nearest.mean() + 1e-5


def test_concentric_spheres_have_their_known_scores():
    scores = mesh_metrics.compare_meshes(sphere_mesh(0.5, 3), sphere_mesh(0.55, 3), tau=0.06)
    assert scores["chamfer"] == pytest.approx(0.05, abs=1e-3)
    assert scores["f_score"] == 1
    assert scores["normal_consistency"] > 0.999
    assert scores["iou"] == pytest.approx((0.5 / 0.55) ** 3, abs=0.01)
    assert compare(sphere_mesh(0.5), sphere_mesh(0.55), tau=0.02)["f_score"] == 0


def test_equal_meshes_are_at_distance_zero():
    mesh = sphere_mesh(0.5, 3)
    scores = mesh_metrics.compare_meshes(mesh, mesh, samples=2000)
    assert scores["chamfer"] < 1e-6
    assert scores["f_score"] == scores["iou"] == 1
    assert scores["normal_consistency"] > 0.9999


def test_scores_do_not_change_when_both_meshes_move_or_are_reordered():
    a, b = box_mesh(0.8, 0.6, 0.5), sphere_mesh(0.4, 3)
    here, there = compare(a, b), compare(moved(a), moved(b))
    assert there["chamfer"] == pytest.approx(here["chamfer"], rel=0.03)
    assert there["normal_consistency"] == pytest.approx(here["normal_consistency"], abs=0.01)
    assert there["f_score"] == pytest.approx(here["f_score"], abs=0.03)
    assert there["iou"] == pytest.approx(here["iou"], abs=0.03)


def test_the_two_arguments_are_symmetric():
    a, b = box_mesh(0.8, 0.6, 0.5), sphere_mesh(0.4, 3)
    forward, backward = compare(a, b), compare(b, a)
    assert forward["chamfer"] == pytest.approx(backward["chamfer"], rel=1e-6)
    assert forward["iou"] == backward["iou"]


def test_f_score_falls_with_a_tighter_tau():
    there = mesh_metrics.surface_distance(box_mesh(0.8, 0.8, 0.8), sphere_mesh(0.45), 2000)
    back = mesh_metrics.surface_distance(sphere_mesh(0.45), box_mesh(0.8, 0.8, 0.8), 2000)
    scores = [mesh_metrics.f_score(there, back, tau) for tau in (0.2, 0.1, 0.05, 0.01)]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[-1]


def test_a_box_without_bottom_is_still_solid_and_the_room_under_a_table_is_not():
    x = torch.rand(10_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    whole = box_mesh(0.6, 0.5, 0.4)
    bottom = (whole.vertices[whole.faces][..., 2] < 0).all(1)
    inside = mesh_metrics.visible_solid(Mesh(whole.vertices, whole.faces[~bottom]), x, size=128)
    expected = (x.abs() < torch.tensor([0.3, 0.25, 0.2])).all(-1)
    assert (inside != expected).float().mean() < 0.005
    top, leg = box_mesh(0.8, 0.8, 0.1), box_mesh(0.1, 0.1, 0.7)
    table = Mesh(
        torch.cat([top.vertices + torch.tensor([0.0, 0, 0.4]), leg.vertices]),
        torch.cat([top.faces, leg.faces + len(top.vertices)]),
    )
    under = (x[:, :2].abs() > 0.1).any(1) & (x[:, 2] < 0.3)
    assert mesh_metrics.visible_solid(table, x, size=128)[under].float().mean() < 0.005


def test_the_solid_of_a_box_is_its_volume():
    x = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    inside = mesh_metrics.visible_solid(box_mesh(0.6, 0.5, 0.4), x)
    expected = (x.abs() < torch.tensor([0.3, 0.25, 0.2])).all(-1)
    assert (inside != expected).float().mean() < 0.003


@pytest.mark.parametrize("damage", ["inverted", "mixed", "inner wall", "no bottom"])
def test_the_solid_survives_bad_ground_truth(damage: str):
    whole = sphere_mesh(0.5, 3)
    faces = whole.faces
    if damage == "inverted":
        broken = Mesh(whole.vertices, faces.flip(1))
    elif damage == "mixed":
        broken = Mesh(whole.vertices, torch.cat([faces[::2].flip(1), faces[1::2]]))
    elif damage == "inner wall":
        inner = sphere_mesh(0.3, 2)
        broken = Mesh(
            torch.cat([whole.vertices, inner.vertices]), torch.cat([faces, inner.faces + len(whole.vertices)])
        )
    else:
        broken = Mesh(whole.vertices, faces[whole.vertices[faces][..., 2].amin(1) > -0.4])
    assert volume_iou(whole, broken) > 0.96


def test_disjoint_solids_share_nothing():
    a = box_mesh(0.4, 0.4, 0.4)
    assert volume_iou(a, Mesh(a.vertices + 1, a.faces)) == 0


def test_meshes_without_area_score_worst():
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    flat = Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]]), torch.tensor([[0, 1, 2]]))
    for bad in (empty, flat):
        scores = compare(bad, sphere_mesh())
        assert scores["chamfer"] == math.inf and scores["iou"] == 0 and scores["f_score"] == 0


def test_faces_without_area_change_nothing():
    mesh = sphere_mesh(0.5, 2)
    extra = torch.cat([mesh.faces, torch.tensor([[0, 0, 1], [2, 2, 2]])])
    scores = mesh_metrics.compare_meshes(Mesh(mesh.vertices, extra), mesh, samples=2000)
    assert scores["chamfer"] < 1e-5 and scores["normal_consistency"] > 0.999
