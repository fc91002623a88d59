"""The scene model: new views of a scene from a few posed photos (the paper's scene-level part).

The networks are those of the orbit model, trained on scenes: PixelNeRF pools the features of all photos for
every new view, and the video model generates all new views together.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from v3d.callbacks import OnStep
from v3d.cameras import Cameras
from v3d.diffusion.mini import MiniModel
from v3d.errors import V3DError
from v3d.views import Views, cat_views
from v3d.weights import weights_folder


@dataclass(frozen=True)
class SceneViews:
    """New views of a scene.

    Attributes:
        views: V views of size x size pixels, alpha 1.
        guide: the views that PixelNeRF alone renders for the same cameras, which guide the video model.
        depth: [V, h, w] camera depth in the normalised world, 0 where unknown.
    """

    views: Views
    guide: Views
    depth: Tensor


class SceneModel:
    """Posed photos -> new views.

    >>> model = SceneModel.load("mini-scene")
    >>> new = model(photos, cameras, seed=0).views
    """

    def __init__(self, networks: MiniModel, name: str) -> None:
        self.networks = networks
        self.name = name

    @staticmethod
    def load(name: str | Path = "mini-scene", device: torch.device | str = "cpu") -> SceneModel:
        """Weights that ship ("mini-scene") or those in a folder.

        Raises:
            V3DError: there are no usable weights under that name.
        """
        return SceneModel(MiniModel.load(weights_folder(name), device), str(name))

    @property
    def hash(self) -> str:
        """Fingerprint of the weights, for reports."""
        return self.networks.hash

    @property
    def size(self) -> int:
        """Pixels of a view's side."""
        return self.networks.size

    def __call__(
        self,
        sources: Views,
        targets: Cameras,
        *,
        generated: Views | None = None,
        seed: int = 0,
        steps: int | None = None,
        on_step: OnStep | None = None,
    ) -> SceneViews:
        """Generate new views together. Photos and new views are reduced to the square in their middle.

        Args:
            sources: posed photos in the normalised world (`v3d.scene.normalise`), in any order. Every view is
                generated from those near it.
            targets: cameras of the new views: a clip of up to about 18.
            generated: views of earlier clips, which these are to agree with.
            seed: of the initial noise.
            steps: of the sampler; the model's own number by default.
            on_step: called with the steps done and the steps in all.

        Raises:
            V3DError: there are no photos.
        """
        if len(sources) == 0:
            raise V3DError("The scene model reads at least one photo; none was given.")
        before = 0 if generated is None else len(generated)
        photos = square(sources).resized(self.size, self.size)
        if generated is not None:
            photos = cat_views([photos, square(generated).resized(self.size, self.size)])
        cameras = square_cameras(targets).resized(self.size, self.size)
        images = torch.cat([photos.rgb, torch.ones_like(photos.rgb[..., :1])], -1).permute(0, 3, 1, 2)
        made = self.networks.generate(
            images * 2 - 1,
            photos.cameras,
            cameras,
            n_generated=before,
            seed=seed,
            steps=steps,
            on_step=on_step,
        )
        return SceneViews(_views(made.images, cameras), _views(made.guide, cameras), made.depth)


def square(views: Views) -> Views:
    """The square in the middle of every view."""
    H, W = views.rgb.shape[1:3]
    side = min(H, W)
    y, x = (H - side) // 2, (W - side) // 2
    rgb, alpha = (t[:, y : y + side, x : x + side] for t in (views.rgb, views.alpha))
    return Views(rgb, alpha, square_cameras(views.cameras))


def square_cameras(cameras: Cameras) -> Cameras:
    """Cameras that see the square in the middle of the given cameras' images."""
    side = min(cameras.width, cameras.height)
    K = cameras.K.clone()
    K[:, 0, 2] -= (cameras.width - side) // 2
    K[:, 1, 2] -= (cameras.height - side) // 2
    return Cameras(cameras.c2w, K, side, side)


def _views(images: Tensor, cameras: Cameras) -> Views:
    """Opaque views of images [V, 3 or more, S, S] in [-1, 1]."""
    rgb = (images[:, :3] / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).contiguous()
    return Views(rgb, torch.ones_like(rgb[..., 0]), cameras)
