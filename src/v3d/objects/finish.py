"""A mesh made ready for a game, a print or a web page; its files are in `v3d.objects.finish_stage`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from v3d.finishing.baking import bake_maps, carry_colours
from v3d.finishing.levels import levels_of_detail
from v3d.finishing.placing import scaled, with_origin
from v3d.finishing.print_report import PrintReport, report_print
from v3d.finishing.purposes import Plan
from v3d.finishing.quads import quad_mesh, quad_pairs
from v3d.finishing.solids import contact_area, flat_base
from v3d.meshes.look import Look
from v3d.meshes.mesh import Mesh
from v3d.texture.unwrap import unwrap

_CUT = 0.01  # of a print's height
_LEAST_CONTACT = 0.02  # of the box that a print stands on
_ON_BED = 0.003  # of the height that counts as the bed


@dataclass(frozen=True)
class Finished:
    """A finished mesh.

    Attributes:
        mesh: in metres.
        look: its name, shading and maps.
        levels: lighter versions, each with its own look: the same images, smaller by half each time.
        report: whether it can be printed, if that was asked.
        notes: what was guessed or done beside what was asked, one sentence each.
    """

    mesh: Mesh
    look: Look
    levels: tuple[tuple[Mesh, Look], ...] = ()
    report: PrintReport | None = None
    notes: tuple[str, ...] = ()


def finish(mesh: Mesh, dense: Callable[[], Mesh], plan: Plan, *, name: str = "object") -> Finished:
    """Finish a mesh.

    Args:
        mesh: with its texture, light.
        dense: makes the mesh of the same shape and place with all faces that it has, closed, without texture;
            called where the plan needs it.
        plan: what to do, see `v3d.finishing.purposes`.
        name: of the object in files.

    Raises:
        V3DError: quads were asked for and cannot be made.
    """
    look = Look(name=name, flat=plan.flat, jpeg=plan.jpeg)
    if plan.dense:
        return _finish_print(dense(), look, plan)
    if plan.quads:
        mesh, look = _in_quads(mesh, look, plan.faces or len(mesh.faces))
    if plan.maps and mesh.texture is not None:
        maps = bake_maps(mesh, dense(), mesh.texture.shape[0])
        look = replace(
            look,
            normal_map=maps.normal if "normal" in plan.maps else None,
            occlusion=maps.occlusion if "occlusion" in plan.maps else None,
        )
    mesh = _placed(mesh, plan)
    levels = levels_of_detail(mesh, plan.lods)
    return Finished(mesh, look, tuple(_smaller(level, look, 2 ** (i + 1)) for i, level in enumerate(levels)))


def _finish_print(mesh: Mesh, look: Look, plan: Plan) -> Finished:
    """The dense mesh in its size, on a base, measured."""
    mesh = _placed(mesh, plan)
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    width, depth, height = (high - low).tolist()
    notes: tuple[str, ...] = ()
    little = contact_area(mesh, _ON_BED * height) < _LEAST_CONTACT * width * depth
    if plan.base == "cut" or (plan.base == "auto" and little):
        mesh = _placed(flat_base(mesh, _CUT), plan)
        notes = (
            f"The lowest {_CUT * height * 1000:.1f} mm were cut off for a flat base; --base keep does not.",
        )
    return Finished(mesh, look, report=report_print(mesh) if plan.report else None, notes=notes)


def _placed(mesh: Mesh, plan: Plan) -> Mesh:
    mesh = mesh if plan.size is None else scaled(mesh, plan.size)
    return mesh if plan.origin is None else with_origin(mesh, plan.origin)


def _in_quads(mesh: Mesh, look: Look, faces: int) -> tuple[Mesh, Look]:
    """The mesh in quads of its texture, and the pairs of triangles that are one quad."""
    made = quad_mesh(mesh, faces // 2)
    if mesh.texture is None:
        return made, replace(look, quads=quad_pairs(made.faces))
    size = mesh.texture.shape[0]
    made = carry_colours(unwrap(made, size=size), mesh, size)
    return made, replace(look, quads=quad_pairs(made.faces))


def _smaller(mesh: Mesh, look: Look, factor: int) -> tuple[Mesh, Look]:
    """A level with its images reduced."""

    def reduced(image: Tensor | None) -> Tensor | None:
        if image is None:
            return None
        channels = image[..., None] if image.ndim == 2 else image
        small = F.avg_pool2d(channels.permute(2, 0, 1)[None], factor)[0].permute(1, 2, 0)
        return small[..., 0] if image.ndim == 2 else small

    normal, occlusion = reduced(look.normal_map), reduced(look.occlusion)
    smaller = replace(look, quads=None, normal_map=normal, occlusion=occlusion)
    return replace(mesh, texture=reduced(mesh.texture)), smaller
