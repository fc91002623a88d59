"""Settings of the fit of a surface (`v3d.surface.fit`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Level:
    """One resolution of the fit.

    Attributes:
        voxel: distance between nodes, in footprints of a training pixel at the object.
        steps: gradient steps.
        softness: width of the soft shell at the first and at the last step, in voxels; geometric in between
            (NeuS's 1/s, on a schedule instead of learned).
    """

    voxel: float
    steps: int
    softness: tuple[float, float]


@dataclass(frozen=True)
class SurfaceSettings:
    """Resolutions, sizes, learning rates and weights of `v3d.surface.fit.fit_surface`.

    Attributes:
        levels: from coarse to fine, at least one.
        image_size: pixels that the longer side of the views is reduced to, or as many fewer as keep the
            lattice within `nodes`; finer images than voxels only add noise.
        nodes: the most of the finest lattice; so small objects are fitted at a finer scale than large ones.
        rays: in a step, through the object's inside and at its silhouette each.
        samples: on a ray, three quarters of a voxel apart, around the surface.
        sobolev: box-filter passes over the gradient of the distance field.
        slack: how far the surface may leave the hull outward, in footprints of a training pixel; views that
            disagree make the hull too small.
        distance_rate: learning rate of the distance, in voxels a step.
        color_rate: learning rate of the colour logits.
        rgb: weight of the colour loss (L1).
        mask: weight of the silhouette loss (cross-entropy).
        eikonal: weight of (|gradient| - 1)^2.
        laplacian: weight of the squared Laplacian, with lengths in voxels.
        normal: weight of 1 - cos between the field's gradient and the given normals.
    """

    levels: tuple[Level, ...] = (Level(1.0, 300, (0.8, 0.35)),)
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
