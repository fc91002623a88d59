"""How long work tells its caller how far it has come."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step."""

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all); a stage begins with 0 steps done and ends with all."""
