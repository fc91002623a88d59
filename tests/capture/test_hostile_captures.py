"""Files made to break a reader are refused in one sentence, in bounded time and memory."""

from __future__ import annotations

import gzip
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from posed_folders import H, W, co3d_folder, colmap_folder, transforms_folder

from v3d import text_files
from v3d.capture import co3d
from v3d.capture.readers import find_photos, load_views
from v3d.errors import V3DError
from v3d.scene.path_files import read_path
from v3d.text_files import read_json, read_lines

DEEP = "[" * 100_000 + "]" * 100_000
HUGE = 10**400


def one_sentence(path: Path, match: str, read: Callable[[Path], object] = find_photos) -> None:
    with pytest.raises(V3DError, match=match) as caught:
        read(path)
    message = str(caught.value)
    assert message.endswith(".") and "\n" not in message and "\0" not in message and len(message) < 500


# JSON


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f'{{"frames": {DEEP}}}', "nested too deeply"),
        ('{"frames": [], "w": 1e999}', "1e999 is too large"),
        ('{"frames": [], "w": -1e999}', "-1e999 is too large"),
        ('{"frames": [], "w": Infinity}', "Infinity is not a number"),
        (f'{{"frames": [], "w": {HUGE}}}', r"the number 1000.*\.\.\. is too large"),
        (f'{{"frames": [], "w": {"9" * 5000}}}', "is too large"),
        ('{"frames": [}', "not a usable JSON file"),
    ],
)
def test_json(tmp_path: Path, text: str, match: str) -> None:
    file = tmp_path / "transforms.json"
    file.write_text(text)
    one_sentence(tmp_path, match)
    one_sentence(file, match, read_path)
    for name in ("metadata.json", "keyframes/cameras/1.json"):
        folder = tmp_path / name.replace("/", "-")
        (folder / name).parent.mkdir(parents=True)
        for images in ("rgb", "keyframes/images"):
            (folder / images).mkdir(parents=True)
        (folder / name).write_text(text)
        one_sentence(folder, match)


def test_json_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "transforms.json"
    file.write_bytes(b"\xff\xfe\x00{")
    one_sentence(tmp_path, "not a usable JSON file")
    monkeypatch.setattr(text_files, "MAX_JSON", 2_000_000)
    with file.open("wb") as stream:
        stream.truncate(3_000_000)
    one_sentence(tmp_path, "has 3 MB, more than the 2 MB that are read")
    one_sentence(Path("/dev/zero"), "is not a file", read_json)
    one_sentence(tmp_path / ("a" * 300), "cannot be read", read_json)


def test_ordinary_numbers_stay_what_they_are(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": [1, -2.5e-3, 123456789012345678, 1234567890123456789], "b": NaN}')
    values = read_json(file)["a"]
    assert values == [1, -0.0025, 123456789012345678, 1234567890123456789.0]
    assert [type(value) for value in values] == [int, float, int, float]


# Names


def frame_zero(folder: Path, **changes: Any) -> Path:
    meta = json.loads((folder / "transforms.json").read_text())
    meta["frames"][0] |= changes
    (folder / "transforms.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("a" * 300, "longer than any file's"),
        ("ä" * 200, "longer than any file's"),
        ("a/" * 3000, "longer than any file's"),
        ("a\0b.png", "zero byte"),
        ("", "name of the photo is missing"),
        (None, "name of the photo is missing"),
        (7, "name of the photo is missing"),
        ("/dev/zero", "/dev/zero is not a file"),
    ],
)
def test_names(tmp_path: Path, name: Any, match: str) -> None:
    one_sentence(frame_zero(transforms_folder(tmp_path / "a"), file_path=name), match)
    if name is not None:
        folder = frame_zero(transforms_folder(tmp_path / "b"), mask_path=name)
        one_sentence(folder, match, load_views)


def test_names_of_colmap_and_co3d(tmp_path: Path) -> None:
    folder = colmap_folder(tmp_path / "colmap", binary=False)
    file = folder / "sparse/0/images.txt"
    text = file.read_text()
    file.write_text(text.replace("0.png", "a" * 300))
    one_sentence(folder, "longer than any file's")
    file.write_text(text.replace(" 0.png", " /dev/zero"))
    one_sentence(folder, "/dev/zero is not a file")
    sequence = co3d_folder(tmp_path / "co3d")
    with gzip.open(sequence.parent / "frame_annotations.jgz", "wt") as stream:
        image = {"path": "a" * 300, "size": [H, W]}
        json.dump([{"sequence_name": "seq0", "frame_number": 0, "image": image}], stream)
    one_sentence(sequence, "longer than any file's")


def test_no_photos(tmp_path: Path) -> None:
    (tmp_path / "rgb").mkdir()
    (tmp_path / "metadata.json").write_text('{"poses": [], "K": [], "w": 1, "h": 1}')
    one_sentence(tmp_path, "lists no photos")


def test_pipes(tmp_path: Path) -> None:
    folder = transforms_folder(tmp_path)
    (folder / "images/0.png").unlink()
    os.mkfifo(folder / "images/0.png")
    one_sentence(folder, r"0\.png is not a file")


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    one_sentence(tmp_path / ("a" * 300), "does not exist")
    one_sentence(Path("a\0b"), "does not exist")
    video = tmp_path / "orbit.mp4"
    video.write_bytes(bytes(100))
    one_sentence(video, "with a video the option --orbit")


# Numbers


@pytest.mark.parametrize("value", [1e300, 1e39, -1e39])
@pytest.mark.parametrize("key", ["fl_x", "cx", "k1", "w"])
def test_lenses_that_float32_cannot_hold(tmp_path: Path, key: str, value: float) -> None:
    one_sentence(frame_zero(transforms_folder(tmp_path), **{key: value}), "there is no usable camera")


def test_positions_beyond_all_precision(tmp_path: Path) -> None:
    matrix = [[1, 0, 0, 1e300], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    folder = frame_zero(transforms_folder(tmp_path / "a"), transform_matrix=matrix)
    one_sentence(folder, r"1e\+300 units away from the origin")
    folder = colmap_folder(tmp_path / "b", binary=False)
    file = folder / "sparse/0/images.txt"
    file.write_text("1 1 0 0 0 1e300 0 3 7 0.png\n\n")
    one_sentence(folder, r"1e\+300 units away from the origin")
    cameras = folder / "sparse/0/cameras.txt"
    cameras.write_text(f"7 PINHOLE {'1' * 400} {H} 180 180 80 60\n")
    one_sentence(folder, "pixels in a row")


def test_cameras_that_float32_cannot_tell_apart(tmp_path: Path) -> None:
    """In UTM: `load_views`, which centres nothing, says who does."""
    folder = transforms_folder(tmp_path)
    meta = json.loads((folder / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["transform_matrix"][1][3] += 4654321.98
    (folder / "transforms.json").write_text(json.dumps(meta))
    one_sentence(folder, "too far for 32-bit numbers; give the folder to `v3d reconstruct`", load_views)


# CO3D


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (f'[{{"x": {DEEP}}}]', "nested too deeply"),
        ("[1, 2, 3]", "an entry that is no frame"),
        ('[{"sequence_name": {}}]', "no frame of the sequence seq0"),
        ('[{"sequence_name": "seq0", "frame_number": Infinity}]', "damaged"),
    ],
)
def test_annotations(tmp_path: Path, text: str, match: str) -> None:
    folder = co3d_folder(tmp_path)
    with gzip.open(folder.parent / "frame_annotations.jgz", "wt") as stream:
        stream.write(text)
    one_sentence(folder, match)


def test_a_bomb_of_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One string without end is read only as far as a frame may reach, and so are frames without end."""
    folder = co3d_folder(tmp_path)
    file = folder.parent / "frame_annotations.jgz"
    monkeypatch.setattr(co3d, "_MAX_ENTRY", 1 << 20)
    with gzip.open(file, "wb", 9) as stream:
        stream.write(b'["' + b"a" * (1 << 24))
    assert file.stat().st_size < 100_000
    one_sentence(folder, "more, than can be read")
    monkeypatch.setattr(co3d, "_MAX_FRAMES", 1000)
    with gzip.open(file, "wt") as text:
        text.write("[" + '{"sequence_name": "seq0"},' * 2000)
    one_sentence(folder, "more than 1000 frames")


# Text


def test_text_without_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "images.txt"
    file.write_text("1" * 2000)
    monkeypatch.setattr(text_files, "_MAX_LINE", 1000)
    one_sentence(file, "a line of more than", lambda path: list(read_lines(path)))
    one_sentence(Path("/dev/zero"), "is not a file", lambda path: list(read_lines(path)))


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG file, which says its size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def test_photos_and_masks_larger_than_cameras_take_are_refused_undecoded(tmp_path: Path) -> None:
    transforms_folder(tmp_path / "a")
    meta = json.loads((tmp_path / "a/transforms.json").read_text())
    photo = tmp_path / "a" / meta["frames"][0]["file_path"]
    meta["frames"][0]["mask_path"] = "mask.png"
    (tmp_path / "a/transforms.json").write_text(json.dumps(meta))
    (tmp_path / "a/mask.png").write_bytes(png_header(20_000 * W // H, 20_000))
    one_sentence(tmp_path / "a", r"mask\.png has \d+ x 20000 pixels, more than the 120 million", load_views)
    photo.write_bytes(png_header(20_000 * W // H, 20_000))
    one_sentence(tmp_path / "a", r"has \d+ x 20000 pixels, more than the 120 million", load_views)
