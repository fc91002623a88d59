"""Real Blender asks a real server, as add-ons for Hunyuan3D's server do (`as_addons_do.py`)."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from running import running

pytest.importorskip("uvicorn")
BLENDER = shutil.which("blender")
pytestmark = pytest.mark.skipif(BLENDER is None, reason="there is no Blender")
SCRIPT = Path(__file__).parent / "as_addons_do.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script leaves: told.json, and the GLBs that went to the server and came back for a texture."""
    folder = tmp_path_factory.mktemp("blender")
    y, x = np.mgrid[:120, :90] + 0.5
    rgba = np.zeros((120, 90, 4), np.uint8)
    rgba[np.hypot((x - 45) / 22, (y - 60) / 40) < 1] = (200, 60, 30, 255)  # taller than wide, and red
    Image.fromarray(rgba).save(folder / "cup.png")
    with running(folder / "jobs") as address:
        command = [
            str(BLENDER),
            "-b",
            "--factory-startup",
            "--python-exit-code",
            "3",
            "--python",
            str(SCRIPT),
        ]
        subprocess.run([*command, "--", address, folder / "cup.png", folder / "told.json"], check=True)
    return folder


@pytest.fixture(scope="module")
def told(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "told.json").read_text(encoding="utf-8"))
    return told


def document(glb: bytes) -> dict[str, Any]:
    (length,) = struct.unpack_from("<I", glb, 12)
    parsed: dict[str, Any] = json.loads(glb[20 : 20 + length])
    return parsed


def test_the_mesh_stands_upright_in_its_place_with_its_colours(told: dict[str, Any]) -> None:
    made = told["made"]
    assert made["name"] == "object"  # base64 has no name
    size = np.subtract(made["high"], made["low"])
    centre = np.add(made["high"], made["low"]) / 2
    assert size[2] == max(size) and 1.2 < size[2] / size[1] < 2.2  # Blender's z is up
    assert np.abs(centre).max() < 0.1 and 0.5 < size[2] < 2.0
    assert made["polygons"] <= 2000 and made["parent"] is None
    assert made["images"] and min(made["images"][0]) >= 256
    red, green, blue = made["colour"]
    assert red > 0.6 and green < 0.4 and blue < 0.3


def test_a_white_mesh_has_the_same_shape_and_no_material(told: dict[str, Any]) -> None:
    white, made = told["white"], told["made"]
    assert white["images"] == [] and white["polygons"] == made["polygons"]
    np.testing.assert_allclose(white["high"], made["high"], atol=1e-5)


def test_refusals_are_sentences(told: dict[str, Any]) -> None:
    assert told["text"] == [422, "V3D makes assets of images, not of text; send an image."]
    assert told["wrong"][0] == 422 and told["wrong"][1] == "The image is not in base64."


def test_a_new_texture_changes_nothing_but_the_material(told: dict[str, Any], folder: Path) -> None:
    assert "refused" not in told, told["refused"]
    sent, back = (document((folder / name).read_bytes()) for name in ("sent.glb", "textured.glb"))
    assert back["nodes"] == sent["nodes"] and back["scenes"] == sent["scenes"]
    assert [mesh["name"] for mesh in back["meshes"]] == [mesh["name"] for mesh in sent["meshes"]]
    moved, textured, placed = told["moved"], told["textured"], told["placed"]
    for after in (textured, placed):
        assert after["polygons"] == moved["polygons"] and after["images"]
        np.testing.assert_allclose(after["place"], moved["place"], atol=1e-5)
        np.testing.assert_allclose(after["low"], moved["low"], atol=1e-4)
        np.testing.assert_allclose(after["high"], moved["high"], atol=1e-4)
    assert textured["colour"][0] > 0.6 and textured["colour"][1] < 0.4
