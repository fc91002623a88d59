"""Captures as other programs and other machines leave them: the cameras are those of the plain folder."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from posed_folders import EXACT, EYES, POINTS, H, W, colmap_folder, draw, offsets, poses, transforms_folder

from v3d.capture.posed import Capture
from v3d.capture.readers import find_photos, read_object_views, read_scene_views
from v3d.errors import V3DError


def exact(path: Path, *, order: tuple[int, ...] = (0, 1, 2), tolerance: float = EXACT) -> Capture:
    """The capture at `path`, after its poses and lenses were found right to a fraction of a pixel."""
    capture = find_photos(path)
    views = read_scene_views(capture.photos)
    torch.testing.assert_close(views.cameras.centers, torch.tensor(EYES[list(order)]), atol=1e-9, rtol=0)
    assert offsets(views).max() < tolerance
    return capture


def edit(folder: Path, change: Callable[[dict], object], name: str = "transforms.json") -> None:  # type: ignore[type-arg]
    """Change every frame of a transforms.json."""
    meta = json.loads((folder / name).read_text())
    for frame in meta["frames"]:
        change(frame)
    (folder / name).write_text(json.dumps(meta))


# Names of files


def test_windows_paths(tmp_path: Path) -> None:
    folder = transforms_folder(tmp_path)
    edit(folder, lambda f: f.update(file_path=f["file_path"].replace("/", "\\")))
    assert exact(folder).notes == ()
    edit(folder, lambda f: f.update(file_path="D:\\captures\\duck\\" + f["file_path"]))
    (note,) = exact(folder).notes
    assert "by the end of their paths" in note and "duck/images/0.png" in note


def test_absolute_paths_of_another_machine(tmp_path: Path) -> None:
    folder = transforms_folder(tmp_path)
    edit(folder, lambda f: f.update(file_path="/elsewhere/duck/" + f["file_path"]))
    (note,) = exact(folder).notes
    assert "/elsewhere/duck/images/0.png" in note
    shutil.move(folder / "images", folder / "somewhere")
    with pytest.raises(V3DError, match="None of the 3 photos"):
        find_photos(folder)


def test_the_longest_tail_tells_photos_of_one_name_apart(tmp_path: Path) -> None:
    """A rig of two cameras, whose photos have the same names."""
    folder = transforms_folder(tmp_path)
    (folder / "front").mkdir()
    shutil.copy(folder / "images/0.png", folder / "front/1.png")
    shutil.copy(folder / "images/2.png", folder / "images/1.png")  # the wrong one, with the right name
    edit(folder, lambda f: f.update(file_path="/rig/" + f["file_path"]))
    meta = json.loads((folder / "transforms.json").read_text())
    meta["frames"][0]["file_path"] = "/rig/front/1.png"
    meta["frames"].pop(1)
    (folder / "transforms.json").write_text(json.dumps(meta))
    exact(folder, order=(0, 2))
    shutil.rmtree(folder / "front")
    meta["frames"][1]["file_path"] = "/rig/back/1.png"
    (folder / "images/1.png").rename(folder / "1.png")
    (folder / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(V3DError, match=r"/rig/front/1\.png and /rig/back/1\.png would both be"):
        find_photos(folder)


def test_a_photo_that_is_missing_from_its_folder_is_not_sought_elsewhere(tmp_path: Path) -> None:
    folder = transforms_folder(tmp_path)
    (folder / "images/1.png").rename(folder / "1.png")
    capture = exact(folder, order=(0, 2))
    assert [file.name for file in capture.missing] == ["1.png"]


@pytest.mark.parametrize(
    ("listed", "suffix"), [("images/{}.jpg", ".JPG"), ("images/{}", ".JPG"), ("images/{}", ".webp")]
)
def test_suffixes(tmp_path: Path, listed: str, suffix: str) -> None:
    folder = transforms_folder(tmp_path)
    for i, file in enumerate(sorted((folder / "images").iterdir())):
        Image.open(file).convert("RGB").save(folder / f"images/{i}{suffix}", quality=97)
        file.unlink()
    edit(folder, lambda f: f.update(file_path=listed.format(Path(f["file_path"]).stem)))
    notes = exact(folder).notes
    assert len(notes) == ("." in listed) and all("under another suffix" in note for note in notes)


def test_the_case_of_folders_and_files(tmp_path: Path) -> None:
    folder = transforms_folder(tmp_path)
    edit(folder, lambda f: f.update(file_path=f["file_path"].replace("images", "Images")))
    (note,) = exact(folder).notes
    assert "in another case" in note and "Images/0.png" in note


@pytest.mark.parametrize("make", [transforms_folder, lambda folder: colmap_folder(folder, binary=False)])
def test_byte_order_marks(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = make(tmp_path)
    for file in (*folder.glob("*.json"), *folder.glob("sparse/0/*.txt")):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    exact(folder)


# transforms.json


@pytest.mark.parametrize("name", ["transforms_train.json", "transforms_val.json", "transforms_test.json"])
def test_one_of_blenders_files_alone(tmp_path: Path, name: str) -> None:
    folder = transforms_folder(tmp_path)
    (folder / "transforms.json").rename(folder / name)
    assert exact(folder).notes == ()


def test_of_blenders_three_files_the_training_views_are_read(tmp_path: Path) -> None:
    folder = transforms_folder(tmp_path)
    (folder / "transforms.json").rename(folder / "transforms_train.json")
    (folder / "transforms_test.json").write_text("{}")
    (note,) = exact(folder).notes
    assert "not those of transforms_test.json" in note


def test_scaled_cameras_of_blender(tmp_path: Path) -> None:
    folder = transforms_folder(tmp_path)

    def scale(frame: dict) -> None:  # type: ignore[type-arg]
        matrix = np.array(frame["transform_matrix"])
        matrix[:3, :3] *= 0.01
        frame["transform_matrix"] = matrix.tolist()

    edit(folder, scale)
    (note,) = exact(folder).notes
    assert "scaled (by 0.01)" in note
    edit(folder, lambda f: f["transform_matrix"][0].__setitem__(0, 0.5))  # no longer one scale for all axes
    with pytest.raises(V3DError, match="not a rotation"):
        find_photos(folder)


# COLMAP


@pytest.mark.parametrize("at", ["sparse/1", "dense/sparse", "dense/0/sparse", "distorted/sparse/0", "colmap"])
@pytest.mark.parametrize("images", ["images", "input", "images_2", "images_4", "images_8"])
def test_layouts_of_colmap(tmp_path: Path, at: str, images: str) -> None:
    folder = colmap_folder(tmp_path, at=at, images=images, binary=False)
    reduction = int(images[7:]) if images.startswith("images_") else 1
    cameras = folder / at / "cameras.txt"  # for the photos before they were reduced
    *first, numbers = cameras.read_text().split(f"{W} {H} ")
    larger = [W, H, *(float(number) for number in numbers.split())]
    cameras.write_text("".join(first) + " ".join(str(number * reduction) for number in larger))
    exact(folder)


def test_photos_beside_a_dense_model(tmp_path: Path) -> None:
    exact(colmap_folder(tmp_path, at="dense/sparse", images="dense/images"))


@pytest.mark.parametrize("binary", [True, False])
def test_of_several_models_the_one_with_most_images_is_read(tmp_path: Path, binary: bool) -> None:
    folder = colmap_folder(tmp_path, at="sparse/1", binary=binary)
    shutil.copytree(folder / "sparse/1", folder / "sparse/0")
    if binary:
        file = folder / "sparse/0/images.bin"
        file.write_bytes(struct.pack("<Q", 1) + file.read_bytes()[8:])
    else:
        file = folder / "sparse/0/images.txt"
        file.write_text("\n".join(file.read_text().splitlines()[:4]))
    (note,) = exact(folder).notes
    assert "sparse/1 with 3" in note and "the others have 1" in note


@pytest.mark.parametrize("points", [None, "", "12.5 30.2 -1 40 41 7"])
def test_images_txt_with_and_without_lines_of_points(tmp_path: Path, points: str | None) -> None:
    folder = colmap_folder(tmp_path, binary=False)
    file = folder / "sparse/0/images.txt"
    lines = [line for line in file.read_text().splitlines() if line.endswith(".png")]
    file.write_text("\n".join(f"{line}\n{points}" if points is not None else line for line in lines))
    exact(folder)


def test_names_of_colmap_with_their_folder_and_other_suffixes(tmp_path: Path) -> None:
    folder = colmap_folder(tmp_path, binary=False)
    file = folder / "sparse/0/images.txt"
    text = file.read_text()
    file.write_text(text.replace(".png", ".JPG"))
    (note,) = exact(folder).notes
    assert "under another suffix" in note
    for i in range(3):
        text = text.replace(f"{i}.png", f"C:\\work\\images\\{i}.png")
    file.write_text(text)
    (note,) = exact(folder).notes
    assert "by the end of their paths" in note


def test_points_of_colmap(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap")
    folder = colmap_folder(tmp_path)
    assert find_photos(folder).points is None
    (folder / "sparse/0/points3D.txt").write_text(
        "# points\n" + "".join(f"{i} {x} {y} {z} 1 2 3 0.5 1 0 2 0\n" for i, (x, y, z) in enumerate(POINTS))
    )
    torch.testing.assert_close(find_photos(folder).points, torch.tensor(POINTS))
    model = pycolmap.Reconstruction()
    for point in POINTS:
        model.add_point3D(point, pycolmap.Track(), np.zeros(3, np.uint8))
    model.write_binary(tmp_path)
    shutil.move(tmp_path / "points3D.bin", folder / "sparse/0/points3D.bin")
    for name in ("cameras.bin", "images.bin", "rigs.bin", "frames.bin"):
        (tmp_path / name).unlink(missing_ok=True)
    found = find_photos(folder).points
    assert found is not None
    torch.testing.assert_close(found.sort(0).values, torch.tensor(POINTS).sort(0).values)
    (folder / "sparse/0/points3D.bin").write_bytes(b"\1\0\0\0\0\0\0\0")
    assert find_photos(folder).points is None  # nothing but a scale depends on them


# Apps


def polycam_folder(folder: Path, *, corrected: bool = False) -> Path:
    """The world of these photos is y up; the reader makes it z up: (x, y, z) -> (z, x, y)."""
    part = "corrected_" if corrected else ""
    cameras = folder / f"keyframes/{part}cameras"
    cameras.mkdir(parents=True)
    for i, pose in enumerate(poses()):
        draw(folder / f"keyframes/{part}images/{1000 + i}.jpg", pose.plane(POINTS) * 180 + (W / 2, H / 2))
        matrix = np.stack([pose.right, pose.up, -pose.forward, pose.eye], -1)
        meta = {f"t_{r}{c}": matrix[r, c] for r in range(3) for c in range(4)}
        meta |= {"fx": 180, "fy": 180, "cx": W / 2, "cy": H / 2, "width": W, "height": H, "blur_score": 9.0}
        (cameras / f"{1000 + i}.json").write_text(json.dumps(meta))
    return folder


def seen_after(capture: Capture, axes: list[int], signs: list[int]) -> float:
    """The largest offset of the dots after the world's axes were exchanged, x' = sign * x[axis]."""
    exchange = np.zeros((3, 3))
    exchange[range(3), axes] = signs
    assert np.linalg.det(exchange) == 1
    views = read_scene_views(capture.photos)
    views.cameras.c2w[:, :3] = torch.tensor(exchange).T @ views.cameras.c2w[:, :3]
    torch.testing.assert_close(views.cameras.centers, torch.tensor(EYES), atol=1e-6, rtol=0)
    return float(offsets(views).max())


def test_polycam(tmp_path: Path) -> None:
    capture = find_photos(polycam_folder(tmp_path))
    assert seen_after(capture, [2, 0, 1], [1, 1, 1]) < 0.25  # photos are JPEGs
    for file in (tmp_path / "keyframes/images").iterdir():
        file.write_bytes(b"")  # only the corrected ones are read from now on
    assert seen_after(find_photos(polycam_folder(tmp_path, corrected=True)), [2, 0, 1], [1, 1, 1]) < 0.25
    next((tmp_path / "keyframes/corrected_images").iterdir()).unlink()
    assert "1 of the 3 listed photos" in find_photos(tmp_path / "keyframes").notes[0]
    (tmp_path / "keyframes/corrected_cameras/1000.json").write_text("{}")
    with pytest.raises(V3DError, match="not a usable camera of Polycam"):
        find_photos(tmp_path)


def record3d_folder(folder: Path, name: str = "metadata.json", images: str = "rgb") -> Path:
    from scipy.spatial.transform import Rotation

    rows = []
    for i, pose in enumerate(poses()):
        draw(folder / f"{images}/{i}.jpg", pose.plane(POINTS) * 180 + (W / 2 + 2, H / 2 - 3))
        axes = np.stack([pose.right, pose.up, -pose.forward], -1)
        rows.append([*Rotation.from_matrix(axes).as_quat().tolist(), *pose.eye.tolist()])
    K = [180.0, 0, 0, 0, 180.0, 0, W / 2 + 2, H / 2 - 3, 1]
    (folder / name).write_text(json.dumps({"K": K, "poses": rows, "w": W, "h": H, "fps": 60}))
    return folder


@pytest.mark.parametrize(("name", "images"), [("metadata.json", "rgb"), ("metadata", "rgbd")])
def test_record3d(tmp_path: Path, name: str, images: str) -> None:
    folder = record3d_folder(tmp_path, name, images)
    assert seen_after(find_photos(folder), [0, 2, 1], [1, -1, 1]) < 0.25
    meta = json.loads((folder / name).read_text())
    meta["perFrameIntrinsicCoeffs"] = [[180.0, 180.0, W / 2 + 2, H / 2 - 3]] * 3
    meta["K"] = [1.0] * 9  # of no frame
    (folder / name).write_text(json.dumps(meta))
    assert seen_after(find_photos(folder), [0, 2, 1], [1, -1, 1]) < 0.25
    meta["poses"][1] = [0, 0, 0, 0, 1, 2, 3]
    (folder / name).write_text(json.dumps(meta))
    with pytest.raises(V3DError, match="pose 1 has no unit quaternion"):
        find_photos(folder)


# Photos of several sizes


@pytest.mark.parametrize("read", [read_object_views, read_scene_views])
def test_photos_of_several_sizes_are_told(tmp_path: Path, read: Callable[..., object]) -> None:
    folder = transforms_folder(tmp_path)
    file = folder / "images/1.png"
    Image.open(file).resize((W // 2, H // 2), Image.Resampling.BOX).save(file)
    notes: list[str] = []
    read(find_photos(folder).photos, warn=notes.append)
    assert notes == ["The photos have 2 sizes; all are cropped and reduced to 80 x 60."]
