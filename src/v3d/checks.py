"""Ranges of the numbers that users choose, checked where settings are made, whoever makes them."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

from v3d.errors import V3DError


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; nan is in no range.

    Attributes:
        low, high: the ends.
        whole: only numbers without a fraction.
        ends: whether `low` and `high` themselves belong to it.
    """

    low: float
    high: float = math.inf
    whole: bool = False
    ends: bool = True

    def __contains__(self, value: Any) -> bool:
        kind = numbers.Integral if self.whole else numbers.Real
        if not isinstance(value, kind) or isinstance(value, bool) or abs(value) == math.inf:
            return False
        number: Any = value
        return bool(self.low <= number <= self.high and (self.ends or self.low < number < self.high))

    def __str__(self) -> str:
        what = "a whole number" if self.whole else "a number"
        if self.high == 2**64 - 1:
            return f"{what} from {self.low:.0f} to 2^64 - 1"
        if self.high == math.inf:
            return f"{what} of {self.low:.0f} or more" if self.ends else f"{what} above {self.low:.0f}"
        ends = "" if self.ends else ", without these ends"
        return f"{what} from {self.low:.15g} to {self.high:.15g}{ends}"


def whole(low: int, high: float = math.inf) -> Range:
    """Whole numbers from `low` to `high`, which belong to them."""
    return Range(low, high, whole=True)


POSITIVE = Range(0, ends=False)
"""Finite numbers above 0."""
NOT_NEGATIVE = Range(0)
"""Finite numbers of 0 or more."""
SHARE = Range(0, 1)
"""Fractions of a whole."""
COUNT = whole(1)
"""How many, where none would leave nothing to do."""
ANY = Range(-1e6, 1e6)
"""Numbers that can be computed with."""
ELEVATION = Range(-90, 90, ends=False)
"""Degrees above the horizon: a camera straight above has no upright picture."""
SEED = whole(0, 2**64 - 1)
"""What torch takes for a seed."""
SMALL_SEED = whole(0, 2**32 - 1)
"""Seeds of jobs that count on from theirs: for every step, sample or shard."""


def check_number(name: str, value: Any, within: Range) -> None:
    """Refuse a number that is not in its range.

    Args:
        name: of the setting, as the sentence shows it.
        value: a number; of a tuple, each is checked. None, which stands for a default, is taken.
        within: the range.

    Raises:
        V3DError: it is outside.
    """
    each = value if isinstance(value, tuple) else () if value is None else (value,)
    for number in each:
        if number not in within:
            raise V3DError(f"{name} is {within}, not {str(number)[:40]}.")


def check_numbers(settings: object, **ranges: Range) -> None:
    """Refuse settings of which a number is not in its range, see `check_number`.

    Raises:
        V3DError: one is outside.
    """
    for name, within in ranges.items():
        check_number(name, getattr(settings, name), within)
