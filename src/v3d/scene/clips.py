"""Views along a camera path from a few posed photos, clip by clip: how the scene model is used.

A clip is as many views as the model generates at once. The first clip holds anchors, spread over the whole
path; every later one lies between anchors and is conditioned on them beside the photos, so that a long path
stays one scene.
"""

from __future__ import annotations

from typing import Protocol

import torch

from v3d.callbacks import OnStep
from v3d.cameras import ORBIT_VIEWS, Cameras, poses
from v3d.scene.model import SceneViews, square, square_cameras
from v3d.scene.paths import anchors_first
from v3d.views import Views, cat_views

CLIP = ORBIT_VIEWS  # how many views the model was trained to generate at once
MAX_ANCHORS = 4


class ClipModel(Protocol):
    """What generates the views of a clip, as `v3d.scene.model.SceneModel` does."""

    @property
    def size(self) -> int:
        """Pixels of a view's side."""
        ...

    @property
    def hash(self) -> str:
        """Fingerprint of the weights, for reports."""
        ...

    def __call__(
        self,
        sources: Views,
        targets: Cameras,
        *,
        generated: Views | None = None,
        seed: int = 0,
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> SceneViews:
        """Generate views at `targets` from `sources`, see `v3d.scene.model.SceneModel.__call__`."""
        ...


def generate_path(
    model: ClipModel,
    sources: Views,
    path: Cameras,
    *,
    closed: bool = False,
    seed: int = 0,
    steps: int | None = None,
    on_step: OnStep | None = None,
) -> SceneViews:
    """Generate the views of a whole path from photos, in the order of the path, clip by clip.

    Beside the photos, a clip is conditioned on at most `MAX_ANCHORS` of the generated views around it: those
    whose cameras differ most.

    Args:
        model: generates the views of one clip.
        sources: posed photos in the normalised world; the square in their middle is used.
        path: cameras of the views, of any image size.
        closed: the path's last frame leads to its first.
        seed: of the first clip's noise; every clip has noise of its own.
        steps: of the sampler; the model's own number by default.
        on_step: called with the steps done and the steps of all clips.

    Returns:
        Views, guide and depth, squares of `model.size` pixels.
    """
    sources = square(sources).resized(model.size, model.size)
    path = square_cameras(path).resized(model.size, model.size)
    clips = anchors_first(len(path), CLIP, closed=closed)
    made: dict[int, SceneViews] = {}  # by the frame's number in the path
    for number, clip in enumerate(clips):
        beside = [clip.sources[k] for k in spread(path[clip.sources], MAX_ANCHORS)] if clip.sources else []

        def step(done: int, total: int, number: int = number) -> None:
            if on_step:
                on_step(number * total + done, len(clips) * total)

        views = model(
            sources,
            path[clip.targets],
            generated=cat_views([made[i].views for i in beside]) if beside else None,
            seed=seed + number,
            steps=steps,
            on_step=step,
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
    """Indices of up to `count` cameras that differ most, best first.

    The first is the camera nearest to the mean, each next one the farthest from all that were chosen. Cameras
    differ by their places and viewing directions (`v3d.cameras.poses`).
    """
    pose = poses(cameras, cameras)
    chosen = [int((pose - pose.mean(0)).norm(dim=-1).argmin())]
    nearest = (pose - pose[chosen[0]]).norm(dim=-1)
    while len(chosen) < min(count, len(cameras)):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (pose - pose[chosen[-1]]).norm(dim=-1))
    return chosen
