"""Alignment of meshes, beside trimesh's own ICP and SciPy's own sums."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from shapes import box_mesh, lopsided_mesh, sphere_mesh
from v3d import cli
from v3d.evaluation.aligned import AlignedProtocol, align, compare_aligned, icp, spread_rotations
from v3d.evaluation.consistency import compare_points
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh

SMALL = AlignedProtocol(coarse=200, refined=6, samples=3000, rotations=400)


def turned(mesh: Mesh, seed: int, scale: float = 1.0, shift: float = 0.0) -> Mesh:
    R = torch.tensor(Rotation.random(random_state=seed).as_matrix(), dtype=torch.float32)
    return replace(mesh, vertices=(mesh.vertices @ R.T) * scale + shift)


@pytest.mark.parametrize("seed", [0, 1])
def test_turning_scaling_and_moving_a_mesh_changes_nothing(seed: int) -> None:
    mesh = lopsided_mesh()
    moved = compare_aligned(turned(mesh, seed, 3.0, 5.0), mesh, SMALL)
    still = compare_aligned(mesh, mesh, SMALL)
    assert moved["aligned.CD"] == pytest.approx(still["aligned.CD"], rel=0.05) and still["aligned.CD"] < 0.07
    assert moved["aligned.F@0.1"] > 0.99 and moved["aligned.F@0.5"] == 1


def test_a_known_difference_of_two_shapes() -> None:
    """A ball of the same spread as a cube: distances by dense samples of both, whose pose cannot matter."""
    ball, cube = sphere_mesh(1.0, 3), box_mesh(2.0, 2.0, 2.0)
    radius = np.sqrt(5 / 3)  # the mean square over the cube's surface: 1 + 1/3 + 1/3
    points = np.asarray(trimesh.creation.box(extents=(2, 2, 2)).sample(20_000, seed=0))
    to_ball = np.abs(np.linalg.norm(points, axis=1) - radius).mean()
    rng = np.random.default_rng(0)
    on_ball = rng.normal(size=(20_000, 3))
    on_ball *= radius / np.linalg.norm(on_ball, axis=1, keepdims=True)
    outside = np.linalg.norm(np.maximum(np.abs(on_ball) - 1, 0), axis=1)
    inside = 1 - np.abs(on_ball).max(1)
    to_cube = np.where(outside > 0, outside, inside).mean()
    found = compare_aligned(ball, cube, replace(SMALL, samples=16_000))
    assert found["aligned.CD"] == pytest.approx(to_ball + to_cube, abs=0.02)


def test_icp_ends_where_trimeshs_does() -> None:
    rng = np.random.default_rng(0)
    target = np.asarray(trimesh.creation.box(extents=(1, 2, 3)).sample(1500, seed=1))
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_rotvec([0.1, -0.15, 0.2]).as_matrix()
    motion[:3, 3] = 0.05, -0.1, 0.02
    source = (target + rng.normal(scale=0.005, size=target.shape)) @ motion[:3, :3].T + motion[:3, 3]
    ours = icp(source, cKDTree(target), np.eye(4), 100)
    theirs, _, _ = trimesh.registration.icp(
        source, target, threshold=1e-9, max_iterations=100, reflection=False, scale=False
    )
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    np.testing.assert_allclose(ours, np.linalg.inv(motion), atol=5e-3)


def test_a_mirrored_shape_is_not_mirrored_back() -> None:
    mesh = lopsided_mesh()
    mirrored = replace(mesh, vertices=mesh.vertices * torch.tensor([1.0, -1, 1]), faces=mesh.faces.flip(1))
    same = compare_aligned(mesh, mesh, SMALL)["aligned.CD"]
    assert compare_aligned(mirrored, mesh, SMALL)["aligned.CD"] > 1.5 * same
    points = np.random.default_rng(0).normal(size=(500, 3))
    assert np.linalg.det(align(points * [1, -1, 1], points, SMALL)[:3, :3]) == pytest.approx(1)


def test_rotations_are_all_over_and_even() -> None:
    matrices = spread_rotations(400)
    np.testing.assert_allclose(
        matrices @ matrices.transpose(0, 2, 1), np.broadcast_to(np.eye(3), (400, 3, 3)), atol=1e-12
    )
    angles = Rotation.from_matrix(matrices)
    nearest = [min((angles * q.inv()).magnitude()) for q in Rotation.random(200, random_state=0)]
    assert np.degrees(max(nearest)) < 40  # ICP comes from farther than that


def test_distances_and_f_score_are_scipys() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.random((300, 3)), rng.random((200, 3))
    there, back = (d := cdist(a, b)).min(1), d.min(0)
    precision, recall = (there < 0.1).mean(), (back < 0.1).mean()
    found = compare_points(a, b, 0.1)
    assert found[0] == pytest.approx(there.mean() + back.mean())
    assert found[1] == pytest.approx(2 * precision * recall / (precision + recall))
    assert compare_points(a, a + 5, 0.1)[1] == 0


def test_the_command_aligns_files(tmp_path: Path) -> None:
    mesh = lopsided_mesh()
    save_glb(mesh, tmp_path / "true.glb")
    save_glb(turned(mesh, 3, 0.5), tmp_path / "mine.glb")
    files = ["--mesh", str(tmp_path / "mine.glb"), "--truth", str(tmp_path / "true.glb")]
    assert cli.main(["evaluate", "asset", *files, "--alignment", "icp", "--out", str(tmp_path / "out")]) == 0
    scores = json.loads((tmp_path / "out/report.json").read_text())["objects"][0]["scores"]
    assert scores["mesh"]["aligned.CD"] == pytest.approx(scores["true mesh"]["aligned.CD"], rel=0.05)
