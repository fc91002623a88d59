"""Photos of any format -> framed objects: `v3d.capture.images`, `matting`, `photo`."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image, ImageCms

from v3d.capture import matting
from v3d.capture.images import image_size, read_image
from v3d.capture.matting import plain_background, soft_alpha, unmix
from v3d.capture.photo import Photo, load_photo
from v3d.compositing import over_white, resize_rgba
from v3d.errors import V3DError
from v3d.framing import BORDER_RATIO, frame_photo, visible_box

RED = (200, 40, 30)


@pytest.fixture(autouse=True)
def no_matting_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V3D_MATTING", "off")


def disc(height: int = 120, width: int = 160, radius: float = 35.0) -> np.ndarray:
    """Antialiased coverage of a disc in the middle."""
    y, x = np.mgrid[:height, :width] + 0.5
    return np.asarray(np.clip(radius + 0.5 - np.hypot(x - width / 2, y - height / 2), 0, 1))


def scene(background: np.ndarray | float = 1.0, colour: tuple[int, int, int] = RED) -> np.ndarray:
    a = disc()[..., None]
    rgb = a * np.array(colour) / 255 + (1 - a) * background
    return np.asarray(np.clip(rgb * 255, 0, 255).round(), np.uint8)


def save(path: Path, array: np.ndarray, **options: Any) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def save_png(path: Path, width: int, height: int, rows: Sequence[bytes] | None = None) -> Path:
    """A grey PNG written by hand, row after row, so that tests can state sizes nobody wants in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(1)
    body = (
        b"".join([packer.compress(b"\0" + row) for row in rows] if rows is not None else []) + packer.flush()
    )
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )
    return path


def middle(photo: Photo) -> np.ndarray:
    size = photo.rgba.shape[0]
    return np.asarray(photo.rgba[size // 2, size // 2, :3])


# Formats


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("jpg", {"quality": 95}),
        ("webp", {"lossless": True}),
        ("tif", {}),
        ("tif", {"compression": "tiff_lzw"}),
        ("bmp", {}),
        ("gif", {}),
    ],
)
def test_common_formats_give_the_same_object(tmp_path: Path, suffix: str, options: dict[str, object]) -> None:
    photo = load_photo(save(tmp_path / f"photo.{suffix}", scene(), **options))
    assert photo.rgba.shape == (100, 100, 4)  # a disc of 70 pixels is 0.7 of 100
    np.testing.assert_allclose(middle(photo), np.array(RED) / 255, atol=0.02)
    truth = disc(100, 100)
    assert np.abs(photo.rgba[..., 3].numpy() - truth).mean() < 0.02


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "RGBA", "1", "I;16"])
def test_large_photos_are_reduced_in_every_mode(tmp_path: Path, mode: str) -> None:
    large = Image.fromarray(scene()).resize((1000, 750), Image.Resampling.NEAREST)
    suffix = "tif" if mode == "CMYK" else "png"
    if mode == "I;16":
        large = Image.fromarray(np.asarray(large.convert("L")).astype(np.uint16) * 257)
    elif mode == "P":
        large = large.quantize(64)
    large.convert(mode).save(tmp_path / f"photo.{suffix}")
    rgba, _ = read_image(tmp_path / f"photo.{suffix}", max_side=300)
    assert rgba.shape == (225, 300, 4)
    if mode != "1":
        grey = (0.299 * 200 + 0.587 * 40 + 0.114 * 30) / 255
        truth = np.array(RED) / 255 if mode in ("P", "CMYK", "RGBA") else grey
        np.testing.assert_allclose(rgba[112, 150, :3], truth, atol=0.02)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "LA", "RGBA", "1", "YCbCr"])
def test_pixel_modes(tmp_path: Path, mode: str) -> None:
    suffix = {"CMYK": "jpg", "YCbCr": "jpg"}.get(mode, "png")
    image = Image.fromarray(scene())
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    image.save(tmp_path / f"photo.{suffix}")
    photo = load_photo(tmp_path / f"photo.{suffix}")
    assert abs(photo.rgba.shape[0] - 100) <= 2
    if mode in ("L", "LA"):
        np.testing.assert_allclose(middle(photo), (0.299 * 200 + 0.587 * 40 + 0.114 * 30) / 255, atol=0.01)
    elif mode != "1":
        np.testing.assert_allclose(middle(photo), np.array(RED) / 255, atol=0.03)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey(tmp_path: Path, suffix: str) -> None:
    a = disc()
    deep = ((a * 0.25 + (1 - a)) * 65535).round().astype(np.uint16)
    photo = load_photo(save(tmp_path / f"photo.{suffix}", deep))
    np.testing.assert_allclose(middle(photo), 0.25, atol=0.004)


def test_float_tiff(tmp_path: Path) -> None:
    a = disc()
    photo = load_photo(save(tmp_path / "photo.tif", (a * 0.25 + (1 - a)).astype(np.float32)))
    np.testing.assert_allclose(middle(photo), 0.25, atol=0.004)


def test_gif_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = Image.fromarray(scene()), Image.fromarray(scene(colour=(0, 0, 250)))
    first.save(tmp_path / "two.gif", save_all=True, append_images=[second])
    np.testing.assert_allclose(middle(load_photo(tmp_path / "two.gif")), np.array(RED) / 255, atol=0.03)


def test_palette_transparency_is_alpha(tmp_path: Path) -> None:
    image = Image.fromarray((disc() > 0.5).astype(np.uint8), mode="P")
    image.putpalette([9, 9, 9, *RED])
    image.save(tmp_path / "photo.png", transparency=0)
    photo = load_photo(tmp_path / "photo.png")
    assert photo.foreground == "alpha of the file"
    assert photo.warnings == ()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_photo_upright(tmp_path: Path, orientation: int) -> None:
    upright = scene()
    upright[50:60, 60:100] = (0, 0, 200)  # a mark above the middle
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow's transpositions that EXIF asks to reverse
    image = Image.fromarray(upright)
    if orientation > 1:
        image = image.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    rgba = load_photo(tmp_path / "turned.png").rgba
    reference = load_photo(save(tmp_path / "upright.png", upright)).rgba
    assert torch.equal(rgba, reference)


def test_colour_profile_is_applied(tmp_path: Path) -> None:
    lab_to_none = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = save(tmp_path / "plain.png", scene())
    tagged = save(tmp_path / "tagged.png", scene(), icc_profile=lab_to_none)
    assert (load_photo(tagged).rgba - load_photo(plain).rgba).abs().max() < 0.02

    swapped = bytearray(lab_to_none)  # a valid profile whose red and blue primaries are exchanged
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    odd = load_photo(save(tmp_path / "odd.png", scene(), icc_profile=bytes(swapped)))
    assert middle(odd)[2] > 0.6 > 0.3 > middle(odd)[0]


def test_broken_colour_profile_warns(tmp_path: Path) -> None:
    photo = load_photo(save(tmp_path / "photo.png", scene(), icc_profile=b"nonsense"))
    assert any("profile" in warning for warning in photo.warnings)
    np.testing.assert_allclose(middle(photo), np.array(RED) / 255, atol=0.01)


# Degenerate files


def test_files_that_are_no_photo(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not an image")
    empty = tmp_path / "empty.png"
    empty.touch()
    for path in (text, empty, tmp_path, tmp_path / "missing.png"):
        with pytest.raises(V3DError, match=path.name):
            load_photo(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "gif"])
@pytest.mark.parametrize("part", [0.2, 0.6])
def test_truncated_files(tmp_path: Path, suffix: str, part: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    path = save(tmp_path / f"photo.{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(V3DError, match=r"^photo\.\w+ (is damaged|is not an image)") as caught:
        load_photo(path)
    assert "\n" not in str(caught.value)


def test_only_the_formats_we_mean_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PostScript file starts no interpreter, whatever its name is."""

    def ghostscript(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", ghostscript)
    for suffix, kind in (("png", "EPS"), ("jpg", "PPM"), ("webp", "ICO")):
        path = tmp_path / f"photo.{suffix}"
        Image.fromarray(scene()).save(path, format=kind)
        assert Image.open(path).format == kind
        for read in (load_photo, image_size):
            with pytest.raises(V3DError, match="is not an image that can be read"):
                read(path)


def test_one_pixel_photo(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="too small"):
        load_photo(save(tmp_path / "dot.png", np.full((1, 1, 3), 7, np.uint8)))


def test_object_of_a_few_pixels(tmp_path: Path) -> None:
    rgba = np.zeros((100, 100, 4), np.uint8)
    rgba[50:54, 50:55] = 255
    with pytest.raises(V3DError, match="pixels large"):
        load_photo(save(tmp_path / "tiny.png", rgba))


def test_empty_alpha(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="transparent everywhere"):
        load_photo(save(tmp_path / "empty.png", np.zeros((50, 50, 4), np.uint8)))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_photo_of_nothing(tmp_path: Path, value: int) -> None:
    with pytest.raises(V3DError, match="No object stands out"):
        load_photo(save(tmp_path / "plain.png", np.full((60, 60, 3), value, np.uint8)))


def test_full_alpha_counts_as_no_alpha(tmp_path: Path) -> None:
    opaque = np.dstack([scene(), np.full((120, 160), 255, np.uint8)])
    photo = load_photo(save(tmp_path / "opaque.png", opaque))
    assert photo.foreground == "soft alpha on a plain background"


def test_a_photo_of_20000_pixels_is_reduced(tmp_path: Path) -> None:
    side, height = 20_000, 4000
    dark = b"\xff" * 6000 + b"\x20" * 8000 + b"\xff" * 6000
    white = b"\xff" * side
    rows = [dark if 500 <= y < 3500 else white for y in range(height)]
    photo = load_photo(save_png(tmp_path / "huge.png", side, height, rows))
    left, _, right, _ = visible_box(photo.rgba[..., 3])
    assert right - left == pytest.approx(2048 * 8000 / side, abs=2)
    assert (right - left) / photo.rgba.shape[0] == pytest.approx(0.7, abs=0.002)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match="60000 x 60000 pixels"):
        load_photo(save_png(tmp_path / "bomb.png", 60_000, 60_000))
    assert Image.MAX_IMAGE_PIXELS is not None  # Pillow's own guard stands again


def test_long_thin_photo(tmp_path: Path) -> None:
    strip = np.full((400, 20_000, 3), 255, np.uint8)
    strip[100:300, 5000:15_000] = RED
    photo = load_photo(save(tmp_path / "strip.png", strip, compress_level=1), recentre=False)
    assert photo.rgba.shape == (2048, 2048, 4)


# Foreground


@pytest.mark.parametrize("background", [(1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0.3, 0.6, 0.35), (0.5, 0.5, 0.5)])
def test_any_plain_background(tmp_path: Path, background: tuple[float, float, float]) -> None:
    noisy = scene(np.array(background)) + np.random.default_rng(0).normal(0, 2, (120, 160, 3))
    photo = load_photo(save(tmp_path / "photo.jpg", np.clip(noisy, 0, 255).astype(np.uint8), quality=90))
    assert photo.foreground == "soft alpha on a plain background"
    assert any("better" in warning for warning in photo.warnings)
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


def test_cluttered_background_takes_grabcut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clutter = np.kron(rng.uniform(0, 0.5, (12, 16, 1)), np.ones((10, 10, 3)))
    clutter[..., 0] *= 0.3
    photo = load_photo(save(tmp_path / "photo.png", scene(clutter)), recentre=False)
    assert photo.foreground == "GrabCut"
    assert any("GrabCut" in warning for warning in photo.warnings)
    mask, truth = photo.rgba[20:140, :, 3].numpy() > 0.5, disc() > 0.5
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


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


# Framing


@settings(max_examples=60, deadline=None)
@given(st.integers(9, 80), st.integers(9, 80), st.integers(0, 60), st.integers(0, 60), st.integers(0, 50))
def test_framing_law(width: int, height: int, left: int, top: int, extra: int) -> None:
    rgba = torch.zeros(top + height + extra, left + width + 3, 4)
    rgba[top : top + height, left : left + width] = 1
    framed = frame_photo(rgba)
    size = framed.shape[0]
    x0, y0, x1, y1 = visible_box(framed[..., 3])
    assert (x1 - x0, y1 - y0) == (width, height)
    assert size == round(max(width, height) / (1 - BORDER_RATIO)) or framed.shape == rgba.shape
    assert abs(x0 + x1 - size) <= 1
    assert abs(y0 + y1 - size) <= 1
    assert torch.equal(frame_photo(framed), framed)


def test_framing_keeps_pixels_and_soft_edges() -> None:
    rgba = torch.rand(90, 120, 4)
    rgba[..., 3] = torch.from_numpy(disc(90, 120, 30.0)).float()
    framed = frame_photo(rgba)
    left, top, _, _ = visible_box(rgba[..., 3])
    x, y, _, _ = visible_box(framed[..., 3])
    assert torch.equal(framed[y - 2 : y + 62, x - 2 : x + 62], rgba[top - 2 : top + 62, left - 2 : left + 62])


def test_framing_reduces_large_objects_by_the_law() -> None:
    rgba = torch.zeros(2100, 2400, 4)
    rgba[50:2050, 100:2300] = 1
    framed = frame_photo(rgba)
    x0, _, x1, _ = visible_box(framed[..., 3])
    assert framed.shape[0] == 2048
    assert x1 - x0 == pytest.approx(0.7 * 2048, abs=1)
    assert torch.equal(frame_photo(framed), framed)


def test_no_recentre_keeps_the_framing(tmp_path: Path) -> None:
    rgba = np.zeros((60, 100, 4), np.uint8)
    rgba[5:25, 10:30] = 255
    photo = load_photo(save(tmp_path / "photo.png", rgba), recentre=False)
    assert photo.rgba.shape == (100, 100, 4)
    assert visible_box(photo.rgba[..., 3]) == (10, 25, 30, 45)


def test_resizing_does_not_bleed_hidden_colours() -> None:
    rgba = torch.zeros(64, 64, 4)
    rgba[..., 1] = 1.0  # green where nothing is seen
    rgba[16:48, 16:48] = torch.tensor([1.0, 0.0, 0.0, 1.0])
    small = resize_rgba(rgba, 13, 13)
    seen = small[..., 3] > 0.01
    assert small[seen][:, 1].max() < 1e-4
    assert small[..., 3].mean() == pytest.approx(0.25, abs=0.01)
    composited = over_white(small[..., :3], small[..., 3])
    assert composited.shape == (13, 13, 3)
    assert composited[0, 0].min() == 1
    assert torch.equal(Photo(rgba).resized(13), small)
