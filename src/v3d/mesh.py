"""Triangle meshes and their files.

`Mesh` uses V3D's world (z up, front towards +x, see `v3d.cameras`). Files use their own axes: GLB is
y-up with the front towards +z, so (x, y, z) in the file is (y, z, x) in the world; OBJ is written and
read the same way, as most programs do. PLY and STL, the scanner's and the printer's formats, are z-up and
read as they stand. Folders of Google Scanned Objects are z-up with the front towards -y.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.mesh_folders import SCANNED_OBJ, is_scanned_object

# Vertices repeated along a texture seam share one normal unless they differ more than this: a hard edge.
_CREASE_COSINE = 0.9
_LARGEST_PNG = 16 << 20


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh, optionally textured.

    Attributes:
        vertices: [P, 3] float32, world coordinates (z up).
        faces: [F, 3] int64, counter-clockwise seen from outside.
        uv: [P, 2] float32 in [0, 1], u to the right, v *down* (as image rows: v = 0 is the texture's first
            row), or None. Vertices on a seam are repeated, one for each chart.
        texture: [T, T', 3] float32 in [0, 1], sRGB-encoded, or None.
    """

    vertices: Tensor
    faces: Tensor
    uv: Tensor | None = None
    texture: Tensor | None = None

    def to(self, device: torch.device | str) -> Mesh:
        return replace(
            self,
            vertices=self.vertices.to(device),
            faces=self.faces.to(device),
            uv=None if self.uv is None else self.uv.to(device),
            texture=None if self.texture is None else self.texture.to(device),
        )

    @property
    def face_normals(self) -> Tensor:
        """[F, 3] unit normals, outward; zero for faces without area."""
        a, b, c = self.vertices[self.faces].unbind(1)
        return torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)

    @property
    def vertex_normals(self) -> Tensor:
        """[P, 3] unit area-weighted normals.

        Vertices repeated along a texture seam get one common normal, so that shading shows no seam;
        along a hard edge (more than 26 degrees off the common one) each keeps its own.
        """
        a, b, c = self.vertices[self.faces].unbind(1)
        weighted = torch.linalg.cross(b - a, c - a)[:, None].expand(-1, 3, -1).reshape(-1, 3)
        summed = torch.zeros_like(self.vertices).index_add_(0, self.faces.reshape(-1), weighted)
        own = torch.nn.functional.normalize(summed, dim=-1)
        places, place = torch.unique(self.vertices, dim=0, return_inverse=True)
        if len(places) == len(self.vertices):
            return own
        common = torch.zeros_like(places).index_add_(0, place, summed)
        common = torch.nn.functional.normalize(common, dim=-1)[place]
        return torch.where((own * common).sum(-1, keepdim=True) > _CREASE_COSINE, common, own)


def save_glb(mesh: Mesh, path: str | Path) -> None:
    """Write a binary glTF 2.0 file: one primitive, smooth normals, the texture as unlit-ready base colour.

    Metallic 0, roughness 1. Positions and uv are kept to the last bit, the texture to 8 bits (as PNG; a
    texture whose PNG passes 16 MB is written as JPEG of quality 95).

    Raises:
        V3DError: the mesh has no faces or its numbers are not finite, or the file cannot be written.
    """
    _check_savable(mesh)
    position = _to_file(mesh.vertices)
    normal = _to_file(mesh.vertex_normals)
    normal[np.linalg.norm(normal, axis=1) < 0.5] = (0, 1, 0)  # vertices of no or only flat faces
    index_type = np.uint16 if len(position) < 65535 else np.uint32

    views: list[dict[str, Any]] = []
    blob = bytearray()

    def add(data: bytes, **properties: Any) -> int:
        blob.extend(b"\0" * (-len(blob) % 4))
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data), **properties})
        blob.extend(data)
        return len(views) - 1

    accessors: list[dict[str, Any]] = []

    def accessor(array: np.ndarray, kind: str, target: int) -> int:
        component = {"uint16": 5123, "uint32": 5125, "float32": 5126}[array.dtype.name]
        count = array.size if kind == "SCALAR" else len(array)
        view = add(np.ascontiguousarray(array).tobytes(), target=target)
        accessors.append({"bufferView": view, "componentType": component, "count": count, "type": kind})
        return len(accessors) - 1

    primitive: dict[str, Any] = {
        "indices": accessor(mesh.faces.cpu().numpy().astype(index_type), "SCALAR", 34963)
    }
    attributes = {"POSITION": accessor(position, "VEC3", 34962), "NORMAL": accessor(normal, "VEC3", 34962)}
    accessors[attributes["POSITION"]] |= {"min": position.min(0).tolist(), "max": position.max(0).tolist()}
    primitive["attributes"] = attributes
    gltf: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "V3D"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [primitive], "name": "object"}],
    }
    if mesh.uv is not None and mesh.texture is not None:
        attributes["TEXCOORD_0"] = accessor(mesh.uv.cpu().numpy().astype(np.float32), "VEC2", 34962)
        data, mime = _encode_texture(mesh.texture)
        surface = {"baseColorTexture": {"index": 0}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
        primitive["material"] = 0
        gltf |= {
            "materials": [{"name": "texture", "pbrMetallicRoughness": surface}],
            "textures": [{"source": 0, "sampler": 0}],
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}],
            "images": [{"bufferView": add(data), "mimeType": mime}],
        }
    blob.extend(b"\0" * (-len(blob) % 4))
    gltf |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(blob)}]}
    text = json.dumps(gltf, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(blob)
    with atomic(path) as temporary, open(temporary, "wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, total))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(blob), b"BIN\0") + blob)


def save_obj(mesh: Mesh, path: str | Path) -> None:
    """Write `path` (.obj) and, for a textured mesh, `.mtl` and `.png` of the same stem beside it.

    Raises:
        V3DError: the mesh has no faces or its numbers are not finite, or a file cannot be written.
    """
    _check_savable(mesh)
    path = Path(path)
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in _to_file(mesh.vertices).tolist()]
    lines += [f"vn {x:.6g} {y:.6g} {z:.6g}" for x, y, z in _to_file(mesh.vertex_normals).tolist()]
    corner = "{0}//{0}"
    if mesh.uv is not None and mesh.texture is not None:
        lines.insert(0, f"mtllib {path.stem}.mtl")
        # OBJ's v runs up. In double precision 1 - v loses nothing of a float32.
        lines += [f"vt {u:.9g} {1 - v:.12g}" for u, v in mesh.uv.tolist()]
        lines.append("usemtl texture")
        corner = "{0}/{0}/{0}"
        image = Image.fromarray(_to_bytes(mesh.texture))
        with atomic(path.with_suffix(".png")) as temporary:
            image.save(temporary)
        material = f"newmtl texture\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {path.stem}.png\n"
        with atomic(path.with_suffix(".mtl")) as temporary:
            temporary.write_text(material)
    lines += ["f " + " ".join(corner.format(i) for i in face) for face in (mesh.faces + 1).tolist()]
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def load_mesh(path: str | Path) -> Mesh:
    """Read a GLB, glTF, OBJ, PLY or STL file, or the folder of a scanned object, as one mesh in V3D's world.

    The scene graph is baked into the vertices. One texture is kept as it is; several textures, plain
    materials and vertex or face colours become one atlas. Without any colour, `texture` is None.

    Raises:
        V3DError: the file is missing, unreadable or holds no triangles.
    """
    from v3d.mesh_import import import_mesh  # trimesh takes half a second to import

    path = Path(path)
    scanned = is_scanned_object(path)
    vertices, faces, uv, texture = import_mesh(path / SCANNED_OBJ if scanned else path)
    if scanned:
        vertices = vertices[:, [1, 0, 2]] * (-1, 1, 1)
    elif path.suffix.lower() in {".glb", ".gltf", ".obj"}:
        vertices = vertices[:, [2, 0, 1]]
    return Mesh(
        torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)),
        torch.from_numpy(np.ascontiguousarray(faces, dtype=np.int64)),
        None if uv is None else torch.from_numpy(np.ascontiguousarray(uv, dtype=np.float32)),
        None if texture is None else torch.from_numpy(texture.astype(np.float32) / 255),
    )


def _to_file(points: Tensor) -> np.ndarray:
    """World axes -> y-up file axes, float32."""
    return np.ascontiguousarray(points[:, [1, 2, 0]].cpu().numpy().astype(np.float32))


def _to_bytes(texture: Tensor) -> np.ndarray:
    return (texture.clamp(0, 1) * 255).round().byte().cpu().numpy()


def _encode_texture(texture: Tensor) -> tuple[bytes, str]:
    image = Image.fromarray(_to_bytes(texture))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    if buffer.tell() <= _LARGEST_PNG:
        return buffer.getvalue(), "image/png"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue(), "image/jpeg"


def _check_savable(mesh: Mesh) -> None:
    if len(mesh.faces) == 0:
        raise V3DError("The mesh has no faces, so there is nothing to save.")
    if not bool(torch.isfinite(mesh.vertices).all()):
        raise V3DError("The mesh has vertices that are not finite numbers; it cannot be saved.")
