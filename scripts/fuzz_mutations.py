"""Small damages to files: bytes, words of text, values in JSON, also within GLB, gzip, zip, safetensors."""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_DEEP = "@deep@"
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 255, 65536, 2**31, 2**32 - 1, 2**63, 2**64, -(2**63), 10**400),
    *(0.5, -0.0, 1e-300, 1e300, 1e38, float("inf"), float("-inf"), float("nan")),
    *("", "a", "/dev/zero", "../..", "x" * 300, "\0", "\ud800", "ÄÖ漢字🦆", "1", "nan", "\n"),
    *([], {}, [[]], [None], [0] * 3, [1e999] * 16, {"": []}, [[0] * 4] * 4, _DEEP),
)
_TOKENS = (
    *(b"nan", b"inf", b"-inf", b"1e999", b"-1", b"0", b"1e-400", b"99999999999", b"4294967296", b"0x10"),
    *(b"", b"1" * 400, b"1/2/3/4", b"\xff\xfe", b"x", b"-0", b"1e38", b"/dev/zero", b"."),
)
_INTEGERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**63,
    2**64 - 1,
)


def mutate(name: str, data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """A damaged copy of a file.

    Args:
        name: of the file, whose suffix says what can be damaged within it.
        data: the file's bytes.
        others: of other files, to take pieces from.
        dice: all choices come from here.
    """
    suffix = Path(name).suffix.lower()
    if dice.random() < 0.6:
        within = _within(suffix, data, dice)
        if within is not None:
            return within
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        data = dice.choice(_DAMAGES)(data, others, dice)
    return data


def _within(suffix: str, data: bytes, dice: random.Random) -> bytes | None:
    """Damage inside a container, which stays whole itself; None where there is none."""
    if suffix == ".glb" and data[:4] == b"glTF":
        size = struct.unpack_from("<I", data, 12)[0]
        text = _json(data[20 : 20 + size], dice)
        text += b" " * (-len(text) % 4)
        rest = data[20 + size :]
        head = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest))
        return head + struct.pack("<I4s", len(text), b"JSON") + text + rest
    if suffix == ".safetensors":
        size = struct.unpack_from("<Q", data)[0]
        text = _json(data[8 : 8 + size], dice)
        return struct.pack("<Q", len(text)) + text + data[8 + size :]
    if suffix in (".json", ".gltf"):
        return _json(data, dice)
    if suffix in (".jgz", ".gz"):
        text = gzip.decompress(data)
        return gzip.compress(_json(text, dice) if dice.random() < 0.8 else _text(text, [], dice), 1)
    if suffix == ".spz" and data[:2] == b"\x1f\x8b":
        return gzip.compress(dice.choice(_DAMAGES)(gzip.decompress(data), [], dice), 1)
    if suffix in (".npz", ".sog"):
        return _zip(data, dice)
    if suffix in (".txt", ".obj", ".mtl", ".ply", ".stl"):
        return _text(data, [], dice)
    return None


def _zip(data: bytes, dice: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    target = dice.choice(sorted(members))
    head, body = members[target][:128], members[target][128:]  # of a .npy file
    if target.endswith(".json"):
        members[target] = _json(members[target], dice)
    elif dice.random() < 0.6 and body:
        damaged = dice.choice((_flip, _integer, _splice))(body, list(members.values()), dice)
        members[target] = head + damaged[: len(body)]
    else:
        members[target] = dice.choice(_DAMAGES)(members[target], list(members.values()), dice)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(zipfile.ZipInfo(name), member)  # of a fixed date
    return file.getvalue()


def _json(text: bytes, dice: random.Random) -> bytes:
    """Another value at a random place of a JSON text."""
    root = [json.loads(text)]
    for _ in range(dice.choice((1, 1, 2, 3))):
        node: Any = root
        while True:
            key = dice.choice(list(node) if isinstance(node, dict) else range(len(node)))
            below = node[key]
            if not (isinstance(below, dict | list) and below) or dice.random() < 0.15:
                break
            node = below
        action = dice.random()
        if action < 0.1:
            del node[key]
        elif action < 0.2 and isinstance(node, list):
            node += [copy.deepcopy(below) for _ in range(dice.choice((1, 3, 50)))]
        elif action < 0.35 and isinstance(below, float):
            node[key] = dice.choice((-below, below + 1, below * 1000, below * 0.3, str(below), [below]))
        else:
            node[key] = copy.deepcopy(dice.choice(_VALUES))
        if not root:
            root = [None]
    written = json.dumps(root[0], ensure_ascii=dice.random() < 0.5)
    deep = "[" * 50_000 + "]" * 50_000
    return written.replace(f'"{_DEEP}"', deep).encode("utf-8", "surrogatepass")


Damage = Callable[[bytes, list[bytes], random.Random], bytes]


def _flip(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    flipped = bytearray(data or b"\0")
    for _ in range(dice.choice((1, 2, 8, 64))):
        flipped[dice.randrange(len(flipped))] ^= 1 << dice.randrange(8)
    return bytes(flipped)


def _truncate(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data) + 1)]


def _remove(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    at = dice.randrange(len(data) + 1)
    return data[:at] + data[at + dice.choice((1, 2, 4, 16, 200)) :]


def _repeat(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    at, end = sorted((dice.randrange(len(data) + 1), dice.randrange(len(data) + 1)))
    return data[:end] + data[at:end][:5000] * dice.choice((1, 2, 10)) + data[end:]


def _splice(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    other = dice.choice([*others, data])
    at, begin = dice.randrange(len(data) + 1), dice.randrange(len(other) + 1)
    piece = other[begin : begin + dice.choice((4, 32, 500, 5000))]
    return data[:at] + piece + data[at + (len(piece) if dice.random() < 0.5 else 0) :]


def _integer(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    width = dice.choice((1, 2, 4, 8))
    number = dice.choice(_INTEGERS) % (1 << 8 * width)
    at = dice.randrange(max(len(data) - width, 0) + 1)
    return data[:at] + number.to_bytes(width, dice.choice(("little", "big"))) + data[at + width :]


def _float(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    number = dice.choice((float("nan"), float("inf"), float("-inf"), 1e38, -1e38, 1e-40, 0.0))
    at = dice.randrange(max(len(data) - 4, 0) + 1) // 4 * 4
    return data[:at] + struct.pack("<f", number) + data[at + 4 :]


def _text(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """Another word, or lines that are gone, doubled or exchanged."""
    if dice.random() < 0.6:
        head = data[:20_000]
        words = list(re.finditer(rb"[^\s/,:]+", head))
        if words:
            word = dice.choice(words)
            new = dice.choice(_TOKENS) if dice.random() < 0.7 else dice.choice(words)[0]
            return data[: word.start()] + new + data[word.end() :]
    lines = data.split(b"\n")
    a, b = dice.randrange(len(lines)), dice.randrange(len(lines))
    action = dice.randrange(4)
    if action == 0:
        del lines[a]
    elif action == 1:
        lines.insert(a, lines[b])
    elif action == 2:
        lines[a], lines[b] = lines[b], lines[a]
    else:
        lines[a] = lines[a] + b" " + lines[b]
    return b"\n".join(lines)


_DAMAGES: tuple[Damage, ...] = (_flip, _flip, _truncate, _remove, _repeat, _splice, _integer, _float, _text)
