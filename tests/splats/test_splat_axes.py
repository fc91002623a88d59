"""Axes of files of Gaussians: turned without losing a bit, and never mirrored."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from splat_scenes import cloud

from v3d.errors import V3DError
from v3d.splats.files.axes import WORLD, checked_axes, turned
from v3d.splats.files.ply import load_ply, save_ply
from v3d.splats.files.read import read_splats
from v3d.splats.gaussians import Splats, rotations

EVERY = [
    "".join(letters)
    for pairs in itertools.permutations(("RL", "UD", "FB"))
    for letters in itertools.product(*pairs)
]
TO_WORLD = {  # of a unit step in a file's direction: front is +x, left +y, up +z
    "F": (1, 0, 0),
    "B": (-1, 0, 0),
    "L": (0, 1, 0),
    "R": (0, -1, 0),
    "U": (0, 0, 1),
    "D": (0, 0, -1),
}


def covariances(splats: Splats) -> torch.Tensor:
    half = rotations(splats.quats.double()) * splats.scales.double()[:, None, :]
    return half @ half.mT


@pytest.mark.parametrize("axes", EVERY)
def test_means_and_covariances_turn_by_the_matrix_that_the_letters_say(axes: str) -> None:
    splats = cloud(20)
    matrix = torch.tensor([TO_WORLD[letter] for letter in axes], dtype=torch.float64).T  # file -> world
    there = turned(splats, axes, WORLD)
    assert torch.allclose(there.means.double(), splats.means.double() @ matrix.T, atol=0)
    assert torch.allclose(covariances(there), matrix @ covariances(splats) @ matrix.T, atol=1e-7)


@pytest.mark.parametrize("axes", EVERY)
def test_there_and_back_are_the_same_bits(axes: str) -> None:
    splats = cloud(20)
    back = turned(turned(splats, WORLD, axes), axes, WORLD)
    for name in ("means", "quats", "log_scales", "logit_opacity", "rgb"):
        assert torch.equal(getattr(back, name), getattr(splats, name)), name


def test_a_ply_file_keeps_every_bit(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", cloud(50))
    first = load_ply(tmp_path / "a.ply")
    save_ply(tmp_path / "b.ply", first)
    second = load_ply(tmp_path / "b.ply")
    for name in ("means", "log_scales", "logit_opacity"):
        assert torch.equal(getattr(second, name), getattr(cloud(50), name)), name
    assert torch.allclose(second.quats, first.quats, atol=1e-7)  # made unit vectors, twice


def test_files_of_older_versions_stand_in_the_world(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", turned(cloud(5), "RDF", WORLD))  # so that the world is what is written
    text = (tmp_path / "a.ply").read_bytes()
    new, old = b"V3D: x right, y down, z front (RDF)", b"V3D: z up, front towards +x"
    (tmp_path / "old.ply").write_bytes(text.replace(new, old))
    assert torch.equal(load_ply(tmp_path / "old.ply").means, cloud(5).means)
    (tmp_path / "foreign.ply").write_bytes(text.replace(new, b"made elsewhere"))
    x, y, z = cloud(5).means.T
    assert torch.equal(read_splats(tmp_path / "foreign.ply").splats.means, torch.stack([z, -x, -y], -1))
    assert torch.equal(read_splats(tmp_path / "foreign.ply", axes="flu").splats.means, cloud(5).means)


@pytest.mark.parametrize("axes", ["", "RD", "RLU", "XYZ", "RDFF"])
def test_other_axes_are_refused(axes: str) -> None:
    with pytest.raises(V3DError, match="There are no axes"):
        checked_axes(axes)
