"""People, animals and plants."""

from __future__ import annotations

import colorsys
import math
import random
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from v3d.data.procedural.household import tool
from v3d.data.procedural.paint import PART, Painter, pattern, plain
from v3d.data.procedural.parts import Parts, ball, box, lathe, mirrored, moved, prism, tube
from v3d.meshes.mesh import Mesh

Lump = Callable[[tuple[float, float, float], Tensor], Mesh]
"""Makes a lump of a size and a texture, in the style of one creature."""


def _lump(rng: random.Random, blocky: bool, size: tuple[float, float, float], texture: Tensor) -> Mesh:
    """A box or a ball of that size."""
    if blocky:
        return box(size, texture, rounding=rng.choice([0.0, 0.1, 0.3]))
    return moved(ball(texture, power=rng.uniform(1.8, 4)), scale=(size[0] / 2, size[1] / 2, size[2] / 2))


def _pair(part: Mesh) -> Parts:
    """A part at the left and its mirror image at the right."""
    return [part, mirrored(part)]


def _face(
    rng: random.Random,
    p: Painter,
    textures: tuple[Tensor, Tensor, Tensor],
    head: float,
    size: tuple[float, float, float],
    middle: tuple[float, float],
) -> Parts:
    """Eyes, a nose, ears and a hat on a head of that size; `middle` is its x and z."""
    parts: Parts = []
    (skin, coat, dark), (front, lift) = textures, middle
    r = head * rng.uniform(0.05, 0.16)
    if rng.random() < 0.85:  # eyes
        parts += _pair(
            moved(
                ball(dark, segments=10),
                scale=(r, r, r),
                to=(
                    front + size[0] * 0.46,
                    size[1] * rng.uniform(0.15, 0.3),
                    lift + size[2] * rng.uniform(0, 0.2),
                ),
            )
        )
    if rng.random() < 0.6:  # a snout, beak or nose
        n = head * rng.uniform(0.1, 0.4)
        parts.append(
            moved(
                ball(p.paint(), power=rng.choice([1.0, 2.0, 4.0])),
                scale=(n, n * 0.7, n * 0.6),
                to=(front + size[0] * 0.5, 0, lift - size[2] * 0.12),
            )
        )
    if rng.random() < 0.6:  # ears or horns
        e = head * rng.uniform(0.1, 0.45)
        parts += _pair(
            moved(
                ball(rng.choice([skin, coat]), power=rng.choice([1.0, 2.0])),
                scale=(e * 0.35, e * 0.5, e),
                turn=(rng.uniform(-0.8, 0.2), 0, 0),
                to=(front, size[1] * 0.4, lift + size[2] * 0.45),
            )
        )
    if rng.random() < 0.35:  # hat or hair
        h = rng.uniform(0.2, 0.6) * head
        hat = rng.choice(
            [
                [(0.0, 0.0), (0.9, 0.0), (0.9, 0.1), (0.5, 0.1), (0.5, 1.0), (0.0, 1.0)],
                [(0.0, 0.0), (0.6, 0.0), (0.0, 1.3)],
                [(0.0, 0.0), (0.55, 0.0), (0.5, 0.5), (0.0, 0.8)],
            ]
        )
        parts.append(moved(lathe(hat, p.paint()), scale=(head, head, h), to=(front, 0, lift + size[2] * 0.4)))
    return parts


def _leg_pair(
    rng: random.Random,
    p: Painter,
    textures: tuple[Tensor, Tensor],
    lump: Lump,
    blocky: bool,
    place: tuple[float, float, float],
    thick: float,
) -> Parts:
    """Two legs, perhaps with feet; `place` is their x, the width of the body and their length."""
    parts: Parts = []
    (skin, coat), (x, width, leg) = textures, place
    y = width * rng.uniform(0.2, 0.35)
    if blocky:
        parts += _pair(moved(box((2 * thick, 2 * thick, leg + 0.1), p.paint(2)), to=(x, y, leg / 2)))
    else:
        path = torch.tensor([[x, y, 0.0], [x + rng.uniform(-0.1, 0.1), y, leg / 2], [x, y, leg + 0.15]])
        parts += _pair(tube(path, torch.tensor([thick, thick, thick * 1.2]), rng.choice([skin, coat])))
    if rng.random() < 0.5:
        parts += _pair(
            moved(
                lump((thick * 3.2, thick * 2.2, thick * 1.4), p.paint(3)),
                to=(x + thick * 0.6, y, thick * 0.6),
            )
        )
    return parts


def _arms(
    rng: random.Random,
    p: Painter,
    textures: tuple[Tensor, Tensor],
    lump: Lump,
    body: tuple[float, float, float],
    base: float,
    thick: float,
) -> Parts:
    """Arms and hands of a body whose middle is at height `base`, perhaps with a tool."""
    parts: Parts = []
    skin, coat = textures
    shoulder, reach = base + 0.35 * body[2], rng.uniform(0.4, 1.1) * body[2]
    swing, out = rng.uniform(-0.2, 1.2), rng.uniform(0.1, 1.3)
    tip = [
        reach * math.sin(swing),
        body[1] / 2 + reach * 0.7 * math.sin(out),
        shoulder - reach * math.cos(max(swing, out)),
    ]
    path = torch.tensor(
        [
            [0.0, body[1] * 0.42, shoulder],
            [(tip[0]) / 2, (tip[1] + body[1] / 2) / 2 + 0.05, (tip[2] + shoulder) / 2],
            tip,
        ]
    )
    parts += _pair(tube(path, torch.tensor([thick, thick * 0.9, thick * 0.8]), coat))
    parts += _pair(moved(lump((thick * 2.4,) * 3, skin), to=(tip[0], tip[1], tip[2])))
    if rng.random() < 0.3:  # something in one hand
        parts += [moved(t, scale=(0.4, 0.4, 0.4), to=(tip[0] + 0.1, -tip[1], tip[2])) for t in tool(rng, p)]
    return parts


def creature(rng: random.Random, p: Painter) -> Parts:
    """People, animals, plush toys, robots, monsters: a body, a head, limbs in pairs."""
    blocky = rng.random() < 0.35
    skin, coat, dark = p.paint(0), p.paint(1), torch.full((PART, PART, 3), rng.uniform(0, 0.15))
    lump = partial(_lump, rng, blocky)
    upright = rng.random() < 0.6
    if upright:
        body = (rng.uniform(0.3, 0.9), rng.uniform(0.4, 1.0), rng.uniform(0.5, 1.3))
        leg, hip = rng.uniform(0.15, 1.0), 0.0
    else:
        body = (rng.uniform(0.8, 1.8), rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.8))
        leg, hip = rng.uniform(0.1, 0.9), 0.35 * body[0]
    base = leg + body[2] / 2
    parts = [moved(lump(body, coat), to=(0, 0, base))]
    head = rng.uniform(0.35, 1.1)
    size = (head * rng.uniform(0.8, 1.2), head * rng.uniform(0.8, 1.2), head * rng.uniform(0.8, 1.2))
    lift = base + body[2] / 2 + head * rng.uniform(0.2, 0.5)
    front = 0.0 if upright else body[0] / 2 + head * rng.uniform(-0.1, 0.4)
    if not upright:
        lift -= rng.uniform(0.0, 0.5) * body[2]
    parts.append(moved(lump(size, skin), to=(front, 0, lift)))
    parts += _face(rng, p, (skin, coat, dark), head, size, (front, lift))
    thick = rng.uniform(0.06, 0.2)
    for x in [0.0] if hip == 0 else [-hip, hip]:
        parts += _leg_pair(rng, p, (skin, coat), lump, blocky, (x, body[1], leg), thick)
    if upright and rng.random() < 0.9:
        parts += _arms(rng, p, (skin, coat), lump, body, base, thick)
    if rng.random() < 0.5:  # a tail
        t = torch.linspace(0, 1, 7)
        bend, length = rng.uniform(-1.5, 1.5), rng.uniform(0.2, 1.0)
        path = torch.stack([-body[0] / 2 - length * t + 0.1, torch.zeros(7), base + bend * length * t**2], -1)
        parts.append(tube(path, thick * (1.1 - rng.uniform(0, 1) * t), p.paint()))
    if rng.random() < 0.25:  # wings, fins or a cape
        outline = torch.tensor([[0.0, 0.0], [0.5, -0.3], [1.0, 0.2], [0.7, 0.5], [0.1, 0.3]])
        parts += _pair(
            moved(
                prism(outline, 0.08, p.paint()),
                scale=(1, rng.uniform(0.4, 1.4), rng.uniform(0.4, 1.4)),
                turn=(0, 0, rng.uniform(-0.3, 0.9)),
                to=(-0.2, body[1] * 0.4, base + 0.1),
            )
        )
    return parts


def plant(rng: random.Random, p: Painter) -> Parts:
    """Trees, bushes, flowers, mushrooms, potted plants."""
    green = torch.tensor(
        colorsys.hsv_to_rgb(rng.uniform(0.05, 0.45), rng.uniform(0.3, 0.9), rng.uniform(0.25, 0.9))
    )
    leaf = (green * (1 + 0.6 * (pattern(rng) - 0.5))).clamp(0, 1) if rng.random() < 0.4 else plain(green)
    brown = colorsys.hsv_to_rgb(rng.uniform(0.03, 0.3), rng.uniform(0.2, 0.7), rng.uniform(0.2, 0.6))
    bark = plain(torch.tensor(brown))
    trunk, thick = rng.uniform(0.1, 1.6), rng.uniform(0.03, 0.18)
    lean = rng.uniform(-0.3, 0.3)
    t = torch.linspace(0, 1, 6)
    parts = [
        tube(
            torch.stack([torch.zeros(6), lean * t**2, trunk * t], -1),
            thick * (1.3 - 0.5 * t),
            bark,
            segments=7,
        )
    ]
    parts += _crown(rng, p, leaf, lean, trunk)
    if rng.random() < 0.3:
        parts.append(
            moved(
                lathe(
                    [(0.0, 0.0), (0.7, 0.0), (1.0, 1.0), (1.08, 1.0), (1.08, 1.15), (0.0, 1.15)], p.paint()
                ),
                scale=(0.3, 0.3, 0.4),
                to=(0, 0, -0.35),
            )
        )
    elif rng.random() < 0.2:
        parts.append(moved(ball(p.paint(), segments=10), scale=(0.6, 0.5, 0.12)))
    return parts


def _crown(rng: random.Random, p: Painter, leaf: Tensor, lean: float, trunk: float) -> Parts:
    """Tiers of cones, lumps of leaves, or blades around the top of the trunk."""
    parts: Parts = []
    kind = rng.random()
    if kind < 0.3:  # tiers of cones
        tiers = rng.randint(1, 4)
        for k in range(tiers):
            r = rng.uniform(0.45, 0.6) * (1 - 0.6 * k / tiers)
            cone = lathe([(0.0, 0.0), (r, 0.0), (0.0, 1.0)], leaf, segments=rng.choice([6, 8, 16]))
            parts.append(
                moved(cone, scale=(1, 1, rng.uniform(0.6, 1.2)), to=(0, lean, trunk * 0.6 + 0.45 * k))
            )
    elif kind < 0.7:  # lumps of leaves
        for _ in range(rng.randint(1, 6)):
            r = rng.uniform(0.2, 0.6)
            lump = ball(leaf, power=rng.uniform(1.6, 3), segments=rng.choice([8, 12, 20]))
            parts.append(
                moved(
                    lump,
                    scale=(r, r, r * rng.uniform(0.6, 1.2)),
                    to=(rng.gauss(0, 0.3), lean + rng.gauss(0, 0.3), trunk + rng.uniform(0, 0.6)),
                )
            )
    else:  # leaves or petals around the top
        n, length, rise = rng.randint(4, 9), rng.uniform(0.3, 1.0), rng.uniform(-0.5, 1.0)
        for k in range(n):
            blade = moved(
                ball(leaf, segments=10),
                scale=(length / 2, rng.uniform(0.05, 0.2), 0.03),
                to=(length / 2, 0, 0),
            )
            blade = moved(blade, turn=(0, -rise + rng.gauss(0, 0.15), 0))
            parts.append(
                moved(blade, turn=(0, 0, 2 * math.pi * k / n + rng.gauss(0, 0.1)), to=(0, lean, trunk))
            )
        if rng.random() < 0.5:
            parts.append(moved(ball(p.paint()), scale=(0.12, 0.12, 0.12), to=(0, lean, trunk)))
    return parts
