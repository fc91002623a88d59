"""The stages of a run: each computes one thing, keeps it in the run's folder and hands back its key.

What a stage computes is in `v3d.objects.build` and the rooms below it; here stands what goes into its key,
what is kept, and what the report says. A stage's `version` goes up with every change of what it computes, so
that a newer V3D does not take an older one's files for its own. The device is in no key: CPU and GPU compute
the same thing with other roundings, and a run may go on where there is no GPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.capture.agreement import cut_out_agreeing
from v3d.capture.images import read_image
from v3d.capture.matting import method_key
from v3d.capture.photo import load_photo
from v3d.capture.readers import load_views
from v3d.diffusion.generator import Generator
from v3d.diffusion.photos import OrbitPhotos
from v3d.digests import file_digest
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.meshes.files import load_mesh
from v3d.meshes.glb import save_glb
from v3d.meshes.look import Look
from v3d.meshes.mesh import Mesh
from v3d.networks.perceptual import Perceptual
from v3d.objects import build
from v3d.objects.build import BuildInputs
from v3d.objects.presets import Preset
from v3d.placement import place, single_precision, up_sentence
from v3d.run import RunFolder, Stage, save_tensors
from v3d.settings import GenerateSettings, Up
from v3d.splats.files.ply import load_ply, save_ply
from v3d.splats.fit import OnSplats
from v3d.splats.gaussians import Splats
from v3d.splats.live import LIVE, LivePicture
from v3d.surface.grid import Grid
from v3d.surface.registration import register_photos
from v3d.surface.silhouette import silhouette_iou
from v3d.views import Views, save_views

_HULL, _SURFACE = ".stages/hull.safetensors", ".stages/surface.safetensors"
_LEAST_IOU = 0.7  # of the mesh's silhouettes with the views'; below, the views fit no one object


def photo_stage(
    run: RunFolder,
    paths: Mapping[float, Path],
    *,
    masks: Mapping[float, Path] | None = None,
    elevation: float = 0.0,
    recentre: bool = True,
) -> tuple[OrbitPhotos, str]:
    """The photos, cut out, framed and brought to one scale.

    Args:
        run: its folder.
        paths: azimuth of a photo -> its file; the front, 0, comes first.
        masks: azimuth of a photo -> a file that says where its object is; for some photos or none.
        elevation: that the photos were taken from, degrees.
        recentre: frame the photos; otherwise they keep the framing of their files, and so their scale.
    """
    masks = masks or {}
    azimuths = tuple(paths)
    names = [_photo_name(azimuth) for azimuth in azimuths]
    cutouts = [_photo_name(azimuth, "cutout") for azimuth in azimuths]

    def compute(stage: Stage) -> list[tuple[Tensor, Tensor]]:
        photos = []
        for i, (azimuth, path) in enumerate(paths.items()):
            photos.append(load_photo(path, mask=masks.get(azimuth), recentre=recentre))
            stage.facts.setdefault("foreground", {})[_photo_name(azimuth)] = photos[-1].foreground
            stage.warnings.extend(photos[-1].warnings)
            stage.step(i + 1, len(paths) + 1)
        images = tuple(photo.rgba for photo in photos)
        if recentre and len(images) > 1:
            registered = register_photos(images, azimuths, elevation=elevation)
            stage.warnings.extend(registered.notes)
            images = registered.photos
        return [(image, photo.cutout) for image, photo in zip(images, photos, strict=True)]

    def save(images: list[tuple[Tensor, Tensor]]) -> None:
        for pair in zip(zip(names, cutouts, strict=True), images, strict=True):
            for name, image in zip(*pair, strict=True):
                with atomic(run / name) as temporary:
                    Image.fromarray((image * 255).round().to(torch.uint8).numpy()).save(temporary)

    def load() -> OrbitPhotos:
        images = tuple(torch.from_numpy(read_image(run / name)[0]) for name in names)
        return OrbitPhotos(images, azimuths, elevation)

    digests = [file_digest(path) for path in paths.values()]
    given = [(azimuth, file_digest(path)) for azimuth, path in sorted(masks.items())]
    return run.stage(
        "photo",
        version=3,
        inputs=[digests, given, azimuths, elevation, recentre, method_key()],
        files=[*names, *cutouts],
        compute=compute,
        save=save,
        load=load,
    )


def photos_of_run(folder: Path) -> OrbitPhotos | None:
    """The framed photos that a run of `v3d generate` left in its folder; None where there are none."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        elevation = float(report["settings"]["elevation"])
        names = [name for name in report["stages"]["photo"]["files"] if name.startswith("photo")]
        azimuths = [float(Path(name).stem.partition("_")[2] or 0) for name in names]
        images = tuple(torch.from_numpy(read_image(folder / name)[0]) for name in names)
        return OrbitPhotos(images, tuple(azimuths), elevation)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, V3DError):
        return None


def _photo_name(azimuth: float, kind: str = "photo") -> str:
    """The file of a framed photo, or of another `kind`: photo.png is the front."""
    return f"{kind}.png" if azimuth == 0 else f"{kind}_{azimuth:g}.png"


def generate_stage(
    run: RunFolder, generator: Generator, photos: OrbitPhotos, key: str, settings: GenerateSettings
) -> tuple[Views, str]:
    """The orbit of the photos, generated by video diffusion; `key` is the photos'."""
    seed, steps, guidance = settings.seed, settings.steps, settings.guidance

    def compute(stage: Stage) -> Views:
        stage.facts["model"] = {"name": settings.model, "hash": generator.hash}
        return generator(photos, seed=seed, steps=steps, guidance=guidance, on_step=stage.step)

    return run.stage(
        "views",
        version=3,
        inputs=[key, generator.hash, seed, steps, guidance],
        files=["views", "transforms.json"],
        editable=["views"],
        compute=compute,
        save=lambda views: save_views(views, run.path),
        load=lambda: load_views(run.path),
    )


def views_stage(run: RunFolder, views: Views, up: Up = "auto") -> tuple[Views, str]:
    """Given views, in whose world `up` is up, brought to the world of the orbit (see `v3d.placement`).

    Views that are opaque everywhere are cut out where they agree (`v3d.capture.agreement`).
    """

    opaque = len(views) > 1 and bool((views.alpha == 1).all())

    def compute(stage: Stage) -> Views:
        given = views
        if opaque:
            given, notes = cut_out_agreeing(views, on_step=stage.step)
            stage.warnings.extend(notes)
        cameras, placement = place(views.cameras, up=up)
        stage.facts["placement"] = placement.to_json()
        if up == "auto" and placement.turns:
            stage.warn(up_sentence(placement))
        if len(views) == 1:
            stage.warn("One view alone shows no depth: the shape is a flat cone; give views of other sides.")
        return Views(given.rgb, given.alpha, single_precision(cameras))

    return run.stage(
        "views",
        version=4,
        inputs=[views.rgb, views.alpha, views.cameras, up, method_key() if opaque else None],
        files=["views", "transforms.json"],
        editable=["views"],
        compute=compute,
        save=lambda placed: save_views(placed, run.path),
        load=lambda: load_views(run.path),
    )


def edited_views(run: RunFolder, agree_in_colour: bool) -> tuple[int, ...]:
    """The numbers of the views that somebody changed since the run made them; the user is told what follows.

    Args:
        run: after its views.
        agree_in_colour: whether the Gaussians are fitted to the views, and not to the mesh.
    """
    files = [file for file in run.report["stages"]["views"].get("edited", ()) if Path(file).stem.isdecimal()]
    if files:
        stay = "the shape and the Gaussians stay" if agree_in_colour else "the shape stays"
        run.warn(f"Changed by hand, and painted onto the mesh: {', '.join(files)}; {stay} as before.")
    return tuple(sorted(int(Path(file).stem) for file in files))


def hull_stage(run: RunFolder, inputs: BuildInputs, key: str, preset: Preset) -> tuple[Grid, str]:
    """The visual hull (`build.hull`); `key` is that of the views, since carving looks at nothing else."""
    return run.stage(
        "hull",
        version=3,
        inputs=[key, preset.hull, inputs.trusted_views],
        files=[_HULL],
        compute=lambda stage: build.hull(inputs, preset),
        save=lambda hull: _save_grid(run / _HULL, hull),
        load=lambda: _load_grid(run / _HULL),
    )


def splats_stage(
    run: RunFolder, inputs: BuildInputs, hull: Grid, key: str, preset: Preset, seed: int, device: str
) -> tuple[Splats, str]:
    """The Gaussians (`build.splats`); `key` is that of the hull."""
    perceptual = Perceptual.load("vae", device=device) if preset.perceptual else None

    def fit(on_step: OnStep, on_splats: OnSplats) -> Splats:
        return build.splats(
            inputs,
            hull,
            preset,
            seed=seed,
            perceptual=perceptual,
            device=device,
            on_step=on_step,
            on_splats=on_splats,
        )

    return _splats_stage(run, inputs, [key], preset, seed, device, perceptual, fit)


def splats_of_mesh_stage(
    run: RunFolder, inputs: BuildInputs, mesh: Mesh, key: str, preset: Preset, seed: int, device: str
) -> tuple[Splats, str]:
    """The Gaussians of the textured mesh (`build.splats_of_mesh`); `key` is that of the mesh."""

    def fit(on_step: OnStep, on_splats: OnSplats) -> Splats:
        return build.splats_of_mesh(
            inputs, mesh, preset, seed=seed, device=device, on_step=on_step, on_splats=on_splats
        )

    return _splats_stage(run, inputs, ["of mesh", key], preset, seed, device, None, fit)


def _splats_stage(
    run: RunFolder,
    inputs: BuildInputs,
    keys: list[str],
    preset: Preset,
    seed: int,
    device: str,
    perceptual: Perceptual | None,
    fit: Callable[[OnStep, OnSplats], Splats],
) -> tuple[Splats, str]:
    """Gaussians that `fit` makes with this perceptual network and callbacks for its steps."""
    name = perceptual.name if perceptual else None

    def compute(stage: Stage) -> Splats:
        with LivePicture(run / LIVE, inputs.views.cameras[0]) as live:
            splats = fit(stage.step, live)
        stage.facts |= {"gaussians": len(splats), "perceptual": name, "device": device}
        return splats

    return run.stage(
        "splats",
        version=4,
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
    splats: Splats | None,
    keys: list[str],
    preset: Preset,
    seed: int,
    device: str,
) -> tuple[Grid, str]:
    """The signed distance field (`build.surface`); the hull, of which nothing more is kept, without a fit.

    `keys` are those of the hull and of the Gaussians.
    """
    if preset.surface is None or not inputs.agree_in_colour:
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
    """The textured mesh (`build.shape`, then `build.textured`), and how well it fits the views.

    `key` is that of the distance field.
    """

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
        version=6,
        inputs=[
            key,
            sorted(inputs.photos.items()),
            [(v, inputs.views[v].rgb) for v in inputs.edited],
            *(preset.faces, preset.texture_size, preset.refine),
        ],
        files=["mesh.glb"],
        compute=compute,
        save=lambda mesh: save_glb(mesh, run / "mesh.glb", Look(name=run.name)),
        load=lambda: load_mesh(run / "mesh.glb"),
    )


def _save_grid(path: Path, grid: Grid) -> None:
    voxel = torch.tensor(grid.voxel, dtype=torch.float64)
    save_tensors(path, {"values": grid.values, "origin": grid.origin, "voxel": voxel})


def _load_grid(path: Path) -> Grid:
    tensors = load_file(path)
    return Grid(tensors["values"], tensors["origin"], tensors["voxel"].item())
