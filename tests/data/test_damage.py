"""Damaged training data: one sentence each, before memory is asked for."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fuzz_seeds import encoded, readers
from v3d.data.corpus import corpus_ids, load_corpus
from v3d.data.orbit_shards import OrbitShards
from v3d.data.scene_shards import SceneShards
from v3d.data.sources import find_sources
from v3d.errors import V3DError


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a packed corpus of two boxes."""
    readers()["corpus"].make(folder)
    return dict(np.load(folder / "c.npz"))


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("faces", np.full((24, 3), 60_000, np.uint16), "damaged at object 0"),
        ("textures", np.zeros(10**3, np.uint8), "not a packed corpus .*n_texture_bytes"),
        ("n_vertices", np.array([8.5, 7.5]), "whole numbers"),
        ("n_vertices", np.array([-5, 21]), "does not add up"),
        ("ids", np.array("a"), "not a packed corpus"),
        ("vertices", np.zeros((16, 2), np.uint16), "vertices has shape"),
        ("uv", np.zeros((16, 2)), "uv has shape"),
        ("uv", None, "not a packed corpus"),
    ],
)
def test_a_damaged_corpus_is_refused(tmp_path: Path, name: str, value: object, words: str) -> None:
    packed = arrays(tmp_path)
    del packed[name]
    np.savez(tmp_path / "c.npz", **packed if value is None else packed | {name: value})
    with pytest.raises(V3DError, match=words):
        list(load_corpus(tmp_path / "c.npz"))


def test_a_corpus_that_claims_more_than_it_holds(tmp_path: Path) -> None:
    packed = arrays(tmp_path)
    head = io.BytesIO()
    claim = {"descr": "|u1", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(head, claim)
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("textures.npy", head.getvalue())
    with pytest.raises(V3DError, match="claims shape"):
        corpus_ids(tmp_path / "c.npz")
    np.savez_compressed(tmp_path / "c.npz", **packed, zeros=np.zeros(100 << 20, np.uint8))
    with pytest.raises(V3DError, match="unpacks to 100 MB"):
        corpus_ids(tmp_path / "c.npz")


def test_a_corpus_that_changes_is_read_again(tmp_path: Path) -> None:
    packed = arrays(tmp_path)
    assert corpus_ids(tmp_path / "c.npz") == ["a", "b"]
    np.savez(tmp_path / "c.npz", **packed | {"ids": np.array(["first", "second"])})
    assert corpus_ids(tmp_path / "c.npz") == ["first", "second"]


def test_damaged_rows_of_shards_are_one_sentence(tmp_path: Path) -> None:
    readers()["shards"].make(tmp_path)
    folder = tmp_path / "images"
    data = OrbitShards(folder)
    assert len(data.cameras(0)) == 2
    (folder / "a-0/views/000.png").write_bytes(b"no image")
    with pytest.raises(V3DError, match=r"transforms\.json is damaged"):
        data.view(0, 0)
    assert data.view(0, 1).shape == (16, 16, 4)
    (folder / "a-0/photo.png").write_bytes(encoded("PNG", "L", size=5000))
    with pytest.raises(V3DError, match="5000 x 5000 pixels"):
        data.photo(0)

    shard = tmp_path / "tensors/orbits-00000.safetensors"
    tensors = load_file(shard)
    about = {"ids": json.dumps(["a", "b"]), "licences": "[]"}
    save_file(tensors | {"c2w": torch.full_like(tensors["c2w"], torch.nan)}, shard, metadata=about)
    with pytest.raises(V3DError, match="not finite"):
        OrbitShards(tmp_path / "tensors").cameras(0)
    save_file(tensors, shard, metadata=about | {"ids": '["a"]'})
    with pytest.raises(V3DError, match="holds no rendered orbits"):
        OrbitShards(tmp_path / "tensors")

    readers()["scene-shards"].make(tmp_path)
    shard = tmp_path / "scenes/scenes-00000.safetensors"
    tensors = load_file(shard)
    save_file(tensors | {"depth": torch.zeros(1, 2, 9, 9)}, shard, metadata={"objects": '[["a"]]'})
    with pytest.raises(V3DError, match="no rendered scenes"):
        SceneShards(tmp_path / "scenes")


@pytest.mark.parametrize(
    "text", ['[{"file": 5}]', '[{"id": null}]', "[5]", "{}", "[" * 100_000, '[{"x": 1}]']
)
def test_a_damaged_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(V3DError, match=r"list\.json is not a manifest|No object was found"):
        find_sources([tmp_path / "list.json"])
