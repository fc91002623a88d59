"""Training on orbits that are rendered meanwhile: exact, consistent between photos and truth, and refused."""

from __future__ import annotations

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import trimesh
from runs import losses, training, values, weights
from test_synchronisation import Waits
from torch import Tensor

from shapes import textured
from v3d.cameras import ORBIT_VIEWS, Cameras, orbit
from v3d.data.settings import FreshOrbits
from v3d.errors import V3DError
from v3d.meshes.glb import save_glb
from v3d.networks.configs import PixelNeRFConfig
from v3d.networks.pixelnerf import load_pixelnerf
from v3d.networks.sources import project
from v3d.training import fresh_rays
from v3d.training.appearance import Appearance
from v3d.training.fresh_guides import FreshGuides, photo_frames
from v3d.training.fresh_rays import FreshRays
from v3d.training.processes import SINGLE_PROCESS
from v3d.training.rays import RayBatch
from v3d.training.recipe import PixelNeRFRecipe, VideoRecipe
from v3d.training.ring import OrbitRing, make_job
from v3d.training.session import resume_training, train
from v3d.training.task import BatchShare
from v3d.training.tasks.pixelnerf import PixelNeRFTask
from v3d.training.tasks.video import VideoTask

CPU = torch.device("cpu")
SETTINGS = FreshOrbits(procedural=0.0, combined=0.0, tilted=0.5, first_orbits=3, orbits_per_step=0.5)


@pytest.fixture(scope="module")
def boot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One object that is not its own mirror image from any side."""
    boxes = [trimesh.creation.box(extents=size) for size in ((0.4, 0.5, 1.4), (0.9, 0.3, 0.4))]
    boxes[1].apply_translation((0.4, 0.3, -0.5))
    path = tmp_path_factory.mktemp("boot") / "boot.glb"
    save_glb(textured(trimesh.util.concatenate(boxes), 0), path)
    return path


@pytest.fixture
def recipe(boot: Path) -> PixelNeRFRecipe:
    """A few tiny steps of one and two photos, each of which is logged."""
    return replace(
        PixelNeRFRecipe.smoke(),
        fresh=replace(SETTINGS, meshes=(boot,)),
        source_counts=(1, 2),
        steps=6,
        warmup=2,
        log_steps=1,
        views=2,
        rays=16,
        pixels=16,
        lpips=0.0,
        network=PixelNeRFConfig(
            size=32, width=64, depth=1, grid=8, planes=4, samples=4, fine=4, hidden=8, drawn=32
        ),
    )


@pytest.fixture
def video(boot: Path, nerf: Path) -> VideoRecipe:
    """A few tiny steps with guides of one and two photos."""
    return replace(
        VideoRecipe.smoke(),
        fresh=replace(SETTINGS, meshes=(boot,)),
        pixelnerf=nerf,
        source_counts=(1, 2),
        steps=3,
        batch=2,
        views=2,
        all_views=3,
        warmup=2,
        log_steps=1,
        lpips=0.0,
        first_steps=0.1,
    )


def share(
    samples: list[int], batch: int = 4, step: int = 0, done: float = 0.0, position: int = 0
) -> BatchShare:
    return BatchShare(step, position, done, batch, samples, seed=5, device=CPU)


def test_a_full_ring_replaces_the_oldest_and_one_begun_later_holds_the_same(boot: Path) -> None:
    job = make_job(replace(SETTINGS, meshes=(boot,), orbits_per_step=2.0), 16, 3, 1, 0)
    ring = OrbitRing(job, 4, SINGLE_PROCESS, 0)
    assert len(ring) == 0 and ring.advance(0) == range(3) and len(ring) == 3
    assert ring.advance(0) == range(3, 3)  # nothing is taken twice
    assert ring.advance(1) == range(3, 5) and ring.advance(3) == range(5, 9)
    assert len(ring) == 4 and ring.report == {"orbits": 9, "failed objects": 0}
    later = OrbitRing(job, 4, SINGLE_PROCESS, 0)
    assert later.advance(3) == range(5, 9)
    assert torch.equal(ring._rows, later._rows)
    for number in range(5, 9):
        assert torch.equal(ring._rows[number % 4], job.render(number)[0])


@pytest.mark.parametrize("gigabytes", [1.0, 3e-4])
def test_a_run_is_a_function_of_its_seed_and_resumes_exactly(
    recipe: PixelNeRFRecipe, tmp_path: Path, gigabytes: float
) -> None:
    """With a ring that keeps all orbits, and with one that has lost the first of them."""
    recipe = replace(recipe, fresh=replace(recipe.fresh, orbit_gigabytes=gigabytes))
    train(recipe, tmp_path / "whole", device="cpu", workers=0)

    class KilledError(Exception):
        pass

    def kill(line: dict[str, float]) -> None:
        if line["step"] == 4:
            raise KilledError

    with pytest.raises(KilledError):
        train(replace(recipe, save_minutes=0.0), tmp_path / "b", device="cpu", workers=0, on_line=kill)
    assert resume_training(tmp_path / "b", device="cpu", workers=0).step == 6
    assert losses(tmp_path / "b") == losses(tmp_path / "whole")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "b")
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert values(tmp_path / "whole", "orbits")[6] == 5
    train(replace(recipe, seed=1, steps=1), tmp_path / "c", device="cpu", workers=0)
    assert losses(tmp_path / "c")[1] != losses(tmp_path / "whole")[1]


@pytest.mark.slow
def test_workers_change_nothing_and_end_with_the_run(recipe: PixelNeRFRecipe, tmp_path: Path) -> None:
    import multiprocessing

    recipe = replace(recipe, steps=2)
    for workers in (0, 1):
        train(recipe, tmp_path / str(workers), device="cpu", workers=workers)
        assert not multiprocessing.active_children()
    a, b = (weights(tmp_path / name) for name in ("0", "1"))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_two_processes_share_the_rendering_and_train_as_one(recipe: PixelNeRFRecipe, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    exact = replace(recipe, precision="float32", steps=2, learning_rate=1e-4)
    train(exact, tmp_path / "one", device="cpu", workers=0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    launch |= {"ACCELERATE_USE_CPU": "true"}
    processes = [
        subprocess.Popen(
            training(exact, tmp_path / "two"),
            env={**os.environ, **launch, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [p.wait(timeout=300) for p in processes] == [0, 0]
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        if name.startswith("optimizer0") and name.endswith("exp_avg"):
            torch.testing.assert_close(a[name], b[name], atol=1e-5, rtol=1e-3)


def test_a_batch_in_parts_draws_what_it_draws_whole(recipe: PixelNeRFRecipe) -> None:
    recipe = replace(recipe, lpips=0.1, square=8, square_share=0.5)
    data = FreshRays(recipe, SINGLE_PROCESS, 0)
    for count in (1, 3):
        whole, *parts = (
            data.draw(share(samples), count, share(samples).generator())
            for samples in ([0, 1, 2, 3], [0, 2], [1, 3])
        )
        assert whole.sources.images.shape == (4, count, 4, 32, 32) and whole.rays.shape == (4, 32, 7)
        assert whole.squares is not None and len(whole.squares.colours) == 2
        for part, samples in zip(parts, ([0, 2], [1, 3]), strict=True):
            assert torch.equal(part.rays, whole.rays[samples])
            assert torch.equal(part.truth, whole.truth[samples])
            for name in ("images", "w2c", "K", "weights"):
                assert torch.equal(getattr(part.sources, name), getattr(whole.sources, name)[samples])
            assert part.squares is not None
            assert torch.equal(part.squares.colours[0], whole.squares.colours[samples[0]])


def three_photos(recipe: PixelNeRFRecipe, monkeypatch: pytest.MonkeyPatch, *, mirror: bool) -> RayBatch:
    """Batches of three photos without defects, all mirrored or none, whose rays are of whole views."""
    monkeypatch.setattr(fresh_rays, "softened", lambda photos, uniform: photos)
    monkeypatch.setattr(fresh_rays, "noise_levels", lambda uniform: torch.zeros(len(uniform())))
    draw = fresh_rays.Choice.draw

    def chosen(*args: object, **options: object) -> fresh_rays.Choice:
        choice = draw(*args, **options)  # type: ignore[arg-type]
        return replace(choice, mirror=torch.full_like(choice.mirror, mirror))

    monkeypatch.setattr(fresh_rays.Choice, "draw", staticmethod(chosen))
    recipe = replace(recipe, views=6, rays=200, full_size_after=0.0, lpips=0.1, square=8)
    data = FreshRays(recipe, SINGLE_PROCESS, 0)
    some = share([*range(12)], batch=12)
    return data.draw(some, 3, some.generator())


def at_photos(batch: RayBatch, points: Tensor) -> Tensor:
    """[B, N, 4, P] colour on white and alpha of the photos where they show points [B, P, 3]."""
    uv, _ = project(batch.sources, points)
    images = batch.sources.images.flatten(0, 1) / 2 + 0.5
    grid = (uv * 2 - 1).flatten(0, 1)[:, None]
    sampled = F.grid_sample(images, grid, align_corners=False, mode="bilinear")[:, :, 0]
    return sampled.unflatten(0, batch.sources.images.shape[:2])


@pytest.mark.parametrize("mirror", [False, True])
def test_photos_show_the_points_that_rays_hit(
    recipe: PixelNeRFRecipe, monkeypatch: pytest.MonkeyPatch, mirror: bool
) -> None:
    """However turned, mirrored and coloured: surface points lie in all silhouettes, in one colour.

    Seen from the far side of the mirror they do not.
    """
    batch = three_photos(recipe, monkeypatch, mirror=mirror)
    depth, alpha = batch.truth[..., 4:], batch.truth[..., 3]
    points = batch.rays[..., :3] + depth * batch.rays[..., 3:6]
    hit = depth[..., 0] > 0
    assert float(hit.float().mean()) > 0.1
    photos = at_photos(batch, points)
    inside = (photos[:, :, 3] > 0.4).float().mean(1)[hit]
    assert float(inside.mean()) > 0.98
    mirrored = at_photos(batch, points * torch.tensor([1.0, -1.0, 1.0]))
    assert float((mirrored[:, :, 3] > 0.4).float().mean(1)[hit].mean()) < 0.93
    # A third of the points or more are visible in some photo, which then has their colour.
    on_white = (batch.truth[..., :3] + 1 - alpha[..., None]).mT
    difference = (photos[:, :, :3] - on_white[:, None]).abs().amax(2).amin(1)
    assert float((difference[hit] < 0.06).float().mean()) > 0.5
    other = photos.roll(1, 0)  # the photos of other samples, in other colours
    other_difference = (other[:, :, :3] - on_white[:, None]).abs().amax(2).amin(1)
    assert float((other_difference[hit] < 0.06).float().mean()) < 0.45
    # The front photo is taken from azimuth 0.
    centres = Cameras(torch.linalg.inv(batch.sources.w2c[:, 0]), batch.sources.K[:, 0], 1, 1).centers
    torch.testing.assert_close(centres, orbit(1).centers.expand(12, 3), atol=1e-4, rtol=0)


def test_a_square_has_the_colours_of_its_rays(
    recipe: PixelNeRFRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where single rays of the same view go through its pixels, they are told the same."""
    batch = three_photos(recipe, monkeypatch, mirror=True)
    assert batch.squares is not None
    compared = 0
    for k in range(12):
        single, truth = batch.rays[k, :200, 3:6], batch.truth[k, :200]
        apart = torch.cdist(single, batch.squares.rays[k, :, 3:6])
        nearest = apart.min(1)
        same = nearest.values < 1e-4
        colours = batch.squares.colours[k].flatten(0, 1)[nearest.indices[same]]
        torch.testing.assert_close(colours, truth[same, :3] + 1 - truth[same, 3:4], atol=1e-5, rtol=0)
        compared += int(same.sum())
    assert compared > 30


def test_geometry_is_float32_inside_autocast(recipe: PixelNeRFRecipe) -> None:
    data, some = FreshRays(recipe, SINGLE_PROCESS, 0), share([0, 1, 2, 3])
    plain = data.draw(some, 2, some.generator())
    with torch.autocast("cpu", torch.bfloat16):
        inside = data.draw(some, 2, some.generator())
    assert torch.equal(plain.rays, inside.rays) and torch.equal(plain.truth, inside.truth)
    assert torch.equal(plain.sources.w2c, inside.sources.w2c)
    assert {x.dtype for x in (inside.rays, inside.truth, inside.sources.weights)} == {torch.float32}


def test_a_batch_is_drawn_without_waiting_for_the_device(recipe: PixelNeRFRecipe) -> None:
    data, some = FreshRays(replace(recipe, lpips=0.1, square=8), SINGLE_PROCESS, 0), share([*range(16)], 16)
    data.ring.advance(0)
    with Waits() as waits:
        data.draw(some, 2, some.generator())
    assert waits.count == 0


def test_colours_change_and_the_ground_and_alpha_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    look = Appearance.draw(lambda *shape: torch.rand(6, *shape, generator=generator))
    images = torch.rand(6, 5, 4, generator=generator) * 255
    images[:, 0, 3], images[:, 0, :3] = 0, 255  # ground
    images[:, 1:, 3] = 255
    out = look(images)
    torch.testing.assert_close(out[..., 3], images[..., 3] / 255)
    assert bool((out[:, 0, :3] == 0).all())  # premultiplied
    for k in range(6):
        wanted = (images[k, 1:, look.channels[k]] / 255 * look.tint[k]) ** look.gamma[k]
        torch.testing.assert_close(out[k, 1:, :3], wanted, atol=1e-4, rtol=1e-3)
    assert len({tuple(c.tolist()) for c in look.channels}) > 1
    assert 0.5 <= float(look.gamma.min()) < 1 < float(look.gamma.max()) <= 2


def test_the_video_model_trains_on_fresh_orbits_and_resumes_exactly(
    video: VideoRecipe, tmp_path: Path
) -> None:
    train(video, tmp_path / "whole", device="cpu", workers=0)
    train(replace(video, save_minutes=0.0), tmp_path / "b", device="cpu", workers=0, minutes=1e-5)
    assert resume_training(tmp_path / "b", device="cpu", workers=0).step == 3
    assert losses(tmp_path / "b") == losses(tmp_path / "whole")


def test_guides_are_of_the_photos_that_are_drawn(video: VideoRecipe, nerf: Path) -> None:
    """Orbits have the stated numbers of photos, and these are views of the same world."""
    data = FreshGuides(video, load_pixelnerf(nerf), SINGLE_PROCESS, 0)
    data.advance(4)
    assert len(data) == 4  # of five: as many with two photos as with one
    for count in (1, 2):
        mirrored = set()
        for i in (1, 2):
            for seed in range(3):
                some = data.draw(i, count, 18, torch.Generator().manual_seed(seed))
                assert some.photos.shape == (count, 4, 32, 32) and len(some.cameras) == count + 18
                near = torch.cdist(some.cameras.centers[:count], some.cameras.centers[count:])
                assert float(near.min(1).values.max()) < 1e-5
                mirrored.add(bool(some.cameras.centers[count + 1, 1] < 0))
                if count == 2:  # not framed anew: they are views
                    views = some.views[near.argmin(1)]
                    assert torch.equal(some.photos, views)
        assert mirrored == {False, True}


def test_photos_stand_at_the_sides_first() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        assert list(photo_frames(1, generator)) == [0]
        four = photo_frames(4, generator)
        assert four[0] == 0 and sorted(four)[2] == 9 and sorted(four)[1] in (4, 5)
        assert sorted(photo_frames(ORBIT_VIEWS, generator)) == list(range(ORBIT_VIEWS))


def test_what_makes_no_sense_is_refused(
    recipe: PixelNeRFRecipe, video: VideoRecipe, orbits: Path, tmp_path: Path
) -> None:
    def fresh(**changes: object) -> PixelNeRFRecipe:
        return replace(recipe, fresh=replace(recipe.fresh, **changes))  # type: ignore[arg-type]

    refused = {
        "give more --orbit-gigabytes": fresh(orbit_gigabytes=1e-5),
        "There is no": fresh(meshes=(tmp_path / "none.glb",)),
        "several need scenes or --meshes": replace(recipe, fresh=FreshOrbits(), data=orbits),
        "Scenes are not rendered": replace(recipe, examples="scenes"),
        "leave out --compile": replace(recipe, compile=True),
    }
    with pytest.raises(V3DError, match="first_orbits is a whole number of 1 or more, not 0"):
        fresh(first_orbits=0)
    for sentence, wrong in refused.items():
        with pytest.raises(V3DError, match=sentence):
            PixelNeRFTask(wrong)
    refused_videos = {
        "Scenes are not rendered": replace(video, examples="scenes"),
        "An orbit has 18 views": replace(video, all_views=19),
        "entries of --source-counts needs one": replace(video, source_counts=(1, 1, 2, 4)),
    }
    for sentence, wrong_video in refused_videos.items():
        with pytest.raises(V3DError, match=sentence):
            VideoTask(wrong_video)


def test_the_command_line_trains_on_meshes(boot: Path, nerf: Path, tmp_path: Path) -> None:
    from v3d.cli import main

    options = ["--meshes", str(boot), "--steps", "1", "--device", "cpu", "--workers", "0"]
    options += ["--first-orbits", "2", "--procedural", "0"]
    run = str(tmp_path / "a")
    assert main(["train", "pixelnerf-smoke", *options, "--batch", "2", "--size", "32", "-o", run]) == 0
    assert main(["train", "resume", run, "--workers", "0"]) == 0
    assert load_pixelnerf(tmp_path / "a/model").config.size == 32
    run = str(tmp_path / "b")
    assert main(["train", "orbit-smoke", *options, "--pixelnerf", str(nerf), "-o", run]) == 0
