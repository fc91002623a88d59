"""The desk: what is asked for becomes a job of plain values, and the job the same work again."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shapes import Draw, sphere_mesh
from v3d.cameras import orbit
from v3d.capture.readers import load_views
from v3d.errors import V3DError
from v3d.meshes.rendering import render
from v3d.serving.desk import Desk, task_of
from v3d.serving.runner import Limits, Runner
from v3d.serving.store import Job, JobStore
from v3d.serving.tasks import GenerateTask, Made, ReconstructTask, SceneTask, TextureTask
from v3d.serving.worker import Worker
from v3d.settings import FinishSettings, GenerateSettings, OrbitSettings
from v3d.splats.files.ply import load_ply
from v3d.views import Views, save_views

VIEWS = GenerateSettings(until="views", quality="draft", seed=5)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    store = JobStore(tmp_path / "jobs")
    yield Desk(store, Limits(), VIEWS)
    store.close()


def capture(folder: Path, count: int = 6, size: int = 48) -> Path:
    """Posed views of a ball."""
    cameras = orbit(count, size=size)
    seen = render(sphere_mesh(), cameras)
    save_views(Views(seen.rgb, seen.alpha, cameras), folder)
    return folder


def packed(folder: Path, inside: str = "ball") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{inside}/{path.relative_to(folder)}")
    return file.getvalue()


def made(desk: Desk, job: Job) -> Made:
    return task_of(job, desk.store)(lambda stage, done, total: None)


def test_posed_views_in_a_zip_become_an_asset(desk: Desk, tmp_path: Path) -> None:
    job = desk.reconstruct(packed(capture(tmp_path / "ball")), "ball.zip", {"seed": 7})
    task = task_of(desk.store.get(job.id), desk.store)
    assert isinstance(task, ReconstructTask) and task.orbit is None
    assert (task.settings.seed, task.settings.until, task.settings.quality) == (7, "views", "draft")
    result = made(desk, job)
    assert result.folder == desk.store.root / job.id / "result" and "views.mp4" in result.files
    assert torch.allclose(load_views(result.folder).cameras.c2w, orbit(6).c2w, atol=1e-4)


def test_pictures_without_cameras_get_those_of_their_law(desk: Desk, tmp_path: Path) -> None:
    views = capture(tmp_path / "ball") / "views"
    orbit_options = {"elevation": [0], "fov": 60, "direction": "counterclockwise"}
    job = desk.reconstruct(packed(views), "ball.zip", {}, orbit_options)
    task = task_of(job, desk.store)
    assert isinstance(task, ReconstructTask)
    assert task.orbit == OrbitSettings(elevation=(0.0,), fov=60.0, direction="counterclockwise")
    result = made(desk, job)
    centers = load_views(result.folder).cameras.centers
    azimuths = torch.atan2(centers[:, 1], centers[:, 0]).rad2deg() % 360
    expected = torch.arange(6) * 60.0
    off = (azimuths - azimuths[0] - expected + 180) % 360 - 180
    assert float(off.abs().max()) < 3


def test_cameras_may_not_name_files_of_the_server(desk: Desk, tmp_path: Path) -> None:
    folder = capture(tmp_path / "ball")
    secret = desk.store.root / "secret.png"
    (folder / "views/000.png").rename(secret)
    transforms = json.loads((folder / "transforms.json").read_text())
    transforms["frames"][0]["file_path"] = "../../../secret.png"
    (folder / "transforms.json").write_text(json.dumps(transforms))
    for job in (desk.reconstruct(packed(folder), "a.zip", {}), desk.scene(packed(folder), "a.zip", {})):
        with pytest.raises(V3DError, match=r"secret.png, which is not in the upload"):
            made(desk, job)


def test_photos_of_a_scene_become_gaussians(desk: Desk, tmp_path: Path) -> None:
    folder = capture(tmp_path / "ball", size=24)
    job = desk.scene(packed(folder), "ball.zip", {"path": "none", "frames": 4})
    task = task_of(job, desk.store)
    assert isinstance(task, SceneTask) and task.settings.model == "mini-scene" and task.settings.seed == 5
    result = made(desk, job)
    assert len(load_ply(result.folder / "splats.ply")) > 100 and "splats.mp4" in result.files


def test_a_mask_decides_what_the_object_is(desk: Desk, draw: Draw) -> None:
    photo, half = draw("cup.png").read_bytes(), io.BytesIO()
    white = np.zeros((90, 120), np.uint8)
    white[:, :60] = 255
    Image.fromarray(white).save(half, "PNG")
    job = desk.generate({"front": photo}, {}, {"front": half.getvalue()})
    with Image.open(made(desk, job).folder / "cutout.png") as cutout:
        alpha = np.asarray(cutout)[..., 3]
    assert alpha[:, :58].min() == 255 and alpha[:, 62:].max() == 0


def test_a_job_knows_its_purpose_and_its_photos_name(desk: Desk, draw: Draw) -> None:
    photo, asked = draw("cup.png").read_bytes(), {"purpose": "print", "size": "12cm", "lods": None}
    job = desk.generate({"front": photo}, {}, finish=asked, filename="../My <cup>.PNG")
    task = task_of(desk.store.get(job.id), desk.store)
    assert isinstance(task, GenerateTask)
    assert task.finish == FinishSettings(purpose="print", size="12cm") and task.title == "My _cup_"
    old = {name: value for name, value in job.request.items() if name not in ("finish", "name")}
    task = task_of(dataclasses.replace(job, request=old), desk.store)  # of a server before there were both
    assert isinstance(task, GenerateTask) and (task.finish, task.title) == (FinishSettings(), None)


def test_a_mesh_and_photos_become_a_job(desk: Desk, draw: Draw, tmp_path: Path) -> None:
    photo = draw("cup.png").read_bytes()
    mesh = b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    task = task_of(desk.texture(mesh, {"front": photo, "back": photo}, {"texture_size": 64}), desk.store)
    assert isinstance(task, TextureTask) and task.settings.texture_size == 64
    assert task.mesh.name == "mesh.obj" and isinstance(task.source, dict)
    assert {azimuth: file.name for azimuth, file in task.source.items()} == {0.0: "front", 180.0: "back"}
    views = packed(capture(tmp_path / "ball"))
    task = task_of(desk.texture(mesh, {}, {}, views), desk.store)
    assert isinstance(task, TextureTask) and isinstance(task.source, Path)
    assert len(load_views(task.source)) == 6


ASKS: list[tuple[Any, str]] = [
    (lambda d, p, z: d.reconstruct(p, "p.png", {}), "no cameras; say what is known"),
    (lambda d, p, z: d.reconstruct(z, "a.zip", {}, {"law": "dreams"}), "law cannot be 'dreams'"),
    (lambda d, p, z: d.reconstruct(z, "a.zip", {"device": "cuda"}), "The server decides on device"),
    (lambda d, p, z: d.reconstruct(b"<svg/>", "a.svg", {}, {}), "a.svg is none of what can be read"),
    (lambda d, p, z: d.scene(z, "a.zip", {"path": "/etc/path.json"}), "no path /etc/path.json"),
    (lambda d, p, z: d.scene(z, "a.zip", {"frames": 900}), "1 to 500 frames"),
    (lambda d, p, z: d.scene(p, "p.png", {}), "give a zip of their folder"),
    (lambda d, p, z: d.scene(z, "a.zip", {"model": "x"}), "The server decides on model"),
    (lambda d, p, z: d.texture(p, {"front": p}, {}), "The mesh is none"),
    (lambda d, p, z: d.texture(b"glTF", {"left": p}, {}), "no photo of the front"),
    (lambda d, p, z: d.texture(b"glTF", {"front": p}, {}, z), "not both"),
    (lambda d, p, z: d.texture(b"glTF", {}, {}, p), "give a zip of posed photos"),
    (lambda d, p, z: d.generate({"front": p}, {}, finish={"purpose": "toy"}), "purpose cannot be 'toy'"),
    (lambda d, p, z: d.generate({"front": p}, {}, finish={"size": "big"}), "big"),
    (lambda d, p, z: d.reconstruct(z, "a.zip", {}, finish={"base": "cut"}), "for prints"),
    (lambda d, p, z: d.generate({"front": p}, {}, {"back": p}), "mask of back without its photo"),
    (lambda d, p, z: d.generate({"front": p}, {}, {"front": b"<svg/>"}), "mask of the front is not an image"),
]


@pytest.mark.parametrize(("ask", "sentence"), ASKS)
def test_what_is_refused_leaves_nothing(
    desk: Desk, draw: Draw, tmp_path: Path, ask: Any, sentence: str
) -> None:
    zipped = packed(capture(tmp_path / "ball", count=3, size=16))
    with pytest.raises(V3DError, match=sentence):
        ask(desk, draw("cup.png").read_bytes(), zipped)
    assert desk.store.jobs() == [] and [f for f in desk.store.root.iterdir() if f.is_dir()] == []


def ended(store: JobStore, id: str) -> Job:
    while (job := store.get(id)).state not in ("done", "failed"):
        pass
    return job


def test_sentences_name_files_as_the_client_does(desk: Desk, draw: Draw, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/transforms.json").write_text("{}")
    runner = Runner(desk.store, task_of, workers=[Worker(1)], limits=Limits())
    job = desk.reconstruct(packed(tmp_path / "odd"), "odd.zip", {})
    runner.start()
    try:
        reason = ended(desk.store, job.id).reason
    finally:
        runner.stop()
    assert reason.startswith("views") and str(tmp_path) not in reason


def test_a_job_that_fills_the_disk_is_ended(desk: Desk, draw: Draw) -> None:
    runner = Runner(desk.store, task_of, workers=[Worker(1)], limits=Limits(job_gigabytes=1e-7))
    job = desk.generate({"front": draw("cup.png").read_bytes()}, {})
    runner.start()
    try:
        assert "more than the 1e-07 GB" in ended(desk.store, job.id).reason
    finally:
        runner.stop()


def test_a_running_job_that_is_removed_harms_no_other(desk: Desk, draw: Draw) -> None:
    photo = draw("cup.png").read_bytes()
    first, second = (desk.generate({"front": photo}, {}).id for _ in range(2))
    runner = Runner(desk.store, task_of, workers=[Worker(1)], limits=Limits())
    runner.start()
    try:
        while desk.store.get(first).stage == "":
            pass
        desk.store.finish(first, "cancelled")
        desk.store.remove(first)
        assert ended(desk.store, second).state == "done"
    finally:
        runner.stop()
    assert first not in desk.store and not (desk.store.root / first).exists()
