"""Photos of one object from known sides -> one scale, one place, upright; and a note on what does not fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.compositing import resize_rgba
from v3d.framing import MAX_FILL, MAX_SIZE, frame_photo
from v3d.surface.coherence import (
    ROLL,
    SCALE,
    SHIFT_X,
    SHIFT_Y,
    Alignment,
    Coherence,
    outline_of,
    transform_back,
)
from v3d.surface.edge_colours import EdgeColours
from v3d.surface.misfits import misfit_notes

_SMALL = 96  # pixels of the photos whose colours are compared
_MAX_ROLL = math.radians(10)
_MIN_ROLL = math.radians(1.5)  # outlines do not show less
_ROLL_GAIN = 0.5  # a photo is turned only where that leaves less of the cost than this


@dataclass(frozen=True)
class Registered:
    """Photos of one object, re-framed so that all have one scale.

    Attributes:
        photos: [S_i, S_i, 4] straight alpha in [0, 1], each at its own resolution, as the orbit's cameras at
            their azimuths see the object. The front obeys the framing law; all are shrunk together where
            another would pass `v3d.framing.MAX_FILL` of its image.
        notes: what the user should know, one sentence each.
    """

    photos: tuple[Tensor, ...]
    notes: tuple[str, ...]


def align(coherence: Coherence) -> Alignment:
    """The similarities by which the outlines agree best.

    A photo is turned only where that explains the outlines much better, the best one first.
    """
    guess = coherence.first_guess()
    free = torch.zeros_like(guess, dtype=torch.bool)
    free[1:, [SCALE, SHIFT_X, SHIFT_Y]] = True
    found = _settle(coherence, *_within_images(coherence, guess, guess), free)
    for _ in range(len(guess) - 1):
        turned = []
        for i in (~found.free[:, ROLL]).nonzero()[1:, 0].tolist():
            free = found.free.clone()
            free[i, ROLL] = True
            trial, cost = coherence.fit(found.similarities, found.guess, free, steps=6)
            if _MIN_ROLL < abs(float(trial[i, ROLL])) < _MAX_ROLL:
                turned.append((cost, i, trial, free))
        best = min(turned, key=lambda t: t[0], default=None)
        if best is None or best[0] > _ROLL_GAIN * found.cost - 0.5:
            break
        found = _settle(coherence, best[2], found.guess, best[3])
    return found


def _settle(coherence: Coherence, similarities: Tensor, guess: Tensor, free: Tensor) -> Alignment:
    """Fit, with the whole sized by the framing law and its depth centred, on which perspective depends."""
    for _ in range(4):
        similarities, cost = coherence.fit(similarities, guess, free)
        fitted = similarities
        similarities, guess = _within_images(coherence, similarities, guess)
        if coherence.sees_depth:
            similarities = coherence.centred(similarities)
            guess[:, [SHIFT_X, SHIFT_Y]] = similarities[:, [SHIFT_X, SHIFT_Y]]
        if float((similarities - fitted).abs().max()) < 0.006:
            break
    return Alignment(fitted, guess, free, cost)


def _within_images(coherence: Coherence, similarities: Tensor, guess: Tensor) -> tuple[Tensor, Tensor]:
    """Both, scaled together by the law of `v3d.framing.frame_mesh`."""
    # The front obeys the law already, to the pixel.
    scale = min(math.exp(-float(similarities[0, SCALE])), MAX_FILL / 2 / coherence.reach(similarities))
    similarities, guess = similarities.clone(), guess.clone()
    similarities[:, SCALE] += math.log(scale)
    similarities[:, [SHIFT_X, SHIFT_Y]] *= scale
    guess[:, SCALE] += math.log(scale)
    return similarities, guess


def reframe(photo: Tensor, similarity: Tensor) -> Tensor:
    """A photo [S, S, 4] moved by a similarity [4] into the orbit camera's image -> [S', S', 4].

    Pixels keep their size: an upright photo is cut and padded by whole pixels and not resampled, except to
    stay within `MAX_SIZE`.

    Args:
        photo: straight alpha, in [0, 1].
        similarity: see `v3d.surface.coherence`.
    """
    scale, roll = math.exp(float(similarity[SCALE])), float(similarity[ROLL])
    if len(photo) / scale > MAX_SIZE:
        smaller = round(MAX_SIZE * scale)
        photo = resize_rgba(photo, smaller, smaller)
    side = round(len(photo) / scale)
    centre = (transform_back(torch.zeros(2), similarity) + 0.5) * len(photo)
    if roll == 0:
        left, top = (centre - side / 2).round().int().tolist()
        margins = (-left, left + side - len(photo), -top, top + side - len(photo))
        return F.pad(photo.permute(2, 0, 1), margins).permute(1, 2, 0).contiguous()
    turn = torch.tensor([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    shift = side / 2 - 0.5 - turn @ (centre - 0.5)  # the centre of OpenCV's first pixel is (0, 0)
    matrix = torch.cat([turn, shift[:, None]], 1).double().numpy()
    premultiplied = torch.cat([photo[..., :3] * photo[..., 3:], photo[..., 3:]], -1).contiguous().numpy()
    moved = torch.from_numpy(cv2.warpAffine(premultiplied, matrix, (side, side))).clamp(0, 1)
    alpha = moved[..., 3]
    rgb = moved[..., :3] / alpha[..., None].clamp_min(1e-4)
    return torch.cat([rgb.clamp(0, 1), alpha[..., None]], -1)


def register_photos(
    photos: Sequence[Tensor], azimuths: Sequence[float], *, elevation: float = 0.0
) -> Registered:
    """Bring photos of one object, each framed on its own, to one scale and place by their outlines.

    The front (the photo nearest to azimuth 0) stays upright and defines the world. The others are scaled,
    shifted and, where their outlines show it, turned.

    Args:
        photos: framed photos [S, S, 4] of straight alpha in [0, 1] (`v3d.framing.frame_photo`).
        azimuths: of the photos, in degrees, counter-clockwise seen from above; the front is 0.
        elevation: of all photos, in degrees.

    Raises:
        V3DError: a photo shows no object, or one of a few pixels.
    """
    if len(photos) == 1:
        return Registered((photos[0],), ())
    front = min(range(len(photos)), key=lambda i: abs((azimuths[i] + 180) % 360 - 180))
    order = [front, *(i for i in range(len(photos)) if i != front)]
    framed = [frame_photo(photos[i]) for i in order]
    coherence = Coherence([outline_of(photo) for photo in framed], [azimuths[i] for i in order], elevation)
    alignment = align(coherence)
    moved = [reframe(photo, found) for photo, found in zip(framed, alignment.similarities, strict=True)]
    small = [
        resize_rgba(reframe(resize_rgba(photo, _SMALL, _SMALL), found), _SMALL, _SMALL)
        for photo, found in zip(framed, alignment.similarities, strict=True)
    ]
    notes = misfit_notes(coherence, alignment, [azimuths[i] for i in order], EdgeColours(small))
    return Registered(tuple(moved[order.index(i)] for i in range(len(photos))), notes)
