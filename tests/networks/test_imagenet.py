"""EfficientNet-Lite0: its arithmetic, and that the weights that ship know what they see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from v3d.capture.photo import load_photo
from v3d.compositing import over_white
from v3d.networks import imagenet
from v3d.networks.imagenet import Convolution, EfficientNetLite0, InvertedResidual, semantic_features

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("side", "first"), [(8, 0), (7, -1)])
def test_padding_is_tensorflows(side: int, first: int) -> None:
    """At stride 2 a kernel of 3 begins at pixel 0 of an even side, and one before it of an odd one."""
    layer = Convolution(1, 1, kernel=3, stride=2)
    with torch.no_grad():
        layer.conv.weight.zero_()[0, 0, 0, 0] = 1.0  # its first tap alone
        layer.conv.bias.zero_()  # type: ignore[union-attr]
    x = torch.rand(1, 1, side, side)
    expected = F.pad(x, (1, 1, 1, 1))[..., 1 + first :: 2, 1 + first :: 2][..., :4, :4]
    torch.testing.assert_close(layer(x), expected)


def test_activations_are_bounded_and_blocks_add_what_they_find() -> None:
    torch.manual_seed(0)
    x = 20 * torch.randn(2, 3, 9, 9)
    wide = Convolution(3, 5, kernel=3)(x).detach()
    assert wide.shape == (2, 5, 9, 9) and float(wide.min()) == 0 and float(wide.max()) == 6
    block = InvertedResidual(4, 4, kernel=3, stride=1, expansion=2)
    with torch.no_grad():
        for p in block.project.parameters():
            p.zero_()
    y = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(block(y), y)
    assert InvertedResidual(4, 6, 3, 2, 2)(y).shape == (1, 6, 3, 3)


def test_size_is_the_published_one() -> None:
    """4,652,008 parameters with unfolded norms and with the 1 x 1 head and the classifier (1.7 M)."""
    net = EfficientNetLite0()
    assert [len(stage) for stage in net.stages] == [1, 2, 2, 3, 3, 4, 1]  # type: ignore[arg-type]
    kernels = sum(p.numel() for name, p in net.named_parameters() if name.endswith("weight"))
    norms = sum(p.numel() for name, p in net.named_parameters() if name.endswith("bias"))
    head = 320 * 1280 + 2 * 1280 + 1281 * 1000
    assert kernels + 2 * norms + head == 4_652_008


def test_features_are_standardised_cells_of_each_photo_alone() -> None:
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    found = semantic_features(x, 4)
    assert found.shape == (2, 16, imagenet.CHANNELS)
    for part in found.split([112, 320], -1):
        torch.testing.assert_close(part.mean(-1), torch.zeros(2, 16), atol=1e-4, rtol=0)
        torch.testing.assert_close(part.var(-1, unbiased=False), torch.ones(2, 16), atol=1e-2, rtol=0)
    torch.testing.assert_close(semantic_features(x[1:], 4), found[1:], atol=1e-3, rtol=1e-3)
    across = torch.cat([torch.ones(1, 3, 16, 32), torch.rand(1, 3, 16, 32)], 2)
    top, bottom = semantic_features(across, 4)[0].unflatten(0, (4, 4))[[0, 3]]
    assert (top - top.mean(0)).norm() < 0.5 * (
        top - bottom
    ).norm()  # rows first: a plain strip is alike along it


def test_it_knows_a_thing_from_another_side() -> None:
    """A photo's mirror image shows the same thing; other photos do not."""

    def seen(image: Tensor) -> Tensor:
        return semantic_features(image[None], 4)[0].mean(0)

    names = ("bob.png", "chest.png", "strawberry.jpg")
    photos = [load_photo(EXAMPLES / name).resized(128) for name in names]
    photos = [over_white(rgba[..., :3], rgba[..., 3]).permute(2, 0, 1) * 2 - 1 for rgba in photos]
    for i, photo in enumerate(photos):
        mirrored = seen(photo.flip(2))
        similar = [float(F.cosine_similarity(mirrored, seen(other), dim=0)) for other in photos]
        assert max(range(3), key=lambda k: similar[k]) == i and similar[i] > 0.8
