"""Small good inputs of the readers of meshes, Gaussians and training data."""

from __future__ import annotations

import gzip
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzz_seeds import Reader, encoded
from v3d.cameras import Cameras, orbit
from v3d.data.records import OrbitRecord, save_folder, save_shard, save_tar
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.meshes.obj import save_obj
from v3d.splats.files.write import WRITERS, write_splats
from v3d.splats.gaussians import Splats
from v3d.views import Views

_CORNERS = torch.tensor([[x, y, z] for x in (0.0, 0.4) for y in (0.0, 0.3) for z in (0.0, 0.5)]) - 0.2
_FACES = [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]]
_FACES += [[0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]]


def _box() -> Mesh:
    dice = torch.Generator().manual_seed(0)
    uv, texture = torch.rand(8, 2, generator=dice), torch.rand(8, 8, 3, generator=dice)
    return Mesh(_CORNERS, torch.tensor(_FACES), uv, (texture * 255).round() / 255)


def _glbs(folder: Path) -> None:
    save_glb(_box(), folder / "box.glb")
    (folder / "rich.glb").write_bytes(_rich_glb())


def _rich_glb() -> bytes:
    """Nodes, a skin, a morph, two uv sets, colours, sparse values, a cut-out texture and a sampler."""
    blob, views, accessors = bytearray(), [], []

    def view(data: bytes) -> int:
        blob.extend(b"\0" * (-len(blob) % 4))
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)})
        blob.extend(data)
        return len(views) - 1

    def array(values: np.ndarray, kind: str, component: int, **more: Any) -> int:
        entry = {"bufferView": view(values.tobytes()), "componentType": component, "count": len(values)}
        accessors.append({**entry, "type": kind, **more})
        return len(accessors) - 1

    corners, faces = _CORNERS.numpy(), np.array(_FACES, np.uint16)
    uv = np.random.default_rng(0).random((8, 2)).astype(np.float32) * 3
    indices = {"bufferView": view(np.array([1], np.uint8).tobytes()), "componentType": 5121}
    sparse = {"count": 1, "indices": indices, "values": {"bufferView": view(corners[:1].tobytes())}}
    attributes = {
        "POSITION": array(corners, "VEC3", 5126, sparse=sparse),
        "TEXCOORD_0": array(uv, "VEC2", 5126),
        "TEXCOORD_1": array(uv, "VEC2", 5126),
        "COLOR_0": array(np.full((8, 4), 200, np.uint8), "VEC4", 5121, normalized=True),
        "JOINTS_0": array(np.zeros((8, 4), np.uint8), "VEC4", 5121),
        "WEIGHTS_0": array(np.eye(4, dtype=np.float32)[[0] * 8], "VEC4", 5126),
    }
    places = (array(faces.reshape(-1), "SCALAR", 5123), array(corners * 0.1, "VEC3", 5126))
    document = _rich_document(attributes, *places, view(encoded("PNG")))
    document |= {"accessors": accessors, "bufferViews": views, "buffers": [{"byteLength": len(blob)}]}
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    blob.extend(b"\0" * (-len(blob) % 4))
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(blob))
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(blob), b"BIN\0")
    return head + chunks + bytes(blob)


def _rich_document(attributes: dict[str, int], indices: int, morph: int, image: int) -> dict[str, Any]:
    """What it says of its arrays, which are given by their numbers, and of the view of its image."""
    transform = {"KHR_texture_transform": {"offset": [0.1, 0.2], "rotation": 0.3, "scale": [2, 3]}}
    texture = {"index": 0, "texCoord": 1, "extensions": transform}
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"children": [1, 2]}, {"mesh": 0, "skin": 0, "weights": [0.5]}, {"scale": [1, -1, 1]}],
        "skins": [{"joints": [2]}],
        "meshes": [
            {
                "primitives": [
                    {
                        "attributes": attributes,
                        "indices": indices,
                        "material": 0,
                        "targets": [{"POSITION": morph}],
                    }
                ]
            }
        ],
        "materials": [
            {
                "pbrMetallicRoughness": {"baseColorTexture": texture, "baseColorFactor": [1, 0.5, 1, 1]},
                "alphaMode": "MASK",
                "alphaCutoff": 0.4,
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"wrapS": 33648, "wrapT": 33071}],
        "images": [{"bufferView": image, "mimeType": "image/png"}],
    }


def _gltfs(folder: Path) -> None:
    place = folder / "loose"
    place.mkdir()
    data = _rich_glb()
    size = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + size])
    document["buffers"][0]["uri"] = "data.bin"
    (place / "a.gltf").write_text(json.dumps(document))
    (place / "data.bin").write_bytes(data[28 + size :])


def _objs(folder: Path) -> None:
    place = folder / "box"
    place.mkdir()
    save_obj(_box(), place / "a.obj")
    place = folder / "options"
    place.mkdir()
    rows = [f"v {x:g} {y:g} {z:g} .5 .25 1" for x, y, z in _CORNERS.tolist()]
    rows += ["vt 0 0", "vt 2 0", "vt 1 3", "mtllib a.mtl", "usemtl m", "f 1/1 2/2 4/3 3/1"]
    rows += ["f -8/-3 -7/-2 -3/-1", "usemtl n", "f 5//1 6//1 8//1", "f 5 6 7 \\", "8"]
    (place / "a.obj").write_text("\n".join(rows) + "\n")
    material = (
        "newmtl m\nKd .8 .8 .8\nmap_Kd -s 2 2 1 -o .5 0 t.png\nmap_d t.png\nnewmtl n\nKd 1 0 0\nd 0.5\n"
    )
    (place / "a.mtl").write_text(material)
    (place / "t.png").write_bytes(encoded("PNG", size=8))


def _mesh_plys(folder: Path) -> None:
    rows = [f"{x:g} {y:g} {z:g} {k} 9 200" for k, (x, y, z) in enumerate(_CORNERS.tolist())]
    faces = [f"3 {a} {b} {c}" for a, b, c in _FACES[:-1]] + ["4 1 7 3 5"]
    names = ("float x", "float y", "float z", "uchar red", "uchar green", "uchar blue")
    head = "".join(f"property {name}\n" for name in names)
    head = f"element vertex 8\n{head}element face {len(faces)}\nproperty list uchar int vertex_indices\n"
    (folder / "text.ply").write_text(
        "ply\nformat ascii 1.0\n" + head + "end_header\n" + "\n".join(rows + faces) + "\n"
    )
    body = b"".join(
        struct.pack("<3f3B", *corner, k, 9, 200) for k, corner in enumerate(_CORNERS.tolist())
    ) + b"".join(
        struct.pack(f"<B{len(f)}i", len(f), *f) for f in ([int(x) for x in row.split()[1:]] for row in faces)
    )
    binary = "ply\nformat binary_little_endian 1.0\n" + head + "end_header\n"
    (folder / "binary.ply").write_bytes(binary.encode() + body)


def _stls(folder: Path) -> None:
    triangles = _CORNERS[torch.tensor(_FACES)].numpy()
    rows = ["solid a"]
    for triangle in triangles:
        corners = [f"vertex {x:g} {y:g} {z:g}" for x, y, z in triangle]
        rows += ["facet normal 0 0 0", "outer loop", *corners, "endloop", "endfacet"]
    (folder / "text.stl").write_text("\n".join([*rows, "endsolid a"]) + "\n")
    body = b"".join(
        bytes(12) + t.astype("<f4").tobytes() + struct.pack("<H", 1 << 15 | k)
        for k, t in enumerate(triangles)
    )
    (folder / "binary.stl").write_bytes(b"made".ljust(80) + struct.pack("<I", len(triangles)) + body)


def _read_mesh(path: Path) -> object:
    from v3d.data.jobs import check_object
    from v3d.data.sources import Source
    from v3d.errors import V3DError

    if path.is_dir():
        path = next(p for p in (path / "a.obj", path / "a.gltf") if p.exists())
    refused, fingerprint, _ = check_object(Source("a", path), untextured=True)
    if refused is not None:
        raise V3DError(refused)
    return fingerprint


def _splats() -> Splats:
    dice = torch.Generator().manual_seed(0)
    means, quats, scales = (torch.randn(20, n, generator=dice) for n in (3, 4, 3))
    return Splats(
        means, quats, scales - 3, torch.randn(20, generator=dice), torch.rand(20, 3, generator=dice)
    )


def _read_splats(path: Path) -> object:
    from v3d.splats.files.read import read_splats

    return read_splats(path)


def _splat_files(folder: Path) -> None:
    for ending in WRITERS:
        write_splats(folder / f"a{ending}", _splats())
    (folder / "b.spz").write_bytes(_spz4((folder / "a.spz").read_bytes()))


def _spz4(spz3: bytes) -> bytes:
    """The same Gaussians as SPZ of version 4."""
    import zstandard

    body = gzip.decompress(spz3)
    count, fraction = struct.unpack_from("<I", body, 8)[0], body[13]
    ends = np.cumsum([16, 9 * count, count, 3 * count, 3 * count, 4 * count])
    parts = [body[a:b] for a, b in itertools.pairwise(ends)]
    packed = [zstandard.compress(part) for part in parts]
    table = b"".join(struct.pack("<QQ", len(p), len(part)) for p, part in zip(packed, parts, strict=True))
    head = struct.pack("<4sIIBBBBI12x", b"NGSP", 4, count, 0, fraction, 0, len(parts), 32)
    return head + table + b"".join(packed)


def _record(name: str) -> OrbitRecord:
    cameras = orbit(2, size=16)
    alpha = torch.zeros(2, 16, 16)
    alpha[:, 4:12, 4:12] = 1
    rgb = alpha[..., None] * torch.tensor([0.8, 0.2, 0.1]) + 1 - alpha[..., None]
    photo = torch.cat([rgb[0], alpha[0][..., None]], -1)
    return OrbitRecord(name, "CC0", Views(rgb, alpha, cameras), photo)


def _shards(folder: Path) -> None:
    records = [_record("a"), _record("b")]
    for name in ("tensors", "tar", "images"):
        (folder / name).mkdir()
    save_shard(records, folder / "tensors/orbits-00000.safetensors")
    save_tar(records, folder / "tar/orbits-00000.tar")
    save_folder(records[0], folder / "images/a-0")


def _read_shards(path: Path) -> object:
    from v3d.data.orbit_shards import OrbitShards

    data = OrbitShards(path)
    return [(data[i], data.view(i, 0), data.cameras(i), data.id(i)) for i in range(min(len(data), 4))]


def _scene_shards(folder: Path) -> None:
    from safetensors.torch import save_file

    cameras: Cameras = orbit(2, size=16)
    tensors = {
        "rgb": torch.zeros(1, 2, 16, 16, 3, dtype=torch.uint8),
        "c2w": cameras.c2w[None].contiguous(),
        "K": cameras.K[None].contiguous(),
        "depth": torch.ones(1, 2, 4, 4).half(),
    }
    (folder / "scenes").mkdir()
    about = {"numbers": "[0]", "objects": '[["a"]]', "licences": '[["CC0"]]'}
    save_file(tensors, folder / "scenes/scenes-00000.safetensors", metadata=about)


def _read_scene_shards(path: Path) -> object:
    from v3d.data.scene_shards import SceneShards

    data = SceneShards(path)
    return [(data[i], data.objects(i)) for i in range(min(len(data), 4))]


def _corpora(folder: Path) -> None:
    image = np.frombuffer(encoded("PNG", "RGB", size=8), np.uint8)
    box = _box()
    assert box.uv is not None
    one = {
        "vertices": ((box.vertices + 0.5) * 65535).round().numpy().astype(np.uint16),
        "uv": (box.uv * 65535).round().numpy().astype(np.uint16),
        "faces": box.faces.numpy().astype(np.uint16),
        "textures": image,
    }
    lengths = {"n_vertices": [8] * 2, "n_faces": [len(_FACES)] * 2, "n_texture_bytes": [len(image)] * 2}
    arrays = {name: np.concatenate([array] * 2) for name, array in one.items()}
    arrays |= {name: np.array(numbers) for name, numbers in lengths.items()}
    arrays["ids"] = np.array(["a", "b"])
    np.savez(folder / "c.npz", allow_pickle=False, **arrays)


def _read_corpus(path: Path) -> object:
    from v3d.data.corpus import corpus_ids, load_corpus

    return corpus_ids(path), list(load_corpus(path))


def _manifests(folder: Path) -> None:
    place = folder / "list"
    place.mkdir()
    save_glb(_box(), place / "box.glb")
    entries = [{"id": "a", "file": "box.glb", "split": "train", "licence": "CC0"}, {"file": "gone.obj"}]
    (place / "list.json").write_text(json.dumps(entries))


def _read_manifest(path: Path) -> object:
    from v3d.data.jobs import check_objects
    from v3d.data.sources import find_sources
    from v3d.evaluation.settings import ObjectSource
    from v3d.evaluation.testset import object_ids

    found = find_sources([path / "list.json"])[:5]
    object_ids(ObjectSource(manifest=path / "list.json"))
    return check_objects(found, map, untextured=True, show=lambda *_: None)


def readers_3d() -> dict[str, Reader]:
    """The readers of meshes, Gaussians and training data by name."""
    return {
        "glb": Reader(_glbs, _read_mesh),
        "gltf": Reader(_gltfs, _read_mesh),
        "obj": Reader(_objs, _read_mesh),
        "mesh-ply": Reader(_mesh_plys, _read_mesh),
        "stl": Reader(_stls, _read_mesh),
        "splats": Reader(_splat_files, _read_splats),
        "shards": Reader(_shards, _read_shards),
        "scene-shards": Reader(_scene_shards, _read_scene_shards),
        "corpus": Reader(_corpora, _read_corpus),
        "manifest": Reader(_manifests, _read_manifest, (".json",)),
    }
