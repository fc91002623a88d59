"""Things of a household: vessels, packages, furniture, tools, racks and lumps."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.data.procedural.paint import Painter
from v3d.data.procedural.parts import Parts, ball, box, lathe, mirrored, moved, prism, star_outline, tube
from v3d.data.warps import random_warp


def vessel(rng: random.Random, p: Painter) -> Parts:
    """Bottles, cans, jars, cups, bowls, vases: round about an axis, perhaps with a cap and a handle."""
    height = rng.uniform(0.3, 3.0)
    style = rng.random()
    if style < 0.3:  # a can
        r, rim = 1.0, rng.uniform(0.0, 0.1)
        profile = [(0.0, 0.0), (r - rim, 0.0), (r, rim), (r, height - rim), (r - rim, height), (0.0, height)]
    elif style < 0.55:  # a bottle
        neck, shoulder = rng.uniform(0.2, 0.6), rng.uniform(0.5, 0.8) * height
        bend = rng.uniform(0.05, 0.3) * height
        profile = [(0.0, 0.0), (0.95, 0.0), (1.0, 0.05), (1.0, shoulder)]
        profile += [
            (neck + (1 - neck) * (0.5 + 0.5 * math.cos(math.pi * t)), shoulder + bend * t)
            for t in (0.2, 0.4, 0.6, 0.8, 1.0)
        ]
        profile += [(neck, max(height, shoulder + bend)), (0.0, max(height, shoulder + bend))]
    else:  # any smooth profile
        knots = [rng.uniform(0.25, 1.0) for _ in range(rng.randint(2, 5))]
        curve = F.interpolate(torch.tensor(knots)[None, None], 16, mode="linear", align_corners=True)[0, 0]
        curve = F.avg_pool1d(F.pad(curve[None, None], (2, 2), mode="replicate"), 5, 1)[0, 0]
        profile = [(0.0, 0.0), *((r, height * k / 15) for k, r in enumerate(curve.tolist()))]
        if rng.random() < 0.5:  # open: down again inside
            wall = rng.uniform(0.04, 0.12)
            inside = [(max(r - wall, 0.02), z) for r, z in reversed(profile[1:])]
            profile += [(r, max(z, wall)) for r, z in inside] + [(0.0, wall)]
        else:
            profile.append((0.0, height))
    texture = p.label() if rng.random() < 0.4 else p.paint()
    parts = [lathe(profile, texture)]
    top = max(z for _, z in profile)
    if rng.random() < 0.5:
        r = rng.uniform(0.8, 1.1) * max(profile[-2][0], 0.15)
        parts.append(
            moved(
                lathe([(0.0, 0.0), (r, 0.0), (r, 1.0), (r * 0.9, 1.1), (0.0, 1.1)], p.paint()),
                to=(0, 0, top - 0.02),
                scale=(1, 1, rng.uniform(0.05, 0.3) * top),
            )
        )
    if rng.random() < 0.3:
        low, high = 0.2 * top, rng.uniform(0.6, 0.95) * top
        t = torch.linspace(0, math.pi, 12)
        path = torch.stack(
            [
                torch.zeros(12),
                0.9 + rng.uniform(0.3, 0.8) * t.sin(),
                (low + high) / 2 - (high - low) / 2 * t.cos(),
            ],
            -1,
        )
        handle = tube(path, torch.full((12,), rng.uniform(0.05, 0.12)), p.paint())
        parts += (
            [handle, mirrored(handle)]
            if rng.random() < 0.2
            else [moved(handle, turn=(0, 0, rng.choice([0.0, math.pi, rng.uniform(0, 6.28)])))]
        )
    return parts


def package(rng: random.Random, p: Painter) -> Parts:
    """Boxes with something printed on them: cartons, books, bricks, appliances."""
    size = (rng.uniform(0.1, 1.0), rng.uniform(0.3, 1.2), rng.uniform(0.2, 1.5))
    parts = [
        box(
            size,
            p.label() if rng.random() < 0.75 else p.paint(),
            rounding=rng.choice([0.0, 0.0, rng.uniform(0.02, 0.5)]),
        )
    ]
    for _ in range(rng.choice([0, 0, 1, 2, 4])):  # knobs, lids, feet, screens
        s = [rng.uniform(0.1, 0.9) * d for d in size]
        axis = rng.randrange(3)
        s[axis] = rng.uniform(0.02, 0.3) * size[axis]
        at = [rng.uniform(-0.5, 0.5) * (d - e) for d, e in zip(size, s, strict=True)]
        at[axis] = (size[axis] + s[axis]) / 2 * (1 if axis != 1 else rng.choice([-1, 1]))
        parts.append(
            moved(
                box((s[0], s[1], s[2]), p.paint(), rounding=rng.choice([0.0, 0.3])), to=(at[0], at[1], at[2])
            )
        )
    return parts


def furniture(rng: random.Random, p: Painter) -> Parts:
    """Tables, chairs, benches, beds, shelves, racks."""
    depth, width, height = rng.uniform(0.4, 1.2), rng.uniform(0.4, 2.0), rng.uniform(0.3, 1.2)
    thick = rng.uniform(0.03, 0.2)
    wood, cloth = p.paint(0), p.paint(1)
    parts = [moved(box((depth, width, thick), cloth, rounding=rng.choice([0.0, 0.4])), to=(0, 0, height))]
    legs = rng.uniform(0.02, 0.07)
    inset = rng.uniform(0.7, 1.0)
    parts += _legs(rng, wood, (depth, width, height), legs, inset, thick)
    if rng.random() < 0.5:
        parts += _back(rng, wood, cloth, (depth, width, height), legs, thick)
    if rng.random() < 0.25:  # arms
        arm = moved(
            box((depth, thick, rng.uniform(0.1, 0.4)), cloth, rounding=rng.choice([0.0, 0.4])),
            to=(0, width / 2, height + 0.15),
        )
        parts += [arm, mirrored(arm)]
    for _ in range(rng.choice([0, 0, 0, 1, 2])):  # things upon it
        thing = vessel(rng, Painter(rng)) if rng.random() < 0.6 else package(rng, Painter(rng))
        s = rng.uniform(0.08, 0.2) * min(depth, width)
        spot = (rng.uniform(-0.3, 0.3) * depth, rng.uniform(-0.35, 0.35) * width)
        low = min(float(t.vertices[:, 2].min()) for t in thing)
        parts += [moved(t, scale=(s, s, s), to=(*spot, height + thick / 2 - s * low)) for t in thing]
    return parts


def _legs(
    rng: random.Random,
    wood: Tensor,
    size: tuple[float, float, float],
    legs: float,
    inset: float,
    thick: float,
) -> Parts:
    """Four legs, two sides with shelves, or one foot."""
    parts: Parts = []
    depth, width, height = size
    x, y = inset * (depth / 2 - legs), inset * (width / 2 - legs)
    style = rng.random()
    if style < 0.6:
        spread, round_ = rng.uniform(1.0, 1.3), rng.random() < 0.5
        for sx in (-1, 1):
            if round_:
                path = torch.tensor(
                    [[sx * x * spread, y * spread, 0.0], [sx * x, y, height / 2], [sx * x, y, height]]
                )
                leg = tube(path, torch.full((3,), legs), wood)
            else:
                leg = moved(box((2 * legs, 2 * legs, height), wood), to=(sx * x, y, height / 2))
            parts += [leg, mirrored(leg)]
    elif style < 0.8:
        side = moved(box((depth, 2 * legs, height), wood), to=(0, width / 2 - legs, height / 2))
        parts += [side, mirrored(side)]
        for k in range(rng.randint(0, 4)):
            parts.append(
                moved(
                    box((depth * 0.95, width - 2 * legs, thick * 0.6), wood),
                    to=(0, 0, height * (k + 0.2) / 5),
                )
            )
    else:
        parts.append(
            moved(
                lathe(
                    [
                        (0.0, 0.0),
                        (0.4 * width, 0.0),
                        (0.35 * width, 0.05),
                        (legs, 0.1),
                        (legs, height),
                        (0.0, height),
                    ],
                    wood,
                ),
                scale=(0.9, 0.9, 1),
            )
        )
    return parts


def _back(
    rng: random.Random,
    wood: Tensor,
    cloth: Tensor,
    size: tuple[float, float, float],
    legs: float,
    thick: float,
) -> Parts:
    """A back of one piece, or of bars."""
    parts: Parts = []
    depth, width, height = size
    tall = rng.uniform(0.3, 1.0)
    if rng.random() < 0.5:
        parts.append(
            moved(
                box((thick, width, tall), cloth, rounding=rng.choice([0.0, 0.3])),
                to=(-depth / 2, 0, height + tall / 2),
            )
        )
    else:
        n = rng.randint(2, 6)
        for k in range(n):
            parts.append(
                moved(
                    box((legs, legs, tall), wood),
                    to=(-depth / 2 + legs, (k / (n - 1) - 0.5) * (width - legs), height + tall / 2),
                )
            )
        parts.append(moved(box((legs, width, 2 * legs), wood), to=(-depth / 2 + legs, 0, height + tall)))
    return parts


def tool(rng: random.Random, p: Painter) -> Parts:
    """Hammers, spoons, swords, brushes, guns, lamps: a handle and what is on it; flat across x."""
    t = torch.linspace(0, 1, 9)
    bend, thick = rng.uniform(-0.15, 0.15), rng.uniform(0.03, 0.12)
    swell = 1 + rng.uniform(-0.3, 0.6) * (math.pi * rng.uniform(1, 3) * t).sin()
    parts = [
        tube(torch.stack([torch.zeros(9), bend * (math.pi * t).sin(), t], -1), thick * swell, p.paint(0))
    ]
    kind = rng.random()
    if kind < 0.35:
        outline = star_outline(rng)
        parts.append(
            moved(
                prism(outline, rng.uniform(0.03, 0.3), p.paint(1)),
                scale=(1, rng.uniform(0.2, 0.6), rng.uniform(0.3, 1.0)),
                to=(0, 0, 1.1),
            )
        )
    elif kind < 0.6:
        size = (rng.uniform(0.1, 0.5), rng.uniform(0.2, 1.0), rng.uniform(0.1, 0.5))
        parts.append(
            moved(
                box(size, p.paint(1), rounding=rng.choice([0.0, 0.2, 0.5])),
                to=(0, rng.uniform(-0.3, 0.3), 1.0),
            )
        )
    elif kind < 0.8:
        r = rng.uniform(0.1, 0.4)
        parts.append(
            moved(
                ball(p.paint(1), power=rng.uniform(1.2, 5)),
                scale=(r * rng.uniform(0.2, 1), r, r * rng.uniform(0.5, 1.5)),
                to=(0, 0, 1.05),
            )
        )
    else:
        blade = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.9, 0.8], [0.0, 1.0], [-0.9, 0.8]])
        parts.append(
            moved(
                prism(blade, 0.04, p.paint(1)),
                scale=(1, rng.uniform(0.05, 0.15), rng.uniform(0.8, 2)),
                to=(0, 0, 1.0),
            )
        )
        parts.append(moved(box((0.1, rng.uniform(0.3, 0.6), 0.07), p.paint(2)), to=(0, 0, 1.0)))
    if rng.random() < 0.3:
        parts.append(
            moved(
                box((thick * 1.5, 0.3, thick * 2), p.paint(2), rounding=0.3),
                to=(0, 0.15, rng.uniform(0.1, 0.9)),
            )
        )
    lay = rng.choice([0.0, 0.0, math.pi / 2, rng.uniform(-1, 1)])
    return [moved(part, turn=(lay, 0, 0)) for part in parts]


def frame(rng: random.Random, p: Painter) -> Parts:
    """Fences, ladders, racks, crates, scaffolds: bars across bars."""
    depth, width, tall = rng.uniform(0.05, 0.8), rng.uniform(0.5, 1.8), rng.uniform(0.5, 1.8)
    bar = rng.uniform(0.02, 0.08)
    wood, rail = p.paint(0), p.paint(1)
    parts = []
    for x in [-depth / 2, depth / 2] if rng.random() < 0.7 else [0.0]:
        post = moved(box((bar, bar, tall), wood), to=(x, width / 2, tall / 2))
        parts += [post, mirrored(post)]
        n = rng.randint(1, 5)
        for k in range(n):
            parts.append(
                moved(
                    box((bar * 0.8, width, bar * rng.uniform(0.8, 2)), rail), to=(x, 0, tall * (k + 0.5) / n)
                )
            )
        for k in range(rng.choice([0, 0, 3, 6])):
            parts.append(
                moved(box((bar * 0.6, bar, tall * 0.8), rail), to=(x, (k / 6 - 0.4) * width, tall / 2))
            )
    for k in range(rng.randint(0, 3)):
        parts.append(moved(box((depth, width, bar / 2), rail), to=(0, 0, tall * (k + 0.5) / 3)))
    return parts


def lumps(rng: random.Random, p: Painter) -> Parts:
    """Fruit, bread, stones, clouds, shells: one or a few lumps without edges."""
    parts = []
    texture = p.paint()
    for _ in range(rng.choice([1, 1, 1, 2, 3, 5])):
        warp = random_warp(torch.Generator().manual_seed(rng.getrandbits(60)), slope=0.35)
        lump = ball(
            texture if rng.random() < 0.7 else p.paint(),
            power=rng.uniform(1.6, 3.5),
            segments=rng.choice([8, 16, 28]),
        )
        lump = moved(lump, scale=(rng.uniform(0.4, 1), rng.uniform(0.4, 1), rng.uniform(0.3, 1)))
        lump = replace(lump, vertices=warp(lump.vertices))
        parts.append(
            moved(
                lump,
                turn=(rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.uniform(0, 6.28)),
                to=(rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6), rng.uniform(0, 0.4)),
            )
        )
    if rng.random() < 0.3:
        path = torch.tensor([[0.0, 0.0, 0.5], [0.0, 0.05, 0.9], [0.05, 0.1, 1.2]])
        parts.append(tube(path, torch.full((3,), 0.04), p.paint()))
    return parts
