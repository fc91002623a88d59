"""A server whose jobs take a moment: all of V3D's serving is real but what a job computes.

    python scripts/small_jobs.py JOBS PORT WAITING

For `benchmarks/serving_load.py`, `scripts/kill_server.py` and the tests.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from v3d.callbacks import OnProgress
from v3d.files import write_json
from v3d.serving.store import Job, JobStore
from v3d.serving.tasks import Made

STEPS = 4


@dataclass(frozen=True)
class Small:
    """Says what the photo's middle pixel is, in `middle.json`, after `STEPS` steps of `pause` seconds."""

    photo: Path
    out: Path
    pause: float = 0.05

    def __call__(self, on_progress: OnProgress) -> Made:
        """Carry the task out."""
        from PIL import Image

        for step in range(STEPS):
            on_progress("small", step, STEPS)
            time.sleep(self.pause)
        with Image.open(self.photo) as image:
            pixel = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
        write_json(self.out / "middle.json", {"middle": pixel, "padding": "." * 100_000})
        on_progress("small", STEPS, STEPS)
        return Made(self.out, (), ("middle.json",))


def small_task_of(job: Job, store: JobStore) -> Small:
    """What a job asks for here."""
    return Small(store.root / job.id / "input/front", store.root / job.id / "result")


def photo(colour: tuple[int, int, int], path: Path) -> Path:
    """A small photo of one colour."""
    from PIL import Image

    Image.new("RGB", (64, 48), colour).save(path, "PNG")
    return path


def middle(data: bytes) -> tuple[int, ...]:
    """What a result says."""
    return tuple(json.loads(data)["middle"])


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def command(jobs: Path, port: int, waiting: int = 32) -> list[str]:
    """What starts such a server."""
    return [sys.executable, __file__, str(jobs), str(port), str(waiting)]


def start(words: Sequence[str], port: int) -> subprocess.Popen[bytes]:
    """Start a server by its command and wait until it answers."""
    server = subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 240
    while True:
        try:
            urllib.request.urlopen(f"http://localhost:{port}/health", timeout=10).read()
            return server
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                server.kill()
                raise
            time.sleep(0.1)


def main() -> None:
    import uvicorn

    from v3d.serving import server
    from v3d.serving.runner import Limits

    jobs, port, waiting = sys.argv[1:]
    vars(server)["task_of"] = sys.modules["small_jobs"].small_task_of  # by this name workers find it
    app = server.make_server(Path(jobs), limits=Limits(waiting=int(waiting)))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="error")


if __name__ == "__main__":
    import small_jobs  # noqa: F401 (see main)

    main()
