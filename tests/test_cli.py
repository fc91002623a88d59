"""The command line: what it prints, its exit codes, and how it is interrupted."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from shapes import lopsided_mesh
from v3d import cli
from v3d.cameras import orbit
from v3d.commands.generate import masks_of, sides_of
from v3d.errors import V3DError
from v3d.framing import frame_mesh
from v3d.meshes.rendering import render
from v3d.objects.presets import PRESETS
from v3d.progress import ProgressDisplay
from v3d.views import Views, save_views


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    draft = PRESETS["draft"]
    fit = replace(draft.splats, iterations=10)
    monkeypatch.setitem(
        PRESETS,
        "draft",
        replace(
            draft, view_size=32, hull=32, gaussians=100, splats=fit, faces=100, texture_size=32, turntable=32
        ),
    )
    monkeypatch.setenv("V3D_MATTING", "off")
    monkeypatch.delenv("V3D_DEBUG", raising=False)


def save_photo(path: Path) -> Path:
    y, x = np.mgrid[:64, :64]
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[np.hypot(x - 32, y - 32) < 20] = (200, 60, 30, 255)
    Image.fromarray(rgba).save(path)
    return path


def save_ball(folder: Path, size: int = 32) -> Path:
    cameras = orbit(8, size=size)
    origins, directions = cameras.rays()
    d = torch.nn.functional.normalize(directions, dim=-1)
    closest = (origins - (origins * d).sum(-1, keepdim=True) * d).norm(dim=-1)
    alpha = ((0.6 - closest) * size / 2.3 + 0.5).clamp(0, 1)
    rgb = 0.4 * alpha[..., None] + 1 - alpha[..., None].expand(-1, -1, -1, 3)
    save_views(Views(rgb, alpha, cameras), folder)
    return folder


def one_sentence(text: str) -> str:
    """The one line of stderr that complains."""
    lines = [line for line in text.splitlines() if line.startswith("v3d:")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def test_generate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = save_photo(tmp_path / "cup.png")
    arguments = ["generate", str(photo), "-o", str(tmp_path / "out"), "--until", "views"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().err
    assert "views: " in shown
    assert (tmp_path / "out/cup/transforms.json").is_file()
    assert cli.main(arguments) == 0
    assert "views: kept from the last run" in capsys.readouterr().err


def test_reconstruct(tmp_path: Path) -> None:
    views = save_ball(tmp_path / "ball")
    out = tmp_path / "out"
    assert cli.main(["reconstruct", str(views), "-o", str(out), "--quality", "draft", "--faces", "60"]) == 0
    assert (out / "ball/mesh.glb").is_file()
    report = json.loads((out / "ball/report.json").read_text())
    assert report["settings"]["faces"] == 60
    assert report["stages"]["mesh"]["faces"] <= 60


def test_reconstruct_an_orbit_video(tmp_path: Path) -> None:
    """V3D's own video of an orbit comes back with the orbit's cameras."""
    mesh = lopsided_mesh()
    cameras = orbit(12, size=96)
    image = render(replace(mesh, vertices=frame_mesh(mesh.vertices, cameras)), cameras, supersample=2)
    views, out = tmp_path / "thing", str(tmp_path / "out")
    save_views(Views(image.rgb, image.alpha, cameras), views)
    assert cli.main(["reconstruct", str(views), "-o", out, "--until", "views"]) == 0
    video = tmp_path / "out/thing/views.mp4"
    assert cli.main(["reconstruct", str(video), "-o", out, "--orbit", "--until", "views"]) == 0
    made = json.loads((tmp_path / "out/views/transforms.json").read_text())
    given = json.loads((views / "transforms.json").read_text())
    poses = [np.array([f["transform_matrix"] for f in meta["frames"]]) for meta in (made, given)]
    np.testing.assert_allclose(*poses, atol=1e-3)  # times in a file are rounded


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda folder: folder / "none.png", "no photo"),
        (lambda folder: folder, "is a folder"),
        (lambda folder: (folder / "text.png").write_text("text") and folder / "text.png", "not an image"),
    ],
)
def test_errors_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Path], sentence: str
) -> None:
    assert cli.main(["generate", str(make(tmp_path)), "-o", str(tmp_path / "out")]) == 2
    assert sentence in one_sentence(capsys.readouterr().err)


def test_a_model_that_does_not_exist_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo, out = save_photo(tmp_path / "cup.png"), tmp_path / "out"
    assert cli.main(["generate", str(photo), "-o", str(out), "--model", str(tmp_path / "nope")]) == 2
    assert "nope" in one_sentence(capsys.readouterr().err)
    assert not out.exists()


def test_no_photo_at_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate"]) == 2
    assert "at least one photo" in one_sentence(capsys.readouterr().err)


def test_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    photo = save_photo(tmp_path / "cup.png")
    assert cli.main(["generate", str(photo), "-o", str(tmp_path / "file")]) == 2
    assert "Cannot write" in one_sentence(capsys.readouterr().err)


def test_other_photos_go_on_when_one_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = save_photo(tmp_path / "good.png")
    bad = tmp_path / "bad.png"
    bad.write_text("not an image")
    arguments = [
        "generate",
        str(bad),
        str(good),
        "-o",
        str(tmp_path / "out"),
        "--until",
        "views",
    ]
    assert cli.main(arguments) == 1
    shown = capsys.readouterr().err
    assert "bad.png is not an image" in shown
    assert "1 of 2 photos failed" in shown
    assert (tmp_path / "out/good/views/017.png").is_file()


def test_photos_of_other_sides_have_an_azimuth() -> None:
    sides = sides_of(Path("l.png"), None, Path("r.png"), ("a@b.png@45", "c.png@-10", "d.png@180"))
    assert sides == {
        90.0: Path("l.png"),
        270.0: Path("r.png"),
        45.0: Path("a@b.png"),
        350.0: Path("c.png"),
        180.0: Path("d.png"),
    }


def test_masks_are_the_front_s_or_have_an_azimuth() -> None:
    assert masks_of(("m.png", "l@m.png@450")) == {0.0: Path("m.png"), 90.0: Path("l@m.png")}
    assert masks_of(("side@mask.png",)) == {0.0: Path("side@mask.png")}
    with pytest.raises(V3DError, match="Two masks are of the same side"):
        masks_of(("m.png", "n.png@360"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a.png", "--mask", "m.png"], "Masks belong to one object"),
        (["--photo", "side.png"], "write PHOTO@AZIMUTH"),
        (["--photo", "side.png@left"], "write PHOTO@AZIMUTH"),
        (["--photo", "@45"], "write PHOTO@AZIMUTH"),
        (["--left", "l.png", "--photo", "m.png@90"], "same side"),
        (["--photo", "f.png@360"], "same side"),
        (["two.png", "--back", "b.png"], "one object, but 2 front photos"),
        (["--back", "none.png"], "no photo none.png"),
    ],
)
def test_photos_of_one_object_that_cannot_be(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGBA", (40, 40), (200, 0, 0, 255)).save(tmp_path / "front.png")
    assert cli.main(["generate", str(tmp_path / "front.png"), *options, "-o", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_photos_of_one_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generate", "a/cup.png", "b/cup.jpg", "-o", str(tmp_path)]) == 2
    assert "called cup" in one_sentence(capsys.readouterr().err)


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["generate", "a.png", "--quality", "perfect"])
    assert caught.value.code == 2
    assert "quality" in capsys.readouterr().err


def test_faults_of_the_program_show_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        """Broken."""
        raise ZeroDivisionError("division by zero")

    monkeypatch.setitem(cli.COMMANDS, "broken", broken)
    assert cli.main(["broken"]) == 70
    assert "ZeroDivisionError" in one_sentence(capsys.readouterr().err)
    monkeypatch.setenv("V3D_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["broken"])


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["generate", "--help"], ["train", "--help"]]
)
def test_help_is_quick_and_imports_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "v3d", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "v3d" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "v3d.cli" in imported
    assert not imported & {"torch", "cv2", "numba", "numpy", "scipy", "trimesh", "diffusers"}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"v3d (\d+\.\d+\.\d+|unknown: .*)\n", capsys.readouterr().out)


def test_the_help_has_an_example_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(example in shown for example in cli.EXAMPLES)
    assert {example.split()[1] for example in cli.EXAMPLES} == {*cli.COMMANDS, "--version"}


@pytest.mark.parametrize("example", [line for line in cli.EXAMPLES if "--version" not in line])
def test_examples_of_the_help_are_understood(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, *arguments = example.split()[1:]
    called = []

    @functools.wraps(cli.COMMANDS[name])
    def record(*given: object, **named: object) -> None:
        called.append((given, named))

    monkeypatch.setitem(cli.COMMANDS, name, record)
    assert cli.main([name, *arguments]) == 0
    assert len(called) == 1


def test_help_names_what_to_give(capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in {
        "generate": ("PHOTO [PHOTO ...]", "-o FOLDER", "{auto,cpu,cuda}"),
        "reconstruct": ("v3d reconstruct [-h] [RECONSTRUCT OPTIONS] VIEWS",),
        "convert": ("V3D.ckpt svd_xt.safetensors",),
    }.items():
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        shown = capsys.readouterr().out
        for word in words:
            assert word in shown


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    """As in `v3d ... | head -1`, whether the pipe breaks while the command prints or at the last flush."""
    for amount in (1, 200_000):
        code = textwrap.dedent(f"""
            import sys
            from v3d import cli
            def talk() -> None:
                sys.stdin.read()  # until the reader is gone
                print("x" * {amount})
            cli.COMMANDS["talk"] = talk
            sys.exit(cli.main(["talk"]))
        """)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
        assert process.wait(timeout=60) == 141


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_and_resume(tmp_path: Path) -> None:
    """A real Ctrl-C in a real process, in the middle of a stage that would take minutes."""
    views = save_ball(tmp_path / "ball")
    out = tmp_path / "out"
    arguments = ["reconstruct", str(views), "-o", str(out), "--quality", "high", "--until", "splats"]
    environment = {key: value for key, value in os.environ.items() if key != "V3D_DEBUG"}
    process = subprocess.Popen(
        [sys.executable, "-m", "v3d", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # Where the tests run in the background, children inherit that SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    report = out / "ball/report.json"
    deadline = time.monotonic() + 300
    while "hull" not in _stages(report):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=120)
    assert process.returncode == 130, shown
    assert one_sentence(shown) == "v3d: interrupted; run the same command to resume"
    assert not [p for p in out.rglob(".*.*") if p.is_file()]
    assert not (out / "ball/splats.ply").exists()

    assert cli.main([*arguments[:-4], "--quality", "draft", "--until", "splats"]) == 0
    assert _stages(report)["views"]["reused"]


def _stages(report: Path) -> dict[str, dict[str, object]]:
    return json.loads(report.read_text())["stages"] if report.is_file() else {}


# Progress


def test_progress_in_a_log_is_plain_lines() -> None:
    """One as a stage starts, so that minutes of work are not silent, and one as it ends."""
    text = StringIO()
    with ProgressDisplay(Console(file=text, width=40)) as show:
        show.title("a rather long path/to/a photo.png -> some/folder/of/results")
        show("photo", 1, 1)
        show("views", 0, 1)
        assert text.getvalue().endswith("views ...\n")
        for event in (("views", 1, 4), ("views", 3, 4), ("views", 1, 1)):
            show(*event)
    lines = text.getvalue().splitlines()
    assert lines[0] == "a rather long path/to/a photo.png -> some/folder/of/results"
    assert lines[1:3] == ["photo: kept from the last run", "views ..."]
    assert lines[3].startswith("views: ") and lines[3].endswith(" s")
    assert len(lines) == 4


def test_progress_in_a_terminal_is_bars_with_the_time_left() -> None:
    text = StringIO()
    with ProgressDisplay(Console(file=text, force_terminal=True, width=100)) as show:
        show.title("first")
        show("views", 0, 1)
        for done in range(1, 5):
            time.sleep(0.15)
            show("views", done, 40)
        time.sleep(0.15)
        assert "left" in text.getvalue()
        show("views", 1, 1)
        show.title("second")
        show("hull", 1, 1)
    shown = text.getvalue()
    assert shown.index("first") < shown.index("views") < shown.index("second") < shown.index("hull")
