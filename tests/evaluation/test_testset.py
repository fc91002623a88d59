from __future__ import annotations

from pathlib import Path

import pytest
import torch

from v3d.errors import V3DError
from v3d.evaluation.settings import ObjectSource
from v3d.evaluation.testset import load_objects, object_ids
from v3d.meshes.mesh import Mesh


def test_a_manifest_chooses_split_and_scans(folder: Path):
    source = ObjectSource(manifest=folder / "index.json")
    assert object_ids(source) == ["ball", "pillar"]
    assert object_ids(ObjectSource(manifest=folder / "index.json", real_scans=True)) == ["ball"]
    assert object_ids(ObjectSource(manifest=folder / "index.json", split="all"))[-1] == "other"
    assert object_ids(ObjectSource(manifest=folder / "index.json", limit=1)) == ["ball"]
    items = list(load_objects(source, ["pillar", "ball"]))
    assert [(i.id, i.real_scan, i.palette) for i in items] == [
        ("pillar", False, False),
        ("ball", True, False),
    ]


def test_a_folder_and_a_packed_corpus_hold_the_same_objects(
    folder: Path, packed: Path, meshes: dict[str, Mesh]
):
    from_folder = ObjectSource(corpus=folder)
    assert object_ids(from_folder) == ["glb/ball", "glb/pillar"]
    from_pack = ObjectSource(corpus=packed, manifest=folder / "index.json")
    assert object_ids(from_pack) == ["ball", "pillar"]
    for a, b, mesh in zip(
        load_objects(from_folder, ["glb/ball", "glb/pillar"]),
        load_objects(from_pack, ["ball", "pillar"]),
        meshes.values(),
        strict=True,
    ):
        torch.testing.assert_close(a.mesh.vertices, mesh.vertices, atol=1e-6, rtol=0)
        torch.testing.assert_close(b.mesh.vertices, mesh.vertices, atol=1e-5, rtol=0)
        assert a.hash != b.hash  # quantised vertices are other data


def test_the_hash_follows_the_data(folder: Path):
    source = ObjectSource(manifest=folder / "index.json")
    first, again = (next(iter(load_objects(source, ["ball"]))) for _ in range(2))
    other = next(iter(load_objects(source, ["pillar"])))
    assert first.hash == again.hash != other.hash


def test_nothing_to_evaluate_is_one_sentence(folder: Path, packed: Path, tmp_path: Path):
    for source, words in (
        (ObjectSource(), "--corpus"),
        (ObjectSource(corpus=tmp_path), "No test object"),
        (ObjectSource(manifest=folder / "index.json", split="val"), "No test object"),
        (ObjectSource(manifest=tmp_path / "none.json"), "not a manifest"),
        (ObjectSource(corpus=tmp_path / "none.npz"), "none.npz"),
        (ObjectSource(corpus=packed, real_scans=True), "--manifest"),
    ):
        with pytest.raises(V3DError, match=words):
            object_ids(source)
