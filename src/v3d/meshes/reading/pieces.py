"""Faces cut into pieces, each given by the face it lies in and its corners' barycentric weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from v3d.meshes.reading.parts import Array, Layer, Part


@dataclass(frozen=True)
class Pieces:
    """N triangles within faces.

    Attributes:
        face: [N] the face that each lies in.
        weights: [N, 3, 3] barycentric weights of each corner in that face.
    """

    face: Array
    weights: Array

    def __getitem__(self, chosen: Array) -> Pieces:
        return Pieces(self.face[chosen], self.weights[chosen])

    def values(self, corners: Array) -> Array:
        """An attribute of the faces' corners [F, 3, C] at the pieces' corners [N, 3, C]."""
        values: Array = np.einsum("nij,njc->nic", self.weights, corners[self.face])
        return values


def whole(faces: Array) -> Pieces:
    """Every one of these faces (their numbers [N]) in one piece."""
    return Pieces(faces, np.broadcast_to(np.eye(3), (len(faces), 3, 3)))


def joined(several: list[Pieces]) -> Pieces:
    """All pieces of a list."""
    return Pieces(np.concatenate([p.face for p in several]), np.concatenate([p.weights for p in several]))


def split(pieces: Pieces, height: Array) -> tuple[Pieces, Pieces]:
    """Cut where a function that is linear on every piece is zero.

    Args:
        pieces: N triangles.
        height: [N, 3] the function at their corners.

    Returns:
        the pieces where it is negative, and those where it is positive (or zero everywhere).
    """
    positive = height > 0
    count = positive.sum(1)
    below = [pieces[np.asarray((height <= 0).all(1) & (height < 0).any(1))]]
    above = [pieces[np.asarray((height >= 0).all(1))]]
    mixed = (height < 0).any(1) & (height > 0).any(1)
    for alone in (1, 2):  # how many corners are positive; a corner at zero counts as negative
        chosen = mixed & (count == alone)
        apex = (positive if alone == 1 else ~positive)[chosen].argmax(1)
        order = (apex[:, None] + np.arange(3)) % 3
        w = np.take_along_axis(pieces.weights[chosen], order[..., None], 1)
        h = np.take_along_axis(height[chosen], order, 1)
        cuts = [_cut(w[:, 0], w[:, k], h[:, 0], h[:, k]) for k in (1, 2)]
        face = pieces.face[chosen]
        tip = Pieces(face, np.stack([w[:, 0], cuts[0], cuts[1]], 1))
        rest = joined(
            [
                Pieces(face, np.stack([cuts[0], w[:, 1], w[:, 2]], 1)),
                Pieces(face, np.stack([cuts[0], w[:, 2], cuts[1]], 1)),
            ]
        )
        (above if alone == 1 else below).append(tip)
        (below if alone == 1 else above).append(rest)
    return joined(below), joined(above)


def _cut(a: Array, b: Array, at_a: Array, at_b: Array) -> Array:
    """Where the function is zero between corners a and b [N, 3]."""
    t = (at_a / np.where(at_a == at_b, 1, at_a - at_b)).clip(0, 1)[:, None]
    between: Array = a * (1 - t) + b * t
    return between


def quartered(pieces: Pieces) -> Pieces:
    """Every piece as four of half its size."""
    a, b, c = pieces.weights.transpose(1, 0, 2)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    corners = ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))
    return joined([Pieces(pieces.face, np.stack(triangle, 1)) for triangle in corners])


def cut_part(part: Part, pieces: Pieces) -> Part:
    """The part made of these pieces; corners of faces stay the vertices they were."""
    area = np.abs(np.linalg.det(pieces.weights))
    pieces = pieces[area > 1e-12]
    corner = part.faces[pieces.face]  # [N, 3]: vertices of the face
    kept = pieces.weights.max(2) > 1 - 1e-9
    faces = np.take_along_axis(corner, pieces.weights.argmax(2), 1)
    made = np.einsum("nij,njc->nic", pieces.weights, part.vertices[corner])[~kept]
    places, place = np.unique(made, axis=0, return_inverse=True)
    faces[~kept] = len(part.vertices) + place.reshape(-1)

    def moved(layer: Layer) -> Layer:
        return layer if layer.uv is None else replace(layer, uv=pieces.values(layer.uv))

    return replace(
        part,
        vertices=np.concatenate([part.vertices, places]),
        faces=faces,
        layers=tuple(moved(layer) for layer in part.layers),
        colours=None if part.colours is None else pieces.values(part.colours).astype(np.float32),
        uv=None if part.uv is None else pieces.values(part.uv),
    )
