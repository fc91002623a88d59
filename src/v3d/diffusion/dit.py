"""OrbitDiT: a video diffusion transformer that attends over all patches of all views at once.

It plays the part of SVD's UNet in the paper (dense multi-view generation as video generation) at a size
that trains from scratch. Two things tell it where a patch looks from: the patch's Plücker ray is part of
its input, and attention sees *relative* cameras (queries, keys, values and outputs are carried between
camera frames by the 4x4 extrinsics, as in GTA, arXiv 2310.10375, and PRoPE, arXiv 2507.10496).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.cameras import Cameras

_HEAD = 64  # channels of a head: 32 carried by cameras, 16 by patch columns, 16 by patch rows
_CAMERA, _AXIS = 32, 16


@dataclass(frozen=True)
class OrbitDiTConfig:
    """Sizes of the network; `width` is a multiple of 64 (one head each 64 channels)."""

    latent_channels: int = 8
    latent_size: int = 16
    patch: int = 4
    width: int = 256
    depth: int = 8


@dataclass(frozen=True)
class Geometry:
    """Where every patch looks from, computed once for a set of views.

    Attributes:
        plucker: [V, P, 6] ray of each patch centre: moment and unit direction.
        w2c: [V, 4, 4] world-to-camera with lengths in units of the orbit radius.
        c2w: [V, 4, 4] its inverse.
    """

    plucker: Tensor
    w2c: Tensor
    c2w: Tensor

    @staticmethod
    def of(cameras: Cameras, grid: int) -> Geometry:
        """Of cameras in the orbit's world, for images cut into `grid` x `grid` patches."""
        origins, directions = cameras.resized(grid, grid).rays()
        directions = F.normalize(directions.flatten(1, 2), dim=-1)
        radius = cameras.centers.norm(dim=-1).mean()
        moments = torch.linalg.cross(origins.flatten(1, 2) / radius, directions)
        scale = torch.ones(4, 4, device=radius.device)
        scale[:3, 3] = 1 / radius
        return Geometry(torch.cat([moments, directions], -1), cameras.w2c * scale, cameras.c2w * scale)

    def __getitem__(self, index: Tensor | list[int] | slice) -> Geometry:
        return Geometry(self.plucker[index], self.w2c[index], self.c2w[index])

    def to(self, device: torch.device | str) -> Geometry:
        return Geometry(self.plucker.to(device), self.w2c.to(device), self.c2w.to(device))


def carry(x: Tensor, matrices: Tensor) -> Tensor:
    """Apply 4x4 `matrices` [V, 4, 4] to the channels of [B, heads, V, P, 4 n] in groups of four."""
    B, heads, V, P, C = x.shape
    rows = x.permute(2, 0, 1, 3, 4).reshape(V, -1, 4)
    out = torch.bmm(rows, matrices.mT.to(x.dtype))
    return out.view(V, B, heads, P, C).permute(1, 2, 0, 3, 4)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary encoding: turn the channel pairs of [..., P, 2 n] by `angles` [P, n]."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class Block(nn.Module):
    """Attention and MLP, each modulated by the noise level (adaLN with one shared projection)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.modulation = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, noise: Tensor, geometry: Geometry, angles: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, V, P, D], noise [B, 6, D] -> [B, V, P, D]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (noise + self.modulation)[:, :, None, None].unbind(1)
        x = x + gate1 * self.attend(_norm(x) * (1 + scale1) + shift1, geometry, angles)
        return x + gate2 * self.mlp(_norm(x) * (1 + scale2) + shift2)

    def attend(self, x: Tensor, geometry: Geometry, angles: tuple[Tensor, Tensor]) -> Tensor:
        """Full attention over all V*P patches. Scores depend on E_i E_j^-1, never on one camera alone."""
        B, V, P, D = x.shape
        q, k, v = self.qkv(x).view(B, V, P, 3, D // _HEAD, _HEAD).permute(3, 0, 4, 1, 2, 5)
        q, k = F.rms_norm(q, (_HEAD,)), F.rms_norm(k, (_HEAD,))
        q = self._position(q, geometry.w2c.mT, angles)
        k = self._position(k, geometry.c2w, angles)
        v = torch.cat([carry(v[..., :_CAMERA], geometry.c2w), v[..., _CAMERA:]], -1)
        flat = (t.reshape(B, -1, V * P, _HEAD) for t in (q, k, v))
        y = F.scaled_dot_product_attention(*flat).view(B, -1, V, P, _HEAD)
        y = torch.cat([carry(y[..., :_CAMERA], geometry.w2c), y[..., _CAMERA:]], -1)
        return self.out(y.permute(0, 2, 3, 1, 4).reshape(B, V, P, D))

    def _position(self, x: Tensor, matrices: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        camera, column, row = x.split([_CAMERA, _AXIS, _AXIS], dim=-1)
        return torch.cat([carry(camera, matrices), rotate(column, angles[0]), rotate(row, angles[1])], -1)


class OrbitDiT(nn.Module):
    """`F(x, c_noise | photo, cameras)`: the raw network inside the EDM preconditioning."""

    def __init__(self, config: OrbitDiTConfig = OrbitDiTConfig()) -> None:
        super().__init__()
        self.config = config
        self.grid = config.latent_size // config.patch
        D, patch_dim = config.width, config.latent_channels * config.patch**2
        self.view_in = nn.Linear(2 * patch_dim + 6, D)
        self.photo_in = nn.Linear(patch_dim + 6, D)
        self.position = nn.Parameter(0.02 * torch.randn(self.grid**2, D))
        self.no_photo = nn.Parameter(torch.zeros(patch_dim))
        self.noise_mlp = nn.Sequential(nn.Linear(128, D), nn.SiLU(), nn.Linear(D, 6 * D))
        self.blocks = nn.ModuleList(Block(D) for _ in range(config.depth))
        self.out_modulation = nn.Linear(D, 2 * D)
        self.out = nn.Linear(D, patch_dim)
        final = self.noise_mlp[2]
        assert isinstance(final, nn.Linear)
        nn.init.normal_(final.weight, std=0.01)
        nn.init.zeros_(final.bias)
        with torch.no_grad():
            final.bias.view(6, D)[[2, 5]] = 0.3  # open gates: small networks start faster than from zero
        for layer in (self.out, self.out_modulation):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        index = torch.arange(self.grid**2)
        frequencies = math.pi / self.grid * torch.arange(1, _AXIS // 2 + 1) / 2
        self.register_buffer("column_angles", (index % self.grid)[:, None] * frequencies, persistent=False)
        self.register_buffer("row_angles", (index // self.grid)[:, None] * frequencies, persistent=False)

    def patchify(self, z: Tensor) -> Tensor:
        """Latents [..., C, h, w] -> patches [..., P, C * patch^2], rows first."""
        p, g = self.config.patch, self.grid
        z = z.unflatten(-2, (g, p)).unflatten(-1, (g, p))  # ..., C, gy, py, gx, px
        return z.movedim((-4, -2), (-5, -4)).flatten(-3).flatten(-3, -2)

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """The inverse of `patchify`."""
        p, g, C = self.config.patch, self.grid, self.config.latent_channels
        z = tokens.unflatten(-2, (g, g)).unflatten(-1, (C, p, p))  # ..., gy, gx, C, py, px
        return z.movedim((-5, -4), (-4, -2)).flatten(-4, -3).flatten(-2, -1)

    def forward(self, x: Tensor, c_noise: Tensor, photo: Tensor, keep: Tensor, geometry: Geometry) -> Tensor:
        """Raw network output for the latents of V views.

        Args:
            x: [B, V, C, h, w] latents scaled by c_in.
            c_noise: [B].
            photo: [B, C, h, w] clean latents of the photo.
            keep: [B] bool; False drops the photo (classifier-free guidance).
            geometry: of V + 1 cameras: the photo's first, then the views'.
        """
        B, V = x.shape[:2]
        condition = torch.where(keep[:, None, None], self.patchify(photo), self.no_photo.to(photo.dtype))
        rays = geometry.plucker.to(x.dtype).expand(B, -1, -1, -1)
        views = torch.cat([self.patchify(x), condition[:, None].expand(-1, V, -1, -1), rays[:, 1:]], -1)
        tokens = torch.cat(
            [self.photo_in(torch.cat([condition[:, None], rays[:, :1]], -1)), self.view_in(views)], dim=1
        )
        tokens = tokens + self.position
        embedding = self.noise_mlp[:2](_sinusoidal(c_noise, 128))
        noise = self.noise_mlp[2](embedding).unflatten(-1, (6, -1))
        angles = (self.column_angles, self.row_angles)
        for block in self.blocks:
            tokens = block(tokens, noise, geometry, angles)
        shift, scale = self.out_modulation(embedding)[:, None, None].chunk(2, dim=-1)
        return self.unpatchify(self.out(_norm(tokens[:, 1:]) * (1 + scale) + shift))


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:])


def _sinusoidal(c_noise: Tensor, channels: int) -> Tensor:
    """[B] -> [B, channels]; c_noise = ln(sigma) / 4 spans about [-1.6, 1.7]."""
    frequencies = torch.exp(torch.linspace(0, 4, channels // 2, device=c_noise.device))
    angles = c_noise[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1).to(c_noise.dtype)
