"""What `--quality` means, in the terms of every stage."""

from __future__ import annotations

from dataclasses import dataclass, replace

from v3d.finishing.purposes import Plan
from v3d.settings import Quality, ReconstructSettings
from v3d.splats.fit import FitSettings
from v3d.surface.settings import Level, SurfaceSettings
from v3d.texture.refine import RefineSettings


@dataclass(frozen=True)
class Preset:
    """Settings of the stages that turn views into an asset.

    Attributes:
        largest_view: pixels of the longer side of views; larger ones are reduced as they are read.
        view_size: pixels of the views that splats are fitted to; smaller views are used at their own size.
        hull: nodes along the longest side of the hull's box.
        gaussians: how many there are at the start of the fit.
        splats: settings of their fit.
        perceptual: whether the splats' loss has its perceptual part.
        surface: settings of the distance field's fit; None takes the hull for the surface.
        faces: triangles of the mesh at most.
        texture_size: pixels of its texture's side.
        refine: settings of the texture's refinement; None leaves the texture as it was projected.
        turntable: pixels of the turntable video's side.
    """

    largest_view: int
    view_size: int
    hull: int
    gaussians: int
    splats: FitSettings
    perceptual: bool
    surface: SurfaceSettings | None
    faces: int
    texture_size: int
    refine: RefineSettings | None
    turntable: int


PRESETS: dict[Quality, Preset] = {
    "draft": Preset(
        largest_view=512,
        view_size=128,
        hull=96,
        gaussians=8_000,
        splats=FitSettings(iterations=300),
        perceptual=False,
        surface=None,
        faces=8_000,
        texture_size=512,
        refine=None,
        turntable=256,
    ),
    "standard": Preset(
        largest_view=1024,
        view_size=256,
        hull=128,
        gaussians=20_000,
        splats=FitSettings(),
        perceptual=True,
        surface=SurfaceSettings(),
        faces=20_000,
        texture_size=1024,
        refine=RefineSettings(),
        turntable=384,
    ),
    "high": Preset(
        largest_view=1024,
        view_size=512,
        hull=192,
        gaussians=40_000,
        splats=FitSettings(iterations=4000),
        perceptual=True,
        surface=SurfaceSettings(
            levels=(Level(1.5, 300, (0.8, 0.5)), Level(1.0, 300, (0.65, 0.35))),
            image_size=384,
            nodes=1_500_000,
        ),
        faces=40_000,
        texture_size=2048,
        refine=RefineSettings(sweeps=8),
        turntable=512,
    ),
}


def preset_of(settings: ReconstructSettings, plan: Plan | None = None) -> Preset:
    """The preset of the chosen quality, with what the finished mesh's plan and the user say beside it."""
    preset = PRESETS[settings.quality]
    for wish in (plan, settings):
        if wish is not None:
            preset = replace(
                preset,
                faces=preset.faces if wish.faces is None else wish.faces,
                texture_size=preset.texture_size if wish.texture_size is None else wish.texture_size,
            )
    return preset
