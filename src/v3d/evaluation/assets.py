"""Assets under measurement: the product's chain (`v3d.objects.build`) with a clock, beside the truth."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from v3d.evaluation.protocol import ObjectProtocol
from v3d.evaluation.testset import TestObject
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.metrics import psnr, ssim
from v3d.networks.perceptual import Perceptual
from v3d.objects import build
from v3d.objects.build import BuildInputs
from v3d.objects.presets import Preset
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import splat_renderer
from v3d.surface.grid import Grid
from v3d.surface.silhouette import silhouette_iou
from v3d.views import Views

Metrics = dict[str, float]
"""Metric -> value."""


class MeasuredBuild:
    """The asset of one set of inputs: every stage is computed when it is first asked for, and timed.

    Attributes:
        inputs, preset, seed: what the stages are given.
        seconds: CPU seconds of this process in every stage so far, by its name.
    """

    def __init__(self, inputs: BuildInputs, preset: Preset, seed: int) -> None:
        self.inputs, self.preset, self.seed = inputs, preset, seed
        self.seconds: dict[str, float] = {}
        self._splats: Splats | None = None

    @cached_property
    def hull(self) -> Grid:
        """The visual hull.

        Raises:
            V3DError: the silhouettes have no point in common.
        """
        with self._timed("hull"):
            return build.hull(self.inputs, self.preset)

    def splats(self, perceptual: Perceptual | None, *, carving: bool = True) -> Splats:
        """Gaussians; those of the first call also guide the surface.

        Args:
            perceptual: the network of the perceptual term; None leaves it out.
            carving: start on the hull; otherwise as a grey blob. For views that agree in colour only: of
                others the Gaussians are made of the mesh.
        """
        if not self.inputs.agree_in_colour:
            mesh = self.mesh
            with self._timed("splats"):
                return build.splats_of_mesh(self.inputs, mesh, self.preset, seed=self.seed)
        hull = self.hull if carving else None
        with self._timed("splats"):
            splats = build.splats(self.inputs, hull, self.preset, seed=self.seed, perceptual=perceptual)
        if self._splats is None:
            self._splats = splats
        return splats

    @cached_property
    def surface(self) -> Grid:
        """The signed distance field; normals of the Gaussians that were fitted first, if any, guide it."""
        hull = self.hull
        with self._timed("surface"):
            return build.surface(self.inputs, hull, self._splats, self.preset, seed=self.seed)

    @cached_property
    def shape(self) -> Mesh:
        """The mesh without its texture."""
        sdf = self.surface
        with self._timed("shape"):
            return build.shape(self.inputs, sdf, self.preset)

    @cached_property
    def mesh(self) -> Mesh:
        """The textured mesh."""
        shape = self.shape
        with self._timed("texture"):
            return build.textured(self.inputs, shape, self.preset)

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        yield
        self.seconds[stage] = time.process_time() - start


@dataclass(frozen=True)
class Truth:
    """What the assets of one object are compared with.

    Attributes:
        protocol: of the comparison.
        mesh: the object, placed by the protocol.
        held_out: name -> true views that no method sees.
    """

    protocol: ObjectProtocol
    mesh: Mesh
    held_out: dict[str, Views]

    @classmethod
    def of(cls, item: TestObject, protocol: ObjectProtocol) -> Truth:
        """Place the object and render its held-out views."""
        return cls(protocol, protocol.place(item.mesh), protocol.held_out(item))

    def ceiling(self, *, with_mesh: bool) -> Metrics:
        """What the truth itself scores."""
        scores: Metrics = {}
        for name, views in self.held_out.items():
            scores |= image_scores(name, views.rgb, views)
        return scores | (self.protocol.compare(self.mesh, self.mesh) if with_mesh else {})

    def splat_scores(self, splats: Splats) -> Metrics:
        """PSNR and SSIM of the Gaussians' held-out views, and how many Gaussians there are."""
        render_splats = splat_renderer(splats)
        scores: Metrics = {}
        for name, views in self.held_out.items():
            scores |= image_scores(name, render_splats(views.cameras), views)
        return scores | {"gaussians": len(splats)}

    def mesh_scores(self, mesh: Mesh, views: Views) -> Metrics:
        """Shape metrics and held-out views; `front_iou`: of its silhouette with the first view's."""
        scores = self.protocol.compare(mesh, self.mesh) | {"front_iou": silhouette_iou(mesh, views[0])}
        for name, true_views in self.held_out.items():
            scores |= image_scores(name, render(mesh, true_views.cameras).rgb, true_views)
        return scores


def image_scores(name: str, rgb: Tensor, truth: Views) -> Metrics:
    """Mean PSNR and SSIM of images [V, H, W, 3] against true views, as `name.psnr` and `name.ssim`."""
    return {
        f"{name}.psnr": float(psnr(rgb, truth.rgb).mean()),
        f"{name}.ssim": float(ssim(rgb, truth.rgb).mean()),
    }
