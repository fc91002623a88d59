"""Cameras of raw photos, found by structure from motion, against those that Bundler found.

    pip download --no-deps gtsam && unzip -j gtsam-*.whl 'gtsam/Data/Balbianello*' -d balbianello
    python benchmarks/raw_photos.py balbianello balbianello/Balbianello.out

Five photos of a villa on a lake (gtsam ships them under its BSD licence), 640 x 427 pixels. It needs the
extra `colmap`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from v3d.capture.readers import find_photos, read_scene_views
from v3d.scene.depth import depth_of_matches, depth_of_points


def bundler(file: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Focal lengths [V], world-to-camera rotations [V, 3, 3] and centres [V, 3], OpenCV axes."""
    lines = file.read_text().splitlines()[1:]
    count = int(lines[0].split()[0])
    numbers = [[float(x) for x in line.split()] for line in lines[1 : 1 + 5 * count]]
    focal = torch.tensor([numbers[5 * i][0] for i in range(count)])
    R = torch.tensor([numbers[5 * i + 1 : 5 * i + 4] for i in range(count)], dtype=torch.float64)
    t = torch.tensor([numbers[5 * i + 4] for i in range(count)], dtype=torch.float64)
    centres = -(R.mT @ t[:, :, None])[..., 0]
    return focal, torch.diag(torch.tensor([1.0, -1.0, -1.0]).double()) @ R, centres


def main(folder: Path, truth: Path) -> None:
    """Print how far the two sets of cameras are apart."""
    focal, R, centres = bundler(truth)
    capture = find_photos(folder)
    found = torch.stack([photo.c2w for photo in capture.photos])
    if len(found) != len(R):
        sys.exit(f"{len(found)} of {len(R)} photos fit together.")
    ours = found[:, :3, :3].mT
    turns = (ours @ ours[0].T) @ (R @ R[0].T).mT
    angles = ((turns.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2).clamp(-1, 1).acos().rad2deg()
    spans = [torch.cdist(c, c) / torch.cdist(c, c).mean() for c in (found[:, :3, 3], centres)]
    print(f"focal length {capture.photos[0].lens.fx:.1f}, Bundler's {focal.mean():.1f} pixels")
    print(f"rotations differ by at most {angles.max():.2f} degrees")
    print(f"distances differ by at most {(spans[0] - spans[1]).abs().max():.4f} of their mean")
    views = read_scene_views(capture.photos, max_size=256)
    assert capture.points is not None
    by_points, by_matches = depth_of_points(views.cameras, capture.points), depth_of_matches(views)
    print(f"median depth by its points {by_points:.2f}, by features that photos share {by_matches:.2f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
