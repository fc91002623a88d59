"""The object is cut out of its photo: `v3d.capture.matting`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from photos import RED, disc, middle, save, scene

from v3d.capture import matting
from v3d.capture.photo import load_photo
from v3d.capture.plain import plain_background, soft_alpha, unmix
from v3d.compositing import over_white
from v3d.errors import V3DError

BY_COLOUR = "the colour of its plain background"
BY_NETWORK = "V3D's network (U^2-Net)"


def iou(found: object, truth: np.ndarray) -> float:
    a, b = np.asarray(found) > 0.5, truth > 0.5
    return float((a & b).sum() / (a | b).sum())


# Foreground


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.3, 0.6, 0.35), (0.5, 0.5, 0.5)])
def test_any_plain_background(tmp_path: Path, background: tuple[float, float, float]) -> None:
    noisy = scene(np.array(background)) + np.random.default_rng(0).normal(0, 2, (120, 160, 3))
    photo = load_photo(save(tmp_path / "photo.jpg", np.clip(noisy, 0, 255).astype(np.uint8), quality=90))
    assert photo.foreground == BY_COLOUR
    assert any("give a mask" in warning for warning in photo.warnings)
    size = photo.rgba.shape[0]
    assert np.abs(photo.rgba[..., 3].numpy() - disc(size, size)).mean() < 0.03
    np.testing.assert_allclose(middle(photo), np.array(RED) / 255, atol=0.05)


def test_studio_gradient_is_plain() -> None:
    y, x = np.mgrid[:120, :160] / 160
    background = np.stack([0.9 - 0.3 * y, 0.85 - 0.3 * y * x, 0.8 - 0.2 * x * x], -1)
    a = disc()[..., None]
    rgb = (a * 0.1 + (1 - a) * background).astype(np.float32)
    found = plain_background(rgb)
    assert found is not None
    np.testing.assert_allclose(found, background, atol=0.02)
    assert np.abs(soft_alpha(rgb, found) - a[..., 0]).mean() < 0.01


def test_object_that_touches_the_border_is_not_the_background() -> None:
    rgb = np.ones((100, 100, 3), np.float32)
    rgb[60:, 30:70] = 0.2
    found = plain_background(rgb)
    assert found is not None
    np.testing.assert_allclose(found, 1, atol=0.02)


def test_cluttered_background_takes_the_network(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clutter = np.kron(rng.uniform(0, 0.5, (12, 16, 1)), np.ones((10, 10, 3)))
    clutter[..., 0] *= 0.3
    photo = load_photo(save(tmp_path / "photo.png", scene(clutter)), recentre=False)
    assert photo.foreground == BY_NETWORK
    assert iou(photo.rgba[20:140, :, 3], disc()) > 0.98
    np.testing.assert_allclose(middle(photo), np.array(RED) / 255, atol=0.01)


def test_unmix_takes_the_background_out_of_the_edge() -> None:
    a, background = disc().astype(np.float32), np.array([0.0, 1.0, 0.0], np.float32)
    colour = np.array(RED, np.float32) / 255
    rgb = a[..., None] * colour + (1 - a[..., None]) * background
    edge = (a > 0.1) & (a < 0.9)
    np.testing.assert_allclose(
        unmix(rgb, a, background)[edge], np.broadcast_to(colour, (edge.sum(), 3)), atol=1e-3
    )


def test_cut_out_on_white_composites_back_to_the_photo(tmp_path: Path) -> None:
    photo = load_photo(save(tmp_path / "photo.png", scene()), recentre=False)
    rgba = photo.resized(160)[20:140]
    back = over_white(rgba[..., :3], rgba[..., 3]).numpy()
    assert np.abs(back * 255 - scene()).max() < 12  # colours within 3 % of white count as white
    assert np.abs(back * 255 - scene()).mean() < 0.1


def test_named_matting_model_must_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("V3D_MATTING", "u2net")
    with pytest.raises(V3DError, match="u2net"):
        matting.installed_model()
    monkeypatch.setenv("V3D_MATTING", "bria-rmbg")
    with pytest.raises(V3DError, match="not known"):
        matting.installed_model()


def test_method_key_changes_with_the_matting_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path))
    monkeypatch.setattr(matting, "find_spec", lambda name: object())
    keys = [matting.method_key()]
    monkeypatch.delenv("V3D_MATTING")
    for model in ("silueta", "u2net", "birefnet-general"):  # better and better
        (tmp_path / f"{model}.onnx").touch()
        keys.append(matting.method_key())
        assert model in keys[-1]
    monkeypatch.setenv("V3D_MATTING", "bria-rmbg")  # cannot be used, which matters only to who cuts out
    keys.append(matting.method_key())
    monkeypatch.setattr(matting, "CUT_OUT_VERSION", matting.CUT_OUT_VERSION + 1)
    keys.append(matting.method_key())
    assert len(set(keys)) == len(keys)
