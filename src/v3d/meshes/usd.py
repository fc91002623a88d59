"""Meshes as USD and USDZ, by OpenUSD's own library (the extra `usd`): y up, in metres.

USDZ as Apple's AR asks for it: a stored zip, aligned to 64 bytes, whose first file is a binary layer.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from v3d.distribution import install_hint
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.meshes.files import check_savable, to_file_axes
from v3d.meshes.look import PLAIN, Look, encoded, identifier, plain_text, shaded
from v3d.meshes.mesh import Mesh


def save_usd(mesh: Mesh, path: str | Path, look: Look = PLAIN) -> None:
    """Write a binary USD layer, and the images of its material beside it: `mesh_colour.png` of `mesh.usd`.

    Raises:
        V3DError: usd-core is not installed, the mesh has no faces or its numbers are not finite, or a file
            cannot be written.
    """
    check_savable(mesh)
    path = Path(path)
    files = _images(mesh, look, path.stem)
    for name, data in files.values():
        with atomic(path.parent / name) as temporary:
            temporary.write_bytes(data)
    with atomic(path) as temporary:
        temporary.unlink()  # OpenUSD makes new layers only
        _write_layer(mesh, look, temporary, {kind: name for kind, (name, _) in files.items()})


def save_usdz(mesh: Mesh, path: str | Path, look: Look = PLAIN) -> None:
    """Write a USDZ package, as iPhones and AR viewers open it.

    Raises:
        V3DError: usd-core is not installed, the mesh has no faces or its numbers are not finite, or the file
            cannot be written.
    """
    check_savable(mesh)
    check_usd()
    from pxr import UsdUtils

    with tempfile.TemporaryDirectory() as folder:
        files = _images(mesh, look, identifier(look.name))
        for name, data in files.values():
            (Path(folder) / name).write_bytes(data)
        layer = Path(folder) / f"{identifier(look.name)}.usdc"
        _write_layer(mesh, look, layer, {kind: name for kind, (name, _) in files.items()})
        with atomic(path) as temporary:
            if not UsdUtils.CreateNewUsdzPackage(str(layer), str(temporary)):
                raise V3DError(f"{Path(path).name} cannot be written: OpenUSD refused to pack it.")


def check_usd() -> None:
    """See that OpenUSD is there.

    Raises:
        V3DError: it is not installed.
    """
    if importlib.util.find_spec("pxr") is None:
        raise V3DError(f"USD files need OpenUSD; run: {install_hint('usd')}")


def _images(mesh: Mesh, look: Look, stem: str) -> dict[str, tuple[str, bytes]]:
    """Kind of image -> its file's name and bytes; none for a mesh without texture."""
    if mesh.uv is None or mesh.texture is None:
        return {}
    images: dict[str, Tensor | None] = {
        "colour": mesh.texture,
        "normal": look.normal_map,
        "occlusion": look.occlusion,
    }
    return {
        kind: (f"{stem}_{kind}.png", encoded(image)) for kind, image in images.items() if image is not None
    }


def _write_layer(mesh: Mesh, look: Look, path: Path, images: dict[str, str]) -> None:
    """Write one binary layer with the mesh under its default prim, and its material."""
    check_usd()
    from pxr import Kind, Sdf, Usd, UsdGeom, UsdShade, Vt

    mesh, normals = shaded(mesh, look)
    layer = Sdf.Layer.CreateNew(str(path), {"format": "usdc"})
    stage = Usd.Stage.Open(layer)
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    name = identifier(look.name)
    root = UsdGeom.Xform.Define(stage, f"/{name}")
    root.GetPrim().SetDisplayName(plain_text(look.name))
    Usd.ModelAPI(root).SetKind(Kind.Tokens.component)
    stage.SetDefaultPrim(root.GetPrim())
    shape = UsdGeom.Mesh.Define(stage, f"/{name}/{name}_mesh")
    points = to_file_axes(mesh.vertices)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
    shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(np.stack([points.min(0), points.max(0)])))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    corners = mesh.faces.cpu().numpy().astype(np.int32).reshape(-1)
    shape.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(corners))
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(to_file_axes(normals)))
    shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    if mesh.uv is not None and images:
        uv = mesh.uv.cpu().numpy().astype(np.float32)
        st = UsdGeom.PrimvarsAPI(shape).CreatePrimvar(
            "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex
        )
        st.Set(Vt.Vec2fArray.FromNumpy(np.ascontiguousarray(uv * (1, -1) + (0, 1), dtype=np.float32)))
        material = _material(stage, f"/{name}/{name}_material", images)
        UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
    layer.Save()


def _material(stage: Any, path: str, images: dict[str, str]) -> Any:
    """A UsdPreviewSurface that reads the images."""
    from pxr import Sdf, UsdShade

    types = Sdf.ValueTypeNames
    material = UsdShade.Material.Define(stage, path)
    surface = UsdShade.Shader.Define(stage, f"{path}/surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", types.Float).Set(1.0)
    surface.CreateInput("metallic", types.Float).Set(0.0)
    material.CreateSurfaceOutput().ConnectToSource(surface.ConnectableAPI(), "surface")
    reader = UsdShade.Shader.Define(stage, f"{path}/uv")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", types.String).Set("st")
    inputs = {
        "colour": ("diffuseColor", types.Color3f, "rgb", types.Float3),
        "normal": ("normal", types.Normal3f, "rgb", types.Float3),
        "occlusion": ("occlusion", types.Float, "r", types.Float),
    }
    for kind, file in images.items():
        image = UsdShade.Shader.Define(stage, f"{path}/{kind}")
        image.CreateIdAttr("UsdUVTexture")
        image.CreateInput("file", types.Asset).Set(Sdf.AssetPath(f"./{file}"))
        image.CreateInput("sourceColorSpace", types.Token).Set("sRGB" if kind == "colour" else "raw")
        for axis in ("wrapS", "wrapT"):
            image.CreateInput(axis, types.Token).Set("clamp")
        image.CreateInput("st", types.Float2).ConnectToSource(reader.ConnectableAPI(), "result")
        if kind == "normal":  # [0, 1] -> [-1, 1]
            image.CreateInput("scale", types.Float4).Set((2, 2, 2, 1))
            image.CreateInput("bias", types.Float4).Set((-1, -1, -1, 0))
        target, target_type, channel, channel_type = inputs[kind]
        image.CreateOutput(channel, channel_type)
        surface.CreateInput(target, target_type).ConnectToSource(image.ConnectableAPI(), channel)
    return material
