"""What a user should know of photos that do not fit each other: mirrored, exchanged, or of something else.

Only outlines decide. On 40 objects of the validation split, from four sides, TABLE. What outlines cannot tell
(two photos, symmetrical outlines) is not noticed: colours along the edges of neighbouring photos were tried
and are no better than a guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from v3d.surface.coherence import ROLL, SHIFT_X, Alignment, Coherence

_DOUBTFUL = 30.0  # cost at which other explanations are tried
_EXPLAINED = 0.5  # another explanation must leave less of the cost than this
_MISFIT = 0.006  # root mean square gap in image sides at which photos do not fit
_AS_LIKELY = 1.5  # photos whose removal leaves gaps of this ratio are equally likely the wrong one


def misfit_notes(
    coherence: Coherence, alignment: Alignment, azimuths: Sequence[float]
) -> tuple[str, ...]:
    """At most one sentence that says which photo seems mirrored, exchanged or wrong, and what to do.

    Args:
        coherence: of the outlines, the front's first.
        alignment: the similarities by which the outlines agree best.
        azimuths: of the photos in degrees.
    """
    if alignment.cost > _DOUBTFUL:
        explanations = [*_mirrored(coherence, alignment, azimuths), *_exchanged(coherence, alignment, azimuths)]
        cost, note = min(explanations)
        if cost < _EXPLAINED * alignment.cost:
            return (note,)
    return _wrong(coherence, alignment.similarities, azimuths)


def _mirrored(
    coherence: Coherence, alignment: Alignment, azimuths: Sequence[float]
) -> list[tuple[float, str]]:
    """For each photo the cost with its mirror image in its place, and the sentence that says so."""
    found = []
    for i, azimuth in enumerate(azimuths):
        outlines = list(coherence.outlines)
        outlines[i] = outlines[i].mirrored
        begin = alignment.similarities.clone()
        begin[i, [SHIFT_X, ROLL]] *= -1
        cost = _cost(Coherence(outlines, azimuths, coherence.elevation), replace(alignment, similarities=begin))
        note = (
            f"The photo at {azimuth:g} degrees fits the others better mirrored; if it was mirrored by mistake, "
            "as front cameras do, turn it back."
        )
        found.append((cost, note))
    return found


def _exchanged(
    coherence: Coherence, alignment: Alignment, azimuths: Sequence[float]
) -> list[tuple[float, str]]:
    """For each pair of photos beside the front the cost with their azimuths exchanged, and the sentence."""
    found = []
    for i in range(1, len(azimuths)):
        for j in range(i + 1, len(azimuths)):
            swapped = list(azimuths)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            cost = _cost(Coherence(coherence.outlines, swapped, coherence.elevation), alignment)
            first, second = sorted((azimuths[i], azimuths[j]))
            note = (
                f"The photos at {first:g} and {second:g} degrees fit better exchanged; if left and right were "
                "mixed up, swap them."
            )
            found.append((cost, note))
    return found


def _cost(coherence: Coherence, alignment: Alignment) -> float:
    """The cost from an alignment that is nearly right already."""
    return coherence.fit(alignment.similarities, alignment.guess, alignment.free, steps=5)[1]


def _wrong(coherence: Coherence, similarities: Tensor, azimuths: Sequence[float]) -> tuple[str, ...]:
    """A sentence on the photo (or the two that may be it) without which the others fit best, if any is needed."""
    gaps = coherence.gaps(similarities).clamp_min(0)
    if float(gaps.square().mean().sqrt()) < _MISFIT:
        return ()
    left, top, right, bottom = coherence.outlines[0].box.tolist()
    percent = round(100 * float(gaps.max()) / max(right - left, bottom - top))
    reason = (
        f"outlines miss each other by up to {percent} % of the object's size. Check that it shows the same object "
        "from that side, from the same height."
    )
    remaining = torch.stack(
        [_gaps_without(coherence, similarities, i) for i in range(1, len(azimuths))]
    )
    likely = (remaining <= _AS_LIKELY * remaining.min()).nonzero()[:, 0] + 1
    if len(likely) == 1 or len(azimuths) == 2:
        return (f"The photo at {azimuths[int(likely[0])]:g} degrees does not fit the others: {reason}",)
    names = sorted(azimuths[i] for i in likely.tolist())
    listed = ", ".join(f"{a:g}" for a in names[:-1]) + f" and {names[-1]:g}"
    reason = reason.replace("that it shows", "that each shows").replace("that side", "its side")
    return (f"The photos at {listed} degrees do not fit each other: {reason}",)


def _gaps_without(coherence: Coherence, similarities: Tensor, i: int) -> Tensor:
    """Root mean square of the gaps of all photos but i, which has no say."""
    gaps = coherence.gaps(similarities, without=i).clamp_min(0)
    others = [j for j in range(len(gaps)) if j != i]
    return gaps[others].square().mean().sqrt()
