"""OrbitDiT: a video diffusion model in pixels that attends over all views at once.

It plays the part of SVD's UNet in the paper (dense multi-view generation as video generation) at a size that
trains from scratch, for orbits (one source photo) and scenes (several). Convolutions carry every view from
pixels down to patches of 16 pixels and back, with skips, as in any UNet; between them a transformer attends
over the patches of all views and photos. Two things tell it where a patch looks from: the patch's Plücker ray
is part of its input, and attention sees *relative* cameras (queries, keys, values and outputs are carried
between camera frames by the 4x4 extrinsics, as in GTA, arXiv 2310.10375, and PRoPE, arXiv 2507.10496). A
third tells it what the sources say about every view: PixelNeRF's image of it and the nearest photos, warped
to it (the *guide*, see `v3d.diffusion.guide`). Where a photo shows what the view should, the network points
at the photo.

Tokens are laid out [N, B, D], patches first: then the change of frame is one batched matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.cameras import Cameras
from v3d.diffusion.configs import OrbitDiTConfig as OrbitDiTConfig
from v3d.weights import MINI
from v3d.weights.storage import load_network

_HEAD = 64  # channels of a head: 32 carried by cameras, 16 by patch columns, 16 by patch rows
_CAMERA = 32


@dataclass(frozen=True)
class Geometry:
    """Rays and cameras of every patch, computed once for a set of V views with P patches each.

    A leading batch axis on all three is allowed (`stack`): sets of views that differ from sample to sample.

    Attributes:
        plucker: [V, P, 6] ray of each patch centre: moment and unit direction.
        w2c: [V, 4, 4] world-to-camera with lengths in units of the cameras' mean distance from the origin.
        c2w: [V, 4, 4] its inverse.
    """

    plucker: Tensor
    w2c: Tensor
    c2w: Tensor
    _frames: dict[torch.dtype, Frames] = field(default_factory=dict, init=False, repr=False, compare=False)

    @staticmethod
    def of(cameras: Cameras, grid: int) -> Geometry:
        """Of cameras around the origin, for images cut into `grid` x `grid` patches."""
        origins, directions = cameras.resized(grid, grid).rays()
        directions = F.normalize(directions.flatten(1, 2), dim=-1)
        radius = cameras.centers.norm(dim=-1).mean()
        moments = torch.linalg.cross(origins.flatten(1, 2) / radius, directions)
        scale = torch.ones(4, 4, device=radius.device)
        scale[:3, 3] = 1 / radius
        return Geometry(torch.cat([moments, directions], -1), cameras.w2c * scale, cameras.c2w * scale)

    @staticmethod
    def stack(sets: list[Geometry]) -> Geometry:
        """One set of views for each sample of a batch."""
        plucker, w2c, c2w = zip(*((g.plucker, g.w2c, g.c2w) for g in sets), strict=True)
        return Geometry(torch.stack(plucker), torch.stack(w2c), torch.stack(c2w))

    def __getitem__(self, index: Tensor | list[int] | slice) -> Geometry:
        return Geometry(self.plucker[index], self.w2c[index], self.c2w[index])

    def frames(self, dtype: torch.dtype) -> Frames:
        """Matrices for attention in this precision; made once, for every step of a sampler."""
        if dtype not in self._frames:
            angles = _rotary_angles(math.isqrt(self.plucker.shape[-2]), self.plucker.device)
            self._frames[dtype] = Frames.of(self, angles, dtype)
        return self._frames[dtype]

    def to(self, device: torch.device | str) -> Geometry:
        """The geometry on another device."""
        return Geometry(self.plucker.to(device), self.w2c.to(device), self.c2w.to(device))


@dataclass(frozen=True)
class Frames:
    """Matrices [N, 64, 64] that carry a head's channels (as rows) of N patches to a common frame and back.

    `value` and `out` know cameras only and are one for each view, [V, 64, 64]. Where every sample of a batch
    has its own cameras all are [N * B, 64, 64].

    With E the 4x4 world-to-camera matrix and R the rotary matrix of a patch's column and row, the score of
    patches i and j sees only `E_i E_j^-1` and `R_i R_j^T`; values arrive in the frame of the reader.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor

    @staticmethod
    def of(geometry: Geometry, angles: Tensor, dtype: torch.dtype) -> Frames:
        """Of V views with P patches each; `angles` [P, 16] are the rotary angles of a patch."""
        V, P = geometry.plucker.shape[-3:-1]

        def blocks(camera: Tensor, rotary: bool) -> Tensor:
            camera = camera.reshape(-1, V, 4, 4).transpose(0, 1)[:, None]  # [V, 1, B or 1, 4, 4]
            patches = P if rotary or camera.shape[2] > 1 else 1
            M = torch.zeros(V, patches, camera.shape[2], _HEAD, _HEAD, dtype=dtype, device=camera.device)
            for k in range(0, _CAMERA, 4):
                M[..., k : k + 4, k : k + 4] = camera
            pair = torch.arange(_CAMERA, _HEAD, 2, device=camera.device)
            cos, sin = (f(angles).to(dtype)[:, None] for f in (torch.cos, torch.sin))
            M[..., pair, pair] = M[..., pair + 1, pair + 1] = cos if rotary else torch.ones_like(cos[:1])
            if rotary:
                M[..., pair, pair + 1] = sin
                M[..., pair + 1, pair] = -sin
            return M.flatten(0, 2)

        E, E_inverse = geometry.w2c, geometry.c2w
        return Frames(
            blocks(E, True), blocks(E_inverse.mT, True), blocks(E_inverse.mT, False), blocks(E.mT, False)
        )


class Block(nn.Module):
    """Attention and MLP, each modulated by the noise level (adaLN with one shared projection)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))
        self.modulation = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, noise: Tensor, frames: Frames) -> Tensor:
        """x [N, B, D], noise [B, 6, D] -> [N, B, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (noise + self.modulation).unbind(1)
        x = torch.addcmul(x, gate1, self.attend(_modulate(x, shift1, scale1), frames))
        return torch.addcmul(x, gate2, self.mlp(_modulate(x, shift2, scale2)))

    def attend(self, x: Tensor, frames: Frames) -> Tensor:
        """Full attention over all N patches."""
        N, B, _ = x.shape

        def carry(t: Tensor, matrices: Tensor) -> Tensor:  # [N, B, D] -> [N, B, heads, 64]
            return torch.bmm(t.view(len(matrices), -1, _HEAD), matrices).view(N, B, -1, _HEAD)

        def heads(t: Tensor, matrices: Tensor) -> Tensor:  # -> [B, heads, N, 64]
            return carry(t, matrices).permute(1, 2, 0, 3)

        q = heads(F.layer_norm(self.query(x).view(N, -1, _HEAD), (_HEAD,)) * _HEAD**-0.5, frames.query)
        k = heads(F.layer_norm(self.key(x).view(N, -1, _HEAD), (_HEAD,)), frames.key)
        v = heads(self.value(x), frames.value)
        scores = torch.softmax(q @ k.mT, -1)  # spelled out: cheaper on the CPU than its fused form
        y = (scores @ v).permute(2, 0, 1, 3).contiguous()
        out: Tensor = self.out(carry(y, frames.out).flatten(2))
        return out


class ResBlock(nn.Module):
    """Two convolutions over every view by itself, modulated by the noise level."""

    def __init__(self, channels_in: int, channels: int, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(width, 2 * channels)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        for p in (*self.second.parameters(), *self.modulation.parameters()):
            nn.init.zeros_(p)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        """x [B, C, h, w], noise [B, D] -> [B, channels, h, w]."""
        shift, scale = self.modulation(noise)[..., None, None].chunk(2, dim=1)
        y = self.first(F.silu(_norm(x)))
        skip: Tensor = self.skip(x)
        residual: Tensor = self.second(F.silu(torch.addcmul(shift, _norm(y), 1 + scale)))
        return skip + residual


class OrbitDiT(nn.Module):
    """`F(x, c_noise | photos, cameras, guide)`: the raw network inside the EDM preconditioning."""

    def __init__(self, config: OrbitDiTConfig = OrbitDiTConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.config = c = config
        D, pixels = c.width, 4 * c.patch**2
        levels = list(zip(c.channels, (*c.channels[1:], D), strict=True))
        self.noise_mlp = nn.Sequential(nn.Linear(128, D), nn.SiLU(), nn.Linear(D, 6 * D))
        self.stem = nn.Conv2d(4 * (8 + 5 * c.warps), c.channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(ResBlock(here, here, D) for here, _ in levels)
        self.down = nn.ModuleList(nn.Conv2d(here, below, 2, stride=2) for here, below in levels)
        self.ray_in = nn.Linear(6, D)
        self.photo_in = nn.Linear(pixels + 6, D)
        self.position = nn.Parameter(0.02 * torch.randn(c.grid**2, D))
        self.no_photo = nn.Parameter(torch.zeros(pixels))
        self.blocks = nn.ModuleList(Block(D) for _ in range(c.depth))
        self.up = nn.ModuleList(nn.Conv2d(below, 4 * here, 1) for here, below in levels)
        self.decoder = nn.ModuleList(ResBlock(2 * here, here, D) for here, _ in levels)
        self.out = nn.Conv2d(c.channels[0], 4 * (4 + 1 + c.warps), 3, padding=1)
        assert self.out.bias is not None
        final = self.noise_mlp[2]
        assert isinstance(final, nn.Linear)
        nn.init.normal_(final.weight, std=0.01)
        nn.init.zeros_(final.bias)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            final.bias.view(6, D)[[2, 5]] = 0.3  # open gates: small networks start faster than from zero
            self.out.bias.copy_(torch.arange(len(self.out.bias)) // 4 == 4)  # rather the guide than a photo

    def patchify(self, images: Tensor) -> Tensor:
        """Images [..., C, S, S] -> patches [..., P, C * patch^2], rows first."""
        p, g = self.config.patch, self.config.grid
        z: Tensor = images.unflatten(-2, (g, p)).unflatten(-1, (g, p))  # ..., C, gy, py, gx, px
        return z.movedim((-4, -2), (-5, -4)).flatten(-3).flatten(-3, -2)

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        photos: Tensor,
        keep: Tensor,
        geometry: Geometry,
        guide: Tensor,
        warped: Tensor,
    ) -> Tensor:
        """Raw network output [B, V, 4, S, S] (float32), computed in the precision of the weights.

        Args:
            x: [B, V, 4, S, S] noisy residuals of V views, scaled by c_in.
            c_noise: [B].
            photos: [B, N, 4, S, S] in [-1, 1], colour on white, then alpha; their order does not matter.
            keep: [B] bool; False drops the photos, not the guide (classifier-free guidance).
            geometry: of N + V cameras: the photos' first, then the views'.
            guide: [B, V, 4, S, S] PixelNeRF's images of the views.
            warped: [B, V, warps, 5, S, S] photos as the views would see them; the last channel is 1 where
                they do, else -1.
        """
        B, V = x.shape[:2]
        dtype, last = self.position.dtype, torch.channels_last
        embedding = self.noise_mlp[:2](_sinusoidal(c_noise, 128).to(dtype))
        noise = embedding.repeat_interleave(V, 0)
        h = torch.cat([x, guide, warped.flatten(2, 3)], 2).flatten(0, 1).to(dtype)
        h = self.stem(F.pixel_unshuffle(h, 2).contiguous(memory_format=last))
        skips = []
        for block, down in zip(self.encoder, self.down, strict=True):
            skips.append(block(h, noise))
            h = down(skips[-1])
        h = h + self._attend(h, embedding, photos.to(dtype), keep, geometry)
        for block, up, skip in reversed(list(zip(self.decoder, self.up, skips, strict=True))):
            h = F.pixel_shuffle(up(h), 2).contiguous(memory_format=last)
            h = block(torch.cat([h, skip], 1), noise)
        out = F.pixel_shuffle(self.out(F.silu(_norm(h))), 2).unflatten(0, (B, V)).float()
        residual: Tensor
        residual, none, pointed = out.split([4, 1, self.config.warps], 2)
        # c_out is -sigma_data where noise hides everything: there D_x is the photos' share less `residual`.
        votes = pointed.masked_fill(warped[:, :, :, 4] < 0, -1e4)
        share = torch.softmax(torch.cat([none, votes], 2), 2)[:, :, 1:, None]
        taken = (share * (warped[:, :, :, :4] - guide[:, :, None])).sum(2)
        return residual - taken / self.config.sigma_data

    def _attend(
        self, h: Tensor, embedding: Tensor, photos: Tensor, keep: Tensor, geometry: Geometry
    ) -> Tensor:
        """The transformer over the patches of views and photos: h [B * V, D, g, g] -> [B * V, D, g, g]."""
        B, N = photos.shape[:2]
        P, g = self.config.grid**2, self.config.grid
        sources = torch.where(keep[:, None, None, None], self.patchify(photos), self.no_photo)
        rays = geometry.plucker.to(h.dtype).expand(B, -1, -1, -1)  # also where it has the batch already
        views = h.flatten(2).mT.unflatten(0, (B, -1)) + self.ray_in(rays[:, N:])
        tokens = torch.cat([self.photo_in(torch.cat([sources, rays[:, :N]], -1)), views], dim=1)
        tokens = (tokens + self.position).flatten(1, 2).transpose(0, 1).contiguous()  # [tokens, B, D]
        noise = self.noise_mlp[2](embedding).unflatten(-1, (6, -1))
        frames = geometry.frames(h.dtype)
        for block in self.blocks:
            tokens = block(tokens, noise, frames)
        y = F.layer_norm(tokens[N * P :], tokens.shape[-1:]).transpose(0, 1)
        h = y.unflatten(1, (-1, P)).flatten(0, 1).mT.unflatten(-1, (g, g))
        return h


def load_dit(folder: str | Path = MINI) -> OrbitDiT:
    """The network of a folder of weights, in float32; by default the one in the package.

    Raises:
        V3DError: a file is missing, damaged or does not fit its configuration.
    """
    return load_network(Path(folder), "dit", lambda config: OrbitDiT(_config(config)))


def _config(values: dict[str, Any]) -> OrbitDiTConfig:
    """JSON knows no tuples."""
    return OrbitDiTConfig(**{**values, "channels": tuple(values["channels"])})


def _norm(x: Tensor) -> Tensor:
    """[B, C, h, w] normalised over channels at every pixel; free of copies in the channels-last layout."""
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: normalised tokens [N, B, D], scaled and shifted per sample [B, D]."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


def _rotary_angles(grid: int, device: torch.device) -> Tensor:
    """[P, 16] rotary angles: eight frequencies of a patch's column, then of its row."""
    index = torch.arange(grid**2, device=device)
    frequencies = math.pi / grid * torch.arange(1, 9, device=device) / 2
    return torch.cat([(index % grid)[:, None] * frequencies, (index // grid)[:, None] * frequencies], -1)


def _sinusoidal(c_noise: Tensor, channels: int) -> Tensor:
    """[B] -> [B, channels]; c_noise = ln(sigma) / 4 spans about [-1.6, 1.7]."""
    frequencies = torch.exp(torch.linspace(0, 4, channels // 2, device=c_noise.device))
    angles = c_noise[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)
