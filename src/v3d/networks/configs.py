"""Sizes of the networks, as recipes and config.json state them. (Imports nothing heavy.)"""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Suppress

from v3d.checks import COUNT, POSITIVE, check_numbers, whole

_PIXELS, _CHANNELS, _BLOCKS = whole(8, 8192), whole(1, 16_384), whole(1, 512)


@dataclass(frozen=True)
class PixelNeRFConfig:
    """Sizes of PixelNeRF.

    Attributes:
        size: pixels of a source's side.
        patch: pixels of a token's side.
        width: channels of a token, a multiple of 64 (one head each 64 channels).
        depth: transformer blocks.
        grid: cells of a frustum's side.
        planes: depth planes of a frustum.
        channels: features in a cell of a frustum.
        hidden: channels of the decoder.
        near: least camera depth that frusta and rays span (in log steps), in the world's units.
        far: largest camera depth that frusta and rays span.
        samples: coarse samples of a ray, which find where things are.
        fine: fine samples of a ray, placed by the coarse ones; these are rendered.
        sources: photos that a view is rendered from at most, the nearest, which count the more the nearer
            they are. Far photos blur what near ones show: views of a real capture are 1.8 dB better from
            three than from all (docs/scenes.md). Objects gain from all four sides (docs/results.md).
        texture: features of what surrounds a photo's pixel, by which photos are compared; 0: by colour only.
        drawn: side of the rendered images that guide the video model, in pixels.
        opaque: every ray ends on something (scenes); else what is left is the white ground (objects).
        imagenet: the encoder also sees what `v3d.networks.imagenet` recognises.
    """

    size: int = 128
    patch: int = 8
    width: int = 256
    depth: int = 6
    grid: int = 32
    planes: int = 32
    channels: int = 8
    hidden: int = 32
    near: float = 1.0
    far: float = 3.0
    samples: int = 32
    fine: int = 24
    sources: int = 3
    texture: int = 0
    drawn: int = 128
    opaque: Suppress[bool] = False  # no option: it follows from the kind of data
    imagenet: bool = False

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(
            self,
            size=_PIXELS,
            patch=COUNT,
            width=_CHANNELS,
            depth=_BLOCKS,
            grid=whole(1, 1024),
            planes=whole(1, 1024),
            channels=_CHANNELS,
            hidden=_CHANNELS,
            near=POSITIVE,
            far=POSITIVE,
            samples=COUNT,
            fine=whole(0),
            sources=COUNT,
            texture=whole(0, 1024),
            drawn=_PIXELS,
        )


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the VAE.

    Attributes:
        latent_channels: channels of a latent.
        widths: channels at 1/2, 1/4 and 1/8 of the image's size.
        blocks: residual blocks of a size.
    """

    latent_channels: int = 8
    widths: tuple[int, int, int] = (32, 64, 128)
    blocks: int = 2

    def __post_init__(self) -> None:
        """Check numbers; raises `v3d.V3DError` where one is outside of its range."""
        check_numbers(self, latent_channels=_CHANNELS, widths=_CHANNELS, blocks=_BLOCKS)
