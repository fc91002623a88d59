"""Meshes as Wavefront OBJ with MTL and PNG, in the axes that `v3d.meshes.files` states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from v3d.files import atomic
from v3d.meshes.files import check_savable, texture_to_uint8, to_file_axes
from v3d.meshes.mesh import Mesh


def save_obj(mesh: Mesh, path: str | Path) -> None:
    """Write `path` (.obj) and, for a textured mesh, `.mtl` and `.png` of the same stem beside it.

    Raises:
        V3DError: the mesh has no faces or its numbers are not finite, or a file cannot be written.
    """
    check_savable(mesh)
    path = Path(path)
    lines = [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in to_file_axes(mesh.vertices).tolist()]
    lines += [f"vn {x:.6g} {y:.6g} {z:.6g}" for x, y, z in to_file_axes(mesh.vertex_normals).tolist()]
    corner = "{0}//{0}"
    if mesh.uv is not None and mesh.texture is not None:
        lines.insert(0, f"mtllib {path.stem}.mtl")
        # OBJ's v runs up. In double precision 1 - v loses nothing of a float32.
        lines += [f"vt {u:.9g} {1 - v:.12g}" for u, v in mesh.uv.tolist()]
        lines.append("usemtl texture")
        corner = "{0}/{0}/{0}"
        image = Image.fromarray(texture_to_uint8(mesh.texture))
        with atomic(path.with_suffix(".png")) as temporary:
            image.save(temporary)
        material = f"newmtl texture\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {path.stem}.png\n"
        with atomic(path.with_suffix(".mtl")) as temporary:
            temporary.write_text(material)
    lines += ["f " + " ".join(corner.format(i) for i in face) for face in (mesh.faces + 1).tolist()]
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def save_retextured_obj(given: Path, path: Path, images: Mapping[int, str]) -> None:
    """An OBJ file again, line by line, with images for its materials.

    Args:
        given: the file; all its faces have texture coordinates.
        path: of the copy, whose `.mtl` is written beside it.
        images: number of a material, in the order in which the file first takes them up -> name of its image
            file beside `path`. 0 is that of faces above the first `usemtl`.

    Raises:
        V3DError: a file cannot be written.
    """
    names = {0: "texture"}
    lines = [f"mtllib {path.stem}.mtl", "usemtl texture"]
    for line in given.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        key, *rest = line.split(None, 1) or [""]
        if key == "usemtl":
            names[len(names)] = rest[0].strip() if rest else ""
        if key != "mtllib":
            lines.append(line)
    material = "newmtl {}\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\nillum 1\nmap_Kd {}\n"
    with atomic(path.with_suffix(".mtl")) as temporary:
        temporary.write_text("\n".join(material.format(names[m], image) for m, image in images.items()))
    with atomic(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")
