"""MkDocs hooks: the pages of the site that are not in docs/.

README.md, ARCHITECTURE.md and their kin stand at the root, model cards beside their weights, and the API
reference is made of the source itself, one page a room, so that none of it is written twice. Links between
pages are rewritten to match.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/v3d"
PAGES = {  # file in the repository: page of the site
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "examples/README.md": "examples.md",
    "src/v3d/weights/mini/README.md": "models/mini.md",
    "src/v3d/weights/mini-scene/README.md": "models/mini-scene.md",
    "src/v3d/weights/imagenet/README.md": "models/imagenet.md",
    "src/v3d/weights/u2netp/README.md": "models/u2netp.md",
}
_HOMES = {page: file for file, page in PAGES.items()}
_LINK = re.compile(r"(?P<bang>!?)\[(?P<text>[^\]]*)\]\((?!\w+:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]+)?\)")


def on_config(config: Any) -> Any:
    """List the pages of the API under Reference."""
    reference = [page for page in api_pages() if page != "api/index.md"]
    for entry in config.nav:
        if "Reference" in entry:
            titled = [{PurePosixPath(page).stem: page} for page in reference]
            entry["Reference"] = ["api/index.md", *titled]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for page, content in api_pages().items():
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    home = PurePosixPath(_HOMES.get(here, f"docs/{here}")).parent

    def link(match: re.Match[str]) -> str:
        target = os.path.normpath(home / match["path"])
        if target in PAGES:
            target = PAGES[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
        else:
            return match["text"]  # a file that the site does not have
        relative = os.path.relpath(target, PurePosixPath(here).parent)
        return f"{match['bang']}[{match['text']}]({relative}{match['anchor'] or ''})"

    return _LINK.sub(link, markdown)


def api_pages() -> dict[str, str]:
    """A page a room of the package, one of its top modules, and an index."""
    rooms = sorted(room for room in PACKAGE.iterdir() if modules(room.rglob("*.py")))
    pages = {f"api/{room.name}.md": _page(room.name, room.rglob("*.py")) for room in rooms}
    pages["api/v3d.md"] = _page("The package's own modules", PACKAGE.glob("*.py"))
    rows = [f"| [{room.name}]({room.name}.md) | {summary(room / '__init__.py')} |" for room in rooms]
    names = [f"[`v3d.{name}`][{home}.{name}]" for name, home in sorted(public_names().items())]
    pages["api/index.md"] = "\n".join(
        [
            "# API reference",
            "",
            f"What most programs need is in `v3d` itself: {', '.join(names)}. The rooms hold the rest.",
            "",
            "| room | what is in it |",
            "|---|---|",
            *rows,
            "| [the package's own modules](v3d.md) | cameras, views, framing, runs, the command line |",
            "",
        ]
    )
    return pages


def public_names() -> dict[str, str]:
    """Every name of `v3d` itself and the module that it comes from, as the package's `_HOMES` says."""
    for statement in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_HOMES":
            homes: dict[str, tuple[str, ...]] = ast.literal_eval(statement.value)
            return {name: module for module, names in homes.items() for name in names}
    raise LookupError("v3d/__init__.py has no _HOMES.")


def summary(file: Path) -> str:
    """The first sentence of a module's docstring, "" without one."""
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def modules(files: Iterable[Path]) -> list[str]:
    """Dotted names of the modules of a package's files that say anything themselves."""
    said = [file for file in files if not file.name.startswith("__") and file.stat().st_size > 0]
    return sorted(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in said)


def _page(title: str, files: Iterable[Path]) -> str:
    return f"# {title}\n\n" + "\n".join(f"::: {module}\n" for module in modules(files))
