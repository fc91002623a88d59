"""The photometric loss: (1 - weight) * L1 + weight * (1 - SSIM) (Kerbl et al. 2023, eq. 7).

SSIM in plain torch costs more than rasterizing on a CPU, so there the value and the gradient come from one
Numba kernel, `_loss_and_gradient`; `l1_ssim_reference` defines what it computes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.kernels.jit import inlined, kernel
from v3d.kernels.linalg import f32
from v3d.kernels.pool import pool
from v3d.kernels.simd import LANES, lanes, load, splat, store, sum_lanes, where_less

TAPS, SIGMA = 11, 1.5
C1, C2 = f32(0.01**2), f32(0.03**2)
_offsets = np.arange(TAPS) - TAPS // 2
_window = np.exp(-(_offsets**2) / (2 * SIGMA**2))
_window = (_window / _window.sum()).astype(np.float32)
W0, W1, W2, W3, W4, W5 = (f32(w) for w in _window[TAPS // 2 :])  # from the middle outwards
MARGIN = LANES  # zero columns left and right of a buffer's rows; the window needs 5
HALF = TAPS // 2


def l1_ssim(images: Tensor, targets: Tensor, *, weight: float = 0.2) -> Tensor:
    """(1 - weight) * L1 + weight * (1 - SSIM), averaged over channels and pixels; a scalar.

    Differentiable in `images`. SSIM's window (11 taps, sigma 1.5) sees zeros beyond the border.

    Args:
        images, targets: [C, H, W] in [0, 1].
        weight: share of 1 - SSIM, in [0, 1].
    """
    if images.device.type == "cpu" and images.dtype == torch.float32:
        apply: Any = _L1SSIM.apply  # torch declares it without types
        loss: Tensor = apply(images, targets, weight)
        return loss
    return l1_ssim_reference(images, targets, weight=weight)


def l1_ssim_reference(images: Tensor, targets: Tensor, *, weight: float = 0.2) -> Tensor:
    """The loss of `l1_ssim` in plain torch, which defines it; on any device, in any dtype.

    Args:
        images, targets: [C, H, W] in [0, 1].
        weight: share of 1 - SSIM, in [0, 1].
    """
    window = torch.from_numpy(_window).to(images)

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x[:, None], window.view(1, 1, 1, -1), padding=(0, HALF))
        return F.conv2d(x, window.view(1, 1, -1, 1), padding=(HALF, 0))[:, 0]

    mx, my = blur(images), blur(targets)
    xx, yy = blur(images * images) - mx * mx, blur(targets * targets) - my * my
    xy = blur(images * targets) - mx * my
    c1, c2 = float(C1), float(C2)
    ssim = (2 * mx * my + c1) * (2 * xy + c2) / ((mx * mx + my * my + c1) * (xx + yy + c2))
    return (1 - weight) * (images - targets).abs().mean() + weight * (1 - ssim.mean())


class _L1SSIM(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, targets: Tensor, weight: float) -> Tensor:
        C, H, W = images.shape
        pad = (0, -W % LANES)  # whole vectors
        x, y = (F.pad(t.detach().float(), pad).contiguous().numpy() for t in (images, targets))
        gradient, sums = np.empty_like(x), np.empty((C, 2))
        pool().run(_loss_and_gradient, C, C, x, y, W, f32(weight), gradient, sums)
        ctx.gradient = torch.from_numpy(gradient)[..., :W]
        l1, ssim = sums.sum(0) / (C * H * W)
        return torch.tensor((1 - weight) * l1 + weight * (1 - ssim), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.gradient * grads[0], None, None


@inlined
def _window_sum(buffer: Any, i: int, step: int) -> Any:
    """The window along columns (step 1) or rows (step = the row's length) around i."""
    total = load(buffer, i) * W0
    total = total + (load(buffer, i - step) + load(buffer, i + step)) * W1
    total = total + (load(buffer, i - 2 * step) + load(buffer, i + 2 * step)) * W2
    total = total + (load(buffer, i - 3 * step) + load(buffer, i + 3 * step)) * W3
    total = total + (load(buffer, i - 4 * step) + load(buffer, i + 4 * step)) * W4
    return total + (load(buffer, i - 5 * step) + load(buffer, i + 5 * step)) * W5


@kernel
def _blur_rows(source: Any, target: Any, height: int, width: int) -> None:
    stride = width + 2 * MARGIN
    for row in range(height):
        at = (row + HALF) * stride + MARGIN
        for x in range(0, width, LANES):
            store(target, at + x, _window_sum(source, at + x, 1))


@kernel
def _loss_and_gradient(
    lo: int, hi: int, image: Any, target: Any, valid: int, weight: float, gradient: Any, sums: Any
) -> None:
    """Channels lo..hi of [C, H, W'] images of which `valid` columns count (the rest must be zero).

    sums[c]: (sum of |x - y|, sum of SSIM). With blur symmetric, the gradient of SSIM by x is
    blur(d/d blur(x)) + 2 x blur(d/d blur(x^2)) + y blur(d/d blur(xy)).
    """
    channels, height, width = image.shape
    stride = width + 2 * MARGIN
    size = (height + 2 * HALF) * stride
    scale = f32(1.0 / (channels * height * valid))
    one, two = splat(f32(1)), f32(2)
    x_, xx_, xy_ = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32)
    y_, yy_ = np.zeros(size, np.float32), np.zeros(size, np.float32)
    mx_, mxx_, mxy_ = np.zeros(size, np.float32), np.zeros(size, np.float32), np.zeros(size, np.float32)
    my_, myy_ = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for c in range(lo, hi):
        for row in range(height):
            at = (row + HALF) * stride + MARGIN
            for column in range(0, width, LANES):
                x, y = load(image[c, row], column), load(target[c, row], column)
                i = at + column
                store(x_, i, x)
                store(y_, i, y)
                store(xx_, i, x * x)
                store(yy_, i, y * y)
                store(xy_, i, x * y)
        _blur_rows(x_, mx_, height, width)
        _blur_rows(y_, my_, height, width)
        _blur_rows(xx_, mxx_, height, width)
        _blur_rows(yy_, myy_, height, width)
        _blur_rows(xy_, mxy_, height, width)
        total = 0.0
        for row in range(height):
            at = (row + HALF) * stride + MARGIN
            row_sum = splat(f32(0))
            for column in range(0, width, LANES):
                i = at + column
                mx, my = _window_sum(mx_, i, stride), _window_sum(my_, i, stride)
                sx = _window_sum(mxx_, i, stride) - mx * mx
                sy = _window_sum(myy_, i, stride) - my * my
                sxy = _window_sum(mxy_, i, stride) - mx * my
                n1, n2 = mx * my * two + C1, sxy * two + C2
                d1, d2 = mx * mx + my * my + C1, sx + sy + C2
                inverse = one / (d1 * d2)
                ssim = n1 * n2 * inverse
                d_xx = splat(f32(0)) - ssim * (d1 * inverse)
                d_xy = n1 * inverse * two
                d_x = my * n2 * inverse * two - ssim * mx * two * (d2 * inverse) - d_xx * mx * two - d_xy * my
                # The padding's columns are no part of the mean.
                inside = lanes() + f32(column - valid)
                row_sum = row_sum + where_less(inside, f32(-0.5), ssim, f32(0))
                # From here on the first buffers hold the derivatives by the three blurred images.
                store(x_, i, where_less(inside, f32(-0.5), d_x, f32(0)))
                store(xx_, i, where_less(inside, f32(-0.5), d_xx, f32(0)))
                store(xy_, i, where_less(inside, f32(-0.5), d_xy, f32(0)))
            total += sum_lanes(row_sum)
        sums[c, 1] = total
        _blur_rows(x_, mx_, height, width)
        _blur_rows(xx_, mxx_, height, width)
        _blur_rows(xy_, mxy_, height, width)
        total = 0.0
        for row in range(height):
            at = (row + HALF) * stride + MARGIN
            row_sum = splat(f32(0))
            for column in range(0, width, LANES):
                i = at + column
                x, y = load(image[c, row], column), load(target[c, row], column)
                g = _window_sum(mx_, i, stride)
                g = g + _window_sum(mxx_, i, stride) * x * two + _window_sum(mxy_, i, stride) * y
                difference = x - y
                sign = where_less(difference, f32(0), f32(-1), f32(1))
                sign = where_less(difference * difference, f32(1e-20), f32(0), sign)
                row_sum = row_sum + difference * sign
                store(gradient[c, row], column, sign * ((f32(1) - weight) * scale) - g * (weight * scale))
            total += sum_lanes(row_sum)
        sums[c, 0] = total
