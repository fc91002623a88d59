"""`v3d render`: meshes -> orbit data, by several processes, resumable, with a manifest of all objects.

First every object is loaded once, and refused with a reason if it is of no use (`v3d.data.filters`); then
the orbits are rendered in chunks. A chunk's random choices are a function of the seed and its number, so
the data do not depend on the number of processes or on interruptions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from v3d.callbacks import OnProgress
from v3d.cameras import Cameras, cat_cameras, orbit
from v3d.data.combining import combine
from v3d.data.corpus import CorpusObject
from v3d.data.jobs import counted, finished, reason_of, survey, worker_pool
from v3d.data.random_numbers import integer, uniform
from v3d.data.records import OrbitRecord, save_folder, save_shard, save_tar
from v3d.data.settings import RenderSettings
from v3d.data.sources import Source
from v3d.data.variants import DEFAULT_LIGHT, OrbitVariant, around, placed_mesh, random_variant
from v3d.errors import V3DError
from v3d.files import write_json
from v3d.framing import photo_of
from v3d.meshes.rendering import Light, render
from v3d.views import Views


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
        out: folder of the data and of `manifest.json`.
        settings: which objects become orbits, seen how, and in what files.
        workers: processes.
        on_progress: called with ("check" or "render", how many are done, how many in all).

    Returns:
        What `out/manifest.json` says: settings, objects (with the reason for each that was refused),
        licences, orbits, and orbits that failed.

    Raises:
        V3DError: no mesh is there, none is of use, a number is too small, or `out` holds other data.
    """
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


def plan(sources: Sequence[Source], settings: RenderSettings) -> list[Chunk]:
    """Shuffle the objects anew for every round, and cut the whole into chunks of `settings.per_shard`."""
    order = []
    for r in range(settings.rounds):
        generator = torch.Generator().manual_seed(settings.seed + r)
        order += [(sources[i], r) for i in torch.randperm(len(sources), generator=generator).tolist()]
    n = settings.per_shard
    return [Chunk(k // n, order[k : k + n]) for k in range(0, len(order), n)]


def render_chunk(chunk: Chunk, *, out: Path, settings: RenderSettings) -> list[dict[str, str]]:
    """Render a chunk unless it is there already; returns the orbits that failed, with reasons."""
    done = out / f".done/{chunk.number:05d}.json"
    if (earlier := finished(done)) is not None:
        return earlier
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + chunk.number)
    records: list[OrbitRecord] = []
    failures: list[dict[str, str]] = []
    for source, r in chunk.sources:
        try:
            item, licence = source.load(), source.licence
            if uniform(generator, 0, 1) < settings.combined:
                item, licence = with_partner(item, licence, [s for s, _ in chunk.sources], generator)
            record = render_record(item, licence, settings, generator)
        except Exception as error:
            failures.append({"id": source.id, "round": str(r), "reason": reason_of(error)})
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
    item: CorpusObject, licence: str, sources: Sequence[Source], generator: torch.Generator
) -> tuple[CorpusObject, str]:
    """The object together with a random one of `sources`, and both licences.

    It stays alone where either has no texture, or where the textures are not read alike (palette or image).
    """
    other = sources[integer(generator, 0, len(sources))]
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
    """Render one orbit of one object.

    Raises:
        V3DError: the object cannot be seen from its front.
    """
    variant = draw_variant(settings, generator)
    cameras = draw_cameras(settings, generator)
    placed = replace(item, mesh=placed_mesh(item.mesh, variant, cameras))
    if settings.around:
        cameras = cat_cameras([cameras, around(settings.around, settings.size, generator)])
    return render_placed(
        placed, licence, cameras, variant.light, depth=settings.depth, normal=settings.normal
    )


def render_placed(
    item: CorpusObject,
    licence: str,
    cameras: Cameras,
    light: Light | None,
    *,
    depth: bool,
    normal: bool = False,
) -> OrbitRecord:
    """Render an object where it stands, with the photo that view 0 makes.

    Args:
        item: framed for the orbit whose front camera is the first of `cameras`.
        licence: of the object.
        cameras: of the views.
        light: None renders the bare texture.
        depth, normal: also keep camera z and world normals.

    Raises:
        V3DError: the object cannot be seen from its front.
    """
    images = render(item.mesh, cameras, light=light, nearest=item.palette)
    if images.alpha[0].max() < 0.5:
        raise V3DError("thinner than a pixel, seen from this front")
    views = Views(images.rgb, images.alpha, cameras)
    return OrbitRecord(
        id=item.id,
        licence=licence,
        views=views,
        photo=photo_of(views),
        depth=images.depth if depth else None,
        normal=images.normal if normal else None,
    )


def draw_variant(settings: RenderSettings, generator: torch.Generator) -> OrbitVariant:
    """A random variant: front, light and appearance as the settings say."""
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
        return low if low == high else uniform(generator, low, high)

    if settings.cameras == "orbit":
        return orbit(settings.views, size=settings.size, elevation=elevation())
    azimuths = [0.0, *(360 * torch.rand(settings.views - 1, generator=generator)).tolist()]
    return cat_cameras([orbit(1, size=settings.size, azimuth=a, elevation=elevation()) for a in azimuths])
