"""From a video file of a turn to posed views."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import trimesh

from shapes import textured
from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.framing import frame_mesh
from v3d.meshes.mesh import Mesh
from v3d.meshes.rendering import render
from v3d.objects.orbit_video import views_of_video
from v3d.surface.carving import carve
from v3d.views import Views

SIZE, FRAMES = 160, 30


def body() -> Mesh:
    tower = trimesh.creation.box(extents=(0.3, 0.4, 0.8)).subdivide().apply_translation((-0.2, -0.25, 0.2))
    slab = trimesh.creation.box(extents=(0.8, 1.0, 0.3)).subdivide()
    mesh = textured(trimesh.util.concatenate([slab, tower]), seed=3, cells=12)
    return Mesh(frame_mesh(mesh.vertices, orbit(18)), mesh.faces, mesh.uv, mesh.texture)


def film(path: Path, views: Views, *, turned: bool) -> None:
    """An H.264 file on a plain green ground; `turned` is stored on its side, with a display matrix."""
    ground = torch.tensor([0.2, 0.6, 0.3])
    rgb = (views.rgb - (1 - views.alpha[..., None]) * (1 - ground)).clamp(0, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = SIZE
        stream.pix_fmt, stream.options = "yuv444p", {"crf": "8"}
        for image in (rgb * 255).byte().numpy():
            image = np.ascontiguousarray(np.rot90(image) if turned else image)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    if turned:
        data = bytearray(path.read_bytes())
        at = data.find(b"tkhd") + 28 + 16
        data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
        path.write_bytes(data)


@pytest.mark.parametrize("turned", [False, True])
def test_a_clockwise_video_gives_the_shape_of_its_object(tmp_path: Path, turned: bool) -> None:
    cameras = orbit(FRAMES, size=SIZE)
    out = render(body(), cameras)
    true = Views(out.rgb, out.alpha, cameras)
    film(tmp_path / "clip.mp4", true[[-i % FRAMES for i in range(FRAMES)]], turned=turned)
    found = views_of_video(tmp_path / "clip.mp4")
    assert found.clockwise and len(found.views) == FRAMES
    points = torch.rand(30_000, 3, generator=torch.Generator().manual_seed(0)) * 1.8 - 0.9
    a, b = (carve(views, resolution=64).sample(points) < 0 for views in (found.views, true))
    assert float((a & b).sum() / (a | b).sum()) > 0.93
    azimuths = (
        torch.atan2(found.views.cameras.centers[:, 1], found.views.cameras.centers[:, 0]).rad2deg() % 360
    )
    wanted = torch.arange(FRAMES) * 360.0 / FRAMES
    assert ((azimuths - wanted + 180) % 360 - 180).abs().max() < 3
    shown = (found.views.alpha > 0.9) & (true.alpha > 0.9)
    assert (found.views.rgb - true.rgb)[shown].abs().mean() < 0.03


def test_an_empty_scene_is_told(tmp_path: Path) -> None:
    cameras = orbit(12, size=SIZE)
    nothing = Views(torch.ones(12, SIZE, SIZE, 3), torch.zeros(12, SIZE, SIZE), cameras)
    film(tmp_path / "clip.mp4", nothing, turned=False)
    with pytest.raises(V3DError, match="frames show an object"):
        views_of_video(tmp_path / "clip.mp4")
