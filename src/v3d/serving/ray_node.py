"""What runs on the machines of a Ray cluster. Imports nothing heavy before there is a task."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from v3d.distribution import own_version

if TYPE_CHECKING:
    from v3d.serving.worker import Event, Task


class Actor:
    """The process. Weights stay loaded between its tasks (`v3d.diffusion.generator.load_generator`)."""

    def __init__(self, cores: int, folder: str) -> None:
        """`cores`: of its arithmetic. `folder`: in which relative paths begin, if it is there."""
        self._cores = cores
        with contextlib.suppress(OSError):
            os.chdir(folder)

    def ready(self) -> None:
        """Answers once the process is there."""

    def carry_out(self, task: Task) -> Iterator[Event]:
        """The events of a task, as they come."""
        import torch

        from v3d.serving.worker import Progress, carry_out

        events: queue.SimpleQueue[Event] = queue.SimpleQueue()

        def work() -> None:
            torch.set_num_threads(self._cores)  # of this thread's arithmetic
            events.put(carry_out(task, events.put))

        threading.Thread(target=work, daemon=True).start()
        event: Event = Progress("", 0, 1)
        while isinstance(event, Progress):
            event = events.get()
            yield event


def look(probe: str) -> tuple[str | None, bool]:
    """(version of V3D, whether there is a file `probe`) of this machine."""
    deadline = time.monotonic() + 10  # network file systems take a while to show a new folder
    while not (there := Path(probe).exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return own_version(), there
