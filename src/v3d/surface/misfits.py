"""What a user should know of photos that do not fit each other: mirrored, exchanged, or of something else.

Outlines decide where they can: a wrong explanation leaves gaps. Where left and right exchanged fit the
outlines as well, the colours along the edges at which photos meet decide. Mirrored photos are named by
outlines alone, because colours raised false alarms there; so a mirrored photo whose outline is symmetrical is
not noticed, nor is anything about two photos at a right angle, whose outlines always share a hull.

Measured from four sides on nine validation objects that chose nothing: left and right exchanged noticed in 8
(named so in 7), one photo mirrored in 4, another object in 8 of 8; no note on 19 objects' photos as they
should be. Photos with much less perspective than the orbit's cameras (20 degrees of view) can raise one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from v3d.surface.coherence import ROLL, SHIFT_X, Alignment, Coherence
from v3d.surface.edge_colours import EdgeColours

_DOUBTFUL = 30.0  # cost at which other explanations are tried
_EXPLAINED = 0.5  # another explanation must leave less of the cost than this
_LIKER = 0.85  # colours along the edges must differ less than this share of what they do as stated
_VISIBLE = 0.008  # and by so much less, in [0, 1]
_MISFIT = 0.006  # root mean square gap in image sides at which photos do not fit
_AS_LIKELY = 1.5  # photos whose removal leaves gaps of this ratio are equally likely the wrong one


@dataclass(frozen=True)
class _Explanation:
    """What may be wrong: azimuths exchanged or a photo mirrored, and the sentence that says so."""

    azimuths: tuple[float, ...]
    mirrored: tuple[int, ...]
    opposite: bool  # left and right exchanged, or the like
    note: str


def misfit_notes(
    coherence: Coherence, alignment: Alignment, azimuths: Sequence[float], colours: EdgeColours
) -> tuple[str, ...]:
    """At most one sentence that says which photo seems mirrored, exchanged or wrong, and what to do.

    Args:
        coherence: of the outlines, the front's first.
        alignment: the similarities by which the outlines agree best.
        azimuths: of the photos in degrees.
        colours: of the registered photos, in the same order.
    """
    explanations = _explanations(azimuths)
    if alignment.cost > _DOUBTFUL:
        costs = [_cost(coherence, alignment, explanation) for explanation in explanations]
        best = min(range(len(costs)), key=lambda i: costs[i])
        if costs[best] < _EXPLAINED * alignment.cost:
            return (explanations[best].note,)
    wrong = _wrong(coherence, alignment.similarities, azimuths)
    stated = colours.difference(azimuths)
    if wrong or stated is None:
        return wrong
    for explanation in explanations:
        if explanation.opposite:
            exchanged = colours.difference(explanation.azimuths) or stated
            if exchanged < min(_LIKER * stated, stated - _VISIBLE):
                cost = _cost(coherence, alignment, explanation)
                if cost < 1.2 * alignment.cost + 5:
                    return (explanation.note,)
    return ()


def _explanations(azimuths: Sequence[float]) -> list[_Explanation]:
    """Every photo mirrored, and every pair beside the front exchanged."""
    found = [
        _Explanation(
            tuple(azimuths),
            (i,),
            False,
            f"The photo at {azimuth:g} degrees fits the others better mirrored; if it was mirrored by "
            "mistake, as front cameras do, turn it back.",
        )
        for i, azimuth in enumerate(azimuths)
    ]
    for i in range(1, len(azimuths)):
        for j in range(i + 1, len(azimuths)):
            swapped = list(azimuths)
            swapped[i], swapped[j] = swapped[j], swapped[i]
            first, second = sorted((azimuths[i], azimuths[j]))
            note = (
                f"The photos at {first:g} and {second:g} degrees fit better exchanged; if left and right "
                "were mixed up, swap them."
            )
            opposite = abs((second - first) % 360 - 180) < 45
            found.append(_Explanation(tuple(swapped), (), opposite, note))
    return found


def _cost(coherence: Coherence, alignment: Alignment, explanation: _Explanation) -> float:
    """The outlines' cost if the explanation is true, from an alignment that is nearly right already."""
    outlines, begin = list(coherence.outlines), alignment.similarities.clone()
    for i in explanation.mirrored:
        outlines[i] = outlines[i].mirrored
        begin[i, [SHIFT_X, ROLL]] *= -1
    explained = Coherence(outlines, explanation.azimuths, coherence.elevation)
    return explained.fit(begin, alignment.guess, alignment.free, steps=5)[1]


def _wrong(coherence: Coherence, similarities: Tensor, azimuths: Sequence[float]) -> tuple[str, ...]:
    """A sentence on the photo without which the others fit best, or on those that may be it, if any is."""
    gaps = coherence.gaps(similarities).clamp_min(0)
    if float(gaps.square().mean().sqrt()) < _MISFIT:
        return ()
    left, top, right, bottom = coherence.outlines[0].box.tolist()
    percent = round(100 * float(gaps.max()) / max(right - left, bottom - top))
    reason = (
        f"outlines miss each other by up to {percent} % of the object's size; check that it shows the same "
        "object from that side, from the same height."
    )
    remaining = torch.stack([_gaps_without(coherence, similarities, i) for i in range(1, len(azimuths))])
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
