"""How the suite runs: `tests/slow.txt` marks slow tests, and the terminal names files instead of dots."""

from __future__ import annotations

from pathlib import Path

import pytest

SLOW = Path(__file__).parent / "slow.txt"


def slow_tests() -> set[str]:
    """Functions such as `tests/test_cli.py::test_generate` that `make quick` leaves out."""
    lines = SLOW.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = slow_tests()
    for item in items:
        if item.nodeid.partition("[")[0] in slow:
            item.add_marker(pytest.mark.slow)


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, str] | None:
    if (
        report.when == "call"
        and report.passed
        and not hasattr(report, "wasxfail")
        and config.option.verbose <= 0
    ):
        return "passed", "", ""  # no dot
    return None


def pytest_sessionstart(session: pytest.Session) -> None:
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if (
        terminal is not None and session.config.option.verbose <= 0
    ):  # there is none in a process of pytest-xdist
        session.config.pluginmanager.register(FileLines(terminal))


class FileLines:
    """Writes the name of every file when the first of its tests has ended."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal
        self._begun: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file = report.nodeid.partition("::")[0]
        if file not in self._begun:
            self._begun.add(file)
            self._terminal.write_line(file)
