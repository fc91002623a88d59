"""A run's folder: finished stages are kept and reused, `report.json` says what happened.

Every stage has a key: a hash of its own settings and of the keys of the stages before it. A stage whose
key and files are there is loaded instead of computed, so a run that was stopped goes on where it was,
and a changed setting costs only what depends on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from v3d.callbacks import OnProgress
from v3d.errors import V3DError
from v3d.files import atomic, write_json
from v3d.provenance import machine, versions

Made = TypeVar("Made")
Kept = TypeVar("Kept")


@dataclasses.dataclass
class Stage:
    """What a stage may tell while it runs.

    Attributes:
        name: of the stage.
        on_progress: told how far the stage has come.
        warnings: what the user should know, one sentence each.
        facts: what else the stage's record in `report.json` says.
    """

    name: str
    on_progress: OnProgress
    warnings: list[str] = dataclasses.field(default_factory=list)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)

    def step(self, done: int, total: int) -> None:
        """Report progress: `done` of `total` steps. The run itself reports the end."""
        if done < total:
            self.on_progress(self.name, done, total)

    def warn(self, warning: str) -> None:
        """Keep one sentence for the report and the user."""
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
        warnings: Sequence[str] = (),
        force: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Open or make the folder.

        Args:
            path: the folder.
            settings: a dataclass, for the report.
            warnings: of the run as a whole, before those of its stages: one sentence each. They hold for this
                run alone, whereas a stage's are kept with its files.
            force: compute every stage anew.
            on_progress: called as the stages go on, see `v3d.callbacks.OnProgress`.

        Raises:
            V3DError: the folder cannot be made or written.
        """
        self.path = Path(path)
        self._warnings = list(warnings)
        self._force = force
        self._on_progress = on_progress or (lambda stage, done, total: None)
        self._stages = _read_stages(self.path / "report.json")
        self._done: list[str] = []
        self.report: dict[str, Any] = {
            "settings": dataclasses.asdict(settings),
            "versions": versions(),
            "machine": machine(),
        }
        self._write_report()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def stage(
        self,
        name: str,
        *,
        version: int,
        inputs: Any,
        files: Sequence[str],
        compute: Callable[[Stage], Made],
        save: Callable[[Made], None],
        load: Callable[[], Kept],
    ) -> tuple[Kept, str]:
        """Compute one stage, or load it if it was computed with these inputs before.

        What comes back is always what `load` reads from the files, so a resumed run and a fresh one go on
        from the same values.

        Args:
            name: of the stage.
            version: of the stage's algorithm; a larger one computes again what an older V3D left.
            inputs: all that decides the result, for `digest`: settings, and the keys of the stages that this
                one needs.
            files: what the stage leaves in the folder.
            compute: makes the result.
            save: writes the result into the files.
            load: reads it back. Errors of damaged files lead to computing them again.

        Returns:
            The stage's result and its key.
        """
        key = digest([name, version, inputs])
        record = self._stages.get(name, {})
        complete = record.get("key") == key and all((self.path / file).exists() for file in files)
        if complete and not self._force:
            try:
                kept = load()
            except (V3DError, OSError, ValueError, KeyError, SafetensorError):
                pass  # someone damaged the files: compute them again
            else:
                self._finish(name, record | {"reused": True})
                return kept, key
        return self._compute(name, key, files, compute, save, load), key

    def _compute(
        self,
        name: str,
        key: str,
        files: Sequence[str],
        compute: Callable[[Stage], Made],
        save: Callable[[Made], None],
        load: Callable[[], Kept],
    ) -> Kept:
        """Compute, save and load a stage, with a clock beside it."""
        if self._stages.pop(name, None):
            self._done = [other for other in self._done if other != name]
            self._write_report()  # its files are about to change, so they must not count as finished
        stage = Stage(name, self._on_progress)
        self._on_progress(name, 0, 1)
        _reset_peak_memory()
        start, cpu = time.perf_counter(), time.process_time()
        save(compute(stage))
        result = load()
        record = {
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_memory_mb": _peak_memory_mb(),
            "warnings": stage.warnings,
            **stage.facts,
            "files": list(files),
            "digests": {file: file_digest(self.path / file) for file in _each_file(self.path, files)},
            "key": key,
            "reused": False,
        }
        self._finish(name, record)
        return result

    def _finish(self, name: str, record: dict[str, Any]) -> None:
        self._done.append(name)
        self._stages[name] = record
        self._write_report()
        self._on_progress(name, 1, 1)

    def _write_report(self) -> None:
        done = {name: self._stages[name] for name in self._done}
        self.report["seconds"] = round(sum(record["seconds"] for record in done.values()), 2)
        self.report["peak_memory_mb"] = max(
            (record["peak_memory_mb"] or 0 for record in done.values()), default=0
        )
        of_stages = [warning for record in done.values() for warning in record["warnings"]]
        self.report["warnings"] = self._warnings + of_stages
        self.report["stages"] = done
        # Earlier runs left these, and their files can be reused; but they may not fit this run's settings.
        self.report["not_reached"] = {name: r for name, r in self._stages.items() if name not in done}
        write_json(self.path / "report.json", self.report)


def digest(value: Any) -> str:
    """A short hash of nested lists, dicts, dataclasses, tensors and plain values."""
    return hashlib.sha256(json.dumps(value, default=_plain, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: str | Path) -> str:
    """A short hash of a file's bytes.

    Raises:
        V3DError: the file cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise V3DError(f"{path} cannot be read ({error.strerror}).") from error


def changed_files(folder: Path) -> set[str]:
    """The files of a run, by their names in its folder, that are not what its stages wrote.

    Empty where the folder has no report, or one of an older V3D that says nothing about them.
    """
    digests: dict[str, str] = {}
    for record in _read_stages(folder / "report.json").values():
        known = record.get("digests")
        digests |= known if isinstance(known, dict) else {}
    return {
        file
        for file, was in digests.items()
        if (folder / file).is_file() and file_digest(folder / file) != was
    }


def _each_file(folder: Path, files: Sequence[str]) -> list[str]:
    """The names of files, and of the files in folders."""
    found = []
    for name in files:
        inside = sorted((folder / name).iterdir()) if (folder / name).is_dir() else [folder / name]
        found += [path.relative_to(folder).as_posix() for path in inside if path.is_file()]
    return found


def save_tensors(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically (safetensors)."""
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
    """`folder`, which results go to, unless they would replace what was given.

    Raises:
        V3DError: `folder` is the folder that `given` is or, for a .json file, lies in.
    """
    home = given.parent if given.suffix == ".json" else given
    if folder.resolve() == home.resolve():
        raise V3DError(f"The results would replace what is in {folder}; choose another folder with -o.")
    return folder
