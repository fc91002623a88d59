"""Plain values become settings, or one sentence."""

from __future__ import annotations

from typing import Any

import pytest

from v3d.errors import V3DError
from v3d.serving.options import with_options
from v3d.settings import GenerateSettings

BASE = GenerateSettings(seed=7)


def test_text_and_values_mean_the_same() -> None:
    wanted = GenerateSettings(
        quality="draft", seed=3, faces=500, recentre=False, elevation=12.5, formats=("glb", "obj")
    )
    text = {
        "quality": "draft",
        "seed": "3",
        "faces": "500",
        "recentre": "no",
        "elevation": "12.5",
        "formats": "glb obj",
    }
    values: dict[str, Any] = {
        "quality": "draft",
        "seed": 3,
        "faces": 500.0,
        "recentre": False,
        "elevation": 12.5,
        "formats": ["glb", "obj"],
    }
    assert with_options(BASE, text) == with_options(BASE, values) == wanted


def test_what_is_not_given_stays() -> None:
    assert with_options(BASE, {"texture-size": 256, "faces": "", "steps": None}) == GenerateSettings(
        seed=7, texture_size=256
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"colour": "red"}, "no option colour"),
        ({"quality": "best"}, "quality cannot be 'best'; it is one of draft, standard, high"),
        ({"seed": "many"}, "seed is a number without fraction"),
        ({"seed": 1.5}, "seed is a number without fraction"),
        ({"seed": "9" * 5000}, "seed is a number"),
        ({"elevation": "1e999"}, "elevation is a number"),
        ({"recentre": "maybe"}, "recentre is true or false"),
        ({"formats": {"glb": 1}}, "formats is a list"),
        ({"formats": "glb doc"}, "formats cannot be 'doc'"),
        ({"seed": [1]}, "seed cannot be"),
    ],
)
def test_nonsense_is_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(V3DError, match=sentence):
        with_options(BASE, options)
