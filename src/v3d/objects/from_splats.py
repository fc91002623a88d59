"""3D Gaussians of any file -> a watertight, textured mesh that lies on them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from v3d.callbacks import OnProgress
from v3d.cameras import Cameras, above_and_below, cat_cameras, orbit
from v3d.capture.readers import find_photos, read_object_views
from v3d.compositing import over_white
from v3d.errors import V3DError
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.look import Look
from v3d.meshes.mesh import Mesh
from v3d.objects import build
from v3d.objects.build import BuildInputs
from v3d.objects.output_stages import export_stage, preview_stage
from v3d.objects.pipeline import Asset
from v3d.objects.presets import Preset, preset_of
from v3d.objects.stages import hull_stage, surface_stage
from v3d.placement import Similarity
from v3d.run import RunFolder, Stage, other_than
from v3d.runtime import pick_device, tune_malloc
from v3d.settings import ReconstructSettings
from v3d.splats.clean import Cleaned, clean
from v3d.splats.files.read import read_splats
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import rasterize
from v3d.surface.grid import Grid
from v3d.surface.silhouette import silhouette_iou
from v3d.views import Views, cat_views, save_views

_RADIUS = 0.8  # of the ball that the object fills among the cameras of the orbit
_RINGS = ((18, 0.0, 0.0), (12, 25.0, 10.0), (12, -20.0, 20.0))  # views, elevation, azimuth of the first
_FIRMER = 2.0  # opacity of one quarter counts as none, of three quarters as full
_PINHOLE = 40  # holes of less area than a square of this part of a view's side
_LEAST_IOU = 0.7  # of the mesh's silhouettes with the views'; below, they have no clear surface


def mesh_of_splats(
    path: str | Path,
    out: str | Path,
    settings: ReconstructSettings | None = None,
    *,
    axes: str | None = None,
    name: str | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Asset:
    """Make a mesh of 3D Gaussians, in the folder `out/<name of the file>`.

    The Gaussians are rendered from all sides, and the mesh is made of these views as `v3d reconstruct` makes
    it. It has the scale and the place of the Gaussians and V3D's axes, to which they are turned as they are
    read: in a viewer it lies on them.

    Args:
        path: a file of Gaussians, in any format that `v3d.splats.files.read` knows.
        out: the folder that gets the run's folder.
        settings: quality, faces, texture size, formats.
        axes: where x, y and z of the file point, three letters as in RDF (right, down, front), where it does
            not keep to its format's axes.
        name: of the run's folder, in place of the file's.
        force: compute finished stages anew.
        on_progress: called as the stages go on, see `v3d.callbacks.OnProgress`.

    Returns:
        The asset; its splats are those that were kept, its views the renders of them.

    Raises:
        V3DError: the file holds no Gaussians, or these have no surface.
    """
    settings = settings or ReconstructSettings()
    path = Path(path)
    read = read_splats(path, axes=axes)
    if len(read.splats) == 0:
        raise V3DError(f"{path.name} holds no Gaussians.")
    device = pick_device(settings.device)
    tune_malloc()
    folder = other_than(path.parent, Path(out) / (name or path.name.partition(".")[0]))
    kept = clean(read.splats)
    upright = torch.eye(3, dtype=torch.float64)
    placement = Similarity.of(_RADIUS / kept.radius, upright, kept.centre.double())
    notes = (*read.notes, *kept.notes)
    with RunFolder(folder, settings, warnings=notes, force=force, on_progress=on_progress) as run:
        return _build(run, kept, placement, settings, device)


def _build(
    run: RunFolder, kept: Cleaned, placement: Similarity, settings: ReconstructSettings, device: str
) -> Asset:
    """Gaussians -> views -> hull -> surface -> textured mesh -> files."""
    preset, seed = preset_of(settings), settings.seed
    splats = _moved(kept.splats, placement)
    views, key = _views_stage(run, splats, placement, preset, device)
    placed = replace(views, cameras=placement.apply(views.cameras).to_float32())
    inputs, solid = BuildInputs(placed), BuildInputs(without_pinholes(placed))
    hull, hull_key = hull_stage(run, solid, key, preset)
    sdf, sdf_key = surface_stage(run, solid, hull, splats, [hull_key, key], preset, seed, device)
    mesh, key = _mesh_stage(run, inputs, sdf, sdf_key, placement, preset, device)
    export_stage(run, None, mesh, [key], settings.formats)
    back = replace(mesh, vertices=moved_points(mesh.vertices, placement))
    preview_stage(run, inputs, splats, back, [key], preset)
    return Asset(run.path, views, kept.splats, mesh, run.report)


def _views_stage(
    run: RunFolder, splats: Splats, placement: Similarity, preset: Preset, device: str
) -> tuple[Views, str]:
    """Renders of Gaussians from all round, with float64 cameras in the world of their file.

    Args:
        run: its folder.
        splats: in the world of the orbit.
        placement: what brought them there.
        preset: says how large the renders are.
        device: where they are rendered.
    """
    cameras = cameras_around(2 * preset.view_size)

    def compute(stage: Stage) -> Views:
        parts = []
        for v in range(len(cameras)):
            parts.append(_rendered(splats.to(device), cameras[v]))
            stage.step(v + 1, len(cameras))
        views = cat_views(parts)
        where = Cameras(cameras.c2w.double(), cameras.K, cameras.width, cameras.height)
        return replace(views, cameras=_inverse(placement).apply(where))

    return run.stage(
        "views",
        version=1,
        inputs=[splats, placement.matrix, cameras.width],
        files=["views", "transforms.json"],
        compute=compute,
        save=lambda views: save_views(views, run.path),
        load=lambda: read_object_views(find_photos(run.path).photos),
    )


def cameras_around(size: int) -> Cameras:
    """The 54 cameras that see an object of Gaussians: three rings around it, and from above and below."""
    rings = [orbit(n, size=size, elevation=elevation, azimuth=first) for n, elevation, first in _RINGS]
    return cat_cameras([*rings, above_and_below(size)])


@torch.no_grad()
def _rendered(splats: Splats, camera: Cameras) -> Views:
    """One view of Gaussians, opaque where they are rather so than not.

    The surface of an object of Gaussians lets some light through; a mesh does not.
    """
    image = rasterize(splats, camera.to(splats.means.device))
    alpha = ((image.alpha - 0.5) * _FIRMER + 0.5).clamp(0, 1)
    straight = (image.rgb / image.alpha.clamp_min(1e-3)[..., None]).clamp(0, 1)
    return Views(over_white(straight, alpha).cpu(), alpha.cpu(), camera)


def without_pinholes(views: Views) -> Views:
    """The views with small holes in their silhouettes closed, such as gaps between Gaussians.

    What is closed has no sound colour: for the shape alone.
    """
    alpha = views.alpha.clone()
    most = (views.cameras.width / _PINHOLE) ** 2
    for mask in alpha:
        outside = (mask <= 0.5).numpy().astype(np.uint8)
        count, label, stats, _ = cv2.connectedComponentsWithStats(outside, connectivity=4)
        small = [k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] < most]
        mask[torch.from_numpy(np.isin(label, small))] = 1.0
    return replace(views, alpha=alpha)


def _mesh_stage(
    run: RunFolder,
    inputs: BuildInputs,
    sdf: Grid,
    key: str,
    placement: Similarity,
    preset: Preset,
    device: str,
) -> tuple[Mesh, str]:
    """The textured mesh, put back to where the Gaussians are."""

    def compute(stage: Stage) -> Mesh:
        shape = build.shape(inputs, sdf, preset)
        iou = silhouette_iou(shape, inputs.views)
        stage.facts |= {"faces": len(shape.faces), "silhouette_iou": round(iou, 3)}
        if iou < _LEAST_IOU:
            stage.warn(
                f"The Gaussians have no clear surface (the mesh covers {iou:.0%} of their outlines); expect "
                "a poor shape."
            )
        mesh = build.textured(inputs, shape, preset, device=device, on_step=stage.step)
        return replace(mesh, vertices=moved_points(mesh.vertices, _inverse(placement)))

    return run.stage(
        "mesh",
        version=1,
        inputs=[key, placement.matrix, preset.faces, preset.texture_size, preset.refine],
        files=["mesh.glb"],
        compute=compute,
        save=lambda mesh: save_glb(mesh, run / "mesh.glb", Look(name=run.name)),
        load=lambda: load_mesh(run / "mesh.glb"),
    )


def _moved(splats: Splats, place: Similarity) -> Splats:
    """Gaussians moved by a scale and a shift."""
    log_scales = splats.log_scales + math.log(place.scale)
    return replace(splats, means=moved_points(splats.means, place), log_scales=log_scales)


def moved_points(points: Tensor, place: Similarity) -> Tensor:
    """Points [P, 3] moved, in float32."""
    return (points.double() @ place.matrix[:3, :3].T + place.matrix[:3, 3]).float()


def _inverse(place: Similarity) -> Similarity:
    return Similarity(torch.linalg.inv(place.matrix))
