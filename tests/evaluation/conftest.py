"""Two small textured objects, as a folder of meshes with a manifest and as a packed corpus."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from shapes import textured
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh


@pytest.fixture(scope="session")
def meshes() -> dict[str, Mesh]:
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.3)
    pillar = trimesh.creation.box(extents=(0.3, 0.4, 0.8)).subdivide().subdivide()
    return {"ball": textured(ball, 0, cells=8), "pillar": textured(pillar, 1, cells=8)}


@pytest.fixture(scope="session")
def folder(meshes: dict[str, Mesh], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("objects")
    entries = []
    for name, mesh in meshes.items():
        save_glb(mesh, path / "glb" / f"{name}.glb")
        scan = name == "ball"
        entries.append({"id": name, "file": f"glb/{name}.glb", "split": "test", "real_scan": scan})
    entries.append({"id": "other", "file": "glb/other.glb", "split": "train", "real_scan": False})
    (path / "index.json").write_text(json.dumps(entries))
    return path


@pytest.fixture(scope="session")
def packed(meshes: dict[str, Mesh], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "corpus.npz"
    textures = []
    for mesh in meshes.values():
        assert mesh.texture is not None
        buffer = io.BytesIO()
        Image.fromarray((mesh.texture.numpy() * 255).astype(np.uint8)).save(buffer, "WEBP", lossless=True)
        textures.append(np.frombuffer(buffer.getvalue(), np.uint8))
    yup = [m.vertices[:, [1, 2, 0]].numpy() for m in meshes.values()]
    uvs = [m.uv.numpy() for m in meshes.values() if m.uv is not None]
    np.savez(
        path,
        ids=np.array(list(meshes)),
        n_vertices=[len(m.vertices) for m in meshes.values()],
        n_faces=[len(m.faces) for m in meshes.values()],
        n_texture_bytes=[len(t) for t in textures],
        vertices=np.concatenate([((v + 0.5) * 65535).round().astype(np.uint16) for v in yup]),
        uv=np.concatenate([(u * 65535).round().astype(np.uint16) for u in uvs]),
        faces=np.concatenate([m.faces.numpy().astype(np.uint16) for m in meshes.values()]),
        textures=np.concatenate(textures),
    )
    return path
