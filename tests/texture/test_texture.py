"""Unwrap, back-projection and refinement on a painted ball whose true colours are known everywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import trimesh
from torch.overrides import TorchFunctionMode

from shapes import sphere_mesh
from v3d.cameras import Cameras, orbit
from v3d.meshes.mesh import Mesh
from v3d.meshes.padding import pad
from v3d.meshes.rendering import interpolate, rasterize_uv, render
from v3d.texture import project, refine
from v3d.texture.project import project_views, register_photo
from v3d.texture.refine import RefineSettings, _ViewMatrix, refine_texture
from v3d.texture.unwrap import unwrap
from v3d.views import Views

SIZE = 128


def paint(points: torch.Tensor, detail: float = 1.0) -> torch.Tensor:
    """Smooth colours, [..., 3] -> [..., 3] in [0, 1]."""
    waves = points * torch.tensor([7.0, 9.0, 8.0]) * detail + torch.tensor([0.0, 1.0, 2.0])
    return 0.5 + 0.4 * torch.sin(waves)


def painted_views(mesh: Mesh, cameras: Cameras, detail: float = 1.0) -> Views:
    """Views of the untextured mesh with `paint` on it."""
    out = []
    for i in range(len(cameras)):
        camera = cameras[i]
        large = camera.resized(camera.width * 2, camera.height * 2)
        shape = render(mesh, large, supersample=1)
        origin, direction = large.rays()
        colours = paint(origin + shape.depth[..., None] * direction, detail)
        rgb = torch.where(shape.alpha[..., None] > 0, colours, torch.ones(3))
        layers = torch.cat([rgb, shape.alpha[..., None]], -1).permute(0, 3, 1, 2)
        out.append(F.avg_pool2d(layers, 2).permute(0, 2, 3, 1))
    layers = torch.cat(out)
    return Views(layers[..., :3], layers[..., 3], cameras)


def psnr(mesh: Mesh, views: Views) -> float:
    images = torch.cat([render(mesh, views.cameras[i]).rgb for i in range(len(views))])
    return -10 * float((images - views.rgb)[views.alpha > 0.99].square().mean().log10())


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return unwrap(sphere_mesh(0.6), size=SIZE)


@pytest.fixture(scope="module")
def views(ball: Mesh) -> Views:
    return painted_views(ball, orbit(9, size=96))


@pytest.fixture(scope="module")
def textured(ball: Mesh, views: Views) -> Mesh:
    return project_views(ball, views, size=SIZE)


def test_unwrap_keeps_the_surface_and_charts_do_not_overlap(ball: Mesh) -> None:
    sphere = trimesh.creation.icosphere(subdivisions=3, radius=0.6)
    torch.testing.assert_close(ball.vertices[ball.faces], torch.tensor(sphere.triangles, dtype=torch.float32))
    assert ball.uv.min() >= 0 and ball.uv.max() <= 1
    # The charts' area as drawn, each texel once, is the sum of the triangles' areas: nothing overlaps.
    a, b, c = (ball.uv[ball.faces] * SIZE).unbind(1)
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs().sum() / 2
    drawn = (rasterize_uv(ball, SIZE).face >= 0).sum()
    assert float(drawn) == pytest.approx(float(area), rel=0.02)
    assert area > 0.4 * SIZE**2


def test_back_projection_gives_each_texel_its_colour(ball: Mesh, textured: Mesh) -> None:
    fragments = rasterize_uv(ball, SIZE)
    points = interpolate(fragments, ball.vertices, ball.faces)[0]
    seen = (fragments.face[0] >= 0) & (points[..., 2].abs() < 0.3)
    error = (textured.texture - paint(0.6 * F.normalize(points, dim=-1)))[seen]
    assert error.abs().mean() < 0.012
    assert error.abs().max() < 0.1


def test_new_views_look_right_and_v_is_not_flipped(ball: Mesh, textured: Mesh) -> None:
    new = painted_views(ball, orbit(2, size=96, azimuth=20.0, elevation=10.0))
    assert psnr(textured, new) > 30
    flipped = replace(textured, texture=textured.texture.flip(0))
    assert psnr(flipped, new) < 20


def test_no_background_leaks_in_and_unseen_parts_continue_what_is_seen(ball: Mesh) -> None:
    """A red ball stays red everywhere, poles, seams and padding included."""
    red = torch.tensor([0.8, 0.1, 0.2])
    views = painted_views(ball, orbit(5, size=64))
    rgb = red * views.alpha[..., None] + 1 - views.alpha[..., None]
    texture = project_views(ball, Views(rgb, views.alpha, views.cameras), size=SIZE).texture
    torch.testing.assert_close(texture, red.expand_as(texture), atol=0.01, rtol=0)


def test_what_stands_behind_is_not_painted() -> None:
    """A small plate in front of a large one: the shadowed part of the large one takes no colour from it."""

    def plate(x: float, half: float) -> trimesh.Trimesh:
        box = trimesh.creation.box(extents=(0.02, 2 * half, 2 * half))
        return box.apply_translation((x, 0, 0)).subdivide_to_size(0.08)

    both = trimesh.util.concatenate([plate(0.3, 0.15), plate(-0.3, 0.5)])
    mesh = unwrap(Mesh(torch.tensor(both.vertices, dtype=torch.float32), torch.tensor(both.faces)), size=SIZE)
    camera = orbit(1, size=128)
    shape = render(mesh, camera)
    near = shape.depth[..., None] < 2
    colour = torch.where(near, torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1.0]))
    rgb = colour * shape.alpha[..., None] + 1 - shape.alpha[..., None]
    result = project_views(mesh, Views(rgb, shape.alpha, camera), size=SIZE)
    fragments = rasterize_uv(mesh, SIZE)
    points = interpolate(fragments, mesh.vertices, mesh.faces)[0]
    far = (fragments.face[0] >= 0) & (points[..., 0] < 0)
    assert result.texture[far][:, 0].max() < 0.05
    assert result.texture[far][:, 2].min() > 0.95


def test_the_photo_wins_where_it_sees_well(ball: Mesh, views: Views) -> None:
    """A photo of four times the resolution is registered by its shift and scale, and sharpens the front."""
    fine = painted_views(ball, orbit(1, size=384))
    straight = (fine.rgb[0] - 1 + fine.alpha[0][..., None]) / fine.alpha[0].clamp_min(1e-6)[..., None]
    photo = torch.cat([straight, fine.alpha[0][..., None]], -1)
    theta = torch.tensor([[[1.1, 0, 0.04], [0, 1.1, -0.06]]])
    grid = F.affine_grid(theta, [1, 4, 384, 384], align_corners=False)
    moved = F.grid_sample(photo.permute(2, 0, 1)[None], grid, align_corners=False)[0].permute(1, 2, 0)
    placed = register_photo(moved, views[0])
    assert placed is not None
    # The photo's camera sees the world's points where the moved image shows them.
    point = torch.tensor([[0.3, 0.2, 0.1]])
    x, y = (fine.cameras.project(point)[0][0, 0] / 192 - 1).tolist()
    expected = torch.tensor([((x - 0.04) / 1.1 + 1) * 192, ((y + 0.06) / 1.1 + 1) * 192])
    torch.testing.assert_close(placed.cameras.project(point)[0][0, 0], expected, atol=1.5, rtol=0)

    blurred = Views(0.5 * views.rgb + 0.25, views.alpha, views.cameras)  # the generator lost contrast
    front = painted_views(ball, orbit(1, size=96))
    without = psnr(project_views(ball, blurred, size=SIZE), front)
    assert psnr(project_views(ball, blurred, size=SIZE, photos=[placed]), front) > without + 6


def test_several_photos_each_win_on_their_own_side(ball: Mesh, views: Views) -> None:
    blurred = Views(0.5 * views.rgb + 0.25, views.alpha, views.cameras)  # the generator lost contrast
    sides = [painted_views(ball, orbit(1, size=192, azimuth=azimuth)) for azimuth in (0.0, 180.0)]
    meshes = [project_views(ball, blurred, size=SIZE, photos=photos) for photos in ((), sides[:1], sides)]
    settings = RefineSettings(sweeps=1)
    refined = refine_texture(meshes[2], blurred, settings, photos=sides)
    alone = refine_texture(meshes[2], blurred, settings)
    for k, side in enumerate(sides):
        without, front, both = (psnr(mesh, side) for mesh in meshes)
        assert both > without + 4
        assert (front > without + 4) == (k == 0)
        assert psnr(refined, side) > psnr(alone, side) + 1


class NoStrayTensors(TorchFunctionMode):
    """Refuses tensor factories without a device, which fail where meshes and views lie on another one."""

    factories = (torch.arange, torch.tensor, torch.zeros, torch.ones, torch.full, torch.eye, torch.linspace)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        assert func not in self.factories or kwargs.get("device") is not None, f"{func.__name__} on no device"
        return func(*args, **kwargs)


def test_texturing_makes_no_tensor_off_the_device_of_its_input(ball: Mesh, views: Views) -> None:
    photo = torch.cat([views.rgb[0], views.alpha[0][..., None]], -1)
    with NoStrayTensors():
        with pytest.raises(AssertionError, match="arange"):
            torch.arange(3)
        mesh = unwrap(Mesh(ball.vertices, ball.faces), size=32)
        placed = register_photo(photo, views[0])
        assert placed is not None
        mesh = project_views(mesh, views[[0, 3]], size=32, photos=[placed])
        mesh = refine_texture(mesh, views[[0, 3]], RefineSettings(sweeps=1), photos=[placed])
        render(mesh, views[0].cameras)
    assert mesh.texture is not None and mesh.texture.device == views.rgb.device


def test_a_photo_of_another_shape_is_refused(views: Views) -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 100), torch.linspace(-1, 1, 100), indexing="ij")
    cross = ((x.abs() < 0.2) | (y.abs() < 0.2)) & (x.abs() < 0.8) & (y.abs() < 0.8)
    assert (
        register_photo(torch.cat([torch.rand(100, 100, 3), cross[..., None].float()], -1), views[0]) is None
    )
    assert register_photo(torch.zeros(50, 50, 4), views[0]) is None


def test_padding_takes_the_nearest_colour() -> None:
    texture = torch.rand(12, 12, 3, generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(12, 12, dtype=torch.bool)
    inside[3:5, 2:9] = True
    inside[9, 9] = True
    padded = pad(texture, inside)
    assert torch.equal(padded[inside], texture[inside])
    assert torch.equal(padded[0, 4], texture[3, 4])
    assert torch.equal(padded[11, 11], texture[9, 9])
    assert torch.equal(pad(texture, torch.zeros_like(inside)), texture)


def test_refinement_renders_as_the_renderer_does_and_its_gradient_is_the_transpose(
    textured: Mesh, views: Views
) -> None:
    matrix = _ViewMatrix.build(textured, views[2], 2)
    texels = textured.texture.reshape(-1, 3)
    torch.testing.assert_close(
        matrix.render(texels), render(textured, views[2].cameras).rgb[0], atol=1e-5, rtol=0
    )
    # <A t, g> = <t, A^T g> without the background.
    g = torch.randn(96, 96, 3, generator=torch.Generator().manual_seed(0))
    at = matrix.render(texels) - matrix.background[..., None]
    adjoint = torch.zeros(SIZE**2, 4)
    matrix.add_adjoint(F.pad(g, (0, 1), value=1.0), adjoint)
    torch.testing.assert_close((at * g).sum(), (texels * adjoint[:, :3]).sum(), rtol=1e-3, atol=1e-2)
    # The fourth channel, ones, gives the column sums of A, and these sum to what the mesh covers.
    torch.testing.assert_close(adjoint[:, 3].sum(), (1 - matrix.background).sum(), rtol=1e-4, atol=0)


def test_the_compiled_loops_of_refinement_do_what_torch_does(textured: Mesh, views: Views) -> None:
    matrix = _ViewMatrix.build(textured, views[2], 2)
    texels = textured.texture.reshape(-1, 3)
    image = matrix.background.reshape(-1, 1).repeat(1, 3)
    refine._gather(texels, matrix.texel, matrix.weight, matrix.pixel, image)
    torch.testing.assert_close(matrix.render(texels).reshape(-1, 3), image, atol=1e-5, rtol=0)
    g = torch.randn(96, 96, 4, generator=torch.Generator().manual_seed(1))
    compiled, plain = torch.ones(SIZE**2, 4), torch.ones(SIZE**2, 4)  # both add to what is there
    matrix.add_adjoint(g, compiled)
    refine._scatter(g.reshape(-1, 4), matrix.texel, matrix.weight, matrix.pixel, plain)
    torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-5)


def test_the_compiled_look_up_sees_what_torch_does(ball: Mesh, views: Views) -> None:
    """Points of the ball and inside it, some hidden, outside the image or behind the camera."""
    generator = torch.Generator().manual_seed(2)
    normals = F.normalize(torch.randn(4000, 3, generator=generator), dim=-1)
    points = normals * torch.linspace(0.4, 0.6, 4000)[:, None]
    points[:400] *= 5
    lookup = project._Lookup.build(ball, views[1], 3.0)
    colour, weight = lookup(points, normals)
    total, summed = torch.zeros(4000, 3), torch.zeros(4000)
    lookup.add(points, normals, total, summed)
    assert 200 < int((weight > 0).sum()) < 2000
    different = (summed - weight).abs() > 1e-4
    assert int(different.sum()) <= 2  # a point at the limit of what is visible may differ
    torch.testing.assert_close(
        total[~different], (colour * weight[:, None])[~different], atol=1e-4, rtol=1e-4
    )


def test_refinement_sharpens_views_it_has_not_seen(ball: Mesh) -> None:
    fine = painted_views(ball, orbit(9, size=96), detail=4.0)
    new = painted_views(ball, orbit(3, size=96, azimuth=20.0), detail=4.0)
    start, steps = project_views(ball, fine, size=SIZE), []
    refined = refine_texture(start, fine, on_step=lambda done, total: steps.append((done, total)))
    assert psnr(refined, new) > psnr(start, new) + 1
    assert steps == [(i + 1, len(steps)) for i in range(len(steps))]


def test_refinement_does_not_follow_inconsistent_views(ball: Mesh, views: Views) -> None:
    """Views shifted by up to 0.8 px, up to 6 % brighter or darker: no worse than the start on true views."""
    generator = torch.Generator().manual_seed(0)
    shift = (torch.rand(len(views), 2, generator=generator) * 2 - 1) * 0.8 * 2 / 96
    gain = 1 + (torch.rand(len(views), 1, 1, 3, generator=generator) * 2 - 1) * 0.06
    theta = torch.eye(2, 3).repeat(len(views), 1, 1)
    theta[:, :, 2] = shift
    layers = torch.cat([views.rgb, views.alpha[..., None]], -1).permute(0, 3, 1, 2)
    grid = F.affine_grid(theta, list(layers.shape), align_corners=False)
    layers = F.grid_sample(layers, grid, padding_mode="border", align_corners=False).permute(0, 2, 3, 1)
    alpha = layers[..., 3]
    rgb = ((layers[..., :3] - 1 + alpha[..., None]) * gain + 1 - alpha[..., None]).clamp(0, 1)
    perturbed = Views(rgb, alpha, views.cameras)
    start = project_views(ball, perturbed, size=SIZE)
    new = painted_views(ball, orbit(3, size=96, azimuth=20.0))
    assert psnr(refine_texture(start, perturbed), new) > psnr(start, new) - 0.1


@pytest.mark.parametrize("case", ["empty", "triangle", "flat", "unseen"])
def test_degenerate_meshes_get_a_finite_texture(case: str, views: Views) -> None:
    triangle = torch.tensor([[0.0, -0.3, 0.0], [0.0, 0.3, 0.0], [0.0, 0.0, 0.4]])
    vertices, faces = {
        "empty": (torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64)),
        "triangle": (triangle, torch.tensor([[0, 1, 2]])),
        "flat": (
            torch.cat([triangle, torch.zeros(2, 3)]),
            torch.tensor([[0, 1, 2], [3, 4, 3], [0, 0, 1], [3, 3, 3]]),
        ),
        "unseen": (triangle + torch.tensor([0.0, 0.0, 50.0]), torch.tensor([[0, 1, 2]])),
    }[case]
    mesh = unwrap(Mesh(vertices, faces), size=32)
    assert len(mesh.faces) == len(faces)
    assert torch.equal(mesh.vertices[mesh.faces], vertices[faces])
    result = project_views(mesh, views[[0, 4]], size=32)
    refined = refine_texture(result, views[[0, 4]], RefineSettings(sweeps=1))
    for texture in (result.texture, refined.texture):
        assert texture.shape == (32, 32, 3)
        assert bool(torch.isfinite(texture).all())
