"""Views along a camera path from a few posed photos, clip by clip: how the scene model is used.

A clip is as many views as the model draws at once. The first clip holds anchors, spread over the whole path;
every later one lies between anchors and sees them as sources beside the photos, so that a long path stays one
scene.
"""

from __future__ import annotations

from typing import Protocol

import torch

from v3d.cameras import ORBIT_VIEWS, Cameras, cat_cameras
from v3d.diffusion.edm import OnStep
from v3d.scene.model import MOST_SOURCES, SceneViews, square, square_cameras
from v3d.scene.paths import anchors_first
from v3d.views import Views

CLIP = ORBIT_VIEWS  # what the model was trained to draw at once
MOST_ANCHORS = 4


class SceneDrawer(Protocol):
    """What draws a clip: `v3d.scene.model.SceneModel` does.

    Attributes:
        size: pixels of a view's side; hash: of the weights, for reports.
    """

    @property
    def size(self) -> int: ...

    @property
    def hash(self) -> str: ...

    def __call__(
        self,
        sources: Views,
        targets: Cameras,
        *,
        seed: int = 0,
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> SceneViews: ...


def draw_path(
    model: SceneDrawer,
    sources: Views,
    path: Cameras,
    *,
    closed: bool = False,
    seed: int = 0,
    steps: int | None = None,
    on_step: OnStep | None = None,
) -> SceneViews:
    """Draw the views of a whole path from photos, in the order of the path.

    Sources and views are squares of `model.size`. A clip sees at most `MOST_SOURCES` views, of them at most
    `MOST_ANCHORS` drawn ones; where there are more, those that differ most.

    Args:
        closed: the path's last frame leads to its first.
    """
    sources = square(sources).resized(model.size)
    path = square_cameras(path).resized(model.size, model.size)
    clips = anchors_first(len(path), CLIP, closed=closed)
    drawn: dict[int, SceneViews] = {}
    for number, clip in enumerate(clips):
        beside = spread(path[clip.sources], MOST_ANCHORS) if clip.sources else []
        photos = sources[spread(sources.cameras, MOST_SOURCES - len(beside))]
        shown = [photos, *(drawn[clip.sources[k]].views for k in beside)]

        def tell(done: int, total: int, number: int = number) -> None:
            if on_step:
                on_step(number * total + done, len(clips) * total)

        made = model(_joined(shown), path[clip.targets], seed=seed + number, steps=steps, on_step=tell)
        for k, i in enumerate(clip.targets):
            drawn[i] = SceneViews(made.views[k], made.guide[k], made.depth[k : k + 1])
    ordered = [drawn[i] for i in range(len(path))]
    return SceneViews(
        _joined([one.views for one in ordered]),
        _joined([one.guide for one in ordered]),
        torch.cat([one.depth for one in ordered]),
    )


def spread(cameras: Cameras, count: int) -> list[int]:
    """Up to `count` cameras that differ most, best first: the one nearest the middle, then always the farthest.

    The distance of two cameras is that of their centres, in units of the cameras' mean distance from their
    middle, plus that of their unit viewing directions.
    """
    centers = cameras.centers - cameras.centers.mean(0)
    scale = centers.norm(dim=-1).mean().clamp_min(1e-9)
    pose = torch.cat([centers / scale, cameras.c2w[:, :3, 2]], -1)
    chosen = [int((pose - pose.mean(0)).norm(dim=-1).argmin())]
    nearest = (pose - pose[chosen[0]]).norm(dim=-1)
    while len(chosen) < min(count, len(cameras)):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (pose - pose[chosen[-1]]).norm(dim=-1))
    return chosen


def _joined(parts: list[Views]) -> Views:
    return Views(
        torch.cat([part.rgb for part in parts]),
        torch.cat([part.alpha for part in parts]),
        cat_cameras([part.cameras for part in parts]),
    )
