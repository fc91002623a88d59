"""Views -> hull -> Gaussians -> surface -> textured mesh: the paper's 3D half as pure functions.

This is the one chain: the product's stages (`v3d.objects.stages`) keep what these functions return, and every
evaluation measures it. Nothing here reads or writes files; the same inputs, preset and seed give the same
result on the same machine. Everything comes back on the CPU, whatever `device` computed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from v3d.callbacks import OnStep
from v3d.cameras import Cameras, above_and_below, cat_cameras
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.networks.perceptual import Perceptual
from v3d.objects.presets import Preset
from v3d.splats.fit import OnSplats, fit
from v3d.splats.gaussians import Splats
from v3d.splats.initial import initial_splats, random_splats, splats_on
from v3d.splats.rasterize import normal_images
from v3d.surface.carving import carve
from v3d.surface.extract import extract_mesh
from v3d.surface.fit import fit_surface
from v3d.surface.grid import Grid
from v3d.surface.silhouette import fill_silhouette
from v3d.texture.project import project_views, register_photo
from v3d.texture.refine import refine_texture
from v3d.texture.unwrap import unwrap
from v3d.views import Views


@dataclass(frozen=True)
class BuildInputs:
    """What an asset is built from.

    Attributes:
        views: the orbit, or posed views from all round the object.
        photos: number of a view -> the photo [H, W, 4] (straight alpha, in [0, 1]) that this view shows. Such
            a view is trusted where others are guessed: the hull fills its silhouette, and the photo textures
            what it sees at its own resolution.
        agree_in_colour: whether the views show the same details. Where one is sharp and others are blurred
            means of many answers, a fit to colours would dent the surface and blur the Gaussians: then the
            hull is the surface, and the Gaussians are made of the mesh (`splats_of_mesh`).
        edited: numbers of views that somebody painted over: they win in the texture, as photos do.
    """

    views: Views
    photos: Mapping[int, Tensor] = field(default_factory=dict)
    agree_in_colour: bool = True
    edited: tuple[int, ...] = ()

    @property
    def trusted_views(self) -> tuple[int, ...]:
        """The numbers of the views that a photo stands for, in order."""
        return tuple(sorted(self.photos))


def hull(inputs: BuildInputs, preset: Preset) -> Grid:
    """The soft visual hull of the views, by space carving; it fills the silhouettes of trusted views.

    Raises:
        V3DError: a mask is empty, all masks are full, or the silhouettes have no point in common.
    """
    return carve(inputs.views, resolution=preset.hull, trusted_views=inputs.trusted_views)


def splats(
    inputs: BuildInputs,
    hull: Grid | None,
    preset: Preset,
    *,
    seed: int = 0,
    perceptual: Perceptual | None = None,
    device: str = "cpu",
    on_step: OnStep | None = None,
    on_splats: OnSplats | None = None,
) -> Splats:
    """3D Gaussians fitted to the views.

    Args:
        inputs: the views.
        hull: the Gaussians start on its surface; without one, as a grey blob (the paper's release).
        preset: size of the views, number of Gaussians, settings of the fit.
        seed: of the Gaussians at the start and of the order of the views.
        perceptual: the network of the perceptual term, on `device`; None leaves the term out.
        device: where the fit runs.
        on_step: called with the iterations done and the iterations in all.
        on_splats: called with the Gaussians after every iteration.

    Raises:
        V3DError: the hull is empty.
    """
    views = inputs.views.reduced(preset.view_size)
    if hull is None:
        initial = random_splats(views, preset.gaussians, seed=seed)
    else:
        initial = initial_splats(hull, views, preset.gaussians, seed=seed)
    fitted = fit(
        views,
        initial.to(device),
        preset.splats,
        perceptual=perceptual,
        on_step=on_step,
        on_splats=on_splats,
        seed=seed,
    )
    return fitted.to("cpu")


def splats_of_mesh(
    inputs: BuildInputs,
    mesh: Mesh,
    preset: Preset,
    *,
    seed: int = 0,
    device: str = "cpu",
    on_step: OnStep | None = None,
    on_splats: OnSplats | None = None,
) -> Splats:
    """3D Gaussians fitted to renders of the textured mesh, and to the photos from where they were taken.

    For views that disagree: Gaussians fitted to them directly are as blurred as their disagreement, while the
    mesh has settled it, and looks like itself from above and below as well.

    Args:
        inputs: the cameras of the views, and the photos that fit (`registered_photos`).
        mesh: with its texture, as `textured` returns it; the Gaussians start on it.
        preset: size of the renders, number of Gaussians, settings of the fit.
        seed: of the Gaussians at the start and of the order of the views.
        device: where the fit runs.
        on_step: called with the iterations done and the iterations in all.
        on_splats: called with the Gaussians after every iteration.
    """
    size = preset.view_size
    photos = {v: photo for v, photo in registered_photos(inputs).items() if photo is not None}
    rendered = [v for v in range(len(inputs.views)) if v not in photos]
    views = renders_around(mesh, inputs.views.cameras[rendered], size)
    start = splats_on(mesh, views[-1], preset.gaussians, seed=seed)
    targets = [*views, *(photo.reduced(size) for photo in photos.values())]
    # They agree, so the perceptual term has nothing to do.
    fitted = fit(targets, start.to(device), preset.splats, on_step=on_step, on_splats=on_splats, seed=seed)
    return fitted.to("cpu")


def surface(
    inputs: BuildInputs,
    hull: Grid,
    splats: Splats | None,
    preset: Preset,
    *,
    seed: int = 0,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> Grid:
    """The signed distance field (NeuS), fitted from the hull on to the views and to the Gaussians' normals.

    The fit weighs all views alike, so the silhouettes of trusted ones are filled again, as far as the hull
    goes. Where the preset asks for no fit, or the views do not agree in colour, the hull is the surface.

    Args:
        inputs: the views.
        hull: where the fit starts.
        splats: give the normals; None fits without them.
        preset: settings of the fit.
        seed: of the rays.
        device: where the fit runs.
        on_step: called with the steps done and the steps in all.
    """
    if preset.surface is None or not inputs.agree_in_colour:
        return hull
    normals = None if splats is None else normal_images(splats.to(device), inputs.views.cameras)
    views, start = inputs.views.to(device), hull.to(device)
    sdf = fit_surface(views, start, preset.surface, normals=normals, on_step=on_step, seed=seed)
    for v in inputs.trusted_views:
        sdf = fill_silhouette(sdf, views[v], hull=start)
    return sdf.to("cpu")


def shape(inputs: BuildInputs, sdf: Grid, preset: Preset) -> Mesh:
    """The zero surface of the field as a watertight mesh of at most `preset.faces` triangles, untextured.

    Raises:
        V3DError: the field has no surface.
    """
    return extract_mesh(sdf, cameras=inputs.views.cameras, faces=preset.faces)


def textured(
    inputs: BuildInputs,
    mesh: Mesh,
    preset: Preset,
    *,
    device: str = "cpu",
    on_step: OnStep | None = None,
) -> Mesh:
    """The mesh unwrapped and textured from the views and, at their own resolution, the photos that fit.

    A photo fits if its silhouette is that of its view (`registered_photos`).

    Args:
        inputs: the views and the photos.
        mesh: without texture.
        preset: size of the texture, settings of its refinement.
        device: where the texture is computed.
        on_step: called with the steps done and the steps in all of the refinement.
    """
    size = preset.texture_size
    mesh, views = unwrap(mesh, size=size).to(device), inputs.views.to(device)
    photos = [photo.to(device) for photo in registered_photos(inputs).values() if photo is not None]
    photos += [views[v] for v in inputs.edited]
    others = [v for v in range(len(views)) if v not in inputs.edited]
    views = views[others] if 0 < len(others) < len(views) else views  # chosen views are copies
    mesh = project_views(mesh, views, size=size, photos=photos)
    if preset.refine is not None:
        mesh = refine_texture(mesh, views, preset.refine, photos=photos, on_step=on_step)
    return mesh.to("cpu")


def renders_around(mesh: Mesh, cameras: Cameras, size: int) -> list[Views]:
    """The unlit mesh as the cameras see it, then as others do from above and below.

    Args:
        mesh: with its texture.
        cameras: V, of images of any one shape; the renders have it too.
        size: longer side of the renders in pixels.

    Returns:
        One batch of all views where the cameras' images are square; otherwise the views of the cameras, and
        those from above and below.
    """
    scale = size / max(cameras.width, cameras.height)
    around = cameras.resized(round(cameras.width * scale), round(cameras.height * scale))
    others = above_and_below(size)
    if around.width == around.height:
        return [rendered_views(mesh, cat_cameras([around, others]))]
    return [rendered_views(mesh, around), rendered_views(mesh, others)]


def rendered_views(mesh: Mesh, cameras: Cameras) -> Views:
    """The unlit mesh as V cameras see it."""
    image = render(mesh, cameras)
    return Views(image.rgb, image.alpha, cameras)


def registered_photos(inputs: BuildInputs) -> dict[int, Views | None]:
    """Number of a view -> its photo as a view of its own size; None where silhouettes differ.

    Views that somebody painted over stand for themselves.
    """
    given = [v for v in inputs.trusted_views if v not in inputs.edited]
    return {v: register_photo(inputs.photos[v], inputs.views[v]) for v in given}
