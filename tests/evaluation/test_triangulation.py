"""COLMAP's points under known cameras, on a textured box."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import trimesh

from shapes import textured
from v3d.cameras import around
from v3d.evaluation.triangulation import triangulated
from v3d.meshes.rendering import render
from v3d.views import Views

pytest.importorskip("pycolmap")


@pytest.fixture(scope="module")
def views() -> Views:
    mesh = textured(trimesh.creation.box(extents=(0.9, 0.9, 0.9)), 0, cells=40)
    cameras = around([0, 12, 24, 36], size=160, elevation=15)
    image = render(mesh, cameras, supersample=2)
    return Views(image.rgb, image.alpha, cameras)


def test_true_views_register_and_others_do_not(views: Views) -> None:
    true = triangulated(views)
    assert true["colmap.registered"] == 1 and true["colmap.points"] > 40
    assert 0 < true["colmap.error"] < 0.3
    assert true == triangulated(views)
    # The same pictures with each other's cameras fit nowhere. (In reversed order they would fit a world whose
    # depth is turned inside out.)
    wrong = triangulated(replace(views, cameras=views.cameras[[1, 3, 0, 2]]))
    assert wrong["colmap.registered"] == 0 and wrong["colmap.points"] < 0.1 * true["colmap.points"]
    plain = triangulated(replace(views, rgb=torch.ones_like(views.rgb)))
    assert plain["colmap.registered"] == 0 and plain["colmap.points"] == 0
    assert math.isnan(plain["colmap.error"])
