"""Back-projection: the texture as a weighted mean of what every view sees of each texel.

The texel's surface point is projected into each view; a z-buffer of the mesh says whether the view sees it. A
view's weight is `cos^4 * confidence`: cos between the surface normal and the direction to the camera,
confidence low near silhouettes and occlusion borders, where a pixel mixes surfaces. What no view sees
continues the colours around it along the surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import splu
from torch import Tensor

from v3d.compositing import over_white
from v3d.meshes.mesh import Mesh
from v3d.meshes.padding import pad
from v3d.meshes.rendering import at_corners, rasterize_mesh, rasterize_uv
from v3d.metrics import soft_iou
from v3d.surface.silhouette import pixel_distance
from v3d.views import Views

PHOTO_GAIN = 20.0
"""Factor on the weight of a photo, against 1 for a generated view."""
_BORDER = 3.0  # pixels from a silhouette or occlusion border to full confidence
_FILL_WEIGHT = 1e-5  # of the diffused colour, against up to 1 for a view
_GREY = 0.7  # where no view sees anything
_FILL_ROUNDS = 8
_FILL_STEP = 0.02  # colour steps below this count as smooth
_LEAST_IOU = 0.85  # of a photo's silhouette and that of its generated view


def project_views(
    mesh: Mesh,
    views: Views,
    *,
    size: int = 1024,
    photos: Sequence[Views] = (),
    photo_gain: float = PHOTO_GAIN,
) -> Mesh:
    """Texture an unwrapped mesh from posed views.

    Args:
        mesh: with a uv (see `v3d.texture.unwrap.unwrap`).
        views: at least one, on the mesh's device.
        size: width and height of the texture in texels.
        photos: real photos as views, batches of one, each at its own resolution (see `register_photo`); they
            win wherever they see the surface well.
        photo_gain: factor on the weight of a photo.

    Returns:
        The mesh with a texture [size, size, 3] in [0, 1].
    """
    fragments = rasterize_uv(mesh, size)
    inside = fragments.face[0] >= 0
    corners = mesh.faces[fragments.face[0][inside]]
    weights = fragments.barycentric[0][inside]

    def at_texels(attribute: Tensor) -> Tensor:
        return at_corners(attribute, corners, weights)

    normals = mesh.vertex_normals
    texels = _Blend(at_texels(mesh.vertices), F.normalize(at_texels(normals), dim=-1))
    vertices = _Blend(mesh.vertices, normals)
    given = [*((views[i], 1.0) for i in range(len(views))), *((photo, photo_gain) for photo in photos)]
    for view, gain in given:  # one by one: what is prepared of a view is larger than the view
        lookup = _Lookup.build(mesh, view, gain)
        vertices.add(lookup)
        texels.add(lookup)
    fill = at_texels(_continue_over_surface(mesh, vertices.colour, vertices.weight))
    weight = texels.weight[:, None]
    texture = fill.new_full((size, size, 3), _GREY)
    texture[inside] = (texels.colour * weight + fill * _FILL_WEIGHT) / (weight + _FILL_WEIGHT)
    return replace(mesh, texture=pad(texture, inside).clamp(0, 1))


@dataclass(frozen=True)
class _Lookup:
    """One view, prepared for looking up surface points.

    Attributes:
        view: a batch of one.
        layers: [1, 5, H, W]: confidence * straight rgb, depth of the mesh, confidence in [0, 1].
        gain: factor on its weight.
    """

    view: Views
    layers: Tensor
    gain: float

    @classmethod
    def build(cls, mesh: Mesh, view: Views, gain: float) -> _Lookup:
        """Prepare a view (a batch of one) of the mesh."""
        depth = rasterize_mesh(mesh, view.cameras).depth[0, ..., None]
        confidence = pixel_confidence(view.alpha[0], depth[..., 0], float(view.cameras.K[0, 0, 0]))[..., None]
        alpha = view.alpha[0][..., None]
        premultiplied = view.rgb[0] - 1 + alpha
        layers = torch.cat([premultiplied / alpha.clamp_min(1e-6) * confidence, depth, confidence], -1)
        return cls(view, layers.permute(2, 0, 1)[None].contiguous(), gain)

    def __call__(self, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Colour [N, 3] and weight [N] (0: not visible) of surface points [N, 3] with unit normals [N, 3]."""
        cameras = self.view.cameras
        to_camera = F.normalize(cameras.centers[0] - points, dim=-1)
        cos = (normals * to_camera).sum(-1)
        pixel, z = (x[0] for x in cameras.project(points))
        grid = cameras.to_grid(pixel)
        facing = ((cos > 0.05) & (z > 0) & (grid.abs() < 1).all(-1)).nonzero()[:, 0]
        cos, z = cos[facing], z[facing]
        sampled = F.grid_sample(self.layers, grid[facing][None, None], align_corners=False)[0, :, 0].T
        # Bilinear depth is off by a pixel's footprint times the slope at most, away from borders.
        tolerance = z / cameras.K[0, 0, 0] * (1 + 1 / cos)
        visible = z < sampled[:, 3] + tolerance
        weight = torch.zeros_like(points[:, 0])
        weight[facing] = self.gain * cos**4 * sampled[:, 4] * visible
        colour = torch.zeros_like(points)
        colour[facing] = sampled[:, :3] / sampled[:, 4:].clamp_min(1e-6)
        return colour, weight

    def add(self, points: Tensor, normals: Tensor, total: Tensor, weight: Tensor) -> None:
        """Add colour * weight to `total` [N, 3] and weight to `weight` [N], compiled for the CPU."""
        from v3d.texture.kernels import add_view  # the compiler is not loaded before it is needed

        camera = self.view.cameras
        w2c, K, centre = (x[0].float().numpy() for x in (camera.w2c, camera.K, camera.centers))
        layers = self.layers[0].permute(1, 2, 0).contiguous().numpy()
        of_camera = (w2c.copy(), K.copy(), centre.copy())  # contiguous, as the kernel is compiled for
        gain, sums = np.float32(self.gain), (total.numpy(), weight.numpy())
        add_view(points.contiguous().numpy(), normals.contiguous().numpy(), layers, *of_camera, gain, *sums)


class _Blend:
    """What views see of surface points [N, 3] with unit normals [N, 3].

    Attributes:
        weight: [N], the sum of the views' weights.
    """

    def __init__(self, points: Tensor, normals: Tensor) -> None:
        self._points, self._normals = points, normals
        self._total = torch.zeros_like(points)
        self.weight = torch.zeros_like(points[:, 0])

    def add(self, lookup: _Lookup) -> None:
        """Count another view in."""
        points = self._points
        if points.device.type == "cpu" and points.dtype == torch.float32:
            lookup.add(points, self._normals, self._total, self.weight)
            return
        colour, weight = lookup(points, self._normals)
        self._total += colour * weight[:, None]
        self.weight += weight

    @property
    def colour(self) -> Tensor:
        """Weighted mean colour [N, 3] of the views."""
        return self._total / self.weight.clamp_min(1e-12)[:, None]


def pixel_confidence(alpha: Tensor, depth: Tensor, focal: float) -> Tensor:
    """Confidence [H, W] in [0, 1] that a pixel shows one surface, the one that the mesh has there.

    Grows with the cubed distance to the silhouette (the view's or the mesh's) or to a jump in depth, so that
    borders count only where no view has anything better.

    Args:
        alpha: [H, W] of the view.
        depth: [H, W] camera z of the mesh, 0 where there is none.
        focal: of the camera, in pixels.
    """
    outside = (alpha < 0.95) | (depth <= 0)
    far = torch.where(depth > 0, depth, torch.inf)
    jump = torch.zeros_like(outside)
    for axis in (0, 1):
        n = depth.shape[axis] - 1
        step = far.narrow(axis, 1, n) - far.narrow(axis, 0, n)
        # A surface seen at 80 degrees steps by 6 footprints a pixel; more is another surface.
        edge = ~(step.abs() < 6 * depth.narrow(axis, 0, n).clamp_min(1e-6) / focal)
        jump.narrow(axis, 0, n).logical_or_(edge)
        jump.narrow(axis, 1, n).logical_or_(edge)
    distance = torch.minimum(_distance_to(outside), 1 + _distance_to(jump & ~outside))
    return (distance / _BORDER).clamp(max=1) ** 3


def _distance_to(mask: Tensor) -> Tensor:
    """Distance in pixels of every pixel to the nearest one in the mask [H, W]; 0 on it."""
    image = (~mask).cpu().numpy().astype(np.uint8)
    return torch.from_numpy(pixel_distance(image)).to(mask.device)


def _continue_over_surface(mesh: Mesh, colour: Tensor, weight: Tensor) -> Tensor:
    """Vertex colours [P, 3] that keep colours of some weight [P] and continue them where there is none.

    Where views see a vertex well, its colour stays. The others minimise
    `sum_i w_i |x_i - c_i|^2 + lambda sum_edges |x_i - x_j|` over vertices welded by position, by reweighted
    least squares. Total variation continues pure colours; squares would mix mud of them.
    """
    if len(mesh.faces) == 0:
        return torch.full_like(mesh.vertices, _GREY)
    places, place = (t.cpu().numpy() for t in torch.unique(mesh.vertices, dim=0, return_inverse=True))
    n = len(places)
    w = weight.double().cpu().numpy()
    total = np.bincount(place, w, n)
    summed = np.stack([np.bincount(place, w * channel, n) for channel in colour.double().cpu().numpy().T], 1)
    mean = summed.sum(0) / total.sum() if total.sum() > 0 else np.full(3, _GREY)
    c = summed / np.maximum(total, 1e-12)[:, None]
    fidelity = np.minimum(total / 0.05, 1.0)

    free = fidelity < 1
    corners = place[mesh.faces.cpu().numpy()]
    i, j = np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]]).T
    i, j = (end[free[i] | free[j]] for end in (i, j))
    anchor = 1e-6  # parts that no view sees get the mean colour
    closeness = np.ones(len(i))
    x = c.copy()
    for _ in range(_FILL_ROUNDS if free.any() else 0):
        adjacency = coo_matrix(
            (np.r_[closeness, closeness], (np.r_[i, j], np.r_[j, i])), shape=(n, n)
        ).tocsr()[free]
        laplacian = diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency[:, free]
        system = csr_matrix(diags(fidelity[free] + anchor) + 1e-2 * laplacian).tocsc()
        given = fidelity[free, None] * c[free] + anchor * mean + 1e-2 * (adjacency[:, ~free] @ c[~free])
        x[free] = splu(system).solve(given)
        closeness = _FILL_STEP / np.maximum(np.linalg.norm(x[i] - x[j], axis=1), _FILL_STEP)
    return torch.from_numpy(x[place].astype(np.float32)).to(colour.device)


def register_photo(photo: Tensor, view: Views) -> Views | None:
    """Make a view of the photo (`fit_photo`), or None where another shape was generated.

    Args:
        photo: [H, W, 4] RGBA in [0, 1], straight alpha.
        view: a batch of one, the generated view of the photo's side.

    Returns:
        A batch of one; or None where the silhouettes agree in less than 85 % of their union, so that the
        photo would land beside the object.
    """
    fitted = fit_photo(photo, view)
    return None if fitted is None or fitted[1] < _LEAST_IOU else fitted[0]


def fit_photo(photo: Tensor, view: Views) -> tuple[Views, float] | None:
    """Make a view of the photo: its pixels, and the camera of `view` shifted and scaled to fit it.

    A generated view 0 may show the object a little smaller or shifted; a similarity in the image is a change
    of K. It is found from the boxes around the two silhouettes.

    Args:
        photo: [H, W, 4] RGBA in [0, 1], straight alpha.
        view: a batch of one, whose silhouette the photo is fitted to.

    Returns:
        A batch of one at the photo's size and on the view's device, and the soft IoU of the silhouettes; None
        where one of them is empty.
    """
    photo = photo.to(view.rgb.device)
    height, width = photo.shape[:2]
    alpha = photo[..., 3]
    a, b = _box(alpha), _box(view.alpha[0])
    if a is None or b is None:
        return None
    # photo pixel = scale * view pixel + shift, from centres and the geometric mean of the sides' ratios.
    (ca, sa), (cb, sb) = a, b
    scale = float((sa / sb).log().mean().exp())
    shift = ca - scale * cb
    K = view.cameras.K.clone()
    K[0, :2] *= scale
    K[0, :2, 2] += shift.to(K)
    cameras = replace(view.cameras, K=K, width=width, height=height)

    x, y = (torch.arange(n, device=alpha.device) + 0.5 for n in (view.cameras.width, view.cameras.height))
    pixel = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) * scale + shift
    small = F.interpolate(alpha[None, None], scale_factor=min(1.0, 1 / scale), mode="area")
    registered = F.grid_sample(small, cameras.to_grid(pixel)[None], align_corners=False)[0, 0]
    placed = Views(over_white(photo[..., :3], alpha)[None], alpha[None], cameras)
    return placed, float(soft_iou(registered, view.alpha[0]))


def _box(alpha: Tensor) -> tuple[Tensor, Tensor] | None:
    """Centre and size (x, y) of the silhouette at alpha 0.5, in pixels; None where there is none."""
    mask = alpha > 0.5
    if not bool(mask.any()):
        return None
    low, size = [], []
    for axis in (0, 1):
        index = mask.any(axis).nonzero()[:, 0]
        low.append(float(index[0]))
        size.append(float(index[-1] + 1 - index[0]))
    corner, sides = alpha.new_tensor(low), alpha.new_tensor(size)
    return corner + sides / 2, sides
