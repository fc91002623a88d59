"""Wavefront OBJ -> parts, one for every material."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from v3d.errors import V3DError
from v3d.meshes.reading.mtl import ObjMaterial, read_mtl
from v3d.meshes.reading.named_files import find_named, read_bytes
from v3d.meshes.reading.parts import Array, Layer, Part, fans, linear, plain


@dataclass
class _Text:
    """The lines of a file, by what they say; faces with how many `v` and `vt` stand above them."""

    v: list[str] = field(default_factory=list)
    vt: list[str] = field(default_factory=list)
    f: list[str] = field(default_factory=list)
    above: list[tuple[int, int]] = field(default_factory=list)
    materials: list[tuple[int, str]] = field(default_factory=list)
    libraries: list[str] = field(default_factory=list)
    others: set[str] = field(default_factory=set)


def read_obj(path: Path) -> tuple[list[Part], list[str]]:
    """The parts of an OBJ file, in the file's axes, and notes.

    Polygons become fans of triangles. Textures and materials are looked for beside the file wherever the
    maker's machine had them.

    Raises:
        V3DError: the file is broken.
    """
    notes: dict[str, None] = {}
    text = _lines(read_bytes(path).decode("utf-8-sig", "replace"))
    if text.others & {"l", "p"}:
        notes["points or lines are left out"] = None
    if text.others & {"curv", "surf"}:
        notes["curved surfaces are left out"] = None
    vertices, colours = _vertices(text.v)
    uv = _table(text.vt, "vt", 1)
    uv = np.pad(uv, ((0, 0), (0, max(0, 2 - uv.shape[1]))))[:, :2]
    corners, sizes = _corners(text, (len(vertices), len(uv)))
    faces, polygon = fans(corners, sizes)  # [F, 3, 2]: vertex and uv of each corner
    materials = _materials(text.libraries, path.parent, notes)
    starts = np.array([first for first, _ in text.materials] + [len(sizes)])
    of_face = np.repeat(np.arange(len(starts) - 1), np.diff(starts))[polygon]
    names = [name for _, name in text.materials]
    wanted = np.array([names.index(name) for name in names])  # a material may be taken up again
    parts = []
    mapped = (faces[..., 1] >= 0).all(1)
    for number in np.unique(wanted[of_face]):
        name = names[number]
        if name and name not in materials:
            notes[f"the material {name[:80]} is missing"] = None
        for with_uv in (False, True):
            chosen = faces[(wanted[of_face] == number) & (mapped == with_uv)]
            if len(chosen):
                part = _part(vertices, colours, uv, chosen, materials.get(name, ObjMaterial()))
                parts.append(replace(part, material=int(number)))
    return parts, list(notes)


def _lines(text: str) -> _Text:
    found = _Text(materials=[(0, "")])
    for line in text.replace("\\\r\n", " ").replace("\\\n", " ").splitlines():
        words = line.split(None, 1)
        if len(words) < 2:
            continue
        key, rest = words
        if key == "v":
            found.v.append(rest)
        elif key == "vt":
            found.vt.append(rest)
        elif key == "f":
            found.f.append(rest)
            found.above.append((len(found.v), len(found.vt)))
        elif key == "usemtl":
            found.materials.append((len(found.f), rest.strip()))
        elif key == "mtllib":
            found.libraries.append(rest.strip())
        else:
            found.others.add(key)
    return found


def _vertices(lines: list[str]) -> tuple[Array, Array | None]:
    """Positions [P, 3], and sRGB colours [P, 3] in [0, 1] or None."""
    table = _table(lines, "v", 3)
    columns = table.shape[1]
    if columns < 6:  # a fourth number is the weight of rational curves
        return table[:, :3], None
    colours = table[:, columns - 3 :] if columns == 7 else table[:, 3:6]
    if not np.isfinite(colours).all():
        raise V3DError("a vertex has a colour that is not a finite number")
    return table[:, :3], colours / 255 if colours.max(initial=0) > 1 else colours


def _table(lines: list[str], key: str, least: int) -> Array:
    """Lines of numbers -> [N, C]; lines are cut to the shortest."""
    lines = [line.partition("#")[0] for line in lines]
    widths = {len(line.split()) for line in lines}
    columns = min(widths, default=least)
    if columns < least:
        raise V3DError(f"a line of `{key}` has fewer than {least} numbers")
    if len(widths) == 1:
        values = np.array(" ".join(lines).split(), np.float64)
    else:
        values = np.array([x for line in lines for x in line.split()[:columns]], np.float64)
    return values.reshape(-1, columns)


def _corners(text: _Text, counts: tuple[int, int]) -> tuple[Array, Array]:
    """Vertex and uv (-1: none) of the polygons' corners [C, 2], and how many corners each polygon has [N]."""
    sizes = np.array([len(line.partition("#")[0].split()) for line in text.f], np.int64)
    words = " ".join(line.partition("#")[0] for line in text.f).split()
    split = [word.split("/") for word in words]
    corners = np.zeros((len(words), 2), np.int64)
    corners[:, 0] = [int(word[0]) for word in split]
    corners[:, 1] = [int(word[1]) if len(word) > 1 and word[1] else 0 for word in split]
    above = np.repeat(np.array(text.above, np.int64).reshape(-1, 2), sizes, axis=0)
    absent = corners == 0
    corners = np.where(corners < 0, above + corners, corners - 1)
    if absent[:, 0].any():
        raise V3DError("a face names vertex 0; OBJ counts from 1")
    corners[absent] = -1
    for k, kind in enumerate(("vertex", "texture coordinate")):
        wrong = (corners[:, k] >= counts[k]) | (corners[:, k] < (0 if k == 0 else -1))
        if wrong.any():
            raise V3DError(f"a face names {kind} {words[int(wrong.argmax())]} of {counts[k]}")
    return corners, sizes


def _materials(libraries: list[str], folder: Path, notes: dict[str, None]) -> dict[str, ObjMaterial]:
    materials: dict[str, ObjMaterial] = {}
    for library in dict.fromkeys(libraries):
        # The line is one name with spaces, or several names without.
        names = [library] if find_named(library, folder) else library.split()
        for name in names:
            path = find_named(name, folder)
            if path is None:
                notes[f"the material file {name[-80:]} is missing"] = None
            else:
                materials |= read_mtl(path, folder, notes)
    return materials


def _part(vertices: Array, colours: Array | None, uv: Array, faces: Array, material: ObjMaterial) -> Part:
    layer, cutoff = plain() if material.colour is None else plain(material.colour), None
    own = None
    if colours is not None:
        own = np.ones((len(vertices), 4), np.float32)
        own[:, :3] = linear(colours)
    if material.image is not None and faces[0, 0, 1] >= 0:
        at = uv[faces[..., 1]] * material.scale + material.offset
        wrap = "clamp" if material.clamp else "repeat"
        flipped = np.stack([at[..., 0], 1 - at[..., 1]], -1)
        layer, cutoff = Layer(np.ones(4), material.image, flipped, (wrap, wrap)), material.cutoff
        own = None  # programs write them beside a texture, which shows them already
    coloured = layer.image is not None or material.colour is not None or own is not None
    given = uv[faces[..., 1]] * (1, -1) + (0, 1) if faces[0, 0, 1] >= 0 else None
    return Part(
        vertices,
        np.ascontiguousarray(faces[..., 0]),
        (layer,),
        None if own is None else own[faces[..., 0]],
        cutoff,
        coloured,
        given,
    )
