"""Quads in place of triangles, by QuadriFlow (Huang et al. 2018; the extra `quads`)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from v3d.distribution import install_hint
from v3d.errors import V3DError
from v3d.meshes.mesh import Mesh
from v3d.meshes.weld import weld, without_slivers

# The library prints, and ends the process where a surface is too much for it: it gets one of its own.
_PROGRAM = """
import sys, numpy
from pyQuadriFlow.pyQuadriFlow import pyquadriflow
given = numpy.load(sys.argv[1])
made = pyquadriflow(int(sys.argv[3]), 0, given["vertices"].tolist(), given["faces"].tolist(), *[False] * 5)
numpy.savez(sys.argv[2], vertices=made["vertices"], faces=made["faces"])
"""
_SECONDS = 600


def check_quads() -> None:
    """See that QuadriFlow is there.

    Raises:
        V3DError: it is not installed.
    """
    if importlib.util.find_spec("pyQuadriFlow") is None:
        raise V3DError(f"Quads need QuadriFlow; run: {install_hint('quads')}")


def quad_mesh(mesh: Mesh, quads: int) -> Mesh:
    """The surface in about so many quads along its curvature, each as two triangles one after the other.

    The second triangle starts with the edge that the first ends with: (a, b, c) and (a, c, d). Without
    texture; closed surfaces mostly stay closed. Takes about a second for every thousand faces.

    Args:
        mesh: any triangles.
        quads: at least 100 make sense.

    Raises:
        V3DError: QuadriFlow is not installed, or finds no quads for this surface.
    """
    check_quads()
    places, faces, _ = weld(mesh)
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npz"
        np.savez(given, vertices=places.astype(np.float32), faces=faces[without_slivers(faces)])
        command = [sys.executable, "-c", _PROGRAM, str(given), str(made), str(quads)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_SECONDS)
            with np.load(made, allow_pickle=False) as found:
                vertices, corners = found["vertices"], found["faces"].astype(np.int64)
        except (OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
            raise V3DError("QuadriFlow finds no quads for this surface; leave --quads out.") from error
    halves = np.stack([corners[:, [0, 1, 2]], corners[:, [0, 2, 3]]], 1).reshape(-1, 3)
    return Mesh(torch.from_numpy(vertices).float(), torch.from_numpy(halves))


def quad_pairs(faces: Tensor) -> Tensor:
    """Which triangles [F, 3] of `quad_mesh` still are one quad [Q, 2] after an unwrap, which may cut some."""
    first, second = faces[0::2], faces[1::2]
    whole = (first[:, 0] == second[:, 0]) & (first[:, 2] == second[:, 1])
    number = whole.nonzero()[:, 0] * 2
    return torch.stack([number, number + 1], 1)
