"""JSON that breaks parsers, in every file from outside: refused in one sentence, or made anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from v3d.data.jobs import finished
from v3d.data.sources import find_sources
from v3d.diffusion.generator import Generator
from v3d.errors import V3DError
from v3d.evaluation.report import read_results
from v3d.evaluation.settings import ObjectSource
from v3d.evaluation.testset import object_ids
from v3d.run import RunFolder
from v3d.scene.path_files import read_path
from v3d.serving.batch import read_record
from v3d.serving.manifest import read_manifest
from v3d.settings import GenerateSettings, ReconstructSettings
from v3d.training.export import average
from v3d.training.recipe import VAERecipe
from v3d.training.recipe_json import from_json, to_json

VALUES = {
    "nested too deeply": "[" * 100_000 + "]" * 100_000,
    "1e999": "1e999",
    "400 digits": "9" * 400,
    "5000 digits": "9" * 5000,
    "a name of 300 characters": json.dumps("x" * 300),
    "a path of 6000 characters": json.dumps("x/" * 3000),
    "a zero byte": '"a\\u0000b"',
    "half a character": '"\\ud800"',
    "null": "null",
    "a list": "[1, [2]]",
}
Read = Callable[[Path], object]


def _camera(**given: str) -> str:
    values = {
        "fov": "50",
        "camera_to_world": "[1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1]",
        "render_width": "9",
    } | given
    frame = f'{{"fov": {values["fov"]}, "camera_to_world": {values["camera_to_world"]}}}'
    return f'{{"camera_path": [{frame}], "render_width": {values["render_width"]}, "render_height": 9}}'


def _recipe(path: Path) -> object:
    return from_json(path.read_text())


def _model(path: Path) -> object:
    return Generator.from_pretrained(str(path.parent), device="cpu")


def _average(path: Path) -> object:
    return average([path.parent, path.parent], (1.0, 1.0), path.parent / "out")


def _objects(path: Path) -> object:
    for source in find_sources([path]):
        source.load()
    return None


REFUSED: dict[str, tuple[str, str, Read]] = {
    "a path's angle": (_camera(fov="@"), "path.json", read_path),
    "a path's size": (_camera(render_width="@"), "path.json", read_path),
    "a path's pose": (_camera(camera_to_world="@"), "path.json", read_path),
    "a path": ("@", "path.json", read_path),
    "objects": ("@", "objects.json", _objects),
    "an object's file": ('[{"file": @}]', "objects.json", _objects),
    "test objects": ("@", "o.json", lambda p: object_ids(ObjectSource(manifest=p, split="all"))),
    "a recipe": ("@", "recipe.json", _recipe),
    "a recipe's kind": ('{"recipe": @}', "recipe.json", _recipe),
    "a recipe's batch": ('{"recipe": "vae", "batch": @}', "recipe.json", _recipe),
    "a recipe's optimizer": ('{"recipe": "vae", "optimizer": @}', "recipe.json", _recipe),
    "a recipe's network": ('{"recipe": "vae", "network": {"widths": [8, @, 8]}}', "recipe.json", _recipe),
    "a model's sizes": ("@", "config.json", _model),
    "a model's width": ('{"pixelnerf": {"width": @}}', "config.json", _model),
    "a mean of models": ("@", "config.json", _average),
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_in_one_short_sentence(tmp_path: Path, name: str, value: str) -> None:
    template, file, read = REFUSED[name]
    (tmp_path / file).write_text(template.replace("@", VALUES[value]))
    with pytest.raises(V3DError) as caught:
        read(tmp_path / file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("value", VALUES)
def test_a_line_of_a_batch_refuses_its_item_alone(tmp_path: Path, value: str) -> None:
    text = VALUES[value]
    lines = [f'{{"front": {text}}}', f'{{"front": "a.png", "seed": {text}}}', text, '{"front": "b.png"}']
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    items = read_manifest(tmp_path / "list.jsonl", GenerateSettings())
    assert len(items) == 4
    assert all(item.refusal for item in items)
    assert items[3].refusal.startswith("There is no photo ")
    assert all(len(item.name.encode()) <= 255 for item in items)


@pytest.mark.parametrize("value", VALUES)
def test_our_own_records_that_were_damaged_count_as_none(tmp_path: Path, value: str) -> None:
    text = VALUES[value]
    for place in ("{}", '{{"stages": {}, "not_reached": {{}}}}', '{{"stages": {{"mesh": {}}}}}'):
        (tmp_path / "report.json").write_text(place.format(text))
        with RunFolder(tmp_path, ReconstructSettings()) as run:
            assert run.report["stages"] == {}
            assert run.report["not_reached"] == {}
    (tmp_path / "results.jsonl").write_text(f'{{"a": 1}}\n{text}\n{{"id": {text}}}\n')
    assert read_results(tmp_path / "results.jsonl", {"a": 1}) == []
    (tmp_path / "00000.json").write_text(text if value != "a list" else "[1, 2]")
    assert finished(tmp_path / "00000.json") is None
    (tmp_path / ".batch").mkdir()
    (tmp_path / ".batch/a.json").write_text(f'{{"name": {text}}}')
    assert read_record(tmp_path, "a") is None


def test_recipes_come_back_as_they_were() -> None:
    recipe = VAERecipe(batch=3, validation=Path("data/validation"))
    assert from_json(to_json(recipe)) == recipe
