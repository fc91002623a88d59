"""OBJ, PLY and STL as other programs write them: geometry, colours, and what is told of what is missing."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from made_gltf import AT, BLUE, CORNERS, GREEN, RED, YELLOW, check, colours_at, light, quarters, srgb
from v3d.errors import V3DError
from v3d.meshes.files import load_mesh, read_mesh

FOUR = [RED, GREEN, BLUE, YELLOW]
SQUARE = "v -.5 -.5 0\nv .5 -.5 0\nv .5 .5 0\nv -.5 .5 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
MAPPED = "mtllib a.mtl\n" + SQUARE + "usemtl m\nf 1/1 2/2 3/3 4/4\n"


def write(folder: Path, obj: str, mtl: str = "", texture: str = "tex.png") -> Path:
    (folder / "a.obj").write_text(obj)
    if mtl:
        (folder / "a.mtl").write_text(mtl)
        Image.fromarray(quarters()).save(folder / texture)
    return folder / "a.obj"


@pytest.mark.parametrize(
    "line",
    [
        "map_Kd tex.png",
        "map_Kd -s 1 1 1 -o 0 0 0 -blendu on -bm 0.5 -clamp off tex.png",
        r"map_Kd C:\Users\me\textures\TEX.png",
        "map_kd /elsewhere/project/maps/tex.png",
        "\tmap_Kd\ttex.png",
    ],
)
def test_a_texture_is_found_however_it_is_named(tmp_path: Path, line: str) -> None:
    read = read_mesh(write(tmp_path, MAPPED, f"newmtl m\nKd 0.8 0.8 0.8\n{line}\n"))
    check(colours_at(read.mesh, *AT), FOUR)
    assert read.notes == ()


def test_scale_and_offset_of_a_map_are_kept(tmp_path: Path) -> None:
    mesh = load_mesh(
        write(tmp_path, MAPPED, "newmtl m\nmap_Kd -s .5 .5 1 -o .5 0 my tex.png\n", "my tex.png")
    )
    check(colours_at(mesh, *AT), YELLOW)  # the lower right quarter alone
    mesh = load_mesh(write(tmp_path, MAPPED, "newmtl m\nmap_Kd -s 2 1 tex.png\n"))
    check(colours_at(mesh, (-0.4, 0.25), (-0.1, 0.25), (0.1, 0.25), (0.4, 0.25)), [RED, GREEN, RED, GREEN])


def test_what_is_missing_is_said_and_is_no_colour(tmp_path: Path) -> None:
    read = read_mesh(write(tmp_path, MAPPED, r"newmtl m" + "\nKd .8 .8 .8\n" + r"map_Kd D:\x\gone.png"))
    assert read.mesh.texture is None
    assert read.notes == (r"the texture D:\x\gone.png is missing",)
    read = read_mesh(write(tmp_path, MAPPED.replace("a.mtl", "b.mtl")))
    assert read.notes == ("the material file b.mtl is missing", "the material m is missing")


def test_a_map_of_transparency_cuts(tmp_path: Path) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    mesh = load_mesh(write(tmp_path, MAPPED, "newmtl m\nmap_Kd tex.png\nmap_d mask.png\n"))
    check(colours_at(mesh, *AT), [[1, 1, 1], GREEN, [1, 1, 1], YELLOW])


def test_polygons_negative_indices_and_materials_by_face(tmp_path: Path) -> None:
    """A hexagon that counts backwards, and a triangle of another material below it."""
    angles = np.arange(6) * np.pi / 3
    lines = ["mtllib a.mtl", *(f"v {np.cos(a) / 4:.9f} {np.sin(a) / 4:.9f} 0" for a in angles)]
    lines += ["usemtl lower red", "f -6 -5 -4 \\", " -3 -2 -1", "v -.1 -.5 0", "v .1 -.5 0", "v 0 -.3 0"]
    lines += ["usemtl blue", "f 7 8 9 # a remark", "p 1 2"]
    (tmp_path / "a.mtl").write_text("newmtl lower red\nKd 1 0 0\nnewmtl blue\nKd 0 0 .5\n")
    read = read_mesh(write(tmp_path, "\r\n".join(lines)))
    assert len(read.mesh.faces) == 5
    expected = 6 * np.sqrt(3) / 4 / 16 + 0.02
    assert float(read.mesh.face_areas.sum()) == pytest.approx(expected, rel=1e-5)
    check(colours_at(read.mesh, (0, 0), (0.1, 0.1), (0, -0.4)), [[1, 0, 0], [1, 0, 0], [0, 0, 0.5]])
    assert read.notes == ("points or lines are left out",)


@pytest.mark.parametrize("scale", [1, 255])
def test_vertex_colours_of_an_obj(tmp_path: Path, scale: float) -> None:
    rows = ["v -.5 -.5 0 1 .5 0", "v .5 -.5 0 .9 .6 0", "v .5 .5 0 .9 .6 0", "v -.5 .5 0 1 .5 0"]
    rows = [" ".join([*row.split()[:4], *(str(float(x) * scale) for x in row.split()[4:])]) for row in rows]
    mesh = load_mesh(write(tmp_path, "\n".join([*rows, "f 1 2 3 4"])))
    check(colours_at(mesh, (-0.49, 0), (0.49, 0)), [[1, 0.5, 0], [0.9, 0.6, 0]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SQUARE + "f 1 2 9", "names vertex 9 of 4"),
        (SQUARE + "f 1 2 -5", "names vertex -5 of 4"),
        (SQUARE + "f 0 1 2", "names vertex 0"),
        (SQUARE + "f 1/1 2/2 3/7", "texture coordinate 3/7 of 4"),
        ("v 0 0\nv 1 0\nv 0 1\nf 1 2 3", "fewer than 3 numbers"),
        ("v 0 0 0\nv 1 nan 0\nv 0 1 0\nf 1 2 3", "not finite"),
        ("v 0 0 0\nv 1 x 0\nv 0 1 0\nf 1 2 3", "broken"),
        ("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3", "has an area"),
        (SQUARE + "l 1 2", "no triangles"),
    ],
)
def test_a_broken_obj_says_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(V3DError, match=rf"^a\.obj .*{words}"):
        load_mesh(write(tmp_path, text))
    nan = MAPPED.replace("vt 1 0", "vt nan 0")
    with pytest.raises(V3DError, match="texture coordinates that are not finite"):
        load_mesh(write(tmp_path, nan, "newmtl m\nmap_Kd tex.png\n"))


def ply(folder: Path, vertex: str, rows: list[str], faces: list[str], face: str = "", note: str = "") -> Path:
    head = f"ply\nformat ascii 1.0\n{note}element vertex {len(rows)}\n"
    head += "".join(f"property {p}\n" for p in ("float x", "float y", "float z", *vertex.split(", ")) if p)
    head += f"element face {len(faces)}\nproperty list uchar int vertex_indices\n{face}end_header\n"
    (folder / "a.ply").write_text(head + "\n".join(rows + faces) + "\n")
    return folder / "a.ply"


def upright(corner: np.ndarray) -> str:
    """A corner of the square, in the axes of PLY (z up, front towards +x)."""
    x, y, _ = corner
    return f"0 {x} {y}"


@pytest.mark.parametrize(("kind", "scale"), [("uchar", 255), ("float", 1), ("ushort", 65535)])
def test_colours_of_ply_vertices(tmp_path: Path, kind: str, scale: int) -> None:
    colours = ["0.5 0.4 0.8", "0.5 0.4 0.8", "0.6 0.4 0.7", "0.6 0.4 0.7"]
    rows = []
    for corner, colour in zip(CORNERS, colours, strict=True):
        numbers = [float(x) * scale for x in colour.split()]
        rows.append(upright(corner) + "".join(f" {x:g}" for x in numbers))
    vertex = f"{kind} red, {kind} green, {kind} blue"
    for faces in (["3 0 1 2", "3 0 2 3"], ["4 0 1 2 3"]):
        mesh = load_mesh(ply(tmp_path, vertex, rows, faces))
        check(colours_at(mesh, (0, -0.495), (0.3, 0.495)), [[0.5, 0.4, 0.8], [0.6, 0.4, 0.7]])


def test_uv_of_a_plys_corners(tmp_path: Path) -> None:
    Image.fromarray(quarters()).save(tmp_path / "skin.png")
    faces = ["3 0 1 2 6 0 0 1 0 1 1", "3 0 2 3 6 0 0 1 1 0 1"]
    face, note = "property list uchar float texcoord\n", "comment TextureFile skin.png\n"
    mesh = load_mesh(ply(tmp_path, "", [upright(c) for c in CORNERS], faces, face, note))
    check(colours_at(mesh, *AT), FOUR)
    (tmp_path / "skin.png").unlink()
    read = read_mesh(tmp_path / "a.ply")
    assert read.mesh.texture is None and read.notes == ("the texture skin.png is missing",)


def test_claims_of_a_ply_are_checked(tmp_path: Path) -> None:
    path = ply(tmp_path, "", [upright(c) for c in CORNERS], ["3 0 1 2"])
    path.write_text(path.read_text().replace("vertex 4", "vertex 4000000000"))
    with pytest.raises(V3DError, match="more than it has bytes"):
        load_mesh(path)
    with pytest.raises(V3DError, match="names vertex 7 of 4"):
        load_mesh(ply(tmp_path, "", [upright(c) for c in CORNERS], ["3 0 1 7"]))


@pytest.mark.parametrize("maker", ["plain", "viscam", "magics"])
def test_an_stl_and_its_colours(tmp_path: Path, maker: str) -> None:
    red, green, blue = 31, 8, 3
    bits = {
        "plain": [0, 0],
        "viscam": [1 << 15 | red << 10 | green << 5 | blue, 0],
        "magics": [red | green << 5 | blue << 10, 1 << 15],
    }[maker]
    head = b"COLOR=\xff\xff\xff\xff" if maker == "magics" else b"made by hand"
    triangles = CORNERS[[[0, 1, 2], [0, 2, 3]]][..., [2, 0, 1]].astype("<f4")
    body = b"".join(
        np.zeros(3, "<f4").tobytes() + t.tobytes() + struct.pack("<H", b)
        for t, b in zip(triangles, bits, strict=True)
    )
    (tmp_path / "a.stl").write_bytes(head.ljust(80) + struct.pack("<I", 2) + body)
    mesh = load_mesh(tmp_path / "a.stl")
    torch.testing.assert_close(mesh.face_areas, torch.tensor([0.5, 0.5]))
    if maker == "plain":
        assert mesh.texture is None
    else:
        check(colours_at(mesh, (0.25, -0.1), (-0.25, 0.1)), [np.array([31, 8, 3]) / 31, [1, 1, 1]])


def test_light_is_the_inverse_of_srgb() -> None:
    np.testing.assert_allclose(srgb(light(np.linspace(0, 1, 9))), np.linspace(0, 1, 9), atol=1e-6)
