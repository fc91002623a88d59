"""`v3d render`: meshes -> orbit data, by several processes, resumable, with a manifest of what came of every object.

First every object is loaded once, and refused with a reason if it is of no use (`v3d.data.filters`); then
the orbits are rendered in chunks. A chunk's random choices are a function of the seed and its number, so
the data do not depend on the number of processes or on interruptions.
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from v3d.callbacks import OnProgress
from v3d.cameras import Cameras, cat_cameras, orbit
from v3d.data.corpus import CorpusObject
from v3d.data.filters import fault, mesh_fingerprint
from v3d.data.orbits import DEFAULT_LIGHT, OrbitVariant, around, placed_mesh, random_variant
from v3d.data.records import OrbitRecord, save_folder, save_shard, save_tar
from v3d.data.settings import RenderScenesSettings, RenderSettings
from v3d.data.shapes import combine
from v3d.data.sources import Source, find_sources
from v3d.errors import V3DError
from v3d.files import write_json
from v3d.framing import photo_of
from v3d.meshes.rendering import render
from v3d.views import Views

T = TypeVar("T")

Map = Callable[..., Iterable[Any]]
"""`map(function, items)`, perhaps in other processes."""


@dataclass(frozen=True)
class Chunk:
    """One unit of work: the objects of one shard (or of so many folders).

    Attributes:
        number: of the shard.
        sources: (object, the round it belongs to).
    """

    number: int
    sources: list[tuple[Source, int]]


def render_meshes(
    meshes: Sequence[Path],
    out: Path,
    settings: RenderSettings,
    *,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Render orbits of meshes into `out`, going on where an interrupted run stopped.

    Args:
        meshes: mesh files, folders, manifests (.json), packed corpora (.npz).
        workers: processes.

    Returns:
        What `out/manifest.json` says: settings, objects (with the reason for each that was refused), licences,
        files, orbits, and orbits that failed.

    Raises:
        V3DError: no mesh is there, none is of use, a number is too small, or `out` holds data of other settings.
    """
    if min(settings.rounds, settings.views, settings.size, settings.per_shard) < 1 or settings.around < 0:
        raise V3DError("--rounds, --views, --size and --per-shard are 1 or more, --around is 0 or more.")
    show = on_progress or (lambda stage, done, total: None)
    with worker_pool(workers) as do:
        usable, report = survey(meshes, out, settings, do, show)
        chunks = plan(usable, settings)
        failures: list[dict[str, str]] = []
        work = partial(render_chunk, out=out, settings=settings)
        for result in counted(do(work, chunks), "render", len(chunks), show):
            failures += result
    report |= {"orbits": len(usable) * settings.rounds - len(failures), "failures": failures}
    write_json(out / "manifest.json", report)
    return report


def survey(
    meshes: Sequence[Path],
    out: Path,
    settings: RenderSettings | RenderScenesSettings,
    do: Map,
    show: OnProgress,
) -> tuple[list[Source], dict[str, Any]]:
    """The objects that are of use, and the beginning of `out/manifest.json`, which is written.

    An earlier run of the same job is believed.

    Raises:
        V3DError: as `render_meshes`.
    """
    sources = find_sources(meshes, index=settings.index, split=settings.split)
    told = json.loads(json.dumps(asdict(settings), default=str))
    objects = _read_manifest(out / "manifest.json", told, [source.id for source in sources])
    if objects is None:
        objects = check_objects(sources, do, untextured=settings.untextured, show=show)
    refused = {o["id"]: o["refused"] for o in objects}
    licences = Counter(o["licence"] or "unknown" for o in objects if o["refused"] is None)
    report = {"settings": told, "licences": dict(licences), "objects": objects}
    write_json(out / "manifest.json", report)
    usable = [source for source in sources if refused[source.id] is None]
    if not usable:
        reasons = Counter(refused.values()).most_common(3)
        raise V3DError(f"No object is of use: {'; '.join(f'{n} x {why}' for why, n in reasons)}.")
    return usable, report


def check_objects(
    sources: Sequence[Source], do: Map, *, untextured: bool, show: OnProgress
) -> list[dict[str, Any]]:
    """What is known of every object: id, file, licence, split, and why it was refused (None: taken)."""
    found: list[dict[str, Any]] = []
    first: dict[str, str] = {}
    check = partial(check_object, untextured=untextured)
    checked = counted(do(check, sources), "check", len(sources), show)
    for source, (refused, mark) in zip(sources, checked, strict=True):
        if refused is None and first.setdefault(mark, source.id) != source.id:
            refused = f"is the same as {first[mark]}"
        about = {"id": source.id, "file": str(source.file), "licence": source.licence, "split": source.split}
        found.append({**about, "refused": refused})
    return found


def check_object(source: Source, *, untextured: bool) -> tuple[str | None, str]:
    """Why the object is of no use (None if it is), and its fingerprint."""
    try:
        mesh = source.load().mesh
    except V3DError as error:
        return f"cannot be read: {error}", ""
    reason = fault(mesh, untextured=untextured)
    return reason, "" if reason else mesh_fingerprint(mesh)


def plan(sources: Sequence[Source], settings: RenderSettings) -> list[Chunk]:
    """Every round in an order of its own, cut into chunks."""
    order = [
        (sources[i], r)
        for r in range(settings.rounds)
        for i in torch.randperm(
            len(sources), generator=torch.Generator().manual_seed(settings.seed + r)
        ).tolist()
    ]
    n = settings.per_shard
    return [Chunk(k // n, order[k : k + n]) for k in range(0, len(order), n)]


def render_chunk(chunk: Chunk, *, out: Path, settings: RenderSettings) -> list[dict[str, str]]:
    """Render a chunk unless it is there already; returns the orbits that failed, with reasons."""
    done = out / f".done/{chunk.number:05d}.json"
    if done.exists():
        failures: list[dict[str, str]] = json.loads(done.read_text())
        return failures
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + chunk.number)
    records, failures = [], []
    for source, r in chunk.sources:
        try:
            item, licence = source.load(), source.licence
            if float(torch.rand((), generator=generator)) < settings.combined:
                item, licence = with_partner(item, licence, chunk, generator)
            record = render_record(item, licence, settings, generator)
        except V3DError as error:
            failures.append({"id": source.id, "round": str(r), "reason": str(error)})
            continue
        if settings.format == "folders":
            save_folder(record, out / f"{source.id.replace('/', '__')}-{r}")
        else:
            records.append(record)
    if records:
        save, suffix = (save_tar, "tar") if settings.format == "tar" else (save_shard, "safetensors")
        save(records, out / f"orbits-{chunk.number:05d}.{suffix}")
    write_json(done, failures)
    return failures


def with_partner(
    item: CorpusObject, licence: str, chunk: Chunk, generator: torch.Generator
) -> tuple[CorpusObject, str]:
    """The object together with another one of its chunk, and both licences; alone where their textures are not read alike."""
    other = chunk.sources[int(torch.randint(len(chunk.sources), (), generator=generator))][0]
    partner = other.load()
    textured = item.mesh.texture is not None and partner.mesh.texture is not None
    if partner.palette != item.palette or not textured:
        return item, licence
    both = combine(item.mesh, partner.mesh, generator)
    licences = licence if other.licence in ("", licence) else f"{licence}, {other.licence}"
    return CorpusObject(f"{item.id}+{partner.id}", both, item.palette), licences


def render_record(
    item: CorpusObject, licence: str, settings: RenderSettings, generator: torch.Generator
) -> OrbitRecord:
    """One orbit of one object.

    Raises:
        V3DError: the object cannot be seen from its front.
    """
    variant = draw_variant(settings, generator)
    cameras = draw_cameras(settings, generator)
    mesh = placed_mesh(item.mesh, variant, cameras)
    if settings.around:
        cameras = cat_cameras([cameras, around(settings.around, settings.size, generator)])
    images = render(mesh, cameras, light=variant.light, nearest=item.palette)
    if images.alpha[0].max() < 0.5:
        raise V3DError("thinner than a pixel, seen from this front")
    views = Views(images.rgb, images.alpha, cameras)
    return OrbitRecord(
        id=item.id,
        licence=licence,
        views=views,
        photo=photo_of(views),
        depth=images.depth if settings.depth else None,
        normal=images.normal if settings.normal else None,
    )


def draw_variant(settings: RenderSettings, generator: torch.Generator) -> OrbitVariant:
    """Front, light and appearance as the settings say."""
    variant = random_variant(generator)
    if settings.appearance == "plain":
        variant = OrbitVariant(light=DEFAULT_LIGHT)
    if settings.light != "random":
        variant = replace(variant, light=DEFAULT_LIGHT if settings.light == "soft" else None)
    return variant


def draw_cameras(settings: RenderSettings, generator: torch.Generator) -> Cameras:
    """The cameras of one orbit; the first sees the front."""
    low, high = settings.elevation

    def elevation() -> float:
        return low if low == high else low + (high - low) * float(torch.rand((), generator=generator))

    if settings.cameras == "orbit":
        return orbit(settings.views, size=settings.size, elevation=elevation())
    azimuths = [0.0, *(360 * torch.rand(settings.views - 1, generator=generator)).tolist()]
    return cat_cameras([orbit(1, size=settings.size, azimuth=a, elevation=elevation()) for a in azimuths])


@contextmanager
def worker_pool(workers: int) -> Iterator[Map]:
    """`map` over so many processes of one thread each, in order; one process is this one."""
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
                "A render process was killed, most likely for want of memory; use fewer --workers and run again."
            ) from None


def counted(results: Iterable[T], stage: str, total: int, show: OnProgress) -> Iterator[T]:
    """The results, telling before the first and after each how many there have been."""
    show(stage, 0, total)
    for done, result in enumerate(results, 1):
        yield result
        show(stage, done, total)


def _read_manifest(path: Path, settings: dict[str, Any], ids: list[str]) -> list[dict[str, Any]] | None:
    """What an earlier run of the same job found out about the objects; None where there was none."""
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        before, objects = report["settings"], list(report["objects"])
        same = [o["id"] for o in objects] == ids
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise V3DError(f"{path} is not a manifest that v3d render wrote; choose another folder.") from error
    if before != settings or not same:
        what = "other meshes" if before == settings else "other settings"
        raise V3DError(f"{path.parent} holds data of {what}; choose another folder.")
    return objects
