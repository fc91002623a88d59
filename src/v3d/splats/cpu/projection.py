"""3D Gaussians -> 2D Gaussians on the image (EWA splatting), and the way back for gradients.

A Gaussian with mean m, rotation R and scales s is seen by a camera x = W m + t. Its image is the 2D
Gaussian with centre (fx x/z + cx, fy y/z + cy) and covariance V V^T + 0.3 I, where V = J W R diag(s) is
2 x 3 and J is the Jacobian of the projection. The 0.3 keeps every Gaussian at least a pixel wide. A pixel at
offset (dx, dy) receives alpha = opacity * exp(-(A dx^2 + B dx dy + C dy^2)). The gradient by mean,
quaternion, scales and opacity is `project_backward`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from v3d.kernels.jit import inlined, kernel
from v3d.kernels.linalg import (
    add,
    cross,
    dot,
    f32,
    mat_mat,
    mat_vec,
    mul,
    rotation,
    rotation_gradient,
    scaled,
    vec,
    vec_mat,
)
from v3d.splats import constants

TILE_WIDTH = 8  # pixels: one vector
TILE_HEIGHT = 16
NEAR, BLUR, MIN_ALPHA = f32(constants.NEAR), f32(constants.BLUR), f32(constants.MIN_ALPHA)
MOST_OVER_MIN_ALPHA = f32(1 / constants.MIN_ALPHA)  # the largest opacity over the smallest alpha
HUGE = f32(1e15)  # square pixels; a covariance beyond it has left float32's reach

# One Gaussian on one image, in one cache line. `cut` is the exponent at which alpha falls to 1/255. That
# ellipse spans |dx| <= extent_x, |dy| <= extent_y; at dx it reaches slope dx -+ aspect sqrt(extent_x^2 -
# dx^2), and it is highest at dx = lean.
PROJECTED = np.dtype(
    [(n, "f4") for n in ("x", "y", "A", "B", "C", "opacity", "cut", "z", "r", "g", "b")]
    + [(n, "f4") for n in ("extent_x", "extent_y", "slope", "aspect", "lean")],
    align=True,
)
# The camera: W (rows), t, focal lengths, centre, and the image size.
CAMERA = np.dtype(
    [("W", "f4", (3, 3)), ("t", "f4", 3)]
    + [(n, "f4") for n in ("fx", "fy", "cx", "cy")]
    + [(n, "i8") for n in ("width", "height")],
    align=True,
)
# What a Gaussian's entries in the tiles add up to: with v = dL/d(-exponent), the sums of
# v, v dx, v dy, v dx^2, v dx dy, v dy^2, and of the weight times dL/d(r, g, b, z).
PARTIAL = np.dtype(
    [(n, "f4") for n in ("v", "vx", "vy", "vxx", "vxy", "vyy", "r", "g", "b", "z")], align=True
)


@inlined
def _unit(quat: Any) -> Any:
    n = f32(1) / math.sqrt(quat[0] * quat[0] + quat[1] * quat[1] + quat[2] * quat[2] + quat[3] * quat[3])
    return quat[0] * n, quat[1] * n, quat[2] * n, quat[3] * n, n


@inlined
def _jacobian(x: Any, cam: Any) -> Any:
    """J's rows, and x/z, y/z held within 1.3 times the field of view, where the linearisation holds."""
    u, v = x[0] / x[2], x[1] / x[2]
    margin_x, margin_y = f32(0.15) * cam.width / cam.fx, f32(0.15) * cam.height / cam.fy
    u = min(max(u, -cam.cx / cam.fx - margin_x), (cam.width - cam.cx) / cam.fx + margin_x)
    v = min(max(v, -cam.cy / cam.fy - margin_y), (cam.height - cam.cy) / cam.fy + margin_y)
    zero = f32(0)
    Jx = (cam.fx / x[2], zero, -cam.fx * f32(u) / x[2])
    Jy = (zero, cam.fy / x[2], -cam.fy * f32(v) / x[2])
    return Jx, Jy, f32(u), f32(v)


@inlined
def _world_to_camera(cam: Any) -> Any:
    return vec(cam.W[0]), vec(cam.W[1]), vec(cam.W[2])


@inlined
def column_range(g: Any, width: int) -> Any:
    """First and last pixel column of the Gaussian; nothing to see if last < first."""
    first = math.ceil(g.x - g.extent_x - f32(0.5))
    last = math.floor(g.x + g.extent_x - f32(0.5))
    return max(first, 0), min(last, width - 1)


@inlined
def row_range(g: Any, height: int) -> Any:
    """First and last pixel row of the Gaussian."""
    first = math.ceil(g.y - g.extent_y - f32(0.5))
    last = math.floor(g.y + g.extent_y - f32(0.5))
    return max(first, 0), min(last, height - 1)


@kernel
def project(
    lo: int,
    hi: int,
    means: Any,
    quats: Any,
    scales: Any,
    opacity: Any,
    colours: Any,
    cam: Any,
    out: Any,
    room: Any,
) -> None:
    """Project Gaussians lo..hi into `out`; `room`: how many tiles their boxes touch, 0 for invisible ones.

    Invisible are also Gaussians with NaN or infinite numbers, and quaternions of length zero: the
    comparisons below are written so that NaN fails them.
    """
    W = _world_to_camera(cam)
    for i in range(lo, hi):
        room[i] = 0
        o = opacity[i]
        c = vec(colours[i])
        x = add(mat_vec(W, vec(means[i])), vec(cam.t))
        if not (x[2] > NEAR and x[2] < HUGE and o > MIN_ALPHA and dot(c, c) < HUGE):
            continue
        Jx, Jy, _, _ = _jacobian(x, cam)
        qw, qx, qy, qz, _ = _unit(quats[i])
        WR = mat_mat(W, rotation(qw, qx, qy, qz))
        s = vec(scales[i])
        Vx, Vy = mul(vec_mat(Jx, WR), s), mul(vec_mat(Jy, WR), s)
        xx, yy, xy = dot(Vx, Vx) + BLUR, dot(Vy, Vy) + BLUR, dot(Vx, Vy)
        if not (xx < HUGE and yy < HUGE):
            continue
        # xx yy - xy^2 by Lagrange's identity, without its cancellation.
        N = cross(Vx, Vy)
        det = dot(N, N) + BLUR * (xx + yy - BLUR)
        g = out[i]
        g.cut = math.log(o * MOST_OVER_MIN_ALPHA)
        g.extent_x, g.extent_y = math.sqrt(f32(2) * g.cut * xx), math.sqrt(f32(2) * g.cut * yy)
        g.x, g.y = cam.fx * x[0] / x[2] + cam.cx, cam.fy * x[1] / x[2] + cam.cy
        if not (abs(g.x) < HUGE and abs(g.y) < HUGE):
            continue
        g.A, g.B, g.C = f32(0.5) * yy / det, -xy / det, f32(0.5) * xx / det
        g.slope, g.aspect, g.lean = xy / xx, math.sqrt(det) / xx, xy / yy * g.extent_y
        g.opacity, g.z = o, x[2]
        g.r, g.g, g.b = c
        x0, x1 = column_range(g, cam.width)
        y0, y1 = row_range(g, cam.height)
        if x1 >= x0 and y1 >= y0:
            room[i] = (x1 // TILE_WIDTH - x0 // TILE_WIDTH + 1) * (y1 // TILE_HEIGHT - y0 // TILE_HEIGHT + 1)


@kernel
def project_backward(
    lo: int,
    hi: int,
    means: Any,
    quats: Any,
    scales: Any,
    cam: Any,
    projected: Any,
    start: Any,
    count: Any,
    place: Any,
    partials: Any,
    g_means: Any,
    g_quats: Any,
    g_scales: Any,
    g_opacity: Any,
    g_colours: Any,
    g_screen: Any,
) -> None:
    """Add up the partial gradients of Gaussians lo..hi and take them back through the projection.

    `place[start[i] : start[i] + count[i]]` are the rows of `partials` that belong to Gaussian i: a gather,
    so there are no atomics and the sum has one order. The outputs must be zero for Gaussians without entries.
    """
    W = _world_to_camera(cam)
    two, half = f32(2), f32(0.5)
    for i in range(lo, hi):
        if count[i] == 0:
            continue
        v, vx, vy, vxx, vxy, vyy = f32(0), f32(0), f32(0), f32(0), f32(0), f32(0)
        r, gr, b, gz = f32(0), f32(0), f32(0), f32(0)
        for e in range(start[i], start[i] + count[i]):
            p = partials[place[e]]
            v, vx, vy, vxx, vxy, vyy = v + p.v, vx + p.vx, vy + p.vy, vxx + p.vxx, vxy + p.vxy, vyy + p.vyy
            r, gr, b, gz = r + p.r, gr + p.g, b + p.b, gz + p.z
        g = projected[i]
        g_colours[i, 0], g_colours[i, 1], g_colours[i, 2] = r, gr, b
        g_opacity[i] = v / g.opacity
        g_x, g_y = two * g.A * vx + g.B * vy, two * g.C * vy + g.B * vx
        g_screen[i, 0], g_screen[i, 1] = g_x, g_y

        # The inverse covariance is Q = [[2A, B], [B, 2C]] and the exponent d^T Q d / 2, so with
        # G = dL/dQ = -[[vxx, vxy], [vxy, vyy]] / 2:  dL/d covariance = -Q G Q.
        a, c = two * g.A, two * g.C
        t00, t01 = a * vxx + g.B * vxy, a * vxy + g.B * vyy
        t10, t11 = g.B * vxx + c * vxy, g.B * vxy + c * vyy
        g_xx = half * (t00 * a + t01 * g.B)
        g_xy = half * (t00 * g.B + t01 * c)
        g_yy = half * (t10 * g.B + t11 * c)

        x = add(mat_vec(W, vec(means[i])), vec(cam.t))
        Jx, Jy, u, w = _jacobian(x, cam)
        qw, qx, qy, qz, n = _unit(quats[i])
        R = rotation(qw, qx, qy, qz)
        s = vec(scales[i])
        WR = mat_mat(W, R)
        JWRx, JWRy = vec_mat(Jx, WR), vec_mat(Jy, WR)
        Vx, Vy = mul(JWRx, s), mul(JWRy, s)
        g_Vx = scaled(two, add(scaled(g_xx, Vx), scaled(g_xy, Vy)))
        g_Vy = scaled(two, add(scaled(g_xy, Vx), scaled(g_yy, Vy)))

        # Scales and rotation: V = (J W) R diag(s).
        g_s = add(mul(JWRx, g_Vx), mul(JWRy, g_Vy))
        g_scales[i, 0], g_scales[i, 1], g_scales[i, 2] = g_s
        JWx, JWy = vec_mat(Jx, W), vec_mat(Jy, W)
        g_JWRx, g_JWRy = mul(g_Vx, s), mul(g_Vy, s)
        g_R = (
            add(scaled(JWx[0], g_JWRx), scaled(JWy[0], g_JWRy)),
            add(scaled(JWx[1], g_JWRx), scaled(JWy[1], g_JWRy)),
            add(scaled(JWx[2], g_JWRx), scaled(JWy[2], g_JWRy)),
        )
        gw, gi, gj, gk = rotation_gradient(qw, qx, qy, qz, g_R)
        radial = gw * qw + gi * qx + gj * qy + gk * qz  # the length of the quaternion has no effect
        g_quats[i, 0], g_quats[i, 1] = (gw - radial * qw) * n, (gi - radial * qx) * n
        g_quats[i, 2], g_quats[i, 3] = (gj - radial * qy) * n, (gk - radial * qz) * n

        # Position: through the centre, the depth channel and J = [[fx/z, 0, -fx u/z], [0, fy/z, -fy v/z]].
        U = (mul(WR[0], s), mul(WR[1], s), mul(WR[2], s))
        g_J00, g_J02 = dot(g_Vx, U[0]), dot(g_Vx, U[2])
        g_J11, g_J12 = dot(g_Vy, U[1]), dot(g_Vy, U[2])
        g_u, g_v = g_x * cam.fx, g_y * cam.fy
        if u == f32(x[0] / x[2]):
            g_u += Jx[0] * -g_J02
        if w == f32(x[1] / x[2]):
            g_v += Jy[1] * -g_J12
        iz = f32(1) / x[2]
        g_iz = cam.fx * (g_J00 - u * g_J02) + cam.fy * (g_J11 - w * g_J12) + g_u * x[0] + g_v * x[1]
        g_m = vec_mat((g_u * iz, g_v * iz, gz - g_iz * iz * iz), W)
        g_means[i, 0], g_means[i, 1], g_means[i, 2] = g_m
