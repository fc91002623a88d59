"""Views along a camera path from a few posed photos, clip by clip: how the scene model is used.

A clip is as many views as the model draws at once. The first clip holds anchors, spread over the whole path;
every later one lies between anchors and sees them beside the photos, so that a long path stays one scene.
"""

from __future__ import annotations

from typing import Protocol

import torch

from v3d.cameras import ORBIT_VIEWS, Cameras, poses
from v3d.diffusion.edm import OnStep
from v3d.scene.model import SceneViews, square, square_cameras
from v3d.scene.paths import anchors_first
from v3d.views import Views, cat_views

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
        drawn: Views | None = None,
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

    Sources and views are squares of `model.size`. Beside the photos a clip sees at most `MOST_ANCHORS` of the drawn views
    around it, those that differ most.

    Args:
        closed: the path's last frame leads to its first.
    """
    sources = square(sources).resized(model.size, model.size)
    path = square_cameras(path).resized(model.size, model.size)
    clips = anchors_first(len(path), CLIP, closed=closed)
    made: dict[int, SceneViews] = {}
    for number, clip in enumerate(clips):
        beside = [clip.sources[k] for k in spread(path[clip.sources], MOST_ANCHORS)] if clip.sources else []

        def tell(done: int, total: int, number: int = number) -> None:
            if on_step:
                on_step(number * total + done, len(clips) * total)

        views = model(
            sources,
            path[clip.targets],
            drawn=cat_views([made[i].views for i in beside]) if beside else None,
            seed=seed + number,
            steps=steps,
            on_step=tell,
        )
        for k, i in enumerate(clip.targets):
            made[i] = SceneViews(views.views[k], views.guide[k], views.depth[k : k + 1])
    ordered = [made[i] for i in range(len(path))]
    return SceneViews(
        cat_views([one.views for one in ordered]),
        cat_views([one.guide for one in ordered]),
        torch.cat([one.depth for one in ordered]),
    )


def spread(cameras: Cameras, count: int) -> list[int]:
    """Up to `count` cameras that differ most, best first: the one nearest the middle, then always the farthest.

    Cameras differ by their places and viewing directions (`v3d.cameras.poses`).
    """
    pose = poses(cameras, cameras)
    chosen = [int((pose - pose.mean(0)).norm(dim=-1).argmin())]
    nearest = (pose - pose[chosen[0]]).norm(dim=-1)
    while len(chosen) < min(count, len(cameras)):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (pose - pose[chosen[-1]]).norm(dim=-1))
    return chosen
