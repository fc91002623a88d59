"""glTF files written by hand: a square that faces the front, with whatever material a test gives it."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from v3d.cameras import orbit
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render

CORNERS = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]], np.uint16)
UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)  # v down: the image stands upright
_COMPONENTS = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125, "float32": 5126}
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class Gltf:
    """A document and its one buffer; `json` is free to be changed before it is saved."""

    def __init__(self, **json_parts: Any) -> None:
        self.json: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}]}
        self.json |= {"nodes": [{"mesh": 0}], "meshes": [{"primitives": []}]}
        self.json |= {"accessors": [], "bufferViews": [], **json_parts}
        self.blob = bytearray()

    def view(self, data: bytes) -> int:
        self.blob.extend(b"\0" * (-len(self.blob) % 4))
        view = {"buffer": 0, "byteOffset": len(self.blob), "byteLength": len(data)}
        self.json["bufferViews"].append(view)
        self.blob.extend(data)
        return len(self.json["bufferViews"]) - 1

    def array(self, values: np.ndarray, **more: Any) -> int:
        columns = 1 if values.ndim == 1 else values.shape[1]
        accessor = {
            "bufferView": self.view(np.ascontiguousarray(values).tobytes()),
            "componentType": _COMPONENTS[values.dtype.name],
            "count": len(values),
            "type": _KINDS[columns],
        }
        self.json["accessors"].append(accessor | more)
        return len(self.json["accessors"]) - 1

    def primitive(self, **attributes: np.ndarray | int) -> dict[str, Any]:
        """A square unless the attributes say otherwise; returned to be changed."""
        given = {"POSITION": CORNERS, "TEXCOORD_0": UV} | attributes
        numbers = {k: v if isinstance(v, int) else self.array(v) for k, v in given.items()}
        primitive: dict[str, Any] = {"attributes": numbers, "indices": self.array(FACES.reshape(-1))}
        self.json["meshes"][0]["primitives"].append(primitive)
        return primitive

    def material(self, **properties: Any) -> int:
        self.json.setdefault("materials", []).append(properties)
        return len(self.json["materials"]) - 1

    def texture(self, image: np.ndarray, form: str = "PNG", **more: Any) -> dict[str, Any]:
        file = io.BytesIO()
        Image.fromarray(image).save(file, form, **({"lossless": True} if form == "WEBP" else {}))
        self.json.setdefault("images", []).append({"bufferView": self.view(file.getvalue())})
        source = len(self.json["images"]) - 1
        self.json.setdefault("textures", []).append({"source": source, **more})
        return {"index": len(self.json["textures"]) - 1}

    def save(self, path: Path) -> Path:
        self.json["buffers"] = [{"byteLength": len(self.blob)}]
        return write_glb(path, json.dumps(self.json).encode(), bytes(self.blob))


def write_glb(path: Path, text: bytes, blob: bytes) -> Path:
    text += b" " * (-len(text) % 4)
    blob += b"\0" * (-len(blob) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(blob))
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0") + blob
    path.write_bytes(head + chunks)
    return path


def srgb(linear: float | np.ndarray) -> np.ndarray:
    """Linear light -> sRGB in [0, 1]."""
    x = np.asarray(linear, float)
    return np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.maximum(x, 1e-9) ** (1 / 2.4) - 0.055)


def light(srgb: float | np.ndarray) -> np.ndarray:
    """sRGB in [0, 1] -> linear light."""
    x = np.asarray(srgb, float)
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def colours_at(mesh: Mesh, *places: tuple[float, float], nearest: bool = False) -> np.ndarray:
    """Rendered colours [N, 3] in [0, 1] at points (x, y) of the file's plane z = 0, seen from the front."""
    camera = orbit(1, size=256)
    image = render(mesh, camera, supersample=1, nearest=nearest).rgb[0]
    points = torch.tensor([[0.0, x, y] for x, y in places], dtype=torch.float32)
    columns, rows = camera.project(points)[0][0].floor().long().T
    return image[rows, columns].numpy()


def check(seen: np.ndarray, expected: object) -> None:
    """Colours agree to 2/255."""
    np.testing.assert_allclose(seen, np.broadcast_to(expected, seen.shape), atol=2 / 255, rtol=0)


def quarters(size: int = 32) -> np.ndarray:
    """An image of four plain quarters: red, green above; blue, yellow below. [size, size, 3] uint8."""
    four = np.array([[[220, 20, 30], [20, 200, 40]], [[30, 40, 210], [230, 220, 10]]], np.uint8)
    return four.repeat(size // 2, 0).repeat(size // 2, 1)


RED, GREEN, BLUE, YELLOW = (quarters(2).reshape(-1, 3) / 255).tolist()
AT = ((-0.25, 0.25), (0.25, 0.25), (-0.25, -0.25), (0.25, -0.25))
"""Middles of the square's quarters, in the order of the colours above."""
