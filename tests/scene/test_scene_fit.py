from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from room_scene import rendered, ring
from torch import Tensor

from v3d.metrics import psnr
from v3d.scene.fit import CLEAR, FAR, NEAR, SceneFitSettings, _hidden, fit_scene, initial_scene
from v3d.scene.sweep import sweep_depth
from v3d.splats.fit import FitSettings, _shuffled, fit
from v3d.splats.gaussians import Splats
from v3d.splats.rasterize import rasterize
from v3d.views import Views

FEW = SceneFitSettings(points=2500, fit=FitSettings(iterations=150, opacity=0.0, densify=None))


@pytest.fixture(scope="module")
def shots() -> tuple[Views, Tensor]:
    """Nine views of 48 px along the ring and their depths."""
    return rendered(ring(9, 48))


def score(splats: Splats, truth: Views) -> float:
    with torch.no_grad():
        return float(psnr(rasterize(splats, truth.cameras).over(1.0).clamp(0, 1), truth.rgb).mean())


def test_sweep_finds_the_depth_where_photos_agree(shots: tuple[Views, Tensor]) -> None:
    views, depth = shots
    swept = sweep_depth(views, near=NEAR, far=FAR)
    assert swept.shape == depth.shape
    sure = (swept > 0) & (depth > 0)
    assert sure.float().mean() > 0.5
    error = (swept / depth - 1).abs()[sure]
    assert error.median() < 0.06
    assert swept.amax() <= FAR * 1.2


def test_sweep_finds_little_depth_in_photos_of_different_things(shots: tuple[Views, Tensor]) -> None:
    views, _ = shots
    noise = torch.rand(views.rgb.shape, generator=torch.Generator().manual_seed(0))
    has_depth = [
        float((sweep_depth(replace(views, rgb=x), near=NEAR, far=FAR) > 0).float().mean())
        for x in (views.rgb, noise)
    ]
    assert has_depth[1] < 0.6 * has_depth[0]


def test_first_gaussians_stand_on_the_surfaces(shots: tuple[Views, Tensor]) -> None:
    views, depth = shots
    splats = initial_scene(views[:1], views[1:], depth[1:], 3000)
    assert 1500 < len(splats) <= 3000
    distance = splats.means.norm(dim=-1)
    shell = distance > 0.9 * FAR
    assert 0 < int(shell.sum()) <= 300
    x, y, z = splats.means[~shell].unbind(-1)
    assert z.min() > -0.6 and x.min() > -2.7 and y.max() < 2.7  # ground and walls
    assert ((z + 0.5).abs() < 0.03).float().mean() > 0.2


def test_nothing_stands_before_a_lens(shots: tuple[Views, Tensor]) -> None:
    views, depth = shots
    wrong = depth[1:].clone()
    wrong[:, :, ::2] = CLEAR / 2  # a haze at the lenses of the generated views
    cameras = views.cameras.centers

    def nearest(splats: Splats) -> float:
        return float(torch.cdist(splats.means, cameras).min())

    assert nearest(initial_scene(views[:1], views[1:], wrong, 2500)) < CLEAR
    splats = fit_scene(views[:1], views[1:], wrong, FEW)
    assert len(splats) > 500 and nearest(splats) > CLEAR


def test_what_photos_see_is_not_taken_from_generated_depth(shots: tuple[Views, Tensor]) -> None:
    """Points outside of all photos or behind their surfaces are hidden; others are not."""
    views, depth = shots
    photos, z = views[[0, 4]], depth[[0, 4]]
    origins, directions = photos.cameras.rays()
    sure = (z > 0) & (z < 4)
    for factor in (0.5, 1.0):
        assert not _hidden((origins + factor * z[..., None] * directions)[sure], photos, z).any()
    behind = (origins[:1] + 1.3 * z[:1, ..., None] * directions[:1])[sure[:1]]
    assert _hidden(behind, photos[:1], z[:1]).all()
    assert not _hidden(behind, photos[:1], torch.zeros_like(z[:1])).any()  # what has no depth may be far
    aside = photos.cameras.centers[:1] - 0.5 * photos.cameras.c2w[:1, :3, 2]  # behind the first camera's back
    assert _hidden(aside, photos[:1], z[:1]).all()

    # A model that puts everything at half its depth leaves nothing in the air before the photos.
    given, rest = [2, 4, 6], [0, 1, 3, 5, 7, 8]
    start = initial_scene(views[given], views[rest], 0.5 * depth[rest], 20_000)
    photos_only = initial_scene(views[given], count=20_000)
    fooled = initial_scene(views[4:5], views[rest], 0.5 * depth[rest], 20_000)

    def floating(splats: Splats) -> int:
        at, distance = views[given].cameras.project(splats.means)
        cell = at.round().long().clamp(0, 47)
        shown = torch.stack([z[c[:, 1], c[:, 0]] for z, c in zip(depth[given], cell, strict=True)])
        inside = ((at > 0) & (at < 47)).all(-1) & (distance > 0)
        return int((inside & (shown > 0) & (distance < 0.7 * shown)).any(0).sum())

    assert len(start) > len(photos_only)
    assert floating(start) < floating(photos_only) + 0.1 * (floating(fooled) - floating(photos_only))


def test_depth_and_agreement_beat_points_anywhere(shots: tuple[Views, Tensor]) -> None:
    views, depth = shots
    held, given, rest = [2, 5], [0, 4, 8], [1, 3, 6, 7]
    anywhere = initial_scene(views[:1], count=2500)
    opaque = views[given + rest]
    scores = {
        "anywhere": score(fit(opaque, anywhere, FEW.fit), views[held]),
        "sweep": score(fit_scene(opaque, settings=FEW), views[held]),
        "depth": score(fit_scene(views[4:5], views[given + rest], depth[given + rest], FEW), views[held]),
    }
    assert scores["sweep"] > scores["anywhere"] + 3
    assert scores["depth"] > scores["anywhere"] + 3
    # Views that are not there cannot be made up for.
    more = score(fit_scene(views[given], views[rest], depth[rest], FEW), views[held])
    assert more > score(fit_scene(views[given], settings=FEW), views[held]) + 1


def test_generated_views_count_no_more_than_two_photos(shots: tuple[Views, Tensor]) -> None:
    """Their errors, here in brightness, are mended better by more photos, which may be larger."""
    views, depth = shots
    large, _ = rendered(ring(9, 96))
    wrong = replace(views, rgb=views.rgb * 0.6)

    def fitted(photos: list[int]) -> float:
        return score(fit_scene(large[photos], wrong, depth, FEW), large[[4]])

    assert fitted([2, 4, 6]) > fitted([4]) + 0.5
    assert score(fit_scene(large[[2, 4, 6]], wrong, depth, FEW), wrong[[4]]) < fitted([2, 4, 6])


def test_one_photo_alone_is_seen_again_from_its_own_camera(shots: tuple[Views, Tensor]) -> None:
    views, _ = shots
    splats = fit_scene(views[:1], settings=FEW)
    assert score(splats, views[:1]) > 20
    same = fit_scene(views[:1], settings=FEW)
    assert torch.equal(splats.means, same.means)


def test_views_have_their_shares(shots: tuple[Views, Tensor]) -> None:
    """Equal ones take turns; a view without a share is never looked at."""
    drawn = _shuffled(torch.ones(7), torch.Generator().manual_seed(0))
    for _ in range(3):
        assert sorted(itertools.islice(drawn, 7)) == list(range(7))
    drawn = _shuffled(torch.tensor([3.0, 1.0, 0.0, 1.0]), torch.Generator().manual_seed(0))
    count = torch.bincount(torch.tensor(list(itertools.islice(drawn, 4000))), minlength=4)
    torch.testing.assert_close(count / 4000, torch.tensor([0.6, 0.2, 0.0, 0.2]), atol=0.02, rtol=0)

    views, depth = shots
    initial = initial_scene(views[:1], views[1:4], depth[1:4], 500)
    settings = FitSettings(iterations=8, opacity=0.0, densify=None)
    a = fit([views[:2], views[2:3]], initial, settings, shares=[1, 1, 0])
    b = fit([views[:2], replace(views[2:3], rgb=1 - views.rgb[2:3])], initial, settings, shares=[1, 1, 0])
    assert torch.equal(a.means, b.means) and torch.equal(a.rgb, b.rgb)
    together = fit(views[:3], initial, settings)
    groups = fit([views[:1], views[1:3]], initial, settings, shares=[1, 1, 1])
    assert torch.equal(together.means, groups.means)
