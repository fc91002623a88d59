"""Programs that people open meshes in: Blender, PrusaSlicer. Each test skips where its program is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shapes import lopsided_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.look import Look, shaded
from v3d.meshes.mesh import Mesh
from v3d.meshes.obj import save_obj
from v3d.meshes.stl import save_stl
from v3d.meshes.tangents import vertex_tangents
from v3d.meshes.threemf import save_3mf
from v3d.meshes.usd import save_usd
from v3d.surface.extract import extract_mesh
from v3d.surface.grid import Grid
from v3d.texture.unwrap import unwrap

_BLENDER = """
import bpy, json, sys
import numpy
for name, kind in (("bool", bool), ("int", int), ("float", float), ("object", object)):
    if name not in numpy.__dict__:  # the importer of Blender 3.4 is older than NumPy 1.24
        setattr(numpy, name, kind)
path = sys.argv[-1]
bpy.ops.wm.read_factory_settings(use_empty=True)
kind = path.rpartition(".")[2]
if kind == "glb": bpy.ops.import_scene.gltf(filepath=path)
if kind == "obj": bpy.ops.wm.obj_import(filepath=path)
if kind == "stl": bpy.ops.import_mesh.stl(filepath=path)
if kind == "usd":
    if "usd_import" not in dir(bpy.ops.wm): print("ANSWERnull"); sys.exit()
    bpy.ops.wm.usd_import(filepath=path)
(thing,) = [o for o in bpy.data.objects if o.type == "MESH"]
bpy.context.view_layer.update()
points = [list(thing.matrix_world @ v.co) for v in thing.data.vertices]
trees = [m.node_tree for m in bpy.data.materials if m.node_tree]
images = [n.image for tree in trees for n in tree.nodes if n.type == "TEX_IMAGE"]
answer = {"points": points, "name": thing.name, "mesh": thing.data.name,
          "materials": [m.name for m in thing.data.materials],
          "images": [list(i.size) for i in images if i]}
if kind == "glb" and thing.data.uv_layers:
    thing.data.calc_tangents()
    loops = thing.data.loops
    answer["tangents"] = [[*l.tangent, l.bitangent_sign] for l in loops]
    answer["vertex"] = [l.vertex_index for l in loops]
    answer["uv"] = [list(d.uv) for d in thing.data.uv_layers[0].data]
print("ANSWER" + json.dumps(answer))
"""


def in_blender(path: Path) -> dict:
    """What Blender finds in a file."""
    if shutil.which("blender") is None:
        pytest.skip("Blender is not installed")
    command = ["blender", "-b", "--factory-startup", "--python-exit-code", "3"]
    command += ["--python-expr", _BLENDER, "--", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    answer = json.loads(line.removeprefix("ANSWER"))
    if answer is None:
        pytest.skip("this Blender was built without USD")
    return answer


def solid() -> Mesh:
    """A closed, textured, lopsided thing, in metres: fields of three balls melted together."""
    x = torch.linspace(-0.5, 0.5, 24)
    at = torch.stack(torch.meshgrid(x, x, x, indexing="ij"), -1)
    balls = (((-0.1, 0.0, -0.2), 0.2), ((0.0, 0.1, 0.1), 0.16), ((0.25, -0.1, -0.25), 0.12))
    field = sum(torch.exp(-(((at - torch.tensor(c)).norm(dim=-1) / r) ** 2)) for c, r in balls)
    mesh = extract_mesh(Grid(0.4 - field, torch.tensor([-0.5] * 3), float(x[1] - x[0])), faces=600)
    texture = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0))
    return replace(unwrap(mesh, size=64), texture=texture)


SAVERS: dict[str, Callable[[Mesh, Path, Look], None]] = {
    "glb": save_glb,
    "obj": save_obj,
    "stl": save_stl,
    "usd": save_usd,
}


@pytest.mark.parametrize("kind", SAVERS)
def test_blender_imports_upright_in_size_and_named(kind: str, tmp_path: Path) -> None:
    """Blender is z up with fronts towards -y: (x, y, z) of V3D's world is (y, -x, z) there."""
    if kind == "usd":
        pytest.importorskip("pxr")
    mesh = lopsided_mesh()
    path = tmp_path / f"teapot.{kind}"
    SAVERS[kind](mesh, path, Look(name="teapot"))
    found = in_blender(path)
    points = np.array(found["points"])
    if kind == "stl":
        wanted = mesh.vertices.numpy() * 1000
        low, high = wanted.min(0), wanted.max(0)
        wanted = wanted - [*(low + high)[:2] / 2, low[2]]
    else:
        wanted = mesh.vertices.numpy()[:, [1, 0, 2]] * (1, -1, 1)
    assert _same_places(points, wanted, 1e-5 * np.abs(wanted).max())
    assert found["name"].startswith("teapot")
    if kind != "stl":
        assert found["mesh"].startswith("teapot") and found["materials"][0].startswith("teapot")
        assert [80, 80] in found["images"]


def _same_places(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether every point of one set has one of the other within the tolerance."""
    distance = np.abs(a[:, None] - b[None]).max(-1)
    return bool((distance.min(0) < tolerance).all() and (distance.min(1) < tolerance).all())


def test_tangents_are_blenders(tmp_path: Path) -> None:
    """Blender computes MikkTSpace of its own from what it imports."""
    mesh = solid()
    save_glb(mesh, tmp_path / "solid.glb", Look(normal_map=torch.full((8, 8, 3), 0.5)))
    found = in_blender(tmp_path / "solid.glb")
    mesh, normals = shaded(mesh, Look())
    ours = vertex_tangents(mesh, normals)
    points, uv = np.array(found["points"])[found["vertex"]], np.array(found["uv"])
    theirs = np.array(found["tangents"])
    places, uvs = mesh.vertices.numpy()[:, [1, 0, 2]] * (1, -1, 1), mesh.uv.numpy() * (1, -1) + (0, 1)
    far = np.abs(np.hstack([points, uv])[:, None] - np.hstack([places, uvs])).max(-1)
    nearest = far.argmin(1)
    assert (theirs[:, 3] == ours[nearest, 3].numpy()).all()
    # Blender 3.4 projects across normals of its own instead of the file's: project across the file's.
    t, n = (x[nearest].numpy()[:, [1, 0, 2]] * (1, -1, 1) for x in (ours[:, :3], normals))
    projected = theirs[:, :3] - (theirs[:, :3] * n).sum(1, keepdims=True) * n
    agree = (projected * t).sum(1) / np.linalg.norm(projected, axis=1)
    assert np.quantile(agree, 0.01) > 0.9999


@pytest.mark.parametrize("kind", ["stl", "3mf"])
def test_prusaslicer_calls_it_manifold_and_slices_it(kind: str, tmp_path: Path) -> None:
    if shutil.which("prusa-slicer") is None:
        pytest.skip("PrusaSlicer is not installed")
    mesh = solid()
    scale = 0.03 / float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max())
    mesh = replace(mesh, vertices=mesh.vertices * scale)
    sides = ((mesh.vertices.amax(0) - mesh.vertices.amin(0)) * 1000).tolist()
    path = tmp_path / f"solid.{kind}"
    {"stl": save_stl, "3mf": save_3mf}[kind](mesh, path, Look(name="teapot"))
    done = subprocess.run(["prusa-slicer", "--info", str(path)], capture_output=True, text=True, timeout=120)
    rows = [line.split("=") for line in done.stdout.splitlines() if " = " in line]
    info = {name.strip(): value.strip() for name, value in rows}
    assert info["manifold"] == "yes" and info["number_of_parts"] == "1"
    assert [float(info[f"size_{axis}"]) for axis in "xyz"] == pytest.approx(sides, rel=1e-5)
    assert float(info["min_z"]) == pytest.approx(0, abs=1e-4)
    command = ["prusa-slicer", "--export-gcode", "--output", str(tmp_path / "solid.gcode"), str(path)]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    heights = [
        float(line.removeprefix(";Z:"))
        for line in (tmp_path / "solid.gcode").read_text().splitlines()
        if line.startswith(";Z:")
    ]
    assert heights[-1] == pytest.approx(float(info["size_z"]), abs=0.4)
