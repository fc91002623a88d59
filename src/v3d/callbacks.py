"""What work tells its caller while it runs: how far it has come, and what it had to guess."""

from __future__ import annotations

from collections.abc import Callable

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps in all) after every step."""

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all); a stage begins with 0 steps done and ends with all."""

Warn = Callable[[str], None]
"""Called with one sentence that the user should know."""


def ignore(warning: str) -> None:
    """The `Warn` of callers that do not pass warnings on."""
