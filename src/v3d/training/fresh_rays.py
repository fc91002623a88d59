"""Rays of orbits that are rendered while PixelNeRF trains, drawn and augmented on the training device.

Small random choices are made on the CPU, for a step's whole batch, of which each share takes its samples: so
nothing depends on how a batch is cut, and a GPU makes the choices that a CPU makes. All is in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from v3d.autocast import without_autocast
from v3d.cameras import Cameras
from v3d.data.fresh_orbits import PackedOrbits, depth_of_bytes
from v3d.networks.sources import Sources, camera_similarity
from v3d.training.appearance import Appearance, Uniform, noise_levels, softened
from v3d.training.processes import Processes
from v3d.training.rays import RayBatch, Squares, squares_of
from v3d.training.recipe import PixelNeRFRecipe
from v3d.training.ring import OrbitRing, make_job, rows_in
from v3d.training.task import BatchShare

KEPT, AROUND = 12, 4
"""Views of an orbit that are rendered, and views from random directions."""

_NEAR_OBJECT, _MARGIN = 0.7, 4.0  # share of rays in the object's box, which grows by so many pixels
_OPAQUE = 0.99  # where alpha is less, depth is one of several surfaces


@dataclass(frozen=True)
class Choice:
    """Which views B samples look at, and how they are turned.

    Attributes:
        rows: [B] of the ring.
        photos: [B, N] views that are photos, the front first.
        targets: [B, V] views whose rays are drawn.
        mirror: [B] whether left and right change places.
    """

    rows: Tensor
    photos: Tensor
    targets: Tensor
    mirror: Tensor

    @staticmethod
    def draw(rows: int, count: int, views: int, uniform: Uniform, *, any_front: bool) -> Choice:
        """Random views of random ones of `rows` orbits, with `count` photos."""
        any_view = (uniform() < 0.5) & any_front
        front = torch.where(any_view, (uniform() * KEPT).long(), 0)[:, None]
        others = (front + 1 + uniform(KEPT - 1).argsort(1)[:, : count - 1]) % KEPT
        targets = uniform(KEPT + AROUND).argsort(1)[:, :views]
        row = (uniform() * rows).long().clamp_max(rows - 1)
        return Choice(row, torch.cat([front, others], 1), targets, uniform() < 0.5)

    def first(self, count: int) -> Choice:
        """That of the first samples."""
        return Choice(*(getattr(self, f.name)[:count] for f in fields(self)))

    def cameras(self, orbits: PackedOrbits, views: Tensor) -> tuple[Tensor, Tensor]:
        """c2w [B, V, 4, 4] and K [B, V, 3, 3], in units of the image's side, of views [B, V].

        The world is turned about z until the front camera stands at azimuth 0, then mirrored.
        """
        rows = self.rows[:, None]
        c2w, K = orbits.c2w[rows, views], orbits.K[rows, views]
        x, y = orbits.c2w[self.rows, self.photos[:, 0], :2, 3].unbind(-1)
        radius = (x.square() + y.square()).sqrt()
        turn = torch.eye(4, device=c2w.device).repeat(len(c2w), 1, 1)
        turn[:, 0, 0] = turn[:, 1, 1] = x / radius
        turn[:, 0, 1], turn[:, 1, 0] = y / radius, -y / radius
        c2w = turn[:, None] @ c2w
        mirrored = Cameras(c2w.flatten(0, 1), K.flatten(0, 1), 1, 1).mirrored().c2w.view_as(c2w)
        return torch.where(self.mirror[:, None, None, None], mirrored, c2w), K


class FreshRays:
    """Batches of rays of fresh orbits (a `v3d.training.rays.RayData`).

    Attributes:
        ring: the orbits.
    """

    opaque = False
    metrics: tuple[str, ...] = ("alpha", "depth")

    def __init__(self, recipe: PixelNeRFRecipe, processes: Processes, workers: int) -> None:
        """Find the meshes; rendering begins with the first step.

        Args:
            recipe: what is trained, and how.
            processes: that train together.
            workers: processes that render for this one; 0 renders in it.

        Raises:
            V3DError: there are no meshes, or memory for orbits is too small.
        """
        self._recipe = recipe
        job = make_job(recipe.fresh, recipe.network.size, KEPT, AROUND, recipe.seed)
        rows = rows_in(recipe.fresh.orbit_gigabytes, job.layout.nbytes)
        self.ring = OrbitRing(job, rows, processes, workers)

    def batch_size(self, count: int) -> int:
        """Fewer sets of several photos, as each photo takes its memory and time."""
        return max(1, self._recipe.batch // count)

    def report(self) -> dict[str, float]:
        """How many orbits were rendered, and how many objects failed."""
        return self.ring.report

    def refresh(self) -> None:
        """Nothing: orbits arrive with the steps."""

    def close(self) -> None:
        """End the processes that render."""
        self.ring.close()

    @without_autocast
    def draw(self, share: BatchShare, count: int, generator: torch.Generator) -> RayBatch:
        """The share's samples, of `count` photos each."""
        self.ring.advance(share.step)
        r, orbits, device = self._recipe, self.ring.orbits, share.device

        def on_cpu(*shape: int) -> Tensor:
            return torch.rand(share.batch, *shape, generator=generator)[share.samples]

        def uniform(*shape: int) -> Tensor:
            return on_cpu(*shape).to(device)

        any_front = share.done < r.photos_only_after
        choice = Choice.draw(len(self.ring), count, r.views, uniform, any_front=any_front)
        appearance = Appearance.draw(uniform)
        photos = softened(self._photos(choice, appearance), uniform)
        photos = self._noisy(photos, choice.mirror, noise_levels(on_cpu).tolist(), share)
        source_c2w, source_K = choice.cameras(orbits, choice.photos)
        c2w, K = choice.cameras(orbits, choice.targets)
        w2c = Cameras(source_c2w.flatten(0, 1), source_K.flatten(0, 1), 1, 1).w2c.view_as(source_c2w)
        weights = _similarity(source_c2w, c2w) if count > 1 else torch.ones_like(w2c[..., :1, 0])
        sources = Sources(photos, w2c, source_K, weights)

        block = 1 if share.done >= r.full_size_after else r.network.size // r.pixels
        x, y = _pixels(self._boxes(choice) / block, r.network.size // block, r.rays, uniform)
        colours = appearance(self._pixel_means(choice, x, y, block))
        depth = depth_of_bytes(self._at(orbits.depth, choice, x * block + block // 2, y * block + block // 2))
        depth = torch.where(colours[..., 3] > _OPAQUE, depth, 0.0)
        rays = _rays(c2w, K, choice.mirror, x, y, r.network.size // block).flatten(1, 2)
        rays = torch.cat([rays, uniform(rays.shape[1], 1)], -1)
        truth = torch.cat([colours, depth[..., None]], -1).flatten(1, 2)

        n_squares = sum(j < squares_of(r, share) for j in share.samples)  # they come first
        squares = None
        if n_squares:
            first = choice.first(n_squares)
            squares = self._squares(
                first, appearance.first(n_squares), uniform(2)[:n_squares], weights, c2w, K
            )
        return RayBatch(sources, rays, truth, squares)

    def _photos(self, choice: Choice, appearance: Appearance) -> Tensor:
        """Photos [B, N, S, S, 4] in [0, 1], colour premultiplied by alpha.

        One photo of an orbit's own front is framed as photos are; of several, all have one scale.
        """
        orbits = self.ring.orbits
        images = orbits.images[choice.rows[:, None], choice.photos]
        if images.shape[1] == 1:
            own_front = (choice.photos == 0)[..., None, None, None]
            images = torch.where(own_front, orbits.photo[choice.rows][:, None], images)
        return appearance(images)

    def _noisy(self, photos: Tensor, mirror: Tensor, levels: list[float], share: BatchShare) -> Tensor:
        """Photos as PixelNeRF reads them, [B, N, 4, S, S] in [-1, 1], with noise of those levels [B]."""
        colour, alpha = photos.split([3, 1], -1)
        noise = torch.zeros_like(colour)
        for k, level in enumerate(levels):
            if level:
                g = share.sample_generator(share.samples[k], noise.device)
                noise[k] = level * torch.randn(noise.shape[1:], generator=g, device=noise.device)
        colour = (colour + noise * alpha).clamp(0, 1)
        x = torch.cat([(colour + 1 - alpha).clamp(0, 1), alpha], -1)
        x = torch.where(mirror[:, None, None, None, None], x.flip(3), x)
        return x.permute(0, 1, 4, 2, 3) * 2 - 1

    def _at(self, images: Tensor, choice: Choice, x: Tensor, y: Tensor) -> Tensor:
        """Pixels [B, V, ...] of the first V targets, at columns x and rows y [B, V, ...].

        `images` is [rows, views, S, S, ...].
        """
        more = [1] * (x.ndim - 2)
        views = choice.targets[:, : x.shape[1]]
        return images[choice.rows.view(-1, 1, *more), views.view(*views.shape, *more), y, x]

    def _pixel_means(self, choice: Choice, x: Tensor, y: Tensor, block: int) -> Tensor:
        """Colours [B, V, R, 4] in [0, 255] of pixels as large as `block` x `block` of the ring's."""
        images, total = self.ring.orbits.images, torch.zeros(*x.shape, 4, device=x.device)
        for k in range(block**2):
            total += self._at(images, choice, x * block + k % block, y * block + k // block)
        return total / block**2

    def _boxes(self, choice: Choice) -> Tensor:
        """[B, V, 4] where the targets show the object: left, top, right, bottom in pixels."""
        return self.ring.orbits.box[choice.rows[:, None], choice.targets]

    def _squares(
        self, choice: Choice, appearance: Appearance, corner: Tensor, weights: Tensor, c2w: Tensor, K: Tensor
    ) -> Squares:
        """A square of the first target of each of Q samples, whose middle is on the object's box."""
        q, size, side = len(corner), self._recipe.network.size, self._recipe.square
        low, high = self._boxes(choice)[:, 0].split(2, -1)
        left, top = (low + corner * (high - low) - side / 2).round().clamp(0, size - side).long().unbind(-1)
        k = torch.arange(side, device=corner.device)
        x = (left[:, None, None] + k[None, None]).expand(q, side, side)[:, None]
        y = (top[:, None, None] + k[None, :, None]).expand(q, side, side)[:, None]
        colour, alpha = appearance(self._at(self.ring.orbits.images, choice, x, y))[:, 0].split([3, 1], -1)
        rays = _rays(c2w[:q, :1], K[:q, :1], choice.mirror, x.flatten(2), y.flatten(2), size)
        return Squares(weights[:q, :, :1], rays[:, 0], colour + 1 - alpha)


def _similarity(photos: Tensor, views: Tensor) -> Tensor:
    """`v3d.networks.sources.camera_similarity` of c2w [B, N, 4, 4] and [B, V, 4, 4] -> [B, N, V]."""

    def of_set(photos: Tensor, views: Tensor) -> Tensor:
        return camera_similarity(Cameras(photos, photos, 1, 1), Cameras(views, views, 1, 1))

    weights: Tensor = torch.vmap(of_set)(photos, views)
    return weights


def _pixels(boxes: Tensor, size: int, rays: int, uniform: Uniform) -> tuple[Tensor, Tensor]:
    """Columns and rows [B, V, rays] of random pixels below `size`, most of them in or at boxes [B, V, 4]."""
    shape = (boxes.shape[1], rays, 2)
    low, high = boxes[:, :, None, :2] - _MARGIN, boxes[:, :, None, 2:] + _MARGIN
    inside = low + uniform(*shape) * (high - low)
    point = torch.where(uniform(*shape[:2], 1) < _NEAR_OBJECT, inside, uniform(*shape) * size)
    x, y = point.floor().clamp(0, size - 1).long().unbind(-1)
    return x, y


def _rays(c2w: Tensor, K: Tensor, mirror: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Rays [B, V, R, 6] (origins, directions of unit camera z) through the centres of pixels [B, V, R].

    `x` counts in the image as it was rendered; in a mirrored one the pixel stands at the other side.
    """
    x = torch.where(mirror[:, None, None], size - 1 - x, x)
    pixels = torch.stack([(x + 0.5) / size, (y + 0.5) / size, torch.ones_like(x, dtype=c2w.dtype)], -1)
    to_camera, _ = torch.linalg.inv_ex(K)  # `inv` would wait for the device, to look for an error
    directions = pixels @ to_camera.mT @ c2w[..., :3, :3].mT
    return torch.cat([c2w[..., None, :3, 3].expand_as(directions), directions], -1)
