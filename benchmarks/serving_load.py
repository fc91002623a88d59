"""Many clients at a server with a bounded queue: is a job lost, does memory grow, how long does a look take?

    python benchmarks/serving_load.py --clients 50 --minutes 5

Jobs are small (`scripts/small_jobs.py`); requests, queue, worker, files, answers are V3D's own. Linux only:
memory is read in /proc. Exit code 1 where something is lost, doubled or wrong.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import small_jobs
from v3d.client import Client
from v3d.errors import V3DError


@dataclass
class Seen:
    """What the clients saw together."""

    latencies: list[float] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


def one_client(number: int, url: str, folder: Path, until: float, seen: Seen) -> None:
    """Ask, look until it is done, fetch, compare; again and again."""
    client = Client(url, patience=0)
    colour = (number * 5 % 256, number * 7 % 256, number * 11 % 256)
    photo = small_jobs.photo(colour, folder / f"{number}.png")
    while time.monotonic() < until:
        try:
            job = client.generate(photo)
        except V3DError as error:
            if "try again later" not in str(error):
                seen.wrong.append(str(error))
            seen.refused += 1
            time.sleep(1)
            continue
        while not job.has_ended:
            time.sleep(0.5)
            began = time.perf_counter()
            job = client.job(job)
            seen.latencies.append(time.perf_counter() - began)
        (path,) = client.download(job, folder / job.id)
        if small_jobs.middle(path.read_bytes()) != colour:
            seen.wrong.append(f"{job.id} has another's result")
        seen.done.append(job.id)


def measure(clients: int, minutes: float, folder: Path) -> dict[str, float]:
    """Run the load; the figures.

    Raises:
        AssertionError: a job is lost, doubled or wrong.
    """
    port, seen, memory = small_jobs.free_port(), Seen(), []
    server = small_jobs.start(small_jobs.command(folder / "jobs", port, 32), port)
    until = time.monotonic() + 60 * minutes
    try:
        url = f"http://localhost:{port}"
        threads = [
            threading.Thread(target=one_client, args=(i, url, folder, until, seen)) for i in range(clients)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
            memory.append(pages * 4096 / 2**20)
            time.sleep(min(5.0, 6 * minutes))
    finally:
        server.terminate()
        server.wait(60)
    with sqlite3.connect(folder / "jobs/jobs.sqlite") as database:
        rows = database.execute("SELECT id, state, tries FROM jobs").fetchall()
    assert not seen.wrong, seen.wrong[:5]
    assert sorted(seen.done) == sorted(id for id, _, _ in rows), "lost or doubled"
    assert Counter(state for _, state, _ in rows) == {"done": len(rows)}
    assert all(tries == 1 for _, _, tries in rows), "run twice"
    return {
        "jobs": len(rows),
        "refused": seen.refused,
        "looks": len(seen.latencies),
        "median_ms": 1000 * median(seen.latencies),
        "p95_ms": 1000 * quantiles(seen.latencies, n=20)[-1],
        "mb_after_a_fifth": memory[len(memory) // 5],
        "mb_at_the_end": memory[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="v3d-load-") as folder:
        for name, value in measure(options.clients, options.minutes, Path(folder)).items():
            print(f"{name:18}{value:10.1f}")


if __name__ == "__main__":
    main()
