"""Foreground of a photo: a network that ships, the colour of a plain ground where that is surer, or a better
model that is installed.

The paper cuts the object out of the photo before anything else. Files with alpha need none of this.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from v3d.capture.cutout import Cutout, cut_off_at, main_part, remarks
from v3d.capture.edges import follow_edges, own_colours
from v3d.capture.plain import layers_on_plain, plain_background, soft_alpha, tidy, unmix, with_shadows
from v3d.errors import V3DError
from v3d.networks.u2net import SIZE, saliency

Image = NDArray[np.float32]

# Matting models whose weights may be used for any purpose (Apache-2.0 or MIT), best first. rembg's own
# default is non-commercial, so a model is always named.
MATTING_MODELS = ("birefnet-general", "isnet-general-use", "u2net", "silueta")

CUT_OUT_VERSION = 2  # of our own cut-outs, the network among them: raise it when results change

_SPECK = 16  # pixels; less is no object
_FAINT = 0.004  # colours that differ by more than this, noise apart, are not the same
_WRONG = "if it is wrong, give a mask of it or a PNG with a transparent background"


def cut_out(rgb: Image) -> Cutout:
    """Find the object in an opaque photo [H, W, 3].

    The environment variable V3D_MATTING names the matting model to use in place of V3D's own network, or
    `off` for none.

    Raises:
        V3DError: nothing stands out from the background.
    """
    warnings: list[str] = []
    cutout = None
    model = installed_model()
    if model is not None:
        try:
            alpha = _rembg(rgb, model)
            cutout = Cutout(own_colours(rgb, alpha), alpha, f"matting model {model}")
        except Exception as error:  # whatever a third-party runtime raises, the photo can still be cut out
            logging.getLogger(__name__).debug("matting failed", exc_info=True)
            warnings.append(f"The matting model {model} failed ({type(error).__name__}) and was not used.")
    if cutout is None:
        cutout = _own(rgb)
        warnings.append(f"The object was found by {cutout.method}; {_WRONG}.")
    alpha, others = main_part(cutout.alpha)
    if (alpha > 0.5).sum() < _SPECK:
        raise V3DError(
            "No object stands out in the photo; cut it out first (a PNG with a transparent background)."
        )
    if others:
        warnings.append(
            f"The photo shows {others + 1} objects, of which the largest near the middle was taken; crop the "
            "photo to choose another."
        )
    side = cut_off_at(alpha)
    if side is not None:
        warnings.append(
            f"The object is cut off at the {side} of the photo; give a photo that shows all of it."
        )
    found = Cutout(cutout.rgb, alpha, cutout.method, tuple(warnings))
    return found.noting(*remarks(rgb, found))


def _own(rgb: Image) -> Cutout:
    """What V3D itself finds: by the network, or on a plain ground by colour where that is surer.

    Colour has the finer edges and sees thin things. It is wrong where the object has the ground's own colour,
    nearly, and where the ground is not plain after all.
    """
    seen = salient(rgb)
    by_network = _outlined(rgb, seen)
    background = plain_background(rgb)
    if background is None:
        return _by_network(rgb, by_network)
    background = with_shadows(rgb, background, seen > 0.5)
    alpha = tidy(soft_alpha(rgb, background))
    found, wanted = alpha > 0.5, by_network > 0.5
    near = np.ones((5, 5), np.uint8)
    added = cv2.erode((wanted & ~found).astype(np.uint8), near) > 0
    beyond = found & (cv2.dilate(wanted.astype(np.uint8), near) == 0)
    border = np.concatenate([beyond[0], beyond[-1], beyond[:, 0], beyond[:, -1]])
    if not found.any() or border.sum() > 2 or _differs(rgb - background, added, ~found & ~wanted):
        return _by_network(rgb, by_network)
    alpha = np.where(cv2.erode((seen > 0.9).astype(np.uint8), near) * (alpha > 0.05) > 0, 1, alpha)
    alpha = np.asarray(alpha, np.float32)
    return Cutout(unmix(rgb, alpha, background), alpha, "the colour of its plain background")


def _differs(difference: Image, region: NDArray[np.bool_], ground: NDArray[np.bool_]) -> bool:
    """Whether a region [H, W] shows something else than the ground does, however little.

    Args:
        difference: [H, W, 3], of the photo to the fitted ground.
        ground: [H, W], what is surely ground.
    """
    if region.sum() < 0.02 * (~ground).sum() or not ground.any():
        return False
    size = max(3, round(max(region.shape) / 200)) | 1
    level = np.abs(np.asarray(cv2.blur(difference, (size, size)))).max(-1)  # without the noise
    return float(np.median(level[region])) > 2 * float(np.median(level[ground])) + _FAINT


def salient(rgb: Image) -> Image:
    """How likely the network finds each pixel of a photo [H, W, 3] to be of its object: [H, W] in [0, 1].

    It looks at the whole photo and, where the object is in a part of it, more closely at that.
    """
    height, width = rgb.shape[:2]
    seen = look(rgb)
    rows, columns = (np.nonzero((seen > 0.5).any(axis))[0] for axis in (1, 0))
    if len(rows) == 0:
        return seen
    y, x = (
        slice(max(0, round(low - 0.15 * (high - low) - 8)), round(high + 0.15 * (high - low) + 8))
        for low, high in ((rows[0], rows[-1]), (columns[0], columns[-1]))
    )
    part = np.ascontiguousarray(rgb[y, x])
    if part.shape[0] * part.shape[1] > 0.6 * height * width:
        return seen
    closer = np.zeros_like(seen)
    closer[y, x] = look(part)
    return closer


def cut_out_salient(rgb: Image) -> Cutout:
    """The object of a photo [H, W, 3] by the network alone, without any check."""
    return _by_network(rgb, _outlined(rgb, salient(rgb)))


def _outlined(rgb: Image, seen: Image) -> Image:
    """The mask [H, W] of what the network sees, with the photo's edges."""
    return tidy(follow_edges(rgb, seen, max(rgb.shape[:2]) / 160))


def _by_network(rgb: Image, alpha: Image) -> Cutout:
    return Cutout(own_colours(rgb, alpha), alpha, "V3D's network (U^2-Net)")


def look(rgb: Image) -> Image:
    """The network's saliency [H, W] of a photo [H, W, 3]."""
    small = cv2.resize(rgb, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
    seen = saliency(torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)))[None])[0].numpy()
    large = cv2.resize(seen, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)


def cut_out_plain(images: Sequence[NDArray[np.uint8]]) -> list[Image] | None:
    """The object cut out of images [H, W, 4], if all are opaque and all backgrounds are plain.

    Otherwise None: in a scene, some views may have a plain background by chance.

    Args:
        images: straight RGBA.

    Returns:
        Straight RGBA [H, W, 4] in [0, 1].
    """
    if not all((image[..., 3] == 255).all() for image in images):
        return None
    found = []
    for image in images:
        layers = layers_on_plain(image[..., :3].astype(np.float32) / np.float32(255))
        if layers is None:
            return None
        found.append(np.dstack(layers))
    return found


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
