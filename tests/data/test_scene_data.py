"""Synthetic scenes: where things stand, their images and depths, and how the data are made and read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import trimesh
from safetensors.torch import load_file

from shapes import textured
from v3d.cameras import Cameras, intrinsics, look_at
from v3d.data.camera_clips import HIGHEST, LOWEST, SCENE_RADIUS, normalised, random_clip
from v3d.data.corpus import CorpusObject
from v3d.data.procedural.textures import SIDE, Texture, noise, random_texture
from v3d.data.render_scenes import render_scenes
from v3d.data.scene_layout import (
    CLEARANCE,
    MIN_COVERAGE,
    Placed,
    Plane,
    Scene,
    arrange,
    coverage,
    random_scene,
    stand_clear,
)
from v3d.data.scene_rendering import render_scene
from v3d.data.scene_shards import SceneShards
from v3d.data.settings import RenderScenesSettings
from v3d.errors import V3DError
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import Light, render

TINY = RenderScenesSettings(scenes=5, views=3, size=24, per_shard=2, seed=3)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def things(count: int) -> list[CorpusObject]:
    shapes = [
        trimesh.creation.icosphere(subdivisions=2),
        trimesh.creation.box(extents=(0.5, 0.7, 1.4)),
        trimesh.creation.cone(radius=0.6, height=1.2),
        trimesh.creation.annulus(r_min=0.3, r_max=0.6, height=0.1),
    ]
    return [CorpusObject(str(k), textured(shape, k), palette=False) for k, shape in enumerate(shapes[:count])]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [random_scene(things(1 + k % 4), 8, 64, seeded(k)) for k in range(16)]


def test_objects_stand_on_the_ground_and_apart(scenes: list[Scene]) -> None:
    for scene in scenes:
        ground = scene.planes[0]
        boxes = []
        for thing in scene.objects:
            vertices = thing.mesh.vertices
            height = ((vertices - ground.center) @ ground.axes[2]).min()
            assert 0 < float(height) < 0.01  # on it: above, but by less than a pixel
            flat = (vertices - ground.center) @ ground.axes[:2].T
            assert bool((flat.abs() <= torch.tensor(ground.half)).all())
            middle = (vertices[:, :2].amin(0) + vertices[:, :2].amax(0)) / 2
            boxes.append((middle, float((vertices[:, :2] - middle).norm(dim=1).max())))
        for k, (a, r) in enumerate(boxes):
            assert all(float((a - b).norm()) > r + s for b, s in boxes[:k])


def test_cameras_are_normalised_and_stand_clear(scenes: list[Scene]) -> None:
    walled = 0
    for scene in scenes:
        centers = scene.cameras.centers
        assert float(centers.norm(dim=1).max()) == pytest.approx(SCENE_RADIUS, abs=1e-5)
        elevation = torch.asin(centers[:, 2] / centers.norm(dim=1)).rad2deg()
        assert float(elevation.min()) > LOWEST - 0.1 and float(elevation.max()) < HIGHEST + 0.1
        # All look roughly at the origin: it lies within the middle of every image.
        xy, z = scene.cameras.project(torch.zeros(1, 3))
        assert float(z.min()) > 0 and float((xy - 32).abs().max()) < 20
        R = scene.cameras.c2w[:, :3, :3]
        torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), atol=1e-5, rtol=0)
        fov = 2 * math.degrees(math.atan(32 / float(scene.cameras.K[0, 0, 0])))
        assert 35 <= fov <= 80 and bool((scene.cameras.K[:1] == scene.cameras.K).all())
        assert stand_clear(scene.cameras, scene.objects)
        assert float(coverage(scene.planes, scene.cameras).min()) >= MIN_COVERAGE
        for plane in scene.planes:  # in front of every wall, above the ground, below the ceiling
            assert float(((centers - plane.center) @ plane.axes[2]).min()) >= CLEARANCE * 0.99
        walled += len(scene.planes) > 1
    assert 0 < walled < len(scenes)


def test_every_path_is_normalised_whatever_its_size() -> None:
    for seed in range(30):
        cameras, scale = normalised(random_clip(seeded(seed), 5, 32, radius=0.1 + seed))
        assert float(cameras.centers.norm(dim=1).max()) == pytest.approx(SCENE_RADIUS, abs=1e-5)
        again, one = normalised(cameras)
        assert one == pytest.approx(1, abs=1e-5) and scale > 0 and len(again) == 5


def test_depth_and_colour_agree_between_views(scenes: list[Scene]) -> None:
    """Points of one view, moved to another by their depth, keep their depth and their colour there."""
    agreed = []
    for scene in scenes[:6]:
        rgb, depth = render_scene(scene)
        small = F.avg_pool2d(rgb.permute(0, 3, 1, 2), 4)
        cameras = scene.cameras.resized(16, 16)
        origins, directions = cameras.rays()
        hit = depth[3] > 0
        points = (origins[3] + depth[3][..., None] * directions[3])[hit]
        xy, z = (x[0] for x in cameras[4].project(points))
        grid = (xy / 16 * 2 - 1)[None, None]
        there = F.grid_sample(torch.cat([small[4], depth[4][None]])[None], grid, align_corners=False)[0, :, 0]
        visible = (grid[0, 0].abs() < 0.9).all(1) & ((there[3] - z).abs() < 0.03 * z)
        agreed.append(float(visible.float().mean()))
        own = small[3].permute(1, 2, 0)[hit]
        error = (there[:3].T - own)[visible].abs().mean()
        shuffled = (own - own.roll(len(own) // 3, 0)).abs().mean()
        assert float(error) < 0.06 and float(error) < 0.6 * float(shuffled)
    assert sum(agreed) / len(agreed) > 0.4


def one_plane(cameras: Cameras, texture: Texture, *, tile: float = 1.0) -> Scene:
    """The ground z = 0 with one small box on it, unlit."""
    box = Placed(textured(trimesh.creation.box(extents=(0.1, 0.1, 0.1)), 0), False)
    box = replace(box, mesh=replace(box.mesh, vertices=box.mesh.vertices + torch.tensor([0.0, 0.0, 0.06])))
    ground = Plane(torch.zeros(3), torch.eye(3), (3.0, 3.0), False, texture, tile)
    light = Light(torch.tensor([0.0, 0.0, 1.0]), ambient=1.0)
    return Scene((box,), (ground,), light, torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), cameras)


def watching(*centers: tuple[float, float, float], size: int = 64) -> Cameras:
    c2w = look_at(torch.tensor(centers))
    return Cameras(c2w, intrinsics(60.0, size, size).repeat(len(centers), 1, 1), size, size)


def test_depth_is_exact_and_zero_for_sky() -> None:
    cameras = watching((1.5, 0.0, 0.3), (0.0, 1.0, 1.0))
    scene = one_plane(cameras, random_texture(seeded(0)))
    rgb, depth = render_scene(scene)
    origins, directions = cameras.resized(16, 16).rays()
    points = origins + depth[..., None] * directions
    ground = (depth > 0) & (points[..., :2].abs().amax(-1) > 0.3)
    # At a grazing angle the nearest of four samples counts: less than a twentieth off.
    assert float((points[ground][:, 2] / origins[ground][:, 2]).abs().max()) < 0.05
    ground &= depth < 1.5
    assert int(ground.sum()) > 100
    torch.testing.assert_close(points[ground][:, 2], torch.zeros(int(ground.sum())), atol=1e-4, rtol=0)
    sky = depth == 0
    assert bool(sky[0, 0].all()) and not bool(sky[:, -1].any())
    torch.testing.assert_close(rgb[0, 0, :, 1], torch.zeros(64))  # between its two colours, red and blue
    assert float(rgb[0, 0, 30, 2]) > 0


def test_the_box_is_the_mesh_renderers_box() -> None:
    """Where the box is, the scene shows what `v3d.meshes.rendering.render` shows of it."""
    cameras = watching((0.4, 0.1, 0.3))
    scene = one_plane(cameras, random_texture(seeded(1)))
    rgb, _ = render_scene(scene)
    alone = render(scene.objects[0].mesh, cameras, light=scene.light)
    inside = alone.alpha > 0.999
    assert int(inside.sum()) > 50
    torch.testing.assert_close(rgb[inside], alone.rgb[inside], atol=1e-5, rtol=0)


def test_a_plane_shows_its_texture_in_place() -> None:
    """Seen straight from above, the ground is the texture; far away, its mean colour, without aliasing."""
    image = torch.zeros(SIDE, SIDE, 3)
    image[: SIDE // 2, :, 0] = 1  # red where v is in the first half of the tile
    image[:, : SIDE // 2, 1] = 1  # and green where u is
    texture = Texture.of(image, 2)
    scene = one_plane(watching((1.5, 0.0, 1.0)), texture, tile=4.0)
    rgb, _ = render_scene(scene)
    for point, colour in (((0.6, 0.5, 0.0), (1.0, 1.0)), ((0.6, -0.5, 0.0), (0.0, 1.0))):
        xy, _ = scene.cameras.project(torch.tensor([point]))
        x, y = (int(v) for v in xy[0, 0])
        torch.testing.assert_close(rgb[0, y, x, :2], torch.tensor(colour), atol=0.02, rtol=0)
    fine, _ = render_scene(one_plane(watching((0.0, 2.9, 0.4)), texture, tile=1e-3))
    far = fine[0, 45:, :10]
    torch.testing.assert_close(far.mean((0, 1)), torch.tensor([0.5, 0.5, 0.0]), atol=0.02, rtol=0)
    assert float(far.std((0, 1)).max()) < 0.01


def test_objects_cast_shadows_near_them() -> None:
    scene = one_plane(watching((0.6, 0.0, 0.9)), Texture.of(torch.full((SIDE, SIDE, 3), 0.8), 2))
    lit = replace(scene, light=Light(torch.tensor([0.0, 1.0, 1.0]), ambient=0.5))
    rgb, _ = render_scene(lit)

    def at(*point: float) -> float:
        xy, _ = lit.cameras.project(torch.tensor([point]))
        return float(rgb[0, int(xy[0, 0, 1]), int(xy[0, 0, 0]), 0])

    # The light comes from +y: the shadow lies at -y of the box, as long as the box is high.
    assert at(0.0, -0.09, 0.0) < 0.8 * at(0.0, 0.4, 0.0)
    assert at(0.0, -0.5, 0.0) == pytest.approx(at(0.0, 0.5, 0.0), abs=1e-3)


def test_textures_tile_and_their_levels_are_means() -> None:
    for seed in range(12):
        texture = random_texture(seeded(seed))
        assert float(texture.texels.min()) >= 0 and float(texture.texels.max()) <= 1 and texture.cells >= 1
        uv = torch.rand(50, 2, generator=seeded(seed))
        sharp = torch.full((50,), 1e-4)
        for shift in (-3.0, 5.0):
            torch.testing.assert_close(
                texture.sample(uv + shift, sharp), texture.sample(uv, sharp), atol=2e-3, rtol=0
            )
        mean = texture.texels[: SIDE * SIDE].mean(0)
        torch.testing.assert_close(
            texture.sample(uv, torch.full((50,), 9.0)), mean.expand(50, 3), atol=1e-4, rtol=0
        )
        texel = texture.sample(torch.tensor([[1.5 / SIDE, 2.5 / SIDE]]), torch.tensor([1 / SIDE]))
        torch.testing.assert_close(texel[0], texture.texels[2 * SIDE + 1], atol=1e-5, rtol=0)


def test_noise_keeps_within_its_frequencies_and_joins_at_the_edges() -> None:
    x = noise(seeded(0), 2, 6)
    power = torch.fft.rfft2(x - x.mean()).abs().square()
    assert float(power[:, 40:].sum() + power[40:-40].sum()) < 0.01 * float(power.sum())
    assert float((x[0] - x[-1]).abs().max()) < 0.1 and 0.2 < float(x.std()) < 0.35


def test_scenes_come_back_with_cameras_depth_and_licences(meshes: Path, tmp_path: Path) -> None:
    reported = []
    report = render_scenes([meshes], tmp_path, TINY, on_progress=lambda *x: reported.append(x))
    data = SceneShards(tmp_path)
    assert len(data) == report["scenes"] == 5 and report["failures"] == []
    rgb, cameras, depth = data[4]
    assert rgb.shape == (3, 24, 24, 3) and rgb.dtype == torch.uint8
    assert depth.shape == (3, 6, 6) and depth.dtype == torch.float16
    assert (len(cameras), cameras.width, cameras.height) == (3, 24, 24)
    assert report == json.loads((tmp_path / "manifest.json").read_text()) and reported[-1] == ("render", 3, 3)
    assert set(data.objects(0)) <= {"ball", "pillar", "more/cone", "more/ring"}


def same(a: Path, b: Path) -> bool:
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_the_data_are_a_function_of_the_seed_and_survive_interruptions(meshes: Path, tmp_path: Path) -> None:
    render_scenes([meshes], tmp_path / "whole", TINY)
    render_scenes([meshes], tmp_path / "twice", TINY)
    first, second, third = sorted((tmp_path / "twice").glob("scenes-*"))
    for number, shard in ((1, second), (2, third)):  # as if it had been killed after the first shard
        shard.unlink()
        (tmp_path / f"twice/.done/{number:05d}.json").unlink()
    data = SceneShards(tmp_path / "twice")
    assert len(data) == 2
    stamp = first.stat().st_mtime_ns
    render_scenes([meshes], tmp_path / "twice", TINY)
    assert first.stat().st_mtime_ns == stamp
    assert all(same(shard, tmp_path / "whole" / shard.name) for shard in (first, second, third))
    more = SceneShards(tmp_path / "twice")  # a reader sees the shards that came since
    assert len(more) == 5 and [more.key(i) for i in range(2)] == [data.key(i) for i in range(2)]
    render_scenes([meshes], tmp_path / "other", replace(TINY, seed=4))
    assert not same(first, tmp_path / "other" / first.name)
    with pytest.raises(V3DError, match="other settings"):
        render_scenes([meshes], tmp_path / "twice", replace(TINY, seed=4))


def test_only_objects_of_the_split_appear(meshes: Path, tmp_path: Path) -> None:
    files = sorted(meshes.rglob("*.glb"))
    entries = [
        {"id": f.stem, "file": str(f), "split": "train" if k < 2 else "test", "licence": f"L{k}"}
        for k, f in enumerate(files)
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    settings = replace(TINY, split="train", scenes=4)
    report = render_scenes([tmp_path / "list.json"], tmp_path / "out", settings)
    data = SceneShards(tmp_path / "out")
    seen_names = {name for i in range(len(data)) for name in data.objects(i)}
    assert seen_names == {e["id"] for e in entries[:2]} and report["licences"] == {"L0": 1, "L1": 1}


def test_degenerate_inputs_are_told(meshes: Path, tmp_path: Path) -> None:
    point = CorpusObject("dot", Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])), palette=False)
    with pytest.raises(V3DError, match="dot has no extent"):
        random_scene([point], 2, 16, seeded(0))
    with pytest.raises(V3DError, match="multiple of 4"):
        render_scenes([meshes], tmp_path / "a", replace(TINY, size=30))
    for wrong in ({"scenes": 0}, {"views": 0}, {"size": 0}, {"per_shard": 0}):
        with pytest.raises(V3DError, match=f"{next(iter(wrong))} is a whole number"):
            render_scenes([meshes], tmp_path / "a", replace(TINY, **wrong))
    with pytest.raises(V3DError, match="no rendered scenes"):
        SceneShards(tmp_path)
    render_scenes([meshes / "ball.glb"], tmp_path / "b", replace(TINY, scenes=3))
    (tmp_path / "b/scenes-00001.safetensors").write_bytes(b"torn")
    data = SceneShards(tmp_path / "b")
    assert len(data) == 2 and [p.name for p in data.skipped] == ["scenes-00001.safetensors"]


def test_untextured_objects_are_welcome_in_grey(tmp_path: Path) -> None:
    ball = textured(trimesh.creation.icosphere(subdivisions=2), 0)
    save_glb(Mesh(ball.vertices, ball.faces), tmp_path / "grey.glb")
    with pytest.raises(V3DError, match="No object is of use"):
        render_scenes([tmp_path / "grey.glb"], tmp_path / "a", TINY)
    report = render_scenes([tmp_path / "grey.glb"], tmp_path / "b", replace(TINY, scenes=1, untextured=True))
    assert report["scenes"] == 1


def test_a_crowd_is_arranged_without_overlap() -> None:
    crowd = [Placed(item.mesh, False) for item in things(4)] * 3
    middles = [(o.mesh.vertices.amin(0) + o.mesh.vertices.amax(0))[:2] / 2 for o in arrange(crowd, seeded(5))]
    assert len(middles) == 12
    distances = torch.cdist(torch.stack(middles), torch.stack(middles)) + 9 * torch.eye(12)
    assert float(distances.min()) > 0.5
