"""Image files of any format -> framed photos: `v3d.capture.images`, `photo`."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import RED, disc, middle, save, save_png, scene
from PIL import EpsImagePlugin, Image, ImageCms

from v3d.capture import images
from v3d.capture.images import image_size, read_image
from v3d.capture.photo import Photo, load_photo
from v3d.errors import V3DError
from v3d.framing import visible_box


def framed(path: Path) -> Photo:
    """A photo with the disc's own mask: what is tested is how files are read, not how it is cut out."""
    return load_photo(path, mask=save(path.with_name("mask.png"), (disc() * 255).round().astype(np.uint8)))


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
    photo = framed(save(tmp_path / f"photo.{suffix}", scene(), **options))
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
    photo = framed(tmp_path / f"photo.{suffix}")
    assert abs(photo.rgba.shape[0] - 100) <= 2
    if mode in ("L", "LA"):
        np.testing.assert_allclose(middle(photo), (0.299 * 200 + 0.587 * 40 + 0.114 * 30) / 255, atol=0.01)
    elif mode != "1":
        np.testing.assert_allclose(middle(photo), np.array(RED) / 255, atol=0.03)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_grey(tmp_path: Path, suffix: str) -> None:
    a = disc()
    deep = ((a * 0.25 + (1 - a)) * 65535).round().astype(np.uint16)
    photo = framed(save(tmp_path / f"photo.{suffix}", deep))
    np.testing.assert_allclose(middle(photo), 0.25, atol=0.004)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_in_sixteen_are_not_dark(tmp_path: Path, bits: int) -> None:
    a = disc()
    deep = ((a * 0.25 + (1 - a)) * (2**bits - 1)).round().astype(np.uint16)
    photo = framed(save(tmp_path / "photo.png", deep))
    np.testing.assert_allclose(middle(photo), 0.25, atol=0.004)
    assert any(f"taken for {bits} bits" in warning for warning in photo.warnings)


def test_what_phones_save(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(scene())).save(tmp_path / "photo.heic", quality=95)
    assert image_size(tmp_path / "photo.heic") == (160, 120)
    photo = framed(tmp_path / "photo.heic")
    np.testing.assert_allclose(middle(photo), np.array(RED) / 255, atol=0.03)
    if "AVIF" in Image.registered_extensions().values():
        np.testing.assert_allclose(
            middle(framed(save(tmp_path / "photo.avif", scene(), quality=95))),
            np.array(RED) / 255,
            atol=0.03,
        )


def test_heic_names_the_package_that_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    monkeypatch.setattr(images, "find_spec", lambda name: None)
    for read in (load_photo, image_size):
        with pytest.raises(V3DError, match=r"photo.heic is a HEIC photo: run pip install .*heif"):
            read(tmp_path / "photo.heic")


def test_float_tiff(tmp_path: Path) -> None:
    a = disc()
    photo = framed(save(tmp_path / "photo.tif", (a * 0.25 + (1 - a)).astype(np.float32)))
    np.testing.assert_allclose(middle(photo), 0.25, atol=0.004)


def test_gif_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = Image.fromarray(scene()), Image.fromarray(scene(colour=(0, 0, 250)))
    first.save(tmp_path / "two.gif", save_all=True, append_images=[second])
    np.testing.assert_allclose(middle(framed(tmp_path / "two.gif")), np.array(RED) / 255, atol=0.03)


def test_palette_transparency_is_alpha(tmp_path: Path) -> None:
    image = Image.fromarray((disc() > 0.5).astype(np.uint8), mode="P")
    image.putpalette([9, 9, 9, *RED])
    image.save(tmp_path / "photo.png", transparency=0)
    photo = load_photo(tmp_path / "photo.png")
    assert photo.foreground == "alpha of the file"
    assert photo.warnings == ()


def test_an_orientation_that_is_no_number_is_upright(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3))
    text = struct.pack(">HHHI4sI", 1, 0x0112, 2, 4, b"six", 0)  # one tag, of text where a number belongs
    image.save(tmp_path / "tag.png", exif=b"Exif\0\0MM\0*\0\0\0\x08" + text)
    assert Image.open(tmp_path / "tag.png").getexif()[0x0112] == "six"
    pixels, _ = read_image(tmp_path / "tag.png")
    assert image_size(tmp_path / "tag.png") == (30, 20)
    assert np.array_equal((pixels[..., :3] * 255).round().astype(np.uint8), np.asarray(image))


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
    rgba = framed(tmp_path / "turned.png").rgba
    reference = framed(save(tmp_path / "upright.png", upright)).rgba
    assert torch.equal(rgba, reference)


def test_colour_profile_is_applied(tmp_path: Path) -> None:
    lab_to_none = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = save(tmp_path / "plain.png", scene())
    tagged = save(tmp_path / "tagged.png", scene(), icc_profile=lab_to_none)
    assert (framed(tagged).rgba - framed(plain).rgba).abs().max() < 0.02

    swapped = bytearray(lab_to_none)  # a valid profile whose red and blue primaries are exchanged
    red, blue = swapped.index(b"rXYZ"), swapped.index(b"bXYZ")
    swapped[red : red + 4], swapped[blue : blue + 4] = b"bXYZ", b"rXYZ"
    odd = framed(save(tmp_path / "odd.png", scene(), icc_profile=bytes(swapped)))
    assert middle(odd)[2] > 0.6 > 0.3 > middle(odd)[0]


def test_broken_colour_profile_warns(tmp_path: Path) -> None:
    photo = framed(save(tmp_path / "photo.png", scene(), icc_profile=b"nonsense"))
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
    assert photo.foreground == "the colour of its plain background"


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
