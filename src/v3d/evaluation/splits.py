"""Published splits: which frames of a capture are given, and which are asked for.

Two files are known. SEVA's `train_test_split_3.json`, also of ReconFusion's splits, stands beside a scene's
transforms.json: `{"train_ids": [...], "test_ids": [...]}`. pixelSplat's `evaluation_index_re10k.json` has
many scenes by name: `{"5aca87f95a9412c6": {"context": [58, 133], "target": [84, 102, 129]}, "...": null}`;
those with null are not evaluated. Numbers count the frames of the transforms.json from 0 on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from v3d.errors import V3DError
from v3d.text_files import read_json

_KEYS = (("train_ids", "test_ids"), ("context", "target"))


@dataclass(frozen=True)
class Split:
    """Frames of one scene.

    Attributes:
        given: numbers of the photos that are shown, in the file's order.
        asked: numbers of the views to draw.
    """

    given: tuple[int, ...]
    asked: tuple[int, ...]

    def checked(self, frames: int, scene: str) -> Split:
        """The split of a scene of so many frames.

        Raises:
            V3DError: it names a frame that is not there.
        """
        most = max(*self.given, *self.asked)
        if most >= frames:
            raise V3DError(
                f"The split of {scene} asks for frame {most}, but the capture has {frames} (from 0 on); give "
                "the capture that the split was made for."
            )
        return self


def scene_name(path: Path) -> str:
    """The name of a capture: that of its folder, or of its file without the suffix."""
    return path.stem if path.suffix == ".json" else path.resolve().name


def read_splits(file: Path, scenes: Sequence[Path]) -> dict[Path, Split]:
    """The splits of those captures that have one.

    Args:
        file: a split of one scene or of many; or a name, such as `train_test_split_3.json`, that is looked up
            in every capture's folder.
        scenes: the captures' folders, or their transforms.json.

    Raises:
        V3DError: a file is missing or holds no split, or no capture has one.
    """
    if file.is_file():
        content = read_json(file)
        one = _split(content, file)
        if one is not None:
            return dict.fromkeys(scenes, one)
        named = content if isinstance(content, dict) else {}
        of = {path: _split(named.get(scene_name(path)), file) for path in scenes}
        found = {path: split for path, split in of.items() if split is not None}
        if not found:
            raise V3DError(
                f"{file} has no split of {', '.join(scene_name(path) for path in scenes)}; it should hold "
                "train_ids and test_ids, or context and target by the names of the captures' folders."
            )
        return found
    beside = {path: (path if path.is_dir() else path.parent) / file for path in scenes}
    if missing := [path for path in beside.values() if not path.is_file()]:
        raise V3DError(f"There is no split {missing[0]}; name a file that is there, or in every capture.")
    splits = {path: _split(read_json(place), place) for path, place in beside.items()}
    if without := [beside[path] for path, split in splits.items() if split is None]:
        raise V3DError(f"{without[0]} is no split; it should hold train_ids and test_ids.")
    return {path: split for path, split in splits.items() if split is not None}


def _split(content: Any, file: Path) -> Split | None:
    """The split of one scene, or None where this is none.

    Raises:
        V3DError: it has the keys of a split, but no lists of frames.
    """
    if not isinstance(content, dict):
        return None
    for keys in _KEYS:
        if all(key in content for key in keys):
            given, asked = (content[key] for key in keys)
            if not (_numbers(given) and _numbers(asked)):
                raise V3DError(f"{file}: {keys[0]} and {keys[1]} should be lists of frame numbers from 0 on.")
            return Split(tuple(given), tuple(asked))
    return None


def _numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in value)
    )
