"""What `--quality` means for scenes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from v3d.scene.fit import SceneFitSettings
from v3d.settings import Quality


@dataclass(frozen=True)
class ScenePreset:
    """Settings of the stages that turn a scene's views into Gaussians.

    Attributes:
        view_size: longer side in pixels of the photos as they are read.
        fit: of the Gaussians.
        video_size: longer side in pixels of the video of the Gaussians.
    """

    view_size: int
    fit: SceneFitSettings
    video_size: int


def _fit(points: int, iterations: int, most: int) -> SceneFitSettings:
    standard = SceneFitSettings()
    assert standard.fit.densify is not None
    densify = replace(standard.fit.densify, max_count=most)
    return replace(standard, points=points, fit=replace(standard.fit, iterations=iterations, densify=densify))


SCENE_PRESETS: dict[Quality, ScenePreset] = {
    "draft": ScenePreset(128, _fit(8_000, 400, 20_000), 128),
    "standard": ScenePreset(256, _fit(20_000, 1500, 60_000), 256),
    "high": ScenePreset(512, _fit(60_000, 6000, 200_000), 512),
}
