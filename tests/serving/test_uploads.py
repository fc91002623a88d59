"""Uploads: what is kept is what the readers open; what is made to break or to leak is refused."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from v3d.errors import V3DError
from v3d.serving.uploads import UploadLimits, keep_capture, keep_mesh, keep_picture, suffix_of

LIMITS = UploadLimits(spare=0)


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (200, 60, 30)).save(file, "PNG")
    return file.getvalue()


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def test_a_capture_is_unpacked_without_the_folder_around_it(tmp_path: Path) -> None:
    files = {"my dog/transforms.json": b"{}", "my dog/images/0.PNG": png(), "my dog/sparse_pc.ply": b"ply\n"}
    junk = {"__MACOSX/my dog/._0.png": b"x", "my dog/.DS_Store": b"x", "my dog/Thumbs.db": b"x"}
    kept = keep_capture(packed(files | junk), "dog.zip", tmp_path, LIMITS)
    found = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert found == {"views/transforms.json", "views/images/0.PNG"} and kept.name == "views"
    assert (tmp_path / "views/images/0.PNG").read_bytes() == png()
    (note,) = kept.notes
    assert "1 files" in note and "sparse_pc.ply" in note


def link() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        entry = zipfile.ZipInfo("views/0.png")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return file.getvalue()


def lying(data: bytes) -> bytes:
    """An archive whose directory says that its one file, of 1 MB, has 10 bytes."""
    good = packed({"0.txt": b"\0" * (1 << 20)})
    return good.replace((1 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (packed({"../0.png": png()}), "leads elsewhere"),
        (packed({"/etc/0.png": png()}), "leads elsewhere"),
        (packed({"a\\..\\..\\0.png": png()}), "leads elsewhere"),
        (packed({"C:/0.png": png()}), "leads elsewhere"),
        (link(), "link"),
        (
            packed({"0.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}),
            "0.png, in the zip, is not an image",
        ),
        (packed({"0.jpg": b"<html><script>1</script></html>"}), "is not an image"),
        (packed({"0.svg": b"<svg/>", "index.html": b"<html>"}), "holds no photos"),
        (packed({"0.png": packed({"1.png": png()})}), "is not an image"),
        (packed({"0.txt": b"\0" * (20 << 20)}), "times its size"),
        (packed({f"{i}.txt": b"" for i in range(60)}), "60 files, more than the 50"),
        (packed({"0.txt": bytes(9000)}, zipfile.ZIP_LZMA), "unusual way"),
        (packed({"A/0.png": png(), "A\\0.png": png()}), "two files of one name"),
        (packed({"0.png": png((3000, 2000))}), "3000 x 2000 pixels"),
        (lying(b""), "damaged"),
        (packed({"0.png": png()})[:-30], "damaged"),
        (png() + packed({"1.png": png()})[2:], "is not an image|damaged"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "dog.zip is none"),
        (b"#EXTM3U\nhttp://example.org/a.ts\n", "dog.zip is none"),
        (b"", "dog.zip is none"),
    ],
)
def test_what_an_archive_must_not_hold(data: bytes, sentence: str, tmp_path: Path) -> None:
    limits = UploadLimits(pixels=1_000_000, files=50, spare=0)
    home = tmp_path / "job/input"
    home.mkdir(parents=True)
    if data[:4] == png()[:4]:  # a picture with an archive behind it is that picture
        assert keep_capture(data, "dog.zip", home, limits).name == "views.png"
        return
    with pytest.raises(V3DError, match=sentence):
        keep_capture(data, "dog.zip", home, limits)
    outside = [f for f in tmp_path.rglob("*") if f.is_file() and home not in f.parents]
    assert outside == [] and not Path("/etc/0.png").exists()


def test_an_archive_behind_something_else_is_refused(tmp_path: Path) -> None:
    data = packed({"1.png": png()})
    polyglot = packed({"0.html": b""})[:34] + data  # begins as an archive, is read from its end
    with pytest.raises(V3DError, match=r"something else|damaged"):
        keep_capture(polyglot, "dog.zip", tmp_path, LIMITS)


def test_an_archive_that_the_disk_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="disk is nearly full"):
        keep_capture(packed({"0.png": png()}), "a.zip", tmp_path, UploadLimits(spare=1 << 60))
    assert list(tmp_path.rglob("*.png")) == []


def test_pictures_are_what_they_hold(tmp_path: Path) -> None:
    keep_picture(png(), tmp_path / "front", "The photo", LIMITS)
    for data in (b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0", b"<html>", b"\x89PNG\r\n\x1a\n<html>", b""):
        with pytest.raises(V3DError, match="The photo is not an image that can be read"):
            keep_picture(data, tmp_path / "front", "The photo", LIMITS)


def test_a_picture_of_a_gigapixel_is_refused_unread(tmp_path: Path) -> None:
    small = png()
    header = b"IHDR" + (40_000).to_bytes(4, "big") * 2 + small[24:29]
    bomb = small[:12] + header + zlib.crc32(header).to_bytes(4, "big") + small[33:]
    with pytest.raises(V3DError, match="40000 x 40000 pixels"):
        keep_picture(bomb, tmp_path / "front", "The photo", LIMITS)


def test_meshes_are_told_by_their_content(tmp_path: Path) -> None:
    stl = bytes(80) + (1).to_bytes(4, "little") + np.zeros(25, np.uint16).tobytes()
    text = b"solid x\nfacet normal 0 0 1\nendsolid"
    kinds = [(b"glTF" + bytes(20), ".glb"), (b"ply\nformat", ".ply"), (stl, ".stl"), (text, ".stl")]
    kinds.append((b"# cube\nv 0 0 0\nv 1 0 0\nf 1 2 1\n", ".obj"))
    for data, suffix in kinds:
        assert keep_mesh(data, tmp_path).name == f"mesh{suffix}"
    for data in (png(), b"<svg/>", b"", b"{}", packed({"a.obj": b"v 0 0 0"})):
        with pytest.raises(V3DError, match="The mesh is none"):
            keep_mesh(data, tmp_path)


def test_videos_are_told_by_their_first_bytes() -> None:
    assert suffix_of(b"\0\0\0\x20ftypisom\0\0\0\0") == ".mp4" == suffix_of(b"\0\0\0\x14ftypqt  \0\0\0\0")
    assert suffix_of(b"\0\0\0\x18ftypheic\0\0\0\0") == ".heic"
    assert suffix_of(b"\x1aE\xdf\xa3" + bytes(12)) == ".webm"
