"""What `--for` means: which options a game, a print or a web page gets where the user says nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from v3d.errors import V3DError
from v3d.finishing.placing import metres
from v3d.settings import FinishSettings, Format, MapName, Purpose

_MOST_LEVELS = 6


@dataclass(frozen=True)
class Plan:
    """What is done to a mesh, every option decided.

    Attributes:
        formats: files to write.
        faces: triangles of the mesh at most; None leaves it to the quality.
        texture_size: texels of the texture's side; None leaves it to the quality.
        size: metres of the longest side; None leaves one unit one metre.
        origin: the centre of the box or of its bottom; None leaves it where it is.
        lods: levels of detail beside the mesh.
        maps: images baked from the dense mesh.
        quads: remesh to quads.
        flat: shading.
        dense: the dense mesh itself, without texture.
        base: cut: without its lowest hundredth; auto: so where too little of it lies on the bed.
        jpeg: the texture is JPEG.
        report: measure whether it can be printed.
    """

    formats: tuple[Format, ...] = ("glb",)
    faces: int | None = None
    texture_size: int | None = None
    size: float | None = None
    origin: Literal["centre", "base"] | None = None
    lods: int = 0
    maps: tuple[MapName, ...] = ()
    quads: bool = False
    flat: bool = False
    dense: bool = False
    base: Literal["keep", "cut", "auto"] = "keep"
    jpeg: bool = False
    report: bool = False


PURPOSES: dict[Purpose | None, Plan] = {
    None: Plan(),
    # What a prop on a phone or a hero object on a desk may have; the normal map gives back what went.
    "game": Plan(faces=8_000, texture_size=2048, origin="base", lods=3, maps=("normal", "occlusion")),
    "print": Plan(formats=("3mf", "stl"), size=0.08, origin="base", dense=True, base="auto", report=True),
    # Under 2 MB in all, so that a page shows it within a second.
    "web": Plan(faces=20_000, texture_size=1024, jpeg=True),
}
"""Purpose -> plan; None is that of single options."""


def plan_of(settings: FinishSettings) -> Plan | None:
    """The plan of the purpose with what the user chose beside it; None where nothing is asked for.

    Raises:
        V3DError: a size is no length, there are too many levels, or options do not go together.
    """
    if settings == FinishSettings():
        return None
    plan = PURPOSES[settings.purpose]
    if settings.lods is not None and not 0 <= settings.lods <= _MOST_LEVELS:
        raise V3DError(f"There are 0 to {_MOST_LEVELS} levels of detail, not {settings.lods}.")
    if plan.dense and (settings.lods or settings.maps or settings.quads):
        raise V3DError("A print has no texture: --lods, --maps and --quads are for --for game or web.")
    if settings.base is not None and not plan.dense:
        raise V3DError("--base is for prints; add --for print.")
    if settings.shading == "flat" and settings.maps and "normal" in settings.maps:
        raise V3DError("A normal map smooths what --shading flat shows; leave one of them out.")
    flat = settings.shading == "flat"
    maps = plan.maps if settings.maps is None else settings.maps
    return replace(
        plan,
        size=plan.size if settings.size is None else metres(settings.size),
        origin=settings.origin or plan.origin,
        lods=plan.lods if settings.lods is None else settings.lods,
        maps=tuple(name for name in maps if not (flat and name == "normal")),
        quads=settings.quads,
        flat=flat,
        base=settings.base or plan.base,
        jpeg=plan.jpeg if settings.image is None else settings.image == "jpeg",
    )
