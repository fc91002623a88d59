"""`v3d batch`: the objects of a folder or manifest become assets, side by side, and a gallery."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, Positional, arg

from v3d.commands.shared import Out, SomeFailedError, join_cluster
from v3d.errors import V3DError
from v3d.settings import FinishSettings, GenerateSettings


def batch(
    manifest: Positional[Annotated[Path, arg(metavar="MANIFEST")]],
    /,
    out: Out = Path("out"),
    settings: OmitArgPrefixes[GenerateSettings] = GenerateSettings(),  # noqa: B008 (frozen)
    finish: OmitArgPrefixes[FinishSettings] = FinishSettings(),  # noqa: B008 (frozen)
    workers: int | None = None,
    shard: Annotated[str, arg(metavar="I/N")] = "1/1",
    retry: bool = False,
    ray: Annotated[str | None, arg(metavar="ADDRESS")] = None,
) -> None:
    """Many objects: a folder, or a list with photos and settings -> an asset each, summary.csv, gallery.html.

    Args:
        manifest: a folder of photos (each of one object) and of folders with front, left, back, right; or a
            .csv or .jsonl file whose lines name photos (front, left, back, right), name and settings.
        out: every object gets a folder of its name in it.
        settings: of objects that the manifest gives no others.
        finish: their meshes made ready for a game, a print or a web page; a manifest may say otherwise.
        workers: processes; by default as many as cores and memory allow, here or in the cluster.
        shard: make only every Nth object, beginning with the Ith: one of N machines.
        retry: try failed objects again; those that were made stay.
        ray: carry objects out in a Ray cluster: auto, or HOST:PORT of its head node (needs the extra ray).

    Raises:
        V3DError: the manifest or the folder cannot be used.
        SomeFailedError: some objects failed; summary.csv says which and why.
    """
    from v3d.commands.batch_display import BatchDisplay
    from v3d.serving.batch import local_pools, run_batch
    from v3d.serving.manifest import read_manifest
    from v3d.serving.summary import write_summary

    if workers is not None and workers < 1:
        raise V3DError(f"--workers {workers} cannot be; give 1 or more.")
    index, count = parse_shard(shard)
    everything = read_manifest(manifest, settings, finish)
    items = everything[index - 1 :: count]
    if ray is None:
        pools = local_pools(workers, items=len(items))
    else:
        pools = join_cluster(ray, out).pools(workers, items=len(items))
    with BatchDisplay(len(items)) as show:
        records = run_batch(
            items, out, pools=pools, retry=retry, on_item=show.item, on_progress=show.progress
        )
    write_summary(everything, out)
    failed = sum(record.code != 0 for record in records)
    if failed:
        raise SomeFailedError(f"{failed} of {len(records)} objects failed; {out / 'summary.csv'} says why.")


def parse_shard(text: str) -> tuple[int, int]:
    """(i, n) of the text i/n, 1 <= i <= n.

    Raises:
        V3DError: it is none.
    """
    first, _, second = text.partition("/")
    if first.isdecimal() and second.isdecimal() and 1 <= int(first) <= int(second):
        return int(first), int(second)
    raise V3DError(f"--shard {text} is not I/N with I from 1 to N, for example 2/8.")
