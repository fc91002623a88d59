"""gsplat's CUDA rasterizer behind the same interface (the extra `cuda`)."""

from __future__ import annotations

import torch
from torch import Tensor

from v3d.cameras import Cameras
from v3d.distribution import install_hint
from v3d.errors import V3DError
from v3d.splats.constants import BLUR, NEAR
from v3d.splats.gaussians import Splats


def rasterize_gpu(
    splats: Splats, colours: Tensor, cameras: Cameras
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Render N Gaussians with V cameras on CUDA.

    Args:
        splats: on CUDA, as the cameras.
        cameras: V of them.
        colours: [V, N, C], one set a camera.

    Returns:
        Images [V, H, W, C], alpha [V, H, W], accumulated depth [V, H, W], and `screen` [V, N, 2], whose
        `.grad` after a backward pass is dL/d(projected centre) in pixels; None where none is recorded.

    Raises:
        V3DError: gsplat is not installed.
    """
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise V3DError(
            f"Rendering Gaussians on CUDA needs gsplat: {install_hint('cuda')}, or use the CPU."
        ) from error
    image, alpha, info = rasterization(
        splats.means,
        splats.quats,
        splats.scales,
        splats.opacity,
        colours,
        cameras.w2c,
        cameras.K,
        cameras.width,
        cameras.height,
        near_plane=NEAR,
        eps2d=BLUR,
        render_mode="RGB+D",
        packed=False,
    )
    screen = info["means2d"] if torch.is_grad_enabled() else None
    if screen is not None and screen.requires_grad:
        screen.retain_grad()
    return image[..., :-1], alpha[..., 0], image[..., -1], screen
