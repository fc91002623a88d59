"""Three-vectors and 3x3 matrices as tuples: they live in registers, so kernels can read like formulas."""

from __future__ import annotations

from typing import Any

import numpy as np

from v3d.kernels.jit import inlined

f32 = np.float32
"""Makes float32 of constants; Python's own floats would make kernels compute in float64."""
Vec = Any
"""(x, y, z) of float32."""
Mat = Any
"""Three rows, a `Vec` each."""


@inlined
def vec(a: Any) -> Vec:
    """The first three items of an array."""
    return a[0], a[1], a[2]


@inlined
def add(a: Vec, b: Vec) -> Vec:
    """a + b."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@inlined
def mul(a: Vec, b: Vec) -> Vec:
    """a * b, elementwise."""
    return a[0] * b[0], a[1] * b[1], a[2] * b[2]


@inlined
def scaled(s: Any, a: Vec) -> Vec:
    """s a."""
    return s * a[0], s * a[1], s * a[2]


@inlined
def dot(a: Vec, b: Vec) -> Any:
    """a . b, a scalar."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def cross(a: Vec, b: Vec) -> Vec:
    """a x b."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@inlined
def mat_vec(M: Mat, a: Vec) -> Vec:
    """M a."""
    return dot(M[0], a), dot(M[1], a), dot(M[2], a)


@inlined
def vec_mat(a: Vec, M: Mat) -> Vec:
    """a^T M."""
    return (
        a[0] * M[0][0] + a[1] * M[1][0] + a[2] * M[2][0],
        a[0] * M[0][1] + a[1] * M[1][1] + a[2] * M[2][1],
        a[0] * M[0][2] + a[1] * M[1][2] + a[2] * M[2][2],
    )


@inlined
def mat_mat(A: Mat, B: Mat) -> Mat:
    """A B."""
    return vec_mat(A[0], B), vec_mat(A[1], B), vec_mat(A[2], B)


@inlined
def rotation(w: float, x: float, y: float, z: float) -> Mat:
    """The rotation matrix of a unit quaternion."""
    one, two = f32(1), f32(2)
    return (
        (one - two * (y * y + z * z), two * (x * y - w * z), two * (x * z + w * y)),
        (two * (x * y + w * z), one - two * (x * x + z * z), two * (y * z - w * x)),
        (two * (x * z - w * y), two * (y * z + w * x), one - two * (x * x + y * y)),
    )


@inlined
def rotation_gradient(w: float, x: float, y: float, z: float, G: Mat) -> tuple[float, float, float, float]:
    """dL/d(w, x, y, z) of a unit quaternion, given G = dL/d rotation."""
    two = f32(2)
    return (
        two * (x * (G[2][1] - G[1][2]) + y * (G[0][2] - G[2][0]) + z * (G[1][0] - G[0][1])),
        two * (y * (G[1][0] + G[0][1]) + z * (G[2][0] + G[0][2]) + w * (G[2][1] - G[1][2]))
        - two * two * x * (G[1][1] + G[2][2]),
        two * (x * (G[1][0] + G[0][1]) + z * (G[2][1] + G[1][2]) + w * (G[0][2] - G[2][0]))
        - two * two * y * (G[0][0] + G[2][2]),
        two * (x * (G[2][0] + G[0][2]) + y * (G[2][1] + G[1][2]) + w * (G[1][0] - G[0][1]))
        - two * two * z * (G[0][0] + G[1][1]),
    )
