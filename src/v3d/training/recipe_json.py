"""Recipes as JSON, as checkpoints keep them."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any, Literal

from v3d.errors import V3DError, in_words
from v3d.text_files import parse_json
from v3d.training.recipe import PixelNeRFRecipe, Recipe, SVDRecipe, VAERecipe, VideoRecipe

RECIPES: dict[str, type[Recipe]] = {
    "vae": VAERecipe,
    "pixelnerf": PixelNeRFRecipe,
    "video": VideoRecipe,
    "svd": SVDRecipe,
}
"""The kinds of recipes by their names in checkpoints."""


def to_json(recipe: Recipe) -> str:
    """The recipe as a JSON object; `recipe` in it names its kind."""
    name = next(name for name, kind in RECIPES.items() if type(recipe) is kind)
    return json.dumps({"recipe": name, **dataclasses.asdict(recipe)}, default=str)


def from_json(text: str) -> Recipe:
    """The recipe that `to_json` wrote.

    Raises:
        V3DError: it is of another version of V3D, or no recipe at all.
    """
    try:
        values: dict[str, Any] = parse_json(text)
        recipe: Recipe = _typed(values, RECIPES[values.pop("recipe")])
        return recipe
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise V3DError(
            f"This is no recipe of this version of V3D ({type(error).__name__}: {in_words(error)})."
        ) from error


def _typed(value: Any, hint: Any) -> Any:
    """A JSON value as what the hint says: JSON knows neither dataclasses nor paths nor tuples."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return hint(**{name: _typed(entry, hints[name]) for name, entry in value.items()})  # type: ignore[operator]
    if typing.get_origin(hint) is tuple:
        of = Path if typing.get_args(hint)[:1] == (Path,) else lambda entry: entry
        return tuple(of(entry) for entry in list(value))
    if (
        value is None
        or isinstance(value, (list, dict))
        or (typing.get_origin(hint) is Literal and value not in typing.get_args(hint))
    ):
        raise ValueError(f"{value!r} is no value of its field")
    return Path(value) if Path in kinds else value
