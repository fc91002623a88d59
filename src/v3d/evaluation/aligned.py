"""Meshes in any pose against the true one, as tables of single-image reconstruction compare them.

The true mesh is scaled to a box of side 2, the result to the same spread about its middle, which turning
does not change. The result is turned by rotations all over, the best are refined by ICP, and the nearest
counts. So a method whose world has other axes is not judged by them. A result that lies in the true world
already is judged more strictly by `v3d.evaluation.mesh_metrics`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from v3d.evaluation.assets import Metrics
from v3d.evaluation.consistency import compare_points
from v3d.evaluation.mesh_metrics import sample_surface
from v3d.meshes.mesh import Mesh

Points = NDArray[np.float64]
"""[N, 3]."""


@dataclass(frozen=True)
class AlignedProtocol:
    """How meshes are aligned and compared.

    Attributes:
        version: changes whenever numbers would.
        rotations: that are tried beside none, spread evenly over all of them.
        coarse: points of each surface while they are tried.
        refined: the best so many are refined by ICP.
        steps: of ICP at most.
        samples: points of each surface that are compared.
        taus: of the F-scores, where the true box's longest side is 2.
    """

    version: str = "aligned-1"
    rotations: int = 576
    coarse: int = 400
    refined: int = 12
    steps: int = 60
    samples: int = 16_000
    taus: tuple[float, ...] = (0.1, 0.2, 0.5)


def compare_aligned(mesh: Mesh, truth: Mesh, protocol: AlignedProtocol | None = None) -> Metrics:
    """Chamfer distance and F-scores after the alignment that makes the distance least.

    Args:
        mesh: the result, with some area, in any pose and of any size.
        truth: the true mesh, with some area.
        protocol: by default `AlignedProtocol()`.

    Returns:
        `aligned.CD`: the sum of both mean nearest distances; `aligned.F@0.1` and so on.
    """
    protocol = protocol or AlignedProtocol()
    source, target = (_samples(m, protocol.samples, seed) for seed, m in enumerate((mesh, truth)))
    used = truth.vertices[truth.faces.unique()]
    target = target * (2 / float((used.amax(0) - used.amin(0)).max()))
    source = source * (_spread(target) / _spread(source))
    placed = source @ (motion := align(source, target, protocol))[:3, :3].T + motion[:3, 3]
    scores: Metrics = {}
    for tau in protocol.taus:
        scores["aligned.CD"], scores[f"aligned.F@{tau:g}"] = compare_points(placed, target, tau)
    return scores


def align(source: Points, target: Points, protocol: AlignedProtocol) -> Points:
    """The rigid motion [4, 4] that brings points [N, 3] nearest to others [M, 3], of rotations all over.

    Points should be in random order: the first of them stand for all.
    """
    few, some = source[: protocol.coarse], target[: protocol.coarse]
    tree = cKDTree(some)
    tried = np.concatenate([np.eye(3)[None], spread_rotations(protocol.rotations)])
    middle = few.mean(0)
    costs = []
    for R in tried:
        turned = (few - middle) @ R.T + some.mean(0)
        costs.append(np.mean(tree.query(turned)[0]) + np.mean(cKDTree(turned).query(some)[0]))
    dense = cKDTree(target[: 10 * protocol.coarse])
    moving = source[: 5 * protocol.coarse]
    best, motion = np.inf, np.eye(4)
    for k in {0, *np.argsort(costs)[: protocol.refined].tolist()}:
        start = np.eye(4)
        start[:3, :3] = tried[k]
        start[:3, 3] = some.mean(0) - tried[k] @ middle
        candidate = icp(moving, dense, start, protocol.steps)
        placed = moving @ candidate[:3, :3].T + candidate[:3, 3]
        cost = compare_points(placed, np.asarray(dense.data), 1.0)[0]
        if cost < best:
            best, motion = cost, candidate
    return motion


def icp(source: Points, target: cKDTree, start: Points, steps: int) -> Points:
    """Iterative closest points (Besl and McKay 1992), rigid: from one motion [4, 4] to a better one.

    Args:
        source: [N, 3], moved.
        target: of the points that they come near to.
        start: the motion that begins.
        steps: at most; it also ends where the mean distance no longer falls.
    """
    motion, before = start, np.inf
    for _ in range(steps):
        placed = source @ motion[:3, :3].T + motion[:3, 3]
        distance, nearest = target.query(placed)
        error = float(np.square(distance).mean())
        if error >= before * (1 - 1e-5):
            break
        before, motion = error, _procrustes(source, np.asarray(target.data)[nearest])
    return motion


def spread_rotations(count: int) -> Points:
    """`count` rotation matrices [count, 3, 3] all over (super-Fibonacci spirals, Alexa 2022)."""
    phi, psi = np.sqrt(2.0), 1.533751168755204288118041
    s = np.arange(count) + 0.5
    r, R = np.sqrt(s / count), np.sqrt(1 - s / count)
    a, b = 2 * np.pi * s / phi, 2 * np.pi * s / psi
    quats = np.stack([r * np.sin(a), r * np.cos(a), R * np.sin(b), R * np.cos(b)], -1)
    return np.asarray(Rotation.from_quat(quats).as_matrix())


def _procrustes(source: Points, target: Points) -> Points:
    """The rigid motion [4, 4] of least squared distances between paired points (Kabsch 1976)."""
    a, b = source.mean(0), target.mean(0)
    U, _, Vt = np.linalg.svd((target - b).T @ (source - a))
    mirror = np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))])
    motion = np.eye(4)
    motion[:3, :3] = U @ mirror @ Vt
    motion[:3, 3] = b - motion[:3, :3] @ a
    return motion


def _spread(points: Points) -> float:
    """Root mean square distance from their mean."""
    return float(np.sqrt(np.square(points - points.mean(0)).sum(1).mean()))


def _samples(mesh: Mesh, count: int, seed: int) -> Points:
    points, _ = sample_surface(mesh, count, seed)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return points[order].double().numpy()
