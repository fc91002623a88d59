"""Settings of the surface's fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One resolution of the fit.

    Attributes:
        voxel: node distance, in footprints of a training pixel at the object.
        steps: gradient steps.
        soft: widths of the soft shell at the first and the last step, in voxels (NeuS's 1/s, on a schedule
            instead of learned).
    """

    voxel: float
    steps: int
    soft: tuple[float, float]


@dataclass(frozen=True)
class SurfaceSettings:
    """Settings of `fit_surface`; weights multiply the losses of the same name.

    Attributes:
        stages: the levels, from coarse to fine.
        image_size: pixels that the longer side of the views is reduced to, or as many fewer as keep the
            lattice within `nodes`; finer images than voxels only add noise.
        nodes: of the finest lattice, at most; thin and small objects are fitted at a finer scale than
            large ones.
        rays: per step, of the object's inside and of its silhouette each.
        samples: per ray, `WINDOW_STEP` voxels apart around the surface.
        sobolev: box-filter passes over the gradient of the distance field.
        slack: how far the surface may leave the hull outward, in footprints of a training pixel; views that
            disagree make the hull too small.
        distance_rate: learning rate of the distance, voxels per step.
        color_rate: learning rate of the colour logits.
        rgb: weight of the L1 of colour.
        mask: of the cross-entropy of the silhouette.
        eikonal: of (|gradient| - 1)^2.
        laplacian: of the squared Laplacian, in voxels.
        normal: of 1 - cos between the field's gradient and the given normals.
    """

    stages: tuple[Level, ...] = (Level(1.0, 300, (0.8, 0.35)),)
    image_size: int = 256
    nodes: int = 600_000
    rays: int = 2048
    samples: int = 10
    sobolev: int = 4
    slack: float = 1.0
    distance_rate: float = 0.03
    color_rate: float = 0.1
    rgb: float = 10.0
    mask: float = 1.0
    eikonal: float = 0.02
    laplacian: float = 0.1
    normal: float = 0.2
