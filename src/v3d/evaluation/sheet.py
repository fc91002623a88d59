"""The contact sheet of generation: photo, six generated views, six true ones; good and bad objects alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from v3d.compositing import over_white
from v3d.evaluation.report import ObjectResult
from v3d.views import Views

VIEWS = 6
_GAP, _LABEL = 10, 18  # pixels
_INK = (90, 90, 90)


@dataclass(frozen=True)
class SheetRow:
    """One object.

    Attributes:
        label: what stands above it.
        photo: [H, W, 4] straight alpha.
        views, truth: orbits of the same cameras.
    """

    label: str
    photo: Tensor
    views: Views
    truth: Views


def choose_objects(results: Iterable[ObjectResult], method: str, count: int) -> tuple[list[str], list[str]]:
    """Names of `count` objects: half real scans, half made ones (more of one where the other has too few).

    Each half is evenly spaced over the objects' order by PSNR of the method, best to worst.
    """
    halves: list[list[str]] = []
    kinds: dict[bool, list[ObjectResult]] = {True: [], False: []}
    for result in results:
        if method in result.scores:
            kinds[result.real_scan].append(result)
    for scan, others in ((True, False), (False, True)):
        ranked = sorted(kinds[scan], key=lambda r: (-r.scores[method]["psnr"], r.id))
        share = count // 2 if scan else count - count // 2
        wanted = min(len(ranked), max(share, count - len(kinds[others])))
        halves.append([ranked[round(i * (len(ranked) - 1) / max(wanted - 1, 1))].id for i in range(wanted)])
    return halves[0], halves[1]


def generation_sheet(columns: Sequence[tuple[str, Sequence[SheetRow]]], *, tile: int = 96) -> Image.Image:
    """Titled columns of rows, each row one object: its photo, six generated views, the six true ones.

    Args:
        tile: side of the small pictures in pixels.
    """
    columns = [(title, rows) for title, rows in columns if rows]
    width = (1 + 2 * VIEWS) * tile + 2 * _GAP  # photo, gap, generated, gap, true
    height = 2 * _LABEL + max(len(rows) for _, rows in columns) * (_LABEL + tile)
    sheet = Image.new("RGB", (_GAP + len(columns) * (width + 2 * _GAP), _GAP + height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(11), ImageFont.load_default(14)
    for c, (title, rows) in enumerate(columns):
        left = _GAP + c * (width + 2 * _GAP)
        blocks = [left, left + tile + _GAP, left + (1 + VIEWS) * tile + 2 * _GAP]
        draw.text((left, _GAP), title, fill=_INK, font=large)
        for x, name in zip(blocks, ("photo", "generated", "true"), strict=True):
            draw.text((x, _GAP + _LABEL), name, fill=_INK, font=small)
        for r, row in enumerate(rows):
            top = _GAP + 2 * _LABEL + r * (_LABEL + tile)
            draw.text((left, top + 3), row.label, fill=_INK, font=small)
            photo = over_white(row.photo[..., :3], row.photo[..., 3])
            sheet.paste(_picture(photo, tile), (blocks[0], top + _LABEL))
            for x, views in ((blocks[1], row.views), (blocks[2], row.truth)):
                for i in range(VIEWS):
                    image = _picture(views.rgb[i * len(views) // VIEWS], tile)
                    sheet.paste(image, (x + i * tile, top + _LABEL))
    return sheet


def _picture(rgb: Tensor, tile: int) -> Image.Image:
    image = Image.fromarray((rgb.clamp(0, 1) * 255 + 0.5).to(torch.uint8).numpy())
    return image.resize((tile, tile), Image.Resampling.LANCZOS)
