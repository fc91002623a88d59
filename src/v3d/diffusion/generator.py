"""`Generator`: photos -> an orbit of views, whichever model generates it."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import torch

from v3d.callbacks import OnStep
from v3d.diffusion.mini import MiniModel
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.views import Views
from v3d.weights import MINI, weights_folder


class OrbitModel(Protocol):
    """What a `Generator` runs: `v3d.diffusion.mini.MiniModel` and `v3d.diffusion.svd.SVDModel`.

    Attributes:
        hash: fingerprint of the weight files, for reports.
        agrees_in_colour: whether its views show the same details, so that their colours may shape a surface.
            Where one view is sharp and the others are blurred means of many answers, colours dent it, and
            silhouettes alone are better.
    """

    hash: str
    agrees_in_colour: ClassVar[bool]

    def __call__(
        self,
        photos: OrbitPhotos,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
    ) -> Views:
        """Photos -> the 18 views of their orbit, with the photos in their places (`with_photos`)."""
        ...


class Generator:
    """Turns photos of an object into the 18 views of its orbit.

    >>> generator = Generator.from_pretrained("mini")
    >>> views = generator(OrbitPhotos((photo.rgba,)), seed=0)
    """

    def __init__(self, model: OrbitModel, name: str) -> None:
        self.model = model
        self.name = name

    @classmethod
    def from_pretrained(
        cls,
        name: str = "mini",
        *,
        device: torch.device | str = "cpu",
        memory: Literal["auto", "normal", "low"] = "auto",
    ) -> Generator:
        """Load weights.

        Args:
            name: "mini" (ships in the package), a folder of mini weights, or the released networks: a folder
                that `v3d convert` wrote, a diffusers folder of SVD, or such a hub id.
            device: "cpu" or "cuda".
            memory: of the released networks, see `v3d.diffusion.svd.SVDModel`; the mini model needs little.

        Raises:
            V3DError: there are no usable weights under that name.
        """
        folder = weights_folder(name)
        if folder == MINI or (folder / "config.json").exists():
            return cls(MiniModel.load(folder, device), name)
        from v3d.diffusion.svd import SVDModel  # needs the extra `official`

        return cls(SVDModel.load(name, device, memory=memory), name)

    @property
    def hash(self) -> str:
        """Fingerprint of the weights, for reports."""
        return self.model.hash

    @property
    def agrees_in_colour(self) -> bool:
        """Whether its views show the same details, so that their colours may shape a surface."""
        return self.model.agrees_in_colour

    def __call__(
        self,
        photos: OrbitPhotos,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
    ) -> Views:
        """Generate the orbit of photos.

        Args:
            photos: one or more, see `v3d.diffusion.photos.OrbitPhotos`.
            seed: of all noise; the same seed gives the same views on the same machine.
            steps: of the sampler, by default the model's own number; 0 gives a mini model's PixelNeRF views.
            guidance: of classifier-free guidance, 1 for none; by default the model's own.
            on_step: called after every step.

        Returns:
            Views [V, H, W]: the 18 of the orbit and, by azimuth, photos that were taken between them.

        Raises:
            V3DError: the model cannot use these photos, the guidance is not finite, there are fewer steps
                than the model can take, or the device's memory is too small.
        """
        if steps is not None and steps < 0:
            raise V3DError(
                f"The sampler cannot take {steps} steps; give 1 or more, or leave steps out for the model's"
                " own number."
            )
        if guidance is not None and not math.isfinite(guidance):
            raise V3DError(f"The guidance is {guidance}; give a number, 1 for none.")
        return self.model(photos, seed=seed, steps=steps, guidance=guidance, on_step=on_step)


def load_generator(model: str, device: str) -> Generator:
    """`Generator.from_pretrained`, kept for the next photo.

    Loading the released weights takes longer than a draft. One generator is kept; it is loaded again when a
    file of its folder of weights has changed.

    Raises:
        V3DError: there are no usable weights under that name.
    """
    return _load_generator(model, device, _files_of(weights_folder(model)))


@lru_cache(maxsize=1)
def _load_generator(model: str, device: str, files: tuple[tuple[str, int, int], ...]) -> Generator:
    return Generator.from_pretrained(model, device=device)


def _files_of(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Path, size and time of change of every file in a folder of weights and in its components' folders.

    Empty for a hub id: what the hub's cache holds does not change under its name.
    """
    paths = sorted(path for pattern in ("*", "*/*") for path in folder.glob(pattern) if path.is_file())
    paths = [path for path in paths if not path.name.startswith(".")]  # locks, unfinished files
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths)
