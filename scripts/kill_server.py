"""Kills the server or its worker at random moments, and looks whether anything is lost or half-written.

    python scripts/kill_server.py --kills 50

Jobs are small (`scripts/small_jobs.py`). Exit code 1 where an accepted job is lost, has no whole result and
no reason, or where files are left over. Linux only: workers are found in /proc.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import small_jobs
from v3d.client import Client
from v3d.errors import V3DError


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(entry.parent.name))
    return found


def ask(url: str, photo: Path, accepted: list[str], stop: threading.Event) -> None:
    """Queue jobs until stopped; the ids that the server has named."""
    client = Client(url, patience=0)
    while not stop.is_set():
        try:
            accepted.append(client.generate(photo).id)
        except V3DError:
            time.sleep(0.2)  # full, or not there
        time.sleep(0.05)


def kill_often(kills: int, folder: Path, seed: int = 0) -> Counter[str]:
    """Kill, restart, wait until all is done; how many jobs ended how.

    Raises:
        AssertionError: something is lost, half-written or left over.
    """
    chance, port = random.Random(seed), small_jobs.free_port()
    colour = (200, 60, 30)
    photo = small_jobs.photo(colour, folder / "photo.png")
    words = small_jobs.command(folder / "jobs", port, 16)
    server = small_jobs.start(words, port)
    accepted: list[str] = []
    stop, url = threading.Event(), f"http://localhost:{port}"
    asking = threading.Thread(target=ask, args=(url, photo, accepted, stop))
    asking.start()
    try:
        for _ in range(kills):
            time.sleep(chance.uniform(0.0, 3.0))
            workers = children(server.pid)
            if workers and chance.random() < 0.5:
                os.kill(chance.choice(workers), signal.SIGKILL)
            else:
                server.kill()
                server.wait()
                server = small_jobs.start(words, port)
        stop.set()
        asking.join()
        client = Client(url)
        while any(not job.has_ended for job in client.jobs(500)):
            time.sleep(0.5)
    finally:
        stop.set()
        server.terminate()
        server.wait(60)
    return _check(folder / "jobs", accepted, colour)


def _check(jobs: Path, accepted: list[str], colour: tuple[int, int, int]) -> Counter[str]:
    """Compare what was accepted with what is there."""
    with sqlite3.connect(jobs / "jobs.sqlite") as database:
        rows = {row[0]: row[1:] for row in database.execute("SELECT id, state, reason FROM jobs")}
    lost = set(accepted) - set(rows)
    assert not lost, f"lost: {lost}"
    assert len(set(accepted)) == len(accepted), "an id was given twice"
    for id, (state, reason) in rows.items():
        assert state in ("done", "failed"), f"{id} is {state}"
        result = jobs / id / "result/middle.json"
        if state == "done":
            assert small_jobs.middle(result.read_bytes()) == colour, f"{id} has a wrong result"
        else:
            assert reason, f"{id} failed without a reason"
    folders = {path.name for path in jobs.iterdir() if path.is_dir()}
    assert folders == set(rows), f"left over: {folders ^ set(rows)}"
    return Counter(state for state, _ in rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="v3d-kill-") as folder:
        print(options.kills, "kills:", dict(kill_often(options.kills, Path(folder), options.seed)))


if __name__ == "__main__":
    main()
