"""The network of cut-outs: `v3d.networks.u2net`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from v3d.networks.u2net import SIZE, U2NetP, saliency

REFERENCE = (
    (0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000),
    (0.000, 0.000, 0.075, 0.608, 0.787, 0.511, 0.018, 0.000),
    (0.000, 0.000, 0.714, 1.000, 1.000, 1.000, 0.511, 0.000),
    (0.000, 0.004, 0.983, 1.000, 1.000, 1.000, 0.786, 0.000),
    (0.000, 0.000, 0.807, 1.000, 1.000, 1.000, 0.607, 0.000),
    (0.000, 0.000, 0.170, 0.808, 0.984, 0.712, 0.075, 0.000),
    (0.000, 0.000, 0.000, 0.000, 0.004, 0.000, 0.000, 0.000),
    (0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000, 0.000),
)


def picture() -> Tensor:
    """[3, 320, 320]: a shaded red ball before stripes of green and blue."""
    line = (torch.arange(SIZE) + 0.5) / SIZE
    y, x = torch.meshgrid(line, line, indexing="ij")
    ground = torch.stack([0.2 + 0 * x, 0.4 + 0.2 * torch.sin(25 * x), 0.5 + 0.2 * torch.cos(30 * y)])
    height = 1 - ((x - 0.55) ** 2 + (y - 0.45) ** 2) / 0.3**2
    ball = torch.stack([0.9 * height, 0.15 + 0 * x, 0.1 + 0 * x])
    return torch.where(height > 0, ball, ground).clamp(0, 1)


def test_values_of_the_original_file() -> None:
    """REFERENCE is what ONNX Runtime makes of the file that scripts/import_u2netp.py reads.

    x = picture()[None]; x = (x / x.max() - mean) / std with ImageNet's mean and std;
    onnxruntime.InferenceSession("u2netp.onnx").run(None, {"input.1": x.numpy()})[0], means of 40 x 40 pixels.
    """
    seen = saliency(picture()[None])
    assert seen.shape == (1, SIZE, SIZE)
    means = torch.nn.functional.avg_pool2d(seen, 40)[0]
    np.testing.assert_allclose(means.numpy(), REFERENCE, atol=0.01)  # weights are kept in 16 bits


def test_brightness_and_batches_change_nothing() -> None:
    image = picture()
    both = saliency(torch.stack([image, image.flip(-1) * 0.5]))
    alone = saliency(image[None])[0]
    assert (both[0] - alone).abs().max() < 1e-4
    assert (both[1].flip(-1) - alone).abs().mean() < 0.02  # half the light, seen in a mirror
    ball = alone > 0.5
    assert 0.27 < float(ball.float().mean()) < 0.30  # pi 0.3^2


def test_size() -> None:
    assert sum(p.numel() for p in U2NetP().parameters()) == 1_125_485
