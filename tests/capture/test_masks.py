"""Masks in every form that people save them, beside photos with a busy background."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from posed_folders import H, W, transforms_folder

from v3d.capture.readers import find_photos, read_object_views, read_scene_views
from v3d.errors import V3DError
from v3d.metrics import mask_iou
from v3d.views import Views

Bits = NDArray[np.uint8]


def discs() -> list[NDArray[np.bool_]]:
    """[H, W], where the object is in each of three photos."""
    y, x = np.mgrid[:H, :W]
    return [np.hypot(x - 70 - 10 * i, y - 60) < 30 for i in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three photos of noise."""
    transforms_folder(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (3, H, W, 3), dtype=np.uint8)
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
    return tmp_path


def save(folder: Path, pattern: str, images: list[Bits]) -> None:
    for i, image in enumerate(images):
        file = folder / pattern.format(i)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)


def list_masks(folder: Path, pattern: str) -> None:
    """Name the masks in transforms.json."""
    meta = json.loads((folder / "transforms.json").read_text())
    for i, frame in enumerate(meta["frames"]):
        frame["mask_path"] = pattern.format(i)
    (folder / "transforms.json").write_text(json.dumps(meta))


def read(folder: Path) -> tuple[Views, list[str]]:
    notes: list[str] = []
    return read_object_views(find_photos(folder).photos, warn=notes.append), notes


def overlap(folder: Path) -> float:
    """The least IoU of the alpha that was read with the discs."""
    views, _ = read(folder)
    truth = torch.from_numpy(np.stack(discs())).float()
    return min(float(mask_iou(a[None], b[None])) for a, b in zip(views.alpha, truth, strict=True))


def grey(high: int, low: int = 0) -> list[Bits]:
    return [np.where(disc, high, low).astype(np.uint8) for disc in discs()]


def in_alpha(colour: int) -> list[Bits]:
    """RGBA masks of one colour."""
    return [np.dstack([np.full((H, W, 3), colour, np.uint8), mask]) for mask in grey(255)]


FORMS: dict[str, list[Bits]] = {
    "0 and 255": grey(255),
    "0 and 1": grey(1),
    "0 and 128": grey(128),
    "a palette's dark green": [np.dstack([0 * m, m, 0 * m]) for m in grey(128)],
    "white, in alpha": in_alpha(255),
    "black, in alpha": in_alpha(0),
}


@pytest.mark.parametrize("form", FORMS)
def test_values(folder: Path, form: str) -> None:
    list_masks(folder, "cutouts/{}.png")
    save(folder, "cutouts/{}.png", FORMS[form])
    assert overlap(folder) == 1


@pytest.mark.parametrize(
    "pattern",
    ["masks/{}.png", "masks/{}.png.png", "mask/{}.jpg", "images_masks/{}.png", "masks/{}_mask.png"],
)
def test_places(folder: Path, pattern: str) -> None:
    save(folder, pattern, grey(255))
    assert overlap(folder) > 0.99
    _, (note,) = read(folder)
    assert note == f"The masks in {(folder / pattern).parent} say where the object is."
    scene = read_scene_views(find_photos(folder).photos)
    assert bool((scene.alpha == 1).all())  # a scene has no outside


def test_photos_with_alpha_need_no_masks(folder: Path) -> None:
    for i, disc in enumerate(grey(255)):
        file = folder / f"images/{i}.png"
        Image.fromarray(np.dstack([np.asarray(Image.open(file)), disc])).save(file)
    assert overlap(folder) == 1


def test_full_masks_beside_reduced_photos(folder: Path) -> None:
    save(folder, "masks/{}.png", [np.kron(mask, np.ones((4, 4), np.uint8)) for mask in grey(255)])
    assert overlap(folder) == 1
    save(folder, "masks/{}.png", [np.kron(mask, np.ones((20, 20), np.uint8)) for mask in grey(255)])
    with pytest.raises(V3DError, match=r"mask 0\.png is more than 16 times as large"):
        read(folder)


def test_a_missing_mask_is_called_a_mask(folder: Path) -> None:
    save(folder, "masks/{}.png", grey(255))
    (folder / "masks/1.png").unlink()
    with pytest.raises(V3DError, match=r"mask .*masks/1\.png of the photo 1\.png does not exist"):
        read(folder)
    list_masks(folder, "cutouts/{}.png")
    with pytest.raises(V3DError, match=r"mask .*cutouts/0\.png of the photo 0\.png does not exist"):
        read(folder)


def test_a_photo_is_not_its_own_mask(folder: Path) -> None:
    """The mask's folder is lost, and the end of its path is the photo's name."""
    for file in (folder / "images").iterdir():
        file.rename(folder / file.name)
    list_masks(folder, "/elsewhere/masks/{}.png")
    meta = json.loads((folder / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["file_path"] = frame["file_path"].removeprefix("images/")
    (folder / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(V3DError, match=r"mask /elsewhere/masks/0\.png of the photo 0\.png does not exist"):
        read(folder)


def test_an_empty_mask_is_named(folder: Path) -> None:
    masks = grey(255)
    masks[2][:] = 0
    save(folder, "masks/{}.png", masks)
    with pytest.raises(V3DError, match=r"masks/2\.png shows no object"):
        read(folder)


def test_inverted_masks(folder: Path) -> None:
    """Black on white in all masks is inverted; where one object touches the border, nothing is guessed."""
    save(folder, "masks/{}.png", grey(0, 255))
    assert overlap(folder) == 1
    assert "were inverted" in read(folder)[1][1]
    masks = grey(0, 255)
    masks[0][:, :20] = 0
    save(folder, "masks/{}.png", masks)
    views, notes = read(folder)
    np.testing.assert_array_equal(views.alpha.numpy()[0], masks[0] / 255)
    assert "if they show the object in black, invert them" in notes[1]


def test_masks_that_fill_their_images_stay(folder: Path) -> None:
    """A close-up has no black inside; and where there are masks, no plain background is cut out."""
    for i in range(3):
        Image.new("RGB", (W, H), "white").save(folder / f"images/{i}.png")
    save(folder, "masks/{}.png", [np.full((H, W), 255, np.uint8)] * 3)
    assert bool((read(folder)[0].alpha == 1).all())
