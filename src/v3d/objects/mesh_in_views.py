"""Where a given mesh stands in views, and where photos are to be laid on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from v3d.cameras import Cameras, around, orbit
from v3d.compositing import off_white
from v3d.errors import V3DError
from v3d.framing import frame_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.reading.parts import Part
from v3d.meshes.rendering import rasterize_mesh, render
from v3d.metrics import mask_iou
from v3d.placement import Similarity
from v3d.texture.project import fit_photo
from v3d.views import Views

_SIZE, _MOST = 128, 12  # pixels and number of the views in which a mesh is looked for
_LEAST_IOU = 0.5  # of the mesh and the views; below, they do not stand in one world
_GOOD_IOU = 0.85
_LEAST_PHOTO_IOU = 0.4
_PHOTO_SIZE = 512  # pixels of the renders that photos are laid on
_Y_UP = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))  # (x, y, z) of a GLB -> (z, x, y) of the world


@dataclass(frozen=True)
class Laid:
    """Views and photos on a mesh.

    Attributes:
        place: the way from the mesh's world to that of the cameras.
        views: what is weighed alike; at least one.
        photos: batches of one, each at its own resolution, that win wherever they see the surface.
        notes: what was guessed or does not fit, one sentence each.
    """

    place: Similarity
    views: Views
    photos: tuple[Views, ...] = ()
    notes: tuple[str, ...] = ()


def moved(parts: Sequence[Part], place: Similarity) -> Mesh:
    """All parts as one mesh without uv, moved, in float32."""
    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = torch.from_numpy(np.concatenate([part.vertices for part in parts]))
    faces = np.concatenate([part.faces + n for part, n in zip(parts, first[:-1], strict=True)])
    return Mesh(move(vertices, place), torch.from_numpy(faces.astype(np.int64)))


def move(points: Tensor, place: Similarity) -> Tensor:
    """Points [P, 3] float64 -> float32, moved."""
    return (points @ place.matrix[:3, :3].T + place.matrix[:3, 3]).float()


def find_in_views(parts: Sequence[Part], views: Views, placement: Similarity) -> tuple[Similarity, float]:
    """How a mesh comes into the world of views, and the IoU of its silhouettes with theirs.

    A mesh stands in the views' own world or in the one of the orbit that they were brought to, and its file
    has the axes that V3D reads or those of the capture: whatever fits best.

    Args:
        parts: in V3D's axes.
        views: in the world of the orbit.
        placement: what brought them there.

    Raises:
        V3DError: the mesh stands nowhere near what the views show.
    """
    chosen = [i * len(views) // min(len(views), _MOST) for i in range(min(len(views), _MOST))]
    few = views[chosen].reduced(_SIZE)
    as_stored = torch.eye(4, dtype=torch.float64)
    as_stored[:3, :3] = torch.tensor(_Y_UP, dtype=torch.float64).T
    one = torch.eye(4, dtype=torch.float64)
    found: list[tuple[float, int, Similarity]] = []
    for axes in (one, as_stored, as_stored.T):
        for way in (one, placement.matrix):
            place = Similarity(way @ axes)
            hit = rasterize_mesh(moved(parts, place), few.cameras).face >= 0
            iou = float(mask_iou(hit.flatten(0, 1)[None], few.alpha.flatten(0, 1)[None]))
            found.append((round(iou, 2), -len(found), place))  # the first of equals
            if iou > 0.95:
                return place, iou
    iou, _, place = max(found, key=lambda entry: entry[:2])
    if iou < _LEAST_IOU:
        raise V3DError(
            f"The mesh does not stand where the views show the object (it fits {iou:.0%} of their outlines); "
            "give a mesh in the world of the cameras, or photos by side."
        )
    return place, iou


def framed(parts: Sequence[Part], elevation: float) -> Similarity:
    """The scale and the shift by which a mesh obeys the framing law, as an object of photos does."""
    vertices = torch.from_numpy(np.concatenate([part.vertices for part in parts]))
    vertices = torch.unique(vertices, dim=0)
    low, high = vertices.amin(0), vertices.amax(0)
    start = Similarity.of(1 / float((high - low).norm()), torch.eye(3, dtype=torch.float64), (low + high) / 2)
    before = move(vertices, start)
    after = frame_mesh(before, orbit(size=256, elevation=elevation))
    scale = float((after.amax(0) - after.amin(0)).norm() / (before.amax(0) - before.amin(0)).norm())
    shift = (after.double() - scale * before.double()).mean(0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] *= scale
    matrix[:3, 3] = shift
    return Similarity(matrix @ start.matrix)


def lay_photos(mesh: Mesh, photos: Mapping[float, Tensor], elevation: float) -> tuple[list[Views], list[str]]:
    """Photos as views of a framed mesh, by their outlines; and what does not fit.

    Args:
        mesh: in the world of the orbit.
        photos: azimuth -> photo [S, S, 4] of straight alpha.
        elevation: of the photos.

    Raises:
        V3DError: a photo shows another shape.
    """
    laid, notes = [], []
    for azimuth, photo in photos.items():
        view = silhouettes(mesh, around([azimuth], size=_PHOTO_SIZE, elevation=elevation))
        fitted = fit_photo(photo, view)
        iou = 0.0 if fitted is None else fitted[1]
        if fitted is None or iou < _GOOD_IOU:
            turns = {turn: _fit_of(mesh, photo, azimuth + turn, elevation) for turn in (90, 180, 270)}
            turn = max(turns, key=turns.__getitem__)
            better = f" (from {(azimuth + turn) % 360:g} degrees it would be {turns[turn]:.0%})"
            hint = better if turns[turn] > iou + 0.1 else ""
            said = f"The photo at {azimuth:g} degrees fits {iou:.0%} of the mesh's outline{hint}"
            if fitted is None or iou < _LEAST_PHOTO_IOU:
                raise V3DError(
                    f"{said}, so it shows another object or side; the mesh's front must face +z (GLB, OBJ) or"
                    " +x (PLY, STL)."
                )
            notes.append(f"{said}; colours near its edges may stand beside their place.")
        laid.append(fitted[0])
    return laid, notes


def lay_drawn(mesh: Mesh, drawn: Views) -> Views | None:
    """Drawn views laid on the mesh by their outlines; those of another shape are left out, or all (None)."""
    seen = silhouettes(mesh, drawn.cameras)
    rgb, alpha, K, c2w = [], [], [], []
    for v in range(len(drawn)):
        rgba = torch.cat(
            [off_white(drawn.rgb[v], drawn.alpha[v], 0.01).clamp(0, 1), drawn.alpha[v, ..., None]], -1
        )
        fitted = fit_photo(rgba, seen[v])
        if fitted is not None and fitted[1] > _LEAST_PHOTO_IOU:
            view = fitted[0]
            rgb.append(view.rgb)
            alpha.append(view.alpha)
            K.append(view.cameras.K)
            c2w.append(view.cameras.c2w)
    if not rgb:
        return None
    cameras = Cameras(torch.cat(c2w), torch.cat(K), drawn.cameras.width, drawn.cameras.height)
    return Views(torch.cat(rgb), torch.cat(alpha), cameras)


def silhouettes(mesh: Mesh, cameras: Cameras) -> Views:
    """The bare mesh as views."""
    image = render(Mesh(mesh.vertices, mesh.faces), cameras)
    return Views(image.rgb, image.alpha, cameras)


def _fit_of(mesh: Mesh, photo: Tensor, azimuth: float, elevation: float) -> float:
    fitted = fit_photo(photo, silhouettes(mesh, around([azimuth], size=_SIZE, elevation=elevation)))
    return 0.0 if fitted is None else fitted[1]
