"""Fresh orbits: functions of their number, of objects seen from any height, rendered in order by workers."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from v3d.cameras import orbit
from v3d.data.fresh_orbits import OrbitJob, depth_of_bytes
from v3d.data.orbit_workers import OrbitWorkers
from v3d.data.settings import FreshOrbits
from v3d.data.sources import find_sources
from v3d.data.variants import DEFAULT_LIGHT, OrbitVariant, leaning, placed_mesh, seen_from, vary
from v3d.errors import V3DError
from v3d.framing import visible_box
from v3d.meshes.files import load_mesh
from v3d.meshes.rendering import render

PLAIN = FreshOrbits(procedural=0.0, combined=0.0, tilted=0.5)


def job_of(meshes: Path, settings: FreshOrbits = PLAIN, **changes: int) -> OrbitJob:
    sizes = {"size": 32, "kept": 5, "around": 2, "seed": 3} | changes
    return OrbitJob(tuple(find_sources([meshes])), settings, **sizes)


def test_an_orbit_is_a_function_of_seed_and_number(meshes: Path) -> None:
    settings = replace(PLAIN, procedural=0.5, combined=0.5)
    rows = [job_of(meshes, settings).render(n)[0] for n in range(3)]
    again = [job_of(meshes, settings).render(n)[0] for n in (2, 0, 1)]
    assert all(torch.equal(rows[n], row) for n, row in zip((2, 0, 1), again, strict=True))
    assert not torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], job_of(meshes, settings, seed=4).render(0)[0])


def test_a_row_of_bytes_holds_views_cameras_depth_and_the_photo(meshes: Path) -> None:
    job = job_of(meshes)
    rows = torch.stack([job.render(n)[0] for n in range(2)])
    orbits = job.layout.unpack(rows)
    assert rows.shape == (2, job.layout.nbytes) and job.layout.nbytes % 4 == 0
    assert orbits.images.shape == (2, 7, 32, 32, 4) and orbits.photo.shape == (2, 32, 32, 4)
    torch.testing.assert_close(orbits.c2w[:, 0], orbit(1).c2w.expand(2, 4, 4))
    torch.testing.assert_close(orbits.K[:, :5], orbit(1, size=1).K.expand(2, 5, 3, 3))
    for k in range(2):
        cameras = [orbit(18).c2w[:, :3, 3].sub(c).norm(dim=1).min() for c in orbits.c2w[k, :5, :3, 3]]
        assert float(torch.stack(cameras).max()) < 1e-5
        for v in range(7):
            alpha = orbits.images[k, v, ..., 3].float() / 255
            assert tuple(orbits.box[k, v].tolist()) == visible_box(alpha)
            depth = depth_of_bytes(orbits.depth[k, v])
            assert torch.equal(depth > 1, alpha > 0.5)
    assert float((orbits.photo[..., :3].float() - orbits.images[:, 0, ..., :3].float()).abs().mean()) < 5


def test_all_eighteen_views_keep_their_order(meshes: Path) -> None:
    job = job_of(meshes, kept=18, around=0)
    torch.testing.assert_close(job.layout.unpack(job.render(0)[0]).c2w, orbit(18).c2w)


def test_bytes_of_depth_are_depths() -> None:
    assert depth_of_bytes(torch.tensor([0, 1, 128, 255], dtype=torch.uint8)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("elevation", [-10.0, 25.0, 40.0])
def test_a_tilted_object_is_what_a_camera_from_above_sees(meshes: Path, elevation: float) -> None:
    """The same pixels to a level camera as the upright object to one at that elevation, light included."""
    mesh = load_mesh(meshes / "pillar.glb")
    variant = OrbitVariant(front=30.0, light=DEFAULT_LIGHT)
    level, above = orbit(1, size=48), orbit(1, size=48, elevation=elevation)
    upright, tilted = vary(mesh, variant), vary(mesh, seen_from(variant, elevation))
    for a, b in zip(level.project(tilted.vertices), above.project(upright.vertices), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)
    light = seen_from(variant, elevation).light
    a, b = render(tilted, level, light=light), render(upright, above, light=variant.light)
    assert float((a.rgb - b.rgb).abs().mean()) < 2e-3 and float((a.alpha - b.alpha).abs().max()) < 0.3
    assert float((render(upright, level, light=light).rgb - b.rgb).abs().mean()) > 0.01


def test_the_top_leans_towards_the_front_camera(meshes: Path) -> None:
    up = torch.tensor([0.0, 0.0, 1.0])
    torch.testing.assert_close(leaning(up, 90.0), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6, rtol=0)
    assert torch.equal(leaning(up, 0.0), up)
    framed = placed_mesh(
        load_mesh(meshes / "pillar.glb"), seen_from(OrbitVariant(), 30.0), orbit(18, size=32)
    )
    top = framed.vertices[framed.vertices[:, 2].argmax()]
    assert float(top[0]) > 0.1  # in front of the axis


def test_objects_that_fail_are_named_and_others_take_their_place(meshes: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.glb").write_bytes(b"no mesh")
    (tmp_path / "ball.glb").symlink_to(meshes / "ball.glb")
    job = job_of(tmp_path, replace(PLAIN, tilted=0.0))
    failures = [failure for n in range(8) for failure in job.render(n)[1]]
    assert failures and all(failure.startswith("broken: ") for failure in failures)
    workers = OrbitWorkers(job, range(8), 0)
    for _ in range(8):
        workers.take(torch.empty(job.layout.nbytes, dtype=torch.uint8))
    assert workers.failures.total() == len(failures)
    (tmp_path / "ball.glb").unlink()
    with pytest.raises(V3DError, match=r"30 objects in turn failed, broken: "):
        job_of(tmp_path).render(0)


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@pytest.mark.slow
def test_workers_hand_over_in_order_and_leave_nothing(meshes: Path) -> None:
    """What one process would render, whoever was quicker; a worker that is killed is told, not waited for."""
    job, before = job_of(meshes, size=16), shared_memory()
    workers = OrbitWorkers(job, range(1, 1000, 3), 2)
    try:
        row = torch.empty(job.layout.nbytes, dtype=torch.uint8)
        for number in range(1, 16, 3):
            workers.take(row)
            assert torch.equal(row, job.render(number)[0])
        processes = multiprocessing.active_children()
        assert len(processes) == 2
        os.kill(processes[0].pid or 0, signal.SIGINT)  # as Ctrl-C does, which the trainer answers
        workers.take(row)
        os.kill(processes[0].pid or 0, signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(V3DError, match=r"has ended \(exit code -9\).* with v3d train resume"):
            for _ in range(10):  # some orbits were ready
                workers.take(row)
        assert time.monotonic() - began < 20
    finally:
        workers.close()
    assert not multiprocessing.active_children() and shared_memory() <= before
