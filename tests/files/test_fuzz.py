"""Damaged inputs of every reader: read, or refused in one sentence (`scripts/fuzz_readers.py` makes many)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzz_mutations import mutate
from fuzz_readers import Inputs, fuzz
from fuzz_seeds import Reader, readers
from v3d.errors import V3DError

READERS = sorted(readers())


@pytest.mark.parametrize("name", READERS)
def test_good_inputs_are_read(tmp_path: Path, name: str) -> None:
    Inputs(name, readers()[name], 0, tmp_path).check()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs_make_no_fault(tmp_path: Path, name: str) -> None:
    result = fuzz(name, range(200), 1, tmp_path)
    assert not result.faults, result.faults
    assert result.counts["read"] > 5  # some damage is harmless
    if name != "reports":  # what they lack is made anew
        assert result.counts["refused"] > 5


def test_inputs_are_a_function_of_their_number(tmp_path: Path) -> None:
    inputs = Inputs("obj", readers()["obj"], 0, tmp_path)
    files = [{p.name: p.read_bytes() for p in inputs.write(k).iterdir()} for k in (5, 6, 5)]
    assert files[0] == files[2] != files[1]


def test_a_fault_is_counted_and_named(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        size = len(path.read_bytes())
        if size < 3:
            raise IndexError("short")
        if size > 3:
            raise V3DError("It is long.")

    reader = Reader(lambda folder: (folder / "a.bin").write_bytes(b"abc") and None, read)
    inputs = Inputs("made", reader, 0, tmp_path)
    ends = {inputs.run(number) for number in range(50)}
    assert ends == {("read", ""), ("refused", ""), ("fault", "?: IndexError: short")}


@pytest.mark.parametrize("name", ["a.json", "a.glb", "a.npz", "a.txt", "a.png"])
def test_damage_differs_and_is_never_an_error(tmp_path: Path, name: str) -> None:
    data = {".json": b'{"a": [1, 2.5, {"b": "c"}]}', ".txt": b"1 2 3\n4 5 6\n"}.get(Path(name).suffix)
    if name == "a.glb":
        inputs = Inputs("glb", readers()["glb"], 0, tmp_path)
        inputs.write(0)
        data = (tmp_path / "good/rich.glb").read_bytes()
    elif name == "a.npz":
        Inputs("corpus", readers()["corpus"], 0, tmp_path)
        data = (tmp_path / "good/c.npz").read_bytes()
    data = data or bytes(range(256))
    damaged = [mutate(name, data, [data], random.Random(k)) for k in range(200)]
    assert len(set(damaged)) > 100
    assert damaged == [mutate(name, data, [data], random.Random(k)) for k in range(200)]
