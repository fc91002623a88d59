"""The extension for Modly, without Modly: a stand-in for the one module of it that is imported."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image, ImageDraw

from v3d.errors import V3DError
from v3d.meshes.files import load_mesh
from v3d.settings import GenerateSettings

FOLDER = Path(__file__).parents[2] / "integrations/modly"
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))


class CancelledError(Exception):
    pass


class Base:
    """What Modly's own base class says of itself."""

    def __init__(self, model_dir: Path, outputs_dir: Path) -> None:
        self.model_dir, self.outputs_dir, self._model = model_dir, outputs_dir, None


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    base = ModuleType("services.generators.base")
    base.BaseGenerator, base.GenerationCancelled = Base, CancelledError  # type: ignore[attr-defined]
    for name in ("services", "services.generators"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, base.__name__, base)
    spec = importlib.util.spec_from_file_location("modly_generator", FOLDER / "generator.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, MANIFEST["generator_class"])(tmp_path / "models", tmp_path / "workspace")


@pytest.fixture
def photo(tmp_path: Path) -> bytes:
    image = Image.new("RGBA", (96, 96))
    ImageDraw.Draw(image).ellipse((20, 10, 76, 86), fill=(200, 60, 30, 255))
    image.save(tmp_path / "photo.png")
    return (tmp_path / "photo.png").read_bytes()


def test_the_manifest_offers_what_there_is() -> None:
    (node,) = MANIFEST["nodes"]
    fields = set(GenerateSettings.__dataclass_fields__)
    assert {param["id"] for param in node["params_schema"]} <= fields
    for param in node["params_schema"]:
        if param["type"] == "int":
            assert param["min"] <= param["default"] <= param["max"]
        else:
            assert param["default"] in [option["value"] for option in param["options"]]


def test_a_photo_becomes_a_textured_glb(generator: Any, photo: bytes) -> None:
    assert generator.is_downloaded()
    generator.load()
    told: list[tuple[int, str]] = []
    params = {"quality": "draft", "faces": 400, "elevation": 0, "seed": 1, "unknown": 3}
    path = generator.generate(photo, params, lambda *now: told.append(now), threading.Event())
    assert path.parent == generator.outputs_dir and path.suffix == ".glb"
    mesh = load_mesh(path)
    assert 100 < len(mesh.faces) <= 400 and mesh.texture is not None
    percents = [percent for percent, _ in told]
    assert percents == sorted(percents) and told[-1] == (100, "done") and len(set(percents)) > 5


def test_it_is_cancelled_and_refuses(generator: Any, photo: bytes) -> None:
    event = threading.Event()

    def press(percent: int, label: str) -> None:
        event.set()

    with pytest.raises(CancelledError):
        generator.generate(photo, {"quality": "draft"}, press, event)
    assert not generator.outputs_dir.exists()
    with pytest.raises(V3DError, match="quality cannot be"):
        generator.generate(photo, {"quality": "best"})
