"""`float8`: eight float32 lanes as a value inside Numba kernels.

Numba leaves vector code to LLVM's auto-vectoriser, which gives up on the branches and stores of a
rasterizer. Here the lanes are explicit: `a * b + c` on float8 values is one LLVM `<8 x float>` operation
each, which every target lowers to what it has (one AVX register, two NEON or SSE registers). A scalar
operand is repeated over the lanes.

Arrays are one-dimensional, contiguous float32; nothing checks bounds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, overload, register_model

LANES = 8
"""Numbers in a float8."""
_FLOAT = ir.FloatType()
_VECTOR = ir.VectorType(_FLOAT, LANES)
_FLAGS = ("fast",)


class Float8(types.Type):
    """Numba's type of a float8 value."""

    def __init__(self) -> None:
        super().__init__(name=f"float{LANES}")


float8 = Float8()


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's decorator, which declares no types: kernels call the result without the typing context."""
    return _intrinsic(function)


@register_model(Float8)
class _Float8Model(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: Any) -> None:
        super().__init__(manager, numba_type, _VECTOR)  # type: ignore[no-untyped-call]  # Numba has none


def _as_vector(context: Any, builder: Any, value: Any, numba_type: Any) -> Any:
    """The operand as a vector: itself, or a scalar repeated over the lanes."""
    if isinstance(numba_type, Float8):
        return value
    scalar = context.cast(builder, value, numba_type, types.float32)
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        first, undefined, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    )


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any) -> Any:
    data = cgutils.create_struct_proxy(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _VECTOR.as_pointer())


@intrinsic
def splat(typing: Any, x: Any) -> Any:
    """splat(x): the scalar x in all lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _as_vector(context, builder, args[0], signature.args[0])

    return float8(x), codegen


@intrinsic
def lanes(typing: Any) -> Any:
    """lanes(): the numbers 0, 1, ..., 7."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(_VECTOR, [float(i) for i in range(LANES)])

    return float8(), codegen


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """load(array, index): array[index : index + 8]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], args[0], args[1]), align=4)

    return float8(array, index), codegen


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """store(array, index, value): array[index : index + 8] = value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = _as_vector(context, builder, args[2], signature.args[2])
        builder.store(vector, _pointer(context, builder, signature.args[0], args[0], args[1]), align=4)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


def _arithmetic(instruction: str) -> Any:
    @intrinsic
    def operation(typing: Any, x: Any, y: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, b = (_as_vector(context, builder, v, t) for v, t in zip(args, signature.args, strict=True))
            return getattr(builder, instruction)(a, b, flags=_FLAGS)

        return float8(x, y), codegen

    return operation


def _overload_operator(python_operator: Any, operation: Any) -> None:
    @overload(python_operator, inline="never")
    def implementation(x, y):  # type: ignore[no-untyped-def]  # Numba compares it with the lambda's signature
        if isinstance(x, Float8) or isinstance(y, Float8):
            return lambda x, y: operation(x, y)
        return None


for _operator, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _overload_operator(_operator, _arithmetic(_instruction))


def _select(comparison: str) -> Any:
    @intrinsic
    def select(typing: Any, x: Any, y: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            x, y, a, b = (
                _as_vector(context, builder, v, t) for v, t in zip(args, signature.args, strict=True)
            )
            return builder.select(builder.fcmp_ordered(comparison, x, y, flags=_FLAGS), a, b)

        return float8(x, y, a, b), codegen

    return select


where_less = _select("<")
"""where_less(x, y, a, b): a in the lanes where x < y, else b."""
where_less_equal = _select("<=")
"""where_less_equal(x, y, a, b): a in the lanes where x <= y, else b."""


def _reduction(name: str, *start: float) -> Any:
    @intrinsic
    def reduce(typing: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            signature_ir = ir.FunctionType(_FLOAT, [_FLOAT] * len(start) + [_VECTOR])
            function = cgutils.get_or_insert_function(
                builder.module, signature_ir, f"llvm.vector.reduce.{name}.v{LANES}f32"
            )
            return builder.call(
                function, [*(ir.Constant(_FLOAT, s) for s in start), args[0]], fastmath=_FLAGS
            )

        return types.float32(x), codegen

    return reduce


sum_lanes = _reduction("fadd", 0.0)
"""sum_lanes(x): the sum of the lanes, float32."""
max_lanes = _reduction("fmax")
"""max_lanes(x): the largest lane, float32."""
