"""The kinds of procedural objects and how often each is made.

Each kind is a rule of thumb for one sort of thing, wide enough to surprise.
Fronts look along +x, left and right are -y and +y, z is up; sizes are relative.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch

from v3d.data.procedural.built import building, vehicle
from v3d.data.procedural.household import frame, furniture, lumps, package, tool, vessel
from v3d.data.procedural.living import creature, plant
from v3d.data.procedural.paint import Painter
from v3d.data.procedural.parts import Parts, ball, box, lathe, mirrored, moved, prism, star_outline, tube


def anything(rng: random.Random, p: Painter) -> Parts:
    """Random parts in random places; half of the time symmetric."""
    parts: Parts = []
    symmetric = rng.random() < 0.5
    for _ in range(rng.randint(2, 7)):
        texture = p.label() if rng.random() < 0.15 else p.paint()
        size = (rng.uniform(0.1, 1.0), rng.uniform(0.1, 1.0), rng.uniform(0.1, 1.0))
        kind = rng.randrange(5)
        if kind == 0:
            part = box(size, texture, rounding=rng.choice([0.0, 0.0, 0.3]))
        elif kind == 1:
            part = moved(
                ball(texture, power=rng.uniform(1, 6)), scale=(size[0] / 2, size[1] / 2, size[2] / 2)
            )
        elif kind == 2:
            t = torch.linspace(0, 1, 8)[:, None]
            ends = torch.tensor([[rng.uniform(-0.7, 0.7) for _ in range(3)] for _ in range(3)])
            path = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
            part = tube(path, torch.full((8,), 0.25 * size[0] + 0.02), texture)
        elif kind == 3:
            part = moved(prism(star_outline(rng), size[0] * 0.6, texture), scale=(1, size[1], size[2]))
        else:
            profile = [(0.0, 0.0), *((rng.uniform(0.1, 0.6), z) for z in (0.0, 0.3, 0.7, 1.0)), (0.0, 1.0)]
            part = lathe(profile, texture, segments=rng.choice([4, 6, 8, 24]))
        turns = [rng.choice([0.0, 0.0, math.pi / 2, rng.uniform(-3, 3)]) for _ in range(3)]
        part = moved(part, turn=(turns[0], turns[1], turns[2]))
        at = rng.choice(parts).vertices.mean(0).tolist() if parts else [0.0, 0.0, 0.0]
        part = moved(
            part,
            to=(
                at[0] + rng.uniform(-0.5, 0.5),
                at[1] + rng.uniform(-0.5, 0.5),
                at[2] + rng.uniform(-0.3, 0.6),
            ),
        )
        parts += [part, mirrored(part)] if symmetric else [part]
    return parts


Kind = Callable[[random.Random, Painter], Parts]
"""Makes the parts of one object from random choices and a painter."""

KINDS: dict[Kind, float] = {
    vessel: 2,
    package: 2,
    furniture: 1.5,
    creature: 3,
    vehicle: 1.5,
    building: 1.5,
    plant: 1.5,
    tool: 1.5,
    frame: 0.5,
    lumps: 1.5,
    anything: 2,
}
"""The kinds, and how often each is made in relation to the others."""
