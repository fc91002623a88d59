"""Geometry outside autocast, whoever calls it from where."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def without_autocast(function: Callable[P, T]) -> Callable[P, T]:
    """Decorate a function of geometry: it computes in the precision of its arguments, inside autocast, too.

    Autocast is for the matrix products of networks. A ray or a projection rounded to bfloat16 (8 bits) is off
    by half a pixel of a 128-pixel image, and operators that do not promote fail on mixed arguments.
    """

    @functools.wraps(function)
    def exact(*args: P.args, **kwargs: P.kwargs) -> T:
        with ExitStack() as stack:
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return exact
