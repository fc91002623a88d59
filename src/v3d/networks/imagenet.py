"""Semantic features of photos, of a network trained on ImageNet: frozen weights that V3D did not train.

EfficientNet-Lite0 (Tan & Le 2019) without its classifier tells PixelNeRF what kind of thing a photo shows:
1,600 training objects are too few to learn that from.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.weights import IMAGENET
from v3d.weights.storage import load_network

SIZE = 192
"""Photos are read at this many pixels a side."""

# Of every stage: blocks, kernel, stride, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_READ = (4, 6)
"""Stages whose outputs are used: parts of things (cells of 16 pixels) and things (of 32)."""

CHANNELS = sum(_STAGES[k][-1] for k in _READ)
"""Features of a cell."""


class EfficientNetLite0(nn.Module):
    """The convolutions, with batch norms folded into them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, 32, kernel=3, stride=2)
        self.stages = nn.ModuleList()
        channels = 32
        for blocks, kernel, stride, expansion, width in _STAGES:
            stage = [InvertedResidual(channels, width, kernel, stride, expansion)]
            stage += [InvertedResidual(width, width, kernel, 1, expansion) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(*stage))
            channels = width

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] in [-1, 1] -> the output of every stage."""
        x, outputs = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class InvertedResidual(nn.Module):
    """Widen, convolve every channel by itself, narrow (MobileNetV2)."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = Convolution(channels, wide) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(wide, wide, kernel, stride, groups=wide)
        self.project = Convolution(wide, width, bounded=False)
        self.residual = stride == 1 and channels == width

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, width, H / stride, W / stride]."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Convolution(nn.Module):
    """With TensorFlow's padding (where one side gets a pixel more, it is the last) and ReLU6."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        bounded: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, groups=groups)
        self.bounded = bounded

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, width, ceil(H / stride), ceil(W / stride)]."""
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        pad: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            more = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pad += [more // 2, more - more // 2]
        x = self.conv(F.pad(x, pad) if any(pad) else x)
        return F.relu6(x) if self.bounded else x


@torch.no_grad()
def semantic_features(images: Tensor, cells: int) -> Tensor:
    """Features of what photos show, in a grid of cells.

    Args:
        images: [B, 3, S, S] in [-1, 1].
        cells: of the grid's side.

    Returns:
        [B, cells^2, CHANNELS], rows first; each stage's channels have mean 0 and variance 1 in every cell.
    """
    network = _efficientnet(images.device, images.dtype)
    x = F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)
    stages = network(x.contiguous(memory_format=torch.channels_last))
    features = (
        F.interpolate(stages[k], (cells, cells), mode="bilinear", align_corners=False).flatten(2).mT
        for k in _READ
    )
    return torch.cat([F.layer_norm(x, x.shape[-1:]) for x in features], -1)


@functools.cache
def _efficientnet(device: torch.device, dtype: torch.dtype) -> EfficientNetLite0:
    network = load_network(IMAGENET, "efficientnet_lite0", lambda config: EfficientNetLite0(**config))
    network = network.requires_grad_(False).eval().to(device, dtype)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
    return network
