"""`Generator`: one photo -> an orbit of views, whichever network draws it."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from v3d.diffusion.edm import OnStep
from v3d.diffusion.mini import MiniModel
from v3d.errors import V3DError
from v3d.views import Views
from v3d.weights import MINI, weights_folder


class OrbitModel(Protocol):
    """What a network must do to be a generator: `v3d.diffusion.mini` and `v3d.diffusion.svd` do.

    Attributes:
        hash: of the weights.
        agrees_in_colour: whether its views show the same details, so that their colours may shape a surface. Where one
            view is sharp and the others are blurred means of many answers, they dent it, and outlines alone are better.
    """

    hash: str
    agrees_in_colour: ClassVar[bool]

    @property
    def above(self) -> Callable[[Tensor], Views] | None:
        """Draws, of a framed photo, views from above and below the orbit, where the network can: splats are fitted to them, too."""
        ...

    def __call__(
        self,
        rgba: Tensor,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
    ) -> Views: ...


class Generator:
    """Turns a framed photo into the 18 views of its orbit.

    >>> generator = Generator.from_pretrained("mini")
    >>> views = generator(photo.rgba, seed=0)
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
            memory: of the released networks, see `v3d.diffusion.svd.SVDModel`; the mini model needs little.

        Raises:
            V3DError: there are no usable weights under that name.
        """
        folder = weights_folder(name)
        if folder == MINI or (folder / "dit.safetensors").exists():
            return cls(MiniModel.load(folder, device), name)
        from v3d.diffusion.svd import SVDModel  # needs the extra `official`

        return cls(SVDModel.load(name, device, memory=memory), name)

    @property
    def hash(self) -> str:
        """Fingerprint of the weights, for reports."""
        return self.model.hash

    def __call__(
        self,
        rgba: Tensor,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
    ) -> Views:
        """Views [18, H, W] of the orbit of a framed straight-alpha photo `rgba` [S, S, 4] in [0, 1].

        Raises:
            V3DError: the guidance is not finite.
        """
        if guidance is not None and not math.isfinite(guidance):
            raise V3DError(f"The guidance is {guidance}; give a number, 1 for none.")
        return self.model(rgba, seed=seed, steps=steps, guidance=guidance, on_step=on_step)

    def above(self, rgba: Tensor) -> Views | None:
        """Views [12, H, W] of the object of the same photo [S, S, 4], from above and below the orbit (`v3d.cameras.above_and_below`);
        None where the network draws orbits alone."""
        return None if self.model.above is None else self.model.above(rgba)


@lru_cache(maxsize=1)
def load_generator(model: str, device: str) -> Generator:
    """Kept for the next photo: loading the released weights takes longer than a draft."""

    return Generator.from_pretrained(model, device=device)
