from __future__ import annotations

from dataclasses import replace

import numpy as np

from v3d.evaluation.protocol import GENERATION
from v3d.evaluation.report import ObjectResult
from v3d.evaluation.sheet import SheetRow, choose_objects, generation_sheet
from v3d.evaluation.testset import TestObject
from v3d.framing import photo_of
from v3d.meshes.mesh import Mesh


def results(scans: int, made: int) -> list[ObjectResult]:
    """Objects whose number grows with their PSNR."""
    named = [(f"scan{i:02d}", True, float(i)) for i in range(scans)]
    named += [(f"made{i:02d}", False, float(i)) for i in range(made)]
    return [ObjectResult(name, "", scan, {"generated": {"psnr": s}}) for name, scan, s in named]


def test_good_and_bad_ones_both_appear():
    scans, made = choose_objects(results(49, 86), "generated", 40)
    assert len(set(scans)) == len(set(made)) == 20
    assert (scans[0], scans[-1], made[0], made[-1]) == ("scan48", "scan00", "made85", "made00")
    gaps = -np.diff([int(name[4:]) for name in made])
    assert set(gaps.tolist()) <= {4, 5}
    assert choose_objects(reversed(results(49, 86)), "generated", 40) == (scans, made)  # whatever the order


def test_one_kind_fills_up_for_the_other():
    scans, made = choose_objects(results(3, 86), "generated", 40)
    assert (len(scans), len(made)) == (3, 37)
    scans, made = choose_objects(results(2, 1), "generated", 40)
    assert (scans, made) == (["scan01", "scan00"], ["made00"])
    assert choose_objects([ObjectResult("x", "", True, {}, {"generated": "failed"})], "generated", 4) == (
        [],
        [],
    )


def test_a_row_shows_photo_generated_and_true_views(meshes: dict[str, Mesh]):
    truth = replace(GENERATION, size=48, supersample=1).true_orbit(
        TestObject("ball", meshes["ball"], False, False)
    )
    black = replace(truth, rgb=truth.rgb * 0)
    row = SheetRow("ball   20.00 dB", photo_of(truth), black, truth)
    image = np.asarray(generation_sheet([("Scans", [row, row]), ("Made", [row]), ("None", [])], tile=48))
    dark = (image == 0).all(-1)
    assert dark.sum() == 3 * 6 * 48 * 48  # six generated views in each of three rows
    y, x = np.argwhere(dark)[0]
    shown = image[y : y + 48, x + 6 * 48 + 10 :][:, :48].astype(float) / 255  # the first true view
    np.testing.assert_allclose(shown, truth.rgb[0].numpy(), atol=1 / 255)
