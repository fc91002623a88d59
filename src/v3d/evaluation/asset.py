"""A mesh file against a true one: shape, and renders from held-out cameras."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from v3d.cameras import Cameras
from v3d.evaluation.aligned import AlignedProtocol, compare_aligned
from v3d.evaluation.assets import image_scores
from v3d.evaluation.protocol import RECONSTRUCTION
from v3d.evaluation.report import report_one
from v3d.evaluation.settings import EvaluateAsset
from v3d.meshes.files import read_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.views import Views


def run(command: EvaluateAsset) -> dict[str, Any]:
    """Compare the meshes as they stand, or each put into the protocol's ball; returns the report.

    Raises:
        V3DError: a file is missing or no mesh.
    """
    protocol = replace(RECONSTRUCTION, size=command.size or RECONSTRUCTION.size)
    read, true = read_mesh(command.mesh), read_mesh(command.truth)
    shift = torch.tensor(read.origin, dtype=torch.float64) - torch.tensor(true.origin, dtype=torch.float64)
    mesh, truth = replace(read.mesh, vertices=(read.mesh.vertices + shift).float()), true.mesh
    if command.alignment == "icp":
        return _aligned(command, mesh, truth)
    if command.alignment == "ball":
        mesh, truth = protocol.place(mesh), protocol.place(truth)
    scores: dict[str, dict[str, float]] = {"true mesh": {}, "mesh": {}}
    for name, cameras in protocol.held_out_cameras().items():
        true_views = _unlit(truth, cameras)
        scores["true mesh"] |= image_scores(name, true_views.rgb, true_views)
        scores["mesh"] |= image_scores(name, _unlit(mesh, cameras).rgb, true_views)
    scores["true mesh"] |= protocol.compare(truth, truth)
    scores["mesh"] |= protocol.compare(mesh, truth)
    about = {"truth": str(command.truth), "alignment": command.alignment, "protocol": protocol.as_dict()}
    return report_one("Asset", command.mesh, scores, command.out, about)


def _aligned(command: EvaluateAsset, mesh: Mesh, truth: Mesh) -> dict[str, Any]:
    protocol = AlignedProtocol()
    scores = {name: compare_aligned(m, truth, protocol) for name, m in (("true mesh", truth), ("mesh", mesh))}
    about = {"truth": str(command.truth), "alignment": "icp", "protocol": asdict(protocol)}
    return report_one("Asset", command.mesh, scores, command.out, about)


def _unlit(mesh: Mesh, cameras: Cameras) -> Views:
    image = render(mesh, cameras, supersample=3)
    return Views(image.rgb, image.alpha, cameras)
