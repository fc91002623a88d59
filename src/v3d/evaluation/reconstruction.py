"""Reconstruction from true orbits: how much the 3D half loses, with generation taken out of the question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from typing import Any

from v3d.errors import V3DError
from v3d.evaluation.assets import MeasuredBuild, Metrics, Truth, image_scores
from v3d.evaluation.protocol import RECONSTRUCTION, ObjectProtocol, perturb
from v3d.evaluation.report import ObjectResult
from v3d.evaluation.runner import evaluate_objects
from v3d.evaluation.settings import EvaluateReconstruction, OnObject, ReconstructionSettings
from v3d.evaluation.testset import TestObject
from v3d.networks.perceptual import Perceptual
from v3d.objects.build import BuildInputs
from v3d.objects.presets import PRESETS, Preset
from v3d.surface.extract import extract_mesh


def run(command: EvaluateReconstruction, on_object: OnObject | None = None) -> dict[str, Any]:
    """Measure every object that `command.out` has no result of yet; returns the report.

    Raises:
        V3DError: objects are missing, or `command.out` holds results of other settings.
    """
    protocol = replace(RECONSTRUCTION, size=command.size or RECONSTRUCTION.size)
    settings, preset = command.settings, PRESETS[command.settings.quality]
    network = None
    if any(settings.perceptual or (preset.perceptual,)):
        network = Perceptual.load(command.perceptual_network)
    header = {
        "protocol": protocol.as_dict(),
        "settings": asdict(settings),
        "preset": asdict(preset),
        "perceptual": network.name if network else None,
    }

    def measure(item: TestObject) -> ObjectResult:
        return evaluate_reconstruction(item, protocol, settings, network)

    title = "Reconstruction from true orbits"
    return evaluate_objects(command.out, title, command.objects, header, measure, on_object)


def evaluate_reconstruction(
    item: TestObject,
    protocol: ObjectProtocol,
    settings: ReconstructionSettings,
    perceptual: Perceptual | None = None,
    preset: Preset | None = None,
) -> ObjectResult:
    """Reconstruct one object from its true orbit, as the product does, and compare with the object.

    Beside its metrics, every method has `seconds`: CPU time of this process in the stages that it needs (for
    the mesh without the Gaussians, whose normals guide its surface). A method that fails with a `V3DError` is
    listed as a failure; the others go on.

    Args:
        item: the object.
        protocol: places it and says what is seen of it.
        settings: what is reconstructed, and how.
        perceptual: the network for the fits that ask for one.
        preset: in place of the one that the quality names.
    """
    preset = preset or PRESETS[settings.quality]
    truth, orbit = Truth.of(item, protocol), protocol.true_orbit(item)
    result = ObjectResult(item.id, item.hash, item.real_scan, {}, {})
    result.scores["true views"] = truth.ceiling(with_mesh=settings.mesh)
    for condition in settings.views:
        views, suffix = orbit, ""
        if condition == "perturbed":
            views, suffix = perturb(orbit, settings.seed), ", perturbed views"
            result.scores["perturbed views"] = image_scores("input", views.rgb, orbit)
        measured = MeasuredBuild(BuildInputs(views), preset, settings.seed)
        for name, method in _methods(measured, truth, settings, perceptual).items():
            try:
                result.scores[name + suffix] = method()
            except V3DError as error:
                result.failures[name + suffix] = str(error)
    return result


def _methods(
    measured: MeasuredBuild, truth: Truth, settings: ReconstructionSettings, perceptual: Perceptual | None
) -> dict[str, Callable[[], Metrics]]:
    """Every method that the settings ask for, by name; the product's own stands first and guides the mesh."""
    own = measured.preset.perceptual
    methods: dict[str, Callable[[], Metrics]] = {}
    for carving, term in product(settings.carving, settings.perceptual or (own,)):
        name = "splats" + ("" if carving else ", no carving")
        if term != own:
            name += ", perceptual" if term else ", no perceptual"

        def splats(carving: bool = carving, term: bool = term) -> Metrics:
            made = measured.splats(perceptual if term else None, carving=carving)
            return truth.splat_scores(made) | _seconds(measured, *["hull"] * carving, "splats")

        methods[name] = splats
    if settings.mesh:

        def hull() -> Metrics:
            mesh = extract_mesh(measured.hull, faces=measured.preset.faces)
            return truth.protocol.compare(mesh, truth.mesh) | _seconds(measured, "hull")

        def mesh() -> Metrics:
            scores = truth.mesh_scores(measured.mesh, measured.inputs.views)
            return scores | _seconds(measured, "hull", "surface", "shape", "texture")

        methods |= {"hull": hull, "mesh": mesh}
    return methods


def _seconds(measured: MeasuredBuild, *stages: str) -> Metrics:
    return {"seconds": sum(measured.seconds[stage] for stage in stages)}
