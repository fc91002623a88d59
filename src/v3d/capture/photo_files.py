"""Where the photo is that a description of a capture names.

Captures are moved, renamed and written on other systems than they are read on: the name has another case or
no suffix, or begins with folders of another machine.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from v3d.errors import V3DError
from v3d.text_files import regular_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
PHOTO_FOLDERS = ("images", "", "input", "images_2", "images_4", "images_8", "rgb")
"""Where the photos of a capture stand below its folder, the first one that has them counts."""


class PhotoFiles:
    """Finds the files of listed names, and remembers how.

    Attributes:
        folders: those that names are relative to; the first one that has a photo counts.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._listings: dict[Path, dict[str, list[Path]]] = {}
        self._guessed: dict[Path, str] = {}
        self._notes: dict[str, tuple[str, Path]] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each way in which files differ from their names, with an example."""
        return tuple(
            f"Photos were found {how}, for example {name} as {file}."
            for how, (name, file) in self._notes.items()
        )

    def find(self, name: str) -> Path | None:
        """The file of a listed name (`v3d.text_files.usable_name`), or None.

        First the name as it stands; then with another case or image suffix. Where the folder that it speaks
        of does not exist, its longest tail that is a file below one of the folders.

        Raises:
            V3DError: it is a device or a pipe, or two names lead to one file.
        """
        for folder in self.folders:
            if (path := folder / name).exists():
                if path.is_dir():
                    continue
                return regular_file(path)
        for folder in self.folders:
            if (file := self._similar(folder / name)) is not None:
                listed = PurePosixPath(name)
                how = "under another suffix" if file.suffix != listed.suffix else "in another case"
                return self._remember(how, name, file) if Path(name).suffix else file
        if any((folder / name).parent.is_dir() for folder in self.folders):
            return None  # its folder is there, the file is not
        for tail in _tails(name):
            for folder in self.folders:
                file = self._similar(folder / tail)
                if file is not None:
                    return self._remember("by the end of their paths", name, file)
        return None

    def _remember(self, how: str, name: str, file: Path) -> Path:
        """The file, if no other name led to it.

        Raises:
            V3DError: one did.
        """
        other = self._guessed.setdefault(file, name)
        if other != name:
            raise V3DError(f"{other} and {name} would both be {file}; correct the names.")
        self._notes.setdefault(how, (name, file))
        return file

    def _similar(self, path: Path) -> Path | None:
        """The file of that name, whatever the case of its letters and whatever image it is."""
        listing = self._listing(path.parent)
        whole = path.name.lower()
        # A name without a suffix may have a point, as in "frame.0001".
        for key in (whole, *([path.stem.lower()] if path.suffix.lower() in SUFFIXES else [])):
            if files := listing.get(key):
                return next((file for file in files if file.name.lower() == whole), files[0])
        return None

    def _listing(self, folder: Path) -> dict[str, list[Path]]:
        """Lower-case names, with and without suffix -> the image files of a folder that have them."""
        if folder not in self._listings:
            listing: dict[str, list[Path]] = {}
            existing = _in_any_case(folder)
            if existing is not None:
                for file in sorted(existing.iterdir()):
                    if file.suffix.lower() in SUFFIXES and file.is_file():
                        listing.setdefault(file.name.lower(), []).append(file)
                        listing.setdefault(file.stem.lower(), []).append(file)
            self._listings[folder] = listing
        return self._listings[folder]


def best_folders(tops: Sequence[Path], names: Sequence[str]) -> tuple[Path, ...]:
    """The folder that the photos are in; where none has any, all that may have them.

    Of several, the first that has at least half as many as the one with most.

    Args:
        tops: folders that may hold the photos themselves or in one of `PHOTO_FOLDERS`.
        names: of photos, relative to the folder that is sought.
    """
    folders = list(dict.fromkeys(top / name for top in tops for name in PHOTO_FOLDERS))
    folders = [folder for folder in folders if folder.is_dir()]
    files = PhotoFiles(())
    counts = [sum(files._similar(folder / name) is not None for name in names) for folder in folders]
    most = max(counts, default=0)
    # A reduced copy that is whole is not taken for photos of which a few are missing.
    best = next((f for f, n in zip(folders, counts, strict=True) if n > 0 and 2 * n >= most), None)
    return (best,) if best is not None else tuple(folders)


def _in_any_case(folder: Path) -> Path | None:
    """The folder itself or, where there is none, one whose name or whose parents' differ in case alone."""
    if folder.is_dir():
        return folder
    above = None if folder == folder.parent else _in_any_case(folder.parent)
    if above is None or not os.access(above, os.R_OK):
        return None
    name = folder.name.lower()
    return next((f for f in sorted(above.iterdir()) if f.name.lower() == name and f.is_dir()), None)


def _tails(name: str) -> Iterator[str]:
    """The ends of a path, longest first, without drives and climbing."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..") and not part.endswith(":")]
    return ("/".join(parts[start:]) for start in range(len(parts)))
