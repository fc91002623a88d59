"""`scripts/house.py` finds what it is meant to find, and this tree's rooms stand as its rules say."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

import house
from suite import slow_tests


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def test_the_longest_chain_and_circles() -> None:
    imports = {"top": {"left", "right"}, "left": {"leaf"}, "right": {"left"}, "leaf": set()}
    assert house.longest_chain(imports) == ["top", "right", "left", "leaf"]
    assert len(house.longest_chain({"a": {"b"}, "b": {"a"}})) == 2
    assert house.longest_chain({}) == []


def test_rooms_are_folders_and_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "smallhouse"
    write(
        package / "__init__.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import smallhouse.top",
    )
    write(package / "leaf.py", "")
    write(package / "room/__init__.py", "")
    write(package / "room/inner.py", "from smallhouse.room.other import x")
    write(package / "room/other.py", "x = 1\ndef late():\n    from smallhouse import leaf")
    write(package / "top.py", "from smallhouse.room import inner")
    write(package / "__main__.py", "import smallhouse.top")
    monkeypatch.syspath_prepend(tmp_path)
    assert house.room_imports("smallhouse") == {"leaf": set(), "room": {"leaf"}, "top": {"room"}}
    check = house.check_layers("smallhouse")
    assert (check.value, check.broken, check.where) == (3, False, ("top -> room -> leaf",))


def test_this_package_has_no_more_layers_than_allowed() -> None:
    assert not house.check_layers().broken


def test_an_import_against_the_rules_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for room, text in {"__init__": "", "low": "import smallerhouse.high", "high": ""}.items():
        write(tmp_path / f"smallerhouse/{room}.py", text)
    contract = """
        [tool.importlinter]
        root_package = "smallerhouse"
        [[tool.importlinter.contracts]]
        name = "downwards"
        type = "layers"
        containers = ["smallerhouse"]
        layers = ["high", "low"]
        exhaustive = true
    """
    write(tmp_path / "pyproject.toml", contract)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    check = house.check_arrows(tmp_path)
    assert check.broken
    assert check.where == ("smallerhouse.low -> smallerhouse.high (l.1)",)
    write(tmp_path / "smallerhouse/low.py", "")
    assert not house.check_arrows(tmp_path).broken
    write(tmp_path / "smallerhouse/new.py", "")  # a room that the contract does not name
    assert house.check_arrows(tmp_path).broken


def test_long_files_and_functions_are_found_and_kernels_are_not(tmp_path: Path) -> None:
    body = "    x = 1\n" * house.MAX_FUNCTION_LINES
    long = write(tmp_path / "src/long.py", "")
    long.write_text(f"def long():\n{body}\n\n@numba.njit(cache=True)\ndef compiled():\n{body}")
    short = write(tmp_path / "src/short.py", "")
    short.write_text("def short():\n" + "    x = 1\n" * (house.MAX_FUNCTION_LINES - 1))
    files = house.python_files(tmp_path)
    assert files == [long, short]
    check = house.check_functions(files, tmp_path)
    assert check.broken
    assert check.where == (f"src/long.py:1: long, {house.MAX_FUNCTION_LINES + 1} lines",)
    assert not house.check_files(files, tmp_path).broken
    long.write_text("x = 1\n" * (house.MAX_FILE_LINES + 1))
    assert house.check_files(files, tmp_path).value == 1


def test_long_lines_and_missing_docstrings_are_found(tmp_path: Path) -> None:
    for folder in house.FOLDERS:
        (tmp_path / folder).mkdir()
    write(tmp_path / "pyproject.toml", "[tool.ruff]\nline-length = 110\n")
    write(
        tmp_path / "src/a.py",
        f'"""{"x " * 60}"""\n\n\ndef public():\n    pass\n\n\ndef _private():\n    pass\n',
    )
    lines = house.check_ruff("lines", "E501", tmp_path)
    assert lines.broken
    assert lines.where == ("src/a.py: 1",)
    assert house.check_ruff("docstrings", "D103", tmp_path).value == 1


def test_the_exit_code_says_whether_a_limit_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [house.Check("fine", 1, 1), house.Check("bad", 1, 0, ("here",))]
    monkeypatch.setattr(house, "house", lambda: checks)
    assert house.main() == 1
    checks.pop()
    assert house.main() == 0


def test_slow_tests_are_marked_so_that_make_quick_leaves_them_out(request: pytest.FixtureRequest) -> None:
    names = slow_tests()
    for item in request.session.items:
        if item.nodeid.partition("[")[0] in names:
            assert item.get_closest_marker("slow") is not None, item.nodeid
    for name in names:
        file, _, function = name.partition("::")
        text = (house.ROOT / file).read_text(encoding="utf-8")
        assert f"def {function.rpartition('::')[2]}(" in text, f"{name} of tests/slow.txt is no test"
