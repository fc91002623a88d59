"""Writes tests/slow.txt from a log of the tests, so that `make quick` leaves out what takes long.

    OMP_NUM_THREADS=1 pytest -n logical --durations=0 --durations-min=0.1 > log
    python scripts/find_slow_tests.py 1.0 < log

The number is the limit in seconds of a test function: the time of its slowest variant, set-up included.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

SLOW = Path(__file__).resolve().parent.parent / "tests/slow.txt"
HEADER = (
    "# Tests that `make quick` leaves out; scripts/find_slow_tests.py wrote this list from measured times.\n"
)
LINE = re.compile(r"^(\d+\.\d+)s (?:setup|call) +(tests/\S+?::\w+(?:::\w+)?)(\[.*)?$")


def slow_tests(log: Iterable[str], limit: float) -> list[str]:
    """The test functions that take longer than `limit` seconds by pytest's list of durations."""
    seconds: dict[tuple[str, str], float] = {}
    for match in filter(None, map(LINE.match, log)):
        test = (match[2], match[3] or "")
        seconds[test] = seconds.get(test, 0.0) + float(match[1])
    return sorted({function for (function, _), taken in seconds.items() if taken > limit})


if __name__ == "__main__":
    found = slow_tests(sys.stdin, float(sys.argv[1]))
    SLOW.write_text(HEADER + "".join(f"{function}\n" for function in found), encoding="utf-8")
    print(f"{len(found)} slow tests in {SLOW}")
