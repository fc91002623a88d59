"""The scene of a glTF document -> parts placed in the world, in the file's axes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from v3d.errors import V3DError
from v3d.meshes.reading.draco import Decoded, decode_draco
from v3d.meshes.reading.gltf_document import GltfDocument
from v3d.meshes.reading.gltf_materials import Materials
from v3d.meshes.reading.parts import Array, Part, check_triangles

_MOST_NODES = 1_000_000
_MOST_INSTANCED = 4_000_000
_TRIANGLES, _STRIP, _FAN = 4, 5, 6


def read_gltf(path: Path) -> tuple[list[Part], list[str]]:
    """The parts of a .gltf or .glb file as it stands at rest, and notes.

    Raises:
        V3DError: the file is broken, or needs what V3D does not read.
    """
    document = GltfDocument(path)
    materials = Materials(document)
    worlds = node_places(document)
    parts: list[Part] = []
    total = 0
    for node, world in worlds.items():
        entry = document.item("nodes", node)
        if "mesh" not in entry:
            continue
        if "EXT_mesh_gpu_instancing" in (entry.get("extensions") or {}):
            materials.notes["of instances only one is shown"] = None
        mesh = document.item("meshes", entry["mesh"])
        weights = entry.get("weights", mesh.get("weights", ()))
        joints = _joints(document, entry["skin"], worlds) if "skin" in entry else None
        for primitive in mesh["primitives"]:
            part = _part(document, primitive, materials, weights, world if joints is None else joints)
            if part is not None:
                parts.append(part)
                total += len(part.faces)
        # A small file can show one mesh a million times.
        if total > max(_MOST_INSTANCED, document.size):
            raise V3DError(f"it shows more than {_MOST_INSTANCED:,} triangles; make a simpler one")
    return parts, list(materials.notes)


def node_places(document: GltfDocument) -> dict[int, Array]:
    """The place [4, 4] of every node of the scene, by its number."""
    nodes = document.json.get("nodes", [])
    scenes = document.json.get("scenes", [])
    if scenes:
        roots = document.item("scenes", document.json.get("scene", 0)).get("nodes", [])
    else:
        below = {child for node in nodes for child in node.get("children", ())}
        roots = [i for i in range(len(nodes)) if i not in below]
    worlds: dict[int, Array] = {}
    waiting = [(root, np.eye(4)) for root in reversed(roots)]
    while waiting:
        number, above = waiting.pop()
        node = document.item("nodes", number)
        if number in worlds or len(worlds) > _MOST_NODES:
            raise V3DError("its nodes form a circle, or one stands in two places")
        worlds[number] = above @ _local(node)
        waiting += [(child, worlds[number]) for child in reversed(node.get("children", []))]
    return worlds


def _local(node: dict[str, Any]) -> Array:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T
    place = np.eye(4)
    x, y, z, w = np.array(node.get("rotation", (0, 0, 0, 1)), np.float64) / max(
        float(np.linalg.norm(node.get("rotation", (0, 0, 0, 1)))), 1e-12
    )
    place[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    place[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), np.float64)
    place[:3, 3] = node.get("translation", (0, 0, 0))
    return place


def _joints(document: GltfDocument, skin: Any, worlds: dict[int, Array]) -> Array:
    """What each joint of a skin does to a vertex [J, 4, 4]."""
    entry = document.item("skins", skin)
    joints = np.stack([worlds.get(joint, np.eye(4)) for joint in entry["joints"]])
    if "inverseBindMatrices" in entry:
        bound = document.array(entry["inverseBindMatrices"])[: len(joints)].reshape(-1, 4, 4)
        joints = joints @ bound.astype(np.float64).transpose(0, 2, 1)
    return joints


def _part(
    document: GltfDocument, primitive: dict[str, Any], materials: Materials, weights: Any, place: Array
) -> Part | None:
    """One primitive, placed by its node [4, 4] or its joints [J, 4, 4]; None where it has no triangles."""
    mode = primitive.get("mode", _TRIANGLES)
    if mode not in (_TRIANGLES, _STRIP, _FAN):
        materials.notes["points or lines are left out"] = None
        return None
    arrays = _Arrays(document, primitive)
    vertices = arrays.attribute("POSITION").astype(np.float64)
    for target, weight in zip(primitive.get("targets", ()), weights, strict=False):
        if "POSITION" in target and weight:
            vertices = vertices + document.array(target["POSITION"]) * float(weight)
    faces = triangle_indices(arrays.indices(len(vertices)), mode)
    if len(faces) == 0:
        return None
    check_triangles(vertices, faces)
    vertices, mirrored = _placed(vertices, arrays, place)
    if mirrored:
        faces = faces[:, ::-1]  # a mirror turns triangles inside out
    layers, cutoff, coloured = materials.surface(primitive.get("material"), arrays.uv_sets(), faces)
    colours = arrays.colours()
    if colours is not None:
        coloured = True
    uv = arrays.uv_sets().get(0)
    return Part(
        vertices,
        faces,
        layers,
        None if colours is None else colours[faces],
        cutoff,
        coloured,
        None if uv is None else uv[faces],
        primitive.get("material", -1),
    )


def _placed(vertices: Array, arrays: _Arrays, place: Array) -> tuple[Array, bool]:
    """Vertices in the world, and whether that mirrors them."""
    if place.ndim == 2:
        mirrored = bool(np.linalg.det(place[:3, :3]) < 0)
        if np.array_equal(place, np.eye(4)):
            return vertices, False
        return vertices @ place[:3, :3].T + place[:3, 3], mirrored
    moved, total = np.zeros_like(vertices), np.zeros((len(vertices), 1))
    for joints, shares in arrays.influences():
        if len(joints) and joints.max() >= len(place):
            raise V3DError(f"a vertex hangs on joint {joints.max()} of {len(place)}")
        for k in range(joints.shape[1]):
            matrix = place[joints[:, k]]
            at = np.einsum("nij,nj->ni", matrix[:, :3, :3], vertices) + matrix[:, :3, 3]
            moved += at * shares[:, k : k + 1]
            total += shares[:, k : k + 1]
    return moved / np.where(total > 0, total, 1), bool(np.linalg.det(place[0, :3, :3]) < 0)


def triangle_indices(indices: Array, mode: int) -> Array:
    """Indices [N] of a primitive of triangles, a strip or a fan (its `mode`) -> faces [F, 3]."""
    if mode == _TRIANGLES:
        return indices[: len(indices) // 3 * 3].reshape(-1, 3)
    count = max(len(indices) - 2, 0)
    first = np.arange(count)
    if mode == _FAN:
        return indices[np.stack([first + 1, first + 2, first * 0], 1)]
    odd = first % 2
    return indices[np.stack([first, first + 1 + odd, first + 2 - odd], 1)]


class _Arrays:
    """A primitive's attributes, out of its accessors or its Draco data."""

    def __init__(self, document: GltfDocument, primitive: dict[str, Any]) -> None:
        self._document, self._primitive = document, primitive
        self._attributes: dict[str, Any] = primitive["attributes"]
        draco = (primitive.get("extensions") or {}).get("KHR_draco_mesh_compression")
        self._decoded: Decoded | None = None
        if draco is not None:
            self._decoded = decode_draco(bytes(document.view(draco["bufferView"])), draco["attributes"])

    def attribute(self, name: str) -> Array:
        if self._decoded is not None and name in self._decoded.attributes:
            values = self._decoded.attributes[name]
            accessor = self._document.item("accessors", self._attributes[name])
            if accessor.get("normalized") and values.dtype.kind in "iu":
                values = values / float(np.iinfo(values.dtype).max)
            return values
        values = self._document.array(self._attributes[name])
        count = len(self._document.array(self._attributes["POSITION"])) if name != "POSITION" else len(values)
        if len(values) != count and self._decoded is None:
            raise V3DError(f"{name} has {len(values)} values for {count} vertices")
        return values

    def indices(self, vertices: int) -> Array:
        if self._decoded is not None:
            return self._decoded.faces.reshape(-1)
        if "indices" not in self._primitive:
            return np.arange(vertices)
        return self._document.array(self._primitive["indices"])[:, 0].astype(np.int64)

    def uv_sets(self) -> dict[int, Array]:
        names = [n for n in self._attributes if n.startswith("TEXCOORD_") and n[9:].isdecimal()]
        return {int(n[9:]): self.attribute(n)[:, :2].astype(np.float64) for n in names}

    def colours(self) -> Array | None:
        """Linear RGBA [P, 4] of the vertices."""
        if "COLOR_0" not in self._attributes:
            return None
        values = self.attribute("COLOR_0")
        scale = 1.0 if values.dtype.kind == "f" else float(np.iinfo(values.dtype).max)
        colours = np.ones((len(values), 4), np.float32)
        colours[:, : min(values.shape[1], 4)] = (values[:, :4] / scale).clip(0, 1)
        return colours

    def influences(self) -> Iterator[tuple[Array, Array]]:
        """Joints [P, 4] and their shares [P, 4], in sets of four."""
        k = 0
        while f"JOINTS_{k}" in self._attributes and f"WEIGHTS_{k}" in self._attributes:
            yield self.attribute(f"JOINTS_{k}").astype(np.int64), self.attribute(f"WEIGHTS_{k}")
            k += 1
