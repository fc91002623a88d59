"""Where the object of a photo is: U^2-Net's small model (Qin et al. 2020), frozen weights V3D did not train.

A U of six levels whose blocks are U-shaped themselves, so that every one sees fine detail and wide context.
Batch norms are folded into the convolutions.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.autocast import without_autocast
from v3d.weights import U2NETP
from v3d.weights.storage import load_network

SIZE = 320
"""Photos are read at this many pixels a side, stretched to a square: what the network was trained on."""

_WIDTH, _NARROW = 64, 16
_DEPTHS = (7, 6, 5, 4)  # of the blocks at the first four levels; the last two levels dilate instead
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class U2NetP(nn.Module):
    """The network with 64 channels between its blocks and 16 in them: 1.13 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(Block(_WIDTH if i else 3, depth) for i, depth in enumerate(_DEPTHS))
        self.down.extend(Block(_WIDTH, 4, dilated=True) for _ in range(2))
        self.up = nn.ModuleList(Block(2 * _WIDTH, depth) for depth in _DEPTHS)
        self.up.append(Block(2 * _WIDTH, 4, dilated=True))
        self.sides = nn.ModuleList(nn.Conv2d(_WIDTH, 1, 3, padding=1) for _ in self.down)
        self.fuse = nn.Conv2d(len(self.sides), 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, 3, H, W] of normalised colours -> saliency [B, H, W] in [0, 1]."""
        levels: list[Tensor] = []
        for i, block in enumerate(self.down):
            x = block(_halved(x) if i else x)
            levels.append(x)
        for i in reversed(range(len(self.up))):
            levels[i] = self.up[i](torch.cat([_to_size(levels[i + 1], levels[i]), levels[i]], 1))
        sides = [side(level) for side, level in zip(self.sides, levels, strict=True)]
        fused: Tensor = self.fuse(torch.cat([_to_size(side, sides[0]) for side in sides], 1))
        return fused[:, 0].sigmoid()


class Block(nn.Module):
    """A small U with a residual around it: halves its input, or dilates where that is small already."""

    def __init__(self, channels: int, depth: int, *, dilated: bool = False) -> None:
        super().__init__()
        self.dilated = dilated
        steps = [2**i if dilated else 1 for i in range(depth - 1)]
        self.entry = _convolution(channels, _WIDTH)
        self.down = nn.ModuleList(
            _convolution(_NARROW if i else _WIDTH, _NARROW, step) for i, step in enumerate(steps)
        )
        self.bottom = _convolution(_NARROW, _NARROW, 2 * steps[-1] if dilated else 2)
        self.up = nn.ModuleList(
            _convolution(2 * _NARROW, _NARROW if i else _WIDTH, step) for i, step in enumerate(steps)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, channels, H, W] -> [B, 64, H, W]."""
        outer = x = F.relu_(self.entry(x))
        levels: list[Tensor] = []
        for i, layer in enumerate(self.down):
            x = F.relu_(layer(x if i == 0 or self.dilated else _halved(x)))
            levels.append(x)
        x = F.relu_(self.bottom(x))
        for layer, level in zip(reversed(self.up), reversed(levels), strict=True):
            x = F.relu_(layer(torch.cat([_to_size(x, level), level], 1)))
        return outer + x


def _convolution(channels: int, width: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation)


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2, ceil_mode=True)


def _to_size(x: Tensor, like: Tensor) -> Tensor:
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


@without_autocast
@torch.no_grad()
def saliency(images: Tensor) -> Tensor:
    """How likely each pixel belongs to the object that the photo is of.

    Args:
        images: [B, 3, H, W] in [0, 1], sRGB, of any size; 320 x 320 pixels are looked at.

    Returns:
        [B, 320, 320] in [0, 1], stretched as the images were.
    """
    x = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
    x = x / x.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)  # as in its training: the brightest value is 1
    x = (x - x.new_tensor(_MEAN)[:, None, None]) / x.new_tensor(_STD)[:, None, None]
    network = _u2netp(images.device)
    seen: Tensor = network(x.contiguous(memory_format=torch.channels_last))
    return seen


@functools.cache
def _u2netp(device: torch.device) -> U2NetP:
    network = load_network(U2NETP, "u2netp", lambda config: U2NetP(**config))
    network = network.requires_grad_(False).eval().to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
    return network
