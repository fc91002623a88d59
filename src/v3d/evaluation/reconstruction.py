"""Reconstruction from true orbits: how much the 3D stages lose, with generation taken out of the question."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product

import torch
from torch import Tensor

from v3d.errors import V3DError
from v3d.evaluation.objects import TestObject
from v3d.evaluation.protocol import ObjectProtocol, perturb
from v3d.evaluation.report import ObjectResult
from v3d.evaluation.settings import ReconstructionSettings
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.metrics import psnr, ssim
from v3d.networks.perceptual import Perceptual
from v3d.objects.presets import PRESETS, Preset
from v3d.splats.fit import fit
from v3d.splats.gaussians import Splats
from v3d.splats.initial import initial_splats, random_splats
from v3d.splats.rasterize import normal_images, rasterize
from v3d.surface.carving import carve
from v3d.surface.extract import extract_mesh
from v3d.surface.fit import fit_surface
from v3d.surface.grid import Grid
from v3d.surface.silhouette import fill_silhouette, silhouette_iou
from v3d.texture.project import project_views
from v3d.texture.refine import refine_texture
from v3d.texture.unwrap import unwrap
from v3d.views import Views, with_above


def evaluate_reconstruction(
    item: TestObject,
    protocol: ObjectProtocol,
    settings: ReconstructionSettings,
    perceptual: Perceptual | None = None,
    preset: Preset | None = None,
) -> ObjectResult:
    """Reconstruct one object from its true orbit and compare with the object.

    Beside its metrics, every method has `seconds`: CPU time of this process for the stages alone. One that
    fails with a `V3DError` is listed as a failure; the others go on.

    Args:
        perceptual: the network for the fits that ask for one.
        preset: in place of the one that the quality names.
    """
    case = Case(
        protocol,
        settings,
        protocol.place(item.mesh),
        protocol.held_out(item),
        preset or PRESETS[settings.quality],
    )
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
class Case:
    """One object to reconstruct: the placed true mesh, and the views that no method sees; of the views that methods do see one may
    be `certain`, where others are guessed."""

    protocol: ObjectProtocol
    settings: ReconstructionSettings
    mesh: Mesh
    held_out: dict[str, Views]
    preset: Preset
    certain: int | None = None
    last: list[Splats] = field(default_factory=list)

    def jobs(self, views: Views, perceptual: Perceptual | None) -> dict[str, Callable[[], dict[str, float]]]:
        """Every method that the settings ask for, by name."""
        jobs: dict[str, Callable[[], dict[str, float]]] = {}
        for carving, use_perceptual in product(self.settings.carving, self.settings.perceptual):
            name = "splats" + ("" if carving else ", no carving") + (", perceptual" if use_perceptual else "")
            jobs[name] = partial(self.splats, views, carving, perceptual if use_perceptual else None)
        if self.settings.mesh:
            jobs["hull"] = partial(self.hull, views)
            jobs["mesh"] = partial(
                self.textured_mesh, views, perceptual if all(self.settings.perceptual) else None
            )
        return jobs

    def fitted(
        self, views: Views, carving: bool, perceptual: Perceptual | None, above: Views | None = None
    ) -> Splats:
        """Splats that start on the hull of the views, fitted to these and those from `above`."""
        count, seed = self.preset.gaussians, self.settings.seed
        seen = with_above(views, above)
        if seen.cameras.width > self.preset.view_size:
            seen = seen.reduced(self.preset.view_size)
        orbit = seen[: len(views)]
        if carving:
            first = initial_splats(self.carved(orbit), seen, count, seed=seed)
        else:
            first = random_splats(orbit, count, seed=seed)
        return fit(seen, first, self.preset.splats, perceptual=perceptual, seed=seed)

    def splats(self, views: Views, carving: bool, perceptual: Perceptual | None) -> dict[str, float]:
        start = time.process_time()
        splats = self.fitted(views, carving, perceptual)
        seconds = time.process_time() - start
        if carving:
            self.last[:] = [splats]
        return self.splat_scores(splats) | {"seconds": seconds}

    def splat_scores(self, splats: Splats) -> dict[str, float]:
        scores: dict[str, float] = {}
        for name, truth in self.held_out.items():
            with torch.no_grad():
                images = rasterize(splats, truth.cameras).over(1.0).clamp(0, 1)
            scores |= image_scores(name, images, truth)
        return scores | {"gaussians": len(splats)}

    def hull(self, views: Views) -> dict[str, float]:
        start = time.process_time()
        mesh = extract_mesh(self.carved(views), faces=self.preset.faces)
        seconds = time.process_time() - start
        return self.protocol.compare(mesh, self.mesh) | {"seconds": seconds}

    def textured_mesh(self, views: Views, perceptual: Perceptual | None) -> dict[str, float]:
        """The product's mesh; its surface is guided by the splats that were fitted last (not counted in `seconds`)."""
        splats = self.last.pop() if self.last else self.fitted(views, True, perceptual)
        return self.mesh_scores(views, splats)

    def mesh_scores(self, views: Views, splats: Splats) -> dict[str, float]:
        """Of the mesh made of the views and of splats fitted to them; `front_iou` is its outline's with that of the first view."""
        start = time.process_time()
        preset, hull = self.preset, self.carved(views)
        sdf = hull
        if preset.surface is not None:
            normals = normal_images(splats, views.cameras)
            sdf = fit_surface(views, hull, preset.surface, normals=normals, seed=self.settings.seed)
            if self.certain is not None:
                sdf = fill_silhouette(sdf, views[self.certain], hull=hull)
        mesh = unwrap(extract_mesh(sdf, cameras=views.cameras, faces=preset.faces), size=preset.texture_size)
        mesh = project_views(mesh, views, size=preset.texture_size)
        if preset.refine is not None:
            mesh = refine_texture(mesh, views, preset.refine)
        seconds = time.process_time() - start
        scores = self.protocol.compare(mesh, self.mesh) | {"front_iou": silhouette_iou(mesh, views[0])}
        for name, truth in self.held_out.items():
            scores |= image_scores(name, render(mesh, truth.cameras).rgb, truth)
        return scores | {"seconds": seconds}

    def carved(self, views: Views) -> Grid:
        trusted_views = () if self.certain is None else (self.certain,)
        return carve(views, resolution=self.preset.hull, trusted_views=trusted_views)

    def perfect(self) -> dict[str, float]:
        """What the truth itself would score."""
        images = {
            k: v
            for name, truth in self.held_out.items()
            for k, v in image_scores(name, truth.rgb, truth).items()
        }
        return images | (self.protocol.compare(self.mesh, self.mesh) if self.settings.mesh else {})
