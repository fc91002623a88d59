"""Small good inputs of what reads lists and records: batches, recipes, reports, results, models' sizes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path


def _batches(folder: Path) -> None:
    from fuzz_seeds import encoded

    for form, text in {
        "list.csv": "photo,left,name,seed,quality\na.png,b.png,mug,5,draft\nb.png,,,,\n",
        "list.jsonl": '{"front": "a.png", "seed": 3, "formats": ["glb"]}\n{"photo": "b.png", "faces": 900}\n',
    }.items():
        place = folder / form.partition(".")[2]
        place.mkdir()
        (place / form).write_text(text)
        for name in ("a.png", "b.png"):
            (place / name).write_bytes(encoded("PNG"))


def _read_batch(path: Path) -> object:
    from v3d.serving.manifest import read_manifest
    from v3d.settings import GenerateSettings

    return read_manifest(next(path.glob("list.*")), GenerateSettings())


def _recipes(folder: Path) -> None:
    from v3d.training.recipe import PixelNeRFRecipe, SVDRecipe, VAERecipe, VideoRecipe
    from v3d.training.recipe_json import to_json

    for kind in (VAERecipe, PixelNeRFRecipe, VideoRecipe, SVDRecipe):
        (folder / f"{kind.__name__}.json").write_text(to_json(kind()))


def _read_recipe(path: Path) -> object:
    from v3d.training.recipe_json import from_json

    return from_json(path.read_text(encoding="utf-8", errors="replace"))


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _reports(folder: Path) -> None:
    from v3d.run import RunFolder
    from v3d.settings import ReconstructSettings

    out = folder / "run"
    with RunFolder(out, ReconstructSettings()) as run:
        for name in ("first", "second"):
            run.stage(
                name,
                version=1,
                inputs=[name],
                files=[f"{name}.txt"],
                compute=lambda stage: "made",
                save=partial(_write, out / f"{name}.txt"),
                load=lambda: None,
            )


def _read_report(path: Path) -> object:
    from v3d.run import RunFolder
    from v3d.settings import ReconstructSettings

    with RunFolder(path, ReconstructSettings()) as run:
        made: list[str] = []
        run.stage(
            "first",
            version=1,
            inputs=["first"],
            files=["first.txt"],
            compute=lambda stage: made.append("made"),
            save=lambda _: _write(path / "first.txt", "made"),
            load=lambda: None,
        )
    assert (path / "first.txt").read_text() == "made"  # what was damaged was made anew
    return made


def _results(folder: Path) -> None:
    row = {"id": "one", "hash": "ab", "real_scan": True, "scores": {"v3d": {"psnr": 20.5}}, "failures": {}}
    (folder / "results.jsonl").write_text("\n".join(map(json.dumps, ({"protocol": 1}, row, row))) + "\n")


def _read_results(path: Path) -> object:
    from v3d.evaluation.report import read_results, summarise

    return summarise(read_results(path, {"protocol": 1}))


def _models(folder: Path) -> None:
    from v3d.weights import MINI

    shutil.copytree(MINI, folder / "mini")


def _read_model(path: Path) -> object:
    from v3d.diffusion.generator import Generator

    return Generator.from_pretrained(str(path), device="cpu")


def readers_json() -> dict[str, tuple[Callable[[Path], None], Callable[[Path], object], tuple[str, ...]]]:
    """What writes good inputs, reads them, and the suffixes that are damaged (none: all), by reader."""
    return {
        "batches": (_batches, _read_batch, (".csv", ".jsonl")),
        "recipes": (_recipes, _read_recipe, ()),
        "reports": (_reports, _read_report, (".json",)),
        "results": (_results, _read_results, ()),
        "model-sizes": (_models, _read_model, (".json",)),
    }
