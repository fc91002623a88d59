"""The stages of a run: each computes one thing, keeps it in the run's folder and hands back its key.

What a stage computes is in its own module; here stands what goes in, what is kept and what is said in the
report.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from v3d.capture.images import read_image
from v3d.capture.photo import Photo, load_photo
from v3d.capture.readers import load_views
from v3d.files import atomic
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.meshes.obj import save_obj
from v3d.networks.perceptual import Perceptual
from v3d.objects.presets import Preset
from v3d.placement import place
from v3d.preview import contact_sheet, textured, turntable
from v3d.run import RunFolder, Stage, file_digest, save_tensors
from v3d.settings import GenerateSettings
from v3d.splats.files.ply import load_ply, save_ply
from v3d.splats.files.splat import save_splat
from v3d.splats.fit import fit
from v3d.splats.gaussians import Splats
from v3d.splats.initial import initial_splats
from v3d.splats.rasterize import normal_images, splat_renderer
from v3d.surface.carving import carve
from v3d.surface.extract import extract_mesh
from v3d.surface.fit import fit_surface
from v3d.surface.grid import Grid
from v3d.surface.silhouette import fill_silhouette, silhouette_iou
from v3d.texture.project import project_views, register_photo
from v3d.texture.refine import refine_texture
from v3d.texture.unwrap import unwrap
from v3d.video import save_video
from v3d.views import Views, save_views

if TYPE_CHECKING:
    from v3d.diffusion.generator import Generator

_HULL, _SURFACE = ".stages/hull.safetensors", ".stages/surface.safetensors"


def photo_stage(run: RunFolder, path: Path, *, recentre: bool) -> tuple[Tensor, str]:
    """The framed photo [S, S, 4]."""

    def compute(stage: Stage) -> Photo:
        photo = load_photo(path, recentre=recentre)
        stage.facts["foreground"] = photo.foreground
        stage.warnings.extend(photo.warnings)
        return photo

    def save(photo: Photo) -> None:
        with atomic(run / "photo.png") as temporary:
            Image.fromarray((photo.rgba * 255).round().to(torch.uint8).numpy()).save(temporary)

    return run.stage(
        "photo",
        inputs=[file_digest(path), recentre],
        files=["photo.png"],
        compute=compute,
        save=save,
        load=lambda: torch.from_numpy(read_image(run / "photo.png")[0]),
    )


def generate_stage(
    run: RunFolder, generator: Generator, photo: Tensor, key: str, settings: GenerateSettings
) -> tuple[Views, str]:
    """The orbit, drawn by video diffusion."""
    seed, steps, guidance = settings.seed, settings.steps, settings.guidance

    def compute(stage: Stage) -> Views:
        stage.facts["model"] = {"name": settings.model, "hash": generator.hash}
        return generator(photo, seed=seed, steps=steps, guidance=guidance, on_step=stage.step)

    return run.stage(
        "views",
        inputs=[key, generator.hash, seed, steps, guidance],
        files=["views", "transforms.json"],
        compute=compute,
        save=lambda views: save_views(views, run.path),
        load=lambda: load_views(run.path),
    )


def above_stage(run: RunFolder, generator: Generator, photo: Tensor, key: str) -> tuple[Views | None, str]:
    """Views from above and below, where the model draws them; kept in the folder `above`."""
    draw = generator.model.above
    if draw is None:
        return None, key
    return run.stage(
        "above",
        inputs=[key],
        files=["above"],
        compute=lambda stage: draw(photo),
        save=lambda views: save_views(views, run / "above"),
        load=lambda: load_views(run / "above"),
    )


def views_stage(run: RunFolder, views: Views) -> tuple[Views, str]:
    """Given views, brought to the world of the orbit."""

    def compute(stage: Stage) -> Views:
        cameras, placement = place(views.cameras)
        stage.facts["placement"] = {"scale": placement.scale, "centre": placement.centre}
        return Views(views.rgb, views.alpha, cameras)

    return run.stage(
        "views",
        inputs=[views.rgb, views.alpha, views.cameras],
        files=["views", "transforms.json"],
        compute=compute,
        save=lambda placed: save_views(placed, run.path),
        load=lambda: load_views(run.path),
    )


def hull_stage(
    run: RunFolder, views: Views, key: str, preset: Preset, certain: int | None
) -> tuple[Grid, str]:
    """The soft visual hull, by space carving; it fills the outline of a view that is `certain`."""
    return run.stage(
        "hull",
        inputs=[key, preset.hull, certain],
        files=[_HULL],
        compute=lambda stage: carve(
            views, resolution=preset.hull, trusted_views=() if certain is None else (certain,)
        ),
        save=lambda hull: _save_grid(run / _HULL, hull),
        load=lambda: _load_grid(run / _HULL),
    )


def splats_stage(
    run: RunFolder, views: Views, hull: Grid, key: str, preset: Preset, seed: int, device: str
) -> tuple[Splats, str]:
    """Gaussians that start on the hull."""
    perceptual = Perceptual.load("vae", device=device) if preset.perceptual else None
    name = perceptual.name if perceptual else None

    def compute(stage: Stage) -> Splats:
        small = views
        if max(views.cameras.width, views.cameras.height) > preset.view_size:
            small = views.reduced(preset.view_size)
        initial = initial_splats(hull, small, preset.gaussians, seed=seed).to(device)
        splats = fit(small, initial, preset.splats, perceptual=perceptual, on_step=stage.step, seed=seed).to(
            "cpu"
        )
        stage.facts |= {"gaussians": len(splats), "perceptual": name, "device": device}
        return splats

    return run.stage(
        "splats",
        inputs=[key, preset.view_size, preset.gaussians, preset.splats, name, seed],
        files=["splats.ply"],
        compute=compute,
        save=lambda splats: save_ply(run / "splats.ply", splats),
        load=lambda: load_ply(run / "splats.ply"),
    )


def surface_stage(
    run: RunFolder,
    views: Views,
    hull: Grid,
    splats: Splats,
    key: str,
    preset: Preset,
    seed: int,
    device: str,
    certain: int | None,
) -> tuple[Grid, str]:
    """The signed distance field, fitted to the views and the splats' normals from the hull on.

    The fit weighs all views alike; what it takes from the outline of a `certain` one is filled again. Without
    settings for it, the field is the hull itself.
    """
    settings = preset.surface
    if settings is None:
        return hull, key

    def compute(stage: Stage) -> Grid:
        normals = normal_images(splats.to(device), views.cameras)
        sdf = fit_surface(
            views.to(device), hull.to(device), settings, normals=normals, on_step=stage.step, seed=seed
        )
        return (
            sdf if certain is None else fill_silhouette(sdf, views[certain].to(device), hull=hull.to(device))
        )

    return run.stage(
        "surface",
        inputs=[key, settings, seed, certain],
        files=[_SURFACE],
        compute=compute,
        save=lambda sdf: _save_grid(run / _SURFACE, sdf),
        load=lambda: _load_grid(run / _SURFACE),
    )


def mesh_stage(
    run: RunFolder, views: Views, photo: Tensor | None, sdf: Grid, key: str, preset: Preset
) -> tuple[Mesh, str]:
    """The zero surface as triangles, textured from the views and, at its own resolution, the photo."""

    def compute(stage: Stage) -> Mesh:
        mesh = unwrap(extract_mesh(sdf, cameras=views.cameras, faces=preset.faces), size=preset.texture_size)
        agreement = silhouette_iou(mesh, views)
        stage.facts |= {"faces": len(mesh.faces), "silhouette_iou": round(agreement, 3)}
        if agreement < 0.7:
            stage.warn(
                f"The views do not fit one object (the mesh covers {agreement:.0%} of their outlines); "
                "expect a poor shape, and try another photo or seed."
            )
        placed = register_photo(photo, views[0]) if photo is not None else None
        photos = [] if placed is None else [placed]
        if photo is not None and placed is None:
            stage.warn("The photo was left out of the texture, because view 0 shows another outline.")
        mesh = project_views(mesh, views, size=preset.texture_size, photos=photos)
        if preset.refine is None:
            return mesh
        return refine_texture(mesh, views, preset.refine, photos=photos, on_step=stage.step)

    return run.stage(
        "mesh",
        inputs=[key, photo, preset.faces, preset.texture_size, preset.refine],
        files=["mesh.glb"],
        compute=compute,
        save=lambda mesh: save_glb(mesh, run / "mesh.glb"),
        load=lambda: load_mesh(run / "mesh.glb"),
    )


def export_stage(
    run: RunFolder, splats: Splats | None, mesh: Mesh | None, keys: list[str], formats: tuple[str, ...]
) -> None:
    """The same splats and mesh in the other formats asked for."""
    writers: dict[str, Callable[[], None]] = {}
    if splats is not None and "splat" in formats:
        writers["splats.splat"] = lambda: save_splat(run / "splats.splat", splats)
    if mesh is not None and "obj" in formats:
        writers["mesh.obj"] = lambda: save_obj(mesh, run / "mesh.obj")

    def save(_: None) -> None:
        for write in writers.values():
            write()

    if writers:
        run.stage(
            "export",
            inputs=[keys, sorted(writers)],
            files=list(writers),
            compute=lambda stage: None,
            save=save,
            load=lambda: None,
        )


def preview_stage(
    run: RunFolder,
    views: Views,
    splats: Splats | None,
    mesh: Mesh | None,
    photo: Tensor | None,
    keys: list[str],
    preset: Preset,
) -> None:
    """Pictures of the result: the views and a turntable as videos, and one sheet of everything."""
    draw = splat_renderer(splats) if splats is not None else None
    around = textured(mesh) if mesh is not None else draw

    def compute(stage: Stage) -> tuple[Image.Image, Tensor | None]:
        sheet = contact_sheet(views, photo=photo, splats=draw, mesh=mesh)
        return sheet, turntable(around, size=preset.turntable) if around is not None else None

    def save(pictures: tuple[Image.Image, Tensor | None]) -> None:
        sheet, frames = pictures
        with atomic(run / "preview.png") as temporary:
            sheet.save(temporary)
        save_video(views.rgb, run / "views.mp4")
        if frames is not None:
            save_video(frames, run / "turntable.mp4")

    run.stage(
        "preview",
        inputs=[keys, photo, preset.turntable],
        files=["preview.png", "views.mp4", *(["turntable.mp4"] if around is not None else [])],
        compute=compute,
        save=save,
        load=lambda: None,
    )


def _save_grid(path: Path, grid: Grid) -> None:
    voxel = torch.tensor(grid.voxel, dtype=torch.float64)
    save_tensors(path, {"values": grid.values, "origin": grid.origin, "voxel": voxel})


def _load_grid(path: Path) -> Grid:
    from safetensors.torch import load_file

    tensors = load_file(path)
    return Grid(tensors["values"], tensors["origin"], tensors["voxel"].item())
