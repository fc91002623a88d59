"""Broken and hostile files of Gaussians: one sentence each, and no more memory than they are worth."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from splat_scenes import cloud

from v3d.errors import V3DError
from v3d.splats.files.read import read_splats
from v3d.splats.files.write import WRITERS, write_splats


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.99])
def test_a_file_cut_short_is_refused_in_one_sentence(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"a{ending}"
    write_splats(path, cloud(64))
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data)) - 1] if share else b"")
    if ending == ".splat" and not share:
        assert len(read_splats(path).splats) == 0
        return
    with pytest.raises(V3DError, match=r"^a\.") as error:
        read_splats(path)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)


def spz3(count: int, body: bytes, version: int = 3) -> bytes:
    return gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", version, count, 0, 12, 0, 0) + body, 9)


def bomb_of_zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head = packer.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, 10, 0, 12, 0, 0))
    return head + b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


def test_only_as_much_is_unpacked_as_is_needed(tmp_path: Path) -> None:
    (tmp_path / "a.spz").write_bytes(bomb_of_zeros(64))
    tracemalloc.start()
    assert len(read_splats(tmp_path / "a.spz").splats) == 10
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (spz3(2**32 - 1, b""), "claims 4,294,967,295 Gaussians"),
        (spz3(5, bytes(10)), "ends early"),
        (spz3(0, b"", version=1), "no SPZ file of version 2 to 4"),
        (gzip.compress(b"hello, this is no splat"), "no SPZ file"),
        (b"NGSP" + struct.pack("<IIBBBBI", 5, 1, 0, 12, 0, 6, 32), "SPZ of version 5"),
    ],
)
def test_spz_that_is_none(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "a.spz").write_bytes(data)
    with pytest.raises(V3DError, match=sentence):
        read_splats(tmp_path / "a.spz")


def test_a_stream_of_spz_4_is_unpacked_within_its_size(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    streams = [zstandard.compress(bytes(64 << 20))] * 6
    table = b"".join(struct.pack("<QQ", len(stream), 64 << 20) for stream in streams)
    head = struct.pack("<4sIIBBBBI12x", b"NGSP", 4, 10, 0, 12, 0, 6, 32)
    (tmp_path / "a.spz").write_bytes(head + table + b"".join(streams))
    tracemalloc.start()
    assert len(read_splats(tmp_path / "a.spz").splats) == 10
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def changed_sog(path: Path, **changes: object) -> bytes:
    """The .sog file with other entries of meta.json, or other members."""
    file = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "meta.json":
                data = json.dumps(json.loads(data) | changes).encode() + bytes(changes.get("_pad", 0))  # type: ignore[call-overload]
            new.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"version": 1}, "not SOG of version 2"),
        ({"count": 10**9}, "claims 1,000,000,000 Gaussians"),
        ({"count": 5000}, "pixels for 5,000 Gaussians"),
        ({"scales": {"codebook": [0.0] * 3, "files": ["scales.webp"]}}, "3 numbers where 256 should be"),
        ({"sh0": {"codebook": [0.0] * 256, "files": ["../../etc/passwd"]}}, "it lacks"),
        ({"_pad": 8 << 20}, "too large"),
    ],
)
def test_sog_that_is_none(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    write_splats(tmp_path / "a.sog", cloud(30))
    (tmp_path / "a.sog").write_bytes(changed_sog(tmp_path / "a.sog", **changes))
    with pytest.raises(V3DError, match=sentence):
        read_splats(tmp_path / "a.sog")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"PK\3\4" + bytes(100), "broken or holds no Gaussians"),
        (b"glTF" + bytes(100), "glTF 1.0"),
        (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\n1\n", "something else"),
        (b"\x89PNG\r\n", "no file of Gaussians that V3D reads"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(V3DError, match=sentence):
        read_splats(tmp_path / "a.bin")


def test_a_mesh_is_called_a_mesh(tmp_path: Path) -> None:
    head = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
    (tmp_path / "a.ply").write_text(head + "end_header\n0 0 0\n")
    with pytest.raises(V3DError, match="it is a mesh or a point cloud"):
        read_splats(tmp_path / "a.ply")
    (tmp_path / "b.gltf").write_text('{"asset": {"version": "2.0"}}')
    with pytest.raises(V3DError, match="it holds no Gaussians"):
        read_splats(tmp_path / "b.gltf")


def test_all_broken_gaussians_are_refused_and_some_left_out(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.ply", cloud(3))
    head, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    nan = struct.pack("<f", float("nan"))
    (tmp_path / "b.ply").write_bytes(head + b"end_header\n" + nan * (len(body) // 4))
    with pytest.raises(V3DError, match="none of its Gaussians is made of finite numbers"):
        read_splats(tmp_path / "b.ply")
    (tmp_path / "c.ply").write_bytes(head + b"end_header\n" + nan + body[4:])
    assert read_splats(tmp_path / "c.ply").notes == (
        "Gaussians that are not finite numbers were left out: 1.",
    )


def test_no_ordinary_file(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "missing.spz"):
        with pytest.raises(V3DError, match="There is no file"):
            read_splats(path)
