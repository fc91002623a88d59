"""Test objects: a packed corpus, a manifest or a folder of meshes, read one at a time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v3d.data.corpus import corpus_ids, load_corpus
from v3d.data.sources import PALETTE_SIDE
from v3d.errors import V3DError
from v3d.evaluation.settings import ObjectSource
from v3d.meshes.files import load_mesh
from v3d.meshes.folders import find_meshes
from v3d.meshes.mesh import Mesh
from v3d.text_files import read_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TestObject:
    """One object to evaluate on.

    Attributes:
        id: unique name.
        mesh: in V3D's world axes, of any size.
        palette: the texture is a colour table, to be read without interpolation.
        real_scan: a scan of a real thing; else made by an artist or a program.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    id: str
    mesh: Mesh
    palette: bool
    real_scan: bool

    @property
    def hash(self) -> str:
        """Fingerprint of the geometry and the texture."""
        digest = hashlib.sha256()
        for tensor in (self.mesh.vertices, self.mesh.faces, self.mesh.uv, self.mesh.texture):
            if tensor is not None:
                digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def object_ids(source: ObjectSource) -> list[str]:
    """Names of the chosen objects, in order.

    Raises:
        V3DError: nothing is there, or nothing is left after the choice.
    """
    names = list(_entries(source))
    if not names:
        place = source.corpus or source.manifest
        raise V3DError(f"No test object was found in {place} (split {source.split!r}).")
    if source.limit and len(names) > source.limit:
        names = [names[i * len(names) // source.limit] for i in range(source.limit)]
    return names


def load_objects(source: ObjectSource, ids: list[str]) -> Iterator[TestObject]:
    """The objects of these names, one at a time, in this order.

    Those that cannot be read are left out: each is logged, and at the end how many.
    """
    entries, corpus = _entries(source), source.corpus
    packed = corpus if corpus is not None and _is_packed(corpus) else None
    where = {} if packed is None else {name: i for i, name in enumerate(corpus_ids(packed))}
    left_out = 0
    for name in ids:
        try:
            if packed is not None:
                item = next(load_corpus(packed, [where[name]]))
                found = TestObject(item.id, item.mesh, item.palette, _is_scan(entries[item.id]))
            else:
                found = _load(name, entries[name])
        except V3DError as error:
            left_out += 1
            log.warning("%s is left out: %s", name, error)
            continue
        yield found
    if left_out:
        log.warning("%d of %d objects could not be read and are left out.", left_out, len(ids))


def _load(name: str, entry: dict[str, Any]) -> TestObject:
    mesh = load_mesh(entry["path"])
    small = mesh.texture is not None and max(mesh.texture.shape[:2]) <= PALETTE_SIDE
    kind = entry.get("texture_kind", "palette" if small else "image")
    return TestObject(name, mesh, kind == "palette", _is_scan(entry))


def _entries(source: ObjectSource) -> dict[str, dict[str, Any]]:
    """What is known of each chosen object, by name; `path` is its file unless the corpus is packed."""
    corpus, manifest = source.corpus, source.manifest
    if corpus is not None and not corpus.exists():
        raise V3DError(f"There is no corpus {corpus}.")
    listed = None
    if manifest is not None:
        listed = _read_manifest(manifest)
        if source.split != "all":
            listed = {k: v for k, v in listed.items() if v.get("split", source.split) == source.split}
        if source.real_scans:
            listed = {k: v for k, v in listed.items() if _is_scan(v)}
    if corpus is not None and _is_packed(corpus):
        if listed is None and source.real_scans:
            raise V3DError(f"Only a --manifest says which objects of {corpus} are real scans.")
        names = corpus_ids(corpus)
        return {n: {} for n in names} if listed is None else {n: listed[n] for n in names if n in listed}
    if listed is not None and manifest is not None:
        root = corpus or manifest.parent
        return {k: {**v, "path": root / v["file"]} for k, v in listed.items() if "file" in v}
    if corpus is None:
        raise V3DError("Name the test objects: give --corpus (a .npz or a folder of meshes) or --manifest.")
    meshes = [m for m in find_meshes(corpus) if m.real_scan or not source.real_scans]
    return {m.id: {"path": m.path, "real_scan": m.real_scan} for m in meshes}


def _is_packed(corpus: Path) -> bool:
    return corpus.suffix == ".npz"


def _is_scan(entry: dict[str, Any]) -> bool:
    return bool(entry.get("real_scan", False))


def _read_manifest(path: Path) -> dict[str, dict[str, Any]]:
    try:
        entries = read_json(path)
        if not all(isinstance(e, dict) and isinstance(e.get("file", ""), str) for e in entries):
            raise TypeError("an entry is no object, or its file no name")
        return {str(e["id"] if "id" in e else Path(e["file"]).stem): e for e in entries}
    except (V3DError, KeyError, TypeError) as error:
        raise V3DError(f"{path} is not a manifest: a JSON list of objects with `id` or `file`.") from error
