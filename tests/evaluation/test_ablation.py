from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh
from made import Made
from PIL import Image

from shapes import textured
from v3d.diffusion.configs import OrbitDiTConfig, Sampling
from v3d.diffusion.dit import OrbitDiT
from v3d.diffusion.generator import Generator
from v3d.diffusion.photos import OrbitPhotos
from v3d.errors import V3DError
from v3d.evaluation.ablation import Bench, ObjectVariants, merge
from v3d.evaluation.ablation_report import make_ablation_report
from v3d.evaluation.evaluate import evaluate
from v3d.evaluation.generation import OrbitGenerator, repeat_photo
from v3d.evaluation.plot import Point, plot
from v3d.evaluation.protocol import GENERATION, RECONSTRUCTION, ObjectProtocol
from v3d.evaluation.report import ObjectResult, markdown
from v3d.evaluation.settings import AblationSettings, EvaluateAblation, ObjectSource
from v3d.evaluation.testset import TestObject
from v3d.evaluation.variants import (
    BuildChoice,
    GenerationChoice,
    build_variants,
    generation_variants,
    open_file,
)
from v3d.meshes.mesh import Mesh
from v3d.networks.perceptual import Perceptual
from v3d.networks.pixelnerf import PixelNeRF, PixelNeRFConfig
from v3d.objects.presets import PRESETS
from v3d.training.export import export_mini
from v3d.views import Views

SMALL = replace(GENERATION, size=40, supersample=1, samples=1000, directions=6)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = PRESETS["draft"]
    fit = replace(draft.splats, iterations=15)
    tiny = replace(draft, view_size=32, hull=32, gaussians=150, splats=fit, faces=200, texture_size=64)
    monkeypatch.setitem(PRESETS, "draft", tiny)


def blurring(item: TestObject) -> OrbitGenerator:
    """A generator whose guidance is how much of the truth it knows; the rest is the photo repeated."""
    truth = SMALL.true_orbit(item)

    def generate(photos: OrbitPhotos, *, seed: int, steps: int | None, guidance: float | None) -> Views:
        repeated = repeat_photo(photos.images[0], truth)
        mix = 0.5 if guidance is None else guidance
        rgb = mix * truth.rgb + (1 - mix) * repeated.rgb
        return Views(rgb, mix * truth.alpha + (1 - mix) * repeated.alpha, truth.cameras)

    return Made(generate)


def bench(
    generator: OrbitGenerator,
    *,
    built: ObjectProtocol = SMALL,
    settings: AblationSettings | None = None,
    judge: Perceptual | None = None,
) -> Bench:
    """A bench whose only generator is this one."""
    return Bench(settings or AblationSettings(), SMALL, built, lambda name: generator, judge=judge)


def test_one_thing_is_varied_at_a_time():
    settings = AblationSettings(guidance=(1.5, 1.0), steps=(8, 1, 16), carving=(True, False), seed=3)
    rows = generation_variants(settings)
    assert [v.label for v in rows] == ["base", "guidance 1.0", "steps 1", "steps 16"]
    assert rows[0].choice == GenerationChoice(guidance=1.5, steps=8, seed=3)
    assert rows[1].choice == GenerationChoice(guidance=1.0, steps=8, seed=3)
    assert [v.label for v in build_variants(settings)] == ["base", "carving off"]
    assert generation_variants(replace(settings, guidance=(1.0,), steps=())) == []
    with pytest.raises(V3DError, match="no 12"):
        build_variants(AblationSettings(views=(18, 12)))
    with pytest.raises(V3DError, match="on meshes only"):
        build_variants(AblationSettings(refine=(True, False), mesh=False))
    assert [v.label for v in build_variants(AblationSettings(orbit="generated", photo=(True, False)))] == [
        "base",
        "photo off",
    ]
    with pytest.raises(V3DError, match="--orbit generated"):
        build_variants(AblationSettings(photo=(True, False)))


def test_a_file_is_named_after_everything_that_decides_its_numbers(tmp_path: Path):
    one = open_file(tmp_path, GenerationChoice(steps=1), {"model_hash": "a"})
    assert open_file(tmp_path, GenerationChoice(steps=1), {"model_hash": "a"}).path == one.path
    others = [
        open_file(tmp_path, GenerationChoice(steps=2), {"model_hash": "a"}),
        open_file(tmp_path, GenerationChoice(steps=1), {"model_hash": "b"}),
        open_file(tmp_path, BuildChoice(), {"model_hash": "a"}),
    ]
    assert len({f.path for f in [one, *others]}) == 4


def test_more_of_the_truth_scores_higher_and_the_report_says_by_how_much(
    meshes: dict[str, Mesh], tmp_path: Path
):
    rows = generation_variants(AblationSettings(guidance=(0.5, 0.2, 0.9)))
    files = {v.label: open_file(tmp_path / "variants", v.choice, {}) for v in rows}
    for name, mesh in meshes.items():
        item = TestObject(name, mesh, palette=False, real_scan=name == "ball")
        generator = blurring(item)
        judge = Perceptual.load("lpips")
        settings = AblationSettings(hull=name == "ball")
        one = ObjectVariants(item, bench(generator, settings=settings, judge=judge))
        for v in rows:
            result = ObjectResult(
                item.id, item.hash, item.real_scan, {"scores": one.generation_scores(v.choice)}
            )
            files[v.label].add(result)
    results = merge(files, list(meshes))
    assert [list(r.scores) for r in results] == [["base", "guidance 0.2", "guidance 0.9"]] * 2
    report = make_ablation_report({"orbits": (rows, results)}, {}, tmp_path)
    means = report["summary"]["orbits, all objects"]
    assert means["guidance 0.2"]["psnr"] < means["base"]["psnr"] < means["guidance 0.9"]["psnr"]
    lpips = {label: scores["lpips-alex"] for label, scores in means.items()}
    assert lpips["guidance 0.2"] > lpips["base"] > lpips["guidance 0.9"] > 0
    apart = report["differences"]["orbits, all objects"]["guidance 0.2"]["psnr"]
    assert apart["low"] <= apart["mean"] <= apart["high"] < 0 and apart["n"] == 2
    assert apart["mean"] == pytest.approx(means["guidance 0.2"]["psnr"] - means["base"]["psnr"])
    text = (tmp_path / "report.md").read_text()
    assert f"{means['guidance 0.2']['psnr']:.2f} ({apart['mean']:.2f}; " in text
    assert "orbits, real scans" in report["summary"]
    assert json.loads((tmp_path / "report.json").read_text())["summary"] == report["summary"]
    assert Image.open(tmp_path / "curves.png").size[1] > 200


def test_fewer_views_make_a_worse_asset(meshes: dict[str, Mesh], tiny: None):
    item = TestObject("pillar", meshes["pillar"], palette=False, real_scan=False)
    protocol = replace(RECONSTRUCTION, size=40, supersample=1, samples=2000, directions=6)
    one = ObjectVariants(item, bench(blurring(item), built=protocol))
    base = BuildChoice(quality="draft", refine=True)
    many, few, plain = (
        one.build_scores(choice) for choice in (base, replace(base, views=3), replace(base, refine=False))
    )
    assert set(many) == set(few) == set(plain)
    assert many["chamfer"] < few["chamfer"] and many["iou"] > few["iou"]
    assert plain["chamfer"] == many["chamfer"]  # refinement touches the texture alone
    assert plain["mesh.between.psnr"] != many["mesh.between.psnr"]
    drawn = one.build_scores(replace(base, orbit="generated", mesh=False))
    assert "iou" not in drawn and drawn["splats.between.psnr"] < many["splats.between.psnr"]


def test_gaussians_of_views_that_disagree_are_those_of_the_mesh(tiny: None):
    """They look like it from above as well, where no view stood."""
    item = TestObject(
        "ball", textured(trimesh.creation.icosphere(subdivisions=2), 0), palette=False, real_scan=False
    )
    truth = SMALL.true_orbit(item)
    base = BuildChoice("generated", quality="draft")
    scores = {}
    for agrees in (True, False):
        generator = Made(lambda *_, **__: truth, agrees_in_colour=agrees)
        one = ObjectVariants(item, bench(generator, built=replace(SMALL, above=70.0)))
        scores[agrees] = one.build_scores(base)
    for name in ("iou", "chamfer", "mesh.between.psnr", "mesh.above.psnr"):  # drafts fit no surface anyway
        assert scores[True][name] == scores[False][name]
    assert scores[False]["splats.above.psnr"] > scores[True]["splats.above.psnr"] + 0.2


def test_the_photo_s_outline_is_filled_where_other_views_lose_it(tiny: None):
    item = TestObject(
        "pillar", textured(trimesh.creation.box((0.3, 0.3, 1.0)), 0), palette=False, real_scan=False
    )
    truth = SMALL.true_orbit(item)
    alpha, rgb = truth.alpha.clone(), truth.rgb.clone()
    alpha[1:, : SMALL.size // 3], rgb[1:, : SMALL.size // 3] = 0.0, 1.0
    generator = Made(lambda *_, **__: Views(rgb, alpha, truth.cameras))
    one = ObjectVariants(item, bench(generator))
    base = BuildChoice("generated", quality="draft")
    filled, carved = (one.build_scores(replace(base, photo=photo)) for photo in (True, False))
    assert filled["front_iou"] > 0.9 > carved["front_iou"]
    assert filled["chamfer"] < carved["chamfer"]


def test_the_command_resumes_and_measures_only_what_is_new(folder: Path, tmp_path: Path, tiny: None):
    seen: list[tuple[str, int, int]] = []

    def run(limit: int, carving: Sequence[bool]) -> dict[str, dict[str, float]]:
        seen.clear()
        settings = AblationSettings(carving=tuple(carving), views=(18, 6), mesh=False, quality="draft")
        objects = ObjectSource(manifest=folder / "index.json", limit=limit)
        report = evaluate(
            EvaluateAblation(tmp_path / "out", objects, settings, size=32),
            on_object=lambda *state: seen.append(state),
        )
        assert "| base |" in markdown(report)
        means: dict[str, dict[str, float]] = report["summary"]["assets, all objects"]
        return means

    first = run(1, [True])
    assert seen == [("ball", 1, 1)] and list(first) == ["base", "views 6"]
    assert run(1, [True]) == first and not seen
    times = {p: p.stat().st_size for p in (tmp_path / "out/variants").iterdir()}
    both = run(1, [True, False])
    assert seen == [("ball", 1, 1)] and list(both) == ["base", "views 6", "carving off"]
    assert both["base"] == first["base"]
    assert all(p.stat().st_size == size for p, size in times.items())  # nothing was measured twice
    assert run(2, [True, False])["base"]["n"] == 2
    with pytest.raises(V3DError, match="Nothing is varied"):
        evaluate(EvaluateAblation(tmp_path / "out", ObjectSource(manifest=folder / "index.json")))
    for name in ("model", "views", "photo", "carving"):
        settings = replace(AblationSettings(steps=(1, 2)), **{name: ()})
        with pytest.raises(V3DError, match=f"--{name} "):
            evaluate(EvaluateAblation(tmp_path / "out", settings=settings))


def test_another_preset_of_hulls_is_another_header(monkeypatch: pytest.MonkeyPatch):
    generator = Generator.from_pretrained("mini")
    bench = Bench(AblationSettings(), SMALL, SMALL, lambda name: generator)
    before = bench.generation_header(GenerationChoice())
    assert bench.generation_header(GenerationChoice()) == before
    monkeypatch.setitem(PRESETS, "draft", replace(PRESETS["draft"], hull=32))
    assert bench.generation_header(GenerationChoice()) != before


@pytest.fixture
def sampled(tmp_path: Path) -> str:
    """A folder of small weights with a video model, whose output is not zero."""
    torch.manual_seed(0)
    sizes = PixelNeRFConfig(size=16, width=64, depth=1, grid=4, planes=4, samples=4, drawn=16)
    dit = OrbitDiT(OrbitDiTConfig(size=32, channels=(8, 8, 8), width=64, depth=1))
    for p in dit.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    export_mini(PixelNeRF(sizes), dit, tmp_path / "model", Sampling())
    return str(tmp_path / "model")


def test_guidance_and_steps_of_weights_with_a_video_model(folder: Path, tmp_path: Path, sampled: str):
    settings = AblationSettings(model=(sampled,), guidance=(1.0, 8.0), steps=(2, 1), hull=False)
    objects = ObjectSource(manifest=folder / "index.json", limit=1)
    report = evaluate(EvaluateAblation(tmp_path / "out", objects, settings, size=32))
    means = report["summary"]["orbits, all objects"]
    assert list(means) == ["base", "guidance 8.0", "steps 1"]
    assert len({row["psnr"] for row in means.values()}) == 3
    assert report["provenance"]["models"][sampled] == Generator.from_pretrained(sampled).hash


def test_samplers_of_weights_with_a_video_model(folder: Path, tmp_path: Path, sampled: str):
    settings = AblationSettings(model=(sampled,), sampler=("euler", "heun"), steps=(2,), hull=False)
    objects = ObjectSource(manifest=folder / "index.json", limit=1)
    report = evaluate(EvaluateAblation(tmp_path / "out", objects, settings, size=32))
    means = report["summary"]["orbits, all objects"]
    assert means["base"]["psnr"] != means["sampler heun"]["psnr"]


def test_weights_without_a_video_model_fail_object_by_object(folder: Path, tmp_path: Path):
    """Every object says why; a table without numbers has no curves, and is no fault."""
    objects = ObjectSource(manifest=folder / "index.json", limit=1)
    settings = AblationSettings(steps=(1, 2), hull=False)
    report = evaluate(EvaluateAblation(tmp_path, objects, settings, size=32))
    assert (
        "no video model" in json.dumps(report["objects"]) and "orbits, all objects" not in report["summary"]
    )


def test_a_plot_has_its_points_where_they_belong():
    points = [Point(1, 10, 9, 11), Point(3, 20, 18, 22), Point(2, 30, 29, 31)]
    image = plot(points, "psnr over steps")
    blue = [(x, y) for x in range(340) for y in range(240) if image.getpixel((x, y)) == (31, 98, 176)]
    left, right = min(x for x, _ in blue), max(x for x, _ in blue)
    top = min(blue, key=lambda p: p[1])
    assert abs((left + right) / 2 - top[0]) <= 3  # the highest of the three is the one in the middle
    assert min(y for x, y in blue if x < left + 4) > min(y for x, y in blue if x > right - 4)
    plot([Point(1, 5, 5, 5)], "a single point")
    plot([Point(1, 0, 0, 0), Point(2, 0, 0, 0)], "no difference at all")
