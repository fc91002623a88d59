"""glTF files that take new textures: what is shown changes, all else stays to the bit."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from made_gltf import CORNERS, FACES, UV, Gltf
from v3d.errors import V3DError
from v3d.meshes.files import load_mesh
from v3d.meshes.obj import save_retextured_obj
from v3d.meshes.reading.gltf_document import GltfDocument
from v3d.meshes.reading.read import read_parts
from v3d.meshes.retexture import NO_MATERIAL, GltfEdit

RED = np.full((4, 4, 3), (255, 0, 0), np.uint8)
GREEN = np.full((8, 8, 3), (0, 255, 0), np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def scene() -> Gltf:
    """Two nodes, the second below the first; one mesh of a textured, a plain and a bare primitive."""
    gltf = Gltf()
    old = gltf.texture(RED)
    relief = gltf.texture(np.full((2, 2, 3), 128, np.uint8))
    base = {"baseColorTexture": old, "baseColorFactor": [0.5, 1, 1, 1], "metallicFactor": 1.0}
    wood = gltf.material(
        name="wood", pbrMetallicRoughness=base, doubleSided=True, normalTexture=relief, alphaMode="BLEND"
    )
    gltf.primitive()["material"] = wood
    gltf.primitive(COLOR_0=np.tile(np.float32([1, 0, 0]), (4, 1)))
    gltf.json["nodes"] = [
        {"name": "root", "children": [1], "translation": [1, 2, 3]},
        {"name": "leaf", "mesh": 0, "rotation": [0, 0.6, 0, 0.8], "extras": {"id": 7}},
    ]
    return gltf


def arrays(path: Path) -> list[dict[str, Any]]:
    """Every primitive's attributes and indices as they are stored."""
    document = GltfDocument(path)
    return [
        {name: document.stored(i) for name, i in [*p["attributes"].items(), ("indices", p["indices"])]}
        for mesh in document.json["meshes"]
        for p in mesh["primitives"]
    ]


def test_textures_are_all_that_changes(tmp_path: Path) -> None:
    given = scene().save(tmp_path / "given.glb")
    edit = GltfEdit(given)
    assert edit.bare_primitives() == []
    assert edit.set_textures({0: png(GREEN), NO_MATERIAL: png(GREEN)}) == [
        "Its vertex colours would tint the texture and were taken off."
    ]
    edit.save(tmp_path / "new.glb")
    before, after = GltfDocument(given).json, GltfDocument(tmp_path / "new.glb").json
    assert after["nodes"] == before["nodes"]
    assert after["scenes"] == before["scenes"]
    for old, new in zip(arrays(given), arrays(tmp_path / "new.glb"), strict=True):
        old.pop("COLOR_0", None)
        assert old.keys() == new.keys()
        assert all(np.array_equal(old[name], new[name]) for name in old)
    wood = after["materials"][0]
    assert (wood["name"], wood["doubleSided"]) == ("wood", True)
    assert "normalTexture" in wood and "alphaMode" not in wood
    assert "baseColorFactor" not in wood["pbrMetallicRoughness"]
    assert len(after["images"]) == 3  # the relief and the new ones; the old one is gone
    mesh = load_mesh(tmp_path / "new.glb")
    assert mesh.texture is not None
    seen = (mesh.texture.numpy().reshape(-1, 3) * 255).round()
    assert {(0, 255, 0)} == {tuple(c) for c in seen.astype(int).tolist() if any(c)}


def test_what_has_no_uv_gets_one_and_keeps_its_vertices_where_nothing_is_cut(tmp_path: Path) -> None:
    gltf = scene()
    bare = gltf.primitive()
    del bare["attributes"]["TEXCOORD_0"]
    given = gltf.save(tmp_path / "given.glb")
    edit = GltfEdit(given)
    (found,) = edit.bare_primitives()
    assert np.array_equal(found.vertices, CORNERS) and np.array_equal(found.faces, FACES)
    order = np.array([2, 0, 1, 3])  # an unwrapper may number vertices as it likes
    renumbered = np.argsort(order)[FACES.astype(int)]
    assert edit.add_uv(found, order, renumbered, UV[order], edit.new_material()) == 0
    edit.save(tmp_path / "new.glb")
    old, new = arrays(given)[2], arrays(tmp_path / "new.glb")[2]
    assert np.array_equal(new.pop("TEXCOORD_0"), UV)
    assert all(np.array_equal(old[name], new[name]) for name in old)


def test_cut_vertices_repeat_all_that_they_carry(tmp_path: Path) -> None:
    gltf = Gltf()
    weights = np.arange(4, dtype=np.uint8)[:, None].repeat(3, 1)
    primitive = gltf.primitive(_WEIGHT=weights)
    del primitive["attributes"]["TEXCOORD_0"]
    edit = GltfEdit(gltf.save(tmp_path / "given.glb"))
    (found,) = edit.bare_primitives()
    vertex = np.array([0, 1, 2, 0, 2, 3])
    assert edit.add_uv(found, vertex, np.arange(6).reshape(2, 3), UV[vertex] * 0.5, edit.new_material()) == 2
    edit.save(tmp_path / "new.glb")
    (new,) = arrays(tmp_path / "new.glb")
    assert np.array_equal(new["POSITION"], CORNERS[vertex])
    assert np.array_equal(new["_WEIGHT"], weights[vertex])
    assert np.array_equal(new["indices"][:, 0], np.arange(6))
    assert np.array_equal(load_mesh(tmp_path / "new.glb").face_areas, [0.5, 0.5])


def test_files_beside_a_gltf_are_taken_in(tmp_path: Path) -> None:
    gltf = scene()
    gltf.json["buffers"] = [{"byteLength": len(gltf.blob), "uri": "data.bin"}]
    (tmp_path / "data.bin").write_bytes(bytes(gltf.blob))
    gltf.json["images"][1] = {"uri": "relief.png"}
    (tmp_path / "relief.png").write_bytes(png(GREEN))
    (tmp_path / "given.gltf").write_text(json.dumps(gltf.json))
    edit = GltfEdit(tmp_path / "given.gltf")
    edit.save(tmp_path / "else" / "new.glb")
    document = GltfDocument(tmp_path / "else" / "new.glb")
    assert all("bufferView" in image for image in document.json["images"])
    assert bytes(document.view(document.json["images"][1]["bufferView"])) == png(GREEN)
    assert len(read_parts(tmp_path / "else" / "new.glb")[0]) == 2


def test_an_obj_keeps_its_lines(tmp_path: Path) -> None:
    text = """# made by hand
mtllib old.mtl
o thing
v 0 0 0.10000000001
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
f 1/1 2/2 3/3 4/4
usemtl shiny blue
f 4/4 3/3 2/2 1/1
"""
    (tmp_path / "given.obj").write_text(text)
    parts, _ = read_parts(tmp_path / "given.obj")
    assert [part.material for part in parts] == [0, 1]
    assert parts[0].uv is not None
    assert np.array_equal(parts[0].uv[0], [[0, 1], [1, 1], [1, 0]])  # v down
    for name, image in (("a.png", RED), ("b.png", GREEN)):
        (tmp_path / name).write_bytes(png(image))
    save_retextured_obj(tmp_path / "given.obj", tmp_path / "new.obj", {0: "a.png", 1: "b.png"})
    lines = (tmp_path / "new.obj").read_text().splitlines()
    kept = [line for line in text.splitlines() if not line.startswith("mtllib")]
    assert lines == ["mtllib new.mtl", "usemtl texture", *kept]
    images = [part.layers[0].image for part in read_parts(tmp_path / "new.obj")[0]]
    assert [tuple(image[0, 0, :3]) for image in images if image is not None] == [(255, 0, 0), (0, 255, 0)]


def test_compressed_geometry_without_uv_is_refused(tmp_path: Path) -> None:
    gltf = Gltf(extensionsUsed=["KHR_draco_mesh_compression"])
    primitive = gltf.primitive()
    del primitive["attributes"]["TEXCOORD_0"]
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    with pytest.raises(V3DError, match="without Draco"):
        GltfEdit(gltf.save(tmp_path / "given.glb")).bare_primitives()
