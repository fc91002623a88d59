"""A run's folder: finished stages are kept and reused, `report.json` says what happened.

Every stage has a key: a hash of its own settings and of the keys of the stages before it. A stage whose
key and files are there is loaded instead of computed, so a run that was stopped goes on where it was,
and a changed setting costs only what depends on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from v3d.distribution import DISTRIBUTION
from v3d.errors import V3DError
from v3d.files import atomic, write_json

Made = TypeVar("Made")
Kept = TypeVar("Kept")

OnProgress = Callable[[str, int, int], None]
"""Called with (stage, steps done, steps in all); a stage begins with 0 steps done and ends with all of them."""

_VERSIONS = (
    DISTRIBUTION,
    "torch",
    "numpy",
    "numba",
    "opencv-python-headless",
    "pillow",
    "gsplat",
    "diffusers",
)


@dataclasses.dataclass
class Stage:
    """What a stage may tell while it runs."""

    name: str
    on_progress: OnProgress
    warnings: list[str] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def step(self, done: int, total: int) -> None:
        if done < total:
            self.on_progress(self.name, done, total)

    def warn(self, warning: str) -> None:
        self.warnings.append(warning)


class RunFolder:
    """The folder of one photo's or one set of views' run.

    Attributes:
        path: the folder; it exists and is writable.
        report: what `report.json` says.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Any,
        *,
        force: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Open or make the folder.

        Args:
            settings: a dataclass, for the report.
            force: compute every stage anew.

        Raises:
            V3DError: the folder cannot be made or written.
        """
        self.path = Path(path)
        self._force = force
        self._on_progress = on_progress or (lambda stage, done, total: None)
        self._stages = _read_stages(self.path / "report.json")
        self._done: list[str] = []
        self.report: dict[str, Any] = {
            "settings": dataclasses.asdict(settings),
            "versions": _versions(),
            "machine": {
                "platform": platform.platform(),
                "cpus": os.cpu_count(),
                "threads": torch.get_num_threads(),
            },
        }
        self._write_report()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def stage(
        self,
        name: str,
        *,
        inputs: Any,
        files: Sequence[str],
        compute: Callable[[Stage], Made],
        save: Callable[[Made], None],
        load: Callable[[], Kept],
    ) -> tuple[Kept, str]:
        """Do one stage, or load it if it was done with the same inputs.

        What comes back is always what `load` reads from the files, so a resumed run and a fresh one go on
        from the same values.

        Args:
            inputs: settings, and the keys of the stages that this one needs; see `digest`.
            files: what the stage leaves in the folder.

        Returns:
            The stage's result and its key.
        """
        key = digest([name, inputs])
        record = self._stages.get(name, {})
        complete = record.get("key") == key and all((self.path / file).exists() for file in files)
        if complete and not self._force:
            try:
                result = load()
            except (V3DError, OSError, ValueError, KeyError):
                pass  # someone damaged the files: compute them again
            else:
                self._done.append(name)
                self._stages[name] = record | {"reused": True}
                self._write_report()
                self._on_progress(name, 1, 1)
                return result, key
        if self._stages.pop(name, None):
            self._done = [other for other in self._done if other != name]
            self._write_report()  # its files are about to change, so they must not count as finished
        stage = Stage(name, self._on_progress)
        self._on_progress(name, 0, 1)
        _reset_peak_memory()
        start, cpu = time.perf_counter(), time.process_time()
        save(compute(stage))
        result = load()
        self._stages[name] = {
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_memory_mb": _peak_memory_mb(),
            "warnings": stage.warnings,
            **stage.facts,
            "files": list(files),
            "key": key,
            "reused": False,
        }
        self._done.append(name)
        self._write_report()
        self._on_progress(name, 1, 1)
        return result, key

    def _write_report(self) -> None:
        done = {name: self._stages[name] for name in self._done}
        self.report["seconds"] = round(sum(record["seconds"] for record in done.values()), 2)
        self.report["peak_memory_mb"] = max(
            (record["peak_memory_mb"] or 0 for record in done.values()), default=0
        )
        self.report["warnings"] = [warning for record in done.values() for warning in record["warnings"]]
        self.report["stages"] = done
        # Records of earlier runs: their files are still there to be reused, but may not fit this run's settings.
        self.report["not_reached"] = {name: r for name, r in self._stages.items() if name not in done}
        write_json(self.path / "report.json", self.report)


def digest(value: Any) -> str:
    """A short hash of nested lists, dicts, dataclasses, tensors and plain values."""
    return hashlib.sha256(json.dumps(value, default=_plain, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """A short hash of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


def save_tensors(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically (safetensors)."""
    from safetensors.torch import save

    data = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous().numpy()
        return [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__} | {
            f.name: getattr(value, f.name) for f in dataclasses.fields(value)
        }
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"cannot hash {type(value).__name__}")


def _read_stages(path: Path) -> dict[str, dict[str, Any]]:
    """Finished stages by an earlier report; none if there is no readable one."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        stages = report["not_reached"] | report["stages"]
        return {
            name: record
            for name, record in stages.items()
            if {"key", "seconds", "peak_memory_mb", "warnings"} <= record.keys()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _VERSIONS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _reset_peak_memory() -> None:
    """Let the kernel's high-water mark start anew (Linux; elsewhere peaks are those of the whole process)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory_mb() -> float | None:
    """Highest resident memory since `_reset_peak_memory`, in MB; None where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024**2 if sys.platform == "darwin" else 1024), 1)


def run_name(views: Path) -> str:
    """The name of the run on a folder of views, its .json file or a video."""
    return (views.resolve().parent if views.suffix == ".json" else views.resolve()).stem


def other_than(given: Path, folder: Path) -> Path:
    """`folder`, unless the results would replace what was given."""
    home = given.parent if given.suffix == ".json" else given
    if folder.resolve() == home.resolve():
        raise V3DError(f"The results would replace what is in {folder}; choose another folder with -o.")
    return folder
