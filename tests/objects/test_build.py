"""The one chain: what the product keeps and what evaluations measure is what `v3d.objects.build` returns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh

from shapes import textured
from v3d.cameras import above_and_below, cat_cameras, orbit
from v3d.evaluation.assets import MeasuredBuild
from v3d.framing import photo_of
from v3d.meshes.rendering import render
from v3d.objects import build, pipeline
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS, Preset
from v3d.settings import ReconstructSettings
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import splat_renderer
from v3d.views import Views

SIZE = 48


@pytest.fixture(scope="module")
def views() -> Views:
    """A pillar's orbit."""
    cameras = orbit(12, size=SIZE)
    image = render(textured(trimesh.creation.box((0.5, 0.4, 0.9)), 0), cameras)
    return Views(image.rgb, image.alpha, cameras)


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> Preset:
    """A tiny `standard`: every stage, in seconds."""
    draft, standard = PRESETS["draft"], PRESETS["standard"]
    assert standard.surface is not None and standard.refine is not None
    levels = tuple(replace(level, steps=8) for level in standard.surface.levels)
    tiny = replace(
        standard,
        view_size=SIZE,
        hull=32,
        gaussians=300,
        splats=replace(draft.splats, iterations=30),
        perceptual=False,
        surface=replace(standard.surface, levels=levels, image_size=SIZE, rays=128),
        faces=300,
        texture_size=64,
        refine=replace(standard.refine, sweeps=1),
        turntable=48,
    )
    monkeypatch.setitem(PRESETS, "standard", tiny)
    return tiny


def test_the_product_keeps_what_build_computes(views: Views, preset: Preset, tmp_path: Path) -> None:
    asset = pipeline.reconstruct(views, tmp_path, ReconstructSettings(seed=3))
    inputs = BuildInputs(asset.views)
    hull = build.hull(inputs, preset)
    splats = build.splats(inputs, hull, preset, seed=3)
    assert asset.splats is not None
    # The Gaussians come back from a file, which has its own rounding; what is built on them is not compared
    # here.
    torch.testing.assert_close(asset.splats.means, splats.means, atol=1e-6, rtol=0)
    sdf = build.surface(inputs, hull, asset.splats, preset, seed=3)
    mesh = build.textured(inputs, build.shape(inputs, sdf, preset), preset)
    assert asset.mesh is not None and mesh.texture is not None and asset.mesh.texture is not None
    assert torch.equal(asset.mesh.vertices, mesh.vertices) and torch.equal(asset.mesh.faces, mesh.faces)
    assert float((asset.mesh.texture - mesh.texture).abs().max()) <= 0.5 / 255 + 1e-6  # 8 bits in the file


def test_evaluations_measure_what_the_product_builds(views: Views, preset: Preset) -> None:
    inputs = BuildInputs(views, photos={0: photo_of(views)})
    measured = MeasuredBuild(inputs, preset, seed=1)
    splats = measured.splats(None)
    hull = build.hull(inputs, preset)
    expected = build.splats(inputs, hull, preset, seed=1)
    assert torch.equal(splats.means, expected.means)
    sdf = build.surface(inputs, hull, expected, preset, seed=1)
    mesh = build.textured(inputs, build.shape(inputs, sdf, preset), preset)
    assert torch.equal(measured.mesh.vertices, mesh.vertices)
    assert mesh.texture is not None and measured.mesh.texture is not None
    assert torch.equal(measured.mesh.texture, mesh.texture)
    assert set(measured.seconds) == {"hull", "splats", "surface", "shape", "texture"}


def test_views_that_disagree_in_colour_shape_by_their_silhouettes(views: Views, preset: Preset) -> None:
    assert preset.surface is not None
    inputs = BuildInputs(views, agree_in_colour=False)
    hull = build.hull(inputs, preset)
    assert build.surface(inputs, hull, None, preset) is hull
    measured = MeasuredBuild(inputs, preset, 1)
    expected = build.splats_of_mesh(inputs, measured.mesh, preset, seed=1)
    assert torch.equal(measured.splats(None).means, expected.means)


def test_gaussians_of_a_mesh_follow_the_mesh(views: Views, preset: Preset) -> None:
    """From all sides, above as well; colours of the views, however these disagree, change nothing."""
    flat = replace(preset, surface=None, splats=replace(preset.splats, iterations=120))
    inputs = BuildInputs(views, photos={0: photo_of(views)})
    hull = build.hull(inputs, flat)
    mesh = build.textured(inputs, build.shape(inputs, hull, flat), flat)
    splats = build.splats_of_mesh(inputs, mesh, flat, seed=1)
    cameras = cat_cameras([views.cameras, orbit(3, size=SIZE, azimuth=10.0, elevation=50.0)])
    truth = build.rendered_views(mesh, cameras)
    error = (splat_renderer(splats)(cameras) - truth.rgb).abs().mean((1, 2, 3))
    assert float(error.max()) < 0.03  # from above as well, where no view is

    fog = replace(views, rgb=torch.where(views.alpha[..., None] > 0.5, 0.5, views.rgb))
    again = build.splats_of_mesh(BuildInputs(fog, inputs.photos), mesh, flat, seed=1)
    assert torch.equal(again.means, splats.means) and torch.equal(again.rgb, splats.rgb)


def test_gaussians_of_a_mesh_see_each_side_once(
    views: Views, preset: Preset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The photo from where it was taken, renders from the other cameras and from above and below."""
    inputs = BuildInputs(views, photos={3: photo_of(views[3])})
    hull = build.hull(inputs, preset)
    mesh = build.textured(inputs, build.shape(inputs, hull, preset), preset)
    fitted: list[Views] = []

    def fit(targets: list[Views], initial: Splats, *_: object, **__: object) -> Splats:
        fitted.extend(targets)
        return initial

    monkeypatch.setattr(build, "fit", fit)
    assert len(build.splats_of_mesh(inputs, mesh, preset)) == preset.gaussians
    rendered, photo = fitted
    others = [v for v in range(len(views)) if v != 3]
    expected = cat_cameras([views.cameras[others], above_and_below(SIZE)])
    assert torch.equal(rendered.cameras.c2w, expected.c2w) and torch.equal(rendered.cameras.K, expected.K)
    assert torch.equal(rendered.rgb, render(mesh, expected).rgb)
    registered = build.registered_photos(inputs)[3]
    assert registered is not None and torch.equal(photo.rgb, registered.rgb)


def test_a_trusted_view_fills_its_silhouette(views: Views, preset: Preset) -> None:
    alpha, rgb = views.alpha.clone(), views.rgb.clone()
    alpha[1:, : SIZE // 2], rgb[1:, : SIZE // 2] = 0.0, 1.0  # all other views lose the upper half
    cut = Views(rgb, alpha, views.cameras)
    photos = {0: photo_of(views)}
    assert BuildInputs(cut, photos=photos).trusted_views == (0,)
    filled, carved = (build.hull(BuildInputs(cut, photos=p), preset) for p in (photos, {}))
    heights = [
        float(build.shape(BuildInputs(cut), hull, preset).vertices[:, 2].max()) for hull in (filled, carved)
    ]
    assert heights[0] > heights[1] + 0.2


def test_the_hull_does_not_depend_on_what_only_gaussians_see(
    views: Views, preset: Preset, tmp_path: Path
) -> None:
    """A changed seed fits other Gaussians; the hull of the same views is kept."""
    pipeline.reconstruct(views, tmp_path, ReconstructSettings(until="splats"))
    again = pipeline.reconstruct(views, tmp_path, ReconstructSettings(until="splats", seed=5))
    reused = {name: record["reused"] for name, record in again.report["stages"].items()}
    assert reused["hull"] and not reused["splats"]


def test_renders_of_a_mesh_have_the_shape_of_the_views() -> None:
    """Wide views are rendered wide: pixels stay square, and the middle is what square views show."""
    mesh = textured(trimesh.creation.box((0.5, 0.4, 0.9)), 0)
    square = orbit(3, size=SIZE)
    K = square.K.clone()
    K[:, 0, 2] = SIZE
    wide = replace(square, K=K, width=2 * SIZE)
    (together,) = build.renders_around(mesh, square, 2 * SIZE)
    around, beyond = build.renders_around(mesh, wide, 4 * SIZE)
    assert around.rgb.shape[1:3] == (2 * SIZE, 4 * SIZE) and beyond.rgb.shape[1:3] == (4 * SIZE, 4 * SIZE)
    assert torch.equal(around.cameras.K[:, 0, 0], around.cameras.K[:, 1, 1])
    assert len(together) == len(around) + len(beyond)
    torch.testing.assert_close(around.rgb[:, :, SIZE : 3 * SIZE], together.rgb[:3], atol=1e-3, rtol=0)
