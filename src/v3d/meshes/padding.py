"""The space between the charts of a texture."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def pad(texture: Tensor, inside: Tensor) -> Tensor:
    """Give every texel outside the charts the value of the nearest one inside.

    So bilinear reading and mip maps mix no background in.

    Args:
        texture: [T, T, C].
        inside: [T, T] bool, the charts.
    """
    if not bool(inside.any()):
        return texture
    nearest = distance_transform_edt(~inside.cpu().numpy(), return_distances=False, return_indices=True)
    rows, columns = torch.from_numpy(nearest.astype(np.int64)).to(texture.device)
    return texture[rows, columns]
