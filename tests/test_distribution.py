"""What V3D calls itself is what pyproject.toml calls it, and every extra that a message asks for exists."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from v3d.distribution import DISTRIBUTION, install_hint, own_version

ROOT = Path(__file__).resolve().parent.parent
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_name_is_that_of_pyproject() -> None:
    assert re.search(r'^name = "(.+)"$', PROJECT, re.MULTILINE)[1] == DISTRIBUTION  # type: ignore[index]
    assert f'"{DISTRIBUTION}[official,' in PROJECT  # the extra `dev` includes others by name


def test_every_extra_that_a_message_names_exists() -> None:
    section = PROJECT.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    sources = [file.read_text(encoding="utf-8") for file in (ROOT / "src").rglob("*.py")]
    named = {name for text in sources for name in re.findall(r"install_hint\(['\"](\w+)", text)}
    assert {"official", "cuda", "matting", "int8", "colmap", "heif"} <= named <= extras


def test_nobody_is_sent_to_the_other_project() -> None:
    files = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    for file in files:
        assert not re.search(r"pip install ['\"]?v3d\b|(?<!open)v3d\[", file.read_text(encoding="utf-8")), (
            file
        )


def test_hints_name_the_packages_and_not_a_name_that_could_be_a_stranger_s(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for extra in ("official", "cuda", "matting", "int8", "colmap", "heif"):
        line = re.search(rf"^{extra} = \[(.+)\]$", PROJECT, re.MULTILINE)
        assert line is not None
        named = re.findall(r'"([^"]+)"', install_hint(extra))
        assert sorted(named) == sorted(re.findall(r'"([^"]+)"', line[1]))

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert install_hint("colmap") == 'pip install ".[colmap]" (in a checkout)'


def test_the_version_is_that_of_the_installed_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {DISTRIBUTION: "1.2.3"}[name])
    assert own_version() == "1.2.3"

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert own_version() is None
