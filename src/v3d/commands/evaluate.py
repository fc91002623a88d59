"""`v3d evaluate`: what V3D makes, compared with the truth."""

from __future__ import annotations

import sys
from typing import Annotated

from tyro.conf import OmitArgPrefixes, subcommand

from v3d.evaluation.settings import (
    EvaluateAblation,
    EvaluateAsset,
    EvaluateConsistency,
    EvaluateGeneration,
    EvaluateReconstruction,
    EvaluateScenes,
    EvaluateViews,
)


def evaluate(
    task: OmitArgPrefixes[
        Annotated[EvaluateReconstruction, subcommand("reconstruction", prefix_name=False)]
        | Annotated[EvaluateGeneration, subcommand("generation", prefix_name=False)]
        | Annotated[EvaluateAblation, subcommand("ablation", prefix_name=False)]
        | Annotated[EvaluateScenes, subcommand("scenes", prefix_name=False)]
        | Annotated[EvaluateViews, subcommand("views", prefix_name=False)]
        | Annotated[EvaluateConsistency, subcommand("consistency", prefix_name=False)]
        | Annotated[EvaluateAsset, subcommand("asset", prefix_name=False)]
    ],
) -> None:
    """Compare objects, scenes, a folder of views or a mesh with the truth; prints tables.

    Args:
        task: what to measure.

    Raises:
        V3DError: data or weights are missing, or the folder holds results of other settings.
    """
    from v3d.evaluation import evaluate as evaluation
    from v3d.evaluation.report import markdown

    def show(name: str, done: int, total: int) -> None:
        print(f"v3d: {done}/{total} {name}", file=sys.stderr, flush=True)

    print(markdown(evaluation.evaluate(task, show)))
