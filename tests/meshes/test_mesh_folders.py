"""Google Scanned Objects as they lie on disk, beside ordinary mesh files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from v3d.cameras import orbit
from v3d.cli import main
from v3d.data.orbit_shards import OrbitShards
from v3d.data.render_orbits import render_meshes
from v3d.data.settings import RenderSettings
from v3d.data.sources import find_sources
from v3d.evaluation.settings import ObjectSource
from v3d.evaluation.testset import load_objects, object_ids
from v3d.meshes.files import load_mesh
from v3d.meshes.folders import find_meshes
from v3d.meshes.rendering import render

METADATA = """model {
  file: "model.sdf"
}
name: "Toy_Bus"
description: "Toy bus\\nlicense: none of this"
legal {
  copyright: "Copyright 2020 Google LLC."
  license: "Creative Commons Attribution 4.0 International"
}
categories {
  first: "Toy Cars"
}
"""


def make_scanned_object(folder: Path, metadata: str = METADATA) -> None:
    """A box of 4 x 10 x 5 cm that stands on the ground; its -y side is red, the others are blue."""
    box = trimesh.creation.box(extents=(0.04, 0.1, 0.05))
    box.apply_translation((0, 0, 0.025))
    lines = ["mtllib model.mtl", "usemtl material_0"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in box.vertices]
    lines += ["vt 0.25 0.5", "vt 0.75 0.5"]
    for face, normal in zip(box.faces + 1, box.face_normals, strict=True):
        side = 1 if normal[1] < -0.5 else 2
        lines.append("f " + " ".join(f"{v}/{side}" for v in face))
    texture = np.zeros((64, 128, 3), np.uint8)
    texture[:, :64, 0], texture[:, 64:, 2] = 255, 255
    for part in ("meshes", "materials/textures", "thumbnails"):
        (folder / part).mkdir(parents=True)
    (folder / "meshes/model.obj").write_text("\n".join(lines) + "\n")
    (folder / "meshes/model.mtl").write_text("newmtl material_0\nKd 1 1 1\nmap_Kd texture.png\n")
    Image.fromarray(texture).save(folder / "materials/textures/texture.png")
    (folder / "model.config").write_text("<model><name>Toy_Bus</name></model>")
    (folder / "metadata.pbtxt").write_text(metadata)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    make_scanned_object(tmp_path / "gso/Toy_Bus")
    make_scanned_object(tmp_path / "gso/Nameless", metadata="")
    trimesh.creation.box().export(tmp_path / "gso/more.box.ply")
    return tmp_path / "gso"


def test_a_scanned_object_stands_upright_and_shows_its_front(library: Path) -> None:
    mesh = load_mesh(library / "Toy_Bus")
    torch.testing.assert_close(mesh.vertices.amin(0), torch.tensor([-0.05, -0.02, 0.0]))
    torch.testing.assert_close(mesh.vertices.amax(0), torch.tensor([0.05, 0.02, 0.05]))
    views = render(mesh, orbit(4, size=32, radius=0.3))
    middle = views.rgb[:, 14, 16]  # a little above the middle of the picture, where the box is
    torch.testing.assert_close(middle[0], torch.tensor([1.0, 0.0, 0.0]))  # the front, seen by view 0
    torch.testing.assert_close(middle[1:], torch.tensor([0.0, 0.0, 1.0]).expand(3, 3))
    outward = (mesh.face_normals * (mesh.vertices[mesh.faces].mean(1) - torch.tensor([0, 0, 0.025]))).sum(-1)
    assert (outward > 0).all()


def test_folders_name_their_objects_by_category_or_place(library: Path) -> None:
    found = {mesh.id: mesh for mesh in find_meshes(library)}
    assert list(found) == ["Nameless", "Toy_Cars/Toy_Bus", "more.box"]
    assert found["Toy_Cars/Toy_Bus"].licence == "CC-BY-4.0 (Copyright 2020 Google LLC.)"
    assert found["Nameless"].licence == found["more.box"].licence == ""
    assert [mesh.real_scan for mesh in found.values()] == [True, True, False]
    assert [mesh.id for mesh in find_meshes(library / "Toy_Bus")] == ["Toy_Cars/Toy_Bus"]
    assert [mesh.id for mesh in find_meshes(library / "more.box.ply")] == ["more.box"]


def test_training_and_evaluation_take_such_folders(library: Path, tmp_path: Path) -> None:
    by_id = {source.id: source for source in find_sources([library])}
    assert by_id["Toy_Cars/Toy_Bus"].licence.startswith("CC-BY-4.0")
    index = tmp_path / "index.json"
    index.write_text(json.dumps([{"id": "Toy_Cars/Toy_Bus", "split": "test", "license": "mine"}]))
    (chosen,) = find_sources([library], index=index, split="test")
    assert chosen.licence == "mine"

    source = ObjectSource(corpus=library, real_scans=True)
    assert object_ids(source) == ["Nameless", "Toy_Cars/Toy_Bus"]
    (item,) = load_objects(source, ["Toy_Cars/Toy_Bus"])
    assert item.real_scan and not item.palette
    assert torch.equal(item.mesh.vertices, load_mesh(library / "Toy_Bus").vertices)
    assert object_ids(ObjectSource(corpus=library / "Toy_Bus")) == ["Toy_Cars/Toy_Bus"]
    assert object_ids(ObjectSource(corpus=library / "more.box.ply")) == ["more.box"]


def test_the_command_line_renders_a_scanned_object(library: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    arguments = ["--size", "32", "--appearance", "plain", "--light", "none"]
    assert main(["render", str(library / "Toy_Bus"), "-o", str(out), *arguments]) == 0
    report = json.loads((out / "manifest.json").read_text())
    assert report["licences"] == {"CC-BY-4.0 (Copyright 2020 Google LLC.)": 1}
    orbits = OrbitShards(out)
    assert orbits.id(0) == "Toy_Cars/Toy_Bus"
    _, photo = orbits[0]
    assert photo[16, 16].tolist() == [255, 0, 0, 255]


def test_files_of_one_name_are_different_objects_and_notes_are_kept(tmp_path: Path) -> None:
    """An asset pack: a chair in three formats, one of them broken, and another chair in another folder."""
    chair = trimesh.creation.box()
    chair.visual.face_colors = (200, 30, 30, 255)
    for folder in ("pack", "old"):
        (tmp_path / folder).mkdir()
    chair.export(tmp_path / "pack/chair.ply")
    trimesh.creation.icosphere(subdivisions=1).export(tmp_path / "pack/chair.stl")
    (tmp_path / "pack/chair.glb").write_bytes(b"glTF")
    lines = [*(f"v {x} {y} {z}" for x, y, z in chair.vertices * (1, 2, 3)), "mtllib gone.mtl"]
    lines += [f"f {a} {b} {c}" for a, b, c in chair.faces + 1]
    (tmp_path / "old/chair.obj").write_text("\n".join(lines))
    (tmp_path / "new").mkdir()
    (tmp_path / "new/chair.obj").write_text("\n".join(lines).replace("v ", "v 1"))

    assert [m.id for m in find_meshes(tmp_path / "pack")] == ["chair.glb", "chair.ply", "chair.stl"]
    inputs = [tmp_path / name for name in ("pack", "old", "new/chair.obj")]
    assert [s.id for s in find_sources(inputs)][3:] == ["old/chair.obj", "new/chair.obj"]
    report = render_meshes(inputs[:2], tmp_path / "out", RenderSettings(size=24, views=2, untextured=True))
    objects = {o["id"]: o for o in report["objects"]}
    assert {name: bool(o["refused"]) for name, o in objects.items()} == {
        "chair.glb": True,
        "chair.ply": False,
        "chair.stl": False,
        "chair": False,
    }
    assert objects["chair"]["notes"] == ["the material file gone.mtl is missing"]
    assert report["orbits"] == 3
