"""What does not fit into memory is refused before it is read, and views are read no larger than is of use."""

from __future__ import annotations

from pathlib import Path

import pytest
import trimesh

from shapes import textured
from v3d.cameras import orbit
from v3d.errors import V3DError
from v3d.meshes.rendering import render
from v3d.objects import memory, pipeline
from v3d.objects.memory import affordable_side, estimate_bytes, reserve
from v3d.objects.presets import PRESETS
from v3d.settings import Quality, ReconstructSettings
from v3d.views import Views, save_views

SIZE = 520


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Three views of a ball, a little larger than a draft wants them."""
    cameras = orbit(3, size=SIZE)
    image = render(textured(trimesh.creation.icosphere(subdivisions=2, radius=0.6), 0), cameras)
    save_views(Views(image.rgb, image.alpha, cameras), tmp_path / "capture")
    return tmp_path / "capture"


def test_the_estimate_grows_with_pixels_and_with_what_is_kept_of_them() -> None:
    draft, standard = PRESETS["draft"], PRESETS["standard"]
    one, two = (estimate_bytes(n, 512, 512, draft) for n in (60, 120))
    assert two - one == pytest.approx(estimate_bytes(60, 1024, 512, draft) - one)
    assert estimate_bytes(60, 512, 512, standard) > one
    assert estimate_bytes(200, 512, 512, draft) < 3.5e9


@pytest.mark.parametrize("quality", ["draft", "standard", "high"])
def test_an_orbit_is_read_whole_and_hundreds_of_views_share_what_it_takes(quality: Quality) -> None:
    preset = PRESETS[quality]
    most = preset.largest_view
    assert affordable_side(18, most, most, preset) == (most, ())
    limit = (3e9 - 700e6) / 52 if preset.refine is None else 18 * 1024**2  # pixels
    for count in (200, 2000):
        side, (note,) = affordable_side(count, most, most, preset)
        assert f"The {count} views were reduced to {side} pixels" in note
        assert 0.97 * limit < count * side**2 <= limit
        wide, _ = affordable_side(count, most, most // 2, preset)
        assert abs(wide - min(most, side * 2**0.5)) < 2


def test_too_many_views_are_refused_with_what_to_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: 8 * 10**9)
    with pytest.raises(
        V3DError, match=r"^500 views of 1024 x 1024 pixels take about \d+\.\d GB of memory; 8\.0 GB"
    ):
        reserve(500, 1024, 1024, PRESETS["standard"])
    with pytest.raises(V3DError, match="fewer or smaller views, or choose --quality draft"):
        reserve(500, 1024, 1024, PRESETS["standard"])
    assert reserve(200, 512, 512, PRESETS["draft"]) == round(
        estimate_bytes(200, 512, 512, PRESETS["draft"]) / 1e6
    )
    monkeypatch.setattr(memory, "memory_bytes", lambda: None)  # the system does not say
    assert reserve(500, 1024, 1024, PRESETS["standard"]) > 10_000


def test_it_is_refused_before_anything_is_read(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory_bytes", lambda: 10**6)
    (capture / "views/002.png").write_bytes((capture / "views/002.png").read_bytes()[:-400])  # not decoded
    with pytest.raises(V3DError, match="3 views of 512 x 512 pixels take about"):
        pipeline.reconstruct(capture, tmp_path / "out", ReconstructSettings(quality="draft"))
    assert not (tmp_path / "out").exists()


def test_views_are_reduced_as_they_are_read_and_the_report_has_the_estimate(
    capture: Path, tmp_path: Path
) -> None:
    settings = ReconstructSettings(quality="draft", until="views")
    asset = pipeline.reconstruct(capture, tmp_path / "out", settings)
    assert asset.views.rgb.shape == (3, 512, 512, 3)
    expected = round(estimate_bytes(3, 512, 512, PRESETS["draft"]) / 1e6)
    assert asset.report["memory_estimate_mb"] == expected
    whole = pipeline.reconstruct(capture, tmp_path / "whole", ReconstructSettings(until="views"))
    assert whole.views.rgb.shape == (3, SIZE, SIZE, 3)
