"""Mesh files: exact round trips, valid GLB, other people's files, broken ones."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.look import Look
from v3d.meshes.mesh import Mesh
from v3d.meshes.obj import save_obj
from v3d.meshes.rendering import render


def textured_mesh(size: int = 16) -> Mesh:
    """A lopsided closed shape with arbitrary uv and an arbitrary 8-bit texture."""
    generator = torch.Generator().manual_seed(0)
    sphere = trimesh.creation.icosphere(subdivisions=2)
    vertices = torch.tensor(sphere.vertices, dtype=torch.float32) * torch.tensor([0.3, 0.5, 0.7])
    uv = torch.rand(len(vertices), 2, generator=generator)
    texture = torch.randint(0, 256, (size, size + 3, 3), generator=generator) / 255
    return Mesh(vertices, torch.tensor(sphere.faces), uv, texture)


def read_glb(path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    document = json.loads(data[20 : 20 + size])
    rest, kind = struct.unpack_from("<I4s", data, 20 + size)
    assert kind == b"BIN\0" and rest % 4 == 0 and 28 + size + rest == len(data)
    return document, data[28 + size :]


def read_accessor(document: dict, blob: bytes, index: int) -> np.ndarray:
    accessor = document["accessors"][index]
    view = document["bufferViews"][accessor["bufferView"]]
    dtype = np.dtype({5123: "<u2", 5125: "<u4", 5126: "<f4"}[accessor["componentType"]])
    columns = {"SCALAR": 1, "VEC2": 2, "VEC3": 3}[accessor["type"]]
    assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(blob)
    assert view["byteLength"] == accessor["count"] * columns * dtype.itemsize
    return np.frombuffer(blob, dtype, accessor["count"] * columns, view["byteOffset"]).reshape(-1, columns)


@pytest.mark.parametrize(("save", "suffix"), [(save_glb, ".glb"), (save_obj, ".obj")])
def test_round_trip(tmp_path: Path, save: Callable[[Mesh, Path], None], suffix: str) -> None:
    mesh = textured_mesh()
    save(mesh, tmp_path / f"object{suffix}")
    loaded = load_mesh(tmp_path / f"object{suffix}")
    assert torch.equal(loaded.vertices, mesh.vertices)
    assert torch.equal(loaded.faces, mesh.faces)
    torch.testing.assert_close(loaded.uv, mesh.uv, atol=6e-8, rtol=0)
    torch.testing.assert_close(loaded.texture, mesh.texture, atol=1e-6, rtol=0)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_glb_structure_axes_and_normals(tmp_path: Path) -> None:
    mesh = textured_mesh()
    save_glb(mesh, tmp_path / "object.glb")
    document, blob = read_glb(tmp_path / "object.glb")
    assert document["buffers"][0]["byteLength"] == len(blob)
    (primitive,) = document["meshes"][0]["primitives"]
    position = read_accessor(document, blob, primitive["attributes"]["POSITION"])
    # (x, y, z) of the file is (y, z, x) of the world: up is +y, the front (+x in the world) is +z.
    np.testing.assert_array_equal(position, mesh.vertices.numpy()[:, [1, 2, 0]])
    bounds = document["accessors"][primitive["attributes"]["POSITION"]]
    assert bounds["min"] == position.min(0).tolist() and bounds["max"] == position.max(0).tolist()
    index = read_accessor(document, blob, primitive["indices"])
    np.testing.assert_array_equal(index.reshape(-1, 3), mesh.faces.numpy())
    normal = read_accessor(document, blob, primitive["attributes"]["NORMAL"])
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-5)
    assert ((normal * position).sum(1) > 0).all()
    material = document["materials"][primitive["material"]]["pbrMetallicRoughness"]
    assert material["metallicFactor"] == 0 and material["roughnessFactor"] == 1


def test_many_vertices_take_wide_indices(tmp_path: Path) -> None:
    vertices = torch.rand(70_000, 3, generator=torch.Generator().manual_seed(0))
    mesh = Mesh(vertices, torch.arange(69_999).view(-1, 3))
    save_glb(mesh, tmp_path / "wide.glb")
    assert torch.equal(load_mesh(tmp_path / "wide.glb").faces, mesh.faces)


def test_khronos_validator(tmp_path: Path) -> None:
    """Runs where node and the npm package gltf-validator are installed, in the working folder or globally."""
    script = """
    const {createRequire} = require('module'), path = require('path'), {execSync} = require('child_process');
    const roots = [process.cwd(), execSync('npm root -g').toString().trim()];
    let validator;
    for (const root of roots)
        try { validator = createRequire(path.join(root, 'x'))('gltf-validator'); } catch {}
    if (!validator) process.exit(77);
    const data = new Uint8Array(require('fs').readFileSync(process.argv[1]));
    validator.validateBytes(data).then(r => console.log(JSON.stringify(r.issues)));
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node is not installed")
    lonely = torch.tensor([[9.0, 9, 9]])  # a vertex of no face has no normal
    plain = Mesh(torch.cat([textured_mesh().vertices, lonely]), textured_mesh().faces)
    flat = Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]]))
    maps = Look(name="Ü\n", normal_map=torch.rand(8, 8, 3), occlusion=torch.rand(8, 8), jpeg=True)
    cases = (
        (textured_mesh(), maps),
        (textured_mesh(), replace(maps, flat=True)),
        (plain, maps),
        (flat, Look()),
    )
    for i, (mesh, look) in enumerate(cases):
        path = tmp_path / f"{i}.glb"
        save_glb(mesh, path, look)
        result = subprocess.run(["node", "-e", script, str(path)], capture_output=True, text=True, timeout=60)
        if result.returncode == 77:
            pytest.skip("the npm package gltf-validator is not installed")
        issues = json.loads(result.stdout)
        assert issues["numErrors"] == 0 and issues["numWarnings"] == 0, issues


def test_untextured_stays_untextured(tmp_path: Path) -> None:
    mesh = Mesh(textured_mesh().vertices, textured_mesh().faces)
    for suffix, save in ((".glb", save_glb), (".obj", save_obj)):
        save(mesh, tmp_path / f"plain{suffix}")
        loaded = load_mesh(tmp_path / f"plain{suffix}")
        assert loaded.texture is None and loaded.uv is None
        assert torch.equal(loaded.vertices, mesh.vertices)


def test_normals_are_shared_across_texture_seams_but_not_hard_edges() -> None:
    sphere = textured_mesh()
    soup = Mesh(sphere.vertices[sphere.faces].reshape(-1, 3), torch.arange(sphere.faces.numel()).view(-1, 3))
    torch.testing.assert_close(soup.vertex_normals, sphere.vertex_normals[sphere.faces].reshape(-1, 3))
    box = trimesh.creation.box()
    corners = torch.tensor(box.vertices[box.faces].reshape(-1, 3), dtype=torch.float32)
    split = Mesh(corners, torch.arange(36).view(-1, 3))
    torch.testing.assert_close(split.vertex_normals, split.face_normals.repeat_interleave(3, 0))


def test_face_areas_are_those_of_a_box() -> None:
    sides = torch.tensor([0.2, 0.4, 0.6])
    box = trimesh.creation.box(extents=sides.tolist())
    mesh = Mesh(torch.tensor(box.vertices, dtype=torch.float32), torch.tensor(box.faces))
    torch.testing.assert_close(mesh.face_areas.sum(), torch.tensor(0.88))
    # Each pair of opposite sides: four triangles of half a side.
    for axis in range(3):
        across = mesh.face_normals[:, axis].abs() > 0.5
        torch.testing.assert_close(mesh.face_areas[across], (sides.prod() / sides[axis] / 2).expand(4))
    assert Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])).face_areas.tolist() == [0.0]
    assert Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)).face_areas.shape == (0,)


def front_colour(mesh: Mesh) -> torch.Tensor:
    return render(mesh, orbit(1, size=9), supersample=1).rgb[0, 4, 4]


def test_scene_graph_is_baked_and_materials_become_one_texture(tmp_path: Path) -> None:
    """A red and a green box, the green one mirrored and moved to the front by its node."""

    def box(colour) -> trimesh.Trimesh:
        mesh = trimesh.creation.box(extents=(0.4, 0.4, 0.4))
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=colour)
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        return mesh

    scene = trimesh.Scene()
    scene.add_geometry(box([255, 0, 0, 255]))
    place = np.diag([-1.0, 1, 1, 1])
    place[2, 3] = 0.5  # the file's front is +z
    scene.add_geometry(box([0, 55, 0, 255]), transform=place)
    (tmp_path / "scene.glb").write_bytes(scene.export(file_type="glb"))
    mesh = load_mesh(tmp_path / "scene.glb")
    assert mesh.faces.shape == (24, 3)
    torch.testing.assert_close(mesh.vertices.amin(0), torch.tensor([-0.2, -0.2, -0.2]))
    torch.testing.assert_close(mesh.vertices.amax(0), torch.tensor([0.7, 0.2, 0.2]))
    # Both boxes still have their outside outside.
    a, b, c = mesh.vertices[mesh.faces].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum(-1) / 6
    torch.testing.assert_close(volume[:12].sum(), torch.tensor(0.064))
    torch.testing.assert_close(volume[12:].sum(), torch.tensor(0.064))
    # Linear 55/255 is sRGB 128/255.
    torch.testing.assert_close(front_colour(mesh), torch.tensor([0, 128 / 255, 0]), atol=3e-3, rtol=0)
    back = render(mesh, orbit(1, size=9, azimuth=180.0), supersample=1).rgb[0, 4, 4]
    torch.testing.assert_close(back, torch.tensor([1.0, 0, 0]))


def test_several_textures_become_one_atlas(tmp_path: Path) -> None:
    """Two textured squares side by side; one repeats its texture twice."""
    scene = trimesh.Scene()
    generator = np.random.default_rng(0)
    images = [
        generator.integers(0, 256, (8, 8, 3), dtype=np.uint8),
        generator.integers(0, 256, (4, 6, 3), dtype=np.uint8),
    ]
    for i, image in enumerate(images):
        x = np.array([-0.5, 0.0]) + 0.5 * i
        corners = [[x[0], -0.25, 0], [x[1], -0.25, 0], [x[1], 0.25, 0], [x[0], 0.25, 0]]
        uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * [1 + i, 1]
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(image))
        visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
        scene.add_geometry(trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False))
    (tmp_path / "two.glb").write_bytes(scene.export(file_type="glb"))
    mesh = load_mesh(tmp_path / "two.glb")
    camera = orbit(1, size=256)
    rgb = render(mesh, camera, supersample=1, nearest=True).rgb[0]
    for i, image in enumerate((images[0], np.tile(images[1], (1, 2, 1)))):
        for row in range(image.shape[0]):
            for column in range(image.shape[1]):
                y = -0.5 + 0.5 * i + 0.5 * (column + 0.5) / image.shape[1]
                z = 0.25 - 0.5 * (row + 0.5) / image.shape[0]
                px, py = camera.project(torch.tensor([[0.0, y, z]]))[0][0, 0].tolist()
                expected = torch.from_numpy(image[row, column]).float() / 255
                torch.testing.assert_close(rgb[int(py), int(px)], expected, atol=3e-3, rtol=0)


@pytest.mark.parametrize("suffix", [".ply", ".stl"])
def test_z_up_formats_keep_their_axes_and_face_colours(tmp_path: Path, suffix: str) -> None:
    box = trimesh.creation.box(extents=(0.2, 0.4, 0.6))
    if suffix == ".ply":
        colours = np.full((12, 4), 255, np.uint8)
        colours[:, :3] = (10, 20, 30)
        colours[box.face_normals[:, 0] > 0.5, :3] = (200, 100, 50)
        box.visual.face_colors = colours
    box.export(tmp_path / f"box{suffix}")
    mesh = load_mesh(tmp_path / f"box{suffix}")
    torch.testing.assert_close(mesh.vertices.amax(0), torch.tensor([0.1, 0.2, 0.3]))
    if suffix == ".ply":
        torch.testing.assert_close(front_colour(mesh), torch.tensor([200, 100, 50]) / 255, atol=3e-3, rtol=0)
    else:
        assert mesh.texture is None


@pytest.mark.parametrize(
    "name", ["a.glb", "a.obj", "a.ply", "a.stl", "a.gltf", "cut.glb", "cut.ply", "cut.stl"]
)
@pytest.mark.parametrize("content", [b"", b"glTF junk that is no mesh at all\n" * 9])
def test_broken_files_end_in_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    if name.startswith("cut") and content:
        trimesh.creation.icosphere().export(path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(V3DError, match=name) as caught:
        load_mesh(path)
    assert "\n" not in str(caught.value)


def test_missing_unknown_and_empty(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="no mesh file"):
        load_mesh(tmp_path / "none.glb")
    (tmp_path / "a.txt").write_text("v 0 0 0")
    with pytest.raises(V3DError, match=r"\.glb"):
        load_mesh(tmp_path / "a.txt")
    for faces, vertices in (([], [[0.0, 0, 0]]), ([[0, 0, 0]], [[torch.inf, 0, 0]])):
        mesh = Mesh(torch.tensor(vertices), torch.tensor(faces, dtype=torch.int64).view(-1, 3))
        for save in (save_glb, save_obj):
            with pytest.raises(V3DError, match="mesh"):
                save(mesh, tmp_path / "empty.glb")
    assert not (tmp_path / "empty.glb").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "object.glb"
    save_glb(textured_mesh(), path)
    old = path.read_bytes()
    broken = Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]]))
    with pytest.raises(V3DError):
        save_glb(broken, path)
    assert path.read_bytes() == old
