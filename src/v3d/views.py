"""`Views`: posed images of one object, in memory and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from v3d.cameras import OPENCV_OPENGL, Cameras, cat_cameras
from v3d.compositing import off_white
from v3d.files import atomic, write_json


@dataclass(frozen=True)
class Views:
    """V posed images of one object.

    Attributes:
        rgb: [V, H, W, 3] float32 in [0, 1], sRGB-encoded, composited on white.
        alpha: [V, H, W] float32 in [0, 1], coverage of the object.
        cameras: V cameras of width W and height H.
    """

    rgb: Tensor
    alpha: Tensor
    cameras: Cameras

    def __len__(self) -> int:
        """V, the number of views."""
        return self.rgb.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int]) -> Views:
        """The chosen views, always as a batch."""
        if isinstance(index, int):
            index = [index]
        elif isinstance(index, Sequence):
            index = list(index)
        return Views(self.rgb[index], self.alpha[index], self.cameras[index])

    def to(self, device: torch.device | str) -> Views:
        """Move images and cameras to a device."""
        return Views(self.rgb.to(device), self.alpha.to(device), self.cameras.to(device))

    def resized(self, width: int, height: int) -> Views:
        """The views at another size (antialiased), stretched if the aspect changes; cameras with them."""
        out = self.rgb.new_empty(len(self), height, width, 4)
        for i in range(len(self)):  # one by one, so that large views do not exist twice
            x = torch.cat([self.rgb[i], self.alpha[i, ..., None]], dim=-1).permute(2, 0, 1)[None]
            x = torch.nn.functional.interpolate(
                x, (height, width), mode="bilinear", antialias=True, align_corners=False
            )
            out[i] = x[0].permute(1, 2, 0).clamp(0, 1)
        return Views(out[..., :3], out[..., 3], self.cameras.resized(width, height))

    def reduced(self, longer_side: int) -> Views:
        """The views of the same aspect whose longer side is at most `longer_side` pixels."""
        cameras = self.cameras.reduced(longer_side)
        return self if cameras is self.cameras else self.resized(cameras.width, cameras.height)


def cat_views(parts: Sequence[Views]) -> Views:
    """Join batches of views, at least one, that share one image size.

    Raises:
        ValueError: the sizes differ.
    """
    return Views(
        torch.cat([part.rgb for part in parts]),
        torch.cat([part.alpha for part in parts]),
        cat_cameras([part.cameras for part in parts]),
    )


def save_views(views: Views, folder: str | Path) -> None:
    """Write `views/000.png`, ... (RGBA, straight alpha) and `transforms.json` as nerfstudio reads it.

    Views come back from `load_views` to the 8-bit value; saving those again gives the same bytes.

    Raises:
        V3DError: the folder cannot be written, the disk is full.
    """
    folder = Path(folder)
    names = [f"views/{i:03d}.png" for i in range(len(views))]
    for name, rgb, alpha in zip(names, views.rgb.cpu(), views.alpha.cpu(), strict=True):
        with atomic(folder / name) as temporary:
            PIL.Image.fromarray(straight_rgba(rgb, alpha).numpy()).save(temporary)
    for stale in set((folder / "views").glob("[0-9][0-9][0-9].png")) - {folder / name for name in names}:
        stale.unlink()

    cameras = views.cameras.to("cpu")
    c2w = cameras.c2w.double() @ OPENCV_OPENGL
    shared = bool((cameras.K[:1] == cameras.K).all())
    frames = [
        {"file_path": name, "transform_matrix": pose.tolist()} | ({} if shared else _intrinsics(K))
        for name, pose, K in zip(names, c2w, cameras.K, strict=True)
    ]
    header = {"camera_model": "OPENCV", "w": cameras.width, "h": cameras.height}
    header |= _intrinsics(cameras.K[0]) if shared else {}
    write_json(folder / "transforms.json", header | {"frames": frames})


def straight_rgba(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Colours on white [..., 3] and alpha [...], in [0, 1] -> uint8 [..., 4] with straight alpha.

    Colours are straight with respect to the 8-bit alpha: `load_views` composites them back to the bit.
    """
    a = (alpha.clamp(0, 1) * 255).round()[..., None] / 255
    colour = torch.where(a > 0, off_white(rgb, a[..., 0], 1 / 255), 1.0)
    return (torch.cat([colour.clamp(0, 1), a], -1) * 255).round().to(torch.uint8)


def _intrinsics(K: Tensor) -> dict[str, float]:
    return {"fl_x": K[0, 0].item(), "fl_y": K[1, 1].item(), "cx": K[0, 2].item(), "cy": K[1, 2].item()}
