"""Training of the scene model: denoise what PixelNeRF's guide leaves of the latents of new views."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from v3d.diffusion.dit import Geometry, OrbitDiT
from v3d.diffusion.edm import Preconditioning, edm_loss
from v3d.diffusion.pixelnerf import load_pixelnerf
from v3d.diffusion.vae import load_vae
from v3d.perceptual import Perceptual
from v3d.scene.model import SceneModel
from v3d.training.dataset import Order
from v3d.training.export import export_mini
from v3d.training.loop import Draw
from v3d.training.pixelnerf import opaque
from v3d.training.recipe import SceneRecipe
from v3d.training.scene_data import SceneShards
from v3d.training.scene_latents import SceneLatents, encode_scenes
from v3d.training.video import Batch, denoise_residual, denoiser, make_dit, mini_model, psnr, sampling
from v3d.training.world import ALONE, World
from v3d.views import Views
from v3d.weights import MINI, MINI_SCENE

_VALIDATION, _SHOWN = 24, 4


class SceneTask:
    """See `v3d.training.loop.Task`."""

    network: nn.Module

    def __init__(self, recipe: SceneRecipe, world: World = ALONE, init: Path | None = None) -> None:
        """Encode the data and make the network.

        Args:
            init: folder of a scene model to start from; its sizes must be the recipe's.

        Raises:
            V3DError: data or weights are missing or do not fit.
        """
        self.recipe, self.world = recipe, world
        self.vae = load_vae(recipe.vae or MINI, world.device)
        self.pixelnerf = load_pixelnerf(recipe.pixelnerf or MINI_SCENE, world.device)
        self.perceptual = Perceptual.load("lpips", device=world.device) if recipe.lpips else None
        self._load()
        self._validation_shards = None if recipe.validation is None else SceneShards(recipe.validation)
        if self._validation_shards is not None and recipe.validation is not None:
            self._validation = self._encode(self._validation_shards, recipe.validation)[:_VALIDATION]
        self.network = make_dit(recipe, self.scenes[0].views, init).to(world.device)

    def _encode(self, shards: SceneShards, folder: Path, appearances: int = 1) -> list[SceneLatents]:
        r = self.recipe
        return encode_scenes(
            shards, folder, self.vae, self.pixelnerf, r.source_counts, r.targets, appearances
        )

    def _load(self) -> None:
        """The data; the first process encodes what is not in the cache."""
        if not self.world.main:
            self.world.wait()
        self.scenes = self._encode(SceneShards(self.recipe.data), self.recipe.data, self.recipe.appearances)
        if self.world.main:
            self.world.wait()
        self.order = Order(len(self.scenes), self.recipe.seed)

    def refresh(self) -> None:
        if len(SceneShards(self.recipe.data)) * self.recipe.appearances > len(self.scenes):
            self._load()

    def batch_size(self, done: float) -> int:
        return self.recipe.batch

    def losses(self, network: nn.Module, draw: Draw) -> dict[str, Tensor]:
        r, g = self.recipe, draw.generator()
        k = int(torch.randint(len(r.source_counts), (), generator=g))
        scenes = [self.scenes[self.order[draw.position + j]] for j in draw.samples]
        batch = self._batch(scenes, k, draw.device)
        if self.perceptual is None:
            return {"loss": denoise_residual(network, batch, draw, r, g).loss}
        # Half of the samples take the sampler's one step, from pure noise; one view of each is looked at.
        first = torch.tensor([j % 2 == 0 for j in draw.samples])
        out = denoise_residual(network, batch, draw, r, g, pure_noise=first)
        v = int(torch.randint(r.targets, (), generator=g))
        unlike = out.loss.new_full(out.loss.shape, torch.nan)
        if first.any():
            true, guide = (
                torch.stack([pictures[k][v] for pictures in chosen]).to(draw.device).float() / 255
                for chosen in zip(
                    *((s.true, s.drawn) for s, one in zip(scenes, first, strict=True) if one), strict=True
                )
            )
            unlike[first] = self._unlike(batch.guide[first, v], out.estimate[first, v], guide, true)
        return {"loss": out.loss + r.lpips * unlike.nan_to_num(0), "lpips": unlike}

    def _unlike(self, z_guide: Tensor, residual: Tensor, guide: Tensor, true: Tensor) -> Tensor:
        """[B] LPIPS of views [B, S, S, 3] drawn as `MiniModel.draw` draws them, from latents [B, C, h, w]."""
        assert self.perceptual is not None
        fast = self.world.precision(self.recipe.precision) == torch.bfloat16
        with torch.autocast(guide.device.type, torch.bfloat16, enabled=fast):
            change = self.vae.decode(z_guide + residual) - self.vae.decode(z_guide)
        drawn = guide + change[:, :3].float().permute(0, 2, 3, 1) / 2
        return self.perceptual.distances(drawn, self.perceptual.prepare(true))

    def _batch(self, scenes: list[SceneLatents], k: int, device: torch.device) -> Batch:
        """What the k-th number of sources sees of the scenes, and is asked for."""
        n, grid = self.recipe.source_counts[k], self.recipe.grid(scenes[0].views.shape[-1])
        views = torch.stack([s.views[s.chosen[k]] for s in scenes]).to(device).float()
        guide = torch.stack([s.guides[k] for s in scenes]).to(device).float()
        geometry = Geometry.stack([Geometry.of(s.cameras[s.chosen[k]], grid) for s in scenes])
        return Batch(views[:, n:], guide, views[:, :n], geometry.to(device))

    def export(self, network: nn.Module, folder: Path) -> None:
        assert isinstance(network, OrbitDiT)
        export_mini(self.vae, self.pixelnerf, network, folder, sampling(self.recipe))

    @torch.no_grad()
    def validate(self, network: nn.Module) -> tuple[dict[str, float], Tensor | None]:
        """For every number of sources the RMSE, in latents, of D(x, 80) and of the guide; and whole samples."""
        if self._validation_shards is None:
            return {}, None
        assert isinstance(network, OrbitDiT)
        device = next(network.parameters()).device
        values: dict[str, float] = {}
        for k, n in enumerate(self.recipe.source_counts):
            batch = self._batch(self._validation, k, device)
            x0 = batch.residual
            noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0)).to(device)
            keep = torch.ones(len(x0), dtype=torch.bool, device=device)
            denoise = denoiser(network, batch, keep, self.recipe)
            estimate = denoise(x0 + 80 * noise, x0.new_full((len(x0),), 80.0))
            values[f"D80 of {n}"] = (estimate - x0).square().mean().sqrt().item()
            values[f"guide of {n}"] = x0.square().mean().sqrt().item()
            edm = Preconditioning(self.recipe.sigma_data)
            loss = edm_loss(denoise, x0, x0.new_ones(len(x0)), noise, edm)
            values[f"loss1 of {n}"] = loss.mean().item()
        scores, picture = self._samples(network)
        return values | scores, picture

    def _samples(self, network: OrbitDiT) -> tuple[dict[str, float], Tensor]:
        """PSNR of views sampled from three photos, and rows: the photos, then truth, guide and sample of four views."""
        assert self._validation_shards is not None
        networks = mini_model(self.vae, self.pixelnerf, network, self.recipe)
        rows, scores = [], []
        for i in range(min(_SHOWN, len(self._validation_shards))):
            rgb, cameras, _ = self._validation_shards[i]
            last = len(rgb) - 1
            given, new = [0, last // 2, last], [last // 6, last // 3, 2 * last // 3, 5 * last // 6]
            x = opaque(rgb).permute(0, 2, 3, 1)
            views = Views(x[..., :3], x[..., 3], cameras)
            drawn = SceneModel(networks, "")(views[given], cameras[new])
            scores.append((drawn.views.rgb - views.rgb[new]).square().mean())
            rows.append(
                torch.cat([*views.rgb[given], *views.rgb[new], *drawn.guide.rgb, *drawn.views.rgb], 1)
            )
        return {"psnr": psnr(torch.stack(scores))}, torch.cat(rows)
