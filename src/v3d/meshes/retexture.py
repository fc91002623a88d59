"""A glTF file with new textures: nodes, meshes, vertices and uv stay as they are, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from v3d.errors import V3DError
from v3d.meshes.gltf import ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, accessor_of, write_glb
from v3d.meshes.reading.gltf_document import GltfDocument
from v3d.meshes.reading.gltf_scene import node_places, triangle_indices
from v3d.meshes.reading.parts import Array

NO_MATERIAL = -1
"""Number of the material of primitives that have none."""
_TRIANGLE_MODES = (4, 5, 6)
_KEPT = ("name", "doubleSided", "normalTexture", "occlusionTexture")
_LEAST_AREA = 1e-9  # of all triangles in the texture, twice
_UNNAMED = {"KHR_mesh_quantization"}  # extensions that nothing in a document names
_IMAGE_KINDS = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
Json = dict[str, Any]


@dataclass(frozen=True)
class Bare:
    """A primitive without texture coordinates.

    Attributes:
        primitive: its entry in the document.
        vertices: [P, 3], at the scale of the scene.
        faces: [F, 3].
    """

    primitive: Json
    vertices: Array
    faces: Array


class GltfEdit:
    """A glTF or GLB file that gets new textures.

    Attributes:
        json: the document, as it will be written.
    """

    def __init__(self, path: Path) -> None:
        """Read the file and all files that it names.

        Raises:
            V3DError: it is broken, or V3D does not read it.
        """
        self._document = GltfDocument(path)
        self.json: Json = copy.deepcopy(self._document.json)
        views: list[Json] = self.json.setdefault("bufferViews", [])
        self._views = [bytes(self._document.view(i)) for i in range(len(views))]

    def bare_primitives(self) -> list[Bare]:
        """The primitives that no texture can be put on: without uv, or with one that has no area.

        Raises:
            V3DError: one is compressed, so that no coordinates can be added.
        """
        scales = self._scales()
        found = []
        for number, mesh in enumerate(self.json.get("meshes", [])):
            for primitive in _triangles_of(mesh):
                compressed = "KHR_draco_mesh_compression" in primitive.get("extensions", {})
                if compressed and "TEXCOORD_0" in primitive["attributes"]:
                    continue
                position = self._document.array(primitive["attributes"]["POSITION"])[:, :3]
                indices = np.arange(len(position))
                if "indices" in primitive:
                    indices = self._document.array(primitive["indices"])[:, 0].astype(np.int64)
                faces = triangle_indices(indices, primitive.get("mode", 4))
                if len(faces) == 0 or self._has_uv(primitive, faces):
                    continue
                if compressed:
                    raise V3DError(
                        "its geometry is compressed and has no texture coordinates; save it without Draco"
                    )
                found.append(Bare(primitive, position * scales.get(number, 1.0), faces))
        return found

    def add_uv(self, bare: Bare, vertex: Array, faces: Array, uv: Array, material: int) -> int:
        """Give a primitive texture coordinates and a material of its own; the number of vertices it gained.

        Args:
            bare: one of `bare_primitives`.
            vertex: [P'] which of its vertices every new one is.
            faces: [F, 3] of new vertices, in the order of its faces.
            uv: [P', 2] of the new vertices, v down.
            material: its number from now on.
        """
        primitive, count = bare.primitive, len(bare.vertices)
        primitive["material"] = material
        uv = uv.astype(np.float32)
        if len(np.unique(vertex)) == len(vertex):  # no vertex is repeated: all stay where they are
            own = np.zeros((count, 2), np.float32)
            own[vertex] = uv
            primitive["attributes"]["TEXCOORD_0"] = self._add(own)
            return 0
        for attributes in (primitive["attributes"], *primitive.get("targets", ())):
            for name, accessor in attributes.items():
                attributes[name] = self._add_rows(accessor, vertex, bounds=name == "POSITION")
        primitive["attributes"]["TEXCOORD_0"] = self._add(uv)
        kind = np.uint16 if len(vertex) < 65535 else np.uint32
        primitive["indices"] = self._add(faces.reshape(-1).astype(kind), ELEMENT_ARRAY_BUFFER)
        primitive["mode"] = 4
        return len(vertex) - len(np.unique(bare.faces))

    def new_material(self) -> int:
        """The number of a new, empty material."""
        self.json.setdefault("materials", []).append({})
        return len(self.json["materials"]) - 1

    def set_textures(self, images: Mapping[int, bytes]) -> list[str]:
        """Let materials show images as they are; what was left out, one sentence each.

        A material keeps its name, its relief and its sides. Vertex colours, which would tint the image, are
        taken off.

        Args:
            images: number of a material, or `NO_MATERIAL` -> bytes of a PNG or JPEG for TEXCOORD_0.
        """
        notes: dict[str, None] = {}
        numbers = {m: self.new_material() if m == NO_MATERIAL else m for m in images}
        for mesh in self.json.get("meshes", []):
            for primitive in _triangles_of(mesh):
                m = primitive.get("material", NO_MATERIAL)
                if m not in images:
                    continue
                primitive["material"] = numbers[m]
                for name in [name for name in primitive["attributes"] if name.startswith("COLOR_")]:
                    del primitive["attributes"][name]
                    notes["Its vertex colours would tint the texture and were taken off."] = None
                if primitive.get("extensions", {}).pop("KHR_materials_variants", None):
                    notes["Its material variants were left out."] = None
        sampler = self._append("samplers", {"magFilter": 9729, "minFilter": 9987})
        for m, data in images.items():
            source = self._append("images", {"bufferView": self._add_view(data), "mimeType": _kind(data)})
            texture = self._append("textures", {"source": source, "sampler": sampler})
            old = self.json["materials"][numbers[m]]
            surface = {"baseColorTexture": {"index": texture}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
            kept = {"name": "texture"} | {name: old[name] for name in _KEPT if name in old}
            self.json["materials"][numbers[m]] = (
                {"name": "texture"} | kept | {"pbrMetallicRoughness": surface}
            )
        return list(notes)

    def save(self, path: Path) -> None:
        """Write a GLB; textures and images that nothing shows any more are left out.

        Raises:
            V3DError: the file cannot be written.
        """
        for image in self.json.get("images", []):
            self._embed(image)
        document = copy.deepcopy(self.json)
        shown = [use for use in _entries(document.get("materials", [])) if "index" in use]
        _prune(document, "textures", shown, "index")
        _prune(document, "images", _entries(document.get("textures", [])), "source")
        holders = [entry for entry in _entries(document) if "bufferView" in entry]
        used = sorted({entry["bufferView"] for entry in holders})
        blob, views = bytearray(), []
        for i in used:
            blob.extend(b"\0" * (-len(blob) % 4))
            data = self._views[i]
            views.append(
                document["bufferViews"][i] | {"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)}
            )
            blob.extend(data)
        for entry in holders:
            entry["bufferView"] = used.index(entry["bufferView"])
        document["bufferViews"] = views
        named = {name for entry in _entries(document) for name in entry.get("extensions", {})} | _UNNAMED
        for key in ("extensionsUsed", "extensionsRequired"):
            document[key] = [name for name in document.get(key, []) if name in named]
        write_glb(path, {key: value for key, value in document.items() if value != []}, bytes(blob))

    def _has_uv(self, primitive: Json, faces: Array) -> bool:
        accessor = primitive["attributes"].get("TEXCOORD_0")
        if accessor is None:
            return False
        a, b, c = self._document.array(accessor)[:, :2].astype(np.float64)[faces].transpose(1, 0, 2)
        (ux, uy), (vx, vy) = (b - a).T, (c - a).T
        return bool(np.abs(ux * vy - uy * vx).sum() > _LEAST_AREA)

    def _scales(self) -> dict[int, float]:
        """How large the scene shows each mesh, by its number."""
        scales: dict[int, float] = {}
        for number, place in node_places(self._document).items():
            node = self.json["nodes"][number]
            if "mesh" in node:
                size = abs(float(np.linalg.det(place[:3, :3]))) ** (1 / 3)
                scales.setdefault(node["mesh"], size or 1.0)
        return scales

    def _add_view(self, data: bytes, **properties: int) -> int:
        self._views.append(data)
        self.json["bufferViews"].append(properties)
        return len(self._views) - 1

    def _append(self, kind: str, entry: Json) -> int:
        self.json.setdefault(kind, []).append(entry)
        return len(self.json[kind]) - 1

    def _add(self, array: Array, target: int = ARRAY_BUFFER) -> int:
        """The accessor of a new array."""
        view = self._add_view(np.ascontiguousarray(array).tobytes(), target=target)
        return self._append("accessors", accessor_of(array) | {"bufferView": view})

    def _add_rows(self, accessor: int, rows: Array, *, bounds: bool) -> int:
        """The accessor of chosen rows of another's array, in the form that it has."""
        stored = np.ascontiguousarray(self._document.stored(accessor)[rows])
        old = self._document.item("accessors", accessor)
        # glTF wants every vertex to begin at a multiple of four bytes.
        gap = -stored.shape[1] * stored.itemsize % 4
        padded = np.pad(stored.view(np.uint8).reshape(len(stored), -1), ((0, 0), (0, gap)))
        view = self._add_view(padded.tobytes(), target=ARRAY_BUFFER, byteStride=padded.shape[1])
        kept = {key: old[key] for key in ("componentType", "type", "normalized", "name") if key in old}
        limits = {"min": stored.min(0).tolist(), "max": stored.max(0).tolist()} if bounds else {}
        return self._append("accessors", kept | limits | {"bufferView": view, "count": len(rows)})

    def _embed(self, image: Json) -> None:
        """Take an image that is a file, or text, into the buffer."""
        if "uri" not in image:
            return
        try:
            data = self._document.file(str(image["uri"]))
        except V3DError:
            return  # it was missing before
        del image["uri"]
        image |= {"bufferView": self._add_view(data), "mimeType": _kind(data)}


def _triangles_of(mesh: Json) -> Iterator[Json]:
    """A mesh's primitives that are no points or lines."""
    return (p for p in mesh["primitives"] if p.get("mode", 4) in _TRIANGLE_MODES)


def _entries(value: Any) -> Iterator[Json]:
    """All JSON objects in a value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _entries(inner)


def _prune(document: Json, kind: str, holders: Iterable[Json], field: str) -> None:
    """Keep only the entries of one of the document's lists that holders name in a field."""
    holders = [holder for holder in holders if field in holder]
    used = sorted({holder[field] for holder in holders})
    document[kind] = [document[kind][i] for i in used]
    for holder in holders:
        holder[field] = used.index(holder[field])


def _kind(image: bytes) -> str:
    """MIME type of an image's bytes."""
    return next((kind for start, kind in _IMAGE_KINDS.items() if image.startswith(start)), "image/png")
