"""The container of PLY: its header, and its elements as columns."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass

import numpy as np

from v3d.errors import V3DError
from v3d.meshes.reading.parts import Array

_TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"}
_TYPES |= {"float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2"}
_TYPES |= {"int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8", "int64": "i8", "uint64": "u8"}


@dataclass(frozen=True)
class Lists:
    """Lists of different lengths: all values in turn, and how many of them each list has."""

    values: Array
    sizes: Array


@dataclass(frozen=True)
class _Property:
    name: str
    dtype: np.dtype[np.generic]
    count: np.dtype[np.generic] | None  # type of a list's length; None for single values


Columns = dict[str, Array | Lists]


def read_table(data: bytes) -> tuple[dict[str, Columns], list[str]]:
    """The elements of a PLY file by name, each the columns of its properties, and its comments.

    Raises:
        V3DError: the file is broken.
    """
    head = re.match(rb"ply\s.*?\nend_header[^\n]*\n", data, re.DOTALL)
    if head is None:
        raise V3DError("it has no header of a PLY file")
    lines = [line.split() for line in head[0].decode("utf-8", "replace").splitlines()]
    form = next((words[1] for words in lines if words[:1] == ["format"]), "")
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise V3DError(f"its format {form[:20]!r} is none of PLY's")
    order = ">" if form == "binary_big_endian" else "<"
    elements: list[tuple[str, int, list[_Property]]] = []
    for words in lines:
        if words[:1] == ["element"]:
            count = int(words[2])
            if not 0 <= count <= len(data):
                raise V3DError(f"it claims {count:,} elements, more than it has bytes; copy it again")
            elements.append((words[1], count, []))
        elif words[:2] == ["property", "list"]:
            types = [np.dtype(order + _TYPES[word]) for word in words[2:4]]
            elements[-1][2].append(_Property(words[4], types[1], types[0]))
        elif words[:1] == ["property"]:
            elements[-1][2].append(_Property(words[2], np.dtype(order + _TYPES[words[1]]), None))
    if any(len({p.name for p in properties}) < len(properties) for _, _, properties in elements):
        raise V3DError("two of its properties have the same name")
    body = data[head.end() :]
    source = _Numbers(body) if form == "ascii" else _Bytes(body)
    comments = [" ".join(words[1:]) for words in lines if words[:1] in (["comment"], ["obj_info"])]
    return {name: source.take(count, properties) for name, count, properties in elements}, comments


class _Bytes:
    """Elements of a binary file, taken one after another."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, count: int, properties: list[_Property]) -> Columns:
        fields, at = [], self._at
        for k, p in enumerate(properties):
            if p.count is None:
                fields.append((f"{k}", p.dtype))
                at += p.dtype.itemsize
                continue
            size = int(self._values(p.count, 1, at)[0]) if count else 0
            if size * p.dtype.itemsize > len(self._body):
                raise V3DError("it has a list longer than the file; copy it again")
            fields += [(f"n{k}", p.count), (f"{k}", np.dtype((p.dtype, (size,))))]
            at += p.count.itemsize + size * p.dtype.itemsize
        row = np.dtype(fields)
        fits = self._at + count * row.itemsize <= len(self._body)
        if fits or all(p.count is None for p in properties):
            table = self._values(row, count, self._at)
            if all(
                (table[f"n{k}"] == table[f"{k}"].shape[1]).all() for k, p in enumerate(properties) if p.count
            ):
                self._at += count * row.itemsize
                return {p.name: _column(table[f"{k}"]) for k, p in enumerate(properties)}
        return self._one_by_one(count, properties)

    def _one_by_one(self, count: int, properties: list[_Property]) -> Columns:
        rows: list[list[Array]] = [[] for _ in properties]
        for _ in range(count):
            for values, p in zip(rows, properties, strict=True):
                size = 1
                if p.count is not None:
                    size = int(self._values(p.count, 1, self._at)[0])
                    self._at += p.count.itemsize
                values.append(self._values(p.dtype, size, self._at))
                self._at += size * p.dtype.itemsize
        return {p.name: _gathered(values, p) for values, p in zip(rows, properties, strict=True)}

    def _values(self, dtype: np.dtype[np.generic], count: int, at: int) -> Array:
        if count < 0 or at + count * dtype.itemsize > len(self._body):
            raise V3DError("it ends early; copy it again")
        if dtype.itemsize == 0:
            return np.zeros(count, dtype)
        return np.frombuffer(self._body, dtype, count, at)


class _Numbers:
    """Elements of a text file, taken one after another."""

    def __init__(self, body: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # what is no number ends the reading
            self._numbers, self._at = np.fromstring(body.decode("ascii", "replace"), sep=" "), 0

    def take(self, count: int, properties: list[_Property]) -> Columns:
        places, width = [], 0
        for p in properties:
            size = 1
            if p.count is not None:
                size = self._size(self._at + width) if count else 0
                width += 1
            places.append((width, size))
            width += size
        if self._at + count * width <= len(self._numbers):
            table = self._numbers[self._at : self._at + count * width].reshape(count, width)
            lists = [place for place, p in zip(places, properties, strict=True) if p.count is not None]
            if all((table[:, at - 1] == size).all() for at, size in lists):
                self._at += count * width
                return {
                    p.name: _column(table[:, at : at + size] if p.count is not None else table[:, at])
                    for (at, size), p in zip(places, properties, strict=True)
                }
        rows: list[list[Array]] = [[] for _ in properties]
        for _ in range(count):
            for values, p in zip(rows, properties, strict=True):
                size = 1
                if p.count is not None:
                    size = self._size(self._at)
                    self._at += 1
                values.append(self._numbers[self._at : self._at + size])
                self._at += size
        if self._at > len(self._numbers):
            raise V3DError("it ends early; copy it again")
        return {p.name: _gathered(values, p) for values, p in zip(rows, properties, strict=True)}

    def _size(self, at: int) -> int:
        size = self._numbers[at] if at < len(self._numbers) else -1.0
        if not 0 <= size <= len(self._numbers):
            raise V3DError("it ends early, or has a list longer than the file; copy it again")
        return int(size)


def _column(values: Array) -> Array | Lists:
    if values.ndim == 1:
        return values
    return Lists(values.reshape(-1), np.full(len(values), values.shape[1]))


def _gathered(rows: list[Array], p: _Property) -> Array | Lists:
    values = np.concatenate(rows) if rows else np.zeros(0, p.dtype)
    return values if p.count is None else Lists(values, np.array([len(row) for row in rows], np.int64))
