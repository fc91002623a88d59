"""The door of this room: what is asked (`v3d.evaluation.settings`) -> the evaluation that answers."""

from __future__ import annotations

from typing import Any

from v3d.evaluation import ablation, asset, consistency, generation, reconstruction, scenes, views
from v3d.evaluation.settings import (
    EvaluateAblation,
    EvaluateAsset,
    EvaluateConsistency,
    EvaluateGeneration,
    EvaluateReconstruction,
    EvaluateScenes,
    EvaluateViews,
    OnObject,
)


def evaluate(
    task: EvaluateReconstruction
    | EvaluateGeneration
    | EvaluateAblation
    | EvaluateScenes
    | EvaluateViews
    | EvaluateConsistency
    | EvaluateAsset,
    on_object: OnObject | None = None,
) -> dict[str, Any]:
    """Measure and return the report, which `v3d.evaluation.report.markdown` turns into tables.

    Args:
        on_object: called after every object or scene.

    Raises:
        V3DError: data or weights are missing, or the folder holds results of other settings.
    """
    match task:
        case EvaluateReconstruction():
            return reconstruction.run(task, on_object)
        case EvaluateGeneration():
            return generation.run(task, on_object)
        case EvaluateAblation():
            return ablation.run(task, on_object)
        case EvaluateScenes():
            return scenes.run(task, on_object)
        case EvaluateViews():
            return views.run(task)
        case EvaluateConsistency():
            return consistency.run(task)
        case EvaluateAsset():
            return asset.run(task)
