"""The z-buffer's inner loop, compiled for the CPU.

`v3d.meshes.rendering` has a twin of it in torch for other devices.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from v3d.kernels.jit import kernel


@kernel
def nearest_faces(
    xy: Any, z: Any, area: Any, low: Any, size: Any, ids: Any, shape: Any, perspective: bool
) -> Any:
    """The nearest triangle at every pixel centre; of equally near ones the first.

    Args:
        xy: [N, 3, 2] float32 corners in pixels, the triangles of all views in turn.
        z: [N, 3] float32 camera z.
        area: [N] twice the signed areas.
        low, size: [M, 2] int64 of each visible triangle: first column and row, numbers of columns and rows.
        ids: [M] int64 their numbers, ascending.
        shape: (V, H, W) of the images.
        perspective: z is a camera depth; otherwise z is ignored, and the first face wins.

    Returns:
        [V, H, W] int64, a triangle's number within its view, -1 where there is none.
    """
    faces = len(xy) // shape[0]
    face = np.full(shape, -1, np.int64)
    depth = np.full(shape, np.inf, np.float32)
    one, half, limit = np.float32(1), np.float32(0.5), np.float32(-1e-6)
    for k in range(len(ids)):
        i = ids[k]
        view = i // faces
        ax, ay, bx, by, cx, cy = xy[i, 0, 0], xy[i, 0, 1], xy[i, 1, 0], xy[i, 1, 1], xy[i, 2, 0], xy[i, 2, 1]
        inverse = one / area[i]
        za, zb, zc = one / z[i, 0], one / z[i, 1], one / z[i, 2]
        for y in range(low[k, 1], low[k, 1] + size[k, 1]):
            py = np.float32(y) + half
            for x in range(low[k, 0], low[k, 0] + size[k, 0]):
                px = np.float32(x) + half
                w0 = ((bx - px) * (cy - py) - (by - py) * (cx - px)) * inverse
                w1 = ((cx - px) * (ay - py) - (cy - py) * (ax - px)) * inverse
                w2 = one - w0 - w1
                if w0 >= limit and w1 >= limit and w2 >= limit:
                    d = one / (w0 * za + w1 * zb + w2 * zc) if perspective else np.float32(0)
                    if d < depth[view, y, x]:
                        depth[view, y, x] = d
                        face[view, y, x] = i - view * faces
    return face
