"""`v3d convert-splats`, through the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from splat_scenes import cloud

from glyphs import letter, seen
from v3d import cli
from v3d.splats.files.ply import save_ply
from v3d.splats.files.read import read_splats
from v3d.splats.files.write import WRITERS, write_splats


@pytest.mark.parametrize("source", WRITERS)
def test_every_format_becomes_every_other(tmp_path: Path, source: str) -> None:
    write_splats(tmp_path / f"a{source}", letter())
    for target in WRITERS:
        assert cli.main(["convert-splats", str(tmp_path / f"a{source}"), str(tmp_path / f"b{target}")]) == 0
        back = seen(read_splats(tmp_path / f"b{target}").splats)
        assert (back - seen(letter())).abs().mean() < 4e-3


def test_what_is_lost_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_ply(tmp_path / "a.ply", cloud(4))
    header, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    more = b"".join(b"property float f_rest_%d\n" % k for k in range(45))
    rows = np.c_[np.frombuffer(body, "<f4").reshape(4, 17), np.ones((4, 45), "<f4")].astype("<f4")
    (tmp_path / "b.ply").write_bytes(header + more + b"end_header\n" + rows.tobytes())
    assert cli.main(["convert-splats", str(tmp_path / "b.ply"), str(tmp_path / "c.spz")]) == 0
    said = capsys.readouterr()
    assert "spherical harmonics of degree 1 to 3 were left out" in said.err
    assert "c.spz: 4 Gaussians" in said.out


def test_axes_of_the_input_can_be_said(tmp_path: Path) -> None:
    write_splats(tmp_path / "a.ply", cloud(3))
    files = [str(tmp_path / name) for name in ("a.ply", "b.ply")]
    assert cli.main(["convert-splats", *files, "--axes", "FLU"]) == 0
    x, y, z = cloud(3).means.T.numpy()
    np.testing.assert_array_equal(read_splats(tmp_path / "b.ply").splats.means, np.stack([-y, -z, x], -1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("a.ply", "a.ply"), "is the file that is read"),
        (("a.ply", "b.obj"), "has no ending of a file of Gaussians"),
        (("gone.ply", "b.ply"), "There is no file"),
        (("a.ply", "b.ply", "--axes", "XYZ"), "There are no axes"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], sentence: str
) -> None:
    write_splats(tmp_path / "a.ply", cloud(3))
    before = (tmp_path / "a.ply").read_bytes()
    paths = [str(tmp_path / name) for name in arguments[:2]]
    assert cli.main(["convert-splats", *paths, *arguments[2:]]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.ply"]
    assert (tmp_path / "a.ply").read_bytes() == before
