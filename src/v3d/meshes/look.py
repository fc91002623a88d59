"""`Look`: what a file says of a mesh beside triangles and texture; and names as formats allow them."""

from __future__ import annotations

import io
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from v3d.meshes.files import texture_to_uint8
from v3d.meshes.mesh import Mesh

_LONGEST = 100  # characters of a name
_LARGEST_PNG = 16 << 20  # bytes


@dataclass(frozen=True)
class Look:
    """How a mesh is called and shaded in its file.

    Attributes:
        name: of the object, its mesh and its material; any text, each format writes as much of it as it can.
        flat: every face is shaded by its own normal; otherwise normals are smooth.
        normal_map: [T, T', 3] in [0, 1], tangent space as glTF has it (`v3d.meshes.tangents`), or None.
        occlusion: [T, T'] in [0, 1], how much of the sky a point sees, 1 all of it, or None.
        jpeg: the colours are kept as JPEG of quality 90 where the format has a choice, a fifth of a PNG's
            size; maps stay PNG.
        quads: [Q, 2] numbers of two faces (a, b, c) and (a, c, d) that are one quad where the format has
            quads, or None.
    """

    name: str = "object"
    flat: bool = False
    normal_map: Tensor | None = None
    occlusion: Tensor | None = None
    jpeg: bool = False
    quads: Tensor | None = None


PLAIN = Look()
"""Of a mesh of which nothing is known."""


def shaded(mesh: Mesh, look: Look) -> tuple[Mesh, Tensor]:
    """The mesh with the vertices that its shading needs, and their unit normals [P, 3].

    Flat shading repeats a vertex for each of its faces. Vertices without a face that has an area point up.
    """
    if look.flat:
        corners = mesh.faces.reshape(-1)
        uv = None if mesh.uv is None else mesh.uv[corners]
        normals = mesh.face_normals.repeat_interleave(3, 0)
        mesh = Mesh(mesh.vertices[corners], torch.arange(len(corners)).view(-1, 3), uv, mesh.texture)
    else:
        normals = mesh.vertex_normals
    up = normals.new_tensor([0.0, 0.0, 1.0])
    return mesh, torch.where(normals.norm(dim=-1, keepdim=True) < 0.5, up, normals)


def plain_text(name: str) -> str:
    """A name without control characters and what no encoding has, of at most 100 characters; never empty."""
    kept = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c)[0] != "C")
    return kept.strip()[:_LONGEST].strip() or "object"


def one_word(name: str) -> str:
    """A name as formats of words on lines want it: no spaces, no #."""
    return re.sub(r"[\s#]+", "_", plain_text(name))


def identifier(name: str) -> str:
    """A name of letters a to z, digits and _, that does not start with a digit; accents are dropped."""
    ascii_only = unicodedata.normalize("NFKD", plain_text(name)).encode("ascii", "ignore").decode()
    word = re.sub(r"[^A-Za-z0-9]+", "_", ascii_only).strip("_")
    return f"_{word}" if word[:1].isdigit() else word or "object"


def encoded(image: Tensor, form: Literal["png", "jpeg", "smaller"] = "png") -> bytes:
    """An image [T, T', 3] or [T, T'] in [0, 1] as the bytes of a file.

    Args:
        image: colours or a map.
        form: PNG; JPEG of quality 90; or PNG unless that passes 16 MB, then JPEG of quality 95.
    """
    picture = Image.fromarray(np.ascontiguousarray(texture_to_uint8(image)))
    file = io.BytesIO()
    if form != "jpeg":
        picture.save(file, "PNG")
        if form == "png" or file.tell() <= _LARGEST_PNG:
            return file.getvalue()
        file = io.BytesIO()
    picture.save(file, "JPEG", quality=90 if form == "jpeg" else 95, subsampling=0)
    return file.getvalue()


def suffix_of(image: bytes) -> Literal["png", "jpg"]:
    """What the file of an image that `encoded` made is called."""
    return "png" if image.startswith(b"\x89PNG") else "jpg"
