"""Geometry of glTF: nodes, accessors, modes, skins, compression; what is broken is said in one sentence."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from made_gltf import CORNERS, FACES, UV, Gltf, check, colours_at, quarters, write_glb
from v3d.errors import V3DError
from v3d.meshes.files import load_mesh, read_mesh
from v3d.meshes.mesh import Mesh


def in_file(mesh: Mesh) -> np.ndarray:
    """Vertices in the file's axes."""
    return mesh.vertices.numpy()[:, [1, 2, 0]]


def test_nodes_are_placed_and_a_mirror_keeps_the_outside_out(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.primitive()
    turn = [0, 0, float(np.sin(np.pi / 4)), float(np.cos(np.pi / 4))]  # a quarter about z
    gltf.json["nodes"] = [
        {"children": [1, 2], "translation": [1, 2, 3]},
        {"mesh": 0, "rotation": turn, "scale": [2, 1, 1]},
        {"mesh": 0, "matrix": [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 5, 0, 0, 1]},
    ]
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    turned = CORNERS[:, [1, 0, 2]] * (-1, 2, 1) + (1, 2, 3)
    mirrored = CORNERS * (-1, 1, 1) + (6, 2, 3)
    np.testing.assert_allclose(in_file(mesh), np.concatenate([turned, mirrored]), atol=1e-6)
    torch.testing.assert_close(mesh.face_normals, torch.tensor([[1.0, 0, 0]]).expand(4, 3))


def test_numbers_of_every_kind(tmp_path: Path) -> None:
    """Quantised positions and uv, interleaved; a sparse accessor lifts one corner; vertices nobody uses."""
    gltf = Gltf()
    gltf.json["extensionsRequired"] = ["KHR_mesh_quantization"]
    rows = np.zeros(5, [("p", "<i2", 3), ("_", "<i2"), ("t", "u1", 2), ("__", "u1", 2)])
    rows["p"][:4], rows["t"][:4] = CORNERS * 2 * 32767, UV * 255
    rows["p"][4] = 30000
    view = gltf.view(rows.tobytes())
    gltf.json["bufferViews"][view]["byteStride"] = rows.itemsize
    common = {"bufferView": view, "count": 5, "normalized": True}
    sparse = {
        "count": 1,
        "indices": {"bufferView": gltf.view(np.array([2], np.uint8).tobytes()), "componentType": 5121},
        "values": {"bufferView": gltf.view(np.array([32767, 32767, 32767], np.int16).tobytes())},
    }
    gltf.json["accessors"] += [
        {**common, "componentType": 5122, "type": "VEC3", "sparse": sparse},
        {**common, "componentType": 5121, "type": "VEC2", "byteOffset": 8},
    ]
    surface = {"baseColorTexture": gltf.texture(quarters())}
    primitive = gltf.primitive(POSITION=0, TEXCOORD_0=1)
    primitive["material"] = gltf.material(pbrMetallicRoughness=surface)
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    lifted = CORNERS * 2
    lifted[2, 2] = 1
    np.testing.assert_allclose(in_file(mesh), lifted, atol=1e-6)
    assert mesh.uv is not None
    np.testing.assert_allclose(mesh.uv.numpy(), UV, atol=1e-6)


@pytest.mark.parametrize(("mode", "order"), [(4, [0, 1, 2, 0, 2, 3]), (5, [0, 1, 3, 2]), (6, [1, 2, 3, 0])])
def test_triangles_strips_and_fans_make_the_same_square(tmp_path: Path, mode: int, order: list[int]) -> None:
    gltf = Gltf()
    primitive = gltf.primitive()
    primitive |= {"mode": mode, "indices": gltf.array(np.array(order, np.uint8))}
    gltf.primitive()["mode"] = 1
    read = read_mesh(gltf.save(tmp_path / "a.glb"))
    assert float(read.mesh.face_areas.sum()) == pytest.approx(1)
    torch.testing.assert_close(read.mesh.face_normals, torch.tensor([[1.0, 0, 0]]).expand(2, 3))
    assert read.notes == ("points or lines are left out",)


def test_a_skin_and_a_morph_at_rest(tmp_path: Path) -> None:
    """Two joints share the upper corners; one of them stands 1 higher than where it was bound."""
    gltf = Gltf()
    joints = np.array([[0, 1, 0, 0]] * 4, np.uint8)
    weights = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0]], np.float32)
    primitive = gltf.primitive(JOINTS_0=joints, WEIGHTS_0=weights)
    primitive["targets"] = [{"POSITION": gltf.array(np.full((4, 3), 2, np.float32))}]
    gltf.json["meshes"][0]["weights"] = [0.25]
    bound = np.stack([np.eye(4), np.eye(4)]).astype(np.float32)
    bound[1, 3, 0] = -3  # columns: bound at x = 3
    gltf.json["skins"] = [{"joints": [1, 2], "inverseBindMatrices": gltf.array(bound.reshape(2, 16))}]
    gltf.json["nodes"] = [
        {"mesh": 0, "skin": 0, "translation": [9, 9, 9]},  # a skinned mesh goes where its joints are
        {},
        {"translation": [3, 1, 0]},
    ]
    gltf.json["scenes"] = [{"nodes": [0, 1, 2]}]
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    expected = CORNERS + 0.5
    expected[2:, 1] += 0.5
    np.testing.assert_allclose(in_file(mesh), expected, atol=1e-6)


def test_buffers_and_textures_beside_or_within_the_file(tmp_path: Path) -> None:
    from PIL import Image

    gltf = Gltf(images=[{"uri": "my%20image.png"}], textures=[{"source": 0}])
    Image.fromarray(quarters()).save(tmp_path / "my image.png")
    surface = {"baseColorTexture": {"index": 0}}
    gltf.primitive()["material"] = gltf.material(pbrMetallicRoughness=surface)
    blob = bytes(gltf.blob)
    (tmp_path / "a.bin").write_bytes(blob)
    seen = []
    for uri in ("a.bin", "data:application/octet-stream;base64," + base64.b64encode(blob).decode()):
        document = gltf.json | {"buffers": [{"byteLength": len(blob), "uri": uri}]}
        (tmp_path / "a.gltf").write_text(json.dumps(document))
        mesh = load_mesh(tmp_path / "a.gltf")
        np.testing.assert_allclose(in_file(mesh), CORNERS, atol=1e-6)
        seen.append(colours_at(mesh, (-0.25, 0.25)))
    check(np.concatenate(seen), np.array([220, 20, 30]) / 255)


def test_draco_is_decoded(tmp_path: Path) -> None:
    draco = pytest.importorskip("DracoPy")
    data = draco.encode(CORNERS, FACES, quantization_bits=20, tex_coord=UV.astype(float), preserve_order=True)
    ids = {a["attribute_type"]: a["unique_id"] for a in draco.decode(data).attributes}
    kinds = draco.AttributeType
    gltf = Gltf(extensionsRequired=["KHR_draco_mesh_compression"])
    primitive = gltf.primitive()
    for accessor in gltf.json["accessors"]:
        del accessor["bufferView"]
    names = {"POSITION": ids[kinds.POSITION], "TEXCOORD_0": ids[kinds.TEX_COORD]}
    extension = {"bufferView": gltf.view(data), "attributes": names}
    primitive["extensions"] = {"KHR_draco_mesh_compression": extension}
    surface = {"baseColorTexture": gltf.texture(quarters())}
    primitive["material"] = gltf.material(pbrMetallicRoughness=surface)
    mesh = load_mesh(gltf.save(tmp_path / "a.glb"))
    np.testing.assert_allclose(in_file(mesh)[mesh.faces.numpy()], CORNERS[FACES], atol=2e-6)
    check(colours_at(mesh, (-0.25, 0.25), (0.25, -0.25)), np.array([[220, 20, 30], [230, 220, 10]]) / 255)


def test_without_the_decoder_draco_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "DracoPy", None)
    gltf = Gltf(extensionsRequired=["KHR_draco_mesh_compression"])
    extension = {"bufferView": gltf.view(b"DRACO"), "attributes": {}}
    gltf.primitive()["extensions"] = {"KHR_draco_mesh_compression": extension}
    with pytest.raises(V3DError, match=r"compressed with Draco; install the decoder with pip install"):
        load_mesh(gltf.save(tmp_path / "a.glb"))


def broken_numbers(change: str, gltf: Gltf, primitive: dict) -> None:
    """Break the values of a document in one way."""
    corners = CORNERS.copy()
    match change:
        case "index":
            primitive["indices"] = gltf.array(np.array([0, 1, 200], np.uint8))
        case "nan":
            corners[1, 1] = np.nan
            primitive["attributes"]["POSITION"] = gltf.array(corners)
        case "nan uv":
            surface = {"baseColorTexture": gltf.texture(quarters())}
            primitive["material"] = gltf.material(pbrMetallicRoughness=surface)
            primitive["attributes"]["TEXCOORD_0"] = gltf.array(np.full((4, 2), np.nan, np.float32))
        case "flat":
            primitive["attributes"]["POSITION"] = gltf.array(corners * np.float32([1, 0, 0]))
        case "two axes":
            primitive["attributes"]["POSITION"] = gltf.array(corners[:, :2])


def broken_structure(change: str, gltf: Gltf, primitive: dict) -> None:
    """Break what a document says of its values in one way."""
    position = gltf.json["accessors"][primitive["attributes"]["POSITION"]]
    match change:
        case "meshopt":
            gltf.json["extensionsRequired"] = ["EXT_meshopt_compression"]
        case "unknown extension":
            gltf.json["extensionsRequired"] = ["MY_curves"]
        case "circle":
            gltf.json["nodes"] = [{"children": [1]}, {"children": [0], "mesh": 0}]
        case "count":
            position["count"] = 4_000_000_000
        case "count without data":
            position["count"] = 4_000_000_000
            del position["bufferView"]
        case "view":
            gltf.json["bufferViews"][position["bufferView"]]["byteLength"] = 10**9
        case "number":
            gltf.json["nodes"][0]["translation"] = [0, 1e999, 0]
        case "copies":
            primitive["indices"] = gltf.array(np.tile(FACES.reshape(-1), 10_000))
            gltf.json["nodes"] = [{"children": list(range(1, 500))}, *({"mesh": 0} for _ in range(499))]
        case "no mesh":
            gltf.json["nodes"][0]["mesh"] = 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("meshopt", "compressed with meshopt.*gltfpack"),
        ("unknown extension", "extension MY_curves"),
        ("index", "names vertex 200 of 4"),
        ("circle", "circle"),
        ("nan", "vertices that are not finite"),
        ("nan uv", "texture coordinates that are not finite"),
        ("flat", "none of its triangles has an area"),
        ("two axes", "three coordinates"),
        ("count", "claims 4,000,000,000 values"),
        ("count without data", "claims 4,000,000,000 values"),
        ("view", "ends after its buffer"),
        ("number", "vertices that are not finite"),
        ("copies", "shows more than 4,000,000 triangles"),
        ("no mesh", "entry 7 of its 1 meshes"),
    ],
)
def test_what_is_broken_is_said(tmp_path: Path, change: str, words: str) -> None:
    gltf = Gltf()
    primitive = gltf.primitive()
    broken_numbers(change, gltf, primitive)
    broken_structure(change, gltf, primitive)
    with pytest.raises(V3DError, match=rf"^a\.glb .*{words}") as caught:
        load_mesh(gltf.save(tmp_path / "a.glb"))
    assert "\n" not in str(caught.value)


def test_deep_json_and_devices_end_in_one_sentence(tmp_path: Path) -> None:
    deep = b'{"asset":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(V3DError, match=r"a\.glb"):
        load_mesh(write_glb(tmp_path / "a.glb", deep, b""))
    gltf = Gltf(buffers=[{"uri": "/dev/zero", "byteLength": 100}])
    gltf.primitive()
    (tmp_path / "a.gltf").write_text(json.dumps(gltf.json))
    with pytest.raises(V3DError, match="no file /dev/zero beside it"):
        load_mesh(tmp_path / "a.gltf")


def test_a_mesh_in_map_coordinates_keeps_its_shape(tmp_path: Path) -> None:
    gltf = Gltf()
    gltf.primitive()
    gltf.json["nodes"][0]["translation"] = [512_345.25, 250.5, 4_654_321.75]
    read = read_mesh(gltf.save(tmp_path / "a.glb"))
    np.testing.assert_allclose(in_file(read.mesh), CORNERS, atol=1e-6)
    np.testing.assert_allclose(read.origin, (4_654_321.75, 512_345.25, 250.5), atol=1e-6)
    assert any("far from the origin" in note for note in read.notes)
