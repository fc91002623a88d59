"""What a batch costs beyond its items: its time against that of single runs, divided by the workers.

    python benchmarks/batch.py                                  # 200 photos in 4 batches, up to their views
    python benchmarks/batch.py --items 20 --batches 2 --until mesh

The photos are ellipses that it draws. Single runs, one after the other in one warm process, stand before,
between and after the batches, so that whatever else the machine does meets both. A batch's time is all of it:
starting its processes, keys, locks, records, the table and the gallery. Memory is that of every quarter of a
batch's time: does it grow? Prints JSON. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from kill_batch import draw_photos, workers_of
from v3d.provenance import machine
from v3d.serving.resources import cores
from v3d.serving.tasks import GenerateTask, Made
from v3d.serving.worker import Progress, Worker
from v3d.settings import GenerateSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--singles", type=int, default=10, help="before, between and after the batches")
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--until", default="views")
    options = parser.parse_args()
    settings = GenerateSettings(quality="draft", until=options.until)
    single, whole, memory = [], [], []
    worker = Worker(max(1, cores() // options.workers))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_photos(root / "single", options.singles * (options.batches + 1) + 1, random.Random(1))
        photos = sorted((root / "single").iterdir())
        run(worker, photos.pop(), root / "out", settings)  # weights and compiled code are there afterwards
        for number in range(options.batches + 1):
            single += [run(worker, photos.pop(), root / "out", settings) for _ in range(options.singles)]
            if number == options.batches:
                break
            draw_photos(root / f"batch{number}", options.items // options.batches, random.Random(number + 2))
            command = ["batch", str(root / f"batch{number}"), "-o", str(root / f"out{number}")]
            command += ["--quality", "draft", "--until", options.until, "--workers", str(options.workers)]
            start = time.perf_counter()
            batch = subprocess.Popen([sys.executable, "-m", "v3d", *command], stderr=subprocess.DEVNULL)
            memory.append(watch(batch))
            whole.append(time.perf_counter() - start)
            print(f"batch {number + 1}: {whole[-1]:.0f} s", file=sys.stderr, flush=True)
    worker.stop()
    ideal = sum(single) / len(single) * options.items / options.workers
    result = {
        "items": options.items,
        "workers": options.workers,
        "seconds_of_a_single_run": round(sum(single) / len(single), 2),
        "seconds_of_the_batches": [round(seconds, 1) for seconds in whole],
        "time_against_singles_by_workers": round(sum(whole) / ideal, 3),
        "resident_megabytes": memory,
        "machine": machine(),
    }
    print(json.dumps(result, indent=2))


def run(worker: Worker, photo: Path, out: Path, settings: GenerateSettings) -> float:
    """Seconds of one run in a warm process."""
    start = time.perf_counter()
    worker.start(GenerateTask({0.0: photo}, out, settings))
    events: list[object] = []
    while worker.busy:
        worker.wait_for_any([worker], 1.0)
        events += [event for event in worker.events() if not isinstance(event, Progress)]
    assert isinstance(events[0], Made), events
    return time.perf_counter() - start


def watch(batch: subprocess.Popen[bytes]) -> dict[str, list[int]]:
    """Resident MB of a batch's process and of its largest worker: the most in each quarter of its time."""
    own, worker = [], []
    while batch.poll() is None:
        pids = [batch.pid, *workers_of(batch.pid)]
        sizes = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 // 10**6 for pid in pids]
        own.append(sizes[0])
        worker.append(max(sizes[1:], default=0))
        time.sleep(0.5)
    assert batch.returncode == 0
    quarters = [(len(own) * i // 4, len(own) * (i + 1) // 4) for i in range(4)]
    return {
        "batch": [max(own[a:b], default=0) for a, b in quarters],
        "worker": [max(worker[a:b], default=0) for a, b in quarters],
    }


if __name__ == "__main__":
    main()
