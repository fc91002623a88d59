"""`Views`: posed images of one object, in memory and on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from v3d import matting
from v3d.cameras import ORBIT_VIEWS, Cameras, cat_cameras, orbit
from v3d.errors import V3DError
from v3d.files import atomic, write_json
from v3d.photo import read_image, resize_rgba
from v3d.posed import OPENCV_OPENGL, PosedPhoto, read_transforms, transforms_file


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
        return self.rgb.shape[0]

    def __getitem__(self, index: int | slice | Sequence[int]) -> Views:
        """The chosen views, always as a batch."""
        if isinstance(index, int):
            index = [index]
        elif isinstance(index, Sequence):
            index = list(index)
        return Views(self.rgb[index], self.alpha[index], self.cameras[index])

    def to(self, device: torch.device | str) -> Views:
        return Views(self.rgb.to(device), self.alpha.to(device), self.cameras.to(device))

    def resized(self, size: int) -> Views:
        """The same views at `size` x `size` pixels (antialiased)."""
        x = torch.cat([self.rgb, self.alpha[..., None]], dim=-1).permute(0, 3, 1, 2)
        x = torch.nn.functional.interpolate(
            x, (size, size), mode="bilinear", antialias=True, align_corners=False
        )
        x = x.permute(0, 2, 3, 1).clamp(0, 1)
        return Views(x[..., :3], x[..., 3], self.cameras.resized(size, size))


def cat_views(parts: Sequence[Views]) -> Views:
    """Join views that share one image size."""
    return Views(
        torch.cat([part.rgb for part in parts]),
        torch.cat([part.alpha for part in parts]),
        cat_cameras([part.cameras for part in parts]),
    )


def with_above(views: Views, above: Views | None) -> Views:
    """The views, and those of `above` that show anything: what splats are fitted to."""
    if above is None:
        return views
    shown = (above.alpha > 0.5).flatten(1).any(1).nonzero()[:, 0].tolist()
    return cat_views([views, above[shown]])


def save_views(views: Views, folder: str | Path) -> None:
    """Write `views/000.png`, ... (RGBA, straight alpha, lossless) and `transforms.json` as nerfstudio reads it.

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
        {"file_path": name, "transform_matrix": pose.tolist()} | ({} if shared else _focal(K))
        for name, pose, K in zip(names, c2w, cameras.K, strict=True)
    ]
    header = {"camera_model": "OPENCV", "w": cameras.width, "h": cameras.height}
    write_json(
        folder / "transforms.json", header | (_focal(cameras.K[0]) if shared else {}) | {"frames": frames}
    )


def straight_rgba(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Colours on white [..., 3] and alpha [...] -> uint8 [..., 4] with straight alpha."""
    a = (alpha.clamp(0, 1) * 255).round()[..., None] / 255
    colour = torch.where(a > 0, (rgb - (1 - a)) / a.clamp_min(1 / 255), torch.ones_like(rgb))
    return (torch.cat([colour.clamp(0, 1), a], -1) * 255).round().to(torch.uint8)


def load_views(folder: str | Path, *, max_size: int | None = None) -> Views:
    """Read a folder with `transforms.json`: ours, nerfstudio's or instant-ngp's.

    Lens distortion is removed. Alpha is the images' own, or that of their `mask_path`; opaque images get soft
    alpha if all their backgrounds are plain, and alpha 1 otherwise.

    Args:
        folder: or the path of the .json file itself.
        max_size: images with a longer side are reduced to it, and their cameras with them.

    Raises:
        V3DError: a file is missing or broken, images differ in size, a pose is not a rigid motion.
    """
    path = transforms_file(Path(folder))
    if path is None:
        raise V3DError(f"{folder} has no transforms.json; give a folder of posed views.")
    images: list[Tensor] = []
    cameras: list[Cameras] = []
    for photo in read_transforms(path):
        image, camera = _read(photo)
        width, height = camera.width, camera.height
        if max_size is not None and max(width, height) > max_size:
            width, height = (max(1, round(side * max_size / max(width, height))) for side in (width, height))
            image, camera = resize_rgba(image, height, width), camera.resized(width, height)
        if images and image.shape != images[0].shape:
            raise V3DError(
                f"The images of {path} differ in size: {photo.file.name} does not match the first one."
            )
        images.append(image)
        cameras.append(camera)
    return _on_white(torch.stack(images), cat_cameras(cameras))


def views_from_video(
    path: str | Path, cameras: Cameras | None = None, *, views: int = 2 * ORBIT_VIEWS
) -> Views:
    """Read a video that goes once around an object in front of a plain background.

    Args:
        cameras: one for each frame of the video; by default the orbit, closed by the step after the last frame.
        views: use at most so many frames, evenly spread.

    Raises:
        V3DError: the video cannot be read, or the number of cameras does not fit.
    """
    from v3d.video import load_video

    frames = load_video(path)
    count, height, width = frames.shape[:3]
    if cameras is None:
        size = max(height, width)
        x0, y0 = (size - width) // 2, (size - height) // 2
        padding = (0, 0, x0, size - width - x0, y0, size - height - y0)
        frames = torch.nn.functional.pad(frames, padding, value=1.0)
        cameras = orbit(count, size=size)
    if len(cameras) != count or (cameras.width, cameras.height) != (frames.shape[2], frames.shape[1]):
        raise V3DError(
            f"{path} has {count} frames of {width} x {height} pixels, which the cameras do not fit."
        )
    chosen = [i * count // min(views, count) for i in range(min(views, count))]
    rgba = torch.cat([frames[chosen], torch.ones_like(frames[chosen][..., :1])], -1)
    return _on_white(rgba, cameras[chosen])


def _on_white(rgba: Tensor, cameras: Cameras) -> Views:
    """Views of straight-alpha images [V, H, W, 4]; opaque ones are cut out where all backgrounds are plain."""
    if bool((rgba[..., 3] == 1).all()):
        layers = [matting.layers_on_plain(view.numpy()) for view in rgba[..., :3]]
        if all(layer is not None for layer in layers):
            rgba = torch.stack([torch.from_numpy(np.dstack(layer)) for layer in layers if layer is not None])
    rgb, alpha = rgba[..., :3], rgba[..., 3]
    return Views(rgb * alpha[..., None] + 1 - alpha[..., None], alpha, cameras)


def _focal(K: Tensor) -> dict[str, float]:
    return {"fl_x": K[0, 0].item(), "fl_y": K[1, 1].item(), "cx": K[0, 2].item(), "cy": K[1, 2].item()}


def _read(photo: PosedPhoto) -> tuple[Tensor, Cameras]:
    """Undistorted straight RGBA [H, W, 4] (alpha from the mask, if there is one) and its camera."""
    rgba, lens = photo.read()
    if photo.mask is not None:
        mask, _ = read_image(photo.mask, max_side=None, upright=False)
        if mask.shape != rgba.shape:
            raise V3DError(f"The mask {photo.mask.name} and {photo.file} differ in size.")
        rgba[..., 3] = mask[..., 0]
    image, lens = lens.undistorted(rgba, fill=False)
    return torch.from_numpy(image), lens.camera(photo.c2w)
