"""A run's folder: finished stages are kept and reused, `report.json` says what happened.

Every stage has a key: a hash of its own settings and of the keys of the stages before it. A stage whose
key is there, and whose files are as it left them, is loaded instead of computed: so a run that was stopped
goes on where it was, and a changed setting costs only what depends on it. One run at a time has the folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from v3d.callbacks import OnProgress
from v3d.digests import digest, file_digest, plain
from v3d.errors import V3DError
from v3d.files import atomic, locked, remove_leftovers, write_json
from v3d.provenance import machine, versions
from v3d.runtime import peak_memory_mb, reset_peak_memory

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
    """The folder of one photo's or one set of views' run, held while a `with` block lasts.

    Attributes:
        path: the folder; in the block it exists, is writable, and no other run works in it.
        report: what `report.json` says.
    """

    def __init__(
        self,
        path: str | Path,
        settings: Any,
        *,
        title: str | None = None,
        warnings: Sequence[str] = (),
        force: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Name the folder; `with` opens or makes it.

        Args:
            path: the folder.
            settings: a dataclass, for the report.
            title: what the run is called, in place of its folder's name.
            warnings: of the run as a whole, before those of its stages: one sentence each. They hold for this
                run alone, whereas a stage's are kept with its files.
            force: compute every stage anew.
            on_progress: called as the stages go on, see `v3d.callbacks.OnProgress`.
        """
        self.path = Path(path)
        self._title = title
        self._warnings = list(warnings)
        self._force = force
        self._on_progress = on_progress or (lambda stage, done, total: None)
        self._stages: dict[str, dict[str, Any]] = {}
        self._done: list[str] = []
        self._lock = contextlib.ExitStack()
        self.report: dict[str, Any] = {
            "settings": dataclasses.asdict(settings),
            "versions": versions(),
            "machine": machine(),
        }

    def __enter__(self) -> RunFolder:
        """Take the folder, and see which stages earlier runs finished.

        Raises:
            V3DError: it cannot be made or written, or another run works in it.
        """
        self._lock.enter_context(locked(self.path, "Another run works"))
        try:
            remove_leftovers(self.path)
            self._stages = _read_stages(self.path / "report.json")
            self._write_report()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """At the end of a run remove what no longer belongs to its results; leave the folder.

        A run that failed before it made anything takes its report with it, and the folder if nothing else is
        there.
        """
        try:
            if kind is None:
                self._remove_stale()
            elif not self._stages:
                _remove_empty(self.path)
        finally:
            self._lock.close()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def name(self) -> str:
        """What the run is called: its title, or its folder's name, after the photo or the views."""
        return self._title or self.path.resolve().name

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
        editable: Sequence[str] = (),
    ) -> tuple[Kept, str]:
        """Compute one stage, or load it if it was computed with these inputs before.

        What comes back is always what `load` reads from the files, so a resumed run and a fresh one go on
        from the same values.

        Args:
            name: of the stage.
            version: of the stage's algorithm; a larger one computes again what an older V3D left.
            inputs: all that decides the result, for `digest`: settings, and the keys of the stages that this
                one needs.
            files: what the stage leaves in the folder: files, or folders of files.
            compute: makes the result.
            save: writes the result into the files.
            load: reads it back. Errors of damaged files lead to computing them again.
            editable: those of the files that users may change: then they are loaded as they are, and the
                stage's record names them as `edited`. Others that changed are taken for damaged, and made
                again.

        Returns:
            The stage's result and its key.
        """
        key = digest([name, version, inputs])
        record = self._stages.get(name, {})
        if record.get("key") == key and not self._force:
            missing, changed = self._differences(record)
            if not missing and all(_among(file, editable) for file in changed):
                try:
                    kept = load()
                except (V3DError, OSError, ValueError, KeyError, SafetensorError):
                    changed = changed or list(files)
                else:
                    self._finish(name, record | {"reused": True} | ({"edited": changed} if changed else {}))
                    return kept, key
            if changed:
                have = "has" if len(changed) == 1 else "have"
                self._warnings.append(f"{_listed(changed)} {have} changed since the last run; made anew.")
        text = json.dumps(inputs, default=plain)
        needs = {done: self._stages[done]["key"] for done in self._done if self._stages[done]["key"] in text}
        return self._compute(name, key, needs, files, compute, save, load), key

    def _compute(
        self,
        name: str,
        key: str,
        needs: dict[str, str],
        files: Sequence[str],
        compute: Callable[[Stage], Made],
        save: Callable[[Made], None],
        load: Callable[[], Kept],
    ) -> Kept:
        """Compute, save and load a stage, with a clock beside it."""
        self.drop(name, keep=files)  # its files are about to change, so they must not count as finished
        stage = Stage(name, self._on_progress)
        self._on_progress(name, 0, 1)
        reset_peak_memory()
        start, cpu = time.perf_counter(), time.process_time()
        save(compute(stage))
        result = load()
        record = {
            "seconds": round(time.perf_counter() - start, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_memory_mb": peak_memory_mb(),
            "warnings": stage.warnings,
            **stage.facts,
            "files": list(files),
            "digests": {file: file_digest(self.path / file) for file in _files_in(self.path, files)},
            "key": key,
            "needs": needs,
        }
        self._finish(name, record | {"seal": _seal(record), "reused": False})
        return result

    def warn(self, warning: str) -> None:
        """Keep one sentence on the run as a whole for the report and the user."""
        self._warnings.append(warning)

    def drop(self, name: str, *, keep: Sequence[str] = ()) -> None:
        """Forget a stage and remove the files that it left, but for those to keep and those users changed."""
        record = self._stages.get(name)
        if record is None:
            return
        self._remove([file for file in record["digests"] if not _among(file, keep)], record)
        del self._stages[name]
        self._done = [other for other in self._done if other != name]
        self._write_report()

    def _differences(self, record: dict[str, Any]) -> tuple[list[str], list[str]]:
        """Of the files that a finished stage left: those that are missing, and those that have changed."""
        missing = [file for file in record["digests"] if not (self.path / file).is_file()]
        there = {file: known for file, known in record["digests"].items() if file not in missing}
        return missing, [file for file, known in there.items() if file_digest(self.path / file) != known]

    def _finish(self, name: str, record: dict[str, Any]) -> None:
        self._done.append(name)
        self._stages[name] = record
        self._write_report()
        self._on_progress(name, 1, 1)

    def _remove_stale(self) -> None:
        """Remove what was made of results that are others now, such as the mesh of earlier views.

        What this run did not reach but what still fits stays, for a run that asks for it.
        """
        keys = {name: self._stages[name]["key"] for name in self._done}
        stale: dict[str, dict[str, Any]] = {}
        rest = {name: record for name, record in self._stages.items() if name not in keys}
        for _ in rest:  # what was made of stale results is stale itself
            for name, record in rest.items():
                if any(n in stale or keys.get(n, key) != key for n, key in record["needs"].items()):
                    stale[name] = record
        if not stale:
            return
        kept = [file for name in keys for file in self._stages[name]["digests"]]
        removed = []
        for name, record in stale.items():
            removed += self._remove([file for file in record["digests"] if file not in kept], record)
            del self._stages[name]
        if shown := [file for file in removed if not file.startswith(".")]:
            self._warnings.append(f"Removed, because other settings had made it: {_listed(shown)}.")
        self._write_report()

    def _remove(self, files: list[str], record: dict[str, Any]) -> list[str]:
        """Remove files that are still as a stage left them; returns those."""
        missing, changed = self._differences(record)
        removed = [file for file in files if file not in (*missing, *changed)]
        for file in removed:
            path = self.path / file
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others' files are in there
                if path.parent != self.path:
                    path.parent.rmdir()
        return removed

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


def _remove_empty(folder: Path) -> None:
    """Remove a folder that holds nothing but the report of a run that made nothing."""
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {"report.json", ".lock"}:
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


def _files_in(folder: Path, names: Sequence[str]) -> list[str]:
    """The files that names in a folder stand for, where a folder's name stands for all files in it."""
    files = []
    for name in names:
        within = (
            sorted(p for p in (folder / name).rglob("*") if p.is_file()) if (folder / name).is_dir() else []
        )
        files += [path.relative_to(folder).as_posix() for path in within] or [name]
    return files


def _among(file: str, names: Sequence[str]) -> bool:
    """Whether one of the names stands for the file."""
    return any(file == name or file.startswith(f"{name}/") for name in names)


def _listed(files: Sequence[str]) -> str:
    """Names for a sentence; not more than a reader wants."""
    return ", ".join(files[:4]) + (f" and {len(files) - 4} more" if len(files) > 4 else "")


def _seal(record: dict[str, Any]) -> str:
    """A hash of all that a finished stage's record says; one that somebody changed is not believed."""
    return digest({name: value for name, value in record.items() if name not in ("seal", "reused", "edited")})


def changed_files(folder: Path) -> set[str]:
    """The files of a run, by their names in its folder, that are not what its stages wrote.

    Empty where the folder has no report, or one of an older V3D that says nothing about them.
    """
    stages = _read_stages(folder / "report.json").values()
    digests = {file: was for record in stages for file, was in record["digests"].items()}
    there = {file: was for file, was in digests.items() if (folder / file).is_file()}
    return {file for file, was in there.items() if file_digest(folder / file) != was}


def save_tensors(path: str | Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors atomically (safetensors)."""
    data = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def _read_stages(path: Path) -> dict[str, dict[str, Any]]:
    """Finished stages by an earlier report; none if there is no readable one."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        stages: dict[str, dict[str, Any]] = report["not_reached"] | report["stages"]
        return {
            name: {field: value for field, value in record.items() if field != "edited"}
            for name, record in stages.items()
            if record.get("seal") == _seal(record)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


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
