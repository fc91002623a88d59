"""Reading checkpoint files without trusting them: nothing a file contains is ever run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from v3d.errors import V3DError


@contextmanager
def open_checkpoint(path: Path) -> Iterator[Mapping[str, Tensor]]:
    """The tensors of a checkpoint file by name, read from disk when they are asked for.

    Reads safetensors, and PyTorch files of plain data (a `state_dict` inside one is unwrapped).

    Raises:
        V3DError: the file is missing, cut short, not a checkpoint, or holds Python objects.
    """
    if not path.is_file():
        raise V3DError(f"{path} is not a file; docs/official_weights.md says where to get the weights.")
    if path.suffix != ".safetensors":
        yield _torch_file(path)
        return
    try:
        handle = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _unreadable(path) from error
    with handle as opened:
        yield _SafetensorsFile(opened)


class _SafetensorsFile(Mapping[str, Tensor]):
    """An open safetensors file as a mapping."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._names = dict.fromkeys(handle.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _torch_file(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        pickled = file.read(2)[:1] == b"\x80"  # PyTorch's format before 1.6
    zipped = zipfile.is_zipfile(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if not zipped and not pickled:
            raise _unreadable(path) from error
        raise V3DError(
            f"{path} holds Python objects besides tensors, and loading those could run code, so V3D does not;"
            " use a .safetensors version, or save only its tensors again on a machine you can afford to lose"
            " (docs/official_weights.md)."
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError) as error:
        raise _unreadable(path) from error
    weights = content.get("state_dict", content) if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise V3DError(f"{path} is a PyTorch file but not a checkpoint: it holds no table of named tensors.")
    return weights


def _unreadable(path: Path) -> V3DError:
    """Says what a file that cannot be read most likely is."""
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        what = "a Git LFS pointer, not the weights themselves; run `git lfs pull` where it came from"
    elif head.startswith((b"<!doctype", b"<html")):
        what = "a web page, not weights; the download needs a login or the address has moved"
    else:
        size = path.stat().st_size / 1e9
        what = f"damaged or only partly downloaded ({size:.2f} GB are here); download it again"
    return V3DError(f"{path} cannot be read: it is {what}.")


def check_keys(path: Path, what: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Compare names and shapes of `state`, read from `path`, with those of the network `what`.

    Raises:
        V3DError: names the first few keys that are missing, unexpected or of another shape.
    """
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    reshaped = sorted(k for k in state.keys() & expected.keys() if state[k].shape != expected[k].shape)
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
    faults = [f"{label} {shortened(keys)}" for label, keys in found if keys]
    if faults:
        raise V3DError(f"{path} does not fit the {what}: {'; '.join(faults)}.")


def shortened(keys: Sequence[str], shown: int = 3) -> str:
    """The first few names, and how many more there are, for error messages."""
    rest = len(keys) - shown
    return ", ".join(keys[:shown]) + (f" and {rest} more" if rest > 0 else "")
