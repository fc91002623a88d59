"""The scale of a scene from a stereo pair whose cameras look in parallel, and what it is worth.

    python benchmarks/stereo_scale.py [OUT]

scikit-image ships a calibrated pair (Middlebury 2014, "Motorcycle"): two photos from 0.193 m apart, the scene
2 to 5 m away. Parallel axes say nothing about its distance. The same photos turned by 1.8 degrees inwards (a
homography, exact for a pure rotation) meet 3 m ahead. Both are run as `v3d scene --path interpolate`; the
middle view is compared with the view half-way that the pair's own disparities give, over the pixels where
they give one. The third row scales the parallel pair by its baseline alone, as V3D did before.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.data import stereo_motorcycle

from v3d.cameras import Cameras
from v3d.metrics import psnr
from v3d.scene.depth import content_depth
from v3d.scene.model import SceneModel, square, square_cameras
from v3d.scene.normalise import meet_clearly, normalise
from v3d.views import Views

BASELINE, FOCAL, CX, CY, SHIFT = 0.193001, 994.978, 311.193, 254.877, 31.086  # metres; pixels
MEETING = 3.0  # metres
Array = NDArray[np.float64]


def pair(inwards: bool) -> Views:
    """The two photos; `inwards`: turned so that their axes meet."""
    left, right, _ = stereo_motorcycle()
    height, width = left.shape[:2]
    images, poses, Ks = [], [], []
    for image, x, cx, side in ((left, 0.0, CX, 1), (right, BASELINE, CX + SHIFT, -1)):
        angle = side * math.atan(BASELINE / 2 / MEETING) if inwards else 0.0
        R = np.array(
            [
                [math.cos(angle), 0, math.sin(angle)],
                [0, 1, 0],
                [-math.sin(angle), 0, math.cos(angle)],
            ]
        )
        before = np.array([[FOCAL, 0, cx], [0, FOCAL, CY], [0, 0, 1]])
        K = np.array([[FOCAL, 0, CX], [0, FOCAL, CY], [0, 0, 1]]) if inwards else before
        homography = K @ R.T @ np.linalg.inv(before)
        turned = cv2.warpPerspective(image, homography, (width, height), borderMode=cv2.BORDER_REPLICATE)
        pose = np.eye(4)
        pose[:3, :3], pose[0, 3] = R, x
        images.append(turned), poses.append(pose), Ks.append(K)
    cameras = Cameras(
        torch.from_numpy(np.stack(poses)), torch.from_numpy(np.stack(Ks)).double(), width, height
    )
    rgb = torch.from_numpy(np.stack(images)).float() / 255
    return Views(rgb, torch.ones(rgb.shape[:3]), cameras)


def half_way() -> tuple[Array, Array]:
    """The view from the middle of the baseline, by the true disparities, and where it is known."""
    left, _, disparity = stereo_motorcycle()
    height, width = disparity.shape
    known = np.isfinite(disparity)
    rows, columns = np.nonzero(known)
    order = np.argsort(disparity[known])  # the nearest last, so that it wins
    rows, columns, d = rows[order], columns[order], disparity[known][order]
    image, seen = np.zeros((height, width, 3)), np.zeros((height, width))
    target = np.round(columns - d / 2).astype(int)
    inside = (target >= 0) & (target < width)
    image[rows[inside], target[inside]] = left[rows[inside], columns[inside]] / 255
    seen[rows[inside], target[inside]] = 1
    return image, seen


def middle(views: Views, depth: float | None, model: SceneModel) -> tuple[torch.Tensor, float]:
    """The generated view [S, S, 3] from the middle of the baseline, looking straight ahead; and the scale."""
    height, width = views.rgb.shape[1:3]
    pose = torch.eye(4).double()
    pose[0, 3] = BASELINE / 2
    K = torch.tensor([[FOCAL, 0, CX + SHIFT / 2], [0, FOCAL, CY], [0, 0, 1]]).double()
    cameras, similarity = normalise(views.cameras, depth=depth)
    target = similarity.apply(Cameras(pose[None], K[None], width, height))
    given = Views(views.rgb, views.alpha, cameras.to_float32())
    made = model(square(given), square_cameras(target.to_float32()), seed=0)
    return made.views.rgb[0], similarity.scale


def main(out: Path) -> None:
    """Print one row a pair and leave pictures in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    model = SceneModel.load("mini-scene")
    image, seen = half_way()
    height, width = seen.shape
    left, size = (width - height) // 2, model.size

    def small(x: Array) -> torch.Tensor:
        cropped = x[:, left : left + height].astype(np.float32)
        return torch.from_numpy(cv2.resize(cropped, (size, size), interpolation=cv2.INTER_AREA))

    weight = small(seen)
    truth = small(image) / weight[..., None].clamp_min(1e-3)
    weight = (weight > 0.9).float()
    rows: dict[str, torch.Tensor] = {"truth": truth * weight[..., None]}
    for name, inwards, by_content in (
        ("turned inwards", True, True),
        ("parallel", False, True),
        ("parallel, scaled by its baseline", False, False),
    ):
        views, start = pair(inwards), time.process_time()
        reduced = views.reduced(256)
        depth = content_depth(reduced) if by_content and not meet_clearly(views.cameras) else None
        seconds = time.process_time() - start
        rows[name], scale = middle(views, depth, model)
        value = float(psnr(rows[name][None], truth[None].clamp(0, 1), weight[None]))
        found = "" if depth is None else f"; depth {depth:.2f} m in {seconds:.1f} s"
        print(f"{name}: {value:.2f} dB, scale {scale:.3f}{found}")
    for name, picture in rows.items():
        pixels = (picture.clamp(0, 1) * 255).round().byte().numpy()
        file = out / f"{name.replace(',', '').replace(' ', '_')}.png"
        Image.fromarray(pixels).resize((256, 256)).save(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
