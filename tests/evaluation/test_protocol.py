from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from v3d.data.variants import OrbitVariant, render_orbit
from v3d.evaluation.comparison import compare_views
from v3d.evaluation.protocol import GENERATION, RECONSTRUCTION, perturb
from v3d.evaluation.testset import TestObject
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light
from v3d.metrics import psnr

SMALL = replace(RECONSTRUCTION, size=48)


@pytest.fixture
def pillar(meshes: dict[str, Mesh]) -> TestObject:
    return TestObject("pillar", meshes["pillar"], palette=False, real_scan=False)


def test_the_ball_protocol_fills_a_ball_of_its_radius_wherever_the_object_was(pillar: TestObject):
    placed = SMALL.place(pillar.mesh).vertices
    assert float(placed.norm(dim=-1).max()) == pytest.approx(0.8, abs=1e-5)
    moved = replace(pillar.mesh, vertices=pillar.mesh.vertices * 3 + torch.tensor([5.0, -1.0, 2.0]))
    torch.testing.assert_close(SMALL.place(moved).vertices, placed, atol=1e-5, rtol=0)


def test_held_out_cameras_are_none_of_the_orbits():
    centers = SMALL.cameras().centers
    for name, cameras in SMALL.held_out_cameras().items():
        assert len(cameras) == 18
        nearest = torch.cdist(cameras.centers, centers).amin(1)
        angle = 2 * torch.rad2deg(torch.asin(nearest / 4))
        assert angle.min() > 9.9
        height = torch.rad2deg(torch.asin(cameras.centers[:, 2] / 2))
        torch.testing.assert_close(
            height, torch.full((18,), 20.0 if name == "above" else 0.0), atol=1e-3, rtol=0
        )


def test_the_photo_protocol_is_the_training_orbits_law(pillar: TestObject):
    protocol = replace(GENERATION, size=48, supersample=2)
    variant = OrbitVariant(light=Light(torch.tensor(protocol.light), protocol.ambient))
    expected = render_orbit(pillar.mesh, variant, size=48)
    torch.testing.assert_close(protocol.true_orbit(pillar).rgb, expected.rgb)
    assert (protocol.true_orbit(pillar).alpha[:, 0] == 0).all()  # nothing touches the frame


def test_perturbed_views_disagree_a_little_and_repeatably(pillar: TestObject):
    truth = SMALL.true_orbit(pillar)
    views = perturb(truth, seed=3)
    assert torch.equal(views.rgb, perturb(truth, seed=3).rgb)
    assert not torch.equal(views.rgb, perturb(truth, seed=4).rgb)
    scores = compare_views(views, truth)
    assert 18 < scores["psnr"].mean() < 32 and scores["mask_iou"].mean() > 0.85
    ground = truth.alpha[:, :4, :4]
    assert (ground == 0).all() and views.alpha[:, :4, :4].max() == 0
    assert (
        float(psnr(views.rgb[:, :4, :4], torch.ones(18, 4, 4, 3)).min()) > 35
    )  # ground stays white, but for noise
