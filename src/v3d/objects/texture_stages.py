"""The stages of texturing a given mesh: texture coordinates for what has none, then the texture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from v3d.digests import file_digest
from v3d.files import atomic
from v3d.meshes.bare_glb import save_bare_glb
from v3d.meshes.files import read_mesh
from v3d.meshes.glb import encode_texture
from v3d.meshes.mesh import Mesh
from v3d.meshes.obj import save_retextured_obj
from v3d.meshes.reading.parts import Part
from v3d.meshes.reading.read import read_parts, reading
from v3d.meshes.retexture import GltfEdit
from v3d.objects.mesh_in_views import Laid
from v3d.objects.presets import Preset
from v3d.run import RunFolder, Stage
from v3d.texture.project import project_views
from v3d.texture.refine import refine_texture
from v3d.texture.tiles import facing, tiled
from v3d.texture.unwrap import charts

_UV = ".stages/uv.glb"
_GAIN = 300.0  # of photos and changed views: the others fill in only what these do not see, or at a slant
_SMALL = 0.02  # of the faces or of the area: less is not worth a word


@dataclass(frozen=True)
class Shape:
    """A given mesh, every part of which has a uv.

    Attributes:
        given: the mesh file.
        file: a GLB of it with all uv.
        key: of the stage that made it.
        unwrapped: whether some part had no uv of its own.
    """

    given: Path
    file: Path
    key: str
    unwrapped: bool

    @property
    def keeps_obj(self) -> bool:
        """Whether the mesh is an OBJ whose own lines can be kept."""
        return self.given.suffix.lower() == ".obj" and not self.unwrapped

    def parts(self) -> list[Part]:
        """Its parts in V3D's axes."""
        parts, _ = read_parts(self.file)
        return [replace(part, vertices=part.vertices[:, [2, 0, 1]]) for part in parts]


def uv_stage(run: RunFolder, mesh: Path, preset: Preset, name: str) -> Shape:
    """The mesh as a GLB in which all has texture coordinates: its own, and new ones where it has none."""

    def compute(stage: Stage) -> GltfEdit:
        edit = _as_gltf(mesh, run / _UV, name, stage)
        with reading(mesh):
            gained = _unwrap(edit, preset.texture_size)
        stage.facts["unwrapped"] = gained is not None
        if gained is not None:
            repeated = f"; along the cuts {gained} vertices are repeated" if gained else ""
            stage.warn(f"The mesh had no texture coordinates, or not everywhere; it was unwrapped{repeated}.")
        return edit

    beside = sorted(mesh.parent.glob("*.bin")) if mesh.suffix.lower() == ".gltf" else []
    with reading(mesh):
        digests = [file_digest(path) for path in (mesh, *beside)]
    _, key = run.stage(
        "uv",
        version=1,
        inputs=[digests, mesh.suffix.lower(), preset.texture_size],
        files=[_UV],
        compute=compute,
        save=lambda edit: edit.save(run / _UV),
        load=lambda: None,
    )
    return Shape(mesh, run / _UV, key, bool(run.report["stages"]["uv"]["unwrapped"]))


def _as_gltf(mesh: Path, scratch: Path, name: str, stage: Stage) -> GltfEdit:
    """A mesh file of any format as glTF."""
    suffix = mesh.suffix.lower()
    if suffix in (".glb", ".gltf"):
        with reading(mesh):
            return GltfEdit(mesh)
    parts, _ = read_parts(mesh)
    save_bare_glb(parts, scratch, name=name, z_up=suffix != ".obj")
    return GltfEdit(scratch)


def _unwrap(edit: GltfEdit, size: int) -> int | None:
    """Give all that has no uv one, in one texture; the vertices gained, or None where nothing was to do."""
    bare = edit.bare_primitives()
    if not bare:
        return None
    first = np.cumsum([0, *(len(primitive.vertices) for primitive in bare)])
    corners = np.concatenate([b.faces + n for b, n in zip(bare, first[:-1], strict=True)])
    vertices = np.concatenate([b.vertices for b in bare])
    whole = Mesh(torch.from_numpy(vertices.astype(np.float32)), torch.from_numpy(corners.astype(np.int64)))
    vertex, faces, uv = (x.numpy() for x in charts(whole, size=size))
    material, gained, begin = edit.new_material(), 0, 0
    for primitive, offset in zip(bare, first[:-1], strict=True):
        own = faces[begin : begin + len(primitive.faces)]
        used, renumbered = np.unique(own, return_inverse=True)
        own = renumbered.reshape(-1, 3)
        gained += edit.add_uv(primitive, vertex[used] - offset, own, uv[used], material)
        begin += len(primitive.faces)
    return gained


def texture_stage(
    run: RunFolder,
    shape: Shape,
    lay: Callable[[Sequence[Part]], Laid],
    keys: list[Any],
    preset: Preset,
    device: str,
) -> str:
    """The texture, and `mesh.glb` with it (`mesh.obj` too where the shape keeps one); the stage's key.

    Args:
        run: its folder. The way into the world of the views is `placement` in the stage's record.
        shape: the mesh.
        lay: its parts -> views and photos on it.
        keys: all that decides what `lay` returns.
        preset: size of the texture, settings of its refinement.
        device: where the texture is computed.
    """
    numbers = sorted({part.material for part in shape.parts()})
    pictures = [f"mesh{f'_{i}' if i else ''}.png" for i in range(len(numbers))]

    def compute(stage: Stage) -> tuple[GltfEdit, dict[int, bytes]]:
        images = _paint(shape.parts(), lay, preset, device, stage)
        edit = GltfEdit(shape.file)
        stage.warnings.extend(edit.set_textures(images))
        return edit, images

    def save(made: tuple[GltfEdit, dict[int, bytes]]) -> None:
        edit, images = made
        edit.save(run / "mesh.glb")
        if shape.keeps_obj:
            for picture, data in zip(pictures, images.values(), strict=True):
                with atomic(run / picture) as temporary:
                    temporary.write_bytes(data)
            save_retextured_obj(shape.given, run / "mesh.obj", dict(zip(images, pictures, strict=True)))

    _, key = run.stage(
        "texture",
        version=1,
        inputs=[shape.key, keys, preset.texture_size, preset.refine],
        files=["mesh.glb", *(["mesh.obj", "mesh.mtl", *pictures] if shape.keeps_obj else [])],
        compute=compute,
        save=save,
        load=lambda: read_mesh(run / "mesh.glb"),
    )
    return key


def _paint(
    parts: list[Part],
    lay: Callable[[Sequence[Part]], Laid],
    preset: Preset,
    device: str,
    stage: Stage,
) -> dict[int, bytes]:
    """The texture of every material, as an image file's bytes."""
    laid = lay(parts)
    stage.facts["placement"] = laid.place.matrix.tolist()
    stage.warnings.extend(laid.notes)
    rotated, shift = laid.place.matrix[:3, :3].numpy(), laid.place.matrix[:3, 3].numpy()
    surface = tiled([replace(p, vertices=p.vertices @ rotated.T + shift) for p in parts], preset.texture_size)
    if surface.tile < preset.texture_size:
        stage.warn(
            f"Its {len(surface.materials)} textures have {surface.tile} pixels a side, to fit in memory."
        )
    if (shared := surface.shared()) > _SMALL:
        stage.warn(
            f"{shared:.0%} of the texture coordinates are used twice; there, places share their colour."
        )
    mesh, views = surface.mesh.to(device), laid.views.to(device)
    photos = [photo.to(device) for photo in laid.photos]
    mesh, turned = facing(mesh, views.reduced(256).cameras)
    if turned > _SMALL:
        stage.warn(
            f"{turned:.0%} of the faces seen are inside out; they were textured from the side that shows."
        )
    mesh = project_views(mesh, views, size=surface.size, photos=photos, photo_gain=_GAIN)
    if preset.refine is not None:
        mesh = refine_texture(mesh, views, preset.refine, photos=photos, photo_gain=_GAIN, on_step=stage.step)
    assert mesh.texture is not None
    return {m: encode_texture(image)[0] for m, image in surface.textures(mesh.texture.cpu()).items()}
