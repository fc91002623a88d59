"""Kill `v3d batch` at random moments, until it has survived: nothing may be lost, left over or changed.

    python scripts/kill_batch.py                    # 20 kills of a batch of three drafts
    python scripts/kill_batch.py --kills 100 --seed 7

A batch runs undisturbed first. Then, in another folder, its process or one of its workers is killed (SIGKILL)
at a random moment, and the same command is run again, until all is made; then again in a fresh folder, until
there were enough kills. Afterwards every file but the reports (which have times) must have the bytes of the
undisturbed run, no temporary file and no process may be there, and no item may have been finished twice.
Needs Linux.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from v3d.digests import file_digest

_TIMED = ("report.json", "summary.csv", "gallery.html")
_FINISHED = re.compile(r"^\d+/\d+ (\S+): [\d.]+ s\b", re.MULTILINE)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 if the batch survived, 1 if not; what was wrong is on stdout."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--items", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--until", default="mesh")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_photos(root / "photos", options.items, chance)
        settings = [
            "--quality",
            "draft",
            "--faces",
            "1000",
            "--texture-size",
            "128",
            "--until",
            options.until,
        ]
        command = [sys.executable, "-m", "v3d", "batch", str(root / "photos"), *settings]
        command += ["--workers", str(options.workers), "-o"]
        start = time.monotonic()
        subprocess.run([*command, str(root / "whole")], check=True, stderr=subprocess.DEVNULL)
        seconds = time.monotonic() - start
        print(f"undisturbed: {options.items} items in {seconds:.0f} s", flush=True)
        faults: list[str] = []
        kills = rounds = 0
        while kills < options.kills:
            rounds += 1
            kills += _survive(command, root / "killed", seconds, options.kills - kills, chance)
            faults += _differences(root / "whole", root / "killed")
            print(f"batch {rounds} is complete: {len(faults)} faults so far", flush=True)
            shutil.rmtree(root / "killed")
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"{kills} kills in {rounds} batches: {len(faults)} faults", flush=True)
    return 1 if faults else 0


def draw_photos(folder: Path, count: int, chance: random.Random) -> None:
    """Photos [90, 120] of ellipses in one colour, on nothing."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:90, :120] + 0.5
    for number in range(count):
        rgba = np.zeros((90, 120, 4), np.uint8)
        inside = np.hypot((x - 60) / chance.uniform(15, 45), (y - 45) / chance.uniform(15, 40)) < 1
        rgba[inside] = (*(chance.randrange(40, 220) for _ in range(3)), 255)
        Image.fromarray(rgba).save(folder / f"{number:04}.png")


def _survive(command: list[str], out: Path, seconds: float, most: int, chance: random.Random) -> int:
    """Run the batch to its end, with at most so many kills on the way; how many there were.

    Raises:
        AssertionError: it ended otherwise than by a kill, or finished an item twice.
    """
    kills, finished = 0, Counter[str]()
    while True:
        log = out.with_suffix(".log")
        with log.open("w") as file:
            batch = subprocess.Popen([*command, str(out)], stderr=file)
            moment = time.monotonic() + chance.uniform(0, seconds / 2)
            while kills < most and batch.poll() is None:
                if time.monotonic() > moment and (
                    victim := chance.choice([batch.pid, *workers_of(batch.pid)])
                ):
                    workers = workers_of(batch.pid)
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
                    print(f"kill {kills}: {'the batch' if victim == batch.pid else 'a worker'}", flush=True)
                    if victim == batch.pid:
                        break
                    moment = time.monotonic() + chance.uniform(0, seconds / 2)
                time.sleep(0.01)
            code = batch.wait()
        finished.update(_FINISHED.findall(log.read_text()))
        assert not [item for item, times in finished.items() if times > 1], f"made twice: {finished}"
        if code == 0:
            return kills
        assert code in (-signal.SIGKILL, 1), f"exit code {code}: {log.read_text()}"
        if code == 1:  # an item met two kills in one run: it has failed, and --retry is what users do
            command = [*command[:-1], "--retry", command[-1]]
        elif chance.random() < 0.5:
            _wait_for_end(workers)  # in the other half, the new batch meets the old one's workers


def workers_of(batch: int) -> list[int]:
    """Processes that work for a batch."""
    try:
        children = Path(f"/proc/{batch}/task/{batch}/children").read_text().split()
        return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    except OSError:
        return []


def _wait_for_end(pids: list[int]) -> None:
    """Wait until the processes are gone.

    Raises:
        AssertionError: one is still there after ten seconds.
    """
    deadline = time.monotonic() + 10
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"the workers {left} outlive their batch"
        time.sleep(0.05)


def _differences(whole: Path, killed: Path) -> list[str]:
    """What is not as an undisturbed run leaves it."""
    want, have = _digests(whole), _digests(killed)
    return [
        f"{name} differs" for name in sorted(want.keys() | have.keys()) if want.get(name) != have.get(name)
    ]


def _digests(out: Path) -> dict[str, str]:
    """Path in the folder -> digest of its bytes; "" for files that have times in them."""
    files = (path for path in out.rglob("*") if path.is_file() and path.suffix not in (".lock", ".work"))
    digests = {}
    for path in files:
        timed = path.name in _TIMED or path.parent.name == ".batch"
        digests[str(path.relative_to(out))] = "" if timed else file_digest(path)
    return digests


if __name__ == "__main__":
    sys.exit(main())
