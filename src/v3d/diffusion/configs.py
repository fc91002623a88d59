"""Sizes of OrbitDiT, as recipes and config.json state them. (Imports nothing heavy.)"""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Suppress

from v3d.checks import NOT_NEGATIVE, POSITIVE, check_numbers, whole


@dataclass(frozen=True)
class OrbitDiTConfig:
    """Sizes of OrbitDiT.

    Attributes:
        size: pixels of a view's side, a multiple of `patch`.
        channels: of the convolutions at 1/2, 1/4, ... of the size.
        width: of the transformer, a multiple of 64 (one head each 64 channels).
        depth: its blocks.
        warps: photos that are warped to every view.
        sigma_data: standard deviation of what the guide leaves open, which is what the network models.
    """

    size: Suppress[int] = 128  # no option: it follows from the data
    channels: tuple[int, ...] = (48, 96, 160)
    width: int = 256
    depth: int = 6
    warps: int = 1
    sigma_data: float = 0.3

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(
            self,
            size=whole(8, 8192),
            channels=whole(1, 16_384),
            width=whole(1, 16_384),
            depth=whole(1, 512),
            warps=whole(0, 64),
            sigma_data=POSITIVE,
        )

    @property
    def patch(self) -> int:
        """Pixels of a token's side."""
        return int(2 ** (len(self.channels) + 1))

    @property
    def grid(self) -> int:
        """Tokens of a view's side."""
        return self.size // self.patch


@dataclass(frozen=True)
class Sampling:
    """Defaults of a mini model's sampler.

    Attributes:
        steps: of the sampler; 0 leaves PixelNeRF's views as they are.
        guidance: strength of classifier-free guidance; 1 is none.
        sigma_min: noise level of the last step.
        sigma_max: noise level of the first step.
    """

    steps: int = 1
    guidance: float = 1.0
    sigma_min: float = 0.003
    sigma_max: float = 20.0

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(
            self,
            steps=whole(0, 1000),
            guidance=NOT_NEGATIVE,
            sigma_min=POSITIVE,
            sigma_max=POSITIVE,
        )
