"""Gaussians in files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from splat_scenes import cloud

from v3d.errors import V3DError
from v3d.splats.files.encoding import SH_DC
from v3d.splats.files.ply import load_ply, save_ply
from v3d.splats.files.read import read_splats
from v3d.splats.files.splat import save_splat


def test_ply_round_trip(tmp_path: Path) -> None:
    splats = cloud(37)
    save_ply(tmp_path / "a.ply", splats)
    back = load_ply(tmp_path / "a.ply")
    for name in ("means", "log_scales", "logit_opacity"):
        assert torch.equal(getattr(back, name), getattr(splats, name))
    assert torch.allclose(back.rgb, splats.rgb, atol=1e-6)
    assert torch.allclose(back.quats, torch.nn.functional.normalize(splats.quats, dim=-1))
    assert [f.name for f in tmp_path.iterdir()] == ["a.ply"]


def test_ply_is_the_standard_layout(tmp_path: Path) -> None:
    splats = cloud(2)
    save_ply(tmp_path / "a.ply", splats)
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    names = [line.split()[2] for line in header.decode().splitlines() if line.startswith("property")]
    standard = "x y z nx ny nz f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3"
    assert " ".join(names) == standard
    rows = np.frombuffer(body, "<f4").reshape(2, 17)
    x, y, z = splats.means.T
    np.testing.assert_array_equal(rows[:, :3], torch.stack([-y, -z, x], -1))  # right, down, front
    np.testing.assert_allclose(rows[:, 6:9] * SH_DC + 0.5, splats.rgb, atol=1e-6)
    np.testing.assert_allclose(rows[:, 9], splats.logit_opacity)


def test_ply_with_more_properties_in_another_order(tmp_path: Path) -> None:
    splats = cloud(5)
    save_ply(tmp_path / "a.ply", splats)
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    rows = np.frombuffer(body, "<f4").reshape(5, 17)
    lines = header.decode().splitlines()
    properties = [line for line in lines if line.startswith("property")]
    lines = [line for line in lines if not line.startswith("property")]
    lines += [*properties[::-1], "property uchar flag", "end_header", ""]
    records = b"".join(row[::-1].tobytes() + b"\x07" for row in rows)
    (tmp_path / "b.ply").write_bytes("\n".join(lines).encode() + records)
    assert torch.equal(load_ply(tmp_path / "b.ply").means, splats.means)


def test_ply_with_line_ends_of_windows(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", cloud(5))
    header, end, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    (tmp_path / "b.ply").write_bytes((header + end).replace(b"\n", b"\r\n") + body)
    assert torch.equal(load_ply(tmp_path / "b.ply").means, cloud(5).means)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"element vertex 3", b"element vertex", "a.ply is broken"),
        (b"element vertex 3", b"element vertex \xb2", "a.ply is broken"),
        (b"property float nx", b"property float x", "same name"),
    ],
)
def test_broken_ply_headers_are_refused_in_one_sentence(
    tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    save_ply(tmp_path / "a.ply", cloud(3))
    (tmp_path / "a.ply").write_bytes((tmp_path / "a.ply").read_bytes().replace(old, new, 1))
    with pytest.raises(V3DError, match=message):
        load_ply(tmp_path / "a.ply")


def test_splat_round_trip(tmp_path: Path) -> None:
    splats = cloud(40)
    save_splat(tmp_path / "a.splat", splats)
    assert (tmp_path / "a.splat").stat().st_size == 40 * 32
    back = read_splats(tmp_path / "a.splat").splats
    order = (splats.log_scales.sum(-1).exp() * splats.opacity).argsort(descending=True)
    splats = splats[order]
    assert torch.equal(back.means, splats.means)
    assert torch.allclose(back.scales, splats.scales, rtol=1e-5)
    assert torch.allclose(back.rgb, splats.rgb, atol=1 / 255)
    assert torch.allclose(back.opacity, splats.opacity, atol=1 / 255)
    cosine = (back.quats * torch.nn.functional.normalize(splats.quats, dim=-1)).sum(-1)
    assert cosine.min() > 0.9995


def test_no_gaussians(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", cloud(0))
    save_splat(tmp_path / "a.splat", cloud(0))
    assert len(load_ply(tmp_path / "a.ply")) == len(read_splats(tmp_path / "a.splat").splats) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a ply",
        b"ply\nformat ascii 1.0\nelement vertex 1\nend_header\n",
        b"ply\nformat binary_little_endian 1.0\nend_header\n",
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\nend_header\n0000",
        b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n",
    ],
)
def test_other_ply_files_are_refused_in_one_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.ply").write_bytes(data)
    with pytest.raises(V3DError):
        load_ply(tmp_path / "a.ply")


def test_short_files_are_refused(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", cloud(3))
    save_splat(tmp_path / "a.splat", cloud(3))
    for name, load in (("a.ply", load_ply), ("a.splat", read_splats)):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-5])
        with pytest.raises(V3DError):
            load(tmp_path / name)
    with pytest.raises(V3DError):
        load_ply(tmp_path / "missing.ply")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    save_ply(tmp_path / "a.ply", cloud(3))
    before = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "file").write_text("")
    with pytest.raises(V3DError):
        save_ply(tmp_path / "file" / "a.ply", cloud(3))
    assert (tmp_path / "a.ply").read_bytes() == before
