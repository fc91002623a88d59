"""`v3d render`: good and bad meshes, in three file formats, resumed and shared among processes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import trimesh
from safetensors.torch import load_file

from shapes import textured
from v3d.cameras import orbit
from v3d.capture.readers import load_views
from v3d.data.filters import fault, mesh_fingerprint
from v3d.data.jobs import worker_pool
from v3d.data.orbit_shards import OrbitShards
from v3d.data.render_orbits import draw_cameras, plan, render_chunk, render_meshes
from v3d.data.settings import RenderSettings
from v3d.data.sources import find_sources
from v3d.errors import V3DError
from v3d.meshes.glb import save_glb
from v3d.meshes.mesh import Mesh

TINY = RenderSettings(size=24, views=4, per_shard=2)


def same(a: Path, b: Path) -> bool:
    """Whether two shards hold the same tensors."""
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def test_orbits_come_back_with_cameras_names_and_a_manifest(meshes: Path, tmp_path: Path) -> None:
    seen = []
    report = render_meshes([meshes], tmp_path, TINY, on_progress=lambda *progress: seen.append(progress))
    data = OrbitShards(tmp_path)
    assert sorted(data.id(i) for i in range(len(data))) == ["ball", "more/cone", "more/ring", "pillar"]
    views, photo = data[0]
    assert views.shape == (4, 24, 24, 4) and photo.shape == (24, 24, 4) and views.dtype == torch.uint8
    torch.testing.assert_close(data.cameras(0).c2w, orbit(4).c2w)
    assert bool((views[..., 3] > 128).flatten(1).any(1).all())  # the object is seen from everywhere
    assert bool((views[:, 0, 0] == torch.tensor([255, 255, 255, 0])).all())  # on white
    assert torch.equal(data.view(0, 6), views[2])
    assert report == json.loads((tmp_path / "manifest.json").read_text()) and report["orbits"] == 4
    assert seen[-1] == ("render", 2, 2) and ("check", 4, 4) in seen


def test_an_interrupted_job_goes_on_and_the_data_do_not_depend_on_it(meshes: Path, tmp_path: Path) -> None:
    render_meshes([meshes], tmp_path / "whole", TINY)
    render_meshes([meshes], tmp_path / "twice", TINY)
    first, second = sorted((tmp_path / "twice").glob("orbits-*"))
    second.unlink()
    next(
        (tmp_path / "twice/.done").glob("00001*")
    ).unlink()  # as if it had been killed before the second chunk
    stamp = first.stat().st_mtime_ns
    render_meshes([meshes], tmp_path / "twice", TINY)
    assert first.stat().st_mtime_ns == stamp
    for shard in (first, second):
        assert same(shard, tmp_path / "whole" / shard.name)
    with pytest.raises(V3DError, match="other settings"):
        render_meshes([meshes], tmp_path / "twice", RenderSettings(size=32))
    with pytest.raises(V3DError, match="other meshes"):
        render_meshes([meshes / "ball.glb"], tmp_path / "twice", TINY)


def test_the_three_formats_hold_the_same(meshes: Path, tmp_path: Path) -> None:
    for form in ("shards", "tar", "folders"):
        settings = RenderSettings(size=24, views=4, per_shard=2, format=form, depth=True, normal=True)
        render_meshes([meshes], tmp_path / form, settings)
    shards, tar, folders = (OrbitShards(tmp_path / form) for form in ("shards", "tar", "folders"))
    by_name = {folders.id(i): i for i in range(4)}
    for i in range(4):
        other = by_name[shards.id(i).replace("/", "__")]
        assert tar.id(i) == shards.id(i)
        for a, b, c in zip(shards[i], tar[i], folders[other], strict=True):
            assert int((a.int() - b.int()).abs().max()) <= 1  # straight alpha is rounded once more
            assert torch.equal(b, c)
        torch.testing.assert_close(shards.cameras(i).c2w, tar.cameras(i).c2w)
        torch.testing.assert_close(shards.cameras(i).K, folders.cameras(other).K)
    folder = tmp_path / "folders/ball-0"
    assert len(load_views(folder)) == 4
    assert len(list((folder / "depth").iterdir())) == len(list((folder / "normal").iterdir())) == 4


def test_depth_and_normals_describe_the_surface(tmp_path: Path) -> None:
    save_glb(textured(trimesh.creation.icosphere(subdivisions=3), 0), tmp_path / "ball.glb")
    settings = RenderSettings(size=32, views=2, depth=True, normal=True, appearance="plain")
    render_meshes([tmp_path / "ball.glb"], tmp_path / "out", settings)
    tensors = load_file(tmp_path / "out/orbits-00000.safetensors")
    centre = tensors["normal"][0, 0, 15:17, 15:17].float().mean((0, 1)) / 127
    torch.testing.assert_close(centre, torch.tensor([1.0, 0.0, 0.0]), atol=0.05, rtol=0)  # towards camera 0
    assert 1.0 < float(tensors["depth"][0, 0, 16, 16]) < 2.0 and float(tensors["depth"][0, 0, 0, 0]) == 0


def test_camera_laws() -> None:
    generator = torch.Generator().manual_seed(0)
    up = draw_cameras(RenderSettings(views=5, elevation=(20, 20)), generator)
    torch.testing.assert_close(up.c2w, orbit(5, elevation=20, size=128).c2w)
    wild = draw_cameras(RenderSettings(views=50, cameras="random", elevation=(-10, 40)), generator)
    height = torch.asin(wild.centers[:, 2] / 2).rad2deg()
    assert float(height.min()) >= -10 and float(height.max()) <= 40 and float(height.std()) > 5
    assert abs(float(wild.centers[0, 1])) < 1e-6  # the first one sees the front


@pytest.mark.parametrize("name", ["rounds", "views", "size", "per_shard", "around"])
def test_numbers_that_make_no_orbit_are_refused(meshes: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(V3DError, match=f"{name} is a whole number"):
        render_meshes([meshes], tmp_path / "out", replace(TINY, **{name: -1}))
    assert not (tmp_path / "out").exists()


def test_useless_objects_are_refused_with_reasons(meshes: Path, tmp_path: Path) -> None:
    ball = textured(trimesh.creation.icosphere(subdivisions=1), 0)
    grid = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0))
    quads = [(4 * i + j, 4 * i + j + 1, 4 * i + j + 5, 4 * i + j + 4) for i in range(3) for j in range(3)]
    sheet = torch.tensor([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])
    turned = torch.cat([grid, grid.sum(1, keepdim=True)], 1)  # flat, but not along an axis
    assert fault(ball) is None
    assert "flat" in str(fault(Mesh(turned, sheet, ball.uv, ball.texture)))
    assert "tiny" in str(fault(Mesh(ball.vertices, ball.faces[:4], ball.uv, ball.texture)))
    assert "empty" in str(fault(Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]] * 20))))
    assert "no colours" in str(fault(Mesh(ball.vertices, ball.faces)))
    assert fault(Mesh(ball.vertices, ball.faces), untextured=True) is None

    shuffled = torch.randperm(len(ball.vertices), generator=torch.Generator().manual_seed(1))
    assert ball.uv is not None
    moved = Mesh(
        ball.vertices[shuffled] * 3 + 7, shuffled.argsort()[ball.faces], ball.uv[shuffled], ball.texture
    )
    assert mesh_fingerprint(moved) == mesh_fingerprint(ball)
    assert mesh_fingerprint(
        replace(ball, vertices=ball.vertices * torch.tensor([1, 1, 1.1]))
    ) != mesh_fingerprint(ball)
    assert mesh_fingerprint(replace(ball, uv=ball.uv.flip(1))) != mesh_fingerprint(
        ball
    )  # other colours of one palette

    folder = tmp_path / "in"
    shutil.copytree(meshes, folder)
    shutil.copy(folder / "ball.glb", folder / "copy.glb")
    (folder / "broken.glb").write_bytes(b"glTF, more or less")
    save_glb(Mesh(ball.vertices, ball.faces), folder / "grey.glb")
    report = render_meshes([folder], tmp_path / "out", TINY)
    refused = {o["id"]: o["refused"] for o in report["objects"] if o["refused"]}
    assert refused.keys() == {"copy", "broken", "grey"} and report["orbits"] == 4
    assert refused["copy"] == "is the same as ball" and refused["broken"].startswith("cannot be read")


def test_manifests_choose_a_split_and_tell_licences(meshes: Path, tmp_path: Path) -> None:
    entries = [
        {"id": "a", "file": str(meshes / "ball.glb"), "split": "train", "licence": "CC0"},
        {"id": "b", "file": str(meshes / "more/cone.glb"), "split": "val", "licence": "CC-BY"},
        {"file": str(meshes / "gone.glb"), "split": "train", "licence": "CC0"},
    ]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    assert [s.id for s in find_sources([tmp_path / "list.json"])] == ["a", "b", "gone"]
    settings = RenderSettings(size=24, views=2, split="train")
    report = render_meshes([tmp_path / "list.json"], tmp_path / "out", settings)
    assert report["licences"] == {"CC0": 1} and report["orbits"] == 1
    assert "There is no mesh file" in report["objects"][1]["refused"]

    (tmp_path / "index.json").write_text(json.dumps([{"id": "ball", "split": "train"}]))
    (only,) = find_sources([meshes], index=tmp_path / "index.json", split="train")
    assert only.id == "ball"


def test_missing_inputs_give_one_sentence(meshes: Path, tmp_path: Path) -> None:
    with pytest.raises(V3DError, match=r"There is no .*nowhere"):
        render_meshes([tmp_path / "nowhere"], tmp_path / "out", TINY)
    with pytest.raises(V3DError, match="No object was found"):
        find_sources([meshes], split="train")
    with pytest.raises(V3DError, match="Two objects are called ball"):
        find_sources([meshes, meshes / "ball.glb"])
    (tmp_path / "bad.json").write_text('[{"name": 1}]')
    with pytest.raises(V3DError, match="not a manifest"):
        find_sources([tmp_path / "bad.json"])
    save_glb(Mesh(torch.rand(3, 3), torch.tensor([[0, 1, 2]])), tmp_path / "one.glb")
    with pytest.raises(V3DError, match=r"No object is of use: 1 x is tiny"):
        render_meshes([tmp_path / "one.glb"], tmp_path / "out", TINY)


def test_a_mesh_that_vanishes_before_it_is_rendered_is_a_failure_with_a_reason(
    meshes: Path, tmp_path: Path
) -> None:
    shutil.copytree(meshes, tmp_path / "in")
    (chunk,) = plan(find_sources([tmp_path / "in"]), RenderSettings(per_shard=9))
    (tmp_path / "in/ball.glb").unlink()
    failures = render_chunk(chunk, out=tmp_path / "out", settings=TINY)
    assert [f["id"] for f in failures] == ["ball"] and "There is no mesh file" in failures[0]["reason"]
    assert len(OrbitShards(tmp_path / "out")) == 3


@pytest.mark.slow
def test_processes_share_the_work(meshes: Path, tmp_path: Path) -> None:
    render_meshes([meshes], tmp_path / "one", TINY)
    render_meshes([meshes], tmp_path / "two", TINY, workers=2)
    for shard in sorted((tmp_path / "one").glob("orbits-*")):
        assert same(shard, tmp_path / "two" / shard.name)


def test_processes_work_with_one_thread_and_leave_the_threads_of_this_one() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with worker_pool(1) as do:
            assert list(do(_threads, [None])) == [1]
        assert torch.get_num_threads() == 2
        with worker_pool(2) as do:
            assert list(do(_threads, [None, None])) == [1, 1]
    finally:
        torch.set_num_threads(before)


def _threads(_: None) -> int:
    return torch.get_num_threads()
