"""PixelNeRF conditioning: what the source photos say about a new view (the paper's scene-level part).

Every source photo is read by a small transformer into a *frustum*: features on depth planes behind its pixels. Beside
the pixels it is given what a network trained on ImageNet sees in them (`v3d.networks.imagenet`).
Points along the rays of a new view are projected into every source; the features found there, and the photo itself
(outlines, and whether the photos agree on a colour and on what surrounds it), are pooled over the sources by mean and standard deviation (weighted, if some
are nearer than others), so that their number and order do not matter, and decoded to a density and a colour. Volume rendering then gives
the new view's colour, opacity and depth. A ray is sampled twice: evenly, to see where things are, then closely there.

A photo of an object is the case of one source with a known camera: an orbit's view 0.

The paper's encoder has features of pixels only and a large decoder of points; ours has features of pixels *and
depths*, so that the decoder, which runs a million times a view, can be tiny. The paper joins a feature map to the
video model's noisy latents; ours joins the drawn image (`v3d.diffusion.guide`). Points that a photo sees take its own
colour, sharp, wherever the network says so (as image-based rendering does).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.cameras import Cameras, poses
from v3d.networks import imagenet
from v3d.networks.configs import PixelNeRFConfig as PixelNeRFConfig
from v3d.runtime import fast_dtype
from v3d.weights import MINI
from v3d.weights.storage import load_network

EMPTY = 0.005  # the weight of a point that is worth drawing
REST = 0.25  # share of a ray's samples that are spaced evenly, whatever the first look has found
FALLOFF = 1.5
"""How fast a photo counts less with its distance from the view, see `nearness`."""


@dataclass(frozen=True)
class Sources:
    """Posed photos: B sets of N.

    Attributes:
        images: [B, N, 4, S, S] in [-1, 1], colour on white, then alpha.
        w2c: [B, N, 4, 4] world-to-camera.
        K: [B, N, 3, 3] intrinsics in units of the image's side.
        weights: [B, N, G] what each photo counts where they are pooled, for each of G equal parts of the rays or views that
            are asked for (see `nearness`).
    """

    images: Tensor
    w2c: Tensor
    K: Tensor
    weights: Tensor

    @staticmethod
    def of(images: Tensor, cameras: Cameras, weights: Tensor | None = None) -> Sources:
        """Of one set: images [N, 4, S, S] with weights [N, G]; without, all count the same."""
        unit = cameras.resized(1, 1)
        weights = torch.ones_like(unit.K[:, 0, :1]) if weights is None else weights
        return Sources(images[None], unit.w2c[None], unit.K[None], weights[None])

    @staticmethod
    def stack(sets: list[Sources]) -> Sources:
        """A batch of sets with equally many photos."""
        return Sources(*(torch.cat([getattr(s, f.name) for s in sets]) for f in fields(Sources)))

    def to(self, device: torch.device | str) -> Sources:
        return Sources(*(getattr(self, f.name).to(device) for f in fields(self)))


@dataclass(frozen=True)
class Frusta:
    """What the encoder made of `sources`.

    Attributes:
        volumes: [B, N, C, planes, grid, grid].
        pictures: [B, N, 4 + texture, S, S] the photos, and what surrounds their pixels.
    """

    sources: Sources
    volumes: Tensor
    pictures: Tensor


@dataclass(frozen=True)
class Rendered:
    """R rays of each of B new sets of views.

    Attributes:
        rgb: [B, R, 3] in [0, 1], premultiplied by `alpha`.
        alpha: [B, R].
        depth: [B, R] expected camera depth times alpha.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor


class PixelNeRF(nn.Module):
    """See the module."""

    def __init__(self, config: PixelNeRFConfig = PixelNeRFConfig()) -> None:  # noqa: B008 (frozen)
        super().__init__()
        self.config = c = config
        self.tokens = c.size // c.patch
        self.cells = c.grid // self.tokens  # of a token's side
        self.image_in = nn.Linear(4 * c.patch**2 + 6, c.width)
        self.meaning_in = nn.Linear(imagenet.CHANNELS, c.width) if c.imagenet else None
        self.position = nn.Parameter(0.02 * torch.randn(self.tokens**2, c.width))
        self.blocks = nn.ModuleList(EncoderBlock(c.width) for _ in range(c.depth))
        self.norm = nn.LayerNorm(c.width)
        self.frustum = nn.Linear(c.width, self.cells**2 * c.planes * c.channels)
        self.texture = texture_network(c.texture) if c.texture else None
        self.pooled = nn.Linear(2 * (c.channels + 4 + c.texture) + 1, c.hidden)
        self.decoded = nn.Linear(c.hidden, 5)  # density, weight of the colour, colour
        if self.meaning_in is not None:
            nn.init.zeros_(self.meaning_in.weight)
            nn.init.zeros_(self.meaning_in.bias)
        nn.init.normal_(self.frustum.weight, std=0.02)
        nn.init.zeros_(self.frustum.bias)
        nn.init.zeros_(self.decoded.bias)

    def forward(
        self, sources: Sources, origins: Tensor, directions: Tensor, jitter: Tensor | float = 0.5
    ) -> Rendered:
        """Rays of new views, see `render`."""
        return self.render(self.encode(sources), origins, directions, None, jitter)

    @torch.no_grad()
    def images(self, sources: Sources, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """New views of one set of sources (B = 1), one view at a time to save memory.

        A first look, at a quarter of the size, says where things are.

        Returns:
            images [V, 4, H, W] in [-1, 1], colour on white and alpha; and camera depth [V, H, W], 0 where the view
            is empty. H and W are multiples of 4.
        """
        device = self.position.device
        fast = fast_dtype(device) == torch.bfloat16
        H, W = cameras.height, cameras.width
        coarse = cameras.resized(W // 4, H // 4)
        weights = sources.weights.to(device)
        images, depths = [], []
        with torch.autocast(device.type, torch.bfloat16, enabled=fast):
            frusta = self.encode(sources.to(device))
            for v in range(len(cameras)):
                if weights.shape[-1] > 1:
                    weighted = replace(frusta.sources, weights=weights[..., v : v + 1])
                    frusta = replace(frusta, sources=weighted)
                found = self.look(frusta, *_rays(coarse[v].to(device)))[0].T.unflatten(1, (H // 4, W // 4))
                found = F.max_pool2d(found, 3, stride=1, padding=1)  # what is near a ray may be on it
                found = F.interpolate(found[None], (H, W), mode="nearest")[0].flatten(1).T
                alive = found.amax(1) > EMPTY
                origins, directions = (x[:, alive] for x in _rays(cameras[v].to(device)))
                view = self.render(frusta, origins, directions, self.spaced(found[None, alive]))
                alpha = view.alpha[0, :, None]
                drawn = torch.cat([view.rgb[0] + 1 - alpha, alpha], -1).clamp(0, 1) * 2 - 1
                image = drawn.new_tensor([1.0, 1.0, 1.0, -1.0]).repeat(H * W, 1)
                image[alive] = drawn
                images.append(image.T.unflatten(1, (H, W)))
                depth = torch.zeros_like(image[:, 0])
                depth[alive] = torch.where(alpha > 0.05, view.depth[0, :, None] / alpha.clamp_min(0.05), 0)[
                    :, 0
                ]
                depths.append(depth.unflatten(0, (H, W)))
        return torch.stack(images), torch.stack(depths)

    @torch.no_grad()
    def look(self, frusta: Frusta, origins: Tensor, directions: Tensor) -> Tensor:
        """[B, R, samples]: what points spaced evenly along rays would weigh in their colours: a look at where things are."""
        B, R, _ = origins.shape
        even = torch.linspace(0, 1, self.config.samples + 1, device=origins.device).expand(B, R, -1)
        return self._weigh(frusta, origins, directions, even, 0.5)[0]

    def spaced(self, found: Tensor) -> Tensor:
        """Intervals along rays that hold equal parts of what a `look` [B, R, samples] has found, and of the empty rest.

        Returns:
            [B, R, fine + 1] their edges, 0 at `near` to 1 at `far` in log steps (inverse transform sampling, Mildenhall et
            al. 2020, section 5.2, without chance).
        """
        S, K = self.config.samples, self.config.fine
        # A surface between two points is near both.
        w = F.max_pool1d(found.reshape(-1, 1, S), 3, stride=1, padding=1).view_as(found)
        w = w / w.sum(-1, keepdim=True).clamp_min(1e-6) * (1 - REST) + REST / S
        cdf = F.pad((w / w.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
        at = torch.linspace(0, 1, K + 1, device=w.device).expand(*w.shape[:-1], -1).contiguous()
        right = torch.searchsorted(cdf, at, right=True).clamp(1, S)
        low, high = cdf.gather(-1, right - 1), cdf.gather(-1, right)
        return ((right - 1 + (at - low) / (high - low)) / S).clamp(0, 1)

    def encode(self, sources: Sources) -> Frusta:
        """Attention runs over the patches of all sources together; they are told apart by their rays."""
        c, t, u = self.config, self.tokens, self.cells
        B, N = sources.images.shape[:2]
        dtype = self.image_in.weight.dtype
        x = sources.images.unflatten(-2, (t, c.patch)).unflatten(-1, (t, c.patch))
        x = x.permute(0, 1, 3, 5, 2, 4, 6).reshape(B, N, t * t, -1)
        x = self.image_in(torch.cat([x, patch_rays(sources, t)], -1).to(dtype)) + self.position
        if self.meaning_in is not None:
            features = imagenet.semantic_features(sources.images[:, :, :3].flatten(0, 1).to(dtype), t)
            x = x + self.meaning_in(features.unflatten(0, (B, N)))
        x = x.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        v = self.frustum(self.norm(x)).view(B, N, t, t, u, u, c.planes, c.channels)
        v = v.permute(0, 1, 7, 6, 2, 4, 3, 5).reshape(B, N, c.channels, c.planes, c.grid, c.grid)
        return Frusta(sources, v, self._pictures(sources.images))

    def _pictures(self, photos: Tensor) -> Tensor:
        if self.texture is None:
            return photos
        texture = self.texture(photos.flatten(0, 1).to(self.image_in.weight.dtype)).to(photos.dtype)
        return torch.cat([photos, texture.unflatten(0, photos.shape[:2])], 2)

    def render(
        self,
        frusta: Frusta,
        origins: Tensor,
        directions: Tensor,
        edges: Tensor | None = None,
        jitter: Tensor | float = 0.5,
    ) -> Rendered:
        """Volume rendering.

        Args:
            origins, directions: [B, R, 3] rays of new views; directions have unit camera z.
            edges: [B, R, fine + 1] of the intervals that are sampled, see `spaced`; None takes a look first.
            jitter: [B, R, 1] in [0, 1), where in its interval each sample lies.
        """
        if edges is None:
            edges = self.spaced(self.look(frusta, origins, directions))
        weight, depth, colour = self._weigh(frusta, origins, directions, edges, jitter)
        rgb = (weight[:, :, None] @ colour)[:, :, 0]
        return Rendered(rgb, weight.sum(-1), (weight * depth).sum(-1))

    def _weigh(
        self, frusta: Frusta, origins: Tensor, directions: Tensor, edges: Tensor, jitter: Tensor | float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of a sample in every interval between `edges`: weights [B, R, S], camera depths, and colours [B, R, S, 3]."""
        c = self.config
        width = edges.diff(dim=-1)
        depth = c.near * (c.far / c.near) ** (edges[..., :-1] + jitter * width)
        density, colour = self.decode(frusta, _points(origins, directions, depth))
        length = depth * math.log(c.far / c.near) * width * directions.norm(dim=-1, keepdim=True)
        optical = density.view(depth.shape) * length
        if c.opaque:
            optical = torch.cat([optical[..., :-1], torch.full_like(optical[..., -1:], 20.0)], -1)
        before = optical.cumsum(-1) - optical
        weight = torch.exp(-before) - torch.exp(-before - optical)
        return weight, depth, colour.view(*depth.shape, 3)

    def decode(self, frusta: Frusta, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density [B, P] and colour [B, P, 3] at points [B, P, 3]."""
        s, c = frusta.sources, self.config
        B, N = s.images.shape[:2]
        x = torch.einsum("bnij,bpj->bnpi", s.w2c[..., :3, :3], points) + s.w2c[..., None, :3, 3]
        z = x[..., 2].clamp_min(1e-3)
        uv = (
            torch.einsum("bnij,bnpj->bnpi", s.K[..., :2, :2], x[..., :2] / z[..., None])
            + s.K[..., None, :2, 2]
        )
        plane = (z / c.near).log() / math.log(c.far / c.near)
        where = torch.cat([uv, plane[..., None]], -1) * 2 - 1  # [B, N, P, 3]
        seen = ((where.abs() <= 1).all(-1) & (x[..., 2] > 0)).to(points.dtype)  # [B, N, P]

        where = where.flatten(0, 1)
        h = _sample(frusta.volumes.flatten(0, 1).to(points.dtype), where[:, None, None]).unflatten(
            0, (B, N)
        )  # [B, N, P, C]
        photo = _sample(frusta.pictures.flatten(0, 1), where[:, None, :, :2]).unflatten(0, (B, N))
        parts = s.weights.shape[-1]
        weights = s.weights if parts == 1 else s.weights.repeat_interleave(points.shape[1] // parts, -1)
        found, m = torch.cat([h, photo], -1), (seen * weights)[..., None]
        count = m.sum(1).clamp_min(1e-6)
        mean = (found * m).sum(1) / count
        variance = ((found - mean[:, None]).square() * m).sum(1) / count
        pooled = torch.cat([mean, (variance + 1e-4).sqrt() - 1e-2, seen.mean(1)[..., None]], -1)
        hidden = F.silu(self.pooled(pooled.to(self.pooled.weight.dtype)))  # [B, P, hidden]
        out = self.decoded(hidden).to(points.dtype)
        density = 8 * F.softplus(2 * out[..., 0] - 1) * seen.amax(1)
        vote = h[..., 0] + weights.log() + (seen - 1) * 1e4
        votes = torch.cat([vote, out[:, None, :, 1]], 1).softmax(1)[..., None]
        colours = torch.cat([photo[..., :3] * 0.5 + 0.5, out[:, None, :, 2:].sigmoid()], 1)
        return density, (votes * colours).sum(1)


def texture_network(channels: int) -> nn.Module:
    """Photos [B, 4, S, S] -> [B, channels, S, S], what the 13 x 13 pixels around each look like."""
    return nn.Sequential(
        nn.Conv2d(4, 2 * channels, 5, stride=2, padding=2),
        nn.SiLU(),
        nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(2 * channels, channels, 3, padding=1),
        nn.Tanh(),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )


class EncoderBlock(nn.Module):
    """Plain pre-norm transformer block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 64
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        for layer in (self.out, self.down):
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]."""
        y = self.norm1(x)
        q, k, v = (
            f(y).unflatten(-1, (self.heads, 64)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        q, k = F.layer_norm(q, (64,)), F.layer_norm(k, (64,))
        scores = torch.softmax(q @ k.mT / 8, -1)  # spelled out: cheaper on the CPU than its fused form
        x = x + self.out((scores @ v).transpose(1, 2).flatten(2))
        return x + self.down(F.silu(self.up(self.norm2(x))))


def patch_rays(sources: Sources, tokens: int) -> Tensor:
    """Plücker rays [B, N, tokens^2, 6] (moment, unit direction) of patch centres, rows first."""
    at = (torch.arange(tokens, dtype=sources.K.dtype, device=sources.K.device) + 0.5) / tokens
    pixels = torch.stack(
        [at.repeat(tokens), at.repeat_interleave(tokens), torch.ones_like(at).repeat(tokens)]
    )
    R, t = sources.w2c[..., :3, :3], sources.w2c[..., :3, 3:]
    directions = F.normalize((R.mT @ torch.linalg.inv(sources.K) @ pixels).mT, dim=-1)
    origin = -(R.mT @ t).mT.expand_as(directions)
    return torch.cat([torch.linalg.cross(origin, directions), directions], -1)


def nearness(photos: Cameras, views: Cameras) -> Tensor:
    """What each of N photos counts for each of V views, [N, V]: (distance / that of the nearest photo)^-FALLOFF."""
    distance = (poses(photos, photos)[:, None] - poses(views, photos)).norm(dim=-1).clamp_min(1e-3)
    return (distance / distance.amin(0)) ** -FALLOFF


def _rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Origins and directions [1, V * H * W, 3]."""
    origins, directions = cameras.rays()
    return origins.reshape(1, -1, 3), directions.reshape(1, -1, 3)


def _points(origins: Tensor, directions: Tensor, depth: Tensor) -> Tensor:
    """[B, R * S, 3] points at `depth` [B, R, S] along rays."""
    return (origins[:, :, None] + directions[:, :, None] * depth[..., None]).flatten(1, 2)


def _sample(grids: Tensor, where: Tensor) -> Tensor:
    """Linear interpolation of grids [B, C, (D,) H, W] at `where` [B, (1,) 1, P, 2 or 3] in [-1, 1] -> [B, P, C]."""
    values = F.grid_sample(grids, where, mode="bilinear", padding_mode="border", align_corners=False)
    return values.flatten(2).mT


def load_pixelnerf(folder: str | Path = MINI, device: torch.device | str = "cpu") -> PixelNeRF:
    """The frozen network of a folder of weights; by default the one in the package.

    Raises:
        V3DError: a file is missing, damaged or does not fit its configuration.
    """

    def make(config: dict[str, Any]) -> PixelNeRF:
        return PixelNeRF(PixelNeRFConfig(**config))

    return load_network(Path(folder), "pixelnerf", make).requires_grad_(False).eval().to(device)
