"""`v3d render-scenes`: meshes -> shards of synthetic scenes, resumable; and `SceneShards`, which reads them.

A shard is `scenes-00000.safetensors`: `rgb` uint8 [N, V, H, W, 3], `c2w` [N, V, 4, 4], `K` [N, V, 3, 3], `depth` float16
[N, V, H/4, W/4] (camera z at the pixel centres of that size, 0 for sky); metadata `numbers`, `objects` and
`licences` (JSON lists, one entry a scene). Scene k is a function of the seed, of k and of the objects alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from v3d.cameras import Cameras
from v3d.errors import V3DError
from v3d.files import atomic, write_json
from v3d.training.render import OnProgress, counted, processes, survey
from v3d.training.scene_images import DEPTH_STEP, render_scene
from v3d.training.scenes import MOST_OBJECTS, random_scene
from v3d.training.settings import SceneSettings
from v3d.training.shards import UNREADABLE
from v3d.training.sources import Source

log = logging.getLogger(__name__)


def render_scenes(
    meshes: Sequence[Path],
    out: Path,
    settings: SceneSettings,
    *,
    workers: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Render scenes of these meshes into `out`, going on where an interrupted run stopped.

    Args:
        meshes: mesh files, folders, manifests (.json), packed corpora (.npz).
        workers: processes.

    Returns:
        What `out/manifest.json` says: settings, objects (with the reason for each that was refused), licences,
        scenes, and scenes that failed.

    Raises:
        V3DError: no mesh is there, none is of use, `size` does not fit, or `out` holds data of other settings.
    """
    if settings.size % DEPTH_STEP:
        raise V3DError(f"Views of {settings.size} pixels: the side must be a multiple of {DEPTH_STEP}.")
    show = on_progress or (lambda stage, done, total: None)
    failures: list[dict[str, str]] = []
    with processes(workers) as do:
        usable, report = survey(meshes, out, settings, do, show)
        shards = range(-(-settings.scenes // settings.per_shard))
        work = partial(render_scene_shard, sources=usable, out=out, settings=settings)
        for result in counted(do(work, shards), "render", len(shards), show):
            failures += result
    report |= {"scenes": settings.scenes - len(failures), "failures": failures}
    write_json(out / "manifest.json", report)
    return report


def render_scene_shard(
    number: int, *, sources: Sequence[Source], out: Path, settings: SceneSettings
) -> list[dict[str, str]]:
    """Render one shard unless it is there already; returns the scenes that failed, with reasons."""
    done = out / f".done/{number:05d}.json"
    if done.exists():
        earlier: list[dict[str, str]] = json.loads(done.read_text())
        return earlier
    rows: list[dict[str, Tensor]] = []
    about: dict[str, list[Any]] = {"numbers": [], "objects": [], "licences": []}
    failures = []
    first = number * settings.per_shard
    for k in range(first, min(first + settings.per_shard, settings.scenes)):
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + k)
        chosen = choose(sources, generator)
        names = [source.id for source in chosen]
        try:
            scene = random_scene([s.load() for s in chosen], settings.views, settings.size, generator)
        except V3DError as error:
            failures.append({"scene": str(k), "objects": ", ".join(names), "reason": str(error)})
            continue
        rgb, depth = render_scene(scene)
        rows.append(
            {
                "rgb": (rgb * 255 + 0.5).to(torch.uint8),
                "c2w": scene.cameras.c2w,
                "K": scene.cameras.K,
                "depth": depth.half(),
            }
        )
        about["numbers"].append(k)
        about["objects"].append(names)
        about["licences"].append(sorted({source.licence for source in chosen}))
    if rows:
        tensors = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
        with atomic(out / f"scenes-{number:05d}.safetensors") as temporary:
            save_file(tensors, temporary, metadata={key: json.dumps(value) for key, value in about.items()})
    write_json(done, failures)
    return failures


def choose(sources: Sequence[Source], generator: torch.Generator) -> list[Source]:
    """The objects of one scene: one to `MOST_OBJECTS`, all different."""
    count = 1 + int(torch.randint(MOST_OBJECTS, (), generator=generator))
    return [sources[i] for i in torch.randperm(len(sources), generator=generator)[:count].tolist()]


class SceneShards:
    """All scenes of a folder, by index: `self[i] -> (rgb, cameras, depth)`, read lazily.

    `rgb` uint8 [V, H, W, 3]; `depth` float16 [V, H/4, W/4], camera z at the pixel centres of
    `cameras.resized(W // 4, H // 4)`, 0 for sky.

    Attributes:
        skipped: shards that could not be read, each logged once.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open every shard of a folder; damaged ones are skipped.

        Raises:
            V3DError: the folder holds no readable scene.
        """
        self._folder = Path(folder)
        self.skipped: list[Path] = []
        self._opened: set[Path] = set()
        self._files: list[Any] = []
        self._index: list[tuple[int, int]] = []
        self._objects: list[list[str]] = []
        if self.refresh() == 0:
            raise V3DError(
                f"{folder} holds no rendered scenes (scenes-*.safetensors); make some with v3d render-scenes."
            )

    def refresh(self) -> int:
        """Open the shards that came since, after the others; returns how many scenes there are now."""
        for path in sorted(set(self._folder.glob("scenes-*.safetensors")) - self._opened):
            self._opened.add(path)
            try:
                file = safe_open(path, "pt")
                objects = json.loads(file.metadata()["objects"])
                count = file.get_slice("rgb").get_shape()[0]
            except UNREADABLE as error:
                log.warning("skipped %s: %s", path, error)
                self.skipped.append(path)
                continue
            self._index += [(len(self._files), row) for row in range(count)]
            self._objects += objects
            self._files.append(file)
        return len(self)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> tuple[Tensor, Cameras, Tensor]:
        number, row = self._index[i]
        rgb, c2w, K, depth = (
            self._files[number].get_slice(name)[row] for name in ("rgb", "c2w", "K", "depth")
        )
        return rgb, Cameras(c2w, K, rgb.shape[2], rgb.shape[1]), depth

    def objects(self, i: int) -> list[str]:
        """Names of the objects of scene i."""
        return self._objects[i]
