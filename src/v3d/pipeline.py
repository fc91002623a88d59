"""One photo -> an asset, stage by stage as in the paper.

photo -> orbit views (video diffusion) -> hull (space carving) -> splats (3D Gaussians) -> surface (NeuS-style
distance field) -> textured mesh -> files. Every stage is kept in the run's folder, see `v3d.run`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from v3d.cameras import Cameras
from v3d.carving import carve, initial_splats
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.mesh import Mesh, load_mesh, save_glb, save_obj
from v3d.perceptual import Perceptual
from v3d.photo import Photo, load_photo
from v3d.preview import RenderFn, contact_sheet, textured, turntable
from v3d.run import OnProgress, RunFolder, Stage, file_digest, save_tensors
from v3d.runtime import tune_malloc
from v3d.settings import GenerateSettings, Quality, ReconstructSettings
from v3d.splats.files import load_ply, save_ply, save_splat
from v3d.splats.fit import FitSettings, fit
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import rasterize
from v3d.surface.extract import extract_mesh
from v3d.surface.fit import SurfaceSettings, fit_surface
from v3d.surface.grid import Grid
from v3d.texture.project import project_views, register_photo
from v3d.texture.refine import RefineSettings, refine_texture
from v3d.texture.unwrap import unwrap
from v3d.video import save_video
from v3d.views import Views, load_views, save_views, views_from_video

if TYPE_CHECKING:
    from v3d.diffusion.generator import Generator

MAX_VIEW_SIZE = 1024  # larger views are reduced as they are read


@dataclass(frozen=True)
class Preset:
    """What a quality means.

    Attributes:
        view_size: pixels of the views that splats are fitted to; smaller views are used at their own size.
        hull: nodes along the longest side of the hull.
        gaussians: at the start.
        fit: of the splats.
        perceptual: whether the splats' loss has its perceptual part.
        surface: of the distance field; None takes the hull for the surface.
        faces, texture_size: of the mesh.
        refine: of the texture; None leaves it as it was projected.
    """

    view_size: int
    hull: int
    gaussians: int
    fit: FitSettings
    perceptual: bool
    surface: SurfaceSettings | None
    faces: int
    texture_size: int
    refine: RefineSettings | None


PRESETS: dict[Quality, Preset] = {
    "draft": Preset(128, 96, 8_000, FitSettings(iterations=300), False, None, 8_000, 512, None),
    "standard": Preset(
        256,
        128,
        20_000,
        FitSettings(iterations=1000),
        True,
        SurfaceSettings(),
        20_000,
        1024,
        RefineSettings(),
    ),
    "high": Preset(
        512,
        192,
        40_000,
        FitSettings(iterations=4000),
        True,
        SurfaceSettings(),
        40_000,
        2048,
        RefineSettings(),
    ),
}


@dataclass(frozen=True)
class Asset:
    """What a run made.

    Attributes:
        folder: where its files are.
        views: the orbit, or the posed views, that the rest was made from.
        splats, mesh: None where the run stopped before them.
        report: what `report.json` says.
    """

    folder: Path
    views: Views
    splats: Splats | None
    mesh: Mesh | None
    report: dict[str, Any]


def generate(
    photo: str | Path,
    out: str | Path,
    settings: GenerateSettings | None = None,
    *,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Asset:
    """Make an asset from one photo, in the folder `out/<name of the photo>`.

    Args:
        force: compute finished stages anew.
        on_progress: see `v3d.run.OnProgress`.

    Raises:
        V3DError: the photo, the weights or the folder cannot be used.
    """
    settings = settings or GenerateSettings()
    photo = Path(photo)
    if not photo.is_file():
        raise V3DError(f"There is no photo {photo}.")
    tune_malloc()
    run = RunFolder(Path(out) / photo.stem, settings, force=force, on_progress=on_progress)
    framed, key = _photo_stage(run, photo, settings)
    views, key = _generate_stage(run, framed, key, settings)
    return _to_3d(run, views, key, settings, framed)


def reconstruct(
    views: str | Path | Views,
    out: str | Path,
    settings: ReconstructSettings | None = None,
    *,
    orbit: bool = False,
    photo: str | Path | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Asset:
    """Make an asset from posed views, in the folder `out/<name of the views' folder>`.

    Args:
        views: a folder with transforms.json, or views in memory (their folder is then `out` itself).
        orbit: `views` is a video that goes once around the object.
        photo: a sharper photo of view 0, for the texture.

    Raises:
        V3DError: the views, the photo or the folder cannot be used.
    """
    settings = settings or ReconstructSettings()
    tune_malloc()
    if isinstance(views, Views):
        folder, posed = Path(out), views
    else:
        folder = Path(out) / run_name(Path(views))
        posed = views_from_video(views) if orbit else load_views(views, max_size=MAX_VIEW_SIZE)
    run = RunFolder(folder, settings, force=force, on_progress=on_progress)
    framed = _photo_stage(run, Path(photo), GenerateSettings())[0] if photo is not None else None
    kept, key = run.stage(
        "views",
        inputs=[posed.rgb, posed.alpha, posed.cameras],
        files=["views", "transforms.json"],
        compute=lambda stage: posed,
        save=lambda result: save_views(result, run.path),
        load=lambda: load_views(run.path),
    )
    return _to_3d(run, kept, key, settings, framed)


def run_name(views: Path) -> str:
    """The name of the run on a folder of views, its .json file or a video."""
    return (views.resolve().parent if views.suffix == ".json" else views.resolve()).stem


def _photo_stage(run: RunFolder, path: Path, settings: GenerateSettings) -> tuple[Tensor, str]:
    """The framed photo [S, S, 4]."""

    def compute(stage: Stage) -> Photo:
        photo = load_photo(path, recentre=settings.recentre)
        stage.facts["foreground"] = photo.foreground
        stage.warnings.extend(photo.warnings)
        return photo

    def save(photo: Photo) -> None:
        with atomic(run / "photo.png") as temporary:
            Image.fromarray((photo.rgba * 255).round().to(torch.uint8).numpy()).save(temporary)

    return run.stage(
        "photo",
        inputs=[file_digest(path), settings.recentre],
        files=["photo.png"],
        compute=compute,
        save=save,
        load=lambda: load_photo(run / "photo.png", recentre=False).rgba,
    )


def _generate_stage(run: RunFolder, photo: Tensor, key: str, settings: GenerateSettings) -> tuple[Views, str]:
    """The orbit, drawn by video diffusion."""
    generator = _generator(settings.model, _device(settings))
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


def _to_3d(
    run: RunFolder, views: Views, views_key: str, settings: ReconstructSettings, photo: Tensor | None
) -> Asset:
    """Views -> hull -> splats -> surface -> textured mesh -> files."""
    splats, mesh, keys = None, None, [views_key]
    if settings.until != "views":
        preset = _preset(settings)
        hull, hull_key = _hull_stage(run, views, views_key, preset)
        splats, key = _splats_stage(run, views, hull, hull_key, preset, settings)
        keys.append(key)
        if settings.until == "mesh":
            surface, key = _surface_stage(run, views, hull, hull_key, preset, settings)
            mesh, key = _mesh_stage(run, views, photo, surface, key, preset)
            keys.append(key)
    _export_stage(run, splats, mesh, keys, settings)
    _preview_stage(run, views, splats, mesh, photo, keys)
    return Asset(run.path, views, splats, mesh, run.report)


def _hull_stage(run: RunFolder, views: Views, key: str, preset: Preset) -> tuple[Grid, str]:
    """The soft visual hull, by space carving."""
    return run.stage(
        "hull",
        inputs=[key, preset.hull],
        files=[_HULL],
        compute=lambda stage: carve(views, resolution=preset.hull),
        save=lambda hull: _save_grid(run / _HULL, hull),
        load=lambda: _load_grid(run / _HULL),
    )


def _splats_stage(
    run: RunFolder, views: Views, hull: Grid, key: str, preset: Preset, settings: ReconstructSettings
) -> tuple[Splats, str]:
    """Gaussians that start on the hull."""
    device = _device(settings)
    perceptual = Perceptual.load(device=device) if preset.perceptual else None

    def compute(stage: Stage) -> Splats:
        small = _at_most(views, preset.view_size)
        initial = initial_splats(hull, small, preset.gaussians, seed=settings.seed)
        fitted = fit(
            small,
            initial.to(device),
            preset.fit,
            perceptual=perceptual,
            on_step=stage.step,
            seed=settings.seed,
        ).to("cpu")
        stage.facts |= {"gaussians": len(fitted), "perceptual": perceptual.name if perceptual else None}
        return fitted

    return run.stage(
        "splats",
        inputs=[
            key,
            preset.view_size,
            preset.gaussians,
            preset.fit,
            perceptual and perceptual.name,
            settings.seed,
        ],
        files=["splats.ply"],
        compute=compute,
        save=lambda splats: save_ply(run / "splats.ply", splats),
        load=lambda: load_ply(run / "splats.ply"),
    )


def _surface_stage(
    run: RunFolder, views: Views, hull: Grid, key: str, preset: Preset, settings: ReconstructSettings
) -> tuple[Grid, str]:
    """The signed distance field, fitted to the views from the hull on."""
    surface = preset.surface
    if surface is None:
        return hull, key
    device = _device(settings)

    def compute(stage: Stage) -> Grid:
        return fit_surface(views.to(device), hull.to(device), surface, on_step=stage.step, seed=settings.seed)

    return run.stage(
        "surface",
        inputs=[key, surface, settings.seed],
        files=[_SURFACE],
        compute=compute,
        save=lambda sdf: _save_grid(run / _SURFACE, sdf),
        load=lambda: _load_grid(run / _SURFACE),
    )


def _mesh_stage(
    run: RunFolder, views: Views, photo: Tensor | None, sdf: Grid, key: str, preset: Preset
) -> tuple[Mesh, str]:
    """The zero surface as triangles, textured from the views and, at its own resolution, the photo."""

    def compute(stage: Stage) -> Mesh:
        mesh = unwrap(extract_mesh(sdf, faces=preset.faces), size=preset.texture_size)
        placed = register_photo(photo, views[0]) if photo is not None else None
        if photo is not None and placed is None:
            stage.warn("The photo was left out of the texture, because view 0 shows another outline.")
        stage.facts["faces"] = len(mesh.faces)
        mesh = project_views(mesh, views, size=preset.texture_size, photo=placed)
        if preset.refine is None:
            return mesh
        return refine_texture(mesh, views, preset.refine, photo=placed, on_step=stage.step)

    return run.stage(
        "mesh",
        inputs=[key, photo, preset.faces, preset.texture_size, preset.refine],
        files=["mesh.glb"],
        compute=compute,
        save=lambda mesh: save_glb(mesh, run / "mesh.glb"),
        load=lambda: load_mesh(run / "mesh.glb"),
    )


def _export_stage(
    run: RunFolder, splats: Splats | None, mesh: Mesh | None, keys: list[str], settings: ReconstructSettings
) -> None:
    """The same splats and mesh in other formats."""
    wanted: dict[str, Callable[[], None]] = {}
    if splats is not None and "splat" in settings.formats:
        wanted["splats.splat"] = lambda: save_splat(run / "splats.splat", splats)
    if mesh is not None and "obj" in settings.formats:
        wanted["mesh.obj"] = lambda: save_obj(mesh, run / "mesh.obj")

    def save(_: None) -> None:
        for write in wanted.values():
            write()

    if wanted:
        run.stage(
            "export",
            inputs=[keys, sorted(wanted)],
            files=list(wanted),
            compute=lambda stage: None,
            save=save,
            load=lambda: None,
        )


def _preview_stage(
    run: RunFolder,
    views: Views,
    splats: Splats | None,
    mesh: Mesh | None,
    photo: Tensor | None,
    keys: list[str],
) -> None:
    """Pictures of the result: the views and a turntable as videos, and one sheet of everything."""
    draw = splat_renderer(splats) if splats is not None else None
    around = textured(mesh) if mesh is not None else draw

    def compute(stage: Stage) -> tuple[Image.Image, Tensor | None]:
        sheet = contact_sheet(views, photo=photo, splats=draw, mesh=mesh)
        return sheet, turntable(around) if around is not None else None

    def save(pictures: tuple[Image.Image, Tensor | None]) -> None:
        sheet, frames = pictures
        with atomic(run / "preview.png") as temporary:
            sheet.save(temporary)
        save_video(views.rgb, run / "views.mp4")
        if frames is not None:
            save_video(frames, run / "turntable.mp4")

    run.stage(
        "preview",
        inputs=[keys, photo],
        files=["preview.png", "views.mp4", *(["turntable.mp4"] if around is not None else [])],
        compute=compute,
        save=save,
        load=lambda: None,
    )


def splat_renderer(splats: Splats) -> RenderFn:
    """Draws splats on white, for `v3d.preview`."""

    def draw(cameras: Cameras) -> Tensor:
        with torch.no_grad():
            return rasterize(splats, cameras).over(1.0).clamp(0, 1)

    return draw


_HULL, _SURFACE = ".stages/hull.safetensors", ".stages/surface.safetensors"


def _save_grid(path: Path, grid: Grid) -> None:
    voxel = torch.tensor(grid.voxel, dtype=torch.float64)
    save_tensors(path, {"values": grid.values, "origin": grid.origin, "voxel": voxel})


def _load_grid(path: Path) -> Grid:
    from safetensors.torch import load_file

    tensors = load_file(path)
    return Grid(tensors["values"], tensors["origin"], tensors["voxel"].item())


def _preset(settings: ReconstructSettings) -> Preset:
    preset = PRESETS[settings.quality]
    return replace(
        preset,
        faces=settings.faces or preset.faces,
        texture_size=settings.texture_size or preset.texture_size,
    )


def _at_most(views: Views, size: int) -> Views:
    return views if max(views.cameras.width, views.cameras.height) <= size else views.resized(size)


def _device(settings: ReconstructSettings) -> str:
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise V3DError("There is no CUDA device here; use --device cpu.")
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.device


@lru_cache(maxsize=1)
def _generator(model: str, device: str) -> Generator:
    from v3d.diffusion.generator import Generator

    return Generator.from_pretrained(model, device=device)
