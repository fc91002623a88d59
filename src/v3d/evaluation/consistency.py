"""3D consistency without a true object, as MVGBench measures it (Xie et al., ICCV 2025).

Views that show one object give the same Gaussians from either half of them. The views of even and of odd
numbers are fitted apart; both clouds are seen by 16 cameras and compared with each other. What agrees may
still be wrong: true views, measured the same way, say how near to perfect a row is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from skimage.metrics import structural_similarity
from torch import Tensor

from v3d.cameras import Cameras, around
from v3d.capture.readers import load_views
from v3d.errors import V3DError
from v3d.evaluation.assets import Metrics
from v3d.evaluation.report import report_one
from v3d.evaluation.settings import EvaluateConsistency
from v3d.evaluation.triangulation import triangulated
from v3d.metrics import psnr
from v3d.networks.perceptual import Perceptual
from v3d.objects import build
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS, Preset
from v3d.placement import place
from v3d.splats.gaussians import Splats, rotations
from v3d.splats.rasterize import SplatImages, rasterize
from v3d.surface.grid import Grid
from v3d.views import Views


@dataclass(frozen=True)
class ConsistencyProtocol:
    """What two clouds of Gaussians are compared by.

    Attributes:
        version: changes whenever numbers would.
        size: pixels of a test view's side.
        views: test cameras, evenly around.
        samples: points of each cloud.
        tau: of the F-score, world units.
    """

    version: str = "consistency-2"
    size: int = 256
    views: int = 16
    samples: int = 60_000
    tau: float = 0.02

    def as_dict(self) -> dict[str, Any]:
        """Every field, for the header of results."""
        return asdict(self)

    def cameras(self, given: Cameras) -> Cameras:
        """Test cameras at the mean distance, elevation and field of view of given ones, from view 0 on.

        Args:
            given: of V3D's world: around the origin, z up.
        """
        first, distance = given.centers[0], given.centers.norm(dim=-1)
        elevation = torch.rad2deg(torch.asin((given.centers[:, 2] / distance).clamp(-0.99, 0.99))).mean()
        start = float(torch.rad2deg(torch.atan2(first[1], first[0])))
        fov = 2 * torch.rad2deg(torch.atan(0.5 * given.width / given.K[:, 0, 0])).mean()
        return around(
            [start + i * 360 / self.views for i in range(self.views)],
            size=self.size,
            radius=float(distance.mean()),
            elevation=float(elevation),
            fov=float(fov),
        )


def run(command: EvaluateConsistency) -> dict[str, Any]:
    """Measure one folder of views; returns the report.

    Raises:
        V3DError: the folder holds no posed views, or fewer than four, or a view shows nothing.
    """
    protocol = replace(ConsistencyProtocol(), size=command.size)
    preset, network = PRESETS[command.quality], Perceptual.load("lpips")
    views = load_views(command.views)
    scores = consistency(views, protocol, preset, network, seed=command.seed)
    if command.colmap:
        scores |= triangulated(views)
    about = {"protocol": protocol.as_dict(), "preset": asdict(preset), "seed": command.seed}
    return report_one("Consistency", command.views, {"views": scores}, command.out, about)


def consistency(
    views: Views, protocol: ConsistencyProtocol, preset: Preset, perceptual: Perceptual, *, seed: int = 0
) -> Metrics:
    """How well the views of even and of odd numbers agree, each half as its own cloud of Gaussians.

    Args:
        views: at least four, all round an object.
        protocol: of the comparison.
        preset: of the two fits, without its perceptual part.
        perceptual: of cLPIPS.
        seed: of the fits and of the points.

    Returns:
        `compare_splats` of the two.

    Raises:
        V3DError: there are fewer than four views, or one shows nothing.
    """
    if len(views) < 4:
        raise V3DError(
            f"{len(views)} views are too few to fit each half; consistency needs at least 4 around an object."
        )
    views = Views(views.rgb, views.alpha, place(views.cameras)[0].to_float32())
    even, odd = (fitted_half(views[list(range(k, len(views), 2))], preset, seed) for k in (0, 1))
    return compare_splats(even, odd, protocol.cameras(views.cameras), protocol, perceptual, seed=seed)


def fitted_half(views: Views, preset: Preset, seed: int) -> Splats:
    """Gaussians of the views alone, from their hull on; from a blob where they have none in common."""
    inputs = BuildInputs(views)
    try:
        hull = _seen_by_all(build.hull(inputs, preset), views.cameras)
    except V3DError:
        if not bool((views.alpha > 0.5).flatten(1).any(1).all()):
            raise
        hull = None
    return build.splats(inputs, hull, preset, seed=seed)


def _seen_by_all(hull: Grid, cameras: Cameras) -> Grid:
    """The hull within all images: few views leave stray parts of it, which the others do not see."""
    points, corner = hull.points().reshape(-1, 3), torch.tensor([cameras.width, cameras.height])
    seen = torch.ones(len(points), dtype=torch.bool)
    for i in range(len(cameras)):  # one by one: large lattices times many views are gigabytes
        pixels, depth = cameras[i].project(points)
        seen &= ((pixels >= 0) & (pixels <= corner)).all(-1)[0] & (depth[0] > 0)
    seen = seen.reshape(hull.shape)
    if not bool((hull.values[seen] < 0).any()):
        return hull  # no part is in all images
    return replace(hull, values=torch.where(seen, hull.values, hull.values.abs()))


@torch.no_grad()
def compare_splats(
    a: Splats,
    b: Splats,
    cameras: Cameras,
    protocol: ConsistencyProtocol,
    perceptual: Perceptual,
    *,
    seed: int = 0,
) -> Metrics:
    """Two clouds of Gaussians seen by the same cameras, and their points.

    Returns:
        `cPSNR` (dB), `cSSIM` and `cLPIPS` of the renders on white in 8 bits; `depth`: L1 of the accumulated
        depths where either shows anything; `CD`: the sum of both mean distances between `sample_points`;
        `F`: their F-score. `depth` and `CD` are in hundredths of a world unit.
    """
    first, second = rasterize(a, cameras), rasterize(b, cameras)
    x, y = _in_8_bits(first), _in_8_bits(second)
    similar = [structural_similarity(p, q, channel_axis=2) for p, q in zip(_bytes(x), _bytes(y), strict=True)]
    x_points, y_points = (sample_points(cloud, protocol.samples, seed + k) for k, cloud in enumerate((a, b)))
    chamfer, f_score = compare_points(x_points, y_points, protocol.tau)
    return {
        "cPSNR": float(psnr(x, y).mean()),
        "cSSIM": float(np.mean(similar)),
        "cLPIPS": float(perceptual.distances(x, perceptual.prepare(y)).mean()),
        "depth": 100 * depth_difference(first.depth, second.depth),
        "CD": 100 * chamfer,
        "F": f_score,
    }


def depth_difference(a: Tensor, b: Tensor) -> float:
    """Mean over views of the mean |a - b| of depths [V, H, W] where either is over 10 / 65535."""
    shown = (a > 10 / 65535) | (b > 10 / 65535)
    difference = ((a - b).abs() * shown).sum((1, 2)) / shown.sum((1, 2))
    return float(difference.mean())


def sample_points(splats: Splats, count: int, seed: int) -> NDArray[np.float64]:
    """`count` points [count, 3] of Gaussians, whatever their opacity.

    Candidates are the centres and at least three draws from every Gaussian; `count` of them are chosen
    without repeating one.
    """
    generator = torch.Generator().manual_seed(seed)
    axes = rotations(splats.quats) * splats.scales[:, None, :]
    rounds = max(3, -(-count // len(splats)) - 1)
    noise = torch.randn(rounds, len(splats), 3, generator=generator)
    drawn = splats.means + torch.einsum("nij,rnj->rni", axes, noise)
    candidates = torch.cat([splats.means[None], drawn]).reshape(-1, 3)
    chosen = torch.randperm(len(candidates), generator=generator)[:count]
    return candidates[chosen].double().numpy()


def compare_points(a: NDArray[np.float64], b: NDArray[np.float64], tau: float) -> tuple[float, float]:
    """Two clouds [N, 3] and [M, 3] -> the sum of both mean nearest distances, and the F-score at `tau`."""
    there, back = np.asarray(cKDTree(b).query(a)[0]), np.asarray(cKDTree(a).query(b)[0])
    precision, recall = float((there < tau).mean()), float((back < tau).mean())
    return float(there.mean() + back.mean()), 2 * precision * recall / max(precision + recall, 1e-12)


def _in_8_bits(images: SplatImages) -> Tensor:
    return (images.over(1.0).clamp(0, 1) * 255).round() / 255


def _bytes(images: Tensor) -> NDArray[np.uint8]:
    return np.asarray((images * 255).round().byte().numpy())
