"""Other generators' pictures, laid out as their files are, become posed views."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shapes import lopsided_mesh
from v3d.capture.orbit_law import OrbitLaw, orbit_law
from v3d.errors import V3DError
from v3d.meshes.rendering import render
from v3d.objects import pipeline
from v3d.objects.around import views_around
from v3d.settings import GeneratorName, OrbitSettings, ReconstructSettings
from v3d.surface.carving import carve
from v3d.video import save_video
from v3d.views import Views

SIZE = 96


def drawn(law: OrbitLaw, ground: float = 1.0) -> np.ndarray:
    """The law's pictures of the lopsided object, uint8 [n, SIZE, SIZE, 3]."""
    image = render(lopsided_mesh(), law.cameras(SIZE), supersample=2)
    rgb = image.rgb + (ground - 1) * (1 - image.alpha[..., None])
    return (rgb.clamp(0, 1) * 255).round().byte().numpy()


def agreement(views: Views, law: OrbitLaw) -> float:
    """IoU of the views' hull with that of true views by the law, on one lattice."""
    image = render(lopsided_mesh(), cameras := law.cameras(SIZE), supersample=2)
    bounds = torch.full((3,), -0.8), torch.full((3,), 0.8)
    true = carve(Views(image.rgb, image.alpha, cameras), resolution=48, bounds=bounds).values < 0
    ours = carve(views, resolution=48, bounds=bounds).values < 0
    return float((true & ours).sum() / (true | ours).sum())


def write(name: GeneratorName, folder: Path) -> Path:
    law = orbit_law(OrbitSettings(law=name, elevation=(10.0,) if name == "sv3d" else ()))
    pictures = drawn(law, 0.5 if name.startswith("zero") else 1.0)
    if name in ("v3d", "sv3d"):
        frames = torch.from_numpy(pictures[::-1].copy() if name == "sv3d" else pictures).float() / 255
        if name == "sv3d":  # clockwise, and still the photo last
            frames = frames[[*range(1, 21), 0]]
        save_video(frames, folder / "orbit.mp4")
        return folder / "orbit.mp4"
    if law.grid is None:
        for side, picture in zip(law.sides, pictures, strict=True):
            Image.fromarray(picture).save(folder / f"rgb_000_{side}.png")
            Image.fromarray(255 - picture).save(folder / f"normals_000_{side}.png")
        return folder
    rows, columns = law.grid
    sheet = pictures.reshape(rows, columns, SIZE, SIZE, 3).swapaxes(1, 2).reshape(rows * SIZE, -1, 3)
    Image.fromarray(sheet).save(folder / "0.png")
    return folder / "0.png"


@pytest.mark.parametrize("name", ["v3d", "sv3d", "zero123++", "zero123++-1.1", "syncdreamer", "wonder3d"])
def test_a_generators_files_give_the_object(name: GeneratorName, tmp_path: Path) -> None:
    posed = views_around(write(name, tmp_path), OrbitSettings(law=name))
    law = orbit_law(OrbitSettings(law=name, elevation=(10.0,) if name == "sv3d" else ()))
    assert agreement(posed.views, law) > 0.9
    centres = torch.nn.functional.normalize(posed.views.cameras.centers, dim=-1)
    if name == "sv3d":
        first = math.degrees(math.atan2(centres[0, 1], centres[0, 0]))
        assert first == pytest.approx(-360 / 21, abs=1e-3)  # found to go clockwise
        assert torch.allclose(centres[:, 2], torch.tensor(math.sin(math.radians(10.0))), atol=0.05)
        assert "elevation was found" in " ".join(posed.notes)
    else:
        assert torch.allclose(centres, torch.nn.functional.normalize(law.cameras(SIZE).centers, dim=-1))
        assert posed.notes == ()


def test_pictures_in_a_folder_go_once_around(tmp_path: Path) -> None:
    """Names count as numbers, and the way round is found."""
    law = orbit_law(OrbitSettings(direction="clockwise", elevation=(0.0,)), 12)
    for i, picture in enumerate(drawn(law)):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    posed = views_around(tmp_path, OrbitSettings(elevation=(0.0,)))
    assert torch.equal(posed.views.cameras.centers, law.cameras(SIZE).centers)
    assert agreement(posed.views, law) > 0.9


def test_pictures_of_another_order_are_told(tmp_path: Path) -> None:
    law = orbit_law(OrbitSettings(law="wonder3d"))
    for side, picture in zip(law.sides, drawn(law)[[0, 3, 1, 4, 2, 5]], strict=True):
        Image.fromarray(picture).save(tmp_path / f"{side}.png")
    posed = views_around(tmp_path, OrbitSettings(law="wonder3d"))
    assert "do not fit one object" in " ".join(posed.notes)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (OrbitSettings(law="zero123++", grid="2x3"), "pictures are square"),
        (OrbitSettings(law="zero123++", grid="5x2"), "does not divide"),
        (OrbitSettings(law="zero123++", grid="3"), "not ROWSxCOLUMNS"),
        (
            OrbitSettings(law="syncdreamer", grid="3x2"),
            "has 6 pictures where the law of their cameras has 16",
        ),
        (OrbitSettings(), "say how its pictures lie"),
    ],
)
def test_a_grid_that_is_not_one_is_one_sentence(
    settings: OrbitSettings, sentence: str, tmp_path: Path
) -> None:
    path = write("zero123++", tmp_path)
    with pytest.raises(V3DError, match=sentence):
        views_around(path, settings)


@pytest.mark.parametrize(("frames", "said"), [(9, "has 9 pictures"), (50, "has 36 pictures or more")])
def test_a_video_of_another_length_is_one_sentence(frames: int, said: str, tmp_path: Path) -> None:
    save_video(torch.rand(frames, 32, 32, 3), tmp_path / "orbit.mp4")
    with pytest.raises(V3DError, match=f"{said} where the law of their cameras has 18"):
        views_around(tmp_path / "orbit.mp4", OrbitSettings(law="v3d"))


def test_a_missing_side_is_named(tmp_path: Path) -> None:
    write("wonder3d", tmp_path)
    (tmp_path / "rgb_000_left.png").unlink()
    with pytest.raises(V3DError, match="no picture of the side left"):
        views_around(tmp_path, OrbitSettings(law="wonder3d"))


def test_a_law_reaches_the_asset(tmp_path: Path) -> None:
    settings = ReconstructSettings(quality="draft", until="views")
    path = write("zero123++", tmp_path)
    asset = pipeline.reconstruct(path, tmp_path / "out", settings, orbit=OrbitSettings(law="zero123++"))
    assert len(asset.views) == 6
    assert agreement(asset.views, orbit_law(OrbitSettings(law="zero123++"))) > 0.9
