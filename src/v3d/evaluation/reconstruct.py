"""Reconstruction from true orbits: how much the 3D stages lose, with generation taken out of the question."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from v3d.carving import carve, initial_splats, random_splats
from v3d.errors import V3DError
from v3d.evaluation.geometry import compare_meshes
from v3d.evaluation.metrics import psnr, ssim
from v3d.evaluation.objects import TestObject
from v3d.evaluation.protocol import Protocol, perturb
from v3d.evaluation.report import ObjectResult
from v3d.mesh import Mesh
from v3d.perceptual import Perceptual
from v3d.rendering import render
from v3d.splats.fit import FitSettings, fit
from v3d.splats.rasterize import rasterize
from v3d.surface.extract import extract_mesh
from v3d.surface.fit import SurfaceSettings, fit_surface
from v3d.surface.grid import Grid
from v3d.texture.project import project_views
from v3d.texture.unwrap import unwrap
from v3d.views import Views


@dataclass(frozen=True)
class ReconstructionSettings:
    """What is reconstructed, and how; each list is one axis of the ablation.

    Attributes:
        views: "clean" true views, "perturbed" ones that disagree as generated views do (`protocol.perturb`).
        carving: first Gaussians on the visual hull, or a blob of random ones.
        perceptual: fit with the perceptual loss, or without.
        mesh: also make the hull's mesh, the surface and its texture.
        gaussians: at the start.
        iterations: of the splat fit.
        hull_resolution: of the carving grid.
        faces: at most, of every mesh.
        texture_size: texels of the texture's side.
        seed: of every random choice.
    """

    views: tuple[Literal["clean", "perturbed"], ...] = ("clean",)
    carving: tuple[bool, ...] = (True,)
    perceptual: tuple[bool, ...] = (False,)
    mesh: bool = True
    gaussians: int = 20_000
    iterations: int = 1000
    hull_resolution: int = 128
    faces: int = 20_000
    texture_size: int = 1024
    seed: int = 0


def evaluate_reconstruction(
    item: TestObject,
    protocol: Protocol,
    settings: ReconstructionSettings,
    perceptual: Perceptual | None = None,
    surface: SurfaceSettings | None = None,
) -> ObjectResult:
    """Reconstruct one object from its true orbit and compare with the object.

    Beside its metrics, every method has `seconds`: CPU time of this process for the stages alone. One that
    fails with a `V3DError` is listed as a failure; the others go on.

    Args:
        perceptual: the network for the fits that ask for one.
        surface: settings of the surface fit.
    """
    case = _Case(protocol, settings, protocol.place(item.mesh), protocol.held_out(item), surface)
    truth = protocol.true_orbit(item)
    result = ObjectResult(item.id, item.hash, item.real_scan, {}, {})
    result.scores["true views"] = case.perfect()
    for condition in settings.views:
        views = truth if condition == "clean" else perturb(truth, settings.seed)
        if condition == "perturbed":
            result.scores["perturbed views"] = image_scores("input", views.rgb, truth)
        for name, job in case.jobs(views, perceptual).items():
            method = name if condition == "clean" else f"{name}, perturbed views"
            try:
                result.scores[method] = job()
            except V3DError as error:
                result.failures[method] = str(error)
    return result


def image_scores(name: str, rgb: Tensor, truth: Views) -> dict[str, float]:
    """Mean PSNR and SSIM of images [V, H, W, 3] against true views, as `name.psnr` and `name.ssim`."""
    return {
        f"{name}.psnr": float(psnr(rgb, truth.rgb).mean()),
        f"{name}.ssim": float(ssim(rgb, truth.rgb).mean()),
    }


@dataclass(frozen=True)
class _Case:
    """One object to reconstruct: the placed true mesh, and the views that no method sees."""

    protocol: Protocol
    settings: ReconstructionSettings
    mesh: Mesh
    held_out: dict[str, Views]
    surface_settings: SurfaceSettings | None

    def jobs(self, views: Views, perceptual: Perceptual | None) -> dict[str, Callable[[], dict[str, float]]]:
        """Every method that the settings ask for, by name."""
        jobs: dict[str, Callable[[], dict[str, float]]] = {}
        for carving, use_perceptual in product(self.settings.carving, self.settings.perceptual):
            name = "splats" + ("" if carving else ", no carving") + (", perceptual" if use_perceptual else "")
            jobs[name] = partial(self.splats, views, carving, perceptual if use_perceptual else None)
        if self.settings.mesh:
            jobs["hull"] = partial(self.hull, views)
            jobs["mesh"] = partial(self.textured_mesh, views)
        return jobs

    def splats(self, views: Views, carving: bool, perceptual: Perceptual | None) -> dict[str, float]:
        start = time.process_time()
        settings = self.settings
        if carving:
            first = initial_splats(self.carved(views), views, settings.gaussians, seed=settings.seed)
        else:
            first = random_splats(views, settings.gaussians, seed=settings.seed)
        fitting = FitSettings(iterations=settings.iterations)
        splats = fit(views, first, fitting, perceptual=perceptual, seed=settings.seed)
        seconds = time.process_time() - start
        scores: dict[str, float] = {}
        for name, truth in self.held_out.items():
            with torch.no_grad():
                images = rasterize(splats, truth.cameras).over(1.0).clamp(0, 1)
            scores |= image_scores(name, images, truth)
        return scores | {"gaussians": len(splats), "seconds": seconds}

    def hull(self, views: Views) -> dict[str, float]:
        start = time.process_time()
        mesh = extract_mesh(self.carved(views), faces=self.settings.faces)
        seconds = time.process_time() - start
        return self.shape(mesh) | {"seconds": seconds}

    def textured_mesh(self, views: Views) -> dict[str, float]:
        start = time.process_time()
        settings = self.settings
        sdf = fit_surface(views, self.carved(views), self.surface_settings, seed=settings.seed)
        mesh = unwrap(extract_mesh(sdf, faces=settings.faces), size=settings.texture_size)
        mesh = project_views(mesh, views, size=settings.texture_size)
        seconds = time.process_time() - start
        scores = self.shape(mesh)
        for name, truth in self.held_out.items():
            scores |= image_scores(name, render(mesh, truth.cameras).rgb, truth)
        return scores | {"seconds": seconds}

    def carved(self, views: Views) -> Grid:
        return carve(views, resolution=self.settings.hull_resolution)

    def shape(self, mesh: Mesh) -> dict[str, float]:
        return compare_meshes(mesh, self.mesh, tau=self.protocol.tau)

    def perfect(self) -> dict[str, float]:
        """What the truth itself would score."""
        images = {
            k: v
            for name, truth in self.held_out.items()
            for k, v in image_scores(name, truth.rgb, truth).items()
        }
        return images | (self.shape(self.mesh) if self.settings.mesh else {})
