"""`v3d convert`: the released checkpoints become a folder that V3D loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from v3d.commands.shared import Out


def convert(
    v3d: Positional[Annotated[Path, arg(metavar="V3D.ckpt")]],
    svd: Positional[Annotated[Path, arg(metavar="svd_xt.safetensors")]],
    /,
    out: Out = Path("v3d-official"),
) -> None:
    """The released checkpoints -> a folder for --model.

    Args:
        v3d: checkpoint of V3D, whose UNet is taken.
        svd: checkpoint of Stable Video Diffusion, whose VAE and image encoder are taken.
        out: must not exist, or be empty.
    """
    from v3d.diffusion.official import convert as checkpoints

    print(checkpoints.convert(v3d, svd, out))
