"""Do neighbouring photos have like colours along the edges at which they meet?

Counter-clockwise seen from above, a photo's right edge shows what the next photo's left edge shows. So left
and right exchanged are noticed even where all outlines are symmetrical.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_STRIP = 0.05  # width of an edge, of the object's box
_SMOOTH = 5  # rows over which an edge's colours are averaged
_NEIGHBOURS = 100.0  # degrees; photos farther apart share no edge
_FEWEST = 5  # rows that two edges must share


class EdgeColours:
    """Colours along the left and right edges of n registered photos."""

    def __init__(self, photos: Sequence[Tensor]) -> None:
        """`photos`: [S, S, 4] straight alpha in [0, 1], registered, of one small size."""
        edges = [_edges(photo) for photo in photos]
        self._left = [left for left, _, _ in edges]
        self._right = [right for _, right, _ in edges]
        self._rows = [rows for _, _, rows in edges]

    def difference(self, azimuths: Sequence[float]) -> float | None:
        """Mean absolute difference in chroma across all shared edges, in [0, 1]; None if there are none.

        `azimuths` of the photos in degrees, as stated or otherwise.
        """
        order = sorted(range(len(azimuths)), key=lambda i: azimuths[i] % 360)
        found = []
        for i, j in zip(order, order[1:] + order[:1], strict=True):
            rows = self._rows[i] & self._rows[j]
            if 0 < (azimuths[j] - azimuths[i]) % 360 <= _NEIGHBOURS and int(rows.sum()) >= _FEWEST:
                apart = (self._right[i] - self._left[j])[rows]
                # Sides differ in brightness by light: only differences between the channels count.
                found.append(float((apart - apart.mean(1, keepdim=True)).abs().mean()))
        return sum(found) / len(found) if found else None


def _edges(photo: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [S, 3] along the left and the right edge, and the rows [S] bool that show the object."""
    inside = photo[..., 3] > 0.5
    size = len(photo)
    columns = torch.arange(size)
    rows = inside.any(1)
    first = torch.where(inside, columns, size).amin(1)
    last = torch.where(inside, columns, -1).amax(1)
    width = max(2, round(_STRIP * (int(last[rows].max()) - int(first[rows].min()) + 1)))

    def mean(low: Tensor, high: Tensor) -> Tensor:
        strip = (inside & (columns >= low[:, None]) & (columns <= high[:, None])).float()[..., None]
        # The outermost pixel is half ground; a row of one pixel has no other.
        colour = (photo[..., :3] * strip).sum(1) / strip.sum(1).clamp_min(1e-6)
        return _smooth(colour, rows & (strip.sum(1)[:, 0] > 0))

    left = mean(first + 1, torch.minimum(first + width, last))
    right = mean(torch.maximum(last - width, first), last - 1)
    return left, right, rows & (last > first)


def _smooth(colour: Tensor, rows: Tensor) -> Tensor:
    """Means of colours [S, 3] over `_SMOOTH` rows, of those that count [S]."""

    def pool(x: Tensor) -> Tensor:
        return F.avg_pool1d(x.mT[None], _SMOOTH, 1, _SMOOTH // 2)[0].mT

    weight = rows.float()[:, None]
    return pool(colour * weight) / pool(weight).clamp_min(1e-6)
