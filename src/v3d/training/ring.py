"""Fresh orbits on the training device: as many as fit, the newest in the place of the oldest.

How many there are at a step is a function of the recipe and the step, and each orbit is one of its number, so
what a step can draw does not depend on how fast rendering was. A resumed run renders anew what its ring held.
"""

from __future__ import annotations

import torch

from v3d.data.fresh_orbits import OrbitJob, PackedOrbits
from v3d.data.orbit_workers import OrbitWorkers
from v3d.data.settings import FreshOrbits
from v3d.data.sources import find_sources
from v3d.errors import V3DError
from v3d.training.processes import Processes

_ENDLESS = 1 << 62


def make_job(fresh: FreshOrbits, size: int, kept: int, around: int, seed: int) -> OrbitJob:
    """The orbits that a recipe asks for.

    Args:
        fresh: of which objects, and how many.
        size: pixels of a view's side.
        kept: views of an orbit's 18.
        around: views from random directions.
        seed: of every random choice.

    Raises:
        V3DError: no meshes are there, or a number makes no sense.
    """
    if fresh.first_orbits < 1 or fresh.orbits_per_step < 0 or size % 2:
        raise V3DError(
            "--first-orbits is 1 or more, --orbits-per-step 0 or more, and --size an even number of pixels."
        )
    sources = find_sources(fresh.meshes, index=fresh.index, split=fresh.split)
    return OrbitJob(tuple(sources), fresh, size, kept, around, seed)


class OrbitRing:
    """The newest orbits of a job.

    Attributes:
        orbits: all rows, of which the first `len(self)` are filled.
        capacity: rows.
    """

    def __init__(self, job: OrbitJob, capacity: int, processes: Processes, workers: int) -> None:
        """Make room on the processes' device.

        Args:
            job: what the orbits are.
            capacity: orbits there is room for.
            processes: that train together; each renders its part of the orbits and sends it to the others.
            workers: processes that render for this one; 0 renders in it.

        Raises:
            V3DError: there is no room for the orbits of one step.
        """
        self._fresh, self._job, self.capacity = job.settings, job, capacity
        if capacity < max(1.0, job.settings.orbits_per_step + 1):
            raise V3DError("The orbits of a step do not fit in memory; give more --orbit-gigabytes.")
        self._rows = torch.empty(capacity, job.layout.nbytes, dtype=torch.uint8, device=processes.device)
        self.orbits: PackedOrbits = job.layout.unpack(self._rows)
        self._processes, self._count = processes, workers
        self._workers: OrbitWorkers | None = None
        self._written = 0

    def __len__(self) -> int:
        return min(self._written, self.capacity)

    @property
    def report(self) -> dict[str, float]:
        """How many orbits were rendered, and how many objects failed in this session."""
        failed = 0 if self._workers is None else self._workers.failures.total()
        return {"orbits": self._written, "failed objects": failed}

    def advance(self, step: int) -> range:
        """Take in the orbits that `step` waits for; returns their numbers, orbit n being row n % capacity.

        Raises:
            V3DError: a process that renders was killed, or no object can be rendered.
        """
        goal, rank, size = self._fresh.rendered_by(step), self._processes.rank, self._processes.size
        if self._workers is None:
            self._written = max(0, goal - self.capacity)
            first = self._written + (rank - self._written) % size
            self._workers = OrbitWorkers(self._job, range(first, _ENDLESS, size), self._count)
        new = range(self._written, goal)
        for number in new:
            row = self._rows[number % self.capacity]
            if number % size == rank:
                self._workers.take(row)
            self._processes.broadcast_(row, number % size)
            self._written = number + 1
        return new

    def close(self) -> None:
        """End the processes that render."""
        if self._workers is not None:
            self._workers.close()


def rows_in(gigabytes: float, nbytes: int) -> int:
    """Rows of `nbytes` bytes that fit in memory of so many gigabytes."""
    return int(gigabytes * 1e9) // nbytes
