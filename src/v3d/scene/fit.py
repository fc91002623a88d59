"""Gaussians of a scene, fitted to given and generated views (the paper's scenes end with views; this goes on).

Unlike an object, a scene has no mask and fills its images, near things and the sky alike. The first Gaussians
stand where the given views agree and, where none of them looks, where depth maps say; the rest begins on a far shell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.cameras import Cameras
from v3d.networks.perceptual import Perceptual
from v3d.scene.sweep import sweep_depth
from v3d.splats.densify import DensifySettings
from v3d.splats.fit import FitSettings, fit
from v3d.splats.gaussians import Splats, morton_order
from v3d.views import Views

NEAR, FAR = 0.3, 12.0
"""Nearest depth looked for and the radius of the far shell, in a world whose farthest camera stands at 1.5."""
R = 1.5  # voxels have one size within this radius and grow beyond it
OPACITY = 0.5  # at the start
TRUST = 2.0  # all generated views together are looked at as often as so many photos
CLEAR = 0.2  # no camera stands in matter: so far from each there are no Gaussians
BEHIND = 1.1  # times the depth that a photo shows; nearer points may be the same surface


@dataclass(frozen=True)
class SceneFitSettings:
    """Defaults suit a few dozen views of 128 to 256 px.

    Attributes:
        points: Gaussians at the start.
        fit: of the Gaussians; their opacity costs nothing, since a scene is opaque.
    """

    points: int = 20_000
    fit: FitSettings = field(
        default_factory=lambda: FitSettings(
            iterations=1500, opacity=0.0, densify=DensifySettings(split=0.03, max_count=60_000)
        )
    )


def fit_scene(
    given: Views,
    generated: Views | None = None,
    depth: Tensor | None = None,
    settings: SceneFitSettings | None = None,
    *,
    perceptual: Perceptual | None = None,
    on_step: OnStep | None = None,
    seed: int = 0,
) -> Splats:
    """Fit Gaussians to all views of a scene. Alpha is not looked at: every pixel shows something.

    Photos do not err, generated views do: all of these together are looked at as often as two photos.

    Args:
        given, generated: may differ in image size; cameras in the normalised world (`v3d.scene.normalise`).
        depth: [G, h, w] camera z of the generated views, 0 where unknown.

    Returns:
        Gaussians in the normalised world, on the device of `given`.
    """
    settings = settings or SceneFitSettings()
    initial = initial_scene(given, generated, depth, settings.points, seed=seed)
    centers = torch.cat([views.cameras.centers for views in (given, generated) if views is not None])
    groups, shares = [given], [1.0] * len(given)
    if generated is not None:
        groups.append(generated)
        shares += [TRUST / len(generated)] * len(generated)
    splats = fit(
        [replace(group, alpha=torch.ones_like(group.alpha)) for group in groups],
        _clear_of(centers, initial),
        settings.fit,
        shares=shares,
        perceptual=perceptual,
        on_step=on_step,
        seed=seed,
    )
    return _clear_of(centers, splats)


def _clear_of(centers: Tensor, splats: Splats) -> Splats:
    """Without the Gaussians that stand before a camera's lens [V, 3]: they would fog all it sees."""
    return splats[torch.cdist(splats.means, centers.to(splats.means)).amin(1) > CLEAR]


def initial_scene(
    given: Views,
    generated: Views | None = None,
    depth: Tensor | None = None,
    count: int = 20_000,
    *,
    seed: int = 0,
) -> Splats:
    """At most `count` round Gaussians: nine in ten at known depths, the others on the far shell.

    Depths come from a plane sweep over the given views, where there are several, and from `depth` where none of them
    looks: in front of what a photo shows, points that the model put wrong would stay hanging in the air. Where nothing
    has a depth, points are spread along the rays.
    """
    parts: list[tuple[_Points, _Points]] = []  # at known depths, on the shell
    if len(given) > 1:
        z = sweep_depth(given, near=NEAR, far=FAR)
        parts.append((_unproject(given, z), _onto_shell(given, z)))
    if generated is not None and depth is not None:
        more = _unproject(generated, depth), _onto_shell(generated, depth)
        parts.append(tuple(x[_hidden(x.means, given, z)] for x in more) if parts else more)  # type: ignore[arg-type]
    if not sum(len(near.means) for near, _ in parts):
        z = _random_depth(given, seed)
        parts = [(_unproject(given, z), _onto_shell(given, z))]
    near, shell = (_cat(points) for points in zip(*parts, strict=True))
    return _round_splats(_cat([_thin(near, count * 9 // 10), _thin(shell, count // 10)]))


def _hidden(points: Tensor, photos: Views, depth: Tensor) -> Tensor:
    """[P] which points are outside of all photos, or behind what these show at `depth` [V, h, w] (0: endlessly far)."""
    at, z = photos.cameras.project(points)
    grid = at / at.new_tensor([photos.cameras.width, photos.cameras.height]) * 2 - 1  # [V, P, 2]
    shown = F.grid_sample(depth[:, None], grid[:, None], mode="nearest", align_corners=False)[:, 0, 0]
    outside = (grid.abs() >= 1).any(-1) | (z <= 0)
    behind = (shown > 0) & (z > BEHIND * shown)
    return (outside | behind).all(0)


@dataclass(frozen=True)
class _Points:
    """P coloured points [P, 3] and the size [P] of the pixel that showed each, at its depth."""

    means: Tensor
    rgb: Tensor
    footprint: Tensor

    def __getitem__(self, index: Tensor) -> _Points:
        return _Points(self.means[index], self.rgb[index], self.footprint[index])


def _unproject(views: Views, depth: Tensor) -> _Points:
    """A point for every known depth [V, h, w]."""
    cameras, rgb = _at(views, depth)
    origins, directions = cameras.rays()
    known = depth > 0
    footprint = depth / cameras.K[:, 0, 0][:, None, None]
    return _Points((origins + depth[..., None] * directions)[known], rgb[known], footprint[known])


def _onto_shell(views: Views, depth: Tensor) -> _Points:
    """A point on the far shell for every pixel without a depth."""
    cameras, rgb = _at(views, depth)
    _, directions = cameras.rays()
    unknown = depth <= 0
    points = F.normalize(directions[unknown], dim=-1) * FAR
    footprint = (FAR / cameras.K[:, 0, 0][:, None, None]).expand_as(depth)[unknown]
    return _Points(points, rgb[unknown], footprint)


def _cat(parts: Sequence[_Points]) -> _Points:
    return _Points(*(torch.cat(tensors) for tensors in zip(*(vars(p).values() for p in parts), strict=True)))


def _at(views: Views, depth: Tensor) -> tuple[Cameras, Tensor]:
    """Cameras and colours of the views at the size of their depth maps."""
    height, width = depth.shape[1:]
    rgb = F.interpolate(views.rgb.permute(0, 3, 1, 2), (height, width), mode="bilinear", antialias=True)
    return views.cameras.resized(width, height), rgb.permute(0, 2, 3, 1)


def _random_depth(views: Views, seed: int, size: int = 64) -> Tensor:
    """[V, h, w] depths even in their logarithm."""
    scale = min(1.0, size / max(views.cameras.width, views.cameras.height))
    h, w = round(views.cameras.height * scale), round(views.cameras.width * scale)
    share = torch.rand(len(views), h, w, generator=torch.Generator().manual_seed(seed))
    return (NEAR * (FAR / NEAR) ** share).to(views.rgb)


def _thin(points: _Points, count: int) -> _Points:
    """At most `count` points: the sharpest of every voxel. Voxels grow with the distance from the cameras."""
    if len(points.means) <= count:
        return points
    points = points[points.footprint.argsort(stable=True)]
    radius = points.means.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    # All of space in a ball of radius 2 R, what is within R as it is (Barron et al. 2022).
    bounded = torch.where(radius > R, points.means / radius * (2 * R - R * R / radius), points.means)
    low, high = 0.0, 4 * R
    first = np.zeros(1, np.int64)
    for _ in range(16):
        voxel = (low + high) / 2
        cells = (bounded / voxel).floor().long().cpu().numpy()
        _, index = np.unique(cells, axis=0, return_index=True)
        if len(index) > count:
            low = voxel
        else:
            high, first = voxel, index
    return points[torch.from_numpy(first).to(points.means.device)]


def _round_splats(points: _Points) -> Splats:
    """Round Gaussians that reach their neighbours, and are no smaller than half a pixel."""
    points = points[morton_order(points.means)]
    xyz = points.means.cpu().numpy()
    distance, _ = cKDTree(xyz).query(xyz, k=min(4, len(xyz)))
    spacing = torch.from_numpy(np.atleast_2d(distance)[:, 1:].mean(-1)).to(points.means)
    sigma = torch.maximum(0.6 * spacing, 0.5 * points.footprint)
    n = len(xyz)
    return Splats(
        means=points.means,
        quats=torch.tensor([1.0, 0.0, 0.0, 0.0]).to(points.means).repeat(n, 1),
        log_scales=sigma.log()[:, None].repeat(1, 3),
        logit_opacity=torch.full((n,), OPACITY).logit().to(points.means),
        rgb=points.rgb,
    )
