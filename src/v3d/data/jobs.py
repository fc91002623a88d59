"""What jobs that make data share: worker processes, progress, and a survey of the objects."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from v3d.callbacks import OnProgress
from v3d.checks import check_number, whole
from v3d.data.filters import fault, mesh_fingerprint
from v3d.data.settings import RenderScenesSettings, RenderSettings
from v3d.data.sources import Source, find_sources
from v3d.errors import V3DError, in_words
from v3d.files import write_json
from v3d.text_files import read_json

Map = Callable[..., Iterable[Any]]
"""`map(function, items)`, perhaps in other processes."""

T = TypeVar("T")


@contextmanager
def worker_pool(workers: int) -> Iterator[Map]:
    """A `map` over `workers` processes of one thread each, with results in order; one worker is this process.

    Raises:
        V3DError: there are too few or too many workers, or one was killed.
    """
    check_number("workers", workers, whole(1, 4096))
    if workers <= 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield map
        finally:
            torch.set_num_threads(threads)
        return
    # Spawned, not forked: a fork of a process whose torch has threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, torch.set_num_threads, (1,)) as pool:
        try:
            yield pool.map
        except BrokenProcessPool:
            raise V3DError(
                "A render process was killed, most likely for want of memory; "
                "use fewer --workers and run again."
            ) from None


def counted(results: Iterable[T], stage: str, total: int, show: OnProgress) -> Iterator[T]:
    """Pass the results on, and call `show(stage, done, total)` before the first and after each."""
    show(stage, 0, total)
    for done, result in enumerate(results, 1):
        yield result
        show(stage, done, total)


def survey(
    meshes: Sequence[Path],
    out: Path,
    settings: RenderSettings | RenderScenesSettings,
    do: Map,
    show: OnProgress,
) -> tuple[list[Source], dict[str, Any]]:
    """Find the objects that are of use, and begin `out/manifest.json` with what was found.

    An earlier run of the same job in `out` is believed instead of checking the objects again.

    Args:
        meshes: mesh files, folders, manifests (.json), packed corpora (.npz).
        out: folder of the job.
        settings: of the job; they are written into the manifest.
        do: `map`, perhaps over other processes.
        show: called with ("check", objects checked, objects in all).

    Returns:
        the usable objects, and the manifest's `settings`, `licences` and `objects`.

    Raises:
        V3DError: no mesh is there, none is of use, or `out` holds data of other settings or meshes.
    """
    sources = find_sources(meshes, index=settings.index, split=settings.split)
    stated = json.loads(json.dumps(asdict(settings), default=str))
    objects = _read_manifest(out / "manifest.json", stated, [source.id for source in sources])
    if objects is None:
        objects = check_objects(sources, do, untextured=settings.untextured, show=show)
    refused = {o["id"]: o["refused"] for o in objects}
    licences = Counter(o["licence"] or "unknown" for o in objects if o["refused"] is None)
    report = {"settings": stated, "licences": dict(licences), "objects": objects}
    write_json(out / "manifest.json", report)
    usable = [source for source in sources if refused[source.id] is None]
    if not usable:
        reasons = Counter(refused.values()).most_common(3)
        raise V3DError(f"No object is of use: {'; '.join(f'{n} x {why}' for why, n in reasons)}.")
    return usable, report


def check_objects(
    sources: Sequence[Source], do: Map, *, untextured: bool, show: OnProgress
) -> list[dict[str, Any]]:
    """A manifest entry of every object: id, file, licence, split, why it was refused (None: taken), and notes
    on what it shows otherwise than its file says.

    Of objects with one fingerprint the first is taken and the others are refused.
    """
    found: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    check = partial(check_object, untextured=untextured)
    checked = counted(do(check, sources), "check", len(sources), show)
    for source, (refused, fingerprint, notes) in zip(sources, checked, strict=True):
        if refused is None and first.setdefault(fingerprint, source.id) != source.id:
            refused = f"is the same as {first[fingerprint]}"
        about = {"id": source.id, "file": str(source.file), "licence": source.licence, "split": source.split}
        found.append({**about, "refused": refused, "notes": list(notes)})
    return found


def check_object(source: Source, *, untextured: bool) -> tuple[str | None, str, tuple[str, ...]]:
    """Why the object is of no use (None: it is of use), its fingerprint ("" for a useless one), and notes."""
    try:
        item, notes = source.read()
        reason = fault(item.mesh, untextured=untextured)
        return reason, "" if reason else mesh_fingerprint(item.mesh), notes
    except Exception as error:
        return f"cannot be read: {reason_of(error)}", "", ()


def reason_of(error: Exception) -> str:
    """Why one of many objects is of no use: whatever is wrong with it must not end the work on the others."""
    return (
        str(error) if isinstance(error, V3DError) else f"a fault ({type(error).__name__}: {in_words(error)})"
    )


def finished(record: Path) -> list[dict[str, str]] | None:
    """What failed in a part of a job that is done, as its record says; None where there is no usable one."""
    if not record.exists():
        return None
    try:
        failures = read_json(record)
    except V3DError:
        return None
    usable = isinstance(failures, list) and all(isinstance(failure, dict) for failure in failures)
    return failures if usable else None


def _read_manifest(path: Path, settings: dict[str, Any], ids: list[str]) -> list[dict[str, Any]] | None:
    """The objects in the manifest of an earlier run of the same job; None where there was no earlier run."""
    if not path.exists():
        return None
    try:
        report = read_json(path)
        before, objects = report["settings"], list(report["objects"])
        same = [o["id"] for o in objects] == ids
    except (V3DError, KeyError, TypeError) as error:
        raise V3DError(f"{path} is not a manifest that v3d render wrote; choose another folder.") from error
    if before != settings or not same:
        what = "other meshes" if before == settings else "other settings"
        raise V3DError(f"{path.parent} holds data of {what}; choose another folder.")
    return objects
