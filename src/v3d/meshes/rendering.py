"""A z-buffer mesh renderer in torch: training data, pixel -> surface maps, depth and previews.

It needs no graphics library and runs on any torch device; on the CPU its inner loop is compiled. Visibility
is exact at pixel centres; edges are smoothed by rendering `supersample` times larger and averaging.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.meshes.mesh import Mesh

NEAR = 1e-3
"""Camera z in world units; triangles with a nearer corner are invisible."""
_EMPTY = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Fragments:
    """What each pixel of V images of H x W pixels sees.

    Attributes:
        face: [V, H, W] int64, index of the nearest face, -1 where there is none.
        barycentric: [V, H, W, 3] weights of the face's corners on the surface (perspective-correct).
        depth: [V, H, W] camera z, 0 where there is no face.
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor


@dataclass(frozen=True)
class Light:
    """One distant light and an ambient term; `shade = ambient + (1 - ambient) * (1 + n.l) / 2`.

    The wrapped cosine keeps every side readable; colours are multiplied as they stand (sRGB-encoded).

    Attributes:
        direction: [3] towards the light, world axes, any non-zero length.
        ambient: in [0, 1]; 1 is unlit.
    """

    direction: Tensor
    ambient: float = 0.6


@dataclass(frozen=True)
class Rendering:
    """V rendered images.

    Attributes:
        rgb: [V, H, W, 3] in [0, 1], composited on white.
        alpha: [V, H, W] coverage.
        depth: [V, H, W] camera z averaged over the covered part, 0 outside.
        normal: [V, H, W, 3] world-space unit normals facing the camera, averaged; 0 outside.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor


def rasterize_triangles(corners: Tensor, height: int, width: int, *, perspective: bool = True) -> Fragments:
    """Nearest triangle at every pixel centre of V images, of equally near ones the first.

    Args:
        corners: [V, F, 3, 3] float32; per corner pixel x, pixel y and camera z.
        height, width: of the images in pixels.
        perspective: z is a camera depth, and triangles with a corner closer than `NEAR` are dropped;
            otherwise z is ignored and the first face wins, as UV maps need.
    """
    if corners.device.type == "cpu" and corners.dtype == torch.float32:
        V, count = corners.shape[:2]
        points = corners.reshape(V, count * 3, 3)
        faces = torch.arange(count * 3, device=corners.device).view(count, 3)
        return _rasterize_compiled(points[..., :2], points[..., 2], faces, (height, width), perspective)
    return _rasterize(corners, height, width, perspective)


def _rasterize(corners: Tensor, height: int, width: int, perspective: bool) -> Fragments:
    """What `rasterize_triangles` returns, in torch."""
    V, faces = corners.shape[:2]
    device = corners.device
    flat = corners.reshape(V * faces, 3, 3)
    xy, z = flat[..., :2], flat[..., 2]
    area = _edge(xy[:, 0], xy[:, 1], xy[:, 2])
    limit = torch.tensor([width - 1.0, height - 1.0], device=device)
    low = (xy.amin(1) - 0.5).ceil().clamp_min(0)
    size = (torch.minimum((xy.amax(1) - 0.5).floor(), limit) - low + 1).clamp_min(0)
    visible = (area.abs() > 1e-12) & (size.prod(-1) > 0) & torch.isfinite(flat).all(-1).all(-1)
    if perspective:
        visible &= z.amin(1) > NEAR
    ids = visible.nonzero()[:, 0]
    size, low = size[ids].long(), low[ids].long()
    nearest = _nearest(xy, z, area, low, size, ids, (V, height, width), perspective)
    hit = (nearest >= 0).nonzero()[:, 0]
    face_of_hit = nearest[hit]
    global_face = torch.div(hit, height * width, rounding_mode="floor") * faces + face_of_hit
    pixel = hit % (height * width)
    centre = torch.stack([pixel % width, torch.div(pixel, width, rounding_mode="floor")], -1) + 0.5
    w = _barycentric(xy[global_face], area[global_face], centre)
    depth = torch.zeros(len(nearest), device=device)
    if perspective:
        w = w / z[global_face]
        depth[hit] = 1 / w.sum(-1)
        w = w * depth[hit, None]
    barycentric = torch.zeros(len(nearest), 3, device=device)
    barycentric[hit] = w
    shape = (V, height, width)
    return Fragments(nearest.view(shape), barycentric.view(*shape, 3), depth.view(shape))


def _nearest(
    xy: Tensor,
    z: Tensor,
    area: Tensor,
    low: Tensor,
    size: Tensor,
    ids: Tensor,
    shape: tuple[int, int, int],
    perspective: bool,
) -> Tensor:
    """Number, within its view, of the nearest triangle at every pixel [V * H * W], -1 where there is none.

    `low` and `size` [M, 2] are the ranges of pixels of the visible triangles `ids` [M] among those of all
    views; `shape` is (V, H, W).
    """
    device = xy.device
    V, height, width = shape
    faces = len(xy) // V
    counts = size.prod(-1)

    key = torch.full((V * height * width,), _EMPTY, dtype=torch.int64, device=device)
    for first, last in _chunks(counts, 4_000_000):
        local = torch.repeat_interleave(torch.arange(first, last, device=device), counts[first:last])
        start = counts[first:last].cumsum(0) - counts[first:last]
        offset = torch.arange(len(local), device=device) - start[local - first]
        columns = size[local, 0]
        x, y = low[local, 0] + offset % columns, low[local, 1] + offset // columns
        face = ids[local]
        w = _barycentric(xy[face], area[face], torch.stack([x, y], -1) + 0.5)
        inside = (w >= -1e-6).all(-1)
        face, w, x, y = face[inside], w[inside], x[inside], y[inside]
        depth = 1 / (w / z[face]).sum(-1) if perspective else torch.zeros_like(w[:, 0])
        # The bits of positive floats sort as the floats do: (depth, face) packs into one integer minimum.
        packed = (depth.float().contiguous().view(torch.int32).long() << 32) | (face % faces)
        pixel = (torch.div(face, faces, rounding_mode="floor") * height + y) * width + x
        key.scatter_reduce_(0, pixel, packed, "amin")

    return torch.where(key != _EMPTY, key & 0xFFFFFFFF, -1)


def _rasterize_compiled(
    xy: Tensor, z: Tensor, faces: Tensor, size: tuple[int, int], perspective: bool
) -> Fragments:
    """What `_rasterize` returns of vertices [V, P, 2], [V, P] and faces [F, 3], compiled for the CPU."""
    from v3d.meshes.zbuffer import rasterize  # the compiler is not loaded before it is needed

    points, depths, corners = (x.detach().contiguous().numpy() for x in (xy, z, faces))
    arrays = rasterize(points, depths, corners, *size, NEAR, perspective)
    return Fragments(*(torch.from_numpy(x) for x in arrays))


def rasterize_mesh(mesh: Mesh, cameras: Cameras) -> Fragments:
    """What every pixel of every camera sees of the mesh; both sides of a face are visible.

    Mesh and cameras are on one device.
    """
    xy, z = cameras.project(mesh.vertices)
    if xy.device.type == "cpu" and xy.dtype == torch.float32:
        return _rasterize_compiled(xy, z, mesh.faces, (cameras.height, cameras.width), perspective=True)
    corners = torch.cat([xy, z[..., None]], -1)[:, mesh.faces]
    return rasterize_triangles(corners, cameras.height, cameras.width)


def rasterize_uv(mesh: Mesh, size: int) -> Fragments:
    """The surface point under every texel centre of a `size` x `size` texture: [1, size, size] fragments."""
    assert mesh.uv is not None, "the mesh has no uv"
    corners = F.pad(mesh.uv * size, (0, 1), value=1.0)[mesh.faces][None]
    return rasterize_triangles(corners, size, size, perspective=False)


def interpolate(fragments: Fragments, attribute: Tensor, faces: Tensor) -> Tensor:
    """Per-vertex `attribute` [P, C] on the surface of every pixel -> [V, H, W, C], 0 outside."""
    value = at_corners(attribute, faces[fragments.face.clamp_min(0)], fragments.barycentric)
    return value * (fragments.face >= 0)[..., None]


def at_corners(attribute: Tensor, corners: Tensor, weights: Tensor) -> Tensor:
    """Weighted means [..., C] of `attribute` [P, C] over three vertices `corners` [..., 3] by `weights`."""
    # Three products and two sums: a reduction over an axis of three is several times slower.
    a, b, c = (attribute[corners[..., k]] * weights[..., k, None] for k in range(3))
    return a + b + c


def sample_texture(texture: Tensor, uv: Tensor, *, nearest: bool = False) -> Tensor:
    """Texture [T, T', 3] at uv [..., 2] (v down, clamped at the border) -> [..., 3]."""
    grid = (uv.reshape(1, 1, -1, 2) * 2 - 1).to(texture.dtype)
    sampled = F.grid_sample(
        texture.permute(2, 0, 1)[None],
        grid,
        mode="nearest" if nearest else "bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0, :, 0].T.reshape(*uv.shape[:-1], texture.shape[-1])


def render(
    mesh: Mesh,
    cameras: Cameras,
    *,
    light: Light | None = None,
    supersample: int = 2,
    smooth: bool = True,
    nearest: bool = False,
) -> Rendering:
    """Render a mesh. Untextured meshes are grey (0.7).

    Args:
        mesh: with or without texture.
        cameras: on the mesh's device.
        light: None renders the texture as it is.
        supersample: linear factor of the antialiasing.
        smooth: shade with interpolated vertex normals; otherwise flat.
        nearest: read the texture without interpolation, as palette textures need.
    """
    width, height = cameras.width, cameras.height
    large = cameras.resized(width * supersample, height * supersample)
    fragments = rasterize_mesh(mesh, large)
    hit = fragments.face >= 0
    face, weights = fragments.face[hit], fragments.barycentric[hit]
    tri = mesh.faces[face]

    if smooth:
        normal = F.normalize(at_corners(mesh.vertex_normals, tri, weights), dim=-1)
    else:
        normal = mesh.face_normals[face]
    view, row, column = hit.nonzero().T
    position = at_corners(mesh.vertices, tri, weights)
    away = (normal * (position - cameras.centers[view])).sum(-1, keepdim=True) > 0
    normal = torch.where(away, -normal, normal)

    if mesh.texture is not None and mesh.uv is not None:
        uv = at_corners(mesh.uv, tri, weights)
        rgb = sample_texture(mesh.texture, uv, nearest=nearest)
    else:
        rgb = torch.full_like(position, 0.7)
    if light is not None:
        toward = F.normalize(light.direction.to(normal), dim=-1)
        shade = light.ambient + (1 - light.ambient) * (1 + normal @ toward) / 2
        rgb = rgb * shade[:, None]

    # Sums over pixels, of hits only: most of a picture is background.
    layers = torch.cat([rgb, fragments.depth[hit][:, None], normal, torch.ones_like(rgb[:, :1])], -1)
    row, column = (torch.div(x, supersample, rounding_mode="floor") for x in (row, column))
    pixel = (view * height + row) * width + column
    small = layers.new_zeros(len(cameras) * height * width, 8).index_add_(0, pixel, layers / supersample**2)
    small = small.view(len(cameras), height, width, 8)
    alpha = small[..., 7]
    covered = alpha.clamp_min(1e-6)[..., None]
    return Rendering(
        rgb=(small[..., :3] + 1 - alpha[..., None]).clamp(0, 1),
        alpha=alpha,
        depth=(small[..., 3:4] / covered)[..., 0],
        normal=F.normalize(small[..., 4:7], dim=-1),
    )


def _edge(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Twice the signed area of triangles with corners [..., 2]."""
    return (b[..., 0] - a[..., 0]) * (c[..., 1] - a[..., 1]) - (b[..., 1] - a[..., 1]) * (
        c[..., 0] - a[..., 0]
    )


def _barycentric(xy: Tensor, area: Tensor, point: Tensor) -> Tensor:
    """Weights [N, 3] of points [N, 2] in triangles [N, 3, 2] of twice-area [N]."""
    w0 = _edge(point, xy[:, 1], xy[:, 2]) / area
    w1 = _edge(point, xy[:, 2], xy[:, 0]) / area
    return torch.stack([w0, w1, 1 - w0 - w1], -1)


def _chunks(counts: Tensor, budget: int) -> list[tuple[int, int]]:
    """Consecutive ranges of items whose counts add up to about `budget` each."""
    total = counts.cumsum(0)
    chunks, first = [], 0
    while first < len(counts):
        done = int(total[first - 1]) if first else 0
        last = int(torch.searchsorted(total, done + budget, right=True))
        chunks.append((first, max(last, first + 1)))
        first = chunks[-1][1]
    return chunks
