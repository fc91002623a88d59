"""A folder of views against a folder of true ones."""

from __future__ import annotations

from typing import Any

import torch

from v3d.capture.readers import load_views
from v3d.errors import V3DError
from v3d.evaluation.comparison import compare_views
from v3d.evaluation.report import report_one
from v3d.evaluation.settings import EvaluateViews
from v3d.networks.perceptual import Perceptual

_SAME_PLACE = 1e-3  # world units, and sines of angles
_SAME_LENS = 1e-3  # of the image's width


def run(command: EvaluateViews) -> dict[str, Any]:
    """Compare view by view; returns the report.

    Raises:
        V3DError: the folders do not hold the same cameras, or views of another shape.
    """
    views, truth = load_views(command.views), load_views(command.truth)
    if len(views) != len(truth):
        raise V3DError(
            f"{command.views} has {len(views)} views, {command.truth} has {len(truth)}; compare equal orbits."
        )
    if (views.cameras.c2w - truth.cameras.c2w).abs().max() > _SAME_PLACE:
        raise V3DError(f"The cameras of {command.views} and {command.truth} stand at different places.")
    width, height = truth.cameras.width, truth.cameras.height
    K = views.cameras.resized(width, height).K
    if (K - truth.cameras.K).abs().max() > _SAME_LENS * width:
        raise V3DError(
            f"The cameras of {command.views} and {command.truth} see different angles or other "
            "shapes of image; compare views of the same field of view and principal point."
        )
    if views.rgb.shape != truth.rgb.shape:
        views = views.resized(width, height)
    each = compare_views(views, truth)
    if command.perceptual is not None:
        network = Perceptual.load(command.perceptual)
        with torch.no_grad():
            each[network.name] = network.distances(views.rgb, network.prepare(truth.rgb))
    scores = {f"view {i:03d}": {k: float(v[i]) for k, v in each.items()} for i in range(len(truth))}
    scores = {"mean": {k: float(v.mean()) for k, v in each.items()}, **scores}
    return report_one("Views", command.views, scores, command.out, {"truth": str(command.truth)})
