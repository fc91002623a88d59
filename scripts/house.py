"""Measures the architecture and the size of the code, and says which limits are broken and where.

    python scripts/house.py

Exit code 1 when a limit is broken. It needs the extra `dev` (grimp, import-linter, ruff), whose rules in
pyproject.toml say which imports are allowed, how long lines may be, and what needs a docstring.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "benchmarks", "scripts")
MAX_LAYERS = 10
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
# Numba compiles these as a whole: what would be a call elsewhere is a line of the loop here.
KERNEL_DECORATORS = frozenset({"kernel", "inlined", "intrinsic", "njit", "_plain"})
DOORS = ("__init__", "__main__")  # of the package: they lead to rooms and are none


@dataclass(frozen=True)
class Check:
    """One measure and its limit.

    Attributes:
        name: what is counted.
        value: how many there are.
        limit: at most so many.
        where: the places, one line each.
    """

    name: str
    value: int
    limit: int
    where: tuple[str, ...] = ()

    @property
    def broken(self) -> bool:
        """Whether there are more than the limit allows."""
        return self.value > self.limit


def longest_chain(imports: dict[str, set[str]]) -> list[str]:
    """The longest way down through rooms that import each other, for example ["cli", "commands", "errors"].

    Args:
        imports: the rooms that each room imports; an import that closes a circle counts for nothing.
    """
    chains: dict[str, list[str]] = {}

    def chain(room: str, above: tuple[str, ...] = ()) -> list[str]:
        if room not in chains:
            downwards = sorted(imports.get(room, set()) - {room, *above})
            chains[room] = [room, *_longest(chain(other, (*above, room)) for other in downwards)]
        return chains[room]

    return _longest(chain(room) for room in sorted(imports))


def _longest(chains: Iterable[list[str]]) -> list[str]:
    return max(chains, key=lambda chain: len(chain), default=[])


def room_imports(package: str = "v3d") -> dict[str, set[str]]:
    """The rooms that each room of a package imports.

    Imports inside functions count, those for types alone (`if TYPE_CHECKING`) do not.

    Args:
        package: a package that can be imported; its rooms are the folders and modules in it.
    """
    import grimp

    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    rooms: dict[str, set[str]] = {}
    for module in sorted(graph.modules):
        room = _room(module)
        if room in DOORS:
            continue
        others = {_room(other) for other in graph.find_modules_directly_imported_by(module)}
        rooms.setdefault(room, set()).update(others - {room, *DOORS})
    return rooms


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def check_layers(package: str = "v3d") -> Check:
    """How many layers of rooms stand on each other, and the longest chain of them."""
    chain = longest_chain(room_imports(package))
    return Check("layers of imports", len(chain), MAX_LAYERS, (" -> ".join(chain),))


def check_arrows(root: Path = ROOT) -> Check:
    """Imports against the contracts of pyproject.toml, as import-linter finds them."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    call = [sys.executable, "-c", code, "--no-cache", "--no-logo"]
    done = subprocess.run(call, cwd=root, capture_output=True, text=True)
    arrows = tuple(line.strip("- ") for line in done.stdout.splitlines() if line.startswith("- "))
    if done.returncode and not arrows:  # a room that no layer names, or import-linter could not start
        arrows = tuple((done.stdout + done.stderr).strip().splitlines()[-6:])
    return Check("imports against the rules", len(arrows), 0, arrows)


def python_files(root: Path = ROOT) -> list[Path]:
    """Every Python file of the source, tests, benchmarks and scripts."""
    return sorted(file for folder in FOLDERS for file in (root / folder).rglob("*.py"))


def check_files(files: Iterable[Path], root: Path = ROOT) -> Check:
    """Files that are too long to read in one sitting."""
    lengths = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    where = [f"{file.relative_to(root)}: {n} lines" for file, n in lengths.items() if n > MAX_FILE_LINES]
    return Check(f"files over {MAX_FILE_LINES} lines", len(where), 0, tuple(where))


def check_functions(files: Iterable[Path], root: Path = ROOT) -> Check:
    """Functions that are too long, docstring included; compiled kernels are left out."""
    where = [
        f"{file.relative_to(root)}:{function.lineno}: {function.name}, {length} lines"
        for file in files
        for function, length in _functions(ast.parse(file.read_text(encoding="utf-8")))
        if length > MAX_FUNCTION_LINES
    ]
    return Check(f"functions over {MAX_FUNCTION_LINES} lines", len(where), 0, tuple(where))


def _functions(tree: ast.AST) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _is_kernel(node):
            yield node, (node.end_lineno or node.lineno) - node.lineno + 1


def _is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(_name(decorator) in KERNEL_DECORATORS for decorator in function.decorator_list)


def _name(decorator: ast.expr) -> str:
    while isinstance(decorator, ast.Call):
        decorator = decorator.func
    return decorator.attr if isinstance(decorator, ast.Attribute) else getattr(decorator, "id", "")


def check_ruff(name: str, rules: str, root: Path = ROOT) -> Check:
    """What ruff finds by some of its rules, as pyproject.toml sets them."""
    call = [sys.executable, "-m", "ruff", "check", "--select", rules, "--output-format", "json", *FOLDERS]
    done = subprocess.run(call, cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stderr)
    found = Counter(str(Path(one["filename"]).relative_to(root)) for one in json.loads(done.stdout))
    return Check(name, found.total(), 0, tuple(f"{file}: {n}" for file, n in sorted(found.items())))


def house(root: Path = ROOT) -> list[Check]:
    """Every measure of the house."""
    files = python_files(root)
    return [
        check_layers(),
        check_arrows(root),
        check_files(files, root),
        check_functions(files, root),
        check_ruff("lines over 110 characters", "E501", root),
        check_ruff("public names without docstring", "D100,D101,D102,D103,D104,D106", root),
    ]


def main() -> int:
    """Print every measure, and the places of those over their limit; 1 where there is one, else 0."""
    checks = house()
    for check in checks:
        print(f"{'BROKEN' if check.broken else 'ok':<7}{check.name}: {check.value} (at most {check.limit})")
    for check in checks:
        if check.broken:
            print(f"\n{check.name}:", *check.where, sep="\n  ")
    return int(any(check.broken for check in checks))


if __name__ == "__main__":
    sys.exit(main())
