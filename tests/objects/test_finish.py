"""A run with its mesh finished for a game, a print or a web page, on tiny settings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from shapes import ball_views, lopsided_mesh, reused, sphere_mesh
from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.finishing.purposes import plan_of
from v3d.meshes.files import load_mesh
from v3d.objects import pipeline
from v3d.objects.finish import finish
from v3d.objects.finish_stage import finished_files, formats_of, save_finished
from v3d.settings import FinishSettings, Purpose, ReconstructSettings
from v3d.views import Views, save_views

pytestmark = pytest.mark.usefixtures("tiny")

SMALL = ReconstructSettings(formats=("glb",), faces=300, texture_size=64)


@pytest.fixture(scope="module")
def ball() -> Views:
    return ball_views(orbit(size=48), 0.6)


def document(path: Path) -> dict:
    data = path.read_bytes()
    return json.loads(data[20 : 20 + int.from_bytes(data[12:16], "little")])


def test_a_game_gets_levels_maps_and_a_base_and_a_rerun_takes_them_away(ball: Views, tmp_path: Path) -> None:
    save_views(ball, tmp_path / "red ball")
    game = FinishSettings(purpose="game", size="0.5m", lods=2)
    asset = pipeline.reconstruct(tmp_path / "red ball", tmp_path / "out", SMALL, finish=game)
    finished = asset.folder / "finished"
    names = ["mesh.glb", "mesh_lod1.glb", "mesh_lod2.glb"]
    assert sorted(p.name for p in finished.iterdir()) == names
    # The colours as they are, the occlusion, the normals; everything is called after the folder.
    found = document(finished / "mesh.glb")
    (material,) = found["materials"]
    assert {"normalTexture", "occlusionTexture"} <= material.keys()
    assert {material["name"], found["nodes"][0]["name"], found["meshes"][0]["name"]} == {"red ball"}
    meshes = [load_mesh(finished / name) for name in names]
    low, high = meshes[0].vertices.amin(0), meshes[0].vertices.amax(0)
    assert float((high - low).max()) == pytest.approx(0.5, rel=1e-6)
    torch.testing.assert_close(
        torch.stack([*(low + high)[:2] / 2, low[2]]), torch.zeros(3), atol=1e-6, rtol=0
    )
    faces = [len(mesh.faces) for mesh in meshes]
    assert 280 <= faces[0] <= 300 and faces[1] <= 150 and faces[2] <= 75
    assert [len(mesh.texture) for mesh in meshes] == [64, 32, 16]
    record = asset.report["stages"]["finish"]
    assert record["faces"] == faces[0] and record["lods"] == faces[1:]
    assert record["files"] == [f"finished/{name}" for name in names]

    again = pipeline.reconstruct(tmp_path / "red ball", tmp_path / "out", SMALL, finish=game)
    assert all(reused(again).values())
    other = FinishSettings(purpose="game", size="0.5m", lods=0, maps=())
    again = pipeline.reconstruct(tmp_path / "red ball", tmp_path / "out", SMALL, finish=other)
    assert [name for name, was in reused(again).items() if not was] == ["finish"]
    assert [p.name for p in finished.iterdir()] == ["mesh.glb"]
    (finished / "mine.txt").write_text("a note of the user's")
    plain = pipeline.reconstruct(tmp_path / "red ball", tmp_path / "out", SMALL)
    assert "finish" not in plain.report["stages"] and plain.report["not_reached"] == {}
    assert [p.name for p in finished.iterdir()] == ["mine.txt"]


def test_a_print_is_closed_in_millimetres_on_its_base_and_reported(ball: Views, tmp_path: Path) -> None:
    asset = pipeline.reconstruct(ball, tmp_path / "ball", SMALL, finish=FinishSettings(purpose="print"))
    finished = asset.folder / "finished"
    assert sorted(p.name for p in finished.iterdir()) == ["mesh.3mf", "mesh.stl", "print.json"]
    solid = trimesh.load(finished / "mesh.stl", force="mesh")
    assert solid.is_watertight and len(solid.faces) > 1000  # dense, whatever --faces says
    assert solid.bounds[0, 2] == pytest.approx(0, abs=1e-4)
    assert solid.extents.max() == pytest.approx(80, rel=1e-5)
    report = json.loads((finished / "print.json").read_text())
    assert report["watertight"] and report["parts"] == 1
    assert report["volume_cm3"] == pytest.approx(solid.volume / 1000, rel=1e-3)
    assert report["volume_cm3"] == pytest.approx(4 / 3 * np.pi * 4**3, rel=0.1)
    assert asset.report["stages"]["finish"]["print"] == report
    notes = asset.report["warnings"]
    assert any("were cut off for a flat base" in note for note in notes)
    assert any("leans outward more than 45 degrees" in note for note in notes)


def test_formats_without_a_purpose_and_the_size_of_prints(ball: Views, tmp_path: Path) -> None:
    settings = ReconstructSettings(formats=("stl", "3mf", "ply-mesh"), faces=300, texture_size=64)
    asset = pipeline.reconstruct(ball, tmp_path / "ball", settings)
    assert trimesh.load(asset.folder / "mesh.stl").extents.max() == pytest.approx(80, rel=1e-5)
    assert any(
        note.startswith("mesh.stl and mesh.3mf: the longest side is 80 mm")
        for note in asset.report["warnings"]
    )
    size = FinishSettings(size="5in")
    asset = pipeline.reconstruct(ball, tmp_path / "ball", settings, finish=size)
    assert not (asset.folder / "mesh.stl").exists()
    assert trimesh.load(asset.folder / "finished/mesh.stl").extents.max() == pytest.approx(127, rel=1e-5)
    assert sorted(p.name for p in (asset.folder / "finished").iterdir()) == [
        "mesh.3mf",
        "mesh.glb",
        "mesh.ply",
        "mesh.stl",
    ]
    assert not any("longest side" in note for note in asset.report["warnings"])


def test_what_cannot_be_is_told_before_anything_is_computed(ball: Views, tmp_path: Path) -> None:
    views = ReconstructSettings(until="splats")
    with pytest.raises(V3DError, match="--until splats stops before it"):
        pipeline.reconstruct(ball, tmp_path / "ball", views, finish=FinishSettings(purpose="web"))
    with pytest.raises(V3DError, match="no unit"):
        pipeline.reconstruct(ball, tmp_path / "ball", finish=FinishSettings(size="80"))
    assert not (tmp_path / "ball").exists()


@pytest.mark.parametrize("purpose", ["game", "web", "print"])
def test_the_files_are_those_that_the_report_names(purpose: Purpose, tmp_path: Path) -> None:
    """Also with every format at once: what a stage names and does not write would be computed for ever."""
    pytest.importorskip("pxr")
    plan = plan_of(FinishSettings(purpose=purpose, lods=0 if purpose == "print" else 1))
    assert plan is not None
    formats = formats_of(plan, ("glb", "obj", "stl", "3mf", "ply-mesh", "usd", "usdz", "ply"))
    finished = finish(lopsided_mesh(), lambda: sphere_mesh(0.5, 3), plan, name="a b")
    save_finished(tmp_path, finished, plan, formats)
    assert sorted(finished_files(plan, formats)) == sorted(p.name for p in tmp_path.iterdir())
