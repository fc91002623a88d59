"""Colours and textures of procedural objects: a few colours an object, plain, worn, patterned or printed."""

from __future__ import annotations

import colorsys
import random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from v3d.data.procedural.textures import SIDE, random_texture

PART = 64  # texels of a part's texture
_LABEL = 192  # of one that is printed


class Painter:
    """The few colours of one object, and textures in them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        hue, spread, vivid = rng.random(), rng.random(), rng.uniform(0.2, 1.0)
        self.colours = [
            colorsys.hsv_to_rgb(
                (hue + spread * rng.uniform(-0.5, 0.5)) % 1,
                vivid * rng.random() ** 0.5,
                rng.uniform(0.05, 1.0) ** 0.6,
            )
            for _ in range(5)
        ]
        if rng.random() < 0.3:  # wood and earth are common
            self.colours[0] = colorsys.hsv_to_rgb(
                rng.uniform(0.03, 0.12), rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.9)
            )
        if rng.random() < 0.15:
            self.colours[rng.randrange(5)] = colorsys.hsv_to_rgb(
                rng.uniform(0.2, 0.4), rng.uniform(0.3, 0.8), rng.uniform(0.3, 0.8)
            )
        # Low-polygon assets are plain all over, scans nowhere.
        self.plain = rng.choice([1.0, 0.7, 0.2])

    def paint(self, which: int | None = None) -> Tensor:
        """One texture: of the object's colour `which`, or of any."""
        rng = self.rng
        colour = torch.tensor(self.colours[rng.randrange(5) if which is None else which])
        if rng.random() < self.plain:
            return plain(colour)
        kind = rng.random()
        if kind < 0.25:
            end = torch.tensor(self.colours[rng.randrange(5)])
            return torch.lerp(colour, end, torch.linspace(0, 1, PART)[:, None, None].expand(PART, PART, 1))
        uneven = pattern(rng)
        if kind < 0.75:  # worn: the colour, a little uneven
            return (colour * (1 + rng.uniform(0.1, 0.8) * (uneven - uneven.mean()))).clamp(0, 1)
        return uneven

    def label(self) -> Tensor:
        """Something printed: fields, marks and words."""
        rng = self.rng
        ink = [
            tuple(int(255 * c) for c in colour)
            for colour in (*self.colours, (1.0, 1.0, 1.0), (0.1, 0.1, 0.1))
        ]
        image = Image.new("RGB", (_LABEL, _LABEL), rng.choice(ink))
        draw = ImageDraw.Draw(image)
        for _ in range(rng.randint(2, 14)):
            x, y = rng.uniform(-20, _LABEL), rng.uniform(-20, _LABEL)
            w, h = _LABEL * rng.uniform(0.03, 0.7), _LABEL * rng.uniform(0.03, 0.4)
            kind = rng.random()
            if kind < 0.3:
                draw.rectangle((x, y, x + w, y + h), fill=rng.choice(ink))
            elif kind < 0.4:
                draw.rectangle((-1, y, _LABEL, y + h), fill=rng.choice(ink))
            elif kind < 0.55:
                draw.ellipse((x, y, x + w, y + rng.choice([w, h])), fill=rng.choice(ink))
            elif kind < 0.65:
                corners = [
                    (x + w * rng.uniform(-1, 1), y + w * rng.uniform(-1, 1)) for _ in range(rng.randint(3, 7))
                ]
                draw.polygon(corners, fill=rng.choice(ink))
            elif kind < 0.85:
                words = "".join(rng.choices("ABCDEFGHIKLMNOPRSTUVWXYZ 0123456789", k=rng.randint(2, 9)))
                draw.text(
                    (x, y), words, fill=rng.choice(ink), font=ImageFont.load_default(rng.uniform(10, 60))
                )
            else:  # small print
                for k in range(rng.randint(3, 9)):
                    draw.line((x, y + 6 * k, x + w * rng.uniform(0.6, 1), y + 6 * k), fill=ink[-1], width=2)
        return torch.from_numpy(np.asarray(image, np.float32) / 255)


def plain(colour: Tensor) -> Tensor:
    """[PART, PART, 3] of one colour [3]."""
    return colour.expand(PART, PART, 3).clone()


def pattern(rng: random.Random) -> Tensor:
    """[PART, PART, 3] of the tiles that grounds and walls wear."""
    texture = random_texture(torch.Generator().manual_seed(rng.getrandbits(60)))
    full = texture.texels[: SIDE * SIDE].view(1, SIDE, SIDE, 3).permute(0, 3, 1, 2)
    half = full if rng.random() < 0.5 else full[..., : SIDE // 2, : SIDE // 2]
    return F.adaptive_avg_pool2d(half, PART)[0].permute(1, 2, 0)
