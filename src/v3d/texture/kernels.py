"""Back-projection and refinement compiled for the CPU.

`v3d.texture.project` and `v3d.texture.refine` have twins of these loops in torch, for other devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from v3d.kernels.jit import kernel


@kernel
def add_view(
    points: Any, normals: Any, layers: Any, w2c: Any, K: Any, centre: Any, gain: Any, total: Any, weight: Any
) -> None:
    """Add what a view sees of surface points: weighted colours to `total`, weights to `weight`.

    Args:
        points, normals: [N, 3] float32 on the surface; unit normals.
        layers: [H, W, 5] float32: confidence * straight rgb, depth of the mesh, confidence.
        w2c, K: [4, 4] and [3, 3] of the camera.
        centre: [3] of the camera, in the world.
        gain: factor on the weight.
        total, weight: [N, 3] and [N], changed in place.
    """
    height, width = layers.shape[:2]
    one, half = np.float32(1), np.float32(0.5)
    for i in range(len(points)):
        p, n = points[i], normals[i]
        dx, dy, dz = centre[0] - p[0], centre[1] - p[1], centre[2] - p[2]
        cos = (dx * n[0] + dy * n[1] + dz * n[2]) / np.sqrt(dx * dx + dy * dy + dz * dz)
        if not cos > 0.05:
            continue
        x = w2c[0, 0] * p[0] + w2c[0, 1] * p[1] + w2c[0, 2] * p[2] + w2c[0, 3]
        y = w2c[1, 0] * p[0] + w2c[1, 1] * p[1] + w2c[1, 2] * p[2] + w2c[1, 3]
        z = w2c[2, 0] * p[0] + w2c[2, 1] * p[1] + w2c[2, 2] * p[2] + w2c[2, 3]
        if not z > 0:
            continue
        u = (K[0, 0] * x + K[0, 1] * y + K[0, 2] * z) / z
        v = (K[1, 0] * x + K[1, 1] * y + K[1, 2] * z) / z
        if not (0 < u < width and 0 < v < height):
            continue
        left, top = int(np.floor(u - half)), int(np.floor(v - half))
        fu, fv = u - half - np.float32(left), v - half - np.float32(top)
        r, g, b, depth, confidence = np.float32(0), np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for row in range(max(top, 0), min(top + 2, height)):
            for column in range(max(left, 0), min(left + 2, width)):
                share = (fu if column > left else one - fu) * (fv if row > top else one - fv)
                texel = layers[row, column]
                r += share * texel[0]
                g += share * texel[1]
                b += share * texel[2]
                depth += share * texel[3]
                confidence += share * texel[4]
        # Bilinear depth is off by a pixel's footprint times the slope at most, away from borders.
        if confidence > 0 and z < depth + z / K[0, 0] * (one + one / cos):
            factor = gain * cos * cos * cos * cos
            scale = factor * confidence / max(confidence, np.float32(1e-6))
            total[i, 0] += scale * r
            total[i, 1] += scale * g
            total[i, 2] += scale * b
            weight[i] += factor * confidence


@kernel
def gather(texels: Any, texel: Any, share: Any, pixel: Any, image: Any) -> None:
    """A t, added to an image [H * W, 3]: the rays [S] read four texels each (see `_ViewMatrix`)."""
    for s in range(len(pixel)):
        r, g, b = np.float32(0), np.float32(0), np.float32(0)
        for k in range(4):
            t, w = texel[s, k], share[s, k]
            r += w * texels[t, 0]
            g += w * texels[t, 1]
            b += w * texels[t, 2]
        p = pixel[s]
        image[p, 0] += r
        image[p, 1] += g
        image[p, 2] += b


@kernel
def scatter(image: Any, texel: Any, share: Any, pixel: Any, texels: Any) -> None:
    """A^T g, added to texels [T * T', 4], of an image g [H * W, 4]."""
    for s in range(len(pixel)):
        p = pixel[s]
        for k in range(4):
            t, w = texel[s, k], share[s, k]
            for c in range(4):
                texels[t, c] += w * image[p, c]
