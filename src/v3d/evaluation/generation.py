"""Generation on test objects: the orbit drawn from a true front view, against the true orbit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from v3d.errors import V3DError
from v3d.evaluation.metrics import compare_views, silhouette_consistency, warp_consistency
from v3d.evaluation.nearest import NearestObject
from v3d.evaluation.objects import TestObject
from v3d.evaluation.protocol import ObjectProtocol
from v3d.evaluation.report import ObjectResult
from v3d.evaluation.settings import GenerationSettings
from v3d.framing import photo_of
from v3d.meshes.mesh import Mesh
from v3d.networks.perceptual import Perceptual
from v3d.surface.carving import carve
from v3d.surface.extract import extract_mesh
from v3d.surface.fit import fit_surface
from v3d.surface.silhouette import fill_silhouette
from v3d.views import Views


class OrbitGenerator(Protocol):
    """`v3d.diffusion.generator.Generator`, or anything that is called like it."""

    def __call__(self, rgba: Tensor, *, seed: int, steps: int | None, guidance: float | None) -> Views: ...

    def above(self, rgba: Tensor) -> Views | None: ...


def evaluate_generation(
    item: TestObject,
    protocol: ObjectProtocol,
    settings: GenerationSettings,
    generator: OrbitGenerator | None,
    nearest: NearestObject | None = None,
    perceptual: Perceptual | None = None,
) -> ObjectResult:
    """Draw the orbit of one object from its true front view and compare frames 1.. with the true ones.

    Methods: "true views", "generated" (without a generator: left out), "repeat the photo", and "nearest
    training object" where its index is given. `back.*` are the means over the views more than 90 degrees from the photo.
    """
    truth = protocol.true_orbit(item)
    photo = photo_of(truth)
    mesh = protocol.place(item.mesh)
    methods: dict[str, Callable[[], Views]] = {
        "true views": lambda: truth,
        "repeat the photo": lambda: repeat_photo(photo, truth),
    }
    if nearest is not None:
        methods["nearest training object"] = lambda: nearest(photo, protocol)
    if generator is not None:
        methods["generated"] = lambda: generator(
            photo, seed=settings.seed, steps=settings.steps, guidance=settings.guidance
        ).resized(protocol.size, protocol.size)
    result = ObjectResult(item.id, item.hash, item.real_scan, {}, {})
    for method, draw in methods.items():
        try:
            start = time.process_time()
            views = draw()
            seconds = time.process_time() - start
            result.scores[method] = orbit_scores(views, truth, perceptual) | {"seconds": seconds}
            if settings.mesh != "none":
                result.scores[method] |= asset_scores(views, mesh, protocol, settings)
        except V3DError as error:
            result.failures[method] = str(error)
    return result


def repeat_photo(rgba: Tensor, truth: Views) -> Views:
    """The baseline that shows the photo [H, W, 4] (straight alpha) from every side."""
    alpha = rgba[..., 3]
    rgb = rgba[..., :3] * alpha[..., None] + 1 - alpha[..., None]
    V = len(truth)
    return Views(rgb.expand(V, -1, -1, -1), alpha.expand(V, -1, -1), truth.cameras)


def orbit_scores(views: Views, truth: Views, perceptual: Perceptual | None = None) -> dict[str, float]:
    """Means over the frames that had to be invented (all but frame 0), and over the back half.

    Args:
        perceptual: also its distance, by its name.
    """
    each = compare_views(views, truth)
    if perceptual is not None:
        with torch.no_grad():
            each[perceptual.name] = perceptual.distances(views.rgb, perceptual.prepare(truth.rgb))
    turn = torch.arange(len(truth)) * 360.0 / len(truth)
    back = (turn - 180).abs() < 90
    means = {name: float(values[1:].mean()) for name, values in each.items()}
    return means | {f"back.{name}": float(values[back].mean()) for name, values in each.items()}


def asset_scores(
    views: Views, truth: Mesh, protocol: ObjectProtocol, settings: GenerationSettings
) -> dict[str, float]:
    """How far the views agree with one solid, and how near that solid is to the true mesh.

    The agreement is that with the plain hull; the solid fills the outline of the first view, which is the photo's. Views that
    have no solid in common score nan, and an IoU of 0.
    """
    try:
        common = extract_mesh(carve(views), faces=settings.faces)
        silhouettes = float(silhouette_consistency(views, common).mean())
        warp = float(warp_consistency(views, common).nanmean())
        sdf = carve(views, trusted_views=(0,))
        cameras = None
        if settings.mesh == "surface":
            fitted = fit_surface(views, sdf, seed=settings.seed)
            sdf, cameras = fill_silhouette(fitted, views[0], hull=sdf), views.cameras
        mesh = extract_mesh(sdf, cameras=cameras, faces=settings.faces)
    except V3DError:
        return {
            "consistency.iou": float("nan"),
            "consistency.psnr": float("nan"),
            "mesh.chamfer": float("nan"),
            "mesh.iou": 0.0,
        }
    shape = protocol.compare(mesh, truth)
    return {
        "consistency.iou": silhouettes,
        "consistency.psnr": warp,
        "mesh.chamfer": shape["chamfer"],
        "mesh.iou": shape["iou"],
    }
