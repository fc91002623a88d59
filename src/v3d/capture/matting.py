"""Foreground of a photo: a matting model where one is installed, else soft alpha or GrabCut.

The paper cuts the object out of the photo before anything else. Files with alpha need none of this.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from v3d.distribution import install_hint
from v3d.errors import V3DError

Image = NDArray[np.float32]

# Matting models whose weights may be used for any purpose (Apache-2.0 or MIT), best first. rembg's own
# default is non-commercial, so a model is always named.
MATTING_MODELS = ("birefnet-general", "isnet-general-use", "u2net", "u2netp", "silueta")

CUT_OUT_VERSION = 1  # of our own code in this module: raise it when results change

_ADVICE = (
    "for a better cut-out give a PNG with a transparent background, "
    f"or run {install_hint('matting')} and add its weights"
)


@dataclass(frozen=True)
class Cutout:
    """A photo's foreground.

    Attributes:
        rgb: [H, W, 3] in [0, 1], sRGB: colours with the background taken out of the edges.
        alpha: [H, W] in [0, 1].
        method: what found it.
        warnings: what the user should know, one sentence each.
    """

    rgb: Image
    alpha: Image
    method: str
    warnings: tuple[str, ...] = ()


def cut_out(rgb: Image) -> Cutout:
    """Find the object in an opaque photo [H, W, 3].

    The environment variable V3D_MATTING names the matting model to use, or `off` for none.

    Raises:
        V3DError: nothing stands out from the background.
    """
    warnings: list[str] = []
    model = installed_model()
    if model is not None:
        try:
            return _checked(Cutout(rgb, _rembg(rgb, model), f"matting model {model}"))
        except V3DError:
            raise
        except Exception as error:  # whatever a third-party runtime raises, the photo can still be cut out
            logging.getLogger(__name__).debug("matting failed", exc_info=True)
            warnings.append(f"The matting model {model} failed ({type(error).__name__}) and was not used.")
    layers = layers_on_plain(rgb)
    if layers is not None:
        warnings.append(f"The photo has no alpha: its plain background was removed by colour; {_ADVICE}.")
        return _checked(Cutout(*layers, "soft alpha on a plain background", tuple(warnings)))
    alpha = grabcut(rgb)
    warnings.append(
        "The photo has no alpha and its background is not plain: the object was guessed with GrabCut; "
        f"{_ADVICE}."
    )
    return _checked(Cutout(rgb, alpha, "GrabCut", tuple(warnings)))


def method_key() -> str:
    """What `cut_out` would use here: the matting model's name or `off`, and the version of our own code.

    Results that depend on a cut-out are outdated when this changes. Never fails: a V3D_MATTING that cannot be
    used counts as the model it names, since photos with alpha do not need it.
    """
    try:
        model = installed_model() or "off"
    except V3DError:
        model = os.environ["V3D_MATTING"]
    return f"{model}, version {CUT_OUT_VERSION}"


def cut_out_plain(images: Sequence[Image]) -> list[Image]:
    """Cut the object out of straight RGBA images [H, W, 4], if all are opaque and all backgrounds are plain.

    Otherwise all images come back as they are: in a scene, some views may have a plain background by chance.
    """
    if not all((image[..., 3] == 1).all() for image in images):
        return list(images)
    layers = [layers_on_plain(image[..., :3]) for image in images]
    found = [np.dstack(layer) for layer in layers if layer is not None]
    return found if len(found) == len(images) else list(images)


def layers_on_plain(rgb: Image) -> tuple[Image, Image] | None:
    """Colour [H, W, 3] and alpha [H, W] of an object on a plain background, or None if it is not plain."""
    background = plain_background(rgb)
    if background is None:
        return None
    alpha = _tidy(soft_alpha(rgb, background))
    return unmix(rgb, alpha, background), alpha


def soft_alpha(rgb: Image, background: Image | float = 1.0) -> Image:
    """Coverage [H, W] of an object [H, W, 3] in front of a known background (default: white).

    At an edge the distance d from the background falls from the object's own to zero in proportion to the
    coverage: alpha = d / (largest d nearby). Pixels with foreground all around are inside: alpha = 1.

    Args:
        background: a colour [3], or an image [H, W, 3] or value that broadcasts.
    """
    difference = np.abs(rgb - np.asarray(background, np.float32))
    d = np.maximum(difference[..., 0], np.maximum(difference[..., 1], difference[..., 2])) - 0.03
    d = np.maximum(d, 0).astype(np.float32)
    reach = _odd(7 * max(rgb.shape[:2]) / 256, 7, 25)
    peak = cv2.dilate(cv2.GaussianBlur(d, (0, 0), 0.7), np.ones((reach, reach), np.uint8))
    alpha = np.clip(d / np.maximum(peak, 0.05), 0, 1).astype(np.float32)
    inside = cv2.erode((d > 0.03).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    inside &= cv2.erode((d > 0.02).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    alpha[inside] = 1
    return alpha


def plain_background(rgb: Image) -> Image | None:
    """The plain background [H, W, 3] of a photo [H, W, 3], or None if it is not plain.

    It is a quadratic in x and y, so smooth studio gradients count as plain. It is fitted to the border of the
    photo; parts of the object that touch the border are left out as outliers as long as they are less than
    30 % of it.
    """
    height, width = rgb.shape[:2]
    strip = max(2, round(0.02 * min(height, width)))
    border = np.zeros((height, width), bool)
    border[:strip] = border[-strip:] = border[:, :strip] = border[:, -strip:] = True
    y, x = np.nonzero(border)
    keep = slice(None, None, max(1, len(x) // 20_000))
    terms = _quadratic(x[keep] / width, y[keep] / height)
    colour = rgb[y[keep], x[keep]]

    good = np.abs(colour - np.median(colour, 0)).max(-1) < 0.2
    for tolerance in (0.1, 0.06, 0.05):
        if good.mean() < 0.7:
            return None
        fit, *_ = np.linalg.lstsq(terms[good], colour[good], rcond=None)
        good = np.abs(colour - terms @ fit).max(-1) < tolerance
    if good.mean() < 0.7:
        return None
    x, y = (np.arange(side, dtype=np.float32) / side for side in (width, height))
    fit = fit.astype(np.float32)
    along_x = _quadratic(x, np.zeros_like(x)) @ fit
    along_y = _quadratic(np.zeros_like(y), y) @ fit - fit[0]
    background = fit[3] * y[:, None, None] * x[:, None]
    background += along_x
    background += along_y[:, None]
    return np.asarray(np.clip(background, 0, 1, out=background), np.float32)


def unmix(rgb: Image, alpha: Image, background: Image | float) -> Image:
    """The object's own colour F [H, W, 3] from rgb = alpha F + (1 - alpha) background.

    Where alpha [H, W] is near zero, `rgb` is kept.
    """
    edge = (alpha > 0.02) & (alpha < 1)
    a = alpha[edge][:, None]
    own = rgb.copy()
    own[edge] = np.clip((rgb[edge] - (1 - a) * np.broadcast_to(background, rgb.shape)[edge]) / a, 0, 1)
    return own


def grabcut(rgb: Image, side: int = 400) -> Image:
    """Alpha [H, W] of whatever stands in the middle of the photo, by GrabCut at `side` pixels."""
    height, width = rgb.shape[:2]
    scale = min(1.0, side / max(height, width))
    small = cv2.resize(
        rgb, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    h, w = small.shape[:2]
    margin_x, margin_y = max(1, round(0.04 * w)), max(1, round(0.04 * h))
    mask = np.zeros((h, w), np.uint8)
    box = (margin_x, margin_y, w - 2 * margin_x, h - 2 * margin_y)
    cv2.setRNGSeed(0)
    try:
        image = np.ascontiguousarray((small * 255).round().astype(np.uint8)[..., ::-1])
        cv2.grabCut(image, mask, box, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_RECT)
    except cv2.error:  # too few pixels or colours to model
        return np.zeros((height, width), np.float32)
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    soft = cv2.resize(
        cv2.GaussianBlur(_tidy(found, speck=0.1), (0, 0), 0.8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    return np.clip(soft, 0, 1).astype(np.float32)


def installed_model() -> str | None:
    """The best matting model that can run here without a download, or None.

    Raises:
        V3DError: V3D_MATTING names a model that is unknown or not installed.
    """
    wanted = os.environ.get("V3D_MATTING", "")
    if wanted == "off":
        return None
    if wanted and wanted not in MATTING_MODELS:
        raise V3DError(f"V3D_MATTING={wanted} is not known; use one of {', '.join(MATTING_MODELS)}, or off.")
    have_rembg = find_spec("rembg") is not None
    for model in (wanted,) if wanted else MATTING_MODELS:
        if have_rembg and _weights(model) is not None:
            return model
    if wanted:
        missing = f"its weights {wanted}.onnx are not on disk" if have_rembg else "rembg is not installed"
        raise V3DError(
            f"V3D_MATTING={wanted} cannot be used: {missing}; install them, or set V3D_MATTING=off."
        )
    return None


def _weights(model: str) -> Path | None:
    """Where rembg (old or new) keeps the weights of `model`, if they are there."""
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
    homes = [
        os.environ.get("U2NET_HOME"),
        os.environ.get("REMBG_HOME"),
        data / "rembg",
        Path.home() / ".rembg",
    ]
    folders = [Path(home) / part for home in homes if home for part in ("", f"models/{model}")]
    for folder in [*folders, Path.home() / ".u2net"]:
        if (folder / f"{model}.onnx").is_file():
            return folder / f"{model}.onnx"
    return None


def _rembg(rgb: Image, model: str) -> Image:
    import rembg  # optional

    # With the check sum left alone rembg would fetch weights that differ from its own copy.
    os.environ.setdefault("MODEL_CHECKSUM_DISABLED", "1")
    photo = PIL.Image.fromarray((rgb * 255).round().astype(np.uint8))
    mask = rembg.remove(photo, session=rembg.new_session(model), only_mask=True)
    return np.asarray(mask.convert("L"), np.float32) / np.float32(255)


def _tidy(alpha: Image, speck: float = 0.04) -> Image:
    """Drop specks and close pinholes, both relative to the object's own area."""
    count, label, stats, _ = cv2.connectedComponentsWithStats((alpha > 0.3).astype(np.uint8), connectivity=8)
    if count <= 1:
        return alpha
    area = stats[:, cv2.CC_STAT_AREA]
    largest = area[1:].max()
    keep = np.r_[True, area[1:] >= speck * largest][label]
    # A speck goes with its soft rim: what is closer to a dropped part than to a kept one.
    dropped = cv2.dilate((~keep).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    near_kept = cv2.dilate((keep & (label > 0)).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    alpha = np.where(dropped & ~near_kept, 0, alpha).astype(np.float32)

    holes, label, stats, _ = cv2.connectedComponentsWithStats((alpha < 0.7).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < 0.002 * largest
    small[0] = False
    return np.where(small[label], 1, alpha).astype(np.float32) if holes > 1 else alpha


def _checked(cutout: Cutout) -> Cutout:
    if (cutout.alpha > 0.5).mean() < 0.001:
        raise V3DError(
            "No object stands out in the photo; cut it out first (a PNG with a transparent background)."
        )
    return cutout


def _quadratic(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.stack([np.ones_like(x), x, y, x * y, x * x, y * y], -1)


def _odd(value: float, low: int, high: int) -> int:
    return int(np.clip(round(value), low, high)) | 1
