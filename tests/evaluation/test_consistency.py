"""Consistency of views: each number against another implementation of it, and its sense on known views."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from skimage.metrics import structural_similarity

from shapes import ball_views
from v3d import cli
from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.evaluation.consistency import (
    ConsistencyProtocol,
    compare_splats,
    consistency,
    depth_difference,
    sample_points,
)
from v3d.networks.perceptual import Perceptual
from v3d.objects.presets import PRESETS, Preset
from v3d.splats.fit import FitSettings
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import rasterize
from v3d.views import Views, save_views

SMALL = ConsistencyProtocol(size=48, views=4, samples=2000)


@pytest.fixture(scope="module")
def lpips() -> Perceptual:
    return Perceptual.load("lpips")


def tiny(iterations: int = 40) -> Preset:
    fit = FitSettings(iterations=iterations, densify=None)
    return replace(PRESETS["draft"], view_size=48, hull=32, gaussians=600, splats=fit)


def cloud(count: int = 300, seed: int = 0) -> Splats:
    g = torch.Generator().manual_seed(seed)
    return Splats(
        means=0.3 * torch.randn(count, 3, generator=g),
        quats=torch.randn(count, 4, generator=g),
        log_scales=torch.randn(count, 3, generator=g) * 0.3 - 3,
        logit_opacity=torch.randn(count, generator=g) + 2,
        rgb=torch.rand(count, 3, generator=g),
    )


def test_test_cameras_stand_among_the_given_ones() -> None:
    given = orbit(18, size=32, elevation=20, azimuth=40)
    cameras = ConsistencyProtocol().cameras(given)
    assert len(cameras) == 16 and (cameras.width, cameras.height) == (256, 256)
    torch.testing.assert_close(cameras.c2w[0], given.c2w[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(cameras.K[0], given.resized(256, 256).K[0], atol=1e-3, rtol=0)
    opposite = orbit(2, size=256, elevation=20, azimuth=40)
    torch.testing.assert_close(cameras.c2w[8], opposite.c2w[1], atol=1e-5, rtol=0)


def test_images_are_compared_as_mvgbench_does(lpips: Perceptual) -> None:
    """Its own calls on 8-bit images: OpenCV's PSNR, scikit-image's SSIM with its defaults."""
    cameras = orbit(3, size=48)
    a, b = cloud(seed=0), cloud(seed=1)
    found = compare_splats(a, b, cameras, SMALL, lpips)
    images = [(rasterize(s, cameras).over(1.0).clamp(0, 1) * 255).round().byte().numpy() for s in (a, b)]
    pairs = list(zip(*images, strict=True))
    assert found["cPSNR"] == pytest.approx(np.mean([cv2.PSNR(x, y) for x, y in pairs]), abs=1e-3)
    expected = np.mean([structural_similarity(x, y, channel_axis=2) for x, y in pairs])
    assert found["cSSIM"] == pytest.approx(expected, abs=1e-6)
    assert found["cLPIPS"] > 0.05 and found["CD"] > 0 and found["depth"] > 0
    same = compare_splats(a, a, cameras, SMALL, lpips)
    assert same["cPSNR"] == 100 and same["cSSIM"] == 1 and same["depth"] == 0
    assert same["cLPIPS"] == pytest.approx(0, abs=1e-6) and same["CD"] < found["CD"] / 1.5


def test_depth_counts_where_either_shows_something() -> None:
    a, b = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4)
    a[:, 0, 0], b[:, 0, 0], a[:, 1, 1] = 2.0, 2.5, 1.0  # differences of 0.5 and 1 over two pixels
    a[:, 3, 3] = 1e-4  # nothing, in 16 bits
    assert depth_difference(a, b) == pytest.approx(0.75)


def test_points_follow_the_gaussians() -> None:
    """A thousand points of one stretched, turned Gaussian have its covariance."""
    one = cloud(1)
    one = replace(
        one, log_scales=torch.tensor([[0.5, 0.2, 0.05]]).log(), quats=torch.tensor([[0.9, 0.1, 0.4, 0.2]])
    )
    points = sample_points(one, 20_000, seed=0)
    R = Rotation.from_quat([0.1, 0.4, 0.2, 0.9]).as_matrix()
    expected = R @ np.diag([0.25, 0.04, 0.0025]) @ R.T
    np.testing.assert_allclose(np.cov(points.T), expected, atol=0.01)
    np.testing.assert_allclose(points.mean(0), one.means[0].numpy(), atol=0.01)
    many = sample_points(cloud(300), 1200, seed=0)  # centres and three draws each, every one once
    assert len(np.unique(many, axis=0)) == 1200
    assert all((many == c).all(1).any() for c in cloud(300).means.double().numpy())


def test_views_of_one_ball_agree_and_of_two_do_not(lpips: Perceptual) -> None:
    cameras = orbit(16, size=48)
    true = ball_views(cameras, 0.6)
    small = ball_views(cameras, 0.45)
    odd = torch.arange(16) % 2 == 1
    torn = Views(
        torch.where(odd[:, None, None, None], small.rgb, true.rgb),
        torch.where(odd[:, None, None], small.alpha, true.alpha),
        cameras,
    )
    good, bad = (consistency(v, SMALL, tiny(150), lpips) for v in (true, torn))
    assert good["cPSNR"] > bad["cPSNR"] + 3 and good["cSSIM"] > bad["cSSIM"] + 0.1
    assert good["cLPIPS"] < 0.5 * bad["cLPIPS"] and good["depth"] < 0.5 * bad["depth"]
    assert bad["CD"] == pytest.approx(30, rel=0.3)  # 2 * (0.6 - 0.45), and what a short fit adds
    assert good["CD"] < 0.6 * bad["CD"] and good["F"] > bad["F"]


def test_neither_scale_nor_place_of_the_cameras_matters(lpips: Perceptual) -> None:
    views = ball_views(orbit(6, size=48), 0.6)
    c2w = views.cameras.c2w.clone()
    c2w[:, :3, 3] = 10 * c2w[:, :3, 3] + 5
    moved = replace(views, cameras=replace(views.cameras, c2w=c2w))
    here, there = (consistency(v, SMALL, tiny(), lpips) for v in (views, moved))
    assert there["cPSNR"] == pytest.approx(here["cPSNR"], abs=1)
    assert there["CD"] == pytest.approx(here["CD"], rel=0.05)


def test_the_command_and_what_it_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "draft", tiny())
    views = ball_views(orbit(6, size=48), 0.6)
    save_views(views, tmp_path / "run")
    save_views(views[[0, 1, 2]], tmp_path / "few")
    out = str(tmp_path / "out")
    command = ["evaluate", "consistency", str(tmp_path / "run"), "--quality", "draft", "--size", "48"]
    assert cli.main([*command, "--out", out]) == 0
    (row,) = json.loads((tmp_path / "out/report.json").read_text())["objects"]
    assert set(row["scores"]["views"]) == {"cPSNR", "cSSIM", "cLPIPS", "depth", "CD", "F"}
    assert all(math.isfinite(value) for value in row["scores"]["views"].values())
    assert cli.main(["evaluate", "consistency", str(tmp_path / "few")]) == 2
    assert "3 views are too few" in capsys.readouterr().err
    with pytest.raises(V3DError, match="mask of view 0, 1, 2 is empty"):
        empty = replace(views, alpha=torch.zeros_like(views.alpha))
        consistency(empty, SMALL, tiny(), Perceptual.load("lpips"))
