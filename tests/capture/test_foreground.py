"""Masks that people give, and what the alpha of a photo says: `v3d.capture.foreground`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from photos import RED, disc, middle, save, scene
from PIL import Image

from v3d.capture.foreground import by_alpha, read_mask
from v3d.capture.photo import load_photo
from v3d.errors import V3DError

TRUTH = disc() > 0.5


def iou(found: object, truth: np.ndarray) -> float:
    a, b = np.asarray(found) > 0.5, truth > 0.5
    return float((a & b).sum() / (a | b).sum())


def forms(kind: str) -> np.ndarray | Image.Image:
    """The disc as people save masks."""
    bits = TRUTH.astype(np.uint8)
    if kind == "alpha":
        return np.dstack([np.full((120, 160, 3), 90, np.uint8), bits * 255])
    if kind == "palette":
        image = Image.fromarray(bits)
        image.putpalette([0, 0, 0, 128, 0, 0])
        return image
    if kind == "large":
        return np.kron(bits, np.ones((3, 3), np.uint8)) * 255
    if kind == "small":
        return bits[::2, ::2] * 255
    values = {"0/1": bits, "0/255": bits * 255, "black on white": (1 - bits) * 255}
    values |= {"16 bits": bits.astype(np.uint16) * 65535, "colour": np.dstack([bits * 255] * 3)}
    return values[kind]


KINDS = ("0/1", "0/255", "black on white", "16 bits", "colour", "alpha", "palette", "large", "small")


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_mask(tmp_path: Path, kind: str) -> None:
    mask = forms(kind)
    image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    image.save(tmp_path / "mask.png")
    alpha, warnings = read_mask(tmp_path / "mask.png", 160, 120)
    assert alpha.shape == (120, 160)
    assert iou(alpha, TRUTH) > (0.96 if kind == "small" else 0.995)
    assert bool(warnings) == (kind == "black on white")


def test_masks_that_cannot_be_meant(tmp_path: Path) -> None:
    for array, reason in (
        (np.zeros((120, 160), np.uint8), "is empty"),
        (np.full((120, 160), 255, np.uint8), "is full"),
        (np.full((120, 120), 255, np.uint8), "another shape"),
    ):
        with pytest.raises(V3DError, match=reason):
            read_mask(save(tmp_path / "mask.png", array), 160, 120)


def test_a_mask_takes_the_place_of_the_cut_out(tmp_path: Path) -> None:
    clutter = np.random.default_rng(0).uniform(0, 1, (120, 160, 3))
    photo = save(tmp_path / "photo.png", scene(clutter))
    found = load_photo(photo, mask=save(tmp_path / "mask.png", TRUTH.astype(np.uint8)))
    assert found.foreground == "mask"
    assert found.rgba.shape == (100, 100, 4)
    assert iou(found.rgba[..., 3], disc(100, 100)) > 0.99
    assert iou(found.cutout[..., 3], TRUTH) > 0.999
    back = save(tmp_path / "cutout.png", (found.cutout * 255).round().byte().numpy())
    assert (load_photo(photo, mask=back).rgba - found.rgba).abs().max() < 1 / 250


# Alpha of a file


def rgba(alpha: np.ndarray) -> np.ndarray:
    return np.dstack([scene(), (alpha * 255).round().astype(np.uint8)])


def test_a_transparent_margin_is_no_cut_out(tmp_path: Path) -> None:
    margin = np.zeros((120, 160))
    margin[6:-6, 6:-6] = 1
    photo = load_photo(save(tmp_path / "photo.png", rgba(margin)))
    assert iou(photo.cutout[..., 3], TRUTH) > 0.98
    assert any("only a margin" in warning for warning in photo.warnings)


def test_a_square_thing_that_was_cut_out_stays(tmp_path: Path) -> None:
    alpha = np.zeros((120, 160))
    alpha[10:110, 30:130] = 1
    brick = np.dstack([np.full((120, 160, 3), RED, np.uint8), (alpha * 255).astype(np.uint8)])
    photo = load_photo(save(tmp_path / "photo.png", brick))
    assert iou(photo.cutout[..., 3], alpha) == 1
    assert photo.warnings == ()


def test_dust_does_not_move_the_object(tmp_path: Path) -> None:
    alpha = disc()
    alpha[3:5, 3:5] = alpha[110:111, 150:152] = 1
    clean = load_photo(save(tmp_path / "clean.png", rgba(disc())))
    photo = load_photo(save(tmp_path / "dusty.png", rgba(alpha)))
    assert (photo.rgba[..., 3] - clean.rgba[..., 3]).abs().max() == 0
    assert photo.warnings == ("2 specks in the photo's alpha counted as dust.",)
    assert clean.warnings == ()


def test_inverted_alpha_is_turned(tmp_path: Path) -> None:
    photo = load_photo(save(tmp_path / "photo.png", rgba(1 - disc())))
    assert iou(photo.cutout[..., 3], TRUTH) > 0.99
    np.testing.assert_allclose(middle(photo), np.array(RED) / 255, atol=0.01)
    assert any("inverted" in warning for warning in photo.warnings)


def test_a_frame_around_nothing_is_no_inverted_alpha() -> None:
    frame = np.ones((120, 160, 4), np.float32) * (0.5, 0.3, 0.1, 1)
    frame[30:90, 30:130] = 0
    found = by_alpha(frame.astype(np.float32))
    assert found is not None
    assert iou(found.alpha, frame[..., 3]) == 1


def test_parts_and_cut_off_objects_in_alpha_are_told() -> None:
    pair = np.maximum(np.roll(disc(radius=25.0), -40, 1), np.roll(disc(radius=25.0), 40, 1))
    found = by_alpha(np.dstack([scene() / 255, pair]).astype(np.float32))
    assert found is not None
    assert iou(found.alpha, pair) == 1
    assert any("2 separate parts" in warning for warning in found.warnings)
    found = by_alpha(
        np.dstack([scene() / 255, np.roll(disc(), -80, 1) * (np.arange(160) < 80)]).astype(np.float32)
    )
    assert found is not None
    assert any("cut off at the left" in warning for warning in found.warnings)
