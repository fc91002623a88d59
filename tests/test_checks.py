"""Numbers are refused where settings are made, in one sentence that says their range."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from v3d.checks import ANY, ELEVATION, POSITIVE, SEED, SHARE, Range, check_number, whole
from v3d.cli import main
from v3d.data.settings import FreshOrbits, RenderScenesSettings, RenderSettings
from v3d.diffusion.configs import OrbitDiTConfig, Sampling
from v3d.errors import V3DError
from v3d.networks.configs import PixelNeRFConfig, VAEConfig
from v3d.settings import GenerateSettings, OrbitSettings, ReconstructSettings, SceneSettings
from v3d.training.recipe import PixelNeRFRecipe, SVDRecipe, VAERecipe, VideoRecipe


def test_what_belongs_to_a_range() -> None:
    assert 0 in SHARE
    assert 1.0 in SHARE
    assert np.float32(0.5) in SHARE
    assert np.int64(3) in whole(1)
    assert 2**64 - 1 in SEED
    assert -89.9 in ELEVATION
    outside: list[tuple[object, Range]] = [
        (-1e-9, SHARE), (math.nan, SHARE), (1.5, whole(1)), (0, whole(1)), (2**64, SEED), (90, ELEVATION),
        (0, POSITIVE), (math.inf, POSITIVE), (-math.inf, ANY), (True, whole(0)), ("1", whole(0)),
    ]  # fmt: skip
    assert [value for value, within in outside if value in within] == []


def test_sentences() -> None:
    with pytest.raises(V3DError, match=r"^threads is a whole number of 1 or more, not 0\.$"):
        check_number("threads", 0, whole(1))
    with pytest.raises(V3DError, match=r"^seed is a whole number from 0 to 2\^64 - 1, not -1\.$"):
        check_number("seed", -1, SEED)
    with pytest.raises(
        V3DError, match=r"^elevation is a number from -90 to 90, without these ends, not 90\.$"
    ):
        check_number("elevation", (0.0, 90), ELEVATION)
    with pytest.raises(V3DError, match=r"^clip is a number above 0, not nan\.$"):
        check_number("clip", math.nan, POSITIVE)
    check_number("faces", None, whole(1))


@pytest.mark.parametrize(
    ("kind", "name", "wrong", "right"),
    [
        (ReconstructSettings, "faces", (-5, 0, 3, 10**8, 20.5), (4, None)),
        (ReconstructSettings, "texture_size", (0, 1, -1, 10**6), (16, 1024)),
        (GenerateSettings, "seed", (-1, 99999999999999999999), (0, 2**64 - 1)),
        (GenerateSettings, "steps", (-1, 10**9), (0, 12)),
        (GenerateSettings, "guidance", (math.nan, -1.0, math.inf), (0.0, 3.5)),
        (GenerateSettings, "elevation", (math.nan, 90.0), (-30.0, 89.0)),
        (OrbitSettings, "azimuths", ((0.0, math.nan), (math.inf,)), ((0.0, 350.0), ())),
        (OrbitSettings, "elevation", ((90.0,), (math.nan,)), ((-89.0, 10.0),)),
        (OrbitSettings, "fov", (-1.0, 180.0, math.nan), (0.0, 60.0)),
        (SceneSettings, "frames", (0, -3), (1,)),
        (SceneSettings, "sources", ((-1,), (0, 1.5)), ((0, 4),)),
        (SceneSettings, "steps", (-1,), (0,)),
        (RenderSettings, "elevation", ((90.0, 90.0), (math.nan, math.nan)), ((-10.0, 40.0),)),
        (RenderSettings, "seed", (-1, 99999999999999999999), (2**32 - 1,)),
        (RenderSettings, "per_shard", (0,), (1,)),
        (RenderSettings, "combined", (1.5,), (1.0,)),
        (RenderScenesSettings, "per_shard", (0,), (1,)),
        (RenderScenesSettings, "views", (0,), (1,)),
        (FreshOrbits, "orbits_per_step", (-1.0, math.nan), (0.0,)),
        (PixelNeRFConfig, "width", (0, 10**6), (64,)),
        (VAEConfig, "widths", ((32, 0, 64),), ((1, 2, 3),)),
        (OrbitDiTConfig, "depth", (10**7,), (1,)),
        (Sampling, "sigma_min", (0.0, math.nan), (0.003,)),
        (VAERecipe, "accumulate", (0,), (1,)),
        (VAERecipe, "batch", (0, -1), (1,)),
        (VAERecipe, "log_steps", (0,), (1,)),
        (VAERecipe, "warmup", (-1,), (0,)),
        (VAERecipe, "crop", (0,), (32,)),
        (VAERecipe, "seed", (99999999999999999999,), (5,)),
        (PixelNeRFRecipe, "rays", (0,), (1,)),
        (VideoRecipe, "source_counts", ((0,), (1, -2)), ((1, 4),)),
        (SVDRecipe, "drop", (-0.1, 1.1), (0.0,)),
    ],
)  # fmt: skip
def test_settings_are_checked_where_they_are_made(
    kind: type[Any], name: str, wrong: tuple[Any, ...], right: tuple[Any, ...]
) -> None:
    for value in right:
        assert getattr(kind(**{name: value}), name) == value
    for value in wrong:
        with pytest.raises(V3DError, match=f"^{name} is a .*number.*, not "):
            kind(**{name: value})


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("generate photo.png --faces 0", "faces is a whole number from 4 to 10000000, not 0."),
        ("reconstruct views --fov nan", "fov is a number from 0 to 169, not nan."),
        (
            "render meshes --elevation 90 90",
            "elevation is a number from -90 to 90, without these ends, not 90.0.",
        ),
        ("render meshes --workers 0", "workers is a whole number from 1 to 4096, not 0."),
        ("render-scenes meshes --per-shard 0", "per_shard is a whole number of 1 or more, not 0."),
        ("train vae-smoke --batch 0", "batch is a whole number of 1 or more, not 0."),
        ("train orbit-smoke --drop 2", "drop is a number from 0 to 1, not 2.0."),
        ("train vae-smoke --threads 0", "threads is a whole number from 1 to 4096, not 0."),
        ("train vae-smoke --minutes -1", "minutes is a number above 0, not -1.0."),
    ],
)
def test_the_command_line_says_the_range(
    command: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command.split()) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"v3d: {sentence}"


@pytest.mark.parametrize(
    "command", ["generate NAME.png", "reconstruct NAME", "render NAME.glb", "batch NAME.csv"]
)
def test_names_that_no_file_can_have(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command.replace("NAME", "n" * 300).split()
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("v3d: ")
    assert "nnn..." in told
    assert not (tmp_path / "out").exists()


def test_closed_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell's `>&-` leaves: no stdout at all."""
    monkeypatch.setattr("sys.stdout", None)
    assert main(["--version"]) == 0
    monkeypatch.setattr("sys.stdout", None)
    assert main(["render", "nowhere"]) == 2
