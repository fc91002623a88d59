"""Files that unpack to far more than they are: refused, by a process that never takes a gigabyte."""

from __future__ import annotations

import gzip
import json
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")

SIDE = 20_000
MOST_KB = 1_000_000
# The peak of this process alone: getrusage's contains that of the process which started it.
CHILD = """
import sys
from pathlib import Path
from v3d.errors import V3DError
path = Path(sys.argv[1])
try:
    {code}
except V3DError as error:
    print(error)
else:
    print("It was read.")
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""
VIEWS = "from v3d.capture.readers import load_views; load_views(path)"
CORPUS = "from v3d.data.corpus import corpus_ids; corpus_ids(path)"
SHARD = "from v3d.data.shards import open_shard; open_shard(path).views(0)"


def refused(code: str, path: Path, match: str) -> None:
    run = [sys.executable, "-c", CHILD.format(code=code), str(path)]
    out = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    message, peak = out.splitlines()
    assert match in message
    assert int(peak) < MOST_KB


def bomb_png(path: Path, channels: int = 1) -> None:
    """A whole black PNG of 20,000 x 20,000 pixels, grey (1 channel), RGB or RGBA."""
    packer = zlib.compressobj(1)
    rows = bytes(100 * (1 + SIDE * channels))
    data = b"".join(packer.compress(rows) for _ in range(SIDE // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, part in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b"")):
            file.write(
                struct.pack(">I", len(part)) + kind + part + struct.pack(">I", zlib.crc32(kind + part))
            )


def capture(folder: Path, photo: str = "a.png", **frame: str) -> Path:
    """A transforms.json of one photo."""
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 2], [0, 0, 0, 1]]
    frames = [{"file_path": photo, "transform_matrix": pose, **frame}]
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 2e4, "w": SIDE, "h": SIDE, "frames": frames}))
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_views(tmp_path: Path, channels: int) -> None:
    bomb_png(tmp_path / "a.png", channels)
    assert (tmp_path / "a.png").stat().st_size < 10e6
    refused(VIEWS, capture(tmp_path), "a.png has 20000 x 20000 pixels, more than the 120 million")


@pytest.mark.parametrize("channels", [1, 3])
def test_masks(tmp_path: Path, channels: int) -> None:
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    bomb_png(tmp_path / "mask.png", channels)
    folder = capture(tmp_path, mask_path="mask.png")
    refused(VIEWS, folder, "mask.png has 20000 x 20000 pixels, more than the 120 million")


def test_a_photo_without_end(tmp_path: Path) -> None:
    refused(VIEWS, capture(tmp_path, "/dev/zero"), "/dev/zero is not a file")


def test_annotations_of_co3d(tmp_path: Path) -> None:
    (tmp_path / "seq0/images").mkdir(parents=True)
    with gzip.open(tmp_path / "frame_annotations.jgz", "wb", 1) as file:
        file.write(b'["')
        for _ in range(1000):
            file.write(b"a" * 1_000_000)
    refused(VIEWS, tmp_path / "seq0", "more, than can be read")


def test_packed_corpora(tmp_path: Path) -> None:
    """A header that claims 8 GB, and zeros that unpack to 1 GB."""
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000,), }".ljust(117) + "\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as archive:
        archive.writestr("ids.npy", start)
    refused(CORPUS, tmp_path / "claims.npz", "claims shape (1000000000,), for which it is too short")
    small = start.replace(b"1000000000,", b"125000000, ")
    with (
        zipfile.ZipFile(tmp_path / "zeros.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("ids.npy", "w") as file,
    ):
        file.write(small)
        for _ in range(1000):
            file.write(bytes(1_000_000))
    refused(CORPUS, tmp_path / "zeros.npz", "it unpacks to 953 MB")


@pytest.mark.parametrize("channels", [1, 4])
def test_images_in_shards(tmp_path: Path, channels: int) -> None:
    bomb_png(tmp_path / "bomb.png", channels)
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        (tmp_path / "about.json").write_text('{"id": "a", "c2w": [[]], "K": [[]]}')
        tar.add(tmp_path / "about.json", "000000.json")
        tar.add(tmp_path / "bomb.png", "000000.000.png")
    refused(SHARD, tmp_path / "shard.tar", "400000000 pixels")  # Pillow's own limit
