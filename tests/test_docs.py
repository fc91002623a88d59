"""The pages: their code runs, what they link to and name exists, the site builds.

Every ```sh and ```python block of README.md and of docs/tutorials/ runs, in order, in a folder that has a
copy of `examples/`. A block that cannot run here is preceded by `<!-- skip: REASON -->`. Lines that start
with `v3d` go to the command line's own `main`, in this process; all other lines go to bash. Python blocks of
one page share their variables. Two things make it quick: commands that leave the effort open get the least
of it (`LEAST`), and pages share the folder, so that a page reuses the stages that an earlier one finished.
Each page runs alone, too.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tyro

from v3d.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
CODE_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/tutorials").glob("*.md"))]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "src/v3d/weights").rglob("*.md")),
    ROOT / "examples/README.md",
]
_FENCE = re.compile(
    r"(?:^<!-- skip: (?P<reason>.+?) -->\n+)?^```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S
)
_LINK = re.compile(r"\]\((?!\w+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]+)?\)")
_FILE = re.compile(r"`((?:src|tests|docs|scripts|benchmarks|examples)/[\w./-]+)`")
_ROOM_FILE = re.compile(r"`([a-z_]+/[a-z_/]+\.py)`")  # in src/v3d
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
_SPAN = re.compile(r"(?<!`)`(?!python\s|pytest|mypy)([^`]+)`(?!`)")  # inline code that is of `v3d` itself
_NAME = re.compile(r"`(v3d(?:\.\w+)+)(?:\(.*?\))?`")
_HEADING = re.compile(r"^#+ (.+)$", re.M)
LEAST = {
    "generate": ("--quality", "draft"),
    "train": ("--steps", "5"),  # tests/training shows that whole recipes learn
    "evaluate": ("--size", "64"),
}
"""The option that a command of a page gets unless it chooses itself."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and why it does not run here ("" if it does)."""

    kind: str
    code: str
    reason: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    matches = _FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(match["kind"], match["code"], match["reason"] or "") for match in matches]


def commands(code: str) -> Iterator[list[str]]:
    """The words of every line of a shell block; lines that end in a backslash go on, comments are dropped."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def run_shell(code: str) -> None:
    """Run a shell block line by line."""
    for words in commands(code):
        if words[0] == "v3d":
            arguments = words[1:]
            least = LEAST.get(arguments[0], ())
            if least and least[0] not in arguments:
                arguments += least
            assert main(arguments) == 0, f"{shlex.join(words)} failed"
        else:
            subprocess.run(["bash", "-ec", shlex.join(words)], check=True)


def names(page: Path) -> str:
    """A page's name for the test's id."""
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would type: a folder that has `examples/`."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", CODE_PAGES, ids=names)
def test_the_code_of_a_page_runs(page: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace)
    shared: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if block.reason or block.kind not in {"sh", "python"}:
            continue
        if block.kind == "sh":
            run_shell(block.code)
        else:
            exec(compile(block.code, names(page), "exec"), shared)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_commands_that_a_page_names_parse(page: Path) -> None:
    """Also those that do not run here: every option of every `v3d` line is one that the command has."""
    idle = {name: parsed_only(command) for name, command in COMMANDS.items()}
    for block in blocks(page):
        if block.kind not in {"", "sh"}:
            continue
        for words in commands(block.code):
            if words[0] == "v3d" and "..." not in words:
                tyro.extras.subcommand_cli_from_dict(idle, prog="v3d", args=words[1:])


def parsed_only(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the same options that does nothing."""

    @functools.wraps(command)
    def idle(*_: Any, **__: Any) -> None:
        return None

    return idle


def test_the_pages_have_code_to_run() -> None:
    running = [b for page in CODE_PAGES for b in blocks(page) if b.kind in {"sh", "python"} and not b.reason]
    assert len(running) >= 20


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    for match in _LINK.finditer(page.read_text(encoding="utf-8")):
        target = page.parent / match["target"]
        if "/api/" in match["target"] or match["target"].startswith("api/"):
            continue  # made when the site is built, which checks them
        assert target.exists(), f"{match['target']} does not exist"
        if match["anchor"]:
            anchors = {slug(heading) for heading in _HEADING.findall(target.read_text(encoding="utf-8"))}
            assert match["anchor"][1:] in anchors, f"{match['target']} has no {match['anchor']}"


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for file in _FILE.findall(text):
        assert (ROOT / file).exists(), f"{file} does not exist"
    for file in _ROOM_FILE.findall(text):
        assert (ROOT / file).exists() or (ROOT / "src/v3d" / file).exists(), f"{file} does not exist"
    for name in _NAME.findall(text):
        assert found(name), f"{name} cannot be imported"


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Every option of every command, as its help says."""
    found = {"--help", "--version"}
    for command in (*COMMANDS, *(f"{name} {task}" for name in ("train", "evaluate") for task in tasks(name))):
        found |= set(_OPTION.findall(help_of(command)))
    return found


def tasks(command: str) -> list[str]:
    """The subcommands of `v3d train` or `v3d evaluate`."""
    subcommands = re.search(r"\{([\w,-]+)\}", help_of(command))
    assert subcommands is not None
    return subcommands[1].split(",")


def help_of(command: str) -> str:
    """What `v3d COMMAND --help` shows."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    return shown.getvalue()


def test_help_shows_the_options(options: set[str]) -> None:
    assert {"--quality", "--photo", "--mesh", "--around", "--source-counts", "--shares"} <= options


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_options_that_a_page_names_exist(page: Path, options: set[str]) -> None:
    """Those in running text; `test_commands_that_a_page_names_parse` looks at the blocks."""
    for span in _SPAN.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        for option in _OPTION.findall(span):
            assert option in options, f"{option} in `{span}`"


def test_the_architecture_page_has_the_layers_and_the_rooms() -> None:
    page, project = ROOT / "ARCHITECTURE.md", (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.search(r"^layers = (\[.*?^\])", project, re.M | re.S)
    assert layers is not None
    assert [b.code.splitlines() for b in blocks(page) if b.kind == "text"] == [ast.literal_eval(layers[1])]
    for room in (ROOT / "src/v3d").iterdir():
        if any(not file.name.startswith("__") for file in room.rglob("*.py")):
            assert f"`{room.name}/`" in page.read_text(encoding="utf-8"), f"{room.name} is not on the page"


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_lines_of_a_page_are_short(page: Path) -> None:
    """Prose wraps at 110 characters; tables, code and links of one line may be longer."""
    prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for line in prose.splitlines():
        if not line.lstrip().startswith(("|", "![", "<")) and "](" not in line:
            assert len(line) <= 110, f"{len(line)} characters: {line}"


def slug(heading: str) -> str:
    """The anchor of a heading, as the site and code hosts make it."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip())


def found(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            fields = getattr(thing, "__dataclass_fields__", {})
            if not hasattr(thing, attribute):
                return attribute in fields
            thing = getattr(thing, attribute)
        return True
    return False


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site/api/splats/index.html").exists()
