"""The print report on solids whose faults are known, because the tests made them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import trimesh

from shapes import box_mesh, mesh_of, sphere_mesh
from v3d.finishing.print_report import report_print
from v3d.finishing.solids import flat_base
from v3d.finishing.surface_checks import check_surface
from v3d.meshes.mesh import Mesh


def together(*meshes: Mesh) -> Mesh:
    """Several meshes as one."""
    first = np.cumsum([0, *(len(m.vertices) for m in meshes)])
    faces = [mesh.faces + int(start) for mesh, start in zip(meshes, first, strict=False)]
    return Mesh(torch.cat([m.vertices for m in meshes]), torch.cat(faces))


def moved(mesh: Mesh, *by: float) -> Mesh:
    return replace(mesh, vertices=mesh.vertices + torch.tensor(by))


def test_a_good_box() -> None:
    report = report_print(box_mesh(0.02, 0.04, 0.06))
    assert report.size_mm == pytest.approx((20, 40, 60))
    assert report.volume_cm3 == pytest.approx(48)
    assert report.surface.watertight and report.surface.parts == 1 and report.surface.crossings == 0
    # Walls are at most 60 and at least 20 mm thick; a quarter of the surface is the 20 mm pair.
    assert report.thinnest_mm == pytest.approx(20, abs=0.01)
    assert report.overhang == 0 and report.contact_mm2 == pytest.approx(800)
    assert report.advice == ()
    assert report.to_json()["watertight"] is True


def test_a_hole() -> None:
    """A sphere without one face: three open edges, one hole, no inside."""
    ball = sphere_mesh(0.02)
    report = report_print(replace(ball, faces=ball.faces[1:]))
    assert (report.surface.open_edges, report.surface.holes) == (3, 1)
    assert not report.surface.watertight and report.volume_cm3 is None
    assert any("1 hole (3 open edges)" in sentence for sentence in report.advice)


def test_two_holes_are_told_apart() -> None:
    ball = sphere_mesh(0.02)
    up = ball.face_normals[:, 2].abs()
    kept = torch.ones(len(ball.faces), dtype=torch.bool)
    z = ball.vertices[ball.faces].mean(1)[:, 2]
    kept[z.argmax()], kept[z.argmin()] = False, False
    assert up[~kept].min() > 0.9
    assert check_surface(replace(ball, faces=ball.faces[kept])).holes == 2


def test_flipped_faces_and_shells_inside_out() -> None:
    ball = sphere_mesh(0.02)
    faces = ball.faces.clone()
    faces[[3, 50, 700]] = faces[[3, 50, 700]].flip(1)
    surface = check_surface(replace(ball, faces=faces))
    assert surface.flipped_faces == 3 and not surface.watertight
    # The volume is that of the mended solid.
    assert surface.volume == pytest.approx(check_surface(ball).volume, rel=1e-9)
    inverted = check_surface(replace(ball, faces=ball.faces.flip(1)))
    assert inverted.flipped_faces == len(ball.faces) and inverted.parts == 1
    advice = report_print(replace(ball, faces=faces)).advice
    assert any(sentence.startswith("3 faces inside out") for sentence in advice)


def test_a_hollow_is_neither_a_part_nor_inside_out() -> None:
    outer, inner = box_mesh(0.04, 0.04, 0.04), box_mesh(0.02, 0.02, 0.02)
    report = report_print(together(outer, replace(inner, faces=inner.faces.flip(1))))
    assert report.surface.watertight and report.surface.parts == 1
    assert report.volume_cm3 == pytest.approx(64 - 8)
    assert report.thinnest_mm == pytest.approx(10, abs=0.01)


def test_a_thin_wall_is_found_and_the_size_that_mends_it() -> None:
    """A plate of 0.4 mm beside a cube; printed twice as large it is 0.8 mm."""
    plate = box_mesh(0.02, 0.0004, 0.02)
    report = report_print(together(moved(box_mesh(0.02, 0.02, 0.02), 0.05, 0, 0), plate))
    assert report.thinnest_mm == pytest.approx(0.4, abs=1e-3)
    # 800 of 3,232 mm2 are the plate's sides.
    (sentence,) = [s for s in report.advice if s.startswith("The thinnest walls are 0.40 mm")]
    assert "25% of the surface" in sentence or "26% of the surface" in sentence
    assert f"--size {2 * 70}mm" in sentence  # 70 mm over all


def test_crossings_are_counted() -> None:
    """A long bar through a box's two sides, away from every edge: each side is cut by four faces of the bar.

    The bar has two triangles a side; one of each pair, or both, cross the wall's triangles.
    """
    bar = moved(box_mesh(0.1, 0.01, 0.01), 0, 0.003, 0.005)
    both = together(box_mesh(0.04, 0.04, 0.04), bar)
    solids = [trimesh.Trimesh(m.vertices.numpy(), m.faces.numpy()) for m in (box_mesh(0.04, 0.04, 0.04), bar)]
    assert check_surface(both).crossings == _crossing_pairs(*solids) > 8
    assert check_surface(box_mesh(0.04, 0.04, 0.04)).crossings == 0
    assert check_surface(sphere_mesh(0.02)).crossings == 0
    assert any("go through each other" in sentence for sentence in report_print(both).advice)


def _crossing_pairs(a: trimesh.Trimesh, b: trimesh.Trimesh) -> int:
    """By the definition: an edge of one triangle has its ends on two sides of the other and goes inside."""

    def pierces(p: np.ndarray, q: np.ndarray, triangle: np.ndarray) -> bool:
        n = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
        d, e = (p - triangle[0]) @ n, (q - triangle[0]) @ n
        if d * e >= 0:
            return False
        x = p + (q - p) * d / (d - e)
        inside = [np.cross(triangle[(k + 1) % 3] - triangle[k], x - triangle[k]) @ n for k in range(3)]
        return min(inside) > 0

    return sum(
        any(pierces(s[k], s[(k + 1) % 3], t) or pierces(t[k], t[(k + 1) % 3], s) for k in range(3))
        for s in a.triangles
        for t in b.triangles
    )


def test_edges_of_three_faces() -> None:
    """Two boxes that share one edge: it has four faces."""
    report = check_surface(
        together(box_mesh(0.02, 0.02, 0.02), moved(box_mesh(0.02, 0.02, 0.02), 0.02, 0.02, 0))
    )
    assert report.branching_edges == 1 and not report.watertight


def test_overhangs_have_a_share_and_a_place() -> None:
    """A table: its top of 40 x 40 mm hangs over but for the leg of 10 x 10 mm."""
    leg = trimesh.creation.box(bounds=[[-0.005, -0.005, 0], [0.005, 0.005, 0.03]])
    top = trimesh.creation.box(bounds=[[-0.02, -0.02, 0.03], [0.02, 0.02, 0.034]])
    table = mesh_of(trimesh.util.concatenate([leg, top]))
    area = 4 * 10 * 30 + 2 * 100 + 4 * 40 * 4 + 2 * 1600
    report = report_print(table)
    assert report.overhang == pytest.approx(1600 / area, rel=1e-6)
    assert report.overhang_where == "30 to 30 mm above the bed, all around"
    assert any("turn supports on" in sentence for sentence in report.advice)
    # 45 degrees are the limit: a pyramid on its tip leans 45 degrees and is let be, one a little flatter not.
    for height, share in ((0.02, 0.0), (0.019, 0.5)):
        tip = trimesh.Trimesh(
            [
                [0, 0, 0],
                [0.02, 0.02, height],
                [-0.02, 0.02, height],
                [-0.02, -0.02, height],
                [0.02, -0.02, height],
            ],
            [[0, 2, 1], [0, 3, 2], [0, 4, 3], [0, 1, 4], [1, 2, 3], [1, 3, 4]],
        )
        assert tip.is_volume
        assert (report_print(mesh_of(tip)).overhang > share) == (share > 0)


def test_an_overhang_at_the_front_is_called_so() -> None:
    """A bracket towards +x."""
    post = trimesh.creation.box(bounds=[[-0.02, -0.005, 0], [-0.01, 0.005, 0.04]])
    arm = trimesh.creation.box(bounds=[[-0.01, -0.005, 0.03], [0.02, 0.005, 0.04]])
    report = report_print(mesh_of(trimesh.util.concatenate([post, arm])))
    assert report.overhang_where == "30 to 30 mm above the bed, at the front"


def test_parts_that_stand_on_nothing() -> None:
    report = report_print(together(box_mesh(0.02, 0.02, 0.02), moved(box_mesh(0.01, 0.01, 0.01), 0, 0, 0.03)))
    assert (report.surface.parts, report.surface.floating) == (2, 1)
    assert any(sentence.startswith("1 of 2 parts stand on nothing") for sentence in report.advice)


def test_a_ball_gets_a_flat_base() -> None:
    """A hundredth of a ball's height off: a circle of radius sqrt(2 r h - h^2) on the bed."""
    ball = sphere_mesh(0.04, subdivisions=5)
    assert any("--base cut" in sentence for sentence in report_print(ball).advice)
    report = report_print(flat_base(ball, 0.01))
    assert report.surface.watertight
    h = 0.8
    # What lies within the first layer's 0.3 mm counts.
    assert 0.98 * np.pi * (80 * h - h**2) < report.contact_mm2 < np.pi * (80 * (h + 0.3) - (h + 0.3) ** 2)
    assert report.size_mm[2] == pytest.approx(80 - h, rel=1e-3)
    assert not any("--base cut" in sentence for sentence in report.advice)
