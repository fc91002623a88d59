from __future__ import annotations

import math

import pytest
import torch

from shapes import box_mesh
from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.evaluation import comparison
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render
from v3d.metrics import PSNR_CEILING, mask_iou, psnr, ssim
from v3d.views import Views


def images(seed: int = 0, views: int = 3, size: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(views, size, size + 5, 3, generator=g)
    return a, (a + 0.2 * torch.randn(a.shape, generator=g)).clamp(0, 1)


def orbit_of(mesh: Mesh, size: int = 64, views: int = 18) -> Views:
    cameras = orbit(views, size=size)
    image = render(mesh, cameras, light=Light(torch.tensor([1.0, 0.5, 1.0])), smooth=False, supersample=3)
    return Views(image.rgb, image.alpha, cameras)


def test_psnr_of_a_known_error():
    a = torch.full((2, 12, 12, 3), 0.5)
    torch.testing.assert_close(psnr(a, a + 0.1), torch.full((2,), 20.0))
    assert psnr(a, a).tolist() == [PSNR_CEILING] * 2


def test_psnr_and_ssim_agree_with_scikit_image():
    skimage = pytest.importorskip("skimage.metrics")
    a, b = images()
    for i in range(len(a)):
        x, y = a[i].double().numpy(), b[i].double().numpy()
        assert float(psnr(a, b)[i]) == pytest.approx(
            skimage.peak_signal_noise_ratio(x, y, data_range=1), abs=1e-4
        )
        expected = skimage.structural_similarity(
            x, y, channel_axis=-1, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        assert float(ssim(a.double(), b.double())[i]) == pytest.approx(expected, abs=1e-5)
        assert float(psnr(a.double(), b.double())[i]) == pytest.approx(
            skimage.peak_signal_noise_ratio(x, y, data_range=1), abs=1e-5
        )


def test_psnr_and_ssim_agree_with_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.image")
    a, b = (x.double() for x in images(1))
    p, q = a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2)
    # Its own mean takes in a border of reflected pixels; ours, as Wang et al.'s, where the window fits.
    _, every_pixel = functional.structural_similarity_index_measure(
        p, q, data_range=1.0, reduction="none", return_full_image=True
    )
    expected = every_pixel[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(ssim(a, b), expected, atol=1e-5, rtol=0)
    expected = functional.peak_signal_noise_ratio(p, q, data_range=1.0, reduction="none", dim=(1, 2, 3))
    torch.testing.assert_close(psnr(a, b), expected, atol=1e-5, rtol=0)


def test_ssim_agrees_with_pytorch_msssim():
    library = pytest.importorskip("pytorch_msssim")
    a, b = (x.double() for x in images(2))
    expected = library.ssim(a.permute(0, 3, 1, 2), b.permute(0, 3, 1, 2), data_range=1, size_average=False)
    torch.testing.assert_close(ssim(a, b), expected, atol=1e-5, rtol=0)


def test_ssim_is_one_for_equal_images_symmetric_and_refuses_tiny_ones():
    a, b = images()
    torch.testing.assert_close(ssim(a, a), torch.ones(3))
    torch.testing.assert_close(ssim(a, b), ssim(b, a))
    with pytest.raises(V3DError, match="11 x 11"):
        ssim(a[:, :10], b[:, :10])


def test_mask_iou():
    a = torch.zeros(3, 4, 4)
    b = torch.zeros(3, 4, 4)
    a[1, :2], b[1, 1:3] = 1, 1  # 4 shared of 12
    a[2] = 1
    torch.testing.assert_close(mask_iou(a, b), torch.tensor([1.0, 1 / 3, 0.0]))


def test_foreground_psnr_does_not_depend_on_the_amount_of_ground():
    alpha = torch.zeros(1, 32, 32)
    alpha[:, 8:16, 8:16] = 1
    cameras = orbit(1, size=32)
    a = Views(torch.where(alpha[..., None] > 0, 0.2, 1.0).expand(1, 32, 32, 3), alpha, cameras)
    b = Views(torch.where(alpha[..., None] > 0, 0.3, 1.0).expand(1, 32, 32, 3), alpha, cameras)
    assert float(comparison.foreground_psnr(a, b)) == pytest.approx(20, abs=1e-4)
    assert float(psnr(a.rgb, b.rgb)) == pytest.approx(20 + 10 * math.log10(16), abs=1e-4)
    moved = Views(a.rgb.roll(8, 2), a.alpha.roll(8, 2), cameras)  # a miss counts on both sides
    assert float(comparison.foreground_psnr(a, moved)) == pytest.approx(-20 * math.log10(0.8), abs=1e-4)


def test_consistency_is_high_for_true_views_and_falls_when_views_are_shuffled():
    mesh = box_mesh(0.8, 0.8, 0.8)
    views = orbit_of(mesh, size=96)
    wrong = Views(views.rgb.roll(2, 0), views.alpha.roll(2, 0), views.cameras)  # 40 degrees off
    assert comparison.silhouette_consistency(views, mesh).min() > 0.96
    assert comparison.silhouette_consistency(wrong, mesh).min() < 0.95
    true_warp = comparison.warp_consistency(views, mesh)
    assert true_warp.nanmean() > comparison.warp_consistency(wrong, mesh).nanmean() + 3
    assert true_warp.nanmean() > 30


def test_compare_views_names_every_metric():
    views = orbit_of(box_mesh(1.0, 1.0, 1.0), size=32, views=4)
    scores = comparison.compare_views(views, views)
    assert set(scores) == {"psnr", "ssim", "foreground_psnr", "mask_iou"}
    assert all(v.shape == (4,) for v in scores.values())
    assert scores["psnr"].min() == PSNR_CEILING and scores["mask_iou"].min() == 1
