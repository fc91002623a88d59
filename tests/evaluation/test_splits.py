"""Published splits of captures, in the forms that SEVA and pixelSplat write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from v3d import cli
from v3d.cameras import Cameras, intrinsics, look_at
from v3d.capture.readers import load_scene_views
from v3d.errors import V3DError
from v3d.evaluation.splits import Split, read_splits
from v3d.metrics import psnr
from v3d.views import Views, save_views

FRAMES = 6


@pytest.fixture
def captures(tmp_path: Path) -> list[Path]:
    """Two captures of six frames; frame i is of one grey, i * 40."""
    phi = torch.linspace(-0.5, 0.5, FRAMES)
    centers = torch.stack([1.4 * phi.cos(), 1.4 * phi.sin(), torch.full_like(phi, 0.4)], -1)
    cameras = Cameras(look_at(centers), intrinsics(60, 16, 16).repeat(FRAMES, 1, 1), 16, 16)
    grey = torch.arange(FRAMES)[:, None, None, None].expand(-1, 16, 16, 3) * 40 / 255
    for name in ("room", "hall"):
        save_views(Views(grey.contiguous(), torch.ones(FRAMES, 16, 16), cameras), tmp_path / name)
    return [tmp_path / "room", tmp_path / "hall"]


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_sevas_split_beside_each_capture(captures: list[Path]) -> None:
    for k, folder in enumerate(captures):
        written(folder / "train_test_split_2.json", {"train_ids": [4, k], "test_ids": [2, 3]})
    splits = read_splits(Path("train_test_split_2.json"), captures)
    assert splits == {captures[0]: Split((4, 0), (2, 3)), captures[1]: Split((4, 1), (2, 3))}
    assert read_splits(captures[0] / "train_test_split_2.json", captures[1:])[captures[1]].given == (4, 0)


def test_pixelsplats_index_by_name_leaves_out_what_it_does_not_evaluate(
    captures: list[Path], tmp_path: Path
) -> None:
    index = {"hall": {"context": [0, 5], "target": [1, 2, 5]}, "room": None, "elsewhere": None}
    file = written(tmp_path / "evaluation_index_re10k.json", index)
    assert read_splits(file, captures) == {captures[1]: Split((0, 5), (1, 2, 5))}
    with pytest.raises(V3DError, match="no split of room"):
        read_splits(file, captures[:1])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"train_ids": [0]}, "is no split"),
        ({"train_ids": [0], "test_ids": []}, "should be lists of frame numbers"),
        ({"train_ids": [-1], "test_ids": [1]}, "should be lists of frame numbers"),
        ({"train_ids": ["0"], "test_ids": [1]}, "should be lists of frame numbers"),
        ([1, 2], "is no split"),
    ],
)
def test_what_is_no_split_is_refused(captures: list[Path], content: object, sentence: str) -> None:
    written(captures[0] / "split.json", content)
    with pytest.raises(V3DError, match=sentence):
        read_splits(Path("split.json"), captures[:1])


def test_the_command_shows_the_given_frames_and_judges_the_others(
    captures: list[Path], tmp_path: Path
) -> None:
    file = written(tmp_path / "index.json", {"room": {"context": [5, 1], "target": [0, 4]}})
    options = ["--split", str(file), "--model", "none", "--no-splats", "--perceptual", "lpips"]
    out = tmp_path / "out"
    assert cli.main(["evaluate", "scenes", *map(str, captures), "--out", str(out), *options]) == 0
    report = json.loads((out / "report.json").read_text())
    (room,) = report["objects"]
    assert room["id"] == "room" and set(room["scores"]) == {"2 photos: nearest source view"}
    rgb = load_scene_views(captures[0]).rgb  # frame 0 is nearest to 1, frame 4 to 5
    expected = psnr(rgb[[1, 5]], rgb[[0, 4]]).mean()
    scores = room["scores"]["2 photos: nearest source view"]
    assert scores["psnr"] == pytest.approx(float(expected), abs=0.01)
    assert "lpips-alex" in scores and "vae-mini" not in scores


def test_a_capture_that_is_not_the_splits_is_refused(
    captures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "none", "--no-splats", "--perceptual", "lpips", "--out", str(tmp_path / "out")]
    file = written(captures[0] / "s.json", {"train_ids": [0], "test_ids": [7]})
    command = ["evaluate", "scenes", str(captures[0]), "--split", str(file), *options]
    assert cli.main(command) == 2
    assert "asks for frame 7, but the capture has 6" in capsys.readouterr().err
    (captures[0] / "views/003.png").unlink()
    assert cli.main(command) == 2
    assert "003.png; a split counts all frames" in capsys.readouterr().err.replace("\n", " ")
