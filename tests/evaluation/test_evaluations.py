from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from v3d.cli import main
from v3d.diffusion.configs import Sampling
from v3d.diffusion.dit import OrbitDiT, OrbitDiTConfig
from v3d.errors import V3DError
from v3d.evaluation.evaluate import evaluate
from v3d.evaluation.protocol import RECONSTRUCTION
from v3d.evaluation.settings import (
    EvaluateAsset,
    EvaluateGeneration,
    EvaluateViews,
    GenerationSettings,
    ObjectSource,
)
from v3d.evaluation.testset import TestObject
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.networks.pixelnerf import load_pixelnerf
from v3d.training.export import export_mini
from v3d.views import Views, save_views


def test_generation_baselines_are_reported_and_resumed(folder: Path, packed: Path, tmp_path: Path):
    command = EvaluateGeneration(
        tmp_path,
        ObjectSource(corpus=folder, limit=1),  # named glb/..., so no training object counts as a test object
        GenerationSettings(mesh="none"),
        model="none",
        train_corpus=packed,
        size=32,
    )
    seen: list[tuple[str, int, int]] = []
    evaluate(command, on_object=lambda *state: seen.append(state))
    assert seen == [("glb/ball", 1, 1)]
    report = evaluate(
        replace(command, objects=ObjectSource(corpus=folder)), on_object=lambda *state: seen.append(state)
    )
    assert seen[1:] == [("glb/pillar", 2, 2)]  # the first was not measured again
    methods = report["summary"]["all objects"]
    assert list(methods) == ["true views", "repeat the photo", "nearest training object"]
    assert methods["nearest training object"]["psnr"] > 25  # which here is the very object
    stored = json.loads((tmp_path / "report.json").read_text())
    assert stored["provenance"]["protocol"]["version"] == "generation-1"
    assert "| repeat the photo | 2 |" in (tmp_path / "report.md").read_text()
    with pytest.raises(V3DError, match="other settings"):
        evaluate(replace(command, size=40))


def test_processes_share_the_objects_and_each_report_is_of_all_that_is_done(folder: Path, tmp_path: Path):
    settings = GenerationSettings(mesh="none")
    objects = ObjectSource(manifest=folder / "index.json")
    whole = EvaluateGeneration(tmp_path, objects, settings, model="none", perceptual=None, size=32)
    seen: list[tuple[str, int, int]] = []
    second = evaluate(replace(whole, shard=(2, 2)), on_object=lambda *state: seen.append(state))
    assert seen == [("pillar", 1, 1)] and [one["id"] for one in second["objects"]] == ["pillar"]
    first = evaluate(replace(whole, shard=(1, 2)), on_object=lambda *state: seen.append(state))
    assert seen[1:] == [("ball", 1, 1)] and [one["id"] for one in first["objects"]] == ["ball", "pillar"]
    again = evaluate(whole, on_object=lambda *state: seen.append(state))
    assert len(seen) == 2 and again["summary"] == first["summary"]
    assert "| true views | 2 |" in (tmp_path / "report.md").read_text()
    for shard in ((0, 2), (3, 2)):
        with pytest.raises(V3DError, match=f"no shard {shard[0]} of 2"):
            evaluate(replace(whole, shard=shard))
    with pytest.raises(V3DError, match="other settings"):
        evaluate(replace(whole, shard=(2, 2), size=40))


def test_photos_that_cannot_be_are_refused_in_one_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    command = ["evaluate", "generation", "--corpus", str(folder), "--out", str(tmp_path / "out")]
    for wrong in ("5", "0"):
        assert main([*command, "--photos", "1", wrong]) == 2
        sentence = "v3d: Give --photos numbers from 1 to 4: front, left, back, right, in this order.\n"
        assert capsys.readouterr().err == sentence
    assert main([*command, "--elevation", "80"]) == 2
    assert "The elevation is 80 degrees" in capsys.readouterr().err
    assert main([*command, "--elevation", "20", "--train-corpus", str(folder)]) == 2
    assert "from elevation 0 only" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_device_of_a_generator_is_chosen_as_everywhere(
    folder: Path,
    nerf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    dit = OrbitDiT(OrbitDiTConfig(size=32, channels=(8, 8, 8), width=64, depth=1))
    export_mini(load_pixelnerf(nerf), dit, tmp_path / "model", Sampling(steps=1, guidance=1.0))
    command = ["evaluate", "generation", "--out", str(tmp_path / "out"), "--model", str(tmp_path / "model")]
    command += [
        "--corpus",
        str(folder),
        "--limit",
        "1",
        "--mesh",
        "none",
        "--size",
        "32",
    ]
    assert main([*command, "--device", "auto"]) == 0
    assert (tmp_path / "out/report.json").exists()
    capsys.readouterr()
    assert main([*command, "--device", "cuda"]) == 2
    assert "no CUDA device here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--device", "bogus"])
    assert "bogus" in capsys.readouterr().err


def test_views_are_compared_with_views(meshes: dict[str, Mesh], tmp_path: Path):
    protocol = replace(RECONSTRUCTION, size=32, views=4, supersample=1)
    truth = protocol.true_orbit(TestObject("ball", meshes["ball"], False, False))
    wrong = Views(truth.rgb.roll(1, 0), truth.alpha.roll(1, 0), truth.cameras)
    save_views(truth, tmp_path / "a")
    save_views(wrong, tmp_path / "b")
    same = evaluate(EvaluateViews(tmp_path / "a", tmp_path / "a", tmp_path / "out"))
    assert same["objects"][0]["scores"]["mean"]["psnr"] == 100
    assert (tmp_path / "out" / "report.md").exists()
    other = evaluate(EvaluateViews(tmp_path / "b", tmp_path / "a"))["objects"][0]["scores"]
    assert len(other) == 5 and other["mean"]["psnr"] < 40
    save_views(truth[:3], tmp_path / "c")
    with pytest.raises(V3DError, match="3 views"):
        evaluate(EvaluateViews(tmp_path / "c", tmp_path / "a"))
    save_views(truth[[1, 0, 2, 3]], tmp_path / "d")
    with pytest.raises(V3DError, match="different places"):
        evaluate(EvaluateViews(tmp_path / "d", tmp_path / "a"))


def test_views_of_other_lenses_are_not_compared(meshes: dict[str, Mesh], tmp_path: Path):
    protocol = replace(RECONSTRUCTION, size=32, views=4, supersample=1)
    truth = protocol.true_orbit(TestObject("ball", meshes["ball"], False, False))
    save_views(truth, tmp_path / "a")
    K = truth.cameras.K.clone()
    K[:, :2, :2] *= 1.1
    save_views(replace(truth, cameras=replace(truth.cameras, K=K)), tmp_path / "b")
    with pytest.raises(V3DError, match="different angles"):
        evaluate(EvaluateViews(tmp_path / "b", tmp_path / "a"))
    soft = truth.resized(8, 8).resized(32, 32)  # without edges, which resizing would blur
    save_views(soft, tmp_path / "a")
    save_views(soft.resized(64, 64), tmp_path / "c")  # larger images of these cameras are compared
    same = evaluate(EvaluateViews(tmp_path / "c", tmp_path / "a"))
    assert same["objects"][0]["scores"]["mean"]["psnr"] > 40


def test_assets_are_compared_with_assets(meshes: dict[str, Mesh], tmp_path: Path):
    ball = meshes["ball"]
    save_glb(ball, tmp_path / "a.glb")
    save_glb(replace(ball, vertices=2 * ball.vertices + torch.tensor([0.1, 0.0, 0.0])), tmp_path / "b.glb")
    command = EvaluateAsset(tmp_path / "b.glb", tmp_path / "a.glb", size=32)
    apart = evaluate(command)["objects"][0]["scores"]
    assert apart["mesh"]["chamfer"] > 0.2 and apart["true mesh"]["chamfer"] < 1e-5
    aligned = evaluate(replace(command, alignment="ball"))["objects"][0]["scores"]
    assert aligned["mesh"]["chamfer"] < 1e-5 and aligned["mesh"]["between.psnr"] > 60
