"""Parts of the page without a browser: corrected cut-outs, a mesh coloured by its normals, a job's state."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shapes import Draw
from v3d.serving.store import JobStore

pytest.importorskip("gradio")

from v3d.serving.page.cutouts import Correction, find
from v3d.serving.page.shown import Shown
from v3d.serving.page.status import status, turning


def ramp() -> Correction:
    """A cut-out that fades from 0 at the left to 255 at the right."""
    alpha = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    return Correction("a.png", np.zeros((64, 256, 3), np.uint8), alpha)


def test_the_threshold_moves_the_soft_edge() -> None:
    assert not ramp().changes and (ramp().mask == ramp().alpha).all()
    for threshold in (0.2, 0.8):
        moved = Correction("a.png", ramp().rgb, ramp().alpha, threshold=threshold)
        assert moved.changes
        edge = int((moved.mask[0] < 128).sum())
        assert abs(edge - 255 * threshold) < 2
        assert moved.mask[0, 0] == 0 and moved.mask[0, -1] == 255


def test_strokes_keep_and_remove_and_later_ones_win() -> None:
    layer = np.zeros((32, 128, 4), np.uint8)  # half the photo's size
    layer[:16, :20] = (0, 165, 80, 255)  # keep
    layer[:16, -20:] = (224, 36, 94, 255)  # remove
    layer[20:, :] = (224, 36, 94, 40)  # too faint to be a stroke
    corrected = ramp().painted([layer])
    mask = corrected.mask
    assert (mask[:30, :39] == 255).all() and (mask[:30, -39:] == 0).all()
    assert (mask[40:] == ramp().alpha[40:]).all()
    again = np.zeros_like(layer)
    again[:16, :10] = (224, 36, 94, 255)
    mask = corrected.painted([again]).mask
    assert (mask[:30, :19] == 0).all() and (mask[:30, 22:39] == 255).all()
    with Image.open(io.BytesIO(corrected.png)) as image:
        assert (np.asarray(image) == corrected.mask).all()


def test_a_cut_out_is_that_of_a_run_and_shown_over_chequers(draw: Draw) -> None:
    found = find(str(draw("cup.png")))
    inside = np.zeros((90, 120), bool)
    y, x = np.mgrid[:90, :120] + 0.5
    inside[np.hypot((x - 60) / 30, (y - 45) / 30) < 0.9] = True
    assert (found.alpha[inside] == 255).all() and found.alpha[:, :25].max() == 0
    assert (found.picture[inside] == (200, 60, 30)).all()
    ground = found.picture[:20, :20]
    assert len(np.unique(ground)) == 2 and ground.min() > 150


def test_a_photo_without_an_object_can_be_painted(tmp_path: Path) -> None:
    Image.new("RGB", (80, 60), (90, 90, 90)).save(tmp_path / "grey.png")
    found = find(str(tmp_path / "grey.png"))
    assert found.alpha.max() == 0 and "paint it here" in found.note


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    store = JobStore(tmp_path / "jobs")
    yield store
    store.close()


def test_files_that_somebody_removed_are_left_out(store: JobStore, tmp_path: Path) -> None:
    id = store.new_id()
    store.add(id, "generate", {"name": "cup"}, most=1)
    (store.root / id / "result").mkdir()
    (store.root / id / "result/finished").mkdir()
    there = ("mesh.glb", "preview.png", "finished/mesh.glb", "finished/mesh.stl")
    for name in there:
        (store.root / id / "result" / name).write_bytes(name.encode())
    store.finish(id, "done", files=(*there, "splats.ply", ".stages/hull.safetensors"))
    shown = Shown(store, tmp_path / "shown")
    files = shown.results(store.get(id))
    assert set(files) == set(there) and Path(files["mesh.glb"]).read_bytes() == b"mesh.glb"
    assert Path(files["finished/mesh.glb"]).name == "finished_mesh.glb"  # no two of one name in the list
    assert Path(files["finished/mesh.stl"]).name == "mesh.stl"
    archive = Path(shown.archive(store.get(id), files))
    with zipfile.ZipFile(archive) as packed:
        assert archive.name == "cup.zip" and set(packed.namelist()) == set(there)
        assert packed.read("finished/mesh.glb") == b"finished/mesh.glb"
    store.remove(id)
    shown.tidy()
    assert list((tmp_path / "shown").iterdir()) == []


def test_what_a_job_says_is_text(store: JobStore, tmp_path: Path) -> None:
    id = store.new_id()
    store.add(id, "scene", {}, most=1)
    assert "Waiting: 0 before it" in status(store.get(id), 0, tmp_path)
    store.take()
    store.progress(id, "splats", 5, 10)
    line = status(store.get(id), 0, tmp_path)
    assert 'class="now">splats' in line and 'aria-valuenow="62"' in line  # stage 3 of 4, half of it
    store.finish(id, "failed", reason="<script>alert(1)</script>")
    line = status(store.get(id), 0, tmp_path)
    assert "<script>" not in line and "&lt;script&gt;" in line
    assert 'onclick="x"' not in turning([Path('/tmp/a" onclick="x".png')])
