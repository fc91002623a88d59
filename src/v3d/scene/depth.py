"""How far away is what posed photos show: the length by which a scene is scaled.

Cameras that look in parallel say nothing about it: a stereo pair sees a stage at ten times its baseline or at
a thousand. What they see does: the points of a COLMAP model, or features that two photos share, whose place
follows from their cameras.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from v3d.cameras import Cameras
from v3d.views import Views

_FEATURES = 2000  # of a photo
_PAIRS = 12
_RATIO = 0.8  # a match must be better than the second best by this factor (Lowe's test)
_OFF_LINE = 1.5  # pixels that a match may lie beside its epipolar line
_LEAST = 12  # matches that tell a depth
_FACING = 0.8  # cosine between two photos' axes: beyond it they hardly share anything

Array = NDArray[np.float64]


def content_depth(views: Views, points: Tensor | None = None) -> float | None:
    """The median camera z of what photos show, or None where nothing tells.

    Args:
        views: without lens distortion, in any world.
        points: [P, 3] of what they show, in their world, if the capture has any; features are matched
            otherwise.
    """
    depth = None if points is None else depth_of_points(views.cameras, points)
    return depth_of_matches(views) if depth is None else depth


def depth_of_points(cameras: Cameras, points: Tensor) -> float | None:
    """The median over cameras of the median camera z of the points [P, 3] in their images."""
    wide = Cameras(cameras.c2w.double(), cameras.K.double(), cameras.width, cameras.height)
    medians = []
    for v in range(len(wide)):
        pixels, z = wide[v].project(points.double())
        size = torch.tensor([cameras.width, cameras.height])
        seen = (z[0] > 0) & (pixels[0] > 0).all(-1) & (pixels[0] < size).all(-1)
        if int(seen.sum()) >= _LEAST:
            medians.append(float(z[0, seen].median()))
    return float(np.median(medians)) if medians else None


def depth_of_matches(views: Views) -> float | None:
    """The median camera z of features that neighbouring views share.

    The median is that of 1 / z, so that what is too far away to tell its distance counts as far.
    """
    if len(views) < 2:
        return None
    sift = cv2.SIFT.create(nfeatures=_FEATURES)
    found: dict[int, tuple[Array, NDArray[np.float32]]] = {}

    def features(v: int) -> tuple[Array, NDArray[np.float32]]:
        if v not in found:
            grey = cv2.cvtColor((views.rgb[v].numpy() * 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
            keys, descriptors = sift.detectAndCompute(grey, None)
            pixels = np.array([key.pt for key in keys], np.float64).reshape(-1, 2) + 0.5
            found[v] = pixels, np.asarray(descriptors if len(keys) else np.zeros((0, 128)), np.float32)
        return found[v]

    nearness = [
        _inverse_depths(views.cameras, a, b, *_matches(features(a), features(b)))
        for a, b in _pairs(views.cameras)
    ]
    values = np.concatenate(nearness) if nearness else np.zeros(0)
    if len(values) < _LEAST:
        return None
    median = float(np.median(values))
    return 1 / median if median > 0 else None


def _pairs(cameras: Cameras) -> Iterator[tuple[int, int]]:
    """Pairs of neighbouring cameras that look in about one direction, at most `_PAIRS`, evenly chosen."""
    centers, forward = cameras.centers.double(), cameras.c2w[:, :3, 2].double()
    pairs = set()
    for v in range(len(cameras)):
        distance = (centers - centers[v]).norm(dim=-1)
        unfit = (forward @ forward[v] < _FACING) | (distance <= 1e-9 * (1 + centers[v].norm()))
        distance = distance.masked_fill(unfit, torch.inf)
        if bool(torch.isfinite(distance).any()):
            other = int(distance.argmin())
            pairs.add((min(v, other), max(v, other)))
    ordered = sorted(pairs)
    return iter(ordered[:: -(-len(ordered) // _PAIRS)] if ordered else ())


def _matches(
    a: tuple[Array, NDArray[np.float32]], b: tuple[Array, NDArray[np.float32]]
) -> tuple[Array, Array]:
    """The pixels [M, 2] of features that two views share, in each of them."""
    if min(len(a[1]), len(b[1])) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(a[1], b[1], k=2)
    good = [best for best, second in pairs if best.distance < _RATIO * second.distance]
    return a[0][[m.queryIdx for m in good]].reshape(-1, 2), b[0][[m.trainIdx for m in good]].reshape(-1, 2)


def _inverse_depths(cameras: Cameras, a: int, b: int, in_a: Array, in_b: Array) -> Array:
    """1 / camera z in view `a` of the matches that lie on their epipolar lines, not positive behind it.

    A ray x of view `a` at 1 / z = q appears in view `b` at K (R x + q t): linear equations for q.
    """
    c2w, K = cameras.c2w.double().numpy(), cameras.K.double().numpy()
    w2b = np.linalg.inv(c2w[b])
    relative = w2b[:3, :3] @ c2w[a][:3, :3]
    t = w2b[:3, :3] @ (c2w[a][:3, 3] - c2w[b][:3, 3])
    rays = np.concatenate([in_a, np.ones((len(in_a), 1))], 1) @ np.linalg.inv(K[a]).T
    far, shift = rays @ relative.T @ K[b].T, K[b] @ t
    # Where each match would be at infinity, and which way it moves as it comes nearer.
    u = in_b * far[:, 2:] - far[:, :2]
    w = shift[:2] - in_b * shift[2]
    q = (u * w).sum(-1) / np.maximum((w * w).sum(-1), 1e-30)
    seen = far + q[:, None] * shift
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.linalg.norm(seen[:, :2] / seen[:, 2:] - in_b, axis=-1)
    kept: Array = q[(error < _OFF_LINE) & (seen[:, 2] > 0)]
    return kept
