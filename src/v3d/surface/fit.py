"""Hull -> surface: NeuS (the paper's mesh stage) with two voxel grids in place of its networks.

One grid holds signed distance, the other colour. The hull bounds the object and starts the field, so the fit
only has to repair what silhouettes cannot show: concave sides, and views that disagree. Coarse levels carve,
fine ones follow the silhouettes; what a coarse one hands on is its correction of the hull, so that parts
thinner than its voxels survive. The losses of rays are in `v3d.surface.losses`, those of the field alone in
`v3d.surface.regularize`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.cameras import Cameras
from v3d.runtime import tune_malloc
from v3d.surface import regularize
from v3d.surface.grid import Grid, empty_grid, gather
from v3d.surface.losses import Targets, silhouette_loss, surface_loss, targets_of
from v3d.surface.render import closest_pass, first_hit
from v3d.surface.settings import Level, SurfaceSettings
from v3d.views import Views

WINDOW_STEP = 0.75
"""Voxels between samples along a ray."""
RELOCATE_EVERY = 100
"""Steps between two searches for the surface along the rays."""
COLOR_FIRST = 40
"""Steps before the surface moves: colours that are still wrong would push it outward."""
MARGIN = 4.0
"""Voxels of the coarsest level around the hull's inside."""
REGULARIZE_EVERY = 4
"""Steps between two gradients of the regularizers, which change slowly and cost as much as the rendering."""
BAND = 6.0
"""Voxels on either side of the surface in which the regularizers act."""


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
        views: of any aspect; on the hull's device.
        hull: of the views, with something inside (see `v3d.surface.carving.carve`).
        settings: by default `SurfaceSettings()`.
        normals: [V, H, W, 3] world-space unit normals of the views' pixels, 0 where unknown.
        on_step: called with (steps done, steps in all) after every step.
        seed: of the choice of rays; the result is the same for the same seed on the same machine.

    Returns:
        The field over the box of the hull's inside, widened by `MARGIN`, at the last level's resolution.

    Raises:
        V3DError: the field lost its surface.
    """
    settings = settings or SurfaceSettings()
    tune_malloc()
    targets = targets_of(views.reduced(_image_size(views.cameras, hull, settings)), normals)
    generator = torch.Generator().manual_seed(seed)
    total, done = sum(level.steps for level in settings.levels), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if on_step is not None:
            on_step(done, total)

    footprint = _footprint(targets.cameras, hull)
    low, high = _box(hull, MARGIN * footprint * max(level.voxel for level in settings.levels))
    sdf = color = correction = None
    for level in settings.levels:
        voxel = level.voxel * footprint
        lattice = empty_grid(_shape(low, high, voxel), low, voxel)
        points = lattice.points()
        carved = hull.sample(points)
        if correction is None or color is None:
            start, color = carved, torch.zeros(carved.numel(), 3, device=carved.device)
        else:
            start = carved + correction.sample(points)
            color = gather(color, *correction.around(points.reshape(-1, 3)))
        lattice = replace(lattice, values=start)
        floor = carved - settings.slack * footprint
        sdf = _fit_level(lattice, floor, color, level, targets, settings, generator, tick)
        correction = replace(sdf, values=sdf.values - carved)
    assert sdf is not None, "the settings have no level"
    return sdf


def _fit_level(
    sdf: Grid,
    floor: Tensor,
    color: Tensor,
    level: Level,
    targets: Targets,
    settings: SurfaceSettings,
    generator: torch.Generator,
    tick: Callable[[], None],
) -> Grid:
    """Fit the field at one resolution.

    Args:
        floor: [X, Y, Z] the least value of every node.
        color: [N, 3] logits of the N nodes, fitted in place.
    """
    device = sdf.values.device
    values = sdf.values.reshape(-1, 1).clone().requires_grad_()
    color.requires_grad_()
    field = values.detach().view(sdf.shape)  # shares memory with the parameter
    current = replace(sdf, values=field)
    filters = regularize.box_filters(sdf.shape, settings.sobolev, device)
    adam = torch.optim.Adam([color], betas=(0.9, 0.99), fused=True)
    momentum = _Momentum(field)
    for step in range(level.steps):
        progress = step / level.steps
        decay = 0.1 ** (max(progress - 0.4, 0) / 0.6)
        softness = sdf.voxel * level.softness[0] * (level.softness[1] / level.softness[0]) ** progress
        if step % RELOCATE_EVERY == 0:
            located = _Located.find(current, targets, generator)

        chosen = located.inside.next(settings.rays)
        jitter = torch.rand(len(chosen), 1, generator=generator).to(device)
        window = torch.arange(settings.samples, device=device) - 0.4 * settings.samples + jitter - 0.5
        along = located.hit[chosen, None] + WINDOW_STEP * sdf.voxel * window
        loss = surface_loss(current, values, color, targets, chosen, along, softness, settings)
        chosen = located.edge.next(settings.rays)
        closest = located.closest[chosen]
        loss = loss + silhouette_loss(current, values, targets, chosen, closest, softness, settings)

        values.grad = None
        adam.zero_grad()
        torch.autograd.backward(loss)
        assert values.grad is not None
        gradient = values.grad.view(sdf.shape)
        if step % REGULARIZE_EVERY == 0:
            eikonal, laplacian = (REGULARIZE_EVERY * w for w in (settings.eikonal, settings.laplacian))
            regularize.add_gradients(
                gradient, field, sdf.voxel, located.band, eikonal=eikonal, laplacian=laplacian
            )
        # The mean square is over the band: few nodes outside it have a gradient.
        momentum.watch(regularize.sobolev(gradient, filters), float(located.band.max()))
        if step >= COLOR_FIRST:
            field -= momentum.step(settings.distance_rate * sdf.voxel * decay)
            torch.maximum(field, floor, out=field)
        adam.param_groups[0]["lr"] = settings.color_rate * decay
        adam.step()
        tick()
    color.requires_grad_(False)
    return current


@dataclass(frozen=True)
class _Located:
    """Where the surface is while the field is fitted, found anew every `RELOCATE_EVERY` steps.

    Attributes:
        band: [X-2, Y-2, Z-2] weights of the nodes near the surface.
        hit: [N] distance along every ray to the surface, 0 for a miss.
        closest: [N] distance along the rays of `edge` to where they pass deepest inside the surface.
        inside: rays that show the object entirely, and hit it.
        edge: rays at the border of a silhouette, and those that should hit but miss.
    """

    band: Tensor
    hit: Tensor
    closest: Tensor
    inside: _Shuffle
    edge: _Shuffle

    @classmethod
    def find(cls, sdf: Grid, targets: Targets, generator: torch.Generator) -> _Located:
        """Locate the surface of the field as it is now."""
        hit = first_hit(sdf, targets.cameras, targets.rays)
        inside = ((targets.alpha > 0.99) & (hit > 0)).nonzero()[:, 0]
        edge = (targets.edge | ((targets.alpha > 0.5) & (hit == 0))).nonzero()[:, 0]
        closest = torch.zeros_like(hit)
        closest[edge] = closest_pass(sdf, targets.rays[edge])
        band = regularize.band(sdf.values, BAND * sdf.voxel)
        return cls(band, hit, closest, _Shuffle(inside, generator), _Shuffle(edge, generator))


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


class _Momentum:
    """Adam with one step size for the whole field.

    Adam's own for every node would blow the noise on sides that no camera sees up to full steps.
    """

    def __init__(self, field: Tensor) -> None:
        self._velocity = torch.zeros_like(field)
        self._mean_square = 0.0
        self._steps = 0

    def watch(self, gradient: Tensor, share: float) -> None:
        """Take in the gradient [X, Y, Z]; `share` is one over the number of nodes that have one."""
        self._velocity.lerp_(gradient, 0.1)
        flat = gradient.flatten()
        self._mean_square += 0.02 * (float(flat @ flat) * share - self._mean_square)
        self._steps += 1

    def step(self, rate: float) -> Tensor:
        """What to subtract from the field [X, Y, Z]: `rate` long on average, at most five times as long."""
        rms: float = (self._mean_square / (1 - 0.98**self._steps)) ** 0.5
        return (self._velocity * (rate / max(rms, 1e-20))).clamp_(-5 * rate, 5 * rate)


def _footprint(cameras: Cameras, hull: Grid) -> float:
    """Size of a pixel at the hull's centre, averaged over the cameras."""
    low, high = hull.bounds
    _, depth = cameras.project((low + high)[None] / 2)
    return float((depth[:, 0] / cameras.K[:, 0, 0]).mean())


def _image_size(cameras: Cameras, hull: Grid, settings: SurfaceSettings) -> int:
    """Pixels of the longer side, up to `settings.image_size`, at which the lattice stays within its nodes."""
    voxels = [level.voxel for level in settings.levels]
    for size in range(settings.image_size, 16, -4):
        footprint = _footprint(cameras.reduced(size), hull)
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
    shape: list[int] = (((high - low) / voxel).ceil().long() + 1).tolist()
    return shape
