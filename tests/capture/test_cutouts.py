"""Photos that are hard to cut out, and what is said about them: `v3d.capture.matting`, `cutout`, `edges`."""

from __future__ import annotations

import re
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from v3d.capture.cutout import check_size, cut_off_at, main_part
from v3d.capture.edges import follow_edges, own_colours
from v3d.capture.matting import cut_out, cut_out_salient
from v3d.capture.plain import plain_background, with_shadows
from v3d.errors import V3DError

SIZE = 256


def drawn(draw: Callable[[np.ndarray], object]) -> np.ndarray:
    """What OpenCV draws into a mask [256, 256], antialiased: coverage in [0, 1]."""
    mask = np.zeros((SIZE, SIZE), np.uint8)
    draw(mask)
    return mask.astype(np.float32) / 255


def ball(x: int = 128, y: int = 128, radius: int = 70) -> np.ndarray:
    return drawn(lambda m: cv2.circle(m, (x, y), radius, 255, -1, cv2.LINE_AA))


def over(alpha: np.ndarray, colour: object, ground: object) -> np.ndarray:
    rgb = alpha[..., None] * np.asarray(colour) + (1 - alpha[..., None]) * np.asarray(ground)
    return np.asarray(rgb, np.float32)


def studio(darkness: float) -> np.ndarray:
    """A light grey ground with a soft shadow in its lower middle."""
    shadow = drawn(lambda m: cv2.ellipse(m, (150, 200), (80, 18), 0, 0, 360, 255, -1))
    shadow = darkness * cv2.GaussianBlur(shadow, (0, 0), 9)
    noise = np.random.default_rng(0).normal(0, 0.004, (SIZE, SIZE, 3))
    return np.asarray(0.96 * (1 - shadow[..., None]) + noise, np.float32).clip(0, 1)


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    a, b = found > 0.5, truth > 0.5
    return float((a & b).sum() / (a | b).sum())


CYLINDER = drawn(lambda m: cv2.rectangle(m, (85, 70), (165, 210), 255, -1))


@pytest.mark.parametrize("darkness", [0.1, 0.35, 0.6])
def test_a_soft_shadow_is_ground(darkness: float) -> None:
    found = cut_out(over(CYLINDER, (0.8, 0.24, 0.16), studio(darkness)))
    assert iou(found.alpha, CYLINDER) > 0.985
    np.testing.assert_allclose(found.rgb[140, 125], (0.8, 0.24, 0.16), atol=0.01)


def test_a_grey_object_in_a_shadow_of_its_own_grey() -> None:
    """The network tells them apart where nothing else does."""
    assert iou(cut_out(over(CYLINDER, (0.6, 0.6, 0.6), studio(0.35))).alpha, CYLINDER) > 0.98


@pytest.mark.parametrize("grey", [0.05, 0.3, 0.45])
def test_a_dark_or_grey_object_is_no_shadow(grey: float) -> None:
    """By colour alone: no network says where the object is."""
    photo = over(CYLINDER, (grey, grey, grey), studio(0.35))
    background = plain_background(photo)
    assert background is not None
    ground = with_shadows(photo, background)
    inside = cv2.erode(CYLINDER, np.ones((9, 9))) > 0
    assert np.abs(photo - ground).max(-1)[inside].min() > 0.1
    outside = cv2.dilate(CYLINDER, np.ones((9, 9))) == 0
    assert np.abs(photo - ground).max(-1)[outside].max() < 0.05


def test_white_on_white_is_whole_and_unsure() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    away = np.hypot(x - 128, y - 128) / 75
    photo = np.where(away < 1, 1 - 0.075 * away, 1)[..., None].repeat(3, -1).astype(np.float32)
    found = cut_out(photo)
    assert iou(found.alpha, (away < 1).astype(np.float32)) > 0.98  # and not a ring
    assert np.abs(found.rgb - photo).max() < 0.1
    assert any("hardly differs" in warning for warning in found.warnings)


def test_thin_things_on_plain_grounds() -> None:
    """Spokes that a network of 320 pixels does not see."""

    def wheel(mask: np.ndarray) -> None:
        cv2.circle(mask, (128, 128), 100, 255, 6, cv2.LINE_AA)
        for k in range(12):
            end = (round(128 + 100 * np.cos(k * np.pi / 6)), round(128 + 100 * np.sin(k * np.pi / 6)))
            cv2.line(mask, (128, 128), end, 255, 3, cv2.LINE_AA)

    truth = drawn(wheel)
    photo = over(truth, (0.3, 0.3, 0.32), (1, 1, 1))
    assert iou(cut_out_salient(photo).alpha, truth) < 0.5
    assert iou(cut_out(photo).alpha, truth) > 0.88


def test_holes_stay_open_and_are_told() -> None:
    ring = drawn(lambda m: cv2.circle(m, (128, 128), 70, 255, 30, cv2.LINE_AA))
    found = cut_out(over(ring, (0.2, 0.35, 0.8), (0.94, 0.94, 0.93)))
    assert iou(found.alpha, ring) > 0.98
    (percent,) = (int(n) for w in found.warnings for n in re.findall(r"a hole of (\d+)%", w))
    assert percent == pytest.approx(100 * 55**2 / 85**2, abs=3)


@pytest.mark.parametrize(("x", "y", "side"), [(0, 128, "left"), (255, 128, "right"), (128, 0, "top")])
def test_an_object_that_is_cut_off(x: int, y: int, side: str) -> None:
    found = cut_out(over(ball(x, y), (0.8, 0.3, 0.1), (0.9, 0.9, 0.9)))
    assert iou(found.alpha, ball(x, y)) > 0.97
    assert any(f"cut off at the {side}" in warning for warning in found.warnings)


def test_a_picture_cropped_to_its_object_is_not_cut_off() -> None:
    assert cut_off_at(ball()[58:199, 58:199]) is None
    assert cut_off_at(np.ones((9, 9), np.float32)) is None


def test_of_several_objects_the_main_one_is_taken() -> None:
    main, other = ball(150, 128, 60), ball(35, 128, 30)
    ground = np.full((SIZE, SIZE, 3), 0.92)
    found = cut_out(over(other, (0.1, 0.5, 0.2), over(main, (0.8, 0.3, 0.1), ground)))
    assert iou(found.alpha, np.maximum(main, other)) > 0.97  # as far as one can tell, it is a part
    other = ball(40, 128, 45)
    found = cut_out(over(other, (0.1, 0.5, 0.2), over(main, (0.8, 0.3, 0.1), ground)))
    assert iou(found.alpha, main) > 0.98
    assert any("shows 2 objects" in warning for warning in found.warnings)
    alpha, others = main_part(np.maximum(ball(60, 128, 40), ball(200, 128, 40)))
    assert others == 1
    assert iou(alpha, ball(60, 128, 40)) == 1


def test_too_small_is_told_with_the_size() -> None:
    alpha = np.zeros((2000, 1500), np.float32)
    alpha[900:915, 700:710] = 1
    with pytest.raises(V3DError, match="only 20 x 30 pixels large in a photo of 3000 x 4000"):
        check_size(alpha, 2.0)
    with pytest.raises(V3DError, match="No object stands out"):
        check_size(np.zeros((50, 50), np.float32))
    check_size(alpha[880:940, 680:740])  # the same object in a small picture is a small picture


# Edges


def test_a_rough_mask_follows_the_photo() -> None:
    truth = drawn(lambda m: cv2.ellipse(m, (128, 128), (90, 45), 30, 0, 360, 255, -1, cv2.LINE_AA))
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.uniform(0, 1, (SIZE, SIZE, 3)), (0, 0), 12) * (0.2, 0.8, 0.8)
    photo = over(truth, (0.9, 0.3, 0.2), ground)
    moved = cv2.warpAffine(truth, np.array([[1, 0, 3.0], [0, 1, -3.0]]), (SIZE, SIZE))
    rough = cv2.GaussianBlur(moved, (0, 0), 3)
    assert iou(rough, truth) < 0.93
    alpha = follow_edges(photo, rough, 8)
    assert iou(alpha, truth) > 0.98
    assert np.abs(alpha - truth).mean() < 0.015


def test_edges_lose_the_background_s_colour() -> None:
    alpha = cv2.GaussianBlur(ball(), (0, 0), 2)
    photo = over(alpha, (0.8, 0.2, 0.1), (0.1, 0.9, 0.2))
    edge = (alpha > 0.3) & (alpha < 0.9)
    own = own_colours(photo, alpha)
    assert np.abs(photo - (0.8, 0.2, 0.1))[edge].mean() > 0.15
    assert np.abs(own - (0.8, 0.2, 0.1))[edge].mean() < 0.06
