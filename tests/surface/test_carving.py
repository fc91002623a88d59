"""Hulls against shapes whose silhouettes are known in closed form, and the first Gaussians on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from shapes import ball_views, box_mesh
from v3d.cameras import Cameras, cat_cameras, orbit
from v3d.errors import V3DError
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import rasterize_mesh, render
from v3d.splats.initial import _visible_colors, initial_splats, random_splats
from v3d.surface.carving import carve
from v3d.surface.extract import extract_mesh, marching_cubes
from v3d.surface.silhouette import fill_silhouette, pixel_distance, silhouette_distance
from v3d.views import Views


def half_box(half: tuple[float, float, float]) -> Mesh:
    """A box from -half to half."""
    return box_mesh(*(2 * side for side in half))


def box_views(half: tuple[float, float, float], cameras: Cameras) -> Views:
    out = render(half_box(half), cameras, supersample=3)
    return Views(out.rgb, out.alpha, cameras)


def volume(mesh: Mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum() / 6)


def around(size: int = 128) -> Cameras:
    """Cameras above and below too, so that the hull closes in on a sphere from all sides."""
    return cat_cameras(
        [orbit(12, size=size), orbit(8, size=size, elevation=50), orbit(8, size=size, elevation=-50)]
    )


def test_hull_of_a_sphere_is_the_sphere() -> None:
    hull = carve(ball_views(around(), 0.6), resolution=64)
    surface = extract_mesh(hull)
    radius = surface.vertices.norm(dim=-1)
    assert float(radius.min()) > 0.595
    assert float(radius.mean()) == pytest.approx(0.605, abs=0.006)
    inside = torch.tensor([[0.0, 0, 0], [0.3, 0, 0]])
    assert (hull.sample(inside) < -0.25).all()


def test_distances_are_metric_near_the_surface() -> None:
    hull = carve(ball_views(orbit(24, size=256), 0.5), resolution=64)
    angle = torch.linspace(0, 6.28, 50)
    for radius in (0.46, 0.5, 0.54):
        ring = torch.stack([radius * angle.cos(), radius * angle.sin(), 0 * angle], -1)
        # The cone of a camera at distance 2 leans by asin(r/2) against the surface normal.
        torch.testing.assert_close(hull.sample(ring), torch.full((50,), radius - 0.5), atol=0.006, rtol=0)


def test_hull_of_a_box_contains_it_and_little_more() -> None:
    half = (0.5, 0.35, 0.25)
    hull = carve(box_views(half, around(96)), resolution=48)
    inner = (torch.rand(2000, 3) * 2 - 1) * torch.tensor(half) * 0.97
    assert (hull.sample(inner) < 0).float().mean() > 0.999
    assert 1.0 <= volume(marching_cubes(hull)) / (8 * half[0] * half[1] * half[2]) < 1.3


def test_order_of_views_does_not_matter() -> None:
    views = box_views((0.5, 0.3, 0.4), orbit(9, size=64))
    shuffled = views[[4, 2, 8, 0, 1, 7, 3, 6, 5]]
    torch.testing.assert_close(carve(views, resolution=40).values, carve(shuffled, resolution=40).values)


def test_what_lies_outside_an_image_is_not_carved() -> None:
    # A bar that leaves the near cameras' images on both sides but is seen whole from its ends.
    half = (0.15, 1.05, 0.15)
    views = box_views(half, orbit(18, size=128))
    assert bool((views.alpha[:, :, 0] > 0.5).any()), "the bar should touch an image border"
    hull = carve(views, resolution=96)
    tips = torch.tensor([[0.0, y, 0.0] for y in (-1.03, -0.5, 0, 0.5, 1.03)])
    assert (hull.sample(tips) < 0).all()
    assert volume(marching_cubes(hull)) < 1.6 * 8 * half[0] * half[1] * half[2]


def test_outside_all_images_is_empty() -> None:
    # Every image shows only the object: a column that is taller than all images are.
    views = box_views((0.2, 0.2, 3.0), orbit(8, size=64))
    hull = carve(views, resolution=48, half_extent=2.0)
    axis = torch.tensor([[0.0, 0, 0], [0, 0, 1.0], [0, 0, 1.3], [0, 0, 1.6]])
    assert (hull.sample(axis) < 0).tolist() == [True, True, False, False]  # images end at 2 tan 30 degrees


def test_given_bounds_are_used() -> None:
    views = ball_views(orbit(8, size=64), 0.4)
    low, high = torch.tensor([-0.5, -0.6, -0.5]), torch.tensor([0.5, 0.6, 0.5])
    hull = carve(views, resolution=33, bounds=(low, high))
    torch.testing.assert_close(hull.bounds[0], low)
    assert (hull.bounds[1] >= high - 1e-5).all()


def test_a_small_object_off_the_centre_is_found() -> None:
    center = (0.5, -0.3, 0.4)
    hull = carve(ball_views(around(), 0.06, center), resolution=48)
    torch.testing.assert_close(marching_cubes(hull).vertices.mean(0), torch.tensor(center), atol=0.01, rtol=0)


@pytest.mark.parametrize(("alpha", "message"), [(0.0, "empty"), (1.0, "full")])
def test_masks_without_information_are_refused(alpha: float, message: str) -> None:
    cameras = orbit(4, size=32)
    views = Views(torch.ones(4, 32, 32, 3), torch.full((4, 32, 32), alpha), cameras)
    with pytest.raises(V3DError, match=message):
        carve(views)


def test_masks_that_contradict_each_other_are_refused() -> None:
    views = ball_views(orbit(4, size=64), 0.1, (0.0, 0.0, 0.5))
    other = ball_views(orbit(4, size=64), 0.1, (0.0, 0.0, -0.5))
    mixed = Views(views.rgb, torch.cat([views.alpha[:2], other.alpha[2:]]), views.cameras)
    with pytest.raises(V3DError, match="no point in common"):
        carve(mixed)


def test_silhouette_distance_is_sub_pixel() -> None:
    x = torch.arange(32) + 0.5
    for edge in (10.0, 10.3, 10.8):
        alpha = (x + 0.5 - edge).clamp(0, 1).expand(1, 8, 32)
        distance = silhouette_distance(alpha)[0, 4]
        assert _crossing(x, distance) == pytest.approx(edge, abs=0.1)


def test_distances_are_exact_wherever_the_image_lies_in_memory() -> None:
    y, x = np.mgrid[:48, :48]
    disc = ((x - 23.5) ** 2 + (y - 23.5) ** 2 < 200).astype(np.uint8)
    exact = ndimage.distance_transform_edt(1 - disc).astype(np.float32)
    others = []  # so that every image lies somewhere else
    for i in range(40):
        others.append(np.empty(500 + 37 * i, np.uint8))
        assert np.array_equal(pixel_distance(1 - disc), exact)
    assert pixel_distance(np.ones((5, 5), np.uint8)).min() > 1000


def _crossing(x: Tensor, y: Tensor) -> float:
    i = int((y < 0).float().argmax())
    return float(x[i - 1] + (x[i] - x[i - 1]) * y[i - 1] / (y[i - 1] - y[i]))


def test_first_splats_lie_on_the_surface_and_carry_its_colours() -> None:
    views = ball_views(around(), 0.6)
    hull = carve(views, resolution=64)
    splats = initial_splats(hull, views, 3000, seed=1)
    radius = splats.means.norm(dim=-1)
    assert float((radius - 0.605).abs().max()) < 0.03
    # Uniform by area: height on a sphere is uniform.
    assert float((splats.means[:, 2] / radius).std()) == pytest.approx(3**-0.5, abs=0.03)
    # The shortest axis is the normal.
    assert (splats.scales.argmin(-1) == 2).all()
    _, x, y, _ = splats.quats.unbind(-1)
    w = splats.quats[:, 0]
    axis = torch.stack([2 * w * y, -2 * w * x, 1 - 2 * (x**2 + y**2)], -1)
    outward = splats.means / radius[:, None]
    assert float((axis * outward).sum(-1).mean()) > 0.97
    assert float((splats.rgb - (outward * 0.5 + 0.5)).abs().mean()) < 0.03
    again = initial_splats(hull, views, 3000, seed=1)
    torch.testing.assert_close(again.means, splats.means)


def test_hidden_points_are_not_coloured_by_what_hides_them() -> None:
    # A green box in front of a red one: the red one's hidden side must stay red.
    cameras = orbit(1, size=64)
    near, far = half_box((0.02, 0.3, 0.3)), half_box((0.02, 0.6, 0.6))
    vertices = torch.cat([near.vertices + torch.tensor([0.5, 0, 0]), far.vertices])
    mesh = Mesh(vertices, torch.cat([near.faces, far.faces + 8]))
    out = render(mesh, cameras, supersample=1)
    green = out.depth < 1.8
    rgb = torch.where(green[..., None], torch.tensor([0.0, 1, 0]), torch.tensor([1.0, 0, 0]))
    rgb = torch.where(out.alpha[..., None] > 0.5, rgb, torch.ones(3))
    views = Views(rgb, out.alpha, cameras)
    points = torch.tensor([[0.02, 0.0, 0.0], [0.02, 0.5, 0.5], [0.52, 0.0, 0.0]])
    normals = torch.tensor([[1.0, 0, 0]]).expand(3, 3)
    color = _visible_colors(points, normals, mesh, views, tolerance=0.02)
    torch.testing.assert_close(color[1], torch.tensor([1.0, 0, 0]))
    torch.testing.assert_close(color[2], torch.tensor([0.0, 1, 0]))
    assert color[0].tolist() in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0])  # nearest seen point


def test_random_splats_are_a_grey_blob() -> None:
    splats = random_splats(ball_views(orbit(4, size=32), 0.5), 2000, seed=3)
    assert float(splats.means.std()) == pytest.approx(2 / 16, rel=0.05)
    assert (splats.rgb == 0.5).all()
    assert len(random_splats(ball_views(orbit(4, size=32), 0.5), 1)) == 1


# Covering the outline of one view


def bar_mesh() -> Mesh:
    """A thin upright bar on a block: 0.05 wide, 1 long."""
    bar, block = half_box((0.025, 0.025, 0.5)), half_box((0.25, 0.25, 0.15))
    vertices = torch.cat(
        [bar.vertices + torch.tensor([0.0, 0.0, 0.15]), block.vertices - torch.tensor([0.0, 0.0, 0.5])]
    )
    return Mesh(vertices, torch.cat([bar.faces, block.faces + len(bar.vertices)]))


def guessed_views(mesh: Mesh, size: int = 96) -> Views:
    """An orbit whose views but the first do not show what is thin, as guessed ones do."""
    cameras = orbit(18, size=size)
    out = render(mesh, cameras, supersample=3)
    thin = torch.nn.functional.avg_pool2d(out.alpha[:, None], 7, stride=1, padding=3)[:, 0] > 0.8
    wide = torch.nn.functional.max_pool2d(thin[:, None].float(), 7, stride=1, padding=3)[:, 0]
    alpha = torch.cat([out.alpha[:1], out.alpha[1:] * wide[1:]])
    rgb = torch.where(alpha[..., None] > 0, out.rgb, 1.0)
    return Views(rgb, alpha, cameras)


def outline(mesh: Mesh, view: Views) -> tuple[float, float]:
    """Share of the view's outline that the mesh fills, and of the mesh's that lies inside."""
    hit, target = rasterize_mesh(mesh, view.cameras).face >= 0, view.alpha > 0.5
    both = (hit & target).sum()
    return float(both / target.sum()), float(both / hit.sum())


def test_what_a_trusted_view_shows_is_not_carved_away() -> None:
    views = guessed_views(bar_mesh())
    lost = extract_mesh(carve(views, resolution=64))
    assert float(lost.vertices[:, 2].max()) < -0.2  # the bar is gone
    kept = extract_mesh(carve(views, resolution=64, trusted_views=(0,)))
    filled, inside = outline(kept, views[0])
    assert filled > 0.98 and inside > 0.85
    # In one piece, where it stands (on the block), and hardly thicker than a voxel or two.
    bar = kept.vertices[kept.vertices[:, 2] > 0.0]
    assert float(bar[:, 2].max()) == pytest.approx(0.65, abs=0.05)
    assert float(bar[:, :2].norm(dim=-1).max()) < 0.12
    assert volume(kept) < 1.3 * volume(bar_mesh())


def test_every_trusted_view_is_filled_within_the_others() -> None:
    """Filled without regard to each other, each would add what sticks out of the other's silhouette."""
    mesh = bar_mesh()
    views = guessed_views(mesh)
    alpha = views.alpha.clone()
    alpha[5] = render(mesh, views.cameras[5], supersample=3).alpha[0]
    views = Views(views.rgb, alpha, views.cameras)
    bounds = (torch.full((3,), -0.8), torch.full((3,), 0.8))
    carved = carve(views, resolution=64, bounds=bounds)
    both = carve(views, resolution=64, bounds=bounds, trusted_views=(0, 5))
    regardless = fill_silhouette(fill_silhouette(carved, views[0]), views[5])
    trusted = carve(views[[0, 5]], resolution=64, bounds=bounds)
    outside = trusted.values > 0.51 * trusted.voxel
    assert bool((regardless.values[outside] < 0).any()) and not bool((both.values[outside] < 0).any())
    for v in (0, 5):
        assert outline(marching_cubes(carved), views[v])[0] < 0.85
        filled, inside = outline(marching_cubes(both), views[v])
        assert filled > 0.95 and inside > outline(marching_cubes(regardless), views[v])[1]
    one = carve(views, resolution=64, bounds=bounds, trusted_views=(0,))
    assert outline(marching_cubes(one), views[5])[0] < 0.93


def test_fillets_join_what_is_added_and_stay_inside_the_outline(monkeypatch: pytest.MonkeyPatch) -> None:
    views = guessed_views(bar_mesh())
    hull = carve(views, resolution=64, bounds=(torch.full((3,), -0.8), torch.full((3,), 0.8)))
    smooth = fill_silhouette(hull, views[0])
    monkeypatch.setattr("v3d.surface.silhouette._FILLET", 1)
    sharp = fill_silhouette(hull, views[0])
    added = (smooth.values < 0) & (sharp.values >= 0)
    assert 0 < int(added.sum()) < 0.05 * int((sharp.values < 0).sum())
    # At the foot of the bar, which stands on the block's top at z = -0.35.
    assert float((hull.points()[added][:, 2] + 0.35).abs().max()) < 0.15
    inside = [outline(marching_cubes(solid), views[0])[1] for solid in (smooth, sharp)]
    assert inside[0] > inside[1] - 0.005


def test_a_part_that_stands_alone_in_the_outline_is_kept_too() -> None:
    mesh = bar_mesh()
    apart = Mesh(
        torch.cat([mesh.vertices, mesh.vertices[:8] + torch.tensor([0.0, 0.5, 0.0])]),
        torch.cat([mesh.faces, mesh.faces[:12]]),
    )
    apart.faces[-12:] += 16
    views = guessed_views(apart)
    solid = marching_cubes(carve(views, resolution=64, trusted_views=(0,)))
    assert outline(solid, views[0])[0] > 0.98


def test_covering_adds_nothing_where_views_agree_and_takes_nothing_away() -> None:
    views = ball_views(around(), 0.6)
    hull = carve(views, resolution=64)
    for view in (0, 13):
        covered = fill_silhouette(hull, views[view])
        assert (covered.values <= hull.values).all()
        assert float((covered.values < 0).sum() / (hull.values < 0).sum()) < 1.01
    nothing = Views(torch.ones(1, 128, 128, 3), torch.zeros(1, 128, 128), views.cameras[[0]])
    assert fill_silhouette(hull, nothing) is hull


def test_covering_changes_the_field_only_near_what_is_added() -> None:
    views = guessed_views(bar_mesh())
    hull = carve(views, resolution=64, bounds=(torch.full((3,), -0.8), torch.full((3,), 0.8)))
    covered = fill_silhouette(hull, views[0])
    changed = covered.values < hull.values
    assert bool(changed.any())
    # The object's corners are 0.35 from the axis; the box reaches to 0.8.
    assert float(hull.points()[changed][:, :2].abs().max()) < 0.5
    assert torch.equal(covered.values[~changed], hull.values[~changed])


def test_what_is_merely_rounded_stays_so_unless_a_hull_fills_it() -> None:
    cameras = around()
    small, large = (carve(ball_views(cameras, radius), resolution=64) for radius in (0.5, 0.53))
    view = ball_views(cameras, 0.53)[0]  # two pixels wider than the small sphere
    assert torch.equal(fill_silhouette(small, view).values, small.values)
    filled = fill_silhouette(small, view, hull=large)
    assert outline(marching_cubes(small), view)[0] < 0.92 < 0.98 < outline(marching_cubes(filled), view)[0]
    # What the hull does not fill is not filled either.
    assert torch.equal(fill_silhouette(small, view, hull=small).values, small.values)
