"""The stages of a run: each computes one thing, keeps it in the run's folder and hands back its key.

What a stage computes is in `v3d.objects.build` and the rooms below it; here stands what goes into its key,
what is kept, and what the report says. A stage's `version` goes up with every change of what it computes, so
that a newer V3D does not take an older one's files for its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from v3d.capture.images import read_image
from v3d.capture.matting import method_key
from v3d.capture.photo import Photo, load_photo
from v3d.capture.readers import load_views
from v3d.diffusion.generator import Generator
from v3d.files import atomic
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.meshes.obj import save_obj
from v3d.networks.perceptual import Perceptual
from v3d.objects import build
from v3d.objects.build import BuildInputs
from v3d.objects.presets import Preset
from v3d.placement import place
from v3d.preview import contact_sheet, textured, turntable
from v3d.run import RunFolder, Stage, file_digest, save_tensors
from v3d.settings import GenerateSettings
from v3d.splats.files.ply import load_ply, save_ply
from v3d.splats.files.splat import save_splat
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import splat_renderer
from v3d.surface.grid import Grid
from v3d.surface.silhouette import silhouette_iou
from v3d.video import save_video
from v3d.views import Views, save_views

_HULL, _SURFACE = ".stages/hull.safetensors", ".stages/surface.safetensors"
_LEAST_IOU = 0.7  # of the mesh's silhouettes with the views'; below, the views fit no one object


def photo_stage(run: RunFolder, path: Path, *, recentre: bool) -> tuple[Tensor, str]:
    """The framed photo [S, S, 4], straight alpha."""

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
        version=1,
        inputs=[file_digest(path), recentre, method_key()],
        files=["photo.png"],
        compute=compute,
        save=save,
        load=lambda: torch.from_numpy(read_image(run / "photo.png")[0]),
    )


def generate_stage(
    run: RunFolder, generator: Generator, photo: Tensor, key: str, settings: GenerateSettings
) -> tuple[Views, str]:
    """The orbit of the photo [S, S, 4], drawn by video diffusion."""
    seed, steps, guidance = settings.seed, settings.steps, settings.guidance

    def compute(stage: Stage) -> Views:
        stage.facts["model"] = {"name": settings.model, "hash": generator.hash}
        return generator(photo, seed=seed, steps=steps, guidance=guidance, on_step=stage.step)

    return run.stage(
        "views",
        version=2,
        inputs=[key, generator.hash, seed, steps, guidance],
        files=["views", "transforms.json"],
        compute=compute,
        save=lambda views: save_views(views, run.path),
        load=lambda: load_views(run.path),
    )


def above_stage(run: RunFolder, generator: Generator, photo: Tensor, key: str) -> tuple[Views | None, str]:
    """Views from above and below, where the model draws them; kept in the folder `above`.

    `key` is the photo's.
    """
    draw = generator.model.above
    if draw is None:
        return None, key
    return run.stage(
        "above",
        version=2,
        inputs=[key, generator.hash],
        files=["above"],
        compute=lambda stage: draw(photo),
        save=lambda views: save_views(views, run / "above"),
        load=lambda: load_views(run / "above"),
    )


def views_stage(run: RunFolder, views: Views, notes: Sequence[str] = ()) -> tuple[Views, str]:
    """Given views, brought to the world of the orbit (see `v3d.placement`); `notes` of their reader are
    kept.
    """

    def compute(stage: Stage) -> Views:
        stage.warnings.extend(notes)
        cameras, placement = place(views.cameras)
        stage.facts["placement"] = {"scale": placement.scale, "centre": placement.centre}
        return Views(views.rgb, views.alpha, cameras)

    return run.stage(
        "views",
        version=2,
        inputs=[views.rgb, views.alpha, views.cameras, list(notes)],
        files=["views", "transforms.json"],
        compute=compute,
        save=lambda placed: save_views(placed, run.path),
        load=lambda: load_views(run.path),
    )


def hull_stage(run: RunFolder, inputs: BuildInputs, key: str, preset: Preset) -> tuple[Grid, str]:
    """`build.hull`; `key` is that of the views alone, which are all that carving looks at."""
    return run.stage(
        "hull",
        version=2,
        inputs=[key, preset.hull, inputs.trusted_views],
        files=[_HULL],
        compute=lambda stage: build.hull(inputs, preset),
        save=lambda hull: _save_grid(run / _HULL, hull),
        load=lambda: _load_grid(run / _HULL),
    )


def splats_stage(
    run: RunFolder, inputs: BuildInputs, hull: Grid, keys: list[str], preset: Preset, seed: int, device: str
) -> tuple[Splats, str]:
    """`build.splats`; `keys` are those of the hull and of the views from above."""
    perceptual = Perceptual.load("vae", device=device) if preset.perceptual else None
    name = perceptual.name if perceptual else None

    def compute(stage: Stage) -> Splats:
        splats = build.splats(
            inputs, hull, preset, seed=seed, perceptual=perceptual, device=device, on_step=stage.step
        )
        stage.facts |= {"gaussians": len(splats), "perceptual": name, "device": device}
        return splats

    return run.stage(
        "splats",
        version=2,
        inputs=[keys, preset.view_size, preset.gaussians, preset.splats, name, seed],
        files=["splats.ply"],
        compute=compute,
        save=lambda splats: save_ply(run / "splats.ply", splats),
        load=lambda: load_ply(run / "splats.ply"),
    )


def surface_stage(
    run: RunFolder,
    inputs: BuildInputs,
    hull: Grid,
    splats: Splats,
    keys: list[str],
    preset: Preset,
    seed: int,
    device: str,
) -> tuple[Grid, str]:
    """`build.surface`; `keys` are those of the hull and of the Gaussians. Without a fit nothing is kept."""
    if preset.surface is None:
        return hull, keys[0]
    return run.stage(
        "surface",
        version=2,
        inputs=[keys, preset.surface, seed],
        files=[_SURFACE],
        compute=lambda stage: build.surface(
            inputs, hull, splats, preset, seed=seed, device=device, on_step=stage.step
        ),
        save=lambda sdf: _save_grid(run / _SURFACE, sdf),
        load=lambda: _load_grid(run / _SURFACE),
    )


def mesh_stage(
    run: RunFolder, inputs: BuildInputs, sdf: Grid, key: str, preset: Preset, device: str
) -> tuple[Mesh, str]:
    """`build.shape`, then `build.textured`; says how well the mesh fits the views."""

    def compute(stage: Stage) -> Mesh:
        shape = build.shape(inputs, sdf, preset)
        iou = silhouette_iou(shape, inputs.views)
        stage.facts |= {"faces": len(shape.faces), "silhouette_iou": round(iou, 3)}
        if iou < _LEAST_IOU:
            stage.warn(
                f"The views do not fit one object (the mesh covers {iou:.0%} of their silhouettes); "
                "expect a poor shape, and try another photo or seed."
            )
        for v, photo in build.registered_photos(inputs).items():
            if photo is None:
                stage.warn(f"The photo was left out of the texture, because view {v} shows another outline.")
        return build.textured(inputs, shape, preset, device=device, on_step=stage.step)

    return run.stage(
        "mesh",
        version=2,
        inputs=[key, sorted(inputs.photos.items()), preset.faces, preset.texture_size, preset.refine],
        files=["mesh.glb"],
        compute=compute,
        save=lambda mesh: save_glb(mesh, run / "mesh.glb"),
        load=lambda: load_mesh(run / "mesh.glb"),
    )


def export_stage(
    run: RunFolder, splats: Splats | None, mesh: Mesh | None, keys: list[str], formats: tuple[str, ...]
) -> None:
    """The splats and the mesh in the other formats asked for."""
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
            version=1,
            inputs=[keys, sorted(writers)],
            files=list(writers),
            compute=lambda stage: None,
            save=save,
            load=lambda: None,
        )


def preview_stage(
    run: RunFolder,
    inputs: BuildInputs,
    splats: Splats | None,
    mesh: Mesh | None,
    keys: list[str],
    preset: Preset,
) -> None:
    """Pictures of the result: the views and a turntable as videos, and one sheet of everything."""
    draw = splat_renderer(splats) if splats is not None else None
    around = textured(mesh) if mesh is not None else draw
    photo = inputs.photos.get(0)

    def compute(stage: Stage) -> tuple[Image.Image, Tensor | None]:
        sheet = contact_sheet(inputs.views, photo=photo, splats=draw, mesh=mesh)
        return sheet, turntable(around, size=preset.turntable) if around is not None else None

    def save(pictures: tuple[Image.Image, Tensor | None]) -> None:
        sheet, frames = pictures
        with atomic(run / "preview.png") as temporary:
            sheet.save(temporary)
        save_video(inputs.views.rgb, run / "views.mp4")
        if frames is not None:
            save_video(frames, run / "turntable.mp4")

    run.stage(
        "preview",
        version=1,
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
