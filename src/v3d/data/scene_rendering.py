"""Images and depths of synthetic scenes: objects by the z-buffer, ground and walls by exact ray casting.

Ground and walls pass beside and behind the cameras, where a z-buffer of whole triangles cannot go; a ray
meets a plane in closed form, and the pyramid of its texture smooths it however far away.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.cameras import Cameras
from v3d.data.scene_layout import Placed, Plane, Scene
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import rasterize_mesh, rasterize_triangles, sample_texture

_SUPERSAMPLE = 2
DEPTH_STEP = 4
"""Pixels of a view for each pixel of its depth map."""

_SHADOW_SIDE = 128


def render_scene(scene: Scene) -> tuple[Tensor, Tensor]:
    """Render a scene's clip.

    Returns:
        rgb [V, H, W, 3] in [0, 1], and camera z [V, H/4, W/4] at the pixel centres of that size, 0 for sky.
    """
    cameras = scene.cameras
    large = cameras.resized(cameras.width * _SUPERSAMPLE, cameras.height * _SUPERSAMPLE)
    directions = large.rays()[1]
    centers = cameras.centers[:, None, None]
    rgb, depth = _objects(scene, large)
    nearest = torch.full(depth.shape, len(scene.planes))  # after the last plane: an object
    for k, plane in enumerate(scene.planes):
        t = plane.hit(centers, directions)
        nearest = torch.where(t < depth, k, nearest)
        depth = torch.minimum(t, depth)
    flat_rgb, flat_depth, flat_directions = rgb.view(-1, 3), depth.flatten(), directions.reshape(-1, 3)
    pixels_of_view = large.width * large.height
    for k, plane in enumerate(scene.planes):
        hit = (nearest == k).flatten().nonzero()[:, 0]
        z, direction = flat_depth[hit], flat_directions.index_select(0, hit)
        origin = cameras.centers.index_select(0, hit // pixels_of_view)
        place = plane.place(origin + z[:, None] * direction)
        colour = _plane_colour(plane, place, z, direction, float(large.K[0, 0, 0]))
        if k == 0:
            colour = colour * _unshadowed(scene, place)
        flat_rgb.index_copy_(0, hit, colour * _shade(plane.axes[2:], scene))
    empty = torch.isinf(flat_depth).nonzero()[:, 0]
    up = F.normalize(flat_directions.index_select(0, empty), dim=-1)[:, 2:]
    flat_rgb.index_copy_(0, empty, torch.lerp(scene.sky[0], scene.sky[1], ((up + 0.4) / 1.2).clamp(0, 1)))
    small = F.avg_pool2d(rgb.permute(0, 3, 1, 2), _SUPERSAMPLE).permute(0, 2, 3, 1)
    return small.clamp(0, 1), _depth_map(depth)


def _objects(scene: Scene, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Shaded colours of the objects [V, H, W, 3] and their camera z [V, H, W], inf where there is none."""
    faces, uv, first = [], [], 0
    for thing in scene.objects:
        faces.append(thing.mesh.faces + first)
        first += len(thing.mesh.vertices)
        uv.append(thing.mesh.uv if thing.mesh.uv is not None else torch.zeros(len(thing.mesh.vertices), 2))
    mesh = Mesh(torch.cat([o.mesh.vertices for o in scene.objects]), torch.cat(faces))
    normals = torch.cat([o.mesh.vertex_normals for o in scene.objects])
    fragments = rasterize_mesh(mesh, cameras)
    hit = fragments.face >= 0
    corners = mesh.faces[fragments.face[hit]]
    weights = fragments.barycentric[hit][..., None]

    def at(values: Tensor) -> Tensor:
        return (values[corners] * weights).sum(-2)

    normal, position = F.normalize(at(normals), dim=-1), at(mesh.vertices)
    away = (normal * (position - cameras.centers[hit.nonzero()[:, 0]])).sum(-1, keepdim=True) > 0
    normal = torch.where(away, -normal, normal)
    where = at(torch.cat(uv))
    owner = torch.repeat_interleave(torch.arange(len(faces)), torch.tensor([len(f) for f in faces]))[
        fragments.face[hit]
    ]
    colour = torch.full_like(position, 0.7)
    for k, thing in enumerate(scene.objects):
        mine = owner == k
        if thing.mesh.texture is not None and thing.mesh.uv is not None:
            colour[mine] = sample_texture(thing.mesh.texture, where[mine], nearest=thing.palette)
    rgb = torch.zeros(*hit.shape, 3)
    rgb[hit] = colour * _shade(normal, scene)
    return rgb, torch.where(hit, fragments.depth, torch.inf)


def _shade(normal: Tensor, scene: Scene) -> Tensor:
    """Brightness [N, 1] of surfaces with normals [N, 3]; the law of `v3d.meshes.rendering.Light`."""
    light = scene.light
    toward = F.normalize(light.direction, dim=-1)
    return (light.ambient + (1 - light.ambient) * (1 + normal @ toward) / 2)[:, None]


def _plane_colour(plane: Plane, place: Tensor, depth: Tensor, direction: Tensor, focal: float) -> Tensor:
    """Texture colours [N, 3] of points seen at `depth` [N] along rays [N, 3]."""
    length = direction.norm(dim=-1)
    slant = (direction @ plane.axes[2]).abs() / length
    footprint = depth / focal * length / slant.clamp_min(1e-4)  # of a pixel, along its longer side
    return plane.texture.sample(place / plane.tile, footprint / plane.tile)


def _unshadowed(scene: Scene, place: Tensor) -> Tensor:
    """What the objects leave of the light at places [N, 2] of the ground: [N, 1] in [0, 1].

    One shadow of the light, and a broader, fainter one straight below, of the sky's light.
    """
    ground, strength = scene.planes[0], 1 - scene.light.ambient
    cast = _shadow(scene.objects, ground, scene.light.direction, place, 2)
    below = _shadow(scene.objects, ground, ground.axes[2], place, 5)
    return (1 - 0.9 * strength * cast) * (1 - (0.15 + 0.2 * strength) * below)


def _shadow(objects: Sequence[Placed], ground: Plane, toward: Tensor, place: Tensor, blur: int) -> Tensor:
    """How much of the objects' shadow lies at places [N, 2] of the ground: [N, 1] in [0, 1]."""
    local = [(o.mesh.vertices - ground.center) @ ground.axes.T for o in objects]
    ray = ground.axes @ toward
    flat = [p[:, :2] - p[:, 2:] * (ray[:2] / ray[2]) for p in local]
    everything = torch.cat(flat)
    low, high = everything.amin(0), everything.amax(0)
    margin = 0.15 * float((high - low).max())
    low, span = low - margin, float((high - low).max()) + 2 * margin
    corners = torch.cat([f[o.mesh.faces] for f, o in zip(flat, objects, strict=True)])
    corners = F.pad((corners - low) / span * _SHADOW_SIDE, (0, 1), value=1.0)[None]
    covered = rasterize_triangles(corners, _SHADOW_SIDE, _SHADOW_SIDE, perspective=False).face >= 0
    soft = covered.float()[None]
    for _ in range(2):
        soft = F.avg_pool2d(soft, 2 * blur + 1, 1, blur, count_include_pad=False)
    return sample_texture(soft[0, 0][..., None], (place - low) / span)


def _depth_map(depth: Tensor) -> Tensor:
    """Camera z at the centres of blocks of pixels, from the four samples around each centre.

    On a plane 1/z is linear in the image, so the mean of 1/z is exact there. Where the four differ by more
    than 5 % (an edge, a ground seen at a grazing angle) the nearest counts.
    """
    step = DEPTH_STEP * _SUPERSAMPLE
    k = step // 2
    near = torch.stack([depth[:, i::step, j::step] for i in (k - 1, k) for j in (k - 1, k)])
    low, high = near.amin(0), near.amax(0)
    mean = 1 / (1 / near).mean(0)
    z = torch.where(high < 1.05 * low, mean, low)
    return torch.where(torch.isinf(z), 0.0, z)
