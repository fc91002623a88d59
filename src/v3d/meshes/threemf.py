"""Meshes as 3MF, the printer's newer format: it states its unit and may have colours.

A 3MF file is a zip of one XML document, its pictures, and the relations between them (3MF core 1.3; textures
by the materials extension 1.2).
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np

from v3d.errors import V3DError
from v3d.files import atomic
from v3d.meshes.files import check_savable, to_print_axes
from v3d.meshes.look import PLAIN, Look, encoded, plain_text, suffix_of
from v3d.meshes.mesh import Mesh
from v3d.meshes.weld import weld, without_slivers

_MODEL = "3D/3dmodel.model"
_CONTENT_TYPES = """<?xml version="1.0" encoding="UTF-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
<Default Extension="png" ContentType="image/png"/><Default Extension="jpg" ContentType="image/jpeg"/>
</Types>
"""
_RELATION = """<?xml version="1.0" encoding="UTF-8"?>
<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
<Relationship Target="/{target}" Id="rel0" Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/{kind}"/>
</Relationships>
"""
_DOCUMENT = """<?xml version="1.0" encoding="UTF-8"?>
<model unit="millimeter" xml:lang="en-US"
 xmlns="http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
 xmlns:m="http://schemas.microsoft.com/3dmanufacturing/material/2015/02">
<metadata name="Application">V3D</metadata>
<resources>
{colours}<object id="1" type="model" name={name}><mesh>
<vertices>
{vertices}
</vertices>
<triangles>
{triangles}
</triangles>
</mesh></object>
</resources>
<build><item objectid="1"/></build>
</model>
"""


def save_3mf(mesh: Mesh, path: str | Path, look: Look = PLAIN) -> None:
    """Write a 3MF file: millimetres, z up, standing on z = 0, with the texture where the mesh has one.

    Vertices along the texture's seams are one in the file, so that a closed surface is closed.

    Args:
        mesh: in metres.
        path: of the .3mf file.
        look: its name, and whether the texture is JPEG.

    Raises:
        V3DError: the mesh has no faces with an area or its numbers are not finite, or the file cannot be
            written.
    """
    check_savable(mesh)
    places, faces, _ = weld(mesh)
    kept = without_slivers(faces)
    if not kept.any():
        raise V3DError("The mesh has no faces with an area, so there is nothing to print.")
    corners, picture, colours = mesh.faces.cpu().numpy()[kept], None, ""
    if mesh.uv is not None and mesh.texture is not None:
        data = encoded(mesh.texture, "jpeg" if look.jpeg else "png")
        picture = (f"3D/Textures/colour.{suffix_of(data)}", data)
        colours = _texture(mesh.uv.cpu().double().numpy(), picture[0])
        rows = np.concatenate([faces[kept], corners], 1).tolist()
        triangle = '<triangle v1="{}" v2="{}" v3="{}" pid="3" p1="{}" p2="{}" p3="{}"/>'
    else:
        rows, triangle = faces[kept].tolist(), '<triangle v1="{}" v2="{}" v3="{}"/>'
    document = _DOCUMENT.format(
        colours=colours,
        name=quoteattr(plain_text(look.name)),
        vertices="\n".join(
            f'<vertex x="{x:.9g}" y="{y:.9g}" z="{z:.9g}"/>' for x, y, z in to_print_axes(places).tolist()
        ),
        triangles="\n".join(triangle.format(*row) for row in rows),
    )
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
        _add(file, "[Content_Types].xml", _CONTENT_TYPES.encode())
        _add(file, "_rels/.rels", _RELATION.format(target=_MODEL, kind="3dmodel").encode())
        _add(file, _MODEL, document.encode())
        if picture is not None:
            relation = _RELATION.format(target=picture[0], kind="3dtexture")
            _add(file, "3D/_rels/3dmodel.model.rels", relation.encode())
            _add(file, *picture)


def _texture(uv: np.ndarray, picture: str) -> str:
    """The resources of the colours: the picture, and uv [P, 2], whose v runs up in 3MF."""
    kind = "image/png" if picture.endswith("png") else "image/jpeg"
    points = "\n".join(f'<m:tex2coord u="{u:.9g}" v="{1 - v:.9g}"/>' for u, v in uv.tolist())
    return (
        f'<m:texture2d id="2" path="/{picture}" contenttype="{kind}" '
        'tilestyleu="clamp" tilestylev="clamp"/>\n'
        f'<m:texture2dgroup id="3" texid="2">\n{points}\n</m:texture2dgroup>\n'
    )


def _add(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Without the time of day, so that the same mesh gives the same bytes."""
    file.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
