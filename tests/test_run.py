from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from v3d.digests import digest, file_digest
from v3d.errors import V3DError
from v3d.files import atomic
from v3d.run import RunFolder, Stage, save_tensors


@dataclass(frozen=True)
class Options:
    number: int = 1


@dataclass
class Chain:
    """Two stages, the second on the first; counts what is computed."""

    folder: Path
    computed: list[str] = field(default_factory=list)
    seen: list[tuple[str, int, int]] = field(default_factory=list)

    def run(
        self,
        a: int = 1,
        b: int = 1,
        *,
        version: int = 1,
        force: bool = False,
        fail: BaseException | None = None,
    ) -> str:
        with RunFolder(
            self.folder, Options(a), force=force, on_progress=lambda *event: self.seen.append(event)
        ) as run:
            first, key = self._stage(run, "first", [a], "first.txt", f"first {a}")
            text = f"{first}, second {b}"
            second, _ = self._stage(run, "second", [key, b], "second.txt", text, fail, version)
        return second

    def _stage(
        self,
        run: RunFolder,
        name: str,
        inputs: list[object],
        file: str,
        text: str,
        fail: BaseException | None = None,
        version: int = 1,
    ) -> tuple[str, str]:
        def compute(stage: Stage) -> str:
            self.computed.append(name)
            stage.step(1, 2)
            stage.warn(f"warning of {name}")
            if fail is not None:
                raise fail
            return text

        def save(value: str) -> None:
            with atomic(run / file) as temporary:
                temporary.write_text(value)

        return run.stage(
            name,
            version=version,
            inputs=inputs,
            files=[file],
            compute=compute,
            save=save,
            load=lambda: (run / file).read_text(),
        )

    @property
    def report(self) -> dict[str, object]:
        return json.loads((self.folder / "report.json").read_text())


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "run")


def test_finished_stages_are_reused(chain: Chain) -> None:
    assert chain.run() == chain.run() == "first 1, second 1"
    assert chain.computed == ["first", "second"]
    assert [record["reused"] for record in chain.report["stages"].values()] == [True, True]
    assert chain.report["warnings"] == ["warning of first", "warning of second"]


def test_a_changed_setting_costs_what_depends_on_it(chain: Chain) -> None:
    chain.run()
    assert chain.run(b=2) == "first 1, second 2"
    assert chain.computed == ["first", "second", "second"]
    assert chain.run(a=2, b=2) == "first 2, second 2"
    assert chain.computed == ["first", "second", "second", "first", "second"]


def test_a_new_version_of_a_stage_computes_again_what_an_older_one_left(chain: Chain) -> None:
    chain.run()
    chain.run(version=2)
    assert chain.computed == ["first", "second", "second"]
    chain.run(version=2)
    assert chain.computed == ["first", "second", "second"]


def test_force(chain: Chain) -> None:
    chain.run()
    chain.run(force=True)
    assert chain.computed == ["first", "second"] * 2


def test_a_missing_file_is_made_again(chain: Chain) -> None:
    chain.run()
    (chain.folder / "second.txt").unlink()
    chain.run()
    assert chain.computed == ["first", "second", "second"]


def test_a_damaged_file_of_tensors_is_made_again(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"

    def once() -> bool:
        with RunFolder(tmp_path, Options()) as run:
            value, _ = run.stage(
                "a",
                version=1,
                inputs=[],
                files=[file.name],
                compute=lambda stage: torch.arange(100.0),
                save=lambda tensor: save_tensors(file, {"a": tensor}),
                load=lambda: load_file(file)["a"],
            )
        assert torch.equal(value, torch.arange(100.0))
        return run.report["stages"]["a"]["reused"]

    assert not once() and once()
    file.write_bytes(file.read_bytes()[:50])
    assert not once() and once()


def test_warnings_of_the_run_are_those_of_this_run(tmp_path: Path) -> None:
    for warnings in (("two photos are missing",), (), ("one photo is missing",)):
        with RunFolder(tmp_path, Options(), warnings=warnings) as run:
            run.stage(
                "a",
                version=1,
                inputs=[],
                files=[],
                compute=lambda stage: stage.warn("warning of the stage"),
                save=lambda value: None,
                load=lambda: None,
            )
        assert run.report["warnings"] == [*warnings, "warning of the stage"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"stages": {"first": 3}, "not_reached": {}}'])
def test_a_broken_report_is_no_obstacle(chain: Chain, text: str) -> None:
    chain.run()
    (chain.folder / "report.json").write_text(text)
    assert chain.run() == "first 1, second 1"
    assert chain.computed == ["first", "second"] * 2


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), V3DError("no"), ZeroDivisionError()])
def test_a_stopped_run_goes_on_where_it_was(chain: Chain, stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        chain.run(fail=stop)
    assert sorted(p.name for p in chain.folder.iterdir()) == [".lock", "first.txt", "report.json"]
    assert list(chain.report["stages"]) == ["first"]
    chain.run()
    assert chain.computed == ["first", "second", "second"]


def test_a_run_stopped_after_a_change_does_not_count_old_files(chain: Chain) -> None:
    chain.run()
    with pytest.raises(KeyboardInterrupt):
        chain.run(b=2, fail=KeyboardInterrupt())
    assert "second" not in chain.report["stages"]
    assert chain.run() == "first 1, second 1"
    assert chain.computed == ["first", "second", "second", "second"]


def test_progress(chain: Chain) -> None:
    chain.run()
    assert chain.seen == [(n, *steps) for n in ("first", "second") for steps in ((0, 1), (1, 2), (1, 1))]
    chain.seen.clear()
    chain.run()
    assert chain.seen == [("first", 1, 1), ("second", 1, 1)]


def test_report(chain: Chain) -> None:
    chain.run(a=3)
    report = chain.report
    assert report["settings"] == {"number": 3}
    assert "torch" in report["versions"]
    record = report["stages"]["second"]
    assert record["seconds"] >= 0
    assert record["peak_memory_mb"] > 50
    assert record["files"] == ["second.txt"]


def test_peak_memory_is_of_the_stage(tmp_path: Path) -> None:
    """In a process of its own: what earlier tests left in the heap would hide the allocation."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux can reset the high-water mark")
    code = textwrap.dedent("""
        import sys, torch
        from pathlib import Path
        from v3d.run import RunFolder
        from v3d.settings import ReconstructSettings

        run = RunFolder(Path(sys.argv[1]), ReconstructSettings()).__enter__()

        def stage(name, megabytes):
            run.stage(name, version=1, inputs=[], files=[], save=lambda value: None, load=lambda: None,
                      compute=lambda stage: int(torch.ones(megabytes << 18).sum()))
            return run.report["stages"][name]["peak_memory_mb"]

        print(stage("small", 1), stage("large", 300), stage("after", 1))
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    small, large, after = map(float, done.stdout.split())
    assert large > small + 250
    assert after < large - 250


def test_digest_tells_values_apart() -> None:
    tensor = torch.arange(6.0)
    values = [
        1,
        1.5,
        "1",
        None,
        [1],
        Options(1),
        Options(2),
        tensor,
        tensor.view(2, 3),
        tensor.double(),
        tensor + 1,
    ]
    assert len({digest(value) for value in values}) == len(values)
    assert digest(tensor) == digest(torch.arange(6.0))
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    with pytest.raises(TypeError):
        digest(object())


# Folders that cannot be written


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(V3DError, match=r"Cannot write .*file"):
        RunFolder(tmp_path / "file", Options()).__enter__()
    with pytest.raises(V3DError, match="a part of the path is a file"):
        RunFolder(tmp_path / "file/run", Options()).__enter__()


def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this user may write everywhere")
        with pytest.raises(V3DError, match="permission denied"):
            RunFolder(tmp_path / "run", Options()).__enter__()
    finally:
        tmp_path.chmod(0o700)


def test_atomic_keeps_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic(path) as temporary:
        temporary.write_text("new but incompl")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


FULL_DISK = """
    import resource, signal, sys
    import torch
    from v3d.cameras import orbit
    from v3d.errors import V3DError
    from v3d.views import Views, save_views

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # the disk takes no more than this a file
    noise = torch.rand(3, 128, 128, 3)
    noise[0] = 1.0
    try:
        save_views(Views(noise, torch.ones(3, 128, 128), orbit(3, size=128)), sys.argv[1])
    except V3DError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_no_half_written_file_when_the_disk_refuses(tmp_path: Path) -> None:
    script = textwrap.dedent(FULL_DISK)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Cannot write ")
    assert done.stdout.count("\n") == 1
    # The first image is plain and small; the second does not fit.
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["000.png"]


def test_disk_full_half_way(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """On a real file system of one megabyte, where one can be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    request.addfinalizer(lambda: subprocess.run(["umount", str(disk)], check=True))
    run = RunFolder(disk / "run", Options()).__enter__()
    request.addfinalizer(lambda: run.__exit__(None))

    def save(size: int) -> None:
        with atomic(run / "large.bin") as temporary:
            temporary.write_bytes(b"x" * size)

    def stage(size: int) -> None:
        run.stage(
            "large",
            version=1,
            inputs=size,
            files=["large.bin"],
            compute=lambda s: size,
            save=save,
            load=lambda: None,
        )

    stage(500_000)
    with pytest.raises(V3DError, match="the disk is full"):
        stage(2_000_000)
    assert (run / "large.bin").stat().st_size == 500_000  # the old file stands, whole
    assert sorted(p.name for p in run.path.iterdir()) == [".lock", "large.bin", "report.json"]
    assert "large" not in json.loads((run / "report.json").read_text())["stages"]


def test_file_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").write_bytes(b"abd")
    assert file_digest(tmp_path / "a") == "ba7816bf8f01cfea"
    assert file_digest(tmp_path / "a") != file_digest(tmp_path / "b")
    with pytest.raises(V3DError, match="cannot be read"):
        file_digest(tmp_path / "c")
