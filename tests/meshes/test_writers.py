"""What the writers of meshes write, read back by V3D's readers or by other people's."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from test_mesh import read_accessor, read_glb, textured_mesh

from shapes import lopsided_mesh
from v3d.errors import V3DError
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.look import Look, identifier, one_word, plain_text
from v3d.meshes.mesh import Mesh
from v3d.meshes.obj import save_obj
from v3d.meshes.ply import save_ply_mesh
from v3d.meshes.stl import save_stl
from v3d.meshes.threemf import save_3mf
from v3d.meshes.usd import save_usd, save_usdz

ODD = 'Ünï — "teapot" #3 <茶壶>\n'
CORNER = torch.tensor([0.1, 0.2, 0.3])


def seamed_box() -> Mesh:
    """A box of 0.2 x 0.4 x 0.6 m away from the origin, whose six sides are six charts."""
    box = trimesh.creation.box(extents=(0.2, 0.4, 0.6))
    corners = torch.tensor(np.asarray(box.vertices[box.faces]).reshape(-1, 3), dtype=torch.float32)
    uv = torch.rand(36, 2, generator=torch.Generator().manual_seed(0))
    texture = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(1)) / 255
    return Mesh(corners + CORNER, torch.arange(36).view(-1, 3), uv, texture)


def test_stl_is_millimetres_on_the_bed_and_closed(tmp_path: Path) -> None:
    save_stl(seamed_box(), tmp_path / "box.stl", Look(name=ODD))
    assert not (tmp_path / "box.stl").read_bytes().startswith(b"solid")
    for vertices in (load_mesh(tmp_path / "box.stl").vertices, _trimesh(tmp_path / "box.stl").vertices):
        np.testing.assert_allclose(np.asarray(vertices).min(0), (-100, -200, 0), atol=1e-3)
        np.testing.assert_allclose(np.asarray(vertices).max(0), (100, 200, 600), atol=1e-3)
    solid = _trimesh(tmp_path / "box.stl")
    assert solid.is_watertight
    assert solid.volume == pytest.approx(0.048e9, rel=1e-6)


def _trimesh(path: Path) -> trimesh.Trimesh:
    return trimesh.load(path, force="mesh")


def test_3mf_says_its_unit_and_is_manifold_with_its_texture(tmp_path: Path) -> None:
    lib3mf = pytest.importorskip("lib3mf")
    wrapper = lib3mf.get_wrapper()
    mesh = seamed_box()
    save_3mf(mesh, tmp_path / "box.3mf", Look(name=ODD))
    model = wrapper.CreateModel()
    reader = model.QueryReader("3mf")
    reader.SetStrictModeActive(True)
    reader.ReadFromFile(str(tmp_path / "box.3mf"))
    assert reader.GetWarningCount() == 0
    assert model.GetUnit() == lib3mf.ModelUnit.MilliMeter
    objects = model.GetMeshObjects()
    assert objects.MoveNext()
    solid = objects.GetCurrentMeshObject()
    assert solid.GetName() == 'Ünï — "teapot" #3 <茶壶>'
    assert (solid.GetVertexCount(), solid.GetTriangleCount()) == (8, 12)
    assert solid.IsManifoldAndOriented() and solid.IsValid()
    # Every corner has its place and its texture's place, v up.
    wanted = mesh.vertices.numpy() - CORNER.numpy() + (0, 0, 0.3)
    for i in range(12):
        corners = solid.GetTriangle(i).Indices
        places = [solid.GetVertex(corner).Coordinates for corner in corners]
        np.testing.assert_allclose(
            np.array([list(p) for p in places]), wanted[3 * i : 3 * i + 3] * 1000, atol=1e-4
        )
        properties = solid.GetTriangleProperties(i)
        group = model.GetTexture2DGroupByID(properties.ResourceID)
        found = [group.GetTex2Coord(p) for p in properties.PropertyIDs]
        assert mesh.uv is not None
        expected = mesh.uv.numpy()[3 * i : 3 * i + 3] * (1, -1) + (0, 1)
        np.testing.assert_allclose([(t.U, t.V) for t in found], expected, atol=1e-7)
    with zipfile.ZipFile(tmp_path / "box.3mf") as file:
        picture = Image.open(io.BytesIO(file.read("3D/Textures/colour.png")))
    np.testing.assert_array_equal(np.asarray(picture), (mesh.texture * 255).round())


def test_3mf_without_texture_and_equal_bytes(tmp_path: Path) -> None:
    lib3mf = pytest.importorskip("lib3mf")
    plain = replace(seamed_box(), uv=None, texture=None)
    for name in ("a.3mf", "b.3mf"):
        save_3mf(plain, tmp_path / name)
    assert (tmp_path / "a.3mf").read_bytes() == (tmp_path / "b.3mf").read_bytes()
    model = lib3mf.get_wrapper().CreateModel()
    model.QueryReader("3mf").ReadFromFile(str(tmp_path / "a.3mf"))
    objects = model.GetMeshObjects()
    assert objects.MoveNext() and objects.GetCurrentMeshObject().IsManifoldAndOriented()
    with pytest.raises(V3DError, match="no faces with an area"):
        save_3mf(Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])), tmp_path / "flat.3mf")


def test_ply_has_the_colours_of_the_texture_at_its_vertices(tmp_path: Path) -> None:
    """A texture that is a function of the place: red is height."""
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    vertices = torch.tensor(np.asarray(sphere.vertices), dtype=torch.float32)
    ramp = torch.linspace(1, 0, 256)[:, None].expand(256, 4)  # the first row is the top
    texture = torch.stack([ramp, 1 - ramp, torch.full_like(ramp, 0.5)], -1)
    uv = torch.stack([torch.full_like(vertices[:, 2], 0.5), 0.5 - vertices[:, 2]], -1)
    mesh = Mesh(vertices, torch.tensor(sphere.faces), uv, texture)
    save_ply_mesh(mesh, tmp_path / "ball.ply")
    read = trimesh.load(tmp_path / "ball.ply", process=False)
    np.testing.assert_allclose(read.triangles, vertices[mesh.faces], atol=1e-7)
    height = np.asarray(read.vertices)[:, 2] + 0.5
    np.testing.assert_allclose(read.visual.vertex_colors[:, 0] / 255, height, atol=5e-3)
    np.testing.assert_allclose(read.visual.vertex_colors[:, 1] / 255, 1 - height, atol=5e-3)
    assert set(read.visual.vertex_colors[:, 2]) == {128}
    loaded = load_mesh(tmp_path / "ball.ply")
    np.testing.assert_allclose(loaded.vertices[loaded.faces], read.triangles, atol=1e-7)


def test_ply_is_closed_along_seams(tmp_path: Path) -> None:
    save_ply_mesh(seamed_box(), tmp_path / "box.ply")
    read = trimesh.load(tmp_path / "box.ply", process=False)
    assert len(read.vertices) == 8 and read.is_watertight and read.volume > 0


def test_flat_shading_gives_every_corner_its_faces_normal(tmp_path: Path) -> None:
    """Also where faces meet at few degrees, which smooth shading would round."""
    mesh = textured_mesh()
    save_glb(mesh, tmp_path / "flat.glb", Look(flat=True))
    document, blob = read_glb(tmp_path / "flat.glb")
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    normal = read_accessor(document, blob, attributes["NORMAL"]).reshape(-1, 3, 3)
    wanted = mesh.face_normals.numpy()[:, None, [1, 2, 0]].repeat(3, 1)
    np.testing.assert_allclose(normal, wanted, atol=1e-6)
    loaded = load_mesh(tmp_path / "flat.glb")
    assert torch.equal(loaded.vertices[loaded.faces], mesh.vertices[mesh.faces])


def test_maps_go_into_the_material(tmp_path: Path) -> None:
    maps = Look(normal_map=torch.full((4, 4, 3), 0.5), occlusion=torch.rand(4, 4), jpeg=True)
    save_glb(lopsided_mesh(), tmp_path / "maps.glb", maps)
    document, _ = read_glb(tmp_path / "maps.glb")
    (material,) = document["materials"]
    kinds = [
        document["images"][document["textures"][use["index"]]["source"]]["mimeType"]
        for use in (
            material["pbrMetallicRoughness"]["baseColorTexture"],
            material["normalTexture"],
            material["occlusionTexture"],
        )
    ]
    assert kinds == ["image/jpeg", "image/png", "image/png"]
    assert document["meshes"][0]["primitives"][0]["attributes"].keys() >= {"TANGENT", "TEXCOORD_0"}


def test_names_stand_in_files_as_far_as_formats_allow(tmp_path: Path) -> None:
    assert plain_text(ODD) == 'Ünï — "teapot" #3 <茶壶>'
    assert one_word(ODD) == 'Ünï_—_"teapot"_3_<茶壶>'
    assert identifier(ODD) == "Uni_teapot_3"
    assert [identifier(name) for name in ("茶壶", "3d", "", "a b", "_x", "..")] == [
        "object",
        "_3d",
        "object",
        "a_b",
        "x",
        "object",
    ]
    assert len(plain_text("x" * 999)) == 100 and plain_text("\ud800\0") == "object"
    save_glb(textured_mesh(), tmp_path / "a.glb", Look(name=ODD))
    document, _ = read_glb(tmp_path / "a.glb")
    names = {document[kind][0]["name"] for kind in ("nodes", "meshes", "materials")}
    assert names == {plain_text(ODD)}
    save_obj(textured_mesh(), tmp_path / "a.obj", Look(name=ODD))
    lines = (tmp_path / "a.obj").read_text(encoding="utf-8").splitlines()
    assert f"o {one_word(ODD)}" in lines and f"usemtl {one_word(ODD)}" in lines
    assert load_mesh(tmp_path / "a.obj").texture is not None


@pytest.mark.parametrize("suffix", ["usd", "usdz"])
def test_usd_says_unit_and_up_and_keeps_the_mesh(suffix: str, tmp_path: Path) -> None:
    pytest.importorskip("pxr")
    from pxr import Usd, UsdGeom

    mesh = seamed_box()
    path = tmp_path / f"box.{suffix}"
    {"usd": save_usd, "usdz": save_usdz}[suffix](mesh, path, Look(name=ODD))
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert UsdGeom.GetStageUpAxis(stage) == "Y"
    root = stage.GetDefaultPrim()
    assert root.GetName() == "Uni_teapot_3" and root.GetDisplayName() == plain_text(ODD)
    (shape,) = [UsdGeom.Mesh(p) for p in stage.Traverse() if p.IsA(UsdGeom.Mesh)]
    points = np.asarray(shape.GetPointsAttr().Get())
    np.testing.assert_array_equal(points, mesh.vertices.numpy()[:, [1, 2, 0]])
    uv = np.asarray(UsdGeom.PrimvarsAPI(shape).GetPrimvar("st").Get())
    np.testing.assert_allclose(uv, mesh.uv.numpy() * (1, -1) + (0, 1), atol=1e-7)


def test_usdz_passes_openusds_rules_and_those_of_ar(tmp_path: Path) -> None:
    """Versions from 26 on have lost their check of ARKit's rules: those of the package are done by hand."""
    pytest.importorskip("pxr")
    from pxr import Usd, UsdUtils

    maps = Look(name="3 d", normal_map=torch.rand(8, 8, 3), occlusion=torch.rand(8, 8))
    for name, mesh in (("textured", lopsided_mesh()), ("plain", replace(lopsided_mesh(), texture=None))):
        path = tmp_path / f"{name}.usdz"
        save_usdz(mesh, path, maps)
        if hasattr(UsdUtils, "ComplianceChecker"):
            checker = UsdUtils.ComplianceChecker(arkit=True)
            # PyPI's wheels lack the list of shaders that one rule looks into.
            checker._rules = [r for r in checker._rules if "ShaderPropertyType" not in type(r).__name__]
            checker.CheckCompliance(str(path))
            assert [*checker.GetErrors(), *checker.GetFailedChecks(), *checker.GetWarnings()] == []
        else:
            from pxr import UsdValidation

            validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
            errors = UsdValidation.ValidationContext(validators).Validate(Usd.Stage.Open(str(path)))
            assert [error.GetErrorAsString() for error in errors] == []
    with zipfile.ZipFile(tmp_path / "textured.usdz") as file:
        entries = file.infolist()
    assert [entry.filename.rpartition(".")[2] for entry in entries] == ["usdc", "png", "png", "png"]
    for entry in entries:
        assert entry.compress_type == zipfile.ZIP_STORED
        data = (tmp_path / "textured.usdz").read_bytes()
        header = data[entry.header_offset : entry.header_offset + 30]
        start = entry.header_offset + 30 + int.from_bytes(header[26:28], "little")
        assert (start + int.from_bytes(header[28:30], "little")) % 64 == 0
