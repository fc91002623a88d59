"""Cut-outs measured: renders of test objects, composited over real photographs and over studio grounds.

    python benchmarks/cutouts.py --corpus CORPUS.npz --sheet sheet.png    # two minutes on two cores

Half of the 40 photos stand before pictures that scikit-image ships, a little out of focus, half on plain
grounds: white to black, tinted, with gradients, soft shadows, noise and JPEG's marks. IoU and the
boundary's F-measure (precision and recall of outline pixels within 0.3 % of the diagonal) are means
over photos; seconds are those of all cores together, for a photo of 1024 x 768 pixels.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import skimage.data
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image

from v3d.cameras import around
from v3d.capture.cutout import Cutout
from v3d.capture.matting import cut_out, cut_out_salient
from v3d.capture.plain import layers_on_plain
from v3d.data.corpus import corpus_ids, load_corpus
from v3d.errors import V3DError
from v3d.framing import frame_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render

Picture = NDArray[np.float32]
WIDTH, HEIGHT = 1024, 768
PHOTOGRAPHS = (
    "coffee",
    "chelsea",
    "rocket",
    "astronaut",
    "brick",
    "grass",
    "gravel",
    "camera",
    "coins",
    "moon",
)


@dataclass(frozen=True)
class Case:
    """A photo [H, W, 3] and the true alpha [H, W] of its object."""

    name: str
    rgb: Picture
    alpha: Picture
    plain: bool


def cases(corpus: Path, count: int) -> Iterator[Case]:
    """Photos of objects spread over the corpus, by turns before a photograph and on a plain ground."""
    ids = corpus_ids(corpus)
    chosen = [i * len(ids) // count for i in range(count)]
    for n, item in enumerate(load_corpus(corpus, chosen)):
        rng = np.random.default_rng(n)
        colour, alpha = placed(item.mesh, rng, nearest=item.palette)
        ground = studio(alpha, rng) if n % 2 else photograph(PHOTOGRAPHS[n // 2 % len(PHOTOGRAPHS)], rng)
        rgb = colour * alpha[..., None] + ground * (1 - alpha[..., None])
        rgb += rng.normal(0, rng.uniform(0, 0.012), rgb.shape)
        yield Case(item.id, as_jpeg(rgb, int(rng.integers(80, 96))), alpha, bool(n % 2))


def placed(mesh: Mesh, rng: np.random.Generator, *, nearest: bool) -> tuple[Picture, Picture]:
    """Straight colour and alpha of the object, near the middle of the photo, from a little above."""
    for _ in range(9):  # a flat thing seen from its edge is no photo of it
        camera = around([rng.uniform(0, 360)], size=HEIGHT, elevation=rng.uniform(0, 30))
        framed = Mesh(frame_mesh(mesh.vertices, camera), mesh.faces, mesh.uv, mesh.texture)
        light = Light(torch.tensor([1.0, rng.uniform(-1, 1), 1.5]), 0.55)
        shown = render(framed, camera, light=light, supersample=2, nearest=nearest)
        alpha = shown.alpha[0].numpy()
        if alpha.mean() > 0.03:
            break
    straight = 1 - (1 - shown.rgb[0].numpy()) / np.maximum(alpha, 1e-3)[..., None]
    scale = rng.uniform(0.55, 1.25)
    shift = (1 - scale) * HEIGHT / 2 + rng.uniform(-0.04, 0.04, 2) * HEIGHT
    warp = np.array([[scale, 0, shift[0] + (WIDTH - HEIGHT) / 2], [0, scale, shift[1]]])
    layers = np.dstack([straight.clip(0, 1) * alpha[..., None], alpha]).astype(np.float32)
    layers = np.asarray(cv2.warpAffine(layers, warp, (WIDTH, HEIGHT), flags=cv2.INTER_AREA), np.float32)
    a = layers[..., 3:]
    return (layers[..., :3] / np.maximum(a, 1e-4)).clip(0, 1), a[..., 0].clip(0, 1)


def photograph(name: str, rng: np.random.Generator) -> Picture:
    """A part of a picture, out of focus."""
    picture = np.asarray(Image.fromarray(getattr(skimage.data, name)()).convert("RGB"), np.float32) / 255
    height, width = picture.shape[:2]
    part = min(height / HEIGHT, width / WIDTH) * rng.uniform(0.6, 1)
    h, w = int(HEIGHT * part), int(WIDTH * part)
    top, left = (rng.integers(0, side - size + 1) for side, size in ((height, h), (width, w)))
    picture = cv2.resize(
        picture[top : top + h, left : left + w], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC
    )
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(2, 5)), np.float32).clip(0, 1)


def studio(alpha: Picture, rng: np.random.Generator) -> Picture:
    """A plain ground with a gradient, and the object's soft shadow on it."""
    kind = int(rng.integers(4))
    colour = (
        np.full(3, 1.0),
        rng.uniform(0.75, 1) * np.ones(3),
        rng.uniform(0.3, 0.95, 3),
        np.full(3, 0.05),
    )[kind]
    y, x = np.mgrid[:HEIGHT, :WIDTH] / HEIGHT
    angle, drop = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.12) * (kind > 0)
    ground = colour * (1 - drop * (0.5 + 0.5 * (x * math.cos(angle) + y * math.sin(angle))))[..., None]
    rows, columns = np.nonzero(alpha > 0.5)
    bottom, middle, wide = rows.max(), columns.mean(), np.ptp(columns) / 2
    shadow = np.zeros_like(alpha)
    centre = (int(middle + rng.uniform(-0.4, 0.4) * wide), int(bottom - 0.1 * wide))
    cv2.ellipse(shadow, centre, (int(1.1 * wide), max(int(0.22 * wide), 4)), 0, 0, 360, 1.0, -1)
    shadow = cv2.GaussianBlur(shadow, (0, 0), 0.08 * wide + 4) * rng.uniform(0.1, 0.55)
    return np.asarray(ground * (1 - shadow[..., None]), np.float32)


def as_jpeg(rgb: NDArray[np.floating], quality: int) -> Picture:
    file = io.BytesIO()
    Image.fromarray((rgb.clip(0, 1) * 255).round().astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file), np.float32) / np.float32(255)


def by_network(rgb: Picture) -> Cutout:
    return cut_out_salient(rgb)


def by_plain(rgb: Picture) -> Cutout | None:
    layers = layers_on_plain(rgb)
    return None if layers is None else Cutout(*layers, "plain")


def by_grabcut(rgb: Picture, side: int = 400) -> Cutout:
    """Whatever stands in the middle, by GrabCut: what took the network's place before there was one."""
    scale = side / max(rgb.shape[:2])
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    h, w = small.shape[:2]
    box = (round(0.04 * w), round(0.04 * h), round(0.92 * w), round(0.92 * h))
    mask = np.zeros((h, w), np.uint8)
    cv2.setRNGSeed(0)
    image = np.ascontiguousarray((small * 255).round().astype(np.uint8)[..., ::-1])
    cv2.grabCut(image, mask, box, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_RECT)
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    alpha = cv2.resize(found, (rgb.shape[1], rgb.shape[0]), interpolation=cv2.INTER_CUBIC)
    return Cutout(rgb, np.asarray(alpha, np.float32), "GrabCut")


def chosen(rgb: Picture) -> Cutout | None:
    try:
        return cut_out(rgb)
    except V3DError:
        return None


def iou(found: Picture, truth: Picture) -> float:
    a, b = found > 0.5, truth > 0.5
    return float((a & b).sum() / max(int((a | b).sum()), 1))


def boundary_f(found: Picture, truth: Picture) -> float:
    """F-measure of outlines, pixels within 0.3 % of the diagonal matching."""
    reach = 0.003 * math.hypot(*truth.shape)
    outlines = [
        cv2.morphologyEx((a > 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3)))
        for a in (found, truth)
    ]
    if not outlines[0].any():
        return 0.0
    away = [cv2.distanceTransform(1 - outline, cv2.DIST_L2, 5) for outline in outlines]
    precision = float((away[1][outlines[0] > 0] <= reach).mean())
    recall = float((away[0][outlines[1] > 0] <= reach).mean())
    return 2 * precision * recall / max(precision + recall, 1e-9)


METHODS: dict[str, Callable[[Picture], Cutout | None]] = {
    "shipped choice": chosen,
    "network alone": by_network,
    "plain ground alone": by_plain,
    "GrabCut": by_grabcut,
}


def main(corpus: Path, count: int = 40, sheet: Path | None = None, only: tuple[str, ...] = ()) -> None:
    """Print a table of methods.

    Args:
        corpus: a packed corpus of test objects.
        count: photos.
        sheet: write a contact sheet of the first method's cut-outs.
        only: methods to measure; all by default.
    """
    rows: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in only or METHODS}
    tiles = []
    for case in cases(corpus, count):
        for i, (name, results) in enumerate(rows.items()):
            start = time.process_time()
            found = METHODS[name](case.rgb)
            seconds = time.process_time() - start
            alpha = found.alpha if found else np.zeros_like(case.alpha)
            results.append((case.plain, iou(alpha, case.alpha), boundary_f(alpha, case.alpha), seconds))
            if sheet is not None and i == 0:
                tiles.append(tile(case, found))
    print(
        "| method | IoU | boundary F | IoU, photographs | IoU, plain grounds | worst IoU | CPU seconds |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, results in rows.items():
        plain, overlap, outline, seconds = (np.array(column) for column in zip(*results, strict=True))
        means = (overlap, outline, overlap[plain == 0], overlap[plain == 1])
        numbers = [f"{x.mean():.3f}" for x in means] + [f"{overlap.min():.3f}", f"{np.median(seconds):.2f}"]
        print(f"| {name} | {' | '.join(numbers)} |")
    if sheet is not None:
        lines = [np.concatenate(tiles[i : i + 4], 1) for i in range(0, len(tiles) - len(tiles) % 4, 4)]
        Image.fromarray(np.concatenate(lines)).save(sheet)


def tile(case: Case, found: Cutout | None) -> NDArray[np.uint8]:
    """The photo beside its cut-out on magenta, with the IoU and how it was found."""
    alpha = found.alpha if found else np.zeros_like(case.alpha)
    colour = found.rgb if found else case.rgb
    cut = colour * alpha[..., None] + np.array([1, 0.2, 0.9], np.float32) * (1 - alpha[..., None])
    both = cv2.resize(np.concatenate([case.rgb, cut], 1), (512, 192), interpolation=cv2.INTER_AREA)
    out = np.ascontiguousarray((both.clip(0, 1) * 255).round().astype(np.uint8))
    text = f"{iou(alpha, case.alpha):.2f} {found.method if found else 'nothing'}"
    cv2.putText(out, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 0), 1, cv2.LINE_AA)
    return out


if __name__ == "__main__":
    tyro.cli(main)
