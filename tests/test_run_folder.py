"""Runs that share a folder: one at a time; what was damaged, edited or belongs to other settings."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from v3d.digests import file_digest
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.run import RunFolder, Stage


@dataclass(frozen=True)
class Options:
    number: int = 1


def write(
    run: RunFolder,
    name: str,
    files: dict[str, str],
    inputs: Sequence[object] = (),
    *,
    editable: Sequence[str] = (),
) -> tuple[dict[str, str], str]:
    """A stage that writes texts and reads them back."""

    def save(_: None) -> None:
        for file, text in files.items():
            with atomic(run / file) as temporary:
                temporary.write_text(text)

    return run.stage(
        name,
        version=1,
        inputs=[files, list(inputs)],
        files=[*files],
        compute=lambda stage: None,
        save=save,
        load=lambda: {file: (run / file).read_text() for file in files},
        editable=editable,
    )


def chain(folder: Path, views: str, *, until: int = 3) -> RunFolder:
    """Views, a mesh of them, a picture of the mesh."""
    with RunFolder(folder, Options()) as run:
        _, key = write(run, "views", {"views/0.txt": views, "views/1.txt": views}, editable=["views"])
        if until > 1:
            _, key = write(run, "mesh", {"mesh.txt": f"mesh of {views}"}, [key])
        if until > 2:
            write(run, "picture", {"picture.txt": f"picture of {views}"}, [key])
    return run


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


ALL = [".lock", "mesh.txt", "picture.txt", "report.json", "views/0.txt", "views/1.txt"]


def test_the_mesh_of_other_views_does_not_stay_beside_the_new_ones(tmp_path: Path) -> None:
    chain(tmp_path, "red")
    run = chain(tmp_path, "blue", until=1)
    assert names(tmp_path) == [".lock", "report.json", "views/0.txt", "views/1.txt"]
    assert run.report["warnings"] == ["Removed, because other settings had made it: mesh.txt, picture.txt."]
    assert json.loads((tmp_path / "report.json").read_text()) == run.report
    assert not run.report["not_reached"]


def test_what_a_narrower_run_does_not_reach_but_still_fits_stays(tmp_path: Path) -> None:
    chain(tmp_path, "red")
    run = chain(tmp_path, "red", until=1)
    assert names(tmp_path) == ALL
    assert list(run.report["not_reached"]) == ["mesh", "picture"] and not run.report["warnings"]
    assert all(record["reused"] for record in chain(tmp_path, "red").report["stages"].values())


def test_a_run_that_fails_removes_nothing_of_what_it_did_not_reach(tmp_path: Path) -> None:
    chain(tmp_path, "red")
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path, Options()) as run:
        write(run, "views", {"views/0.txt": "blue"})
        raise ZeroDivisionError
    assert {"mesh.txt", "picture.txt"} <= set(names(tmp_path))
    chain(tmp_path, "blue", until=1)
    assert names(tmp_path) == [".lock", "report.json", "views/0.txt", "views/1.txt"]


def test_files_that_users_changed_are_never_removed(tmp_path: Path) -> None:
    chain(tmp_path, "red")
    (tmp_path / "mesh.txt").write_text("sculpted for a week")
    run = chain(tmp_path, "blue", until=1)
    assert (tmp_path / "mesh.txt").read_text() == "sculpted for a week"
    assert run.report["warnings"] == ["Removed, because other settings had made it: picture.txt."]


def test_files_that_a_stage_no_longer_makes_go(tmp_path: Path) -> None:
    with RunFolder(tmp_path, Options()) as run:
        write(run, "photo", {"photo.txt": "front", "photo_90.txt": "left"})
    with RunFolder(tmp_path, Options()) as run:
        write(run, "photo", {"photo.txt": "front"})
    assert names(tmp_path) == [".lock", "photo.txt", "report.json"]


def test_a_stage_that_is_dropped_takes_its_own_files_along(tmp_path: Path) -> None:
    """Those it named, of an earlier setting too; nothing of others or outside, whatever a report says."""
    (tmp_path / "outside.txt").write_text("not of the run")

    def stage(files: list[str]) -> None:
        def save(_: None) -> None:
            for file in files:
                (run / file).parent.mkdir(exist_ok=True)
                (run / file).write_text("made")

        with RunFolder(tmp_path / "run", Options()) as run:
            run.stage(
                "many",
                version=1,
                inputs=files,
                files=files,
                compute=lambda _: None,
                save=save,
                load=lambda: None,
            )

    def found() -> list[str]:
        return sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.txt"))

    stage(["a.txt", "in/b.txt", "in/c.txt"])
    (tmp_path / "run/in/mine.txt").write_text("the user's")
    stage(["a.txt", "in/c.txt"])
    assert found() == ["outside.txt", "run/a.txt", "run/in/c.txt", "run/in/mine.txt"]
    report = tmp_path / "run/report.json"
    true = report.read_text()
    changed = json.loads(true)
    changed["stages"]["many"]["digests"]["../outside.txt"] = file_digest(tmp_path / "outside.txt")
    report.write_text(json.dumps(changed))
    with RunFolder(tmp_path / "run", Options()) as again:
        again.drop("many")  # a record that somebody changed is not believed
    assert found() == ["outside.txt", "run/a.txt", "run/in/c.txt", "run/in/mine.txt"]
    report.write_text(true)
    with RunFolder(tmp_path / "run", Options()) as again:
        again.drop("many")
    assert found() == ["outside.txt", "run/in/mine.txt"]
    assert again.report["not_reached"] == {} and again.report["stages"] == {}


def test_a_changed_byte_is_noticed_and_the_file_made_anew(tmp_path: Path) -> None:
    chain(tmp_path, "red")
    (tmp_path / "mesh.txt").write_text("mesh of rad")
    run = chain(tmp_path, "red")
    assert (tmp_path / "mesh.txt").read_text() == "mesh of red"
    assert [record["reused"] for record in run.report["stages"].values()] == [True, False, True]
    assert run.report["warnings"] == ["mesh.txt has changed since the last run; made anew."]
    assert not chain(tmp_path, "red").report["warnings"]


def test_edited_views_are_taken_as_they_are(tmp_path: Path) -> None:
    chain(tmp_path, "red")
    (tmp_path / "views/1.txt").write_text("painted")
    for _ in range(2):  # the edit is no less one the second time
        with RunFolder(tmp_path, Options()) as run:
            kept, _ = write(run, "views", {"views/0.txt": "red", "views/1.txt": "red"}, editable=["views"])
        assert kept == {"views/0.txt": "red", "views/1.txt": "painted"}
        assert run.report["stages"]["views"]["edited"] == ["views/1.txt"]
    (tmp_path / "views/1.txt").write_text("red")
    assert "edited" not in chain(tmp_path, "red").report["stages"]["views"]


def test_beside_what_may_be_edited_changes_are_damage(tmp_path: Path) -> None:
    def once() -> dict[str, object]:
        with RunFolder(tmp_path, Options()) as run:
            write(run, "views", {"views/0.txt": "red", "cameras.txt": "here"}, editable=["views"])
        return run.report["stages"]["views"]

    once()
    (tmp_path / "cameras.txt").write_text("there")
    assert not once()["reused"] and (tmp_path / "cameras.txt").read_text() == "here"


@pytest.mark.parametrize("field, value", [("seconds", "long"), ("warnings", 3), ("needs", []), ("color", 1)])
def test_a_record_that_somebody_changed_is_not_believed(tmp_path: Path, field: str, value: object) -> None:
    chain(tmp_path, "red")
    report = json.loads((tmp_path / "report.json").read_text())
    report["stages"]["mesh"][field] = value
    (tmp_path / "report.json").write_text(json.dumps(report))
    run = chain(tmp_path, "red")
    assert [record["reused"] for record in run.report["stages"].values()] == [True, False, True]


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path) -> None:
    chain(tmp_path, "red")
    with atomic(tmp_path / "views/2.txt") as temporary:
        left = [temporary, temporary.with_name(temporary.name + "2")]
        left[1].touch()
    left[0].touch()
    assert chain(tmp_path, "red").path == tmp_path
    assert names(tmp_path) == [*ALL, "views/2.txt"]


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path, Options()),
        pytest.raises(V3DError, match=r"Another run works in .*choose another"),
    ):
        chain(tmp_path, "red")
    chain(tmp_path, "red")
    assert names(tmp_path) == ALL


def _slow_run(folder: str, views: str, delay: float) -> None:
    time.sleep(delay)
    try:
        with RunFolder(folder, Options()) as run:
            pause = lambda stage: time.sleep(0.03)  # noqa: E731

            def stage(name: str, text: str, key: str) -> str:
                def save(_: None) -> None:
                    with atomic(run / name) as temporary:
                        temporary.write_text(text)

                return run.stage(
                    name,
                    version=1,
                    inputs=[text, key],
                    files=[name],
                    compute=pause,
                    save=save,
                    load=lambda: (run / name).read_text(),
                )[1]

            key = stage("views", views, "")
            stage("mesh", f"mesh of {views}", key)
    except V3DError:
        raise SystemExit(2) from None


def test_two_processes_with_other_settings_never_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    for i, delay in enumerate((0.0, 0.02, 0.05)):
        folder = tmp_path / str(i)
        runs = [
            context.Process(target=_slow_run, args=(str(folder), views, wait))
            for views, wait in (("red", 0.0), ("blue", delay))
        ]
        for run in runs:
            run.start()
        for run in runs:
            run.join()
        assert sorted(run.exitcode or 0 for run in runs) in ([0, 0], [0, 2])
        views = (folder / "views").read_text()
        assert (folder / "mesh").read_text() == f"mesh of {views}"
        _slow_run(str(folder), views, 0)  # nothing that the other left is taken for this run's
        assert (folder / "mesh").read_text() == f"mesh of {views}"
        report = json.loads((folder / "report.json").read_text())
        assert all(record["reused"] for record in report["stages"].values())


def test_a_run_that_made_nothing_leaves_nothing(tmp_path: Path) -> None:
    def fail(stage: Stage) -> None:
        raise V3DError("The photo shows nothing.")

    def run(folder: Path) -> None:
        with pytest.raises(V3DError, match="shows nothing"), RunFolder(folder, Options()) as open_run:
            open_run.stage(
                "photo",
                version=1,
                inputs=0,
                files=["a"],
                compute=fail,
                save=lambda _: None,
                load=lambda: None,
            )

    run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    run(tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "mine"
