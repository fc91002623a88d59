"""The CPU rasterizer of 3D Gaussians: Numba kernels behind one differentiable function.

    project -> sort by depth -> list the tiles of each Gaussian -> fill the tiles -> composite

The first call compiles the kernels (about ten seconds, then cached on disk); `warmup` does it visibly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from v3d.splats.cpu.compositing import composite, composite_backward
from v3d.splats.cpu.pool import pool
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
    """Render one camera; differentiable in the first six arguments.

    Args:
        means: [N, 3] float32, world.
        quats: [N, 4] wxyz, any length.
        scales: [N, 3] standard deviations.
        opacity: [N] in [0, 1].
        colours: [N, 3].
        screen: [N, 2]; not read, it receives dL/d(projected centre), in pixels.
        w2c: [4, 4] world-to-camera. K: [3, 3].

    Returns:
        colour [H, W, 3] over nothing, alpha [H, W] and accumulated depth [H, W] (sum of weight times camera z).
        Gaussians with NaN or infinite numbers are invisible and get zero gradients.
    """
    colour, alpha, depth = _Rasterize.apply(
        means, quats, scales, opacity, colours, screen, w2c, K, width, height
    )
    return colour, alpha, depth


def warmup() -> None:
    """Compile (or load) every kernel."""
    screen = torch.zeros(1, 2, requires_grad=True)
    means, one = torch.tensor([[0.0, 0.0, 2.0]]), torch.ones(1, 4)
    K = torch.tensor([[8.0, 0, 4], [0, 8, 4], [0, 0, 1]])
    rgb, _, _ = rasterize_cpu(
        means, one, one[:, :3], one[:, 0] / 2, one[:, :3], screen, torch.eye(4), K, 8, 8
    )
    rgb.sum().backward()


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
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
        inputs = [x.detach().float().contiguous() for x in (means, quats, scales, opacity, colours)]
        arrays = [x.numpy() for x in inputs]
        cam = _camera(w2c, K, width, height)
        threads, run = pool().threads, pool().run
        N = len(means)
        tiles_x, tiles_y = -(-width // TILE_WIDTH), -(-height // TILE_HEIGHT)
        tiles = tiles_x * tiles_y

        projected, room = np.empty(N, PROJECTED), np.empty(N, np.int32)
        run(project, N, 8, *arrays, cam, projected, room)
        order = np.empty(N, np.int32)
        visible = sort_by_depth(projected, room, order, np.empty(N, np.int32))

        start = np.cumsum(room, dtype=np.int64) - room
        capacity = int(room.sum(dtype=np.int64))
        entries, count = np.empty(capacity, ENTRY), np.empty(N, np.int32)
        run(list_entries, N, 8, projected, room, start, cam, tiles_x, entries, count)

        # Equal shares of the depth order, one for each thread: together they keep the order in every tile.
        sizes = np.zeros((threads, tiles), np.int32)
        run(count_tiles, threads, threads, order, visible, start, count, entries, sizes)
        ends = np.cumsum(sizes.T.reshape(-1), dtype=np.int64)
        next_place = np.ascontiguousarray((ends - sizes.T.reshape(-1)).reshape(tiles, threads).T)
        offset = np.concatenate([[0], ends[threads - 1 :: threads]])
        tiled, place = np.empty(offset[-1], TILED), np.empty(capacity, np.int32)
        run(fill_tiles, threads, threads, order, visible, start, count, entries, next_place, tiled, place)

        image = np.empty((5, tiles_y * TILE_HEIGHT, tiles_x * TILE_WIDTH), np.float32)
        done = np.empty(tiles, np.int64)
        run(composite, tiles, 32, projected, tiled, offset, tiles_x, image, done)

        # Saved through autograd so that a change in place before backward is an error, not a wrong gradient.
        ctx.save_for_backward(means, quats, scales)
        ctx.arrays, ctx.cam, ctx.tiles_x, ctx.size = arrays, cam, tiles_x, (height, width)
        ctx.lists = (projected, start, count, place, tiled, offset, done, image)
        ctx.set_materialize_grads(False)
        out = torch.from_numpy(image[:, :height, :width])
        return out[:3].permute(1, 2, 0), out[4], out[3]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        g_colour, g_alpha, g_depth = grads
        _ = ctx.saved_tensors
        means, quats, scales, opacity, colours = ctx.arrays
        projected, start, count, place, tiled, offset, done, image = ctx.lists
        height, width = ctx.size
        g_image = np.zeros_like(image)
        visible = torch.from_numpy(g_image)[:, :height, :width]
        if g_colour is not None:
            visible[:3] = g_colour.permute(2, 0, 1)
        if g_depth is not None:
            visible[3] = g_depth
        if g_alpha is not None:
            visible[4] = g_alpha

        partials = np.empty(len(tiled), PARTIAL)
        run = pool().run
        run(
            composite_backward,
            len(done),
            32,
            projected,
            tiled,
            offset,
            done,
            ctx.tiles_x,
            image,
            g_image,
            partials,
        )
        out = [np.zeros_like(x) for x in (means, quats, scales, opacity, colours)]
        g_screen = np.zeros((len(means), 2), np.float32)
        run(
            project_backward,
            len(means),
            8,
            means,
            quats,
            scales,
            ctx.cam,
            projected,
            start,
            count,
            place,
            partials,
            *out,
            g_screen,
        )
        return (*map(torch.from_numpy, out), torch.from_numpy(g_screen), None, None, None, None)


def _camera(w2c: Tensor, K: Tensor, width: int, height: int) -> Any:
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
