"""Folders, CSV and JSON lines become a batch's items; a wrong line refuses itself alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shapes import Draw
from v3d.errors import V3DError
from v3d.serving.manifest import read_manifest
from v3d.settings import FinishSettings, GenerateSettings

BASE = GenerateSettings(quality="draft")


def test_a_folder_has_photos_and_folders_of_sides(draw: Draw, tmp_path: Path) -> None:
    cup = draw("in/cup.png")
    front, back = draw("in/robot/front.png"), draw("in/robot/back.png")
    draw("in/notes/page.png")
    (tmp_path / "in/readme.txt").write_text("no photo")
    items = read_manifest(tmp_path / "in", BASE)
    assert [(item.name, item.photos) for item in items] == [
        ("cup", {0.0: cup}),
        ("robot", {0.0: front, 180.0: back}),
    ]
    assert all(item.settings == BASE and not item.refusal for item in items)


def test_a_table_names_photos_and_settings(draw: Draw, tmp_path: Path) -> None:
    cup, left = draw("cup.png"), draw("sides/left.png")
    table = tmp_path / "list.csv"
    table.write_text(
        "photo, left, name, seed, Quality\ncup.png, sides/left.png, mug/7, 5, high\ncup.png,,,,\n",
        encoding="utf-8-sig",
    )
    first, second = read_manifest(table, BASE)
    assert first.photos == {0.0: cup, 90.0: left}
    assert first.name == "mug_7"
    assert first.settings == GenerateSettings(quality="high", seed=5)
    assert (second.name, second.settings) == ("cup", BASE)


def test_a_line_says_what_its_object_is_for(draw: Draw, tmp_path: Path) -> None:
    draw("cup.png")
    table = tmp_path / "list.csv"
    table.write_text("photo,purpose,size,seed\ncup.png,print,12cm,5\ncup.png,,,\ncup.png,toy,,\n")
    first, second, third = read_manifest(table, BASE, FinishSettings(purpose="web"))
    assert first.finish == FinishSettings(purpose="print", size="12cm") and first.settings.seed == 5
    assert second.finish == FinishSettings(purpose="web")
    assert "purpose cannot be 'toy'" in third.refusal


def test_lines_of_one_name_get_folders_of_their_own(draw: Draw, tmp_path: Path) -> None:
    draw("a/cup.png"), draw("b/cup.png")
    lines = tmp_path / "list.jsonl"
    lines.write_text('{"front": "a/cup.png"}\n\n{"front": "b/cup.png"}\n')
    assert [item.name for item in read_manifest(lines, BASE)] == ["cup", "cup-2"]


def test_wrong_lines_refuse_themselves(draw: Draw, tmp_path: Path) -> None:
    draw("cup.png")
    rows = [
        json.dumps({"front": "cup.png"}),
        json.dumps({"front": "gone.png"}),
        json.dumps({"left": "cup.png"}),
        json.dumps({"front": "cup.png", "seed": "x"}),
        "[" * 5000,
        "{broken",
        json.dumps({"front": 5}),
    ]
    lines = tmp_path / "list.jsonl"
    lines.write_text("\n".join(rows))
    items = read_manifest(lines, BASE)
    refusals = [item.refusal for item in items]
    assert refusals[0] == ""
    assert "There is no photo" in refusals[1] and "gone.png" in refusals[1]
    assert "line 3 of the manifest names no front photo" in refusals[2]
    assert "seed is a number" in refusals[3]
    assert "line 5 cannot be read" in refusals[4] and "line 6 cannot be read" in refusals[5]
    assert "line 7 of the manifest names no front photo" in refusals[6]
    assert len({item.name for item in items}) == len(items)


def test_a_wrong_line_of_a_table_swallows_no_other(draw: Draw, tmp_path: Path) -> None:
    cup = draw("cup.png")
    rows = [
        b"Photo;name;seed",
        b'cup.png;"open;1',
        b"cup.png;caf\xe9;1",  # Latin-1
        b"cup.png;a;b;c;d",
        b";;",
        b"cup.png;" + b"x" * 200_000,
        b"",
        b"cup.png;last;7;",
    ]
    table = tmp_path / "list.csv"
    table.write_bytes(b"\r\n".join(rows))
    items = read_manifest(table, BASE)
    assert [bool(item.refusal) for item in items] == [True, False, True, True, True, False]
    assert [item.refusal.split(" of ")[0] for item in items[2:4]] == [
        "The line 4 cannot be read as names and values.",
        "The line 5",
    ]
    assert items[1].name == "caf_" and items[1].photos == {0.0: cup}
    assert items[5].name == "last" and items[5].settings.seed == 7

    table.write_text("photo,seed,seed\ncup.png,1,2\n")
    with pytest.raises(V3DError, match="line 1 of the table is no header"):
        read_manifest(table, BASE)
    table.write_text("photo,front\ncup.png,cup.png\n")
    assert "names two front photos: front and photo" in read_manifest(table, BASE)[0].refusal


def test_names_are_folders_on_every_system(draw: Draw, tmp_path: Path) -> None:
    draw("cup.png")
    names = [
        "Cup",
        "cup",
        "cup-2",
        "caf\u00e9",
        "cafe\u0301",
        "summary.csv",
        "nul",
        "../x",
        "...",
        "<script>",
    ]
    names.append("\u676f" * 150)
    lines = tmp_path / "list.jsonl"
    lines.write_text("\n".join(json.dumps({"front": "cup.png", "name": name}) for name in names))
    found = [item.name for item in read_manifest(lines, BASE)]
    assert found[:3] == ["Cup", "cup-2", "cup-2-2"]
    assert found[3:5] == ["caf\u00e9", "caf\u00e9-2"]
    assert found[5:10] == ["summary.csv-2", "_nul", "_x", "object", "_script_"]
    assert found[10] == "\u676f" * 66
    (tmp_path / "out" / found[10]).mkdir(parents=True)

    lines.write_text("\n".join([json.dumps({"front": "cup.png"})] * 20_000))
    found = [item.name for item in read_manifest(lines, BASE)]
    assert len(set(found)) == 20_000 and found[-1] == "cup-20000"


def test_what_is_no_manifest_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, sentence in (
        (tmp_path / "gone", "no folder of photos and no manifest"),
        (tmp_path / "empty", "has no photos"),
        (tmp_path / "gone.csv", "cannot be read"),
    ):
        with pytest.raises(V3DError, match=sentence):
            read_manifest(path, BASE)
