from __future__ import annotations

from dataclasses import replace

from v3d.evaluation.protocol import RECONSTRUCTION
from v3d.evaluation.reconstruction import evaluate_reconstruction
from v3d.evaluation.settings import ReconstructionSettings
from v3d.evaluation.testset import TestObject
from v3d.meshes.mesh import Mesh
from v3d.objects.presets import PRESETS
from v3d.splats.fit import FitSettings

TINY = replace(
    PRESETS["draft"],
    hull=48,
    gaussians=600,
    splats=FitSettings(iterations=60, densify=None),
    faces=1500,
    texture_size=128,
)


def test_a_tiny_object_is_reconstructed_and_scored(meshes: dict[str, Mesh]):
    item = TestObject("ball", meshes["ball"], palette=False, real_scan=True)
    settings = ReconstructionSettings(views=("clean", "perturbed"), carving=(True, False))
    result = evaluate_reconstruction(
        item,
        replace(RECONSTRUCTION, size=64, supersample=2, samples=2000, directions=9),
        settings,
        preset=TINY,
    )
    assert not result.failures
    scores = result.scores
    methods = ["splats", "splats, no carving", "hull", "mesh"]
    perturbed = [f"{m}, perturbed views" for m in methods]
    assert list(scores) == ["true views", *methods, "perturbed views", *perturbed]
    assert scores["true views"]["chamfer"] < 1e-5 and scores["true views"]["between.psnr"] == 100
    assert scores["true views"]["iou"] == 1
    assert scores["splats"]["between.psnr"] > 19
    assert scores["splats"]["between.psnr"] > scores["splats, no carving"]["between.psnr"]
    assert scores["hull"]["chamfer"] < 0.03 and scores["hull"]["iou"] > 0.9
    assert scores["mesh"]["between.psnr"] > 24 and scores["mesh"]["above.psnr"] > 20
    assert scores["mesh, perturbed views"]["between.psnr"] < scores["mesh"]["between.psnr"]
    assert all(scores[m]["seconds"] >= 0 for m in methods)
