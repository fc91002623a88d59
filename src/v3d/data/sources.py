"""Where objects come from: mesh files, folders of them, scanned objects, manifests, packed corpora."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from v3d.data.corpus import CorpusObject, corpus_ids, load_corpus
from v3d.errors import V3DError
from v3d.meshes.files import read_mesh
from v3d.meshes.folders import find_meshes
from v3d.text_files import read_json

PALETTE_SIDE = 64
"""Pixels; a texture of at most this side is a colour table, whose interpolation would invent colours."""


@dataclass(frozen=True)
class Source:
    """One object that can be loaded.

    Attributes:
        id: unique name.
        file: a mesh file, a scanned object's folder, or the packed corpus that holds the object.
        row: the object's place in the packed corpus, None for mesh files.
        split, licence: as the manifest says, "" where nothing does.
    """

    id: str
    file: Path
    row: int | None = None
    split: str = ""
    licence: str = ""

    def load(self) -> CorpusObject:
        """Read the object.

        Raises:
            V3DError: the file is missing, unreadable or holds no triangles.
        """
        return self.read()[0]

    def read(self) -> tuple[CorpusObject, tuple[str, ...]]:
        """Read the object, and what it shows otherwise than its file says.

        Raises:
            V3DError: the file is missing, unreadable or holds no triangles.
        """
        if self.row is not None:
            return next(load_corpus(self.file, [self.row])), ()
        found = read_mesh(self.file)
        texture = found.mesh.texture
        small = texture is not None and max(texture.shape[:2]) <= PALETTE_SIDE
        return CorpusObject(self.id, found.mesh, palette=small), found.notes


def find_sources(paths: Sequence[Path], *, index: Path | None = None, split: str = "all") -> list[Source]:
    """All objects under `paths`, in order, each with a name of its own.

    A manifest is a JSON list of objects with `file` (relative to it) and optionally `id`, `split` and
    `licence`.

    Args:
        paths: mesh files, folders (searched through; see `v3d.meshes.folders`), manifests (.json), corpora
            (.npz).
        index: a manifest that states split and licence of the other objects by their `id`.
        split: take only objects of this split; "all" takes every one.

    Raises:
        V3DError: a path is missing or unreadable, or nothing is left.
    """
    listed = {_name(entry): entry for entry in _read_list(index)} if index else {}
    found: list[Source] = []
    for path in paths:
        if path.suffix.lower() == ".npz":
            found += [
                _described(name, path, listed.get(name, {}), row) for row, name in enumerate(corpus_ids(path))
            ]
        elif path.suffix.lower() == ".json":
            found += [
                _described(_name(entry), path.parent / entry["file"], entry)
                for entry in _read_list(path)
                if "file" in entry
            ]
        elif path.exists():
            found += [
                _described(
                    mesh.id,
                    mesh.path,
                    {"license": mesh.licence}
                    | listed.get(mesh.id, listed.get(mesh.id.removesuffix(mesh.path.suffix), {})),
                )
                for mesh in find_meshes(path)
            ]
        else:
            raise V3DError(f"There is no {path}; give mesh files, folders, a manifest or a packed corpus.")
    if split != "all":
        found = [source for source in found if source.split == split]
    if not found:
        raise V3DError(
            f"No object was found in {', '.join(map(str, paths))}"
            + ("." if split == "all" else f" (split {split!r}).")
        )
    return _unique(found)


def _unique(found: list[Source]) -> list[Source]:
    """Loose mesh files of one name, in several folders, are called after their folders too."""
    count = Counter(source.id for source in found)
    named = [
        replace(source, id=f"{source.file.resolve().parent.name}/{source.file.name}")
        if count[source.id] > 1 and source.id == source.file.stem
        else source
        for source in found
    ]
    count = Counter(source.id for source in named)
    for source, name in zip(found, named, strict=True):
        if count[name.id] > 1:
            raise V3DError(
                f"Two objects are called {source.id}; rename one, or list them with `id` in a manifest."
            )
    return named


def _described(name: str, file: Path, entry: dict[str, Any], row: int | None = None) -> Source:
    return Source(
        name, file, row, str(entry.get("split", "")), str(entry.get("licence", entry.get("license", "")))
    )


def _name(entry: dict[str, Any]) -> str:
    return str(entry["id"] if "id" in entry else Path(entry["file"]).stem)


def _read_list(path: Path) -> list[dict[str, Any]]:
    try:
        entries = read_json(path)
    except V3DError:
        entries = None
    fits = isinstance(entries, list) and all(
        isinstance(entry, dict)
        and ("id" in entry or "file" in entry)
        and isinstance(entry.get("file", ""), str)
        and isinstance(entry.get("id", ""), str | int)
        for entry in entries
    )
    if not fits:
        raise V3DError(f"{path} is not a manifest: a JSON list of objects with `id` or `file`.")
    return list(entries)
