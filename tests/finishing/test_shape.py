"""Rays, levels of detail, quads, size and place."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from shapes import box_mesh, lopsided_mesh, sphere_mesh
from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.finishing.levels import fewer_faces, levels_of_detail
from v3d.finishing.placing import metres, scaled, with_origin
from v3d.finishing.purposes import plan_of
from v3d.finishing.quads import quad_mesh, quad_pairs
from v3d.finishing.rays import RayGrid
from v3d.finishing.surface_checks import check_surface
from v3d.meshes.mesh import Mesh
from v3d.meshes.padding import pad
from v3d.meshes.rendering import interpolate, rasterize_uv, render, sample_texture
from v3d.settings import FinishSettings
from v3d.texture.unwrap import unwrap


def position_textured(mesh: Mesh, size: int = 128) -> Mesh:
    """The mesh unwrapped, with a texture whose colour is the place in space: seams and shifts would show."""
    mesh = unwrap(mesh, size=size)
    fragments = rasterize_uv(mesh, size)
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    colour = (mesh.vertices - low) / (high - low)
    image = interpolate(fragments, colour, mesh.faces)[0]
    return replace(mesh, texture=pad(image, fragments.face[0] >= 0))


def test_rays_meet_what_every_face_by_itself_says() -> None:
    """Against all triangles without a grid, from inside and outside, along axes too."""
    mesh = lopsided_mesh()
    generator = np.random.default_rng(0)
    origins = generator.uniform(-0.6, 0.6, (300, 3))
    directions = generator.normal(size=(300, 3))
    directions[:60] = np.eye(3)[generator.integers(0, 3, 60)]
    hits = RayGrid(mesh).first_hits(origins, directions)
    triangles = mesh.vertices.double().numpy()[mesh.faces.numpy()]
    a, e1, e2 = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    p = np.cross(directions[:, None], e2[None])
    determinant = (p * e1).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = origins[:, None] - a
        v = (s * p).sum(-1) / determinant
        q = np.cross(s, e1)
        w = (q * directions[:, None]).sum(-1) / determinant
        t = (q * e2).sum(-1) / determinant
        met = (v >= 0) & (w >= 0) & (v + w <= 1) & (t >= 0)
    nearest = np.where(met, t, np.inf).min(1)
    np.testing.assert_allclose(hits.distance, nearest, rtol=1e-6)
    assert 50 < hits.found.sum() < 250
    points = hits.at(mesh.faces.numpy(), mesh.vertices.double().numpy())[hits.found]
    found = hits.found
    along = origins[found] + directions[found] * hits.distance[found, None]
    np.testing.assert_allclose(points, along, atol=1e-6)
    limited = RayGrid(mesh).first_hits(origins, directions, 0.3)
    np.testing.assert_array_equal(limited.found, nearest < 0.3)


def test_levels_keep_surface_and_texture() -> None:
    mesh = position_textured(sphere_mesh(0.5, 3))
    levels = levels_of_detail(mesh, 2)
    assert [len(level.faces) for level in levels] == [640, 320]
    rows = {(*v, *uv) for v, uv in zip(mesh.vertices.tolist(), mesh.uv.tolist(), strict=True)}
    cameras = orbit(4, size=64)
    before = render(mesh, cameras)
    for level in levels:
        surface = check_surface(level)
        assert surface.watertight and surface.parts == 1 and surface.crossings == 0
        assert surface.volume == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.06)
        assert {(*v, *uv) for v, uv in zip(level.vertices.tolist(), level.uv.tolist(), strict=True)} <= rows
        after = render(level, cameras)
        both = (before.alpha > 0.99) & (after.alpha > 0.99)
        assert (before.rgb - after.rgb).abs().amax(-1)[both].quantile(0.99) < 0.06


def test_flat_sides_go_first() -> None:
    """A box of 3,072 triangles keeps its exact shape down to a few, its texture's seams along its edges."""
    box = trimesh.creation.box(extents=(0.4, 0.6, 0.8))
    for _ in range(4):
        box = box.subdivide()
    mesh = unwrap(Mesh(torch.tensor(box.vertices).float(), torch.tensor(box.faces)), size=256)
    light = fewer_faces(mesh, 60)
    assert len(light.faces) <= 60
    assert check_surface(light).volume == pytest.approx(0.4 * 0.6 * 0.8, rel=1e-6)


def test_an_open_surface_keeps_its_border() -> None:
    x = torch.linspace(0, 1, 11)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1).reshape(-1, 2)
    vertices = torch.cat([grid, torch.zeros(121, 1)], 1)
    i = (torch.arange(10)[:, None] * 11 + torch.arange(10)).reshape(-1)
    faces = torch.cat([torch.stack([i, i + 11, i + 12], 1), torch.stack([i, i + 12, i + 1], 1)])
    light = fewer_faces(Mesh(vertices, faces), 20)
    assert len(light.faces) <= 20
    assert float(light.face_areas.sum()) == pytest.approx(1, abs=1e-6)


def test_quads_are_quads_of_the_same_surface() -> None:
    pytest.importorskip("pyQuadriFlow")
    made = quad_mesh(sphere_mesh(0.5, 4), 300)
    pairs = quad_pairs(made.faces)
    assert len(pairs) * 2 == len(made.faces) and 200 < len(pairs) < 450
    surface = check_surface(made)
    assert surface.watertight and surface.volume == pytest.approx(0.5236, rel=0.03)
    cut = quad_pairs(unwrap(made, size=256).faces)
    assert len(cut) > 0.85 * len(pairs)  # the others are cut by the texture's seams


def test_sizes_have_units() -> None:
    assert [
        metres(size) for size in ("80mm", "12 cm", "0.3m", "5in", "1FT", "0,5 m", ".5m")
    ] == pytest.approx([0.08, 0.12, 0.3, 0.127, 0.3048, 0.5, 0.5])
    for size, said in (
        ("80", "no unit"),
        ("80px", "unknown unit px"),
        ("big", "no length"),
        ("-3mm", "no length"),
        ("0mm", "none that a thing"),
        ("1e9m", "no length"),
        ("999999999m", "none that a thing"),
    ):
        with pytest.raises(V3DError, match=said):
            metres(size)


def test_size_and_origin() -> None:
    mesh = replace(box_mesh(0.1, 0.2, 0.4), vertices=box_mesh(0.1, 0.2, 0.4).vertices + 3)
    at_base = with_origin(scaled(mesh, 0.08), "base").vertices
    torch.testing.assert_close(at_base.amin(0), torch.tensor([-0.01, -0.02, 0.0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(at_base.amax(0), torch.tensor([0.01, 0.02, 0.08]), atol=1e-6, rtol=0)
    centred = with_origin(mesh, "centre").vertices
    torch.testing.assert_close(centred.amin(0), torch.tensor([-0.05, -0.1, -0.2]), atol=1e-6, rtol=0)


def test_purposes_and_what_is_given_beside_them() -> None:
    assert plan_of(FinishSettings()) is None
    game = plan_of(FinishSettings(purpose="game"))
    assert game is not None and game.lods == 3 and game.maps == ("normal", "occlusion") and game.size is None
    less = plan_of(FinishSettings(purpose="game", lods=0, maps=(), size="1.7m", origin="centre"))
    assert less is not None
    assert (less.lods, less.maps, less.size, less.origin, less.faces) == (0, (), 1.7, "centre", 8000)
    printed = plan_of(FinishSettings(purpose="print"))
    assert printed is not None and printed.size == 0.08 and printed.formats == ("3mf", "stl")
    flat = plan_of(FinishSettings(purpose="game", shading="flat"))
    assert flat is not None and flat.maps == ("occlusion",)
    for settings, said in (
        (FinishSettings(lods=7), "0 to 6 levels"),
        (FinishSettings(lods=-1), "0 to 6 levels"),
        (FinishSettings(purpose="print", quads=True), "A print has no texture"),
        (FinishSettings(base="cut"), "add --for print"),
        (FinishSettings(shading="flat", maps=("normal",)), "leave one of them out"),
    ):
        with pytest.raises(V3DError, match=said):
            plan_of(settings)


@pytest.mark.parametrize(("size", "factor"), [(512, 4), (1024, 8)])
def test_charts_keep_their_colours_in_mip_maps(size: int, factor: int) -> None:
    """A texture shown much smaller: along the seams every point still has its own colour.

    The colour is the place, so that charts that lie side by side in the texture differ.
    """
    mesh = position_textured(sphere_mesh(0.5, 2), size)
    image = mesh.texture.permute(2, 0, 1)[None]
    small = torch.nn.functional.avg_pool2d(image, factor)[0].permute(1, 2, 0)
    _, place, count = torch.unique(mesh.vertices, dim=0, return_inverse=True, return_counts=True)
    seam = count[place] > 1
    assert int(seam.sum()) > 50
    wrong = (sample_texture(small, mesh.uv[seam]) - (mesh.vertices[seam] + 0.5)).abs().amax(-1)
    assert float(wrong.quantile(0.95)) < 0.01
