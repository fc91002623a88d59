"""Vehicles and buildings."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from v3d.data.procedural.paint import PART, Painter
from v3d.data.procedural.parts import Parts, box, lathe, mirrored, moved, prism, tube


def vehicle(rng: random.Random, p: Painter) -> Parts:
    """Cars, trucks, tanks, carts, boats, planes, space ships; they drive towards +x."""
    length, width, tall = rng.uniform(1.2, 3.0), rng.uniform(0.5, 1.2), rng.uniform(0.2, 0.8)
    wheel = rng.uniform(0.12, 0.35)
    paint, glass = p.paint(0), torch.tensor([0.2, 0.3, 0.4]).expand(PART, PART, 3) * rng.uniform(0.3, 1.8)
    base = wheel + tall / 2
    soft = rng.choice([0.0, 0.1, 0.4])
    parts = [moved(box((length, width, tall), paint, rounding=soft), to=(0, 0, base))]
    if rng.random() < 0.85:  # a cabin, glazed
        cl, ct = length * rng.uniform(0.2, 0.7), tall * rng.uniform(0.4, 1.3)
        x = rng.uniform(-0.5, 0.5) * (length - cl)
        parts.append(
            moved(box((cl, width * 0.9, ct), paint, rounding=soft), to=(x, 0, base + (tall + ct) / 2))
        )
        parts.append(moved(box((cl * 1.02, width * 0.8, ct * 0.6), glass), to=(x, 0, base + (tall + ct) / 2)))
        parts.append(moved(box((cl * 0.8, width * 0.93, ct * 0.6), glass), to=(x, 0, base + (tall + ct) / 2)))
    if rng.random() < 0.3:  # a load
        parts.append(
            moved(
                box(
                    (length * 0.5, width, tall * rng.uniform(0.5, 2.5)),
                    p.label() if rng.random() < 0.5 else p.paint(),
                ),
                to=(-length * 0.22, 0, base + tall),
            )
        )
    kind = rng.random()
    if kind < 0.75:
        parts += _wheels(rng, p, length, width, wheel)
    elif kind < 0.9:
        parts += _wings(rng, p, length, width, base, tall)
    for _ in range(rng.randint(0, 4)):  # lamps, bumpers, exhausts
        s = rng.uniform(0.04, 0.2)
        extra = moved(
            box((s, s, s), p.paint(), rounding=0.3),
            to=(
                rng.choice([-1, 1, 1]) * length / 2,
                rng.uniform(0, 0.45) * width,
                base + rng.uniform(-0.4, 0.4) * tall,
            ),
        )
        parts += [extra, mirrored(extra)]
    if rng.random() < 0.2:  # a barrel
        path = torch.tensor([[0.0, 0.0, 0.0], [0.4, 0.0, 0.03], [1.0, 0.0, 0.08]]) * length * 0.6
        parts.append(moved(tube(path, torch.full((3,), 0.07), p.paint(2)), to=(0, 0, base + tall * 0.8)))
    return parts


def _wheels(rng: random.Random, p: Painter, length: float, width: float, wheel: float) -> Parts:
    """Two or three pairs of wheels of radius `wheel`."""
    parts: Parts = []
    rubber, n = torch.full((PART, PART, 3), rng.uniform(0.05, 0.25)), rng.choice([2, 2, 2, 3])
    hub = p.paint(3)
    for k in range(n):
        x = length * 0.32 * (2 * k / (n - 1) - 1)
        tyre = lathe([(0.0, 0.0), (0.9, 0.0), (1.0, 0.15), (1.0, 0.85), (0.9, 1.0), (0.0, 1.0)], rubber)
        disc = lathe([(0.0, 0.0), (0.55, 0.0), (0.5, 1.08), (0.0, 1.08)], hub)
        for part in (tyre, disc):
            part = moved(
                moved(part, scale=(wheel, wheel, 0.8 * wheel), turn=(-math.pi / 2, 0, 0)),
                to=(x, width / 2 - wheel * 0.4, wheel),
            )
            parts += [part, mirrored(part)]
    return parts


def _wings(rng: random.Random, p: Painter, length: float, width: float, base: float, tall: float) -> Parts:
    """Wings and a fin of a body whose middle is at height `base`."""
    parts: Parts = []
    outline = torch.tensor([[0.0, 0.3], [0.0, -0.3], [1.0, -0.5], [1.0, -0.2]])
    wing = moved(prism(outline, 0.06, p.paint(1)), turn=(0, math.pi / 2, 0))
    wing = moved(
        wing,
        scale=(length * rng.uniform(0.4, 1), length * rng.uniform(0.3, 0.9), 1),
        to=(0, width * 0.3, base),
    )
    parts += [wing, mirrored(wing)]
    fin = prism(torch.tensor([[-0.5, 0.0], [0.5, 0.0], [0.3, 0.8], [-0.2, 1.0]]), 0.06, p.paint(1))
    parts.append(
        moved(fin, turn=(0, 0, math.pi / 2), scale=(1, 0.6, 0.8), to=(-length * 0.42, 0, base + tall / 3))
    )
    return parts


def building(rng: random.Random, p: Painter) -> Parts:
    """Houses, towers, tents, wells, walls, gates."""
    depth, width, tall = rng.uniform(0.6, 1.6), rng.uniform(0.6, 1.8), rng.uniform(0.4, 2.2)
    wall, roof, trim = p.paint(0), p.paint(1), p.paint(2)
    parts = []
    if rng.random() < 0.25:
        parts.append(
            moved(
                lathe(
                    [(0.0, 0.0), (0.5, 0.0), (rng.uniform(0.35, 0.55), 1.0), (0.0, 1.0)],
                    wall,
                    segments=rng.choice([6, 8, 24]),
                ),
                scale=(width, width, tall),
            )
        )
        depth = width
    else:
        parts.append(moved(box((depth, width, tall), wall), to=(0, 0, tall / 2)))
    h, over = rng.uniform(0.2, 1.0), rng.uniform(1.0, 1.3)
    parts += _roof(rng, wall, roof, (depth, width, tall), h, over)
    door = rng.uniform(0.1, 0.25) * width
    parts.append(
        moved(
            box((0.06, 2 * door, min(4 * door, 0.7 * tall)), trim),
            to=(depth / 2, 0, min(2 * door, 0.35 * tall)),
        )
    )
    parts += _windows(rng, p, depth, width, tall)
    if rng.random() < 0.4:
        s = rng.uniform(0.08, 0.2)
        parts.append(
            moved(box((s, s, h + 0.3), trim), to=(rng.uniform(-0.3, 0.3) * depth, 0.3 * width, tall + h / 2))
        )
    if rng.random() < 0.4:
        parts.append(moved(box((depth * 1.5, width * 1.4, 0.08), p.paint(4)), to=(0, 0, 0.0)))
    if rng.random() < 0.3:  # a wing
        parts.append(
            moved(
                box((depth * 0.7, width * 0.6, tall * rng.uniform(0.3, 0.8)), wall),
                to=(0, rng.choice([-1, 1]) * width * 0.7, tall * 0.25),
            )
        )
    return parts


def _roof(
    rng: random.Random, wall: Tensor, roof: Tensor, size: tuple[float, float, float], h: float, over: float
) -> Parts:
    """A gable, a pyramid or a flat roof, `h` high, `over` times as wide as the house."""
    parts: Parts = []
    depth, width, tall = size
    kind = rng.random()
    if kind < 0.45:  # a gable, to either side
        gable = prism(torch.tensor([[-0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]), 1.0, roof)
        turned = rng.random() < 0.5
        gable = moved(gable, turn=(0, 0, math.pi / 2 if turned else 0.0))
        parts.append(moved(gable, scale=(depth * over, width * over, h), to=(0, 0, tall)))
    elif kind < 0.7:
        cone = lathe([(0.0, 0.0), (0.72, 0.0), (0.0, 1.0)], roof, segments=rng.choice([4, 4, 6, 24]))
        parts.append(
            moved(
                moved(cone, turn=(0, 0, math.pi / 4)), scale=(depth * over, width * over, h), to=(0, 0, tall)
            )
        )
    else:
        parts.append(moved(box((depth * over, width * over, 0.08), roof), to=(0, 0, tall + 0.04)))
        if rng.random() < 0.5:  # battlements
            for x in (-1, 1):
                parts += [
                    moved(
                        box((0.15 * depth, 0.2 * width, 0.2), wall),
                        to=(x * 0.45 * depth, y * 0.9 * width, tall + 0.15),
                    )
                    for y in (-0.5, 0.0, 0.5)
                ]
    return parts


def _windows(rng: random.Random, p: Painter, depth: float, width: float, tall: float) -> Parts:
    """Rows of windows on all sides."""
    parts: Parts = []
    rows, columns, s = rng.randint(0, 3), rng.randint(1, 3), rng.uniform(0.05, 0.1)
    glass = p.paint(3)
    for row in range(rows):
        for column in range(columns):
            y, z = (column + 0.7) / (columns + 0.7) * width / 2, tall * (row + 0.8) / (rows + 0.4)
            for x in (-1, 1):
                window = moved(box((0.05, 2 * s, 3 * s), glass), to=(x * depth / 2, y * 0.9, z))
                parts += [window, mirrored(window)]
            window = moved(
                box((2 * s, 0.05, 3 * s), glass), to=((column / columns - 0.3) * depth * 0.9, width / 2, z)
            )
            parts += [window, mirrored(window)]
    return parts
