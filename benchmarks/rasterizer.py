"""The CPU rasterizer against other ways to do the same, in one run on one thread.

    python benchmarks/rasterizer.py                       # everything
    python benchmarks/rasterizer.py --counts 5000 --sizes 128 --repeats 3

Two tables, in CPU milliseconds of the calling thread (medians of interleaved repeats):

1. The whole rasterizer: projection, sorting, binning, compositing and all gradients. Beside it the dense
   torch reference where N x pixels is small enough to bear.
2. Compositing alone (given the projected Gaussians and their tiles or pixel pairs). The competitors:
   - plain Numba: the same tiles and algorithm as scalar loops, left to LLVM to vectorise;
   - gsplat's torch code: its `accumulate` (gsplat.cuda._torch_impl, the only rasterizing it can do without
     CUDA kernels) cannot run on a CPU, since nerfacc and the search for (Gaussian, pixel) pairs need CUDA.
     What it computes is re-expressed here in plain torch, and the pair list is given to it for nothing.

Scene: a sphere of radius 0.7 covered with N Gaussians, seen from the orbit's distance.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["V3D_THREADS"] = "1"

import numba
import numpy as np
import torch
from torch import Tensor

from v3d.cameras import orbit
from v3d.kernels.linalg import f32
from v3d.splats.constants import MAX_ALPHA
from v3d.splats.cpu import rasterize_cpu, warmup
from v3d.splats.cpu.projection import PARTIAL, TILE_HEIGHT, TILE_WIDTH
from v3d.splats.cpu.rasterizer import (
    Tiles,
    camera_record,
    composite_tiles,
    composite_tiles_backward,
    make_tiles,
)
from v3d.splats.gaussians import morton_order
from v3d.splats.reference import rasterize_reference

Timed = tuple[Callable[[], Any], Callable[[], Any]]  # forward, and forward with backward


def scene(count: int) -> list[Tensor]:
    """means, quats, scales, opacity, colours, screen."""
    g = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(count, 3, generator=g), dim=-1) * 0.7
    means = means[morton_order(means)]
    spacing = math.sqrt(4 * math.pi * 0.7**2 / count)
    scales = 0.7 * spacing * torch.exp(0.3 * torch.randn(count, 3, generator=g))
    quats, opacity = torch.randn(count, 4, generator=g), 0.1 + 0.8 * torch.rand(count, generator=g)
    leaves = [means, quats, scales, opacity, torch.rand(count, 3, generator=g), torch.zeros(count, 2)]
    return [x.requires_grad_() for x in leaves]


# ---- plain Numba: the kernels of v3d.splats.cpu.compositing as scalar loops

_plain = numba.njit(nogil=True, fastmath=True, cache=True, error_model="numpy")


@_plain
def plain_composite(projected: Any, tiled: Any, offset: Any, columns: int, image: Any, done: Any) -> None:
    """`v3d.splats.cpu.compositing.composite` of all tiles, pixel by pixel."""
    pixels = TILE_WIDTH * TILE_HEIGHT
    buffer = np.empty((5, pixels), np.float32)
    for tile in range(len(done)):
        buffer[:4] = 0
        buffer[4] = 1
        x0, y0 = (tile % columns) * TILE_WIDTH, (tile // columns) * TILE_HEIGHT
        e = offset[tile]
        while e < offset[tile + 1]:
            entry = tiled[e]
            p = projected[entry.gaussian]
            for row in range(entry.first, entry.last + 1):
                dy = f32(y0 + row) + f32(0.5) - p.y
                for lane in range(TILE_WIDTH):
                    dx = f32(x0 + lane) + f32(0.5) - p.x
                    s = p.A * dx * dx + p.B * dx * dy + p.C * dy * dy
                    if s <= p.cut:
                        k = row * TILE_WIDTH + lane
                        alpha = min(p.opacity * math.exp(-s), f32(MAX_ALPHA))
                        w = buffer[4, k] * alpha
                        buffer[4, k] -= w
                        buffer[0, k] += w * p.r
                        buffer[1, k] += w * p.g
                        buffer[2, k] += w * p.b
                        buffer[3, k] += w * p.z
            e += 1
            if (e - offset[tile]) % 16 == 0 and buffer[4].max() < f32(1e-4):
                break
        done[tile] = e
        for k in range(pixels):
            y, x = y0 + k // TILE_WIDTH, x0 + k % TILE_WIDTH
            for channel in range(4):
                image[channel, y, x] = buffer[channel, k]
            image[4, y, x] = f32(1) - buffer[4, k]


@_plain
def plain_composite_backward(
    projected: Any, tiled: Any, offset: Any, done: Any, columns: int, image: Any, g_image: Any, partials: Any
) -> None:
    """`v3d.splats.cpu.compositing.composite_backward` of all tiles, pixel by pixel."""
    transmittance = np.empty((TILE_HEIGHT, TILE_WIDTH), np.float32)
    behind = np.empty((TILE_HEIGHT, TILE_WIDTH), np.float32)
    for tile in range(len(done)):
        x0, y0 = (tile % columns) * TILE_WIDTH, (tile // columns) * TILE_HEIGHT
        for row in range(TILE_HEIGHT):
            for lane in range(TILE_WIDTH):
                total = f32(0)
                for channel in range(5):
                    total += g_image[channel, y0 + row, x0 + lane] * image[channel, y0 + row, x0 + lane]
                behind[row, lane], transmittance[row, lane] = total, f32(1)
        for e in range(offset[tile], offset[tile + 1]):
            entry = tiled[e]
            p = projected[entry.gaussian]
            v, vx, vy, vxx, vxy, vyy = f32(0), f32(0), f32(0), f32(0), f32(0), f32(0)
            wr, wg, wb, wz = f32(0), f32(0), f32(0), f32(0)
            for row in range(entry.first, entry.last + 1 if e < done[tile] else entry.first):
                dy = f32(y0 + row) + f32(0.5) - p.y
                for lane in range(TILE_WIDTH):
                    dx = f32(x0 + lane) + f32(0.5) - p.x
                    s = p.A * dx * dx + p.B * dx * dy + p.C * dy * dy
                    if s <= p.cut:
                        y, x = y0 + row, x0 + lane
                        unclamped = p.opacity * math.exp(-s)
                        alpha = min(unclamped, f32(MAX_ALPHA))
                        T = transmittance[row, lane]
                        w = T * alpha
                        transmittance[row, lane] = T - w
                        r, g, b, z = g_image[0, y, x], g_image[1, y, x], g_image[2, y, x], g_image[3, y, x]
                        q = r * p.r + g * p.g + b * p.b + z * p.z + g_image[4, y, x]
                        rest = behind[row, lane] - w * q
                        behind[row, lane] = rest
                        wr, wg, wb, wz = wr + w * r, wg + w * g, wb + w * b, wz + w * z
                        if unclamped < f32(MAX_ALPHA):
                            here = (T * q - rest / (f32(1) - alpha)) * alpha
                            v, vx, vy = v + here, vx + here * dx, vy + here * dy
                            vxx, vxy, vyy = vxx + here * dx * dx, vxy + here * dx * dy, vyy + here * dy * dy
            out = partials[e]
            out.v, out.vx, out.vy, out.vxx, out.vxy, out.vyy = v, vx, vy, vxx, vxy, vyy
            out.r, out.g, out.b, out.z = wr, wg, wb, wz


# ---- what gsplat's torch `accumulate` computes, without nerfacc


def pixel_pairs(tiles: Tiles, done: np.ndarray, width: int, height: int) -> tuple[Tensor, Tensor]:
    """All (Gaussian, pixel) pairs with alpha >= 1/255, by pixel and front to back. Not timed."""
    tile = np.repeat(np.arange(len(done)), np.diff(tiles.offset))
    used = np.arange(len(tiles.tiled)) < done[tile]
    tile, entries = tile[used], tiles.tiled[used]
    rows = entries["last"].astype(np.int64) - entries["first"] + 1
    repeat = np.repeat(np.arange(len(entries)), rows * TILE_WIDTH)
    k = np.arange(len(repeat)) - np.repeat(
        np.cumsum(rows * TILE_WIDTH) - rows * TILE_WIDTH, rows * TILE_WIDTH
    )
    x = tile[repeat] % tiles.columns * TILE_WIDTH + k % TILE_WIDTH
    y = tile[repeat] // tiles.columns * TILE_HEIGHT + entries["first"][repeat] + k // TILE_WIDTH
    gaussian = entries["gaussian"][repeat]
    p = tiles.projected[gaussian]
    dx, dy = x + 0.5 - p["x"], y + 0.5 - p["y"]
    seen = (p["A"] * dx * dx + p["B"] * dx * dy + p["C"] * dy * dy <= p["cut"]) & (x < width) & (y < height)
    pixel, gaussian = (y * width + x)[seen], gaussian[seen]
    order = np.argsort(pixel, kind="stable")
    return torch.from_numpy(gaussian[order].astype(np.int64)), torch.from_numpy(pixel[order])


def accumulate(
    means2d: Tensor,
    conics: Tensor,
    opacity: Tensor,
    colours: Tensor,
    gaussian: Tensor,
    pixel: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor]:
    """Colour [H, W, C] and alpha [H, W] from pairs.

    The segmented product is a difference of cumulative sums of logs.
    """
    coordinates = torch.stack([pixel % width, torch.div(pixel, width, rounding_mode="floor")], -1) + 0.5
    delta = coordinates - means2d[gaussian]
    c = conics[gaussian]
    sigma = (
        0.5 * (c[:, 0] * delta[:, 0] ** 2 + c[:, 2] * delta[:, 1] ** 2) + c[:, 1] * delta[:, 0] * delta[:, 1]
    )
    alpha = torch.clamp_max(opacity[gaussian] * torch.exp(-sigma), 0.999)
    log = torch.log1p(-alpha).double()  # the running sum covers the whole image: float32 would not do
    before = log.cumsum(0) - log
    first = torch.ones_like(pixel, dtype=torch.bool)
    first[1:] = pixel[1:] != pixel[:-1]
    start = before[first][first.cumsum(0) - 1]
    weight = alpha * torch.exp(before - start).float()
    image = torch.zeros(height * width, colours.shape[1]).index_add(
        0, pixel, weight[:, None] * colours[gaussian]
    )
    coverage = torch.zeros(height * width).index_add(0, pixel, weight)
    return image.view(height, width, -1), coverage.view(height, width)


# ---- measuring


@dataclass
class Row:
    """CPU milliseconds of one candidate, forward and with the backward pass, one item a repeat."""

    name: str
    forward: list[float]
    both: list[float]


def measure(candidates: dict[str, Timed], repeats: int) -> list[Row]:
    """CPU ms of forward, and of forward and backward.

    Candidates take turns, slow ones (over 2 s) only once.
    """
    rows = [Row(name, [], []) for name in candidates]
    for repeat in range(repeats + 1):  # the first turn warms up
        for row, (forward, both) in zip(rows, candidates.values(), strict=True):
            if row.both and row.both[0] > 2000:
                continue
            times = []
            for function in (forward, both):
                start = time.thread_time()
                function()
                times.append((time.thread_time() - start) * 1e3)
            if repeat > 0 or times[1] > 2000:
                row.forward.append(times[0])
                row.both.append(times[1])
    return rows


def report(title: str, rows: list[Row]) -> None:
    """Print medians, and how many times those of the first row they are."""
    base = [statistics.median(rows[0].forward), statistics.median(rows[0].both)]
    for row in rows:
        forward, both = statistics.median(row.forward), statistics.median(row.both)
        print(
            f"{title:>13}  {row.name:<24}{forward:>10.2f}{both:>10.2f}"
            f"{forward / base[0]:>9.1f}x{both / base[1]:>8.1f}x   n={len(row.both)}",
            flush=True,
        )


def whole(leaves: list[Tensor], size: int, reference_limit: float) -> dict[str, Timed]:
    """Candidates for the whole rasterizer, by name."""
    camera = orbit(1, size=size)
    w2c, K = camera.w2c[0], camera.K[0]
    g = torch.Generator().manual_seed(1)
    gradients = [torch.randn(size, size, 3, generator=g), *torch.randn(2, size, size, generator=g)]

    def ours() -> tuple[Tensor, ...]:
        return rasterize_cpu(*leaves, w2c, K, size, size)

    def reference(backward: bool) -> None:
        # In strips of rows, or it would not fit in memory. (The work is the same; not the last digits, since
        # the linearisation is clamped to the strip's field of view.)
        step = max(1, size // 32)
        for y in range(0, size, step):
            K_strip = K.clone()
            K_strip[1, 2] -= y
            with torch.set_grad_enabled(backward):
                outputs = rasterize_reference(*leaves, w2c, K_strip, size, min(step, size - y))
            if backward:
                torch.autograd.grad(outputs, leaves, [g[y : y + step] for g in gradients])

    candidates: dict[str, Timed] = {"ours": (ours, lambda: torch.autograd.grad(ours(), leaves, gradients))}
    if len(leaves[0]) * size * size <= reference_limit:
        candidates["dense torch reference"] = (lambda: reference(False), lambda: reference(True))
    return candidates


def compositing(leaves: list[Tensor], size: int) -> dict[str, Timed]:
    """Candidates for compositing alone, by name."""
    camera = orbit(1, size=size)
    arrays = [x.detach().numpy() for x in leaves[:5]]
    tiles = make_tiles(arrays, camera_record(camera.w2c[0], camera.K[0], size, size))
    image, done = composite_tiles(tiles)
    g_image = np.zeros_like(image)
    g_image[:, :size, :size] = np.random.default_rng(0).standard_normal((5, size, size), np.float32)
    p = tiles.projected
    p["x"][tiles.count == 0] = 0  # rows that were never written

    def ours_both() -> None:
        image, done = composite_tiles(tiles)
        composite_tiles_backward(tiles, image, done, g_image)

    def plain() -> tuple[np.ndarray, np.ndarray]:
        image_, done_ = np.empty_like(image), np.empty_like(done)
        plain_composite(p, tiles.tiled, tiles.offset, tiles.columns, image_, done_)
        return image_, done_

    def plain_both() -> None:
        image_, done_ = plain()
        partials = np.empty(len(tiles.tiled), PARTIAL)
        plain_composite_backward(
            p, tiles.tiled, tiles.offset, done_, tiles.columns, image_, g_image, partials
        )

    gaussian, pixel = pixel_pairs(tiles, done, size, size)
    visible = torch.from_numpy(tiles.count > 0)

    def column(*names: str) -> Tensor:
        values = torch.from_numpy(np.stack([p[n] for n in names], -1)).clone()
        return torch.where(visible[:, None], values, 0.0)

    means2d, colours = column("x", "y"), column("r", "g", "b", "z")
    conics = column("A", "B", "C") * torch.tensor([2.0, 1.0, 2.0])
    opacity = column("opacity")[:, 0]
    inputs = [x.requires_grad_() for x in (means2d, conics, opacity, colours)]
    gradients = torch.from_numpy(g_image[:, :size, :size].copy())

    def gsplat() -> tuple[Tensor, Tensor]:
        return accumulate(*inputs, gaussian, pixel, size, size)

    def gsplat_both() -> None:
        torch.autograd.grad(gsplat(), inputs, [gradients[:4].permute(1, 2, 0), gradients[4]])

    # The three must agree, or the times mean nothing.
    assert np.abs(plain()[0] - image).max() < 1e-3
    colour = gsplat()[0].detach().permute(2, 0, 1)
    assert (colour - torch.from_numpy(image[:4, :size, :size])).abs().max() < 5e-3
    return {
        "ours": (lambda: composite_tiles(tiles), ours_both),
        "plain Numba": (plain, plain_both),
        "gsplat's torch code": (gsplat, gsplat_both),
    }


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument(
        "--reference-limit", type=float, default=1e8, help="largest N x pixels for the dense reference"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    warmup()

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{_processor()}, {os.cpu_count()} cores, load {load:.1f}; one thread")
    print(f"Python {platform.python_version()}, torch {torch.__version__}, Numba {numba.__version__}")
    header = f"{'N @ pixels':>13}  {'':<24}{'fwd ms':>10}{'f+b ms':>10}{'fwd':>10}{'f+b':>9}"
    for title, candidates in (
        ("Whole rasterizer, all gradients", lambda n, s: whole(scene(n), s, options.reference_limit)),
        ("Compositing alone", lambda n, s: compositing(scene(n), s)),
    ):
        print(f"\n{title}; CPU milliseconds, and times ours\n{header}")
        for count in options.counts:
            for size in options.sizes:
                report(f"{count // 1000}k @ {size}", measure(candidates(count, size), options.repeats))


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
