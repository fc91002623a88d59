"""What is broken in a capture is said in one sentence."""

from __future__ import annotations

import gzip
import json
import re
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from posed_folders import (
    EXACT,
    EYES,
    H,
    W,
    co3d_folder,
    colmap_folder,
    offsets,
    shown,
    transforms_folder,
)

from v3d.capture.readers import (
    find_photos,
    load_scene_views,
    load_views,
    read_object_views,
    read_scene_views,
)
from v3d.distribution import install_hint
from v3d.errors import V3DError
from v3d.views import Views


def test_folders_without_anything(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="does not exist"):
        load_scene_views(tmp_path / "nowhere", max_size=None)
    with pytest.raises(V3DError, match="no posed photos: give"):
        load_scene_views(tmp_path, max_size=None)


def test_photos_without_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)  # as if it were not installed
    colmap_folder(tmp_path)
    for file in (tmp_path / "sparse/0").iterdir():
        file.unlink()
    with pytest.raises(V3DError, match=re.escape(install_hint("colmap"))):
        load_scene_views(tmp_path, max_size=None)
    (tmp_path / "images/0.png").unlink()
    with pytest.raises(V3DError, match="at least 3"):
        load_scene_views(tmp_path, max_size=None)


@pytest.mark.parametrize("make", [transforms_folder, colmap_folder, co3d_folder])
def test_missing_photos_are_left_out_with_a_note(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    files = sorted((folder / "images").iterdir())
    assert find_photos(folder).notes == ()
    files[1].unlink()
    capture = find_photos(folder)
    (note,) = capture.notes
    assert f"1 of the 3 listed photos do not exist and are left out, {files[1].name} among them" in note
    for read in (read_object_views, read_scene_views):
        views = shown(read(capture.photos))
        eyes = torch.tensor(EYES[[0, 2]])
        torch.testing.assert_close(views.cameras.centers, eyes, atol=1e-5, rtol=0)
        assert offsets(views).max() < EXACT
    for file in files[::2]:
        file.unlink()
    with pytest.raises(V3DError, match=f"None of the 3 photos .*{files[0].name}"):
        find_photos(folder)


@pytest.mark.parametrize("load", [load_views, load_scene_views])
@pytest.mark.parametrize("make", [transforms_folder, colmap_folder, co3d_folder])
def test_whole_folders_have_no_missing_photo(
    tmp_path: Path, make: Callable[[Path], Path], load: Callable[[Path], Views]
) -> None:
    """What returns no notes may leave nothing out: a run that lost a view must not go on with the others."""
    folder = make(tmp_path)
    lost = sorted((folder / "images").iterdir())[1]
    lost.unlink()
    with pytest.raises(V3DError, match=f"{lost.name}.* does not exist"):
        load(folder)


@pytest.mark.parametrize("make", [transforms_folder, colmap_folder])
def test_wrong_size(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    make(tmp_path)
    Image.new("RGB", (100, 90)).save(tmp_path / "images/1.png")
    with pytest.raises(V3DError, match=r"100 x 90 pixels; its camera is for 160 x 120"):
        load_scene_views(tmp_path, max_size=None)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_binary_files_cut_anywhere(tmp_path: Path, name: str) -> None:
    file = colmap_folder(tmp_path) / "sparse/0" / name
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(V3DError):
            load_scene_views(tmp_path, max_size=None)
    file.write_bytes(b"")
    with pytest.raises(V3DError, match="cut short"):
        load_scene_views(tmp_path, max_size=None)


@pytest.mark.parametrize("name", ["cameras.txt", "images.txt"])
@pytest.mark.parametrize("text", ["", "what is this", "1 2 3", "7 PINHOLE 160 120 1 2"])
def test_text_files_that_are_none(tmp_path: Path, name: str, text: str) -> None:
    (colmap_folder(tmp_path, binary=False) / "sparse/0" / name).write_text(text)
    with pytest.raises(V3DError):
        load_scene_views(tmp_path, max_size=None)


def test_unknown_camera_models(tmp_path: Path) -> None:
    cameras = colmap_folder(tmp_path / "text", binary=False) / "sparse/0/cameras.txt"
    cameras.write_text(f"7 THIN_PRISM_FISHEYE {W} {H} " + "1 " * 12)
    with pytest.raises(V3DError, match=r"THIN_PRISM_FISHEYE is not known.*image_undistorter"):
        load_scene_views(tmp_path / "text", max_size=None)
    file = colmap_folder(tmp_path / "binary") / "sparse/0/cameras.bin"
    for number in (-1, 7, 11, 99):
        file.write_bytes(struct.pack("<QIiQQ", 1, 7, number, W, H) + bytes(96))
        with pytest.raises(V3DError, match="not known"):
            load_scene_views(tmp_path / "binary", max_size=None)
    transforms_folder(tmp_path / "transforms", camera_model="EQUIRECTANGULAR")
    with pytest.raises(V3DError, match="EQUIRECTANGULAR is not known"):
        load_scene_views(tmp_path / "transforms", max_size=None)


@pytest.mark.parametrize("numbers", ["nan 180 80 60", "0 180 80 60", "-1 180 80 60", "180 180 80 inf"])
def test_senseless_lenses(tmp_path: Path, numbers: str) -> None:
    cameras = colmap_folder(tmp_path, binary=False) / "sparse/0/cameras.txt"
    cameras.write_text(f"7 PINHOLE {W} {H} {numbers}\n")
    with pytest.raises(V3DError, match="PINHOLE camera is not usable"):
        load_scene_views(tmp_path, max_size=None)


@pytest.mark.parametrize("pose", ["0 0 0 0 1 1 1", "nan 0 0 0 1 1 1", "1 0 0 0 1 nan 1", "2 1 0 0 0 0 0"])
def test_senseless_poses_of_colmap(tmp_path: Path, pose: str) -> None:
    images = colmap_folder(tmp_path, binary=False) / "sparse/0/images.txt"
    images.write_text(f"1 {pose} 7 0.png\n\n")
    with pytest.raises(V3DError, match=r"pose of 0\.png"):
        load_scene_views(tmp_path, max_size=None)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change every annotation."""
    file = folder.parent / "frame_annotations.jgz"
    with gzip.open(file, "rt") as stream:
        entries = json.load(stream)
    for entry in entries:
        change(entry)
    with gzip.open(file, "wt") as stream:
        json.dump(entries, stream)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda e: e["viewpoint"].update(R=[[0.0] * 3] * 3), "not a rotation"),
        (lambda e: e["viewpoint"].update(R=[[1, 2], [3, 4]]), "usable image and viewpoint"),
        (lambda e: e["viewpoint"].update(T=[0, float("nan"), 0]), "not a rotation and a position"),
        (lambda e: e["viewpoint"].update(focal_length=[0, 1]), "focal length"),
        (lambda e: e["viewpoint"].update(intrinsics_format="inches"), "inches is not known"),
        (lambda e: e.update(viewpoint=None), "usable image and viewpoint"),
        (lambda e: e.pop("image"), "usable image and viewpoint"),
        (lambda e: e.update(sequence_name="another"), "no frame of the sequence seq0"),
    ],
)
def test_senseless_annotations(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    folder = co3d_folder(tmp_path)
    rewrite(folder, change)
    with pytest.raises(V3DError, match=sentence):
        load_scene_views(folder, max_size=None)


def test_broken_annotations(tmp_path: Path) -> None:
    folder = co3d_folder(tmp_path)
    with pytest.raises(V3DError, match="several sequences"):
        load_scene_views(folder.parent, max_size=None)
    file = folder.parent / "frame_annotations.jgz"
    whole = file.read_bytes()
    for broken in (
        b"",
        b"[]",
        whole[:300],
        whole[:-20],
        whole[:100] + b"xxxx" + whole[104:],
        gzip.compress(b"{}"),
    ):
        file.write_bytes(broken)
        with pytest.raises(V3DError, match=r"frame_annotations\.jgz"):
            load_scene_views(folder, max_size=None)
    file.write_bytes(gzip.compress(gzip.decompress(whole)[:-300]))
    with pytest.raises(V3DError, match="cut short"):
        load_scene_views(folder, max_size=None)
