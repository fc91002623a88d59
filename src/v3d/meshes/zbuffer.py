"""The z-buffer compiled for the CPU.

`v3d.meshes.rendering` has a twin of it in torch for other devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from v3d.kernels.jit import inlined, kernel


@inlined
def _barycentric(
    px: Any, py: Any, ax: Any, ay: Any, bx: Any, by: Any, cx: Any, cy: Any, inverse: Any
) -> tuple[Any, Any]:
    """The first two weights of a point in a triangle; `inverse` of twice its signed area."""
    w0 = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inverse
    w1 = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inverse
    return w0, w1


@kernel
def rasterize(xy: Any, z: Any, faces: Any, height: int, width: int, near: float, perspective: bool) -> Any:
    """The nearest triangle at every pixel centre; of equally near ones the first.

    Args:
        xy: [V, P, 2] float32 vertices in pixels of each view.
        z: [V, P] float32 camera z.
        faces: [F, 3] int64 corners.
        height, width: of the images.
        near: triangles with a nearer corner are left out.
        perspective: z is a camera depth; otherwise z is ignored, and the first face wins.

    Returns:
        A triangle's number [V, H, W] int64, -1 where there is none; weights of its corners [V, H, W, 3], on
        the surface with perspective; depth [V, H, W], 0 without perspective or triangle.
    """
    views = len(xy)
    face = np.full((views, height, width), -1, np.int64)
    weights = np.zeros((views, height, width, 3), np.float32)
    depth = np.full((views, height, width), np.inf, np.float32)
    one, half, limit = np.float32(1), np.float32(0.5), np.float32(-1e-6)
    for v in range(views):
        for i in range(len(faces)):
            a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
            ax, ay, bx, by, cx, cy = (
                xy[v, a, 0],
                xy[v, a, 1],
                xy[v, b, 0],
                xy[v, b, 1],
                xy[v, c, 0],
                xy[v, c, 1],
            )
            za, zb, zc = z[v, a], z[v, b], z[v, c]
            area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            if not (abs(area) > 1e-12 and np.isfinite(area) and np.isfinite(za + zb + zc)):
                continue
            if perspective and not min(za, zb, zc) > near:
                continue
            left, right = np.ceil(min(ax, bx, cx) - half), np.floor(max(ax, bx, cx) - half)
            top, bottom = np.ceil(min(ay, by, cy) - half), np.floor(max(ay, by, cy) - half)
            if right < 0 or bottom < 0 or left > width - 1 or top > height - 1:
                continue
            inverse = one / area
            za, zb, zc = one / za, one / zb, one / zc
            for y in range(int(max(top, 0)), int(min(bottom, height - 1)) + 1):
                for x in range(int(max(left, 0)), int(min(right, width - 1)) + 1):
                    px, py = np.float32(x) + half, np.float32(y) + half
                    w0, w1 = _barycentric(px, py, ax, ay, bx, by, cx, cy, inverse)
                    w2 = one - w0 - w1
                    if w0 >= limit and w1 >= limit and w2 >= limit:
                        d = one / (w0 * za + w1 * zb + w2 * zc) if perspective else np.float32(0)
                        if d < depth[v, y, x]:
                            depth[v, y, x] = d
                            face[v, y, x] = i
        _weigh(xy[v], z[v], faces, face[v], weights[v], depth[v], perspective)
    return face, weights, depth


@kernel
def _weigh(xy: Any, z: Any, faces: Any, face: Any, weights: Any, depth: Any, perspective: bool) -> None:
    """Fill in the weights [H, W, 3] of the corners, and 0 for the depth [H, W] of nothing."""
    height, width = face.shape
    one, half = np.float32(1), np.float32(0.5)
    for y in range(height):
        for x in range(width):
            if face[y, x] < 0:
                depth[y, x] = 0
                continue
            a, b, c = faces[face[y, x], 0], faces[face[y, x], 1], faces[face[y, x], 2]
            ax, ay, bx, by, cx, cy = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
            inverse = one / ((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))
            px, py = np.float32(x) + half, np.float32(y) + half
            w0, w1 = _barycentric(px, py, ax, ay, bx, by, cx, cy, inverse)
            w2 = one - w0 - w1
            if perspective:
                w0, w1, w2 = w0 / z[a], w1 / z[b], w2 / z[c]
                d = one / (w0 + w1 + w2)
                depth[y, x] = d
                w0, w1, w2 = w0 * d, w1 * d, w2 * d
            weights[y, x, 0], weights[y, x, 1], weights[y, x, 2] = w0, w1, w2
