"""One bad object, image or row among many is counted and passed over, and the rest is what it would be."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from safetensors import safe_open

from fuzz_seeds import readers
from shapes import textured
from v3d.data.records import save_tensors
from v3d.data.render_orbits import render_meshes
from v3d.data.render_scenes import render_scenes
from v3d.data.settings import RenderScenesSettings, RenderSettings
from v3d.errors import V3DError
from v3d.evaluation.settings import ObjectSource
from v3d.evaluation.testset import load_objects
from v3d.meshes.glb import save_glb
from v3d.training.order import Order, Passing
from v3d.training.recipe import VAERecipe
from v3d.training.session import train

TINY = RenderSettings(size=24, views=4, per_shard=1)


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A folder of a ball and a box."""
    folder = tmp_path / "objects"
    folder.mkdir()
    save_glb(textured(trimesh.creation.icosphere(subdivisions=1), 0), folder / "ball.glb")
    save_glb(textured(trimesh.creation.box(), 1), folder / "box.glb")
    return folder


def spoil(objects: Path) -> None:
    """Put three bad files beside the good ones."""
    good = (objects / "ball.glb").read_bytes()
    (objects / "cut.glb").write_bytes(good[: len(good) // 2])
    (objects / "deep.gltf").write_text("[" * 100_000)
    (objects / "words.obj").write_text("v one two three\nf 1 2 3\n")


def test_render_counts_bad_objects(objects: Path, tmp_path: Path) -> None:
    spoil(objects)
    report = render_meshes([objects], tmp_path / "out", TINY)
    refused = {entry["id"]: entry["refused"] for entry in report["objects"]}
    assert {name for name, why in refused.items() if why is None} == {"ball", "box"}
    assert all(refused[name].startswith("cannot be read: ") for name in ("cut", "deep", "words"))
    assert report["orbits"] == 2
    assert report["failures"] == []


def test_a_fault_of_one_object_does_not_end_the_job(
    objects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from v3d.data import render_orbits
    from v3d.data import render_scenes as scenes

    real = render_orbits.placed_mesh

    def faulty(mesh, *rest):  # type: ignore[no-untyped-def]
        if len(mesh.faces) == 12:  # the box
            raise IndexError("index 7 is out of range")
        return real(mesh, *rest)

    monkeypatch.setattr(render_orbits, "placed_mesh", faulty)
    report = render_meshes([objects], tmp_path / "orbits", TINY)
    assert report["orbits"] == 1
    (failure,) = report["failures"]
    assert failure["id"] == "box"
    assert failure["reason"] == "a fault (IndexError: index 7 is out of range)"

    drawn = iter(range(100))
    real_scene = scenes.render_scene

    def sometimes(scene):  # type: ignore[no-untyped-def]
        if next(drawn) == 1:
            raise RecursionError("too deep")
        return real_scene(scene)

    monkeypatch.setattr(scenes, "render_scene", sometimes)
    settings = RenderScenesSettings(scenes=3, views=2, size=24, per_shard=3)
    report = render_scenes([objects], tmp_path / "scenes", settings)
    assert report["scenes"] == 2
    assert [(f["scene"], f["reason"]) for f in report["failures"]] == [
        ("1", "a fault (RecursionError: too deep)")
    ]


def test_a_damaged_record_of_a_job_is_made_anew(objects: Path, tmp_path: Path) -> None:
    render_meshes([objects], tmp_path / "out", TINY)
    before = (tmp_path / "out/orbits-00000.safetensors").read_bytes()
    (tmp_path / "out/.done/00000.json").write_text("[5")
    (tmp_path / "out/orbits-00000.safetensors").unlink()
    render_meshes([objects], tmp_path / "out", TINY)
    assert (tmp_path / "out/orbits-00000.safetensors").read_bytes() == before


def test_shards_have_the_same_bytes_every_time(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(5), "a": torch.ones(3, 2)}
    about = {name: json.dumps(['ü\n"\\\x01🦆', name]) for name in ("numbers", "objects", "licences", "ids")}
    files = set()
    for k in range(12):
        save_tensors(tensors, tmp_path / f"{k}.safetensors", about)
        files.add((tmp_path / f"{k}.safetensors").read_bytes())
    assert len(files) == 1
    with safe_open(tmp_path / "0.safetensors", "pt") as file:
        assert file.metadata() == about
        assert torch.equal(file.get_tensor("b"), tensors["b"])
        assert torch.equal(file.get_tensor("a"), tensors["a"])


def test_examples_that_cannot_be_read_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    order, passing = Order(10, seed=0), Passing()

    def read(i: int) -> int:
        if i in (order[0], order[1]):
            raise V3DError(f"{i} is damaged.")
        return i

    assert [passing.draw(order, p, read) for p in range(4)] == [order[2], order[2], order[2], order[3]]
    assert passing.passed == {i: f"{i} is damaged." for i in (order[0], order[1])}
    with caplog.at_level(logging.WARNING):
        passing.close("data")
    assert caplog.messages[-1] == f"2 examples of data were passed over; the first: {order[0]} is damaged."
    assert list(Passing().first(2, 5, lambda i: read(order[i]))) == [order[2], order[3]]

    def never(i: int) -> int:
        raise V3DError("It is empty.")

    with pytest.raises(V3DError, match=r"^100 examples in a row cannot be used: It is empty\.$"):
        passing.draw(order, 0, never)
    with pytest.raises(V3DError, match=r"^None of 3 examples can be used: It is empty\.$"):
        list(Passing().first(1, 3, never))


def test_training_passes_over_a_bad_image(
    objects: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    render_meshes([objects], data, RenderSettings(size=32, format="folders", rounds=2))
    for image in (data / "box-1").glob("views/*.png"):
        image.write_bytes(image.read_bytes()[:100])
    recipe = replace(VAERecipe.smoke(), data=data, validation=data, crop=32, steps=3, batch=8)
    with caplog.at_level(logging.WARNING):
        assert train(recipe, tmp_path / "run", device="cpu").step == 3
    assert caplog.messages[-1].startswith(f"1 examples of {data} were passed over; the first: ")
    assert "is damaged" in caplog.messages[-1]
    assert (tmp_path / "run/model/config.json").is_file()


def test_an_evaluation_leaves_out_what_cannot_be_read(
    objects: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(objects)
    names = ["objects/box", "objects/cut", "objects/ball"]
    shutil.copytree(objects, tmp_path / "corpus/objects")
    with caplog.at_level(logging.WARNING):
        found = [item.id for item in load_objects(ObjectSource(corpus=tmp_path / "corpus"), names)]
    assert found == ["objects/box", "objects/ball"]
    assert caplog.messages[-1] == "1 of 3 objects could not be read and are left out."

    (tmp_path / "packed").mkdir()
    readers()["corpus"].make(tmp_path / "packed")
    packed = dict(np.load(tmp_path / "packed/c.npz"))
    packed["faces"][: packed["n_faces"][0]] = 60_000
    np.savez(tmp_path / "packed/c.npz", **packed)
    source = ObjectSource(corpus=tmp_path / "packed/c.npz")
    assert [item.id for item in load_objects(source, ["a", "b"])] == ["b"]
