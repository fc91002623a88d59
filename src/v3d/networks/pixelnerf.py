"""PixelNeRF conditioning: what the source photos say about a new view (the paper's scene-level part).

Every source photo is read by a small transformer into a *frustum*: features on depth planes behind its
pixels. Beside the pixels the transformer is given the features of a network trained on ImageNet
(`v3d.networks.imagenet`). Points along the rays of a new view are projected into every source
(`v3d.networks.sources`); the features found there, and the photo itself (silhouettes, and whether the photos
agree on a colour and on what surrounds it), are pooled over the sources by weighted mean and standard
deviation, so that their number and order do not matter, and decoded to a density and a colour. Volume
rendering (`v3d.networks.volume_rendering`) then gives the new view's colour, opacity and depth. A ray is
sampled twice: coarsely, to see where things are, then finely there.

A photo of an object is the case of one source with a known camera: an orbit's view 0.

The paper's encoder has features of pixels only and a large decoder of points; ours has features of pixels
*and depths*, so that the decoder, which runs a million times a view, can be tiny. The paper joins a feature
map to the video model's noisy latents; ours joins the rendered image (`v3d.diffusion.guide`). Points that a
photo shows take its own colour, sharp, wherever the network says so (as image-based rendering does).

Matrix products and convolutions run in bfloat16 where a device is fast at it; geometry stays in float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from v3d.cameras import Cameras
from v3d.networks import imagenet
from v3d.networks.configs import PixelNeRFConfig as PixelNeRFConfig
from v3d.networks.interpolation import interpolate
from v3d.networks.sources import Sources, patch_rays, project
from v3d.networks.volume_rendering import (
    Rendered,
    composite,
    even_edges,
    flat_rays,
    importance_edges,
    points_on_rays,
    rendering_weights,
    sample_depths,
)
from v3d.runtime import fast_dtype
from v3d.weights import MINI
from v3d.weights.storage import load_network

EMPTY = 0.005
"""Rays whose coarse samples all weigh less are not rendered."""


@dataclass(frozen=True)
class Frusta:
    """What the encoder made of `sources`.

    Attributes:
        sources: the photos, with their cameras and weights.
        volumes: [B, N, channels, planes, grid, grid] features behind each photo, on planes in log depth.
        pixels: [B, N, 4 + texture, S, S] the photos, and features of what surrounds each of their pixels.
    """

    sources: Sources
    volumes: Tensor
    pixels: Tensor


class PixelNeRF(nn.Module):
    """Sources -> new views (paper, scene-level part; Yu et al. 2021): `encode`, then `render` any rays."""

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
        self.decoded = nn.Linear(c.hidden, 5)  # density, vote for the decoder's own colour, that colour
        if self.meaning_in is not None:
            nn.init.zeros_(self.meaning_in.weight)
            nn.init.zeros_(self.meaning_in.bias)
        nn.init.normal_(self.frustum.weight, std=0.02)
        nn.init.zeros_(self.frustum.bias)
        nn.init.zeros_(self.decoded.bias)

    def forward(
        self, sources: Sources, origins: Tensor, directions: Tensor, jitter: Tensor | float = 0.5
    ) -> Rendered:
        """Encode sources and render rays [B, R, 3] of new views, see `render`."""
        return self.render(self.encode(sources), origins, directions, None, jitter)

    @torch.no_grad()
    def render_images(self, sources: Sources, cameras: Cameras) -> tuple[Tensor, Tensor]:
        """New views of one set of sources (B = 1), one view at a time to save memory.

        Args:
            sources: one set of posed photos, whose weights are for all views ([1, N, 1]) or for each of V.
            cameras: V of them; width and height are multiples of 4.

        Returns:
            Images [V, 4, H, W] in [-1, 1], colour on white and alpha; and camera depth [V, H, W], 0 where a
            view is empty.
        """
        device = self.position.device
        weights = sources.weights.to(device)
        images, depths = [], []
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_dtype(device) == torch.bfloat16):
            frusta = self.encode(sources.to(device))
            if not self.config.opaque and sources.images.shape[1] == 1:
                # Several photos even out each other's lattices, and share details of single cells.
                frusta = replace(frusta, volumes=without_lattice(frusta.volumes, self.cells))
            for v in range(len(cameras)):
                if weights.shape[-1] > 1:
                    weighted = replace(frusta.sources, weights=weights[..., v : v + 1])
                    frusta = replace(frusta, sources=weighted)
                image, depth = self._render_image(frusta, cameras[v].to(device))
                images.append(image)
                depths.append(depth)
        return torch.stack(images), torch.stack(depths)

    def _render_image(self, frusta: Frusta, camera: Cameras) -> tuple[Tensor, Tensor]:
        """One view [4, H, W] and its depth [H, W], as `render_images` returns them.

        Coarse samples, at a quarter of the size, tell which rays are empty.
        """
        H, W = camera.height, camera.width
        coarse = self.coarse_weights(frusta, *flat_rays(camera.resized(W // 4, H // 4)))
        weights = coarse[0].T.unflatten(1, (H // 4, W // 4))
        weights = F.max_pool2d(weights, 3, stride=1, padding=1)  # what is near a ray may be on it
        weights = F.interpolate(weights[None], (H, W), mode="nearest")[0].flatten(1).T
        alive = weights.amax(1) > EMPTY
        origins, directions = (x[:, alive] for x in flat_rays(camera))
        edges = importance_edges(weights[None, alive], self.config.fine)
        view = self.render(frusta, origins, directions, edges)
        alpha = view.alpha[0, :, None]
        rendered = torch.cat([view.rgb[0] + 1 - alpha, alpha], -1).clamp(0, 1) * 2 - 1
        image = rendered.new_tensor([1.0, 1.0, 1.0, -1.0]).repeat(H * W, 1)
        image[alive] = rendered
        depth = torch.zeros_like(image[:, 0])
        depth[alive] = torch.where(alpha > 0.05, view.depth[0, :, None] / alpha.clamp_min(0.05), 0)[:, 0]
        return image.T.unflatten(1, (H, W)), depth.unflatten(0, (H, W))

    def encode(self, sources: Sources) -> Frusta:
        """Read the sources: attention over the patches of all of them, which differ by their rays."""
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
        v = v.permute(0, 1, 6, 2, 4, 3, 5, 7).reshape(B, N, c.planes, c.grid, c.grid, c.channels)
        volumes = v.to(sources.images.dtype).movedim(-1, 2)  # channels stay contiguous, see `interpolate`
        return Frusta(sources, volumes, self._pixel_features(sources.images))

    def _pixel_features(self, photos: Tensor) -> Tensor:
        if self.texture is None:
            return photos
        texture = self.texture(photos.flatten(0, 1).to(self.image_in.weight.dtype)).to(photos.dtype)
        return torch.cat([photos, texture.unflatten(0, photos.shape[:2])], 2)

    @torch.no_grad()
    def coarse_weights(self, frusta: Frusta, origins: Tensor, directions: Tensor) -> Tensor:
        """[B, R, samples] rendering weights of evenly spaced samples of rays [B, R, 3]: where things are."""
        edges = even_edges(origins, self.config.samples)
        return self._sample(frusta, origins, directions, edges, 0.5)[0]

    def render(
        self,
        frusta: Frusta,
        origins: Tensor,
        directions: Tensor,
        edges: Tensor | None = None,
        jitter: Tensor | float = 0.5,
    ) -> Rendered:
        """Volume rendering of rays (NeRF eq. 3).

        Args:
            origins, directions: [B, R, 3] rays of new views; directions have unit camera z.
            edges: [B, R, fine + 1] of the sampled intervals, see `importance_edges`; None finds them with
                coarse samples.
            jitter: [B, R, 1] in [0, 1), where in its interval each sample lies.
        """
        if edges is None:
            edges = importance_edges(self.coarse_weights(frusta, origins, directions), self.config.fine)
        return composite(*self._sample(frusta, origins, directions, edges, jitter))

    def _sample(
        self, frusta: Frusta, origins: Tensor, directions: Tensor, edges: Tensor, jitter: Tensor | float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rendering weights and depths [B, R, S] and colours [B, R, S, 3] of a sample in every interval."""
        c = self.config
        depth = sample_depths(edges, c.near, c.far, jitter)
        density, colour = self.decode(frusta, points_on_rays(origins, directions, depth))
        density = density.view(depth.shape)
        weights = rendering_weights(density, depth, edges, directions, c.near, c.far, opaque=c.opaque)
        return weights, depth, colour.view(*depth.shape, 3)

    def decode(self, frusta: Frusta, points: Tensor) -> tuple[Tensor, Tensor]:
        """Density and colour at points of the world.

        Args:
            points: [B, P, 3].

        Returns:
            Density [B, P] per unit of length, 0 where no source sees the point; colour [B, P, 3] in [0, 1].
        """
        s, c = frusta.sources, self.config
        B, N = s.images.shape[:2]
        uv, depth = project(s, points)
        plane = (depth.clamp_min(1e-3) / c.near).log() / math.log(c.far / c.near)
        grid = torch.cat([uv, plane[..., None]], -1) * 2 - 1  # [B, N, P, 3]
        visible = ((grid.abs() <= 1).all(-1) & (depth > 0)).to(points.dtype)  # [B, N, P]

        grid = grid.flatten(0, 1)
        h = interpolate(frusta.volumes.flatten(0, 1), grid).unflatten(0, (B, N))  # [B, N, P, channels]
        photo = interpolate(frusta.pixels.flatten(0, 1), grid[..., :2]).unflatten(0, (B, N))
        parts = s.weights.shape[-1]
        weights = s.weights if parts == 1 else s.weights.repeat_interleave(points.shape[1] // parts, -1)
        hidden = F.silu(self._pool(torch.cat([h, photo], -1), visible, weights))  # [B, P, hidden]
        out = self.decoded(hidden).to(points.dtype)
        density = 8 * F.softplus(2 * out[..., 0] - 1) * visible.amax(1)
        vote, own = h[..., 0] + weights.log() + (visible - 1) * 1e4, out[..., 2:].sigmoid()
        if N == 1:  # softmax of two
            share = torch.sigmoid(vote[:, 0] - out[..., 1])[..., None]
            return density, torch.lerp(own, photo[:, 0, :, :3] * 0.5 + 0.5, share)
        votes = torch.cat([vote, out[:, None, :, 1]], 1).softmax(1)[..., None]
        colours = torch.cat([photo[..., :3] * 0.5 + 0.5, own[:, None]], 1)
        return density, (votes * colours).sum(1)

    def _pool(self, features: Tensor, visible: Tensor, weights: Tensor) -> Tensor:
        """`self.pooled` of mean and deviation over the sources that see a point, and of their share.

        Args:
            features: [B, N, P, F].
            visible: [B, N, P], 1 where a source sees a point, else 0.
            weights: [B, N, P or 1] of the sources.

        Returns:
            [B, P, hidden].
        """
        layer = self.pooled
        if features.shape[1] == 1:  # mean = value, deviation = 0
            seen = visible[:, 0, :, None]
            found = torch.cat([features[:, 0] * seen, seen], -1)
            matrix = torch.cat([layer.weight[:, : features.shape[-1]], layer.weight[:, -1:]], -1)
            return F.linear(found.to(matrix.dtype), matrix, layer.bias)
        m = (visible * weights)[..., None]
        total = m.sum(1).clamp_min(1e-6)
        mean = (features * m).sum(1) / total
        variance = ((features - mean[:, None]).square() * m).sum(1) / total
        pooled = torch.cat([mean, (variance + 1e-4).sqrt() - 1e-2, visible.mean(1)[..., None]], -1)
        out: Tensor = layer(pooled.to(layer.weight.dtype))
        return out


def without_lattice(volumes: Tensor, cells: int) -> Tensor:
    """Volumes without the pattern that each token's cells share with those of the tokens around it.

    A token writes its `cells` x `cells` cells with weights of their own, so whatever these have wrong repeats
    from token to token: from the front a screen door, from the side ragged outlines. Cells less their mean
    over a token's width are averaged over 3 x 3 tokens, place by place, and taken off: what repeats goes,
    straight slopes stay, and a detail of one token keeps eight ninths.

    Args:
        volumes: [..., grid, grid].
        cells: of a token's side, odd or even; 1 changes nothing.
    """
    if cells == 1:
        return volumes
    taps = torch.ones(cells + 1 - cells % 2, device=volumes.device)
    if cells % 2 == 0:
        taps[[0, -1]] = 0.5  # a centred box as wide as a token
    box, reach = taps / cells, len(taps) // 2
    x = volumes.float().flatten(0, -3)[:, None]
    mean = F.pad(x, (reach,) * 4, mode="replicate")
    mean = F.conv2d(F.conv2d(mean, box[None, None, None]), box[None, None, :, None])
    places = F.pixel_unshuffle(x - mean, cells)  # [..., cells^2, tokens, tokens]
    lattice = F.avg_pool2d(places, 3, stride=1, padding=1, count_include_pad=False)
    return (x - F.pixel_shuffle(lattice, cells)).view(volumes.shape).to(volumes.dtype)


def texture_network(channels: int) -> nn.Module:
    """Photos [B, 4, S, S] -> [B, channels, S, S], features of the 13 x 13 pixels around each pixel."""
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
    """Plain pre-norm transformer block with normalised queries and keys."""

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
        """Tokens [B, T, width] -> [B, T, width]."""
        y = self.norm1(x)
        q, k, v = (
            f(y).unflatten(-1, (self.heads, 64)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        q, k = F.layer_norm(q, (64,)), F.layer_norm(k, (64,))
        scores = torch.softmax(q @ k.mT / 8, -1)  # spelled out: cheaper on the CPU than its fused form
        x = x + self.out((scores @ v).transpose(1, 2).flatten(2))
        mlp: Tensor = self.down(F.silu(self.up(self.norm2(x))))
        return x + mlp


def load_pixelnerf(
    folder: str | Path = MINI, device: torch.device | str = "cpu", *, name: str = "pixelnerf"
) -> PixelNeRF:
    """The frozen network of a folder of weights; by default the one in the package.

    Args:
        folder: with `config.json` and the weights.
        device: where the network goes.
        name: of its part of `config.json` and of its file.

    Raises:
        V3DError: a file is missing, damaged or does not fit its configuration.
    """

    def make(config: dict[str, Any]) -> PixelNeRF:
        return PixelNeRF(PixelNeRFConfig(**config))

    return load_network(Path(folder), name, make).requires_grad_(False).eval().to(device)
