"""Procedural textures for the grounds and walls of synthetic scenes: endless tiles, read without aliasing.

Every texture repeats, so that a plane of any extent can wear it, and is kept as a pyramid of halved images:
a surface far away or seen at a slant reads the level whose texels are as large as its pixels.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.data.random_numbers import integer, uniform

SIDE = 256
"""Texels of a tile's side."""

_FINE = 2 * SIDE  # patterns are drawn so large, then halved: their edges are smooth


@dataclass(frozen=True)
class Texture:
    """A tile that repeats in both directions.

    Attributes:
        texels: [sum of 4^l, 3] in [0, 1]: the levels of the pyramid one after the other, the finest first.
        cells: how many of its finest features (checks, planks, blots) lie along one side of the tile.
    """

    texels: Tensor
    cells: float

    @staticmethod
    def of(image: Tensor, cells: float) -> Texture:
        """The pyramid of an image [SIDE, SIDE, 3]."""
        levels, level = [], image.permute(2, 0, 1)[None]
        while True:
            levels.append(level[0].permute(1, 2, 0).reshape(-1, 3))
            if level.shape[-1] == 1:
                return Texture(torch.cat(levels), cells)
            level = F.avg_pool2d(level, 2)

    def sample(self, uv: Tensor, footprint: Tensor) -> Tensor:
        """Colours [N, 3] at uv [N, 2] in tiles, averaged over about `footprint` [N] tiles (trilinear)."""
        top = int(math.log2(SIDE))
        level = (footprint * SIDE).clamp_min(1).log2().clamp_max(top)
        low = level.floor().long().clamp_max(top - 1)
        mix = (level - low)[:, None]
        return self._bilinear(uv, low) * (1 - mix) + self._bilinear(uv, low + 1) * mix

    def _bilinear(self, uv: Tensor, level: Tensor) -> Tensor:
        # The level's own side, and where it begins in `texels`: the sum of (SIDE / 2^k)^2 over
        # finer levels k.
        side = SIDE >> level
        begin = (4 * SIDE * SIDE - 4 * side * side) // 3
        xy = (uv * side[:, None] - 0.5).T
        corner = xy.floor()
        fx, fy = (xy - corner)[..., None]
        x0, y0 = corner.long()
        last = side - 1  # the side is a power of two: its remainder is a mask
        x1, y1 = (x0 + 1) & last, begin + ((y0 + 1) & last) * side
        x0, y0 = x0 & last, begin + (y0 & last) * side

        def row(y: Tensor) -> Tensor:
            return torch.lerp(self.texels.index_select(0, y + x0), self.texels.index_select(0, y + x1), fx)

        return torch.lerp(row(y0), row(y1), fy)


def random_texture(generator: torch.Generator) -> Texture:
    """A tile of a random kind, colours and scale."""
    kinds: list[Callable[[torch.Generator], tuple[Tensor, float]]] = [
        _plain, _clouds, _checks, _tiles, _planks, _stripes, _marble, _speckles, _mosaic, _blots,
    ]  # fmt: skip
    image, cells = kinds[integer(generator, 0, len(kinds))](generator)
    # Nothing real is uniform: a faint unevenness, large and small.
    uneven = (noise(generator, 1, 4) - 0.5) * 0.16 + (noise(generator, 20, 60) - 0.5) * uniform(
        generator, 0.0, 0.12
    )
    image = (image * (1 + uneven[..., None])).clamp(0, 1)
    return Texture.of(F.avg_pool2d(image.permute(2, 0, 1)[None], 2)[0].permute(1, 2, 0), cells)


def random_colours(generator: torch.Generator, count: int) -> Tensor:
    """[count, 3] colours: of one hue, or of any; none nearly black."""
    hue, spread = uniform(generator, 0, 1), uniform(generator, 0, 1) ** 2
    vivid = uniform(generator, 0.1, 0.9)
    rows = []
    for _ in range(count):
        h = (hue + spread * uniform(generator, -0.5, 0.5)) % 1
        rows.append(
            colorsys.hsv_to_rgb(h, vivid * uniform(generator, 0, 1), uniform(generator, 0.3, 1.0) ** 0.7)
        )
    return torch.tensor(rows)


def noise(generator: torch.Generator, low: float, high: float, *, stretch: float = 1.0) -> Tensor:
    """Periodic noise [_FINE, _FINE] of `low` to `high` waves a tile, evenly spread over [0, 1].

    Args:
        generator: of the noise.
        low, high: waves a tile.
        stretch: features are so much longer along x than along y.
    """
    fy = torch.fft.fftfreq(_FINE, 1 / _FINE)[:, None]
    fx = torch.fft.rfftfreq(_FINE, 1 / _FINE)[None]
    f = (fy**2 + (stretch * fx) ** 2).sqrt()
    spectrum = torch.fft.rfft2(torch.randn(_FINE, _FINE, generator=generator))
    x = torch.fft.irfft2(spectrum * ((f >= low) & (f <= high)) / f.clamp_min(1), s=(_FINE, _FINE))
    return 0.5 * (1 + torch.erf(x / (x.std().clamp_min(1e-12) * math.sqrt(2))))


def _grid() -> tuple[Tensor, Tensor]:
    """x and y of the fine texels, in [0, 1)."""
    t = (torch.arange(_FINE) + 0.5) / _FINE
    return t[None].expand(_FINE, _FINE), t[:, None].expand(_FINE, _FINE)


def _ramp(colours: Tensor, t: Tensor) -> Tensor:
    """Colours [n, 3] laid out evenly over t in [0, 1] -> [*t, 3], blended between."""
    at = t.clamp(0, 1) * (len(colours) - 1)
    low = at.long().clamp_max(len(colours) - 2)
    return torch.lerp(colours[low], colours[low + 1], (at - low)[..., None])


def _plain(generator: torch.Generator) -> tuple[Tensor, float]:
    return _ramp(random_colours(generator, 2), 0.3 * noise(generator, 1, 2)), 2.0


def _clouds(generator: torch.Generator) -> tuple[Tensor, float]:
    waves = uniform(generator, 3, 24)
    return _ramp(random_colours(generator, 3), noise(generator, 1, waves)), waves


def _blots(generator: torch.Generator) -> tuple[Tensor, float]:
    """Noise with hard edges."""
    waves = uniform(generator, 3, 12)
    t = (noise(generator, 1, waves) * 4).floor() / 3
    return _ramp(random_colours(generator, 4), t), waves


def _checks(generator: torch.Generator) -> tuple[Tensor, float]:
    n = 2 * integer(generator, 2, 6)
    x, y = _grid()
    odd = ((x * n).floor() + (y * n).floor()) % 2
    return _ramp(random_colours(generator, 2), odd), n


def _tiles(generator: torch.Generator) -> tuple[Tensor, float]:
    """Tiles or bricks, each of its own shade, with joints."""
    rows = 2 * integer(generator, 2, 5)
    columns = rows // integer(generator, 1, 3)
    x, y = _grid()
    row = (y * rows).floor()
    along = x * columns + (row % 2) * (0.5 if columns < rows else 0.0)
    shades = torch.rand(rows, columns, generator=generator)
    image = _ramp(random_colours(generator, 3), shades[row.long(), along.floor().long() % columns])
    joint = uniform(generator, 0.02, 0.08)
    dx, dy = (along % 1 - 0.5).abs() * rows / columns, (y * rows % 1 - 0.5).abs()
    gap = (dx > 0.5 * rows / columns - joint) | (dy > 0.5 - joint)
    return torch.where(gap[..., None], random_colours(generator, 1)[0], image), float(rows)


def _planks(generator: torch.Generator) -> tuple[Tensor, float]:
    """Wood: planks along x, with grain."""
    rows = integer(generator, 3, 8)
    hue, saturation = uniform(generator, 0.03, 0.12), uniform(generator, 0.2, 0.7)
    light, dark = (colorsys.hsv_to_rgb(hue, saturation, v) for v in (uniform(generator, 0.6, 1.0), 0.4))
    _, y = _grid()
    shades = torch.rand(rows, generator=generator)[(y * rows).long()]
    grain = noise(generator, 4, 40, stretch=uniform(generator, 6, 15))
    image = _ramp(torch.tensor([light, dark]), 0.45 * shades + 0.5 * grain)
    seam = (y * rows % 1 - 0.5).abs() > 0.47
    return image * (1 - 0.35 * seam[..., None].float()), rows * 1.5


def _stripes(generator: torch.Generator) -> tuple[Tensor, float]:
    n = integer(generator, 2, 8)
    _, y = _grid()
    wave = 0.06 * uniform(generator, 0, 1) * (noise(generator, 1, 3) - 0.5)
    t = 0.5 + 0.5 * torch.sin(2 * math.pi * n * (y + wave)) * uniform(generator, 1, 6)
    return _ramp(random_colours(generator, 2), t), 2.0 * n


def _marble(generator: torch.Generator) -> tuple[Tensor, float]:
    n = integer(generator, 1, 5)
    x, y = _grid()
    t = torch.sin(2 * math.pi * (n * (x + y) + 1.5 * noise(generator, 1, 12)))
    return _ramp(random_colours(generator, 3), 0.5 + 0.5 * t), 8.0


def _nearest(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """[_FINE, _FINE] distance in tiles to the nearest of `count` random points, and its number."""
    x, y = _grid()
    turns = 2 * math.pi * torch.stack([x, y], -1).reshape(-1, 2)
    points = 2 * math.pi * torch.rand(count, 2, generator=generator)
    # On a torus embedded in four dimensions the straight distance respects the tile's repetition.
    cosine = torch.cat([turns.cos(), turns.sin()], 1) @ torch.cat([points.cos(), points.sin()], 1).T
    best, which = cosine.max(1)
    distance = (4 - 2 * best).clamp_min(0).sqrt() / (2 * math.pi)
    return distance.view(_FINE, _FINE), which.view(_FINE, _FINE)


def _speckles(generator: torch.Generator) -> tuple[Tensor, float]:
    count = integer(generator, 20, 80)
    distance, which = _nearest(generator, count)
    radius = (0.15 + 0.3 * torch.rand(count, generator=generator)) / math.sqrt(count)
    dots = random_colours(generator, 4)[torch.randint(0, 4, (count,), generator=generator)][which]
    image = torch.where((distance < radius[which])[..., None], dots, random_colours(generator, 1)[0])
    return image, 2 * math.sqrt(count)


def _mosaic(generator: torch.Generator) -> tuple[Tensor, float]:
    count = integer(generator, 12, 64)
    _, which = _nearest(generator, count)
    return _ramp(random_colours(generator, 4), torch.rand(count, generator=generator)[which]), math.sqrt(
        count
    )
