"""Hull -> surface: a NeuS whose network is two voxel grids, one of signed distance and one of colour.

The hull bounds the object and starts the field, so the fit only has to repair what silhouettes cannot show:
concave sides, and views that disagree. Coarse stages carve, fine ones follow the outlines; what a coarse one
hands on is its correction of the hull, so that parts thinner than its voxels are not lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.cameras import Cameras
from v3d.runtime import tune_malloc
from v3d.surface import regularize
from v3d.surface.grid import Grid, empty_grid, gather, trilinear
from v3d.surface.render import Rays, camera_rays, closest_pass, first_hit, neus_opacity, neus_weights
from v3d.views import Views

WINDOW_STEP = 0.75  # voxels between samples along a ray
RELOCATE_EVERY = 100  # steps between looking where the surface is
COLOR_FIRST = 40  # steps before the surface moves: colours that are still wrong would push it outward
MARGIN = 4.0  # coarsest voxels around the hull
REGULARIZE_EVERY = 4  # steps; dense losses change slowly, and cost as much as the rendering
BAND = 6.0  # voxels on either side of the surface in which the regularizers act


@dataclass(frozen=True)
class Level:
    """One resolution of the fit.

    Attributes:
        voxel: node distance, in footprints of a training pixel at the object.
        steps: gradient steps.
        soft: widths of the soft shell at the first and the last step, in voxels (NeuS's 1/s, on a schedule
            instead of learned).
    """

    voxel: float
    steps: int
    soft: tuple[float, float]


@dataclass(frozen=True)
class SurfaceSettings:
    """Settings of `fit_surface`; weights multiply the losses of the same name.

    Attributes:
        image_size: views are reduced to at most this many pixels, or as many fewer as keep the lattice within
            `nodes`; finer images than voxels only add noise.
        nodes: of the finest lattice, at most; thin and small objects are fitted at a finer scale than large ones.
        rays: per step, of the object's inside and of its outline each.
        samples: per ray, `WINDOW_STEP` voxels apart around the surface.
        sobolev: box-filter passes over the gradient of the distance field.
        slack: how far the surface may leave the hull outward, in footprints of a training pixel; views that
            disagree make the hull too small.
        distance_rate: learning rate of the distance, voxels per step.
        color_rate: learning rate of the colour logits.
    """

    stages: tuple[Level, ...] = (Level(1.0, 300, (0.8, 0.35)),)
    image_size: int = 256
    nodes: int = 600_000
    rays: int = 2048
    samples: int = 10
    sobolev: int = 4
    slack: float = 1.0
    distance_rate: float = 0.03
    color_rate: float = 0.1
    rgb: float = 10.0
    mask: float = 1.0
    eikonal: float = 0.02
    laplacian: float = 0.1
    normal: float = 0.2


@dataclass(frozen=True)
class _Pixels:
    """What the rays should show: flattened images [V*H*W, ...]; `edge` marks the silhouettes' borders."""

    rgb: Tensor
    alpha: Tensor
    edge: Tensor
    normal: Tensor | None


def fit_surface(
    views: Views,
    hull: Grid,
    settings: SurfaceSettings | None = None,
    *,
    normals: Tensor | None = None,
    on_step: OnStep | None = None,
    seed: int = 0,
) -> Grid:
    """Fit a signed distance field to the views, starting from their hull.

    Minimises L1 of colour, cross-entropy of the mask, the eikonal and Laplacian losses and, if `normals` are
    given, 1 - cos between them and the field's gradient.

    Args:
        normals: [V, H, W, 3] world-space unit normals of the views' pixels, 0 where unknown.
        on_step: called with (steps done, steps in all) after every step.
        seed: of the choice of rays; the result is the same for the same seed on the same machine.

    Returns:
        The field over the hull's box, at the last stage's resolution.
    """
    settings = settings or SurfaceSettings()
    tune_malloc()
    size = _image_size(views.cameras, hull, settings)
    small = views.resized(size) if max(views.cameras.width, views.cameras.height) > size else views
    pixels = _pixels(small, normals)
    rays = camera_rays(small.cameras, ((small.alpha > 0.5).flatten() | pixels.edge).view_as(small.alpha))
    generator = torch.Generator().manual_seed(seed)
    total, done = sum(stage.steps for stage in settings.stages), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, total)

    footprint = _footprint(small.cameras, hull)
    low, high = _box(hull, MARGIN * footprint * max(stage.voxel for stage in settings.stages))
    sdf = color = correction = None
    for stage in settings.stages:
        voxel = stage.voxel * footprint
        lattice = empty_grid(_shape(low, high, voxel), low, voxel)
        points = lattice.points()
        told = hull.sample(points)
        if correction is None or color is None:
            start, color = told, torch.zeros(told.numel(), 3, device=told.device)
        else:
            start = told + correction.sample(points)
            index, weight = trilinear(
                correction.shape, correction.origin, correction.voxel, points.reshape(-1, 3)
            )
            color = gather(color, index, weight)
        lattice = replace(lattice, values=start)
        floor = told - settings.slack * footprint
        sdf = _fit_stage(lattice, floor, color, stage, small.cameras, rays, pixels, settings, generator, tick)
        correction = replace(sdf, values=sdf.values - told)
    assert sdf is not None
    return sdf


def _fit_stage(
    sdf: Grid,
    floor: Tensor,
    color: Tensor,
    stage: Level,
    cameras: Cameras,
    rays: Rays,
    pixels: _Pixels,
    settings: SurfaceSettings,
    generator: torch.Generator,
    tick: Callable[[], None],
) -> Grid:
    """Fit the field at one resolution; `color` [N, 3] (logits on the same lattice) is fitted in place."""
    device = sdf.values.device
    values = sdf.values.reshape(-1, 1).clone().requires_grad_()
    color.requires_grad_()
    field = values.detach().view(sdf.shape)  # shares memory with the parameter
    current = replace(sdf, values=field)
    filters = regularize.box_filters(sdf.shape, settings.sobolev, device)
    adam = torch.optim.Adam([color], betas=(0.9, 0.99), fused=True)
    velocity, power = torch.zeros_like(field), 0.0
    alpha = pixels.alpha[rays.pixel]
    for step in range(stage.steps):
        progress = step / stage.steps
        decay = 0.1 ** (max(progress - 0.4, 0) / 0.6)
        soft = sdf.voxel * stage.soft[0] * (stage.soft[1] / stage.soft[0]) ** progress
        if step % RELOCATE_EVERY == 0:
            hit = first_hit(current, cameras, rays)
            band = regularize.band(field, BAND * sdf.voxel)
            share = float(band.max())  # 1 / (nodes in the band)
            solid = _Shuffle(((alpha > 0.99) & (hit > 0)).nonzero()[:, 0], generator)
            edge = _Shuffle(
                (pixels.edge[rays.pixel] | ((alpha > 0.5) & (hit == 0))).nonzero()[:, 0], generator
            )
            deepest = torch.zeros_like(hit)
            deepest[edge.items] = closest_pass(current, rays[edge.items])

        chosen = solid.next(settings.rays)
        jitter = torch.rand(len(chosen), 1, generator=generator).to(device)
        window = torch.arange(settings.samples, device=device) - 0.4 * settings.samples + jitter - 0.5
        along = hit[chosen, None] + WINDOW_STEP * sdf.voxel * window
        loss = _surface_loss(current, values, color, rays[chosen], along, soft, pixels, settings)
        chosen = edge.next(settings.rays)
        points = rays[chosen].at(deepest[chosen, None])[:, 0]
        nearest = gather(values, *trilinear(sdf.shape, sdf.origin, sdf.voxel, points))[:, 0]
        opacity = neus_opacity(nearest, soft).clamp(1e-3, 1 - 1e-3)
        outline = F.binary_cross_entropy(opacity, alpha[chosen], reduction="sum") / settings.rays
        loss = loss + settings.mask * outline

        values.grad = None
        adam.zero_grad()
        loss.backward()
        assert values.grad is not None
        gradient = values.grad.view(sdf.shape)
        if step % REGULARIZE_EVERY == 0:
            regularize.add_gradients(
                gradient,
                field,
                sdf.voxel,
                band,
                eikonal=REGULARIZE_EVERY * settings.eikonal,
                laplacian=REGULARIZE_EVERY * settings.laplacian,
            )
        gradient = regularize.sobolev(gradient, filters)
        # One step size for the whole field: Adam's own for every node would blow the noise on sides
        # that no camera sees up to full steps.
        velocity.lerp_(gradient, 0.1)
        flat = gradient.flatten()  # the few nodes with a gradient outside the band hardly count
        power += 0.02 * (float(flat @ flat) * share - power)
        rms = (power / (1 - 0.98 ** (step + 1))) ** 0.5
        rate = settings.distance_rate * sdf.voxel * decay
        if step >= COLOR_FIRST:
            field -= (velocity * (rate / max(rms, 1e-20))).clamp_(-5 * rate, 5 * rate)
            torch.maximum(field, floor, out=field)
        adam.param_groups[0]["lr"] = settings.color_rate * decay
        adam.step()
        tick()
    color.requires_grad_(False)
    return current


class _Shuffle:
    """Items in random order, again and again."""

    def __init__(self, items: Tensor, generator: torch.Generator) -> None:
        self.items = items
        self._generator = generator
        self._order = torch.empty(0, dtype=torch.int64)

    def next(self, count: int) -> Tensor:
        """The next `count` items, or all of them if there are fewer."""
        count = min(count, len(self.items))
        if len(self._order) < count:
            self._order = torch.randperm(len(self.items), generator=self._generator)
        chosen, self._order = self._order[:count], self._order[count:]
        return self.items[chosen.to(self.items.device)]


def _surface_loss(
    lattice: Grid,
    values: Tensor,
    color: Tensor,
    rays: Rays,
    along: Tensor,
    soft: float,
    pixels: _Pixels,
    settings: SurfaceSettings,
) -> Tensor:
    """Colour and normal losses of rays that hit the object, sampled at distances `along` [N, S].

    Their weights are made to add up to 1: these pixels are covered entirely, whatever the window shows.
    """
    count, samples = along.shape
    index, corner = trilinear(lattice.shape, lattice.origin, lattice.voxel, rays.at(along).view(-1, 3))
    weight = neus_weights(gather(values, index, corner).view(count, samples), soft)
    weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-3)

    used = (weight.detach().view(-1) > 2e-3).nonzero()[:, 0]  # colour only where it is visible
    emitted = gather(color, index[used], corner[used]).sigmoid() * weight.view(-1)[used, None]
    rgb = torch.zeros(count, 3, device=color.device).index_add(0, used // samples, emitted)
    loss = settings.rgb * (rgb - pixels.rgb[rays.pixel]).abs().sum() / (3 * settings.rays)
    if pixels.normal is not None:
        target = pixels.normal[rays.pixel]
        expected = (weight.detach() * along).sum(1, keepdim=True)
        slope = _slope(lattice, values, rays.at(expected)[:, 0])
        cosine = F.cosine_similarity(slope, target, dim=1)
        loss = loss + settings.normal * ((1 - cosine) * (target.abs().sum(1) > 0)).sum() / settings.rays
    return loss


def _slope(lattice: Grid, values: Tensor, points: Tensor) -> Tensor:
    """Central differences [P, 3] of the field at points [P, 3], a voxel to either side, times two voxels."""
    step = lattice.voxel * torch.eye(3, device=points.device)
    around = torch.cat([points[:, None] + step, points[:, None] - step], dim=1)
    index, corner = trilinear(lattice.shape, lattice.origin, lattice.voxel, around.view(-1, 3))
    ahead, behind = gather(values, index, corner).view(-1, 2, 3).unbind(1)
    return ahead - behind


def _pixels(views: Views, normals: Tensor | None) -> _Pixels:
    """Flattened images, and normals reduced to the same size."""
    if normals is not None:
        size = (views.cameras.height, views.cameras.width)
        normals = F.interpolate(
            normals.permute(0, 3, 1, 2), size, mode="bilinear", antialias=True, align_corners=False
        )
        normals = F.normalize(normals.permute(0, 2, 3, 1), dim=-1).reshape(-1, 3)
    alpha = views.alpha.clamp(0, 1)
    grown = F.max_pool2d(alpha[:, None], 5, stride=1, padding=2)
    shrunk = -F.max_pool2d(-alpha[:, None], 5, stride=1, padding=2)
    edge = (grown > 0.02) & (shrunk < 0.98)
    return _Pixels(views.rgb.reshape(-1, 3), alpha.flatten(), edge.flatten(), normals)


def _footprint(cameras: Cameras, hull: Grid) -> float:
    """Size of a pixel at the hull's centre, averaged over the cameras."""
    low, high = hull.bounds
    _, depth = cameras.project((low + high)[None] / 2)
    return float((depth[:, 0] / cameras.K[:, 0, 0]).mean())


def _image_size(cameras: Cameras, hull: Grid, settings: SurfaceSettings) -> int:
    """The most pixels, up to `settings.image_size`, at which the finest lattice stays within `settings.nodes`."""
    voxels = [stage.voxel for stage in settings.stages]
    for size in range(settings.image_size, 16, -4):
        footprint = _footprint(cameras.resized(size, size), hull)
        low, high = _box(hull, MARGIN * footprint * max(voxels))
        if math.prod(_shape(low, high, footprint * min(voxels))) <= settings.nodes:
            return size
    return 16


def _box(hull: Grid, margin: float) -> tuple[Tensor, Tensor]:
    """Low and high corners [3] of the hull's inside, widened by `margin`."""
    inside = (hull.values < 0).nonzero()
    low = hull.origin + hull.voxel * inside.amin(0) - margin
    high = hull.origin + hull.voxel * inside.amax(0) + margin
    return low, high


def _shape(low: Tensor, high: Tensor, voxel: float) -> list[int]:
    """Nodes along every axis of a lattice over the box."""
    return (((high - low) / voxel).ceil().long() + 1).tolist()
