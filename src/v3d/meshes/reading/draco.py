"""Geometry that is compressed with Draco, by the package DracoPy (the extra `draco`)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from v3d.distribution import install_hint
from v3d.errors import V3DError
from v3d.meshes.reading.parts import Array


@dataclass(frozen=True)
class Decoded:
    """What was compressed: faces [F, 3] int64, and attributes [P, C] by their glTF names."""

    faces: Array
    attributes: dict[str, Array]


def decode_draco(data: bytes, ids: dict[str, int]) -> Decoded:
    """Decompress a primitive.

    Args:
        data: the compressed bytes.
        ids: number of each attribute in them, by its glTF name.

    Raises:
        V3DError: DracoPy is not installed.
    """
    try:
        import DracoPy
    except ImportError:
        raise V3DError(
            f"its geometry is compressed with Draco; install the decoder with {install_hint('draco')},"
            " or save it without compression"
        ) from None
    mesh = DracoPy.decode(data)
    names = {number: name for name, number in ids.items()}
    return Decoded(
        np.asarray(mesh.faces, np.int64).reshape(-1, 3),
        {names[a["unique_id"]]: np.asarray(a["data"]) for a in mesh.attributes if a["unique_id"] in names},
    )
