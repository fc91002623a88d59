"""Every format of Gaussians: round trips within its own steps, and nothing mirrored."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_scenes import cloud

from glyphs import letter, seen
from v3d.errors import V3DError
from v3d.splats.files.axes import WORLD, turned
from v3d.splats.files.ply import save_ply
from v3d.splats.files.read import read_splats
from v3d.splats.files.write import WRITERS, write_splats
from v3d.splats.gaussians import Splats

ENDINGS = sorted(WRITERS)
# What a step of each format is: positions, logarithms of scales, opacity and colour, the angle of a turn.
STEPS = {
    ".ply": (0.0, 0.0, 1e-6, 1e-3),
    ".splat": (0.0, 1e-5, 1 / 255, 0.03),
    ".spz": (2.0**-15, 1 / 32, 1 / 100, 0.006),
    ".compressed.ply": (2e-3, 3e-3, 1 / 255, 0.006),
    ".sog": (3e-5, 0.03, 1 / 100, 0.03),
    ".glb": (0.0, 1e-6, 1e-6, 1e-3),
}


def in_order(splats: Splats) -> Splats:
    """Formats sort Gaussians; their places tell which is which."""
    return splats[splats.means[:, 0].argsort()]


@pytest.mark.parametrize("ending", ENDINGS)
def test_round_trip_within_the_steps_of_the_format(tmp_path: Path, ending: str) -> None:
    place, size, level, angle = STEPS[ending]
    given = in_order(cloud(400))
    write_splats(tmp_path / f"a{ending}", given)
    found = read_splats(tmp_path / f"a{ending}")
    back = in_order(found.splats)
    assert found.notes == () and len(back) == 400
    assert [file.name for file in tmp_path.iterdir()] == [f"a{ending}"]
    nearest = torch.cdist(given.means.double(), back.means.double()).argmin(1)  # a step may change the order
    back = back[nearest]
    assert (back.means - given.means).abs().max() <= place
    assert (back.log_scales - given.log_scales).abs().max() <= size + 1e-6
    assert (back.opacity - given.opacity).abs().max() <= level
    assert (back.rgb - given.rgb).abs().max() <= level
    unit = [torch.nn.functional.normalize(s.quats.double(), dim=-1) for s in (given, back)]
    cosine = (unit[0] * unit[1]).sum(-1).abs().clamp(max=1)
    assert (2 * cosine.acos()).max() <= angle


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_mirrored_or_turned(tmp_path: Path, ending: str) -> None:
    expected = seen(letter())
    write_splats(tmp_path / f"f{ending}", letter())
    back = seen(read_splats(tmp_path / f"f{ending}").splats)
    error = (back - expected).abs().mean()
    wrong = min((turn - expected).abs().mean() for turn in (expected.flip(2), expected.flip(1)))
    assert error < 0.1 * wrong, (float(error), float(wrong))


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_gaussians_make_the_same_bytes(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        write_splats(tmp_path / f"{name}{ending}", cloud(300))
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != ".splat"])
def test_content_tells_the_format_and_not_the_name(tmp_path: Path, ending: str) -> None:
    write_splats(tmp_path / f"a{ending}", cloud(30))
    (tmp_path / f"a{ending}").rename(tmp_path / "mystery.splat")
    assert len(read_splats(tmp_path / "mystery.splat").splats) == 30


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 300])
@pytest.mark.parametrize("ending", ENDINGS)
def test_any_number_of_gaussians(tmp_path: Path, ending: str, count: int) -> None:
    write_splats(tmp_path / f"a{ending}", cloud(count))
    back = read_splats(tmp_path / f"a{ending}").splats
    assert len(back) == count
    assert torch.allclose(back.means.mean(0), cloud(count).means.mean(0), atol=2e-3)


def test_files_stand_as_their_formats_say(tmp_path: Path) -> None:
    """A Gaussian at the front, one at the object's left and one above; where the file has them."""
    points = torch.eye(3)  # front, left, up in the world
    splats = cloud(3)
    splats = Splats(points, *(getattr(splats, n) for n in ("quats", "log_scales", "logit_opacity", "rgb")))
    write_splats(tmp_path / "a.ply", splats)
    rows = np.frombuffer((tmp_path / "a.ply").read_bytes().split(b"end_header\n")[1], "<f4").reshape(3, 17)
    assert rows[:, :3].tolist() == [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]  # right, down, front
    write_splats(tmp_path / "a.spz", splats)
    body = gzip.decompress((tmp_path / "a.spz").read_bytes())
    steps = np.zeros((3, 3, 4), np.uint8)
    steps[..., :3] = np.frombuffer(body, np.uint8, 27, 16).reshape(3, 3, 3)
    steps[..., 3] = np.where(steps[..., 2] > 127, 255, 0)
    assert (steps.view("<i4")[..., 0] / 2 ** body[13]).tolist() == [[0, 0, -1], [-1, 0, 0], [0, 1, 0]]
    write_splats(tmp_path / "a.glb", splats)
    data = (tmp_path / "a.glb").read_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    bounds = json.loads(data[20 : 20 + size])["accessors"][0]
    rows = np.frombuffer(data, "<f4", 9, 28 + size).reshape(3, 3)
    assert rows.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert bounds["min"] == [0, 0, 0] and bounds["max"] == [1, 1, 1]  # left, up, front


def test_axes_can_be_said(tmp_path: Path) -> None:
    """Many programs write RDF into SPZ files; then they stand on their head."""
    write_splats(tmp_path / "wrong.spz", turned(turned(letter(), WORLD, "RDF"), "RUB", WORLD))
    expected = seen(letter())
    assert (seen(read_splats(tmp_path / "wrong.spz").splats) - expected).abs().mean() > 0.01
    assert (seen(read_splats(tmp_path / "wrong.spz", axes="RDF").splats) - expected).abs().mean() < 2e-3


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", cloud(4))
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    rows = np.frombuffer(body, "<f4").reshape(4, 17).copy()
    rows[1, 0], rows[2, 9] = np.nan, np.inf  # no place; an opacity of 1
    more = b"".join(b"property float f_rest_%d\n" % k for k in range(24))
    wide = np.c_[rows, np.ones((4, 24), np.float32)].astype("<f4")
    (tmp_path / "b.ply").write_bytes(header + more + b"end_header\n" + wide.tobytes())
    found = read_splats(tmp_path / "b.ply")
    assert len(found.splats) == 3 and bool(found.splats.is_finite.all())
    assert found.splats.opacity[1] == 1
    assert found.notes == (
        "Its spherical harmonics of degree 1 to 2 were left out: V3D keeps one colour for all directions.",
        "Gaussians that are not finite numbers were left out: 1.",
    )


def test_names_without_a_known_ending_are_refused(tmp_path: Path) -> None:
    with pytest.raises(V3DError, match=r"a\.obj has no ending"):
        write_splats(tmp_path / "a.obj", cloud(3))
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(V3DError, match="no file of Gaussians that V3D reads"):
        read_splats(tmp_path / "a.txt")
