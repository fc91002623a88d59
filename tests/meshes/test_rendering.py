"""The z-buffer against depths and colours known in closed form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import trimesh

import v3d.meshes.rendering as rendering
from v3d.cameras import orbit
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import (
    Light,
    interpolate,
    rasterize_mesh,
    rasterize_triangles,
    rasterize_uv,
    render,
    sample_texture,
)


def from_trimesh(mesh: trimesh.Trimesh) -> Mesh:
    return Mesh(torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces))


def quad(x: float = 0.0, half: float = 0.5) -> Mesh:
    """A square facing +x, textured; u runs along +y and v down, as camera 0 of an orbit sees it."""
    vertices = torch.tensor([[x, -half, half], [x, half, half], [x, half, -half], [x, -half, -half]])
    uv = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    return Mesh(vertices, torch.tensor([[0, 2, 1], [0, 3, 2]]), uv)


def test_depth_and_normals_of_a_sphere() -> None:
    sphere = from_trimesh(trimesh.creation.icosphere(subdivisions=5, radius=0.6))
    cameras = orbit(2, size=64, elevation=25.0, azimuth=13.0)
    out = render(sphere, cameras, supersample=1)
    origin, direction = cameras.rays()
    # |o + t d|^2 = r^2 with d of unit camera z, so t is the depth.
    a, b = (direction**2).sum(-1), (origin * direction).sum(-1)
    discriminant = b**2 - a * ((origin**2).sum(-1) - 0.36)
    t = (-b - discriminant.clamp_min(0).sqrt()) / a
    surely = discriminant > 0.02
    assert torch.equal(out.alpha[surely], torch.ones_like(out.alpha[surely]))
    assert out.alpha[discriminant < 0].sum() == 0
    assert (out.depth - t)[surely].abs().max() < 2e-3
    normal = F.normalize(origin + t[..., None] * direction, dim=-1)
    assert (out.normal * normal).sum(-1)[surely].min() > 0.999


def test_depth_of_a_box_and_order_of_faces() -> None:
    box = from_trimesh(trimesh.creation.box(extents=(0.8, 0.8, 0.8)))
    depth = rasterize_mesh(box, orbit(1, size=32)).depth[0]
    torch.testing.assert_close(depth[16, 10:22], torch.full((12,), 1.6))
    # Two squares one behind the other: the nearer wins, whichever comes first.
    near, far = quad(0.3), quad(-0.3)
    for first, second, expected in ((near, far, 0), (far, near, 1)):
        both = Mesh(torch.cat([first.vertices, second.vertices]), torch.cat([first.faces, second.faces + 4]))
        face = rasterize_mesh(both, orbit(1, size=16)).face[0, 8, 6:10]
        assert bool((face // 2 == expected).all())


def test_barycentrics_are_perspective_correct() -> None:
    """On a tilted plane the interpolated position lies on the pixel's ray; screen-linear weights miss it."""
    vertices = torch.tensor([[0.9, -0.6, -0.5], [-0.9, 0.7, -0.4], [0.2, 0.1, 0.6]])
    mesh = Mesh(vertices, torch.tensor([[0, 1, 2]]))
    camera = orbit(1, size=48)
    fragments = rasterize_mesh(mesh, camera)
    hit = fragments.face >= 0
    assert hit.sum() > 100
    origin, direction = camera.rays()
    on_ray = origin + fragments.depth[..., None] * direction
    torch.testing.assert_close(
        interpolate(fragments, vertices, mesh.faces)[hit], on_ray[hit], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(fragments.barycentric[hit].sum(-1), torch.ones(int(hit.sum())))


def test_the_compiled_loop_finds_the_same_fragments() -> None:
    """Several views, several triangles a pixel, equally near ones, and the flat case of texture maps."""
    generator = torch.Generator().manual_seed(4)
    corners = torch.rand(3, 60, 3, 3, generator=generator) * 40 - 5
    corners[..., 2] = 1 + corners[..., 2].abs()
    corners[:, 3, 0, 0], corners[:, 4, 0, 2] = torch.nan, -1.0
    corners[:, 30:] = corners[:, :30]  # each once more, just as near: the first counts
    for perspective in (True, False):
        a = rasterize_triangles(corners, 24, 32, perspective=perspective)
        b = rendering._rasterize(corners, 24, 32, perspective)
        same = a.face == b.face
        assert int((~same).sum()) <= 2  # a pixel centre on an edge may differ
        assert int((a.face >= 0).sum()) > 500 and int(a.face.max()) < 30
        torch.testing.assert_close(a.barycentric[same], b.barycentric[same], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(a.depth[same], b.depth[same], atol=1e-4, rtol=1e-4)
    empty = rasterize_triangles(torch.zeros(2, 0, 3, 3), 4, 4)
    assert empty.face.shape == (2, 4, 4) and bool((empty.face == -1).all())


@pytest.mark.parametrize("compiled", [True, False])
def test_fragments_equal_a_plain_loop(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """Random triangle soup against the definition; in torch with so small chunks that triangles span many."""
    generator = torch.Generator().manual_seed(3)
    vertices = torch.randn(40, 3, generator=generator, dtype=torch.float32) * 0.5
    mesh = Mesh(vertices, torch.randint(0, 40, (30, 3), generator=generator))
    camera = orbit(1, size=24, azimuth=31.0)
    chunks = rendering._chunks
    monkeypatch.setattr(rendering, "_chunks", lambda counts, budget: chunks(counts, 50))
    xy, depth = camera.project(vertices)
    if compiled:
        fragments = rasterize_mesh(mesh, camera)
    else:
        corners = torch.cat([xy, depth[..., None]], -1)[:, mesh.faces]
        fragments = rendering._rasterize(corners, 24, 24, perspective=True)

    pixels, z = xy[0].double(), depth[0].double()
    nearest = torch.zeros(24, 24, dtype=torch.float64)
    for row in range(24):
        for column in range(24):
            depths = []
            for tri in mesh.faces.tolist():
                corners = torch.cat([pixels[tri].T, torch.ones(1, 3, dtype=torch.float64)])
                if abs(float(torch.linalg.det(corners))) < 1e-9:
                    continue
                w = torch.linalg.solve(
                    corners, torch.tensor([column + 0.5, row + 0.5, 1.0], dtype=torch.float64)
                )
                if bool((w >= 0).all()):
                    depths.append(1 / float((w / z[tri]).sum()))
            nearest[row, column] = min(depths, default=0.0)
    assert (nearest > 0).sum() > 50
    different = (fragments.depth[0] - nearest).abs() > 1e-4
    assert different.sum() <= 1, "at most a pixel centre that lies on an edge may differ"


def test_coverage_is_the_area_fraction() -> None:
    """A square whose edges fall inside pixels: alpha sums to its area, border pixels are partial."""
    camera = orbit(1, size=32)
    half = 0.317
    alpha = render(quad(half=half), camera, supersample=8).alpha[0]
    side = 2 * half * float(camera.K[0, 0, 0]) / 2
    assert float(alpha.sum()) == pytest.approx(side**2, rel=0.01)
    assert bool(((alpha > 0.05) & (alpha < 0.95)).any())
    out = render(quad(half=half), camera, supersample=2)
    expected = 0.7 * out.alpha + 1 - out.alpha
    torch.testing.assert_close(out.rgb[..., 0], expected)
    inside = out.alpha > 0
    torch.testing.assert_close(out.depth[inside], torch.full((int(inside.sum()),), 2.0))


@pytest.mark.parametrize("flip", [False, True])
def test_both_sides_are_seen_with_normals_towards_the_camera(flip: bool) -> None:
    mesh = quad()
    if flip:
        mesh = Mesh(mesh.vertices, mesh.faces.flip(-1))
    out = render(mesh, orbit(2, size=16), supersample=1)
    assert bool((out.alpha[:, 8, 8] == 1).all())
    torch.testing.assert_close(out.normal[:, 8, 8], torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]))


def test_texture_is_upright_and_where_uv_says() -> None:
    texture = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    mesh = quad()
    mesh = Mesh(mesh.vertices, mesh.faces, mesh.uv, texture)
    camera = orbit(1, size=64)
    out = render(mesh, camera, supersample=1, nearest=True).rgb[0]
    for row in range(4):
        for column in range(4):
            point = torch.tensor([[0.0, -0.5 + (column + 0.5) / 4, 0.5 - (row + 0.5) / 4]])
            x, y = camera.project(point)[0][0, 0].tolist()
            torch.testing.assert_close(out[int(y), int(x)], texture[row, column])


def test_light_follows_its_equation() -> None:
    out = render(
        quad(), orbit(1, size=8), light=Light(torch.tensor([3.0, 3.0, 0.0]), ambient=0.4), supersample=1
    )
    expected = 0.7 * (0.4 + 0.6 * (1 + 0.5**0.5) / 2)
    assert float(out.rgb[0, 4, 4, 0]) == pytest.approx(expected, abs=1e-5)


def test_texture_sampling_at_texel_centres_and_borders() -> None:
    texture = torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(1))
    v, u = torch.meshgrid((torch.arange(5) + 0.5) / 5, (torch.arange(7) + 0.5) / 7, indexing="ij")
    torch.testing.assert_close(sample_texture(texture, torch.stack([u, v], -1)), texture, atol=1e-5, rtol=0)
    torch.testing.assert_close(sample_texture(texture, torch.tensor([[0.0, 1.0]]))[0], texture[-1, 0])


def test_uv_fragments_find_the_surface_point() -> None:
    mesh = quad()
    fragments = rasterize_uv(mesh, 8)
    position = interpolate(fragments, mesh.vertices, mesh.faces)[0]
    assert bool((fragments.face >= 0).all())
    torch.testing.assert_close(position[2, 5], torch.tensor([0.0, -0.5 + 5.5 / 8, 0.5 - 2.5 / 8]))


def test_nothing_to_see() -> None:
    camera = orbit(1, size=8)
    empty = Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    flat = Mesh(torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0.1, 0]]), torch.tensor([[0, 1, 2], [2, 2, 2]]))
    behind = Mesh(quad().vertices + torch.tensor([5.0, 0, 0]), quad().faces)
    broken = Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]]))
    for mesh in (empty, flat, behind, broken):
        out = render(mesh, camera)
        assert out.alpha.sum() == 0
        assert bool((out.rgb == 1).all())
        assert bool(torch.isfinite(out.depth).all() and torch.isfinite(out.normal).all())
