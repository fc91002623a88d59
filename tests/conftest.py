"""Small textured meshes as files, orbits rendered from them by V3D's renderer, and small networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh

from shapes import textured
from suite import pytest_collection_modifyitems, pytest_report_teststatus, pytest_sessionstart  # noqa: F401
from v3d.data.render_orbits import render_meshes
from v3d.data.settings import RenderSettings
from v3d.meshes.glb import save_glb
from v3d.networks.pixelnerf import PixelNeRF, PixelNeRFConfig
from v3d.training.export import export_pixelnerf
from v3d.training.recipe import VideoRecipe
from v3d.training.session import train


@pytest.fixture(scope="session")
def meshes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four textured GLB files, in a folder and a folder in it."""
    folder = tmp_path_factory.mktemp("meshes")
    shapes = {
        "ball": trimesh.creation.icosphere(subdivisions=2),
        "pillar": trimesh.creation.box(extents=(0.5, 0.7, 1.4)),
        "more/cone": trimesh.creation.cone(radius=0.6, height=1.2),
        "more/ring": trimesh.creation.annulus(r_min=0.3, r_max=0.6, height=0.5),
    }
    for seed, (name, shape) in enumerate(shapes.items()):
        save_glb(textured(shape, seed), folder / f"{name}.glb")
    return folder


@pytest.fixture(scope="session")
def orbits(meshes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight orbits in three shards, at 64 pixels."""
    out = tmp_path_factory.mktemp("orbits")
    render_meshes([meshes], out, RenderSettings(rounds=2, per_shard=3, size=64))
    return out


@pytest.fixture(scope="session")
def nerf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small untrained PixelNeRF."""
    folder = tmp_path_factory.mktemp("pixelnerf")
    torch.manual_seed(0)
    net = PixelNeRF(PixelNeRFConfig(size=32, width=64, depth=1, grid=8, planes=4, samples=4, drawn=32))
    export_pixelnerf(net, folder)
    return folder


@pytest.fixture
def tiny(orbits: Path, nerf: Path) -> VideoRecipe:
    """A recipe of a few steps that logs every step's loss."""
    return replace(
        VideoRecipe.smoke(),
        data=orbits,
        pixelnerf=nerf,
        steps=8,
        batch=3,
        views=3,
        all_views=5,
        all_views_after=0.7,
        warmup=2,
        log_steps=1,
    )


@pytest.fixture
def begun(tiny: VideoRecipe, tmp_path: Path) -> Path:
    """Weights after a few steps.

    Most gradients of a new network are zero, and AdamW makes whole steps of their rounding.
    """
    train(tiny, tmp_path / "begun", device="cpu")
    return tmp_path / "begun/model"
