"""Uploads -> files of a job that can be worked with; anything else is refused in one sentence.

A file is what its first bytes say, whatever it is called: names that clients send are not used on the disk.
Archives are unpacked within limits of number, size and ratio, and only what a capture is made of.
"""

from __future__ import annotations

import io
import shutil
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from v3d.capture.images import image_size
from v3d.capture.photo_files import SUFFIXES
from v3d.errors import V3DError

CAPTURE_SUFFIXES = (*SUFFIXES, ".heic", ".avif", ".gif", ".json", ".txt", ".bin", ".jgz")
"""Of files that the readers of captures open; Record3D's `metadata` has none."""
_PICTURES = (*SUFFIXES, ".heic", ".avif", ".gif")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_CHUNK = 1 << 20
_ALWAYS_FINE = 16 << 20  # bytes, whatever their ratio: a list of cameras packs well


@dataclass(frozen=True)
class UploadLimits:
    """What one upload may hold.

    Attributes:
        pixels: of a picture.
        files: in an archive.
        bytes: of an archive's files.
        ratio: of these to the archive's own size.
        spare: bytes of the disk that stay free.
    """

    pixels: int = 100_000_000
    files: int = 2000
    bytes: int = 2 << 30
    ratio: int = 100
    spare: int = 1 << 30


@dataclass(frozen=True)
class Kept:
    """An upload on the disk.

    Attributes:
        name: of the file or folder in the job's input.
        notes: what was left out, one sentence each.
    """

    name: str
    notes: tuple[str, ...] = ()


def suffix_of(head: bytes) -> str | None:
    """The suffix of a picture, video, archive or mesh by its first 16 bytes or more; None for any other."""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            return ".avif"
        return ".heic" if brand in (b"heic", b"heix", b"mif1", b"msf1", b"heim", b"hevc") else ".mp4"
    if head[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"AVI ": ".avi"}.get(head[8:12])
    for start, suffix in (
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"\xff\xd8\xff", ".jpg"),
        (b"GIF8", ".gif"),
        (b"BM", ".bmp"),
        (b"II*\0", ".tif"),
        (b"MM\0*", ".tif"),
        (b"\x1aE\xdf\xa3", ".webm"),
        (b"PK\x03\x04", ".zip"),
        (b"glTF", ".glb"),
        (b"ply\n", ".ply"),
        (b"ply\r", ".ply"),
    ):
        if head.startswith(start):
            return suffix
    return None


def keep_picture(data: bytes, path: Path, what: str, limits: UploadLimits) -> None:
    """Write a picture to `path`, and see that it can be read and is not too large.

    Args:
        data: of the file.
        path: where it goes.
        what: begins the sentence of an error, for example "The photo of the front".
        limits: of its size.

    Raises:
        V3DError: it is no picture, or too large.
    """
    path.write_bytes(data)
    _check_picture(path, what, limits)


def keep_capture(upload: bytes | Path, filename: str, folder: Path, limits: UploadLimits) -> Kept:
    """Keep what an object or a scene is reconstructed from, as `views` in a job's folder.

    Args:
        upload: a zip of posed photos or of pictures, a video, or one picture with a grid of them.
        filename: what the client calls it.
        folder: of the job's input.
        limits: of what it may hold.

    Raises:
        V3DError: it is none of these, or larger than the limits.
    """
    suffix = suffix_of(_head(upload))
    if suffix == ".zip":
        return Kept("views", _unpack(upload, folder / "views", limits))
    if suffix in (".mp4", ".webm", ".avi", ".gif") or suffix in _PICTURES:
        name = f"views{suffix}"
        _check_space(_size(upload), folder, limits)
        if isinstance(upload, Path):
            shutil.copyfile(upload, folder / name)
        else:
            (folder / name).write_bytes(upload)
        if suffix in _PICTURES:
            _check_picture(folder / name, "The picture", limits)
        return Kept(name)
    raise V3DError(
        f"{filename[:80]} is none of what can be read; give a zip of photos, a video (MP4, MOV, WebM, "
        "AVI) or a picture."
    )


def keep_mesh(data: bytes, folder: Path) -> Kept:
    """Keep a mesh (GLB, PLY, STL or OBJ, by its content) as `mesh` in a job's folder.

    Raises:
        V3DError: it is none of these.
    """
    suffix = suffix_of(data[:16]) or _plain_mesh(data)
    if suffix not in (".glb", ".ply", ".stl", ".obj"):
        raise V3DError("The mesh is none of what can be read; give a GLB, PLY, STL or OBJ file.")
    (folder / f"mesh{suffix}").write_bytes(data)
    return Kept(f"mesh{suffix}")


def _plain_mesh(data: bytes) -> str | None:
    """.stl or .obj, whose files have no mark, or None."""
    if len(data) >= 84 and len(data) == 84 + 50 * int.from_bytes(data[80:84], "little"):
        return ".stl"
    if data[:6] == b"solid " and b"facet" in data[:4096]:
        return ".stl"
    lines = data[: 1 << 16].splitlines()
    return ".obj" if b"\0" not in data[: 1 << 16] and any(line.startswith(b"v ") for line in lines) else None


def _unpack(upload: bytes | Path, folder: Path, limits: UploadLimits) -> tuple[str, ...]:
    """Write an archive's files below a folder; folders that hold all of them are left out.

    Returns:
        What was left out of it, one sentence each.

    Raises:
        V3DError: it is damaged, or holds what it must not.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(upload) if isinstance(upload, bytes) else upload) as archive:
            entries = {_name(entry): entry for entry in archive.infolist() if not entry.is_dir()}
            _check_archive(archive, entries, _size(upload), limits)
            files = {name: entry for name, entry in entries.items() if _is_capture(name)}
            if not files:
                raise V3DError("The zip holds no photos; give a zip of a folder of photos.")
            _check_space(sum(entry.file_size for entry in files.values()), folder.parent, limits)
            below = _common_folders(list(files))
            for name, entry in files.items():
                path = folder.joinpath(*name.parts[below:])
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target, _CHUNK)  # no more than the entry's stated size
                if path.suffix.lower() in _PICTURES:
                    _check_picture(path, f"{name}, in the zip,", limits)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise V3DError(f"The zip is damaged ({str(error)[:80]}); pack it again.") from error
    others = [name for name in entries if name not in files and not _is_junk(name)]
    if not others:
        return ()
    return (f"{len(others)} files of the zip are no part of a capture and were left out, as {others[0]}.",)


def _name(entry: zipfile.ZipInfo) -> PurePosixPath:
    """The path of an archive's entry.

    Raises:
        V3DError: it leads out of the folder it is unpacked into, or the entry is a link or a device.
    """
    shown = entry.filename[:80]
    path = PurePosixPath(entry.filename.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in entry.filename or len(entry.filename) > 1000:
        raise V3DError(
            f"The zip has a file with a path that leads elsewhere ({shown}); pack the folder again."
        )
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise V3DError(f"The zip has a link or a device ({shown}); pack the files themselves.")
    return path


def _check_archive(
    archive: zipfile.ZipFile, entries: dict[PurePosixPath, zipfile.ZipInfo], size: int, limits: UploadLimits
) -> None:
    """See that an archive is nothing else as well, and unpacks to what the limits allow.

    Raises:
        V3DError: it does not.
    """
    files = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) < len(files):
        raise V3DError("The zip has two files of one name; pack the folder again.")
    if len(files) > limits.files:
        raise V3DError(f"The zip has {len(files)} files, more than the {limits.files} that are taken.")
    if any(entry.flag_bits & 1 for entry in files):
        raise V3DError("The zip is encrypted; pack it without a password.")
    if any(entry.compress_type not in _METHODS for entry in files):
        raise V3DError("The zip is packed in an unusual way; pack it with the usual method (deflate).")
    if files and min(entry.header_offset for entry in files) > 0:
        raise V3DError("The zip has something else before its files; pack the folder again.")
    total = sum(entry.file_size for entry in files)
    if total > limits.bytes:
        raise V3DError(
            f"The zip unpacks to {total / 1e6:.0f} MB, more than the {limits.bytes / 1e6:.0f} that are taken."
        )
    if total > max(_ALWAYS_FINE, limits.ratio * size):
        raise V3DError(f"The zip unpacks to {total / size:.0f} times its size, as no folder of photos does.")


def _is_capture(name: PurePosixPath) -> bool:
    """Whether a file of an archive is one that the readers open."""
    known = name.suffix.lower() in CAPTURE_SUFFIXES or name.name == "metadata"
    return known and not _is_junk(name)


def _is_junk(name: PurePosixPath) -> bool:
    """Whether a file is one that systems leave in archives."""
    return "__MACOSX" in name.parts or name.name.startswith(".") or name.name == "Thumbs.db"


def _common_folders(names: list[PurePosixPath]) -> int:
    """How many folders, from the top, hold all files."""
    parents = [name.parts[:-1] for name in names]
    count = 0
    while all(len(parts) > count and parts[count] == parents[0][count] for parts in parents):
        count += 1
    return count


def _check_picture(path: Path, what: str, limits: UploadLimits) -> None:
    """See that a file is a picture that can be read and is not too large.

    Raises:
        V3DError: it is not.
    """
    if suffix_of(_head(path)) not in _PICTURES:
        raise V3DError(f"{what} is not an image that can be read; give a PNG, JPEG or WebP.")
    try:
        width, height = image_size(path, upright=False)  # unread: a tag may stand at the end of a PNG
    except V3DError as error:
        if "is a HEIC photo" in str(error) or "is an AVIF photo" in str(error):  # and what to install
            raise
        raise V3DError(f"{what} is not an image that can be read; give a PNG, JPEG or WebP.") from error
    if width * height > limits.pixels:
        raise V3DError(f"{what} has {width} x {height} pixels; make it smaller first.")


def _check_space(needed: int, folder: Path, limits: UploadLimits) -> None:
    """See that so many bytes fit on the disk.

    Raises:
        V3DError: they do not.
    """
    if shutil.disk_usage(folder).free < needed + limits.spare:
        raise V3DError("The server's disk is nearly full; try again later.")


def _head(upload: bytes | Path) -> bytes:
    if isinstance(upload, bytes):
        return upload[:16]
    with upload.open("rb") as file:
        return file.read(16)


def _size(upload: bytes | Path) -> int:
    return len(upload) if isinstance(upload, bytes) else upload.stat().st_size
