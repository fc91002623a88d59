"""Front-to-back compositing of the Gaussians of each tile, and its gradient.

With T the transmittance left by the nearer Gaussians, a Gaussian adds w = T alpha of its colour and depth,
and leaves T (1 - alpha). One tile row is one float8. Compositing of a tile ends when no pixel of it lets
through more than 1e-4. The gradient of alpha and colour is `composite_backward`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from v3d.kernels.jit import inlined, kernel
from v3d.kernels.linalg import f32
from v3d.kernels.simd import lanes, load, max_lanes, splat, store, sum_lanes, where_less, where_less_equal
from v3d.splats import constants
from v3d.splats.cpu.projection import TILE_HEIGHT, TILE_WIDTH

PIXELS = TILE_WIDTH * TILE_HEIGHT
MAX_ALPHA = f32(constants.MAX_ALPHA)
OPAQUE = f32(1e-4)  # transmittance below which compositing of a tile ends
R, G, B, Z, A = range(5)  # the image's channels

# exp(-s) = p(s)^8 with p a polynomial that fits exp(-s/8). Only s <= log(255) < 5.8 is ever needed, since
# alpha below 1/255 is cut; there the relative error is below 3e-6. (Numba's math.exp would be scalar.)
_nodes: np.ndarray = 0.375 * (1 + np.cos(np.pi * (np.arange(64) + 0.5) / 64))
_fit: Any = np.polynomial.Chebyshev.fit(_nodes, np.exp(-_nodes), 5, domain=[0, 0.75])
_P = [f32(c / 8.0**k) for k, c in enumerate(_fit.convert(kind=np.polynomial.Polynomial).coef)]
P0, P1, P2, P3, P4, P5 = _P
MAX_EXPONENT = f32(5.8)


@inlined
def _tile_buffer() -> Any:
    return np.empty(PIXELS, np.float32)


@inlined
def _exp_minus(s: Any) -> Any:
    s = where_less(s, MAX_EXPONENT, s, MAX_EXPONENT)
    p = s * P5 + P4
    p = p * s + P3
    p = p * s + P2
    p = p * s + P1
    p = p * s + P0
    p = p * p
    p = p * p
    return p * p


@kernel
def composite(
    lo: int, hi: int, projected: Any, tiled: Any, offset: Any, tiles_x: int, image: Any, done: Any
) -> None:
    """Composite tiles lo..hi.

    Args:
        tiled, offset: tile t's entries are tiled[offset[t] : offset[t + 1]], front to back.
        image: [5, H', W'] out: sums of w r, w g, w b, w z, and w. H', W': whole tiles.
        done: [tiles] out: the end of the entries that were composited.
    """
    x_lane = lanes()
    transmittance = _tile_buffer()
    r, g, b, z = _tile_buffer(), _tile_buffer(), _tile_buffer(), _tile_buffer()
    for tile in range(lo, hi):
        for k in range(0, PIXELS, TILE_WIDTH):
            store(transmittance, k, splat(f32(1)))
            store(r, k, splat(f32(0)))
            store(g, k, splat(f32(0)))
            store(b, k, splat(f32(0)))
            store(z, k, splat(f32(0)))
        tile_y = tile // tiles_x
        tile_x = tile - tile_y * tiles_x
        x0, y0 = f32(tile_x * TILE_WIDTH) + f32(0.5), f32(tile_y * TILE_HEIGHT) + f32(0.5)
        e = offset[tile]
        while e < offset[tile + 1]:
            entry = tiled[e]
            p = projected[entry.gaussian]
            dx = x_lane + (x0 - p.x)
            dy = y0 + f32(entry.first) - p.y
            Adx2, Bdx = dx * dx * p.A, dx * p.B
            C, opacity, cut = p.C, p.opacity, p.cut
            pr, pg, pb, pz = p.r, p.g, p.b, p.z
            for k in range(entry.first * TILE_WIDTH, (entry.last + 1) * TILE_WIDTH, TILE_WIDTH):
                s = Adx2 + Bdx * dy + (C * dy * dy)
                dy += f32(1)
                alpha = _exp_minus(s) * opacity
                alpha = where_less(alpha, MAX_ALPHA, alpha, MAX_ALPHA)
                alpha = where_less_equal(s, cut, alpha, f32(0))
                T = load(transmittance, k)
                w = T * alpha
                store(transmittance, k, T - w)
                store(r, k, load(r, k) + w * pr)
                store(g, k, load(g, k) + w * pg)
                store(b, k, load(b, k) + w * pb)
                store(z, k, load(z, k) + w * pz)
            e += 1
            if (e - offset[tile]) % 16 == 0:
                most = load(transmittance, 0)
                for k in range(TILE_WIDTH, PIXELS, TILE_WIDTH):
                    T = load(transmittance, k)
                    most = where_less(most, T, T, most)
                if max_lanes(most) < OPAQUE:
                    break
        done[tile] = e
        column = tile_x * TILE_WIDTH
        for row in range(TILE_HEIGHT):
            k, y = row * TILE_WIDTH, tile_y * TILE_HEIGHT + row
            store(image[R, y], column, load(r, k))
            store(image[G, y], column, load(g, k))
            store(image[B, y], column, load(b, k))
            store(image[Z, y], column, load(z, k))
            store(image[A, y], column, splat(f32(1)) - load(transmittance, k))


@kernel
def composite_backward(
    lo: int,
    hi: int,
    projected: Any,
    tiled: Any,
    offset: Any,
    done: Any,
    tiles_x: int,
    image: Any,
    g_image: Any,
    partials: Any,
) -> None:
    """The gradient of every entry of tiles lo..hi, from g_image = dL/d image [5, H', W'].

    L's derivative by an entry's weight is q = dL/d(r,g,b,z,a) . (r,g,b,z,1), and its alpha also dims what
    lies behind: dL/d alpha = T q - behind / (1 - alpha), where `behind` is the sum of w q over the entries
    behind it. We walk front to back again: `behind` starts as the whole pixel's sum, known from the image,
    and shrinks.
    """
    x_lane = lanes()
    transmittance, behind = _tile_buffer(), _tile_buffer()
    gr, gg, gb, gz, ga = _tile_buffer(), _tile_buffer(), _tile_buffer(), _tile_buffer(), _tile_buffer()
    for tile in range(lo, hi):
        for e in range(done[tile], offset[tile + 1]):
            p = partials[e]
            p.v, p.vx, p.vy, p.vxx, p.vxy, p.vyy = f32(0), f32(0), f32(0), f32(0), f32(0), f32(0)
            p.r, p.g, p.b, p.z = f32(0), f32(0), f32(0), f32(0)
        if done[tile] == offset[tile]:
            continue
        tile_y = tile // tiles_x
        tile_x = tile - tile_y * tiles_x
        column = tile_x * TILE_WIDTH
        for row in range(TILE_HEIGHT):
            k, y = row * TILE_WIDTH, tile_y * TILE_HEIGHT + row
            r, g, b = load(g_image[R, y], column), load(g_image[G, y], column), load(g_image[B, y], column)
            z, a = load(g_image[Z, y], column), load(g_image[A, y], column)
            total = (
                r * load(image[R, y], column) + g * load(image[G, y], column) + b * load(image[B, y], column)
            )
            total = total + z * load(image[Z, y], column) + a * load(image[A, y], column)
            store(transmittance, k, splat(f32(1)))
            store(behind, k, total)
            store(gr, k, r)
            store(gg, k, g)
            store(gb, k, b)
            store(gz, k, z)
            store(ga, k, a)
        x0, y0 = f32(column) + f32(0.5), f32(tile_y * TILE_HEIGHT) + f32(0.5)
        for e in range(offset[tile], done[tile]):
            entry = tiled[e]
            p = projected[entry.gaussian]
            dx = x_lane + (x0 - p.x)
            dy = y0 + f32(entry.first) - p.y
            Adx2, Bdx = dx * dx * p.A, dx * p.B
            C, opacity, cut = p.C, p.opacity, p.cut
            pr, pg, pb, pz = p.r, p.g, p.b, p.z
            v, vy, vyy = splat(f32(0)), splat(f32(0)), splat(f32(0))
            wr, wg, wb, wz = splat(f32(0)), splat(f32(0)), splat(f32(0)), splat(f32(0))
            for k in range(entry.first * TILE_WIDTH, (entry.last + 1) * TILE_WIDTH, TILE_WIDTH):
                s = Adx2 + Bdx * dy + (C * dy * dy)
                unclamped = _exp_minus(s) * opacity
                alpha = where_less(unclamped, MAX_ALPHA, unclamped, MAX_ALPHA)
                alpha = where_less_equal(s, cut, alpha, f32(0))
                T = load(transmittance, k)
                w = T * alpha
                store(transmittance, k, T - w)
                r, g, b, z = load(gr, k), load(gg, k), load(gb, k), load(gz, k)
                q = r * pr + g * pg + b * pb + z * pz + load(ga, k)
                rest = load(behind, k) - w * q
                store(behind, k, rest)
                # d alpha / d(-s) = alpha, but 0 where alpha was clamped.
                here = (T * q - rest / (splat(f32(1)) - alpha)) * alpha
                here = where_less(unclamped, MAX_ALPHA, here, f32(0))
                here_y = here * dy
                v, vy, vyy = v + here, vy + here_y, vyy + here_y * dy
                wr, wg, wb, wz = wr + w * r, wg + w * g, wb + w * b, wz + w * z
                dy += f32(1)
            out = partials[e]
            vx = v * dx
            out.v, out.vx, out.vy = sum_lanes(v), sum_lanes(vx), sum_lanes(vy)
            out.vxx, out.vxy, out.vyy = sum_lanes(vx * dx), sum_lanes(vy * dx), sum_lanes(vyy)
            out.r, out.g, out.b, out.z = sum_lanes(wr), sum_lanes(wg), sum_lanes(wb), sum_lanes(wz)
