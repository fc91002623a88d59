"""The differentiable CPU rasterizer: the kernels in their order, behind one torch function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from v3d.kernels.pool import pool
from v3d.splats.cpu.compositing import composite, composite_backward
from v3d.splats.cpu.projection import (
    CAMERA,
    PARTIAL,
    PROJECTED,
    TILE_HEIGHT,
    TILE_WIDTH,
    project,
    project_backward,
)
from v3d.splats.cpu.tiles import ENTRY, TILED, count_tiles, fill_tiles, list_entries, sort_by_depth


def rasterize_cpu(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacity: Tensor,
    colours: Tensor,
    screen: Tensor,
    w2c: Tensor,
    K: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render N Gaussians with one camera; differentiable in the first six arguments.

    Gaussians with NaN or infinite numbers are invisible and get zero gradients.

    Args:
        means: [N, 3] float32, world.
        quats: [N, 4] wxyz, any length.
        scales: [N, 3] standard deviations.
        opacity: [N] in [0, 1].
        colours: [N, 3].
        screen: [N, 2]; not read, it receives dL/d(projected centre), in pixels.
        w2c: [4, 4] world-to-camera.
        K: [3, 3] intrinsics in pixels.
        width, height: of the image in pixels.

    Returns:
        Colour [H, W, 3] over nothing, alpha [H, W], and depth [H, W], the sum of weight times camera z.
    """
    apply: Any = _Rasterize.apply  # torch declares it without types
    out: tuple[Tensor, Tensor, Tensor] = apply(
        means, quats, scales, opacity, colours, screen, w2c, K, width, height
    )
    return out


def warmup() -> None:
    """Compile (or load from Numba's cache) every kernel of the rasterizer."""
    screen = torch.zeros(1, 2, requires_grad=True)
    means, one = torch.tensor([[0.0, 0.0, 2.0]]), torch.ones(1, 4)
    K = torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]])
    rgb, _, _ = rasterize_cpu(
        means, one, one[:, :3], one[:, 0] / 2, one[:, :3], screen, torch.eye(4), K, 8, 8
    )
    torch.autograd.backward(rgb.sum())


@dataclass(frozen=True)
class Tiles:
    """The Gaussians on one image, and what each tile shows of them.

    Attributes:
        projected: [N] of PROJECTED.
        tiled, offset: tile t's entries are tiled[offset[t] : offset[t + 1]], front to back.
        start, count, place: Gaussian i's entries are tiled[place[start[i] : start[i] + count[i]]].
        columns, rows: of tiles.
    """

    projected: np.ndarray
    tiled: np.ndarray
    offset: np.ndarray
    start: np.ndarray
    count: np.ndarray
    place: np.ndarray
    columns: int
    rows: int


def make_tiles(gaussians: Sequence[np.ndarray], cam: Any) -> Tiles:
    """Project Gaussians, sort them by depth, and distribute them to tiles.

    Args:
        gaussians: means, quats, scales, opacity and colours, as `rasterize_cpu` takes them.
        cam: a CAMERA record.
    """
    threads, run = pool().threads, pool().run
    N = len(gaussians[0])
    columns, rows = int(-(-cam["width"] // TILE_WIDTH)), int(-(-cam["height"] // TILE_HEIGHT))

    projected, room = np.empty(N, PROJECTED), np.empty(N, np.int32)
    run(project, N, 8, *gaussians, cam, projected, room)
    order = np.empty(N, np.int32)
    visible = sort_by_depth(projected, room, order, np.empty(N, np.int32))

    ends = np.cumsum(room, dtype=np.int64)
    start, capacity = ends - room, int(ends[-1]) if N else 0
    entries, count = np.empty(capacity, ENTRY), np.zeros(N, np.int32)
    run(list_entries, N, 8, projected, room, start, cam, columns, entries, count)

    # Equal shares of the depth order, one for each thread: together they keep the order in every tile.
    sizes = np.zeros((threads, columns * rows), np.int32)
    run(count_tiles, threads, threads, order, visible, start, count, entries, sizes)
    by_tile = sizes.T.reshape(-1)
    ends = np.cumsum(by_tile, dtype=np.int64)
    next_place = np.ascontiguousarray((ends - by_tile).reshape(-1, threads).T)
    offset = np.concatenate([[0], ends[threads - 1 :: threads]])
    tiled, place = np.empty(offset[-1], TILED), np.empty(capacity, np.int32)
    run(fill_tiles, threads, threads, order, visible, start, count, entries, next_place, tiled, place)
    return Tiles(projected, tiled, offset, start, count, place, columns, rows)


def composite_tiles(tiles: Tiles) -> tuple[np.ndarray, np.ndarray]:
    """Composite all tiles.

    Returns:
        The image [5, H', W'] of whole tiles (w r, w g, w b, w z, w), and where each tile's compositing ended.
    """
    image = np.empty((5, tiles.rows * TILE_HEIGHT, tiles.columns * TILE_WIDTH), np.float32)
    done = np.empty(tiles.columns * tiles.rows, np.int64)
    pool().run(
        composite, len(done), 32, tiles.projected, tiles.tiled, tiles.offset, tiles.columns, image, done
    )
    return image, done


def composite_tiles_backward(
    tiles: Tiles, image: np.ndarray, done: np.ndarray, g_image: np.ndarray
) -> np.ndarray:
    """The gradient [E] of PARTIAL of every entry, from dL/d image."""
    partials = np.empty(len(tiles.tiled), PARTIAL)
    arguments = (tiles.projected, tiles.tiled, tiles.offset, done, tiles.columns, image, g_image, partials)
    pool().run(composite_backward, len(done), 32, *arguments)
    return partials


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        gaussians, (_screen, w2c, K, width, height) = inputs[:5], inputs[5:]
        arrays = [x.detach().float().contiguous().numpy() for x in gaussians]
        cam = camera_record(w2c, K, width, height)
        tiles = make_tiles(arrays, cam)
        image, done = composite_tiles(tiles)
        # Saved through autograd so that a change in place before backward is an error, not a wrong gradient.
        ctx.save_for_backward(*gaussians)
        ctx.state = (arrays, cam, tiles, image, done)
        ctx.set_materialize_grads(False)
        out = torch.from_numpy(image[:, :height, :width])
        return out[:3].permute(1, 2, 0), out[4], out[3]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors
        (means, quats, scales, opacity, colours), cam, tiles, image, done = ctx.state
        g_colour, g_alpha, g_depth = grads
        g_image = np.zeros_like(image)
        pixels = torch.from_numpy(g_image)[:, : cam["height"], : cam["width"]]
        if g_colour is not None:
            pixels[:3] = g_colour.permute(2, 0, 1)
        if g_depth is not None:
            pixels[3] = g_depth
        if g_alpha is not None:
            pixels[4] = g_alpha

        partials = composite_tiles_backward(tiles, image, done, g_image)
        out = [np.zeros_like(x) for x in (means, quats, scales, opacity, colours)]
        out.append(np.zeros((len(means), 2), np.float32))  # screen
        arguments = (
            means,
            quats,
            scales,
            cam,
            tiles.projected,
            tiles.start,
            tiles.count,
            tiles.place,
            partials,
        )
        pool().run(project_backward, len(means), 8, *arguments, *out)
        return (*map(torch.from_numpy, out), None, None, None, None)


def camera_record(w2c: Tensor, K: Tensor, width: int, height: int) -> Any:
    """The CAMERA record of w2c [4, 4] and K [3, 3]."""
    cam = np.zeros((), CAMERA)
    cam["W"], cam["t"] = w2c[:3, :3].detach().numpy(), w2c[:3, 3].detach().numpy()
    cam["fx"], cam["fy"], cam["cx"], cam["cy"] = (
        float(K[0, 0]),
        float(K[1, 1]),
        float(K[0, 2]),
        float(K[1, 2]),
    )
    cam["width"], cam["height"] = width, height
    return cam[()]
