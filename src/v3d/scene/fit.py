"""Gaussians of a scene, fitted to given and generated views: the paper ends with the views.

Unlike an object, a scene has no mask and fills its images, near things and the sky alike. Initial Gaussians
stand where the given views agree and, outside of these, at the depths of the generated views; the rest begins
on a far shell.
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
from v3d.splats.fit import FitSettings, OnSplats, fit
from v3d.splats.gaussians import Splats, morton_order
from v3d.views import Views

NEAR, FAR = 0.3, 12.0
"""Nearest depth searched and the radius of the far shell, where the farthest camera stands at 1.5."""
R = 1.5  # voxels have one size within this radius and grow beyond it
OPACITY = 0.5  # of initial Gaussians
GENERATED_SHARE = 2.0  # all generated views together are sampled as often as this many photos
CLEAR = 0.2  # no camera stands in matter: within this distance of each there are no Gaussians
BEHIND = 1.1  # times a photo's depth: nearer points may belong to the surface that the photo shows


@dataclass(frozen=True)
class SceneFitSettings:
    """How Gaussians of a scene are fitted; the defaults suit a few dozen views of 128 to 256 px.

    Attributes:
        points: number of initial Gaussians at most.
        fit: settings of the optimisation; opacity has no penalty, since a scene is opaque.
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
    on_splats: OnSplats | None = None,
    seed: int = 0,
) -> Splats:
    """Fit Gaussians to all views of a scene. Alpha is ignored: every pixel shows something.

    Photos do not err, generated views do: all of these together are sampled as often as two photos.

    Args:
        given: photos, with cameras in the normalised world (`v3d.scene.normalise`).
        generated: views of any other image size, with cameras in that world.
        depth: [G, h, w] camera z of the generated views, 0 where unknown.
        settings: `SceneFitSettings` by default.
        perceptual: a network for a perceptual term of the loss, see `v3d.splats.fit.fit`.
        on_step: called with the iterations done and the iterations in all.
        on_splats: called with the Gaussians after every iteration.
        seed: of the order of the views, and of random depths.

    Returns:
        Gaussians in the normalised world, on the device of `given`.
    """
    settings = settings or SceneFitSettings()
    initial = initial_scene(given, generated, depth, settings.points, seed=seed)
    centers = torch.cat([views.cameras.centers for views in (given, generated) if views is not None])
    groups, shares = [given], [1.0] * len(given)
    if generated is not None:
        groups.append(generated)
        shares += [GENERATED_SHARE / len(generated)] * len(generated)
    splats = fit(
        [replace(group, alpha=torch.ones_like(group.alpha)) for group in groups],
        _clear_of(centers, initial),
        settings.fit,
        shares=shares,
        perceptual=perceptual,
        on_step=on_step,
        on_splats=on_splats,
        seed=seed,
    )
    return _clear_of(centers, splats)


def _clear_of(centers: Tensor, splats: Splats) -> Splats:
    """The Gaussians without those right in front of a camera at `centers` [V, 3]: these fog its view."""
    return splats[torch.cdist(splats.means, centers.to(splats.means)).amin(1) > CLEAR]


def initial_scene(
    given: Views,
    generated: Views | None = None,
    depth: Tensor | None = None,
    count: int = 20_000,
    *,
    seed: int = 0,
) -> Splats:
    """At most `count` round initial Gaussians, nine in ten at estimated depths, the others on the far shell.

    Depths come from a plane sweep over the given views, where there are several, and from `depth` outside of
    these: in front of a photo's surfaces, points at wrong depths would stay as floaters. Where nothing has a
    depth, points are spread along the rays.

    Args:
        given: photos, with cameras in the normalised world.
        generated: views with cameras in that world.
        depth: [G, h, w] camera z of the generated views, 0 where unknown.
        seed: of random depths.
    """
    parts: list[tuple[_Points, _Points]] = []  # at estimated depths, on the shell
    if len(given) > 1:
        z = sweep_depth(given, near=NEAR, far=FAR)
        parts.append((_unproject(given, z), _onto_shell(given, z)))
    if generated is not None and depth is not None:
        more = _unproject(generated, depth), _onto_shell(generated, depth)
        if parts:
            more = more[0][_hidden(more[0].means, given, z)], more[1][_hidden(more[1].means, given, z)]
        parts.append(more)
    if not sum(len(near.means) for near, _ in parts):
        z = _random_depth(given, seed)
        parts = [(_unproject(given, z), _onto_shell(given, z))]
    near, shell = (_cat(points) for points in zip(*parts, strict=True))
    return _round_splats(_cat([_thin(near, count * 9 // 10), _thin(shell, count // 10)]))


def _hidden(points: Tensor, photos: Views, depth: Tensor) -> Tensor:
    """Which points are outside of all photos or behind their surfaces, [P] of bool.

    Args:
        points: [P, 3].
        depth: [V, h, w] camera z of the photos; 0 counts as endlessly far.
    """
    at, z = photos.cameras.project(points)
    grid = photos.cameras.to_grid(at)  # [V, P, 2]
    surface = F.grid_sample(depth[:, None], grid[:, None], mode="nearest", align_corners=False)[:, 0, 0]
    outside = (grid.abs() >= 1).any(-1) | (z <= 0)
    behind = (surface > 0) & (z > BEHIND * surface)
    return (outside | behind).all(0)


@dataclass(frozen=True)
class _Points:
    """P coloured points.

    Attributes:
        means: [P, 3].
        rgb: [P, 3] in [0, 1].
        footprint: [P] size of the pixel that showed the point, at its depth.
    """

    means: Tensor
    rgb: Tensor
    footprint: Tensor

    def __getitem__(self, index: Tensor) -> _Points:
        return _Points(self.means[index], self.rgb[index], self.footprint[index])


def _unproject(views: Views, depth: Tensor) -> _Points:
    """A point for every pixel with a depth; `depth` [V, h, w] is 0 where there is none."""
    cameras, rgb = _at(views, depth)
    origins, directions = cameras.rays()
    has_depth = depth > 0
    footprint = depth / cameras.K[:, 0, 0][:, None, None]
    points = (origins + depth[..., None] * directions)[has_depth]
    return _Points(points, rgb[has_depth], footprint[has_depth])


def _onto_shell(views: Views, depth: Tensor) -> _Points:
    """A point on the far shell for every pixel without a depth."""
    cameras, rgb = _at(views, depth)
    _, directions = cameras.rays()
    no_depth = depth <= 0
    points = F.normalize(directions[no_depth], dim=-1) * FAR
    footprint = (FAR / cameras.K[:, 0, 0][:, None, None]).expand_as(depth)[no_depth]
    return _Points(points, rgb[no_depth], footprint)


def _cat(parts: Sequence[_Points]) -> _Points:
    """All points of several sets."""
    return _Points(*(torch.cat(tensors) for tensors in zip(*(vars(p).values() for p in parts), strict=True)))


def _at(views: Views, depth: Tensor) -> tuple[Cameras, Tensor]:
    """Cameras and colours of the views at the size of their depth maps."""
    height, width = depth.shape[1:]
    rgb = F.interpolate(views.rgb.permute(0, 3, 1, 2), (height, width), mode="bilinear", antialias=True)
    return views.cameras.resized(width, height), rgb.permute(0, 2, 3, 1)


def _random_depth(views: Views, seed: int, size: int = 64) -> Tensor:
    """Random depths [V, h, w], uniform in their logarithm between `NEAR` and `FAR`."""
    scale = min(1.0, size / max(views.cameras.width, views.cameras.height))
    h, w = round(views.cameras.height * scale), round(views.cameras.width * scale)
    share = torch.rand(len(views), h, w, generator=torch.Generator().manual_seed(seed))
    return (NEAR * (FAR / NEAR) ** share).to(views.rgb)


def _thin(points: _Points, count: int) -> _Points:
    """At most `count` points: the sharpest of every voxel. Voxels grow with the distance from the origin."""
    if len(points.means) <= count:
        return points
    points = points[points.footprint.argsort(stable=True)]
    radius = points.means.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    # Contraction of all space to a ball of radius 2 R that keeps the ball of radius R (Barron et al. 2022).
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
