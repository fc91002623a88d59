"""Curves of an ablation as a picture, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 30, 26  # margins in pixels
_INK, _GRID, _CURVE, _BAND = (70, 70, 70), (226, 226, 226), (31, 98, 176), (150, 184, 222)


@dataclass(frozen=True)
class Point:
    """A mean, and the interval around it (equal to the mean where there is none)."""

    x: float
    y: float
    low: float
    high: float


def plot(points: Sequence[Point], title: str, *, size: tuple[int, int] = (340, 240)) -> Image.Image:
    """One curve through the points, in the order of x, with intervals as bars; x ticks are the points'."""
    points = sorted(points, key=lambda p: p.x)
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(11)
    low, high = min(p.low for p in points), max(p.high for p in points)
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    first, last = points[0].x, points[-1].x

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - first) / max(last - first, 1e-12), (y - low) / max(high - low, 1e-12)
        return (
            _LEFT + across * (size[0] - _LEFT - _RIGHT),
            size[1] - _BOTTOM - up * (size[1] - _TOP - _BOTTOM),
        )

    draw.text((_LEFT, 8), title, fill=_INK, font=font)
    for tick in ticks:
        y = place(first, tick)[1]
        draw.line([(_LEFT, y), (size[0] - _RIGHT, y)], fill=_GRID)
        draw.text((_LEFT - 6, y), f"{tick:g}", fill=_INK, font=font, anchor="rm")
    taken = -math.inf
    for p in points:
        x = place(p.x, low)[0]
        if x - taken >= 22:  # labels of close points would overlap
            draw.text((x, size[1] - _BOTTOM + 6), f"{p.x:g}", fill=_INK, font=font, anchor="ma")
            taken = x
    for p in points:
        draw.line([place(p.x, p.low), place(p.x, p.high)], fill=_BAND, width=5)
    draw.line([place(p.x, p.y) for p in points], fill=_CURVE, width=2)
    for p in points:
        x, y = place(p.x, p.y)
        draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=_CURVE)
    return image


def tile(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Pictures of one size, row by row."""
    width, height = rows[0][0].size
    sheet = Image.new("RGB", (width * max(len(row) for row in rows), height * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            sheet.paste(picture, (x * width, y * height))
    return sheet


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers around [low, high]."""
    span = max(high - low, 1e-3 * max(abs(high), 1e-6))
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(power * m for m in (1, 2, 5, 10) if span / (power * m) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]
