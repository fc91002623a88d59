"""Workers that are actors of a Ray cluster, for batches and for the server.

Ray places the actors, starts them again elsewhere and carries messages. What is to be done, and what has been
done, stays where it is without Ray: in the records of a batch, in the queue of the server.
`v3d.serving.ray_node` is the other end.
"""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from v3d.distribution import own_version
from v3d.errors import V3DError
from v3d.files import clear_errors
from v3d.serving.batch import Pool
from v3d.serving.ray_node import Actor, look
from v3d.serving.resources import GIGABYTES
from v3d.serving.worker import KILLED, Event, Failed, Progress, Task

_ACTOR = ray.remote(Actor)
_TRIES = 4  # nodes of a cluster may be taken away
_ANSWER = 300.0  # seconds that a node has for its first answer; a busy one starts a process slowly


class RayWorker:
    """Carries out tasks in an actor, as `v3d.serving.worker.Worker` does in a process.

    It counts as busy until the cluster has a place for its actor, so that no task waits for that.
    """

    def __init__(self, *, cores: int = 1, gpus: int = 0) -> None:
        """Ask the cluster for an actor with so many cores and GPUs, and with memory for a task."""
        self._options = {"num_cpus": cores, "num_gpus": gpus, "memory": int(GIGABYTES * 2**30)}
        self._asked = 0  # times, since an actor was there
        self._actor: Any = None
        self._ready: Any = None  # reference that is there once the actor has its place
        self._stream: Any = None  # of the events of the task
        self._ask()

    @property
    def busy(self) -> bool:
        """Whether it has a task, or no place in the cluster yet.

        V3DError where actors die as they begin.
        """
        if self._ready is not None and ray.wait([self._ready], timeout=0)[0]:
            try:
                ray.get(self._ready)
                self._ready, self._asked = None, 0
            except RayError as error:
                if self._asked >= _TRIES:
                    raise V3DError(f"The cluster cannot run V3D ({_sentence(error)}).") from error
                self._ask()  # its node was taken away
        return self._stream is not None or self._ready is not None

    def start(self, task: Task) -> None:
        """Begin a task.

        Raises:
            RuntimeError: the worker is busy.
        """
        if self._actor is None:
            self._ask()
        elif self.busy:
            raise RuntimeError("The worker is busy.")
        self._stream = self._actor.carry_out.options(num_returns="streaming").remote(task)

    def events(self) -> list[Event]:
        """What has happened since the last call; never waits. After `Made` or `Failed` the task is over."""
        events: list[Event] = []
        while self._stream is not None and ray.wait([self._stream], timeout=0)[0]:
            try:
                event: Event = ray.get(next(self._stream))
            except (RayError, StopIteration) as error:
                event = Failed(KILLED, f"Its process in the cluster ended ({_sentence(error)}).")
                self.stop()
                self._ask()
            events.append(event)
            if not isinstance(event, Progress):
                self._stream = None
        return events

    def stop(self) -> None:
        """End the actor at once, whatever it does."""
        if self._actor is not None and ray.is_initialized():
            ray.kill(self._actor)
        self._actor = self._ready = self._stream = None

    def _ask(self) -> None:
        self._asked += 1
        self._actor = _ACTOR.options(**self._options).remote(self._options["num_cpus"], os.getcwd())
        self._ready = self._actor.ready.remote()

    @staticmethod
    def wait_for_any(workers: Sequence[RayWorker], timeout: float) -> None:
        """Return when a worker has something to tell or got its place, or after `timeout` seconds."""
        awaited = [ref for worker in workers for ref in (worker._stream or worker._ready,) if ref is not None]
        if awaited:
            ray.wait(awaited, timeout=timeout)
        else:
            time.sleep(timeout)


def _sentence(error: Exception) -> str:
    """What an error says, without the trace that Ray puts before it."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[-1 if isinstance(error, RayTaskError) else 0].rstrip(".")


@dataclass(frozen=True)
class Cluster:
    """What a cluster has: cores, GPUs and GiB of memory of every node."""

    nodes: tuple[tuple[int, int, float], ...]

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return sum(gpus for _, gpus, _ in self.nodes)

    def pools(self, workers: int | None, *, items: int) -> list[Pool]:
        """Those of a batch: an actor a GPU draws views and others do the rest; without GPUs, do all.

        Args:
            workers: actors without a GPU; by default as many as cores and memory allow.
            items: of the batch; more actors are of no use.
        """
        fit = sum(min(cores, int(memory / GIGABYTES)) for cores, _, memory in self.nodes) - self.gpus
        count = max(1, min(workers or fit, items))
        pools = [Pool([RayWorker() for _ in range(count)], tries=_TRIES)]
        if self.gpus:
            drawing = [RayWorker(gpus=1) for _ in range(min(self.gpus, items))]
            pools.insert(0, Pool(drawing, until="views", tries=_TRIES))
        return pools

    def workers(self, count: int | None) -> list[RayWorker]:
        """Those of a server, which share the cores: `count`, or one a GPU, or one a node without GPUs."""
        nodes = [node for node in self.nodes if node[1] or not self.gpus]
        count = count or self.gpus or len(nodes)
        share = sum(cores for cores, _, _ in nodes) // count
        cores = max(1, min(share, *(cores // max(1, gpus) for cores, gpus, _ in nodes)))
        return [RayWorker(cores=cores, gpus=min(1, self.gpus)) for _ in range(count)]


def connect(address: str, folder: Path) -> Cluster:
    """Join a running cluster, and see that its nodes can do the work.

    Args:
        address: `auto`, or HOST:PORT of the head node; `local` starts a cluster of this machine alone.
        folder: of the results; every node must see it under the same path.

    Raises:
        V3DError: there is no cluster, a node has no V3D or another version, or does not see the folder.
    """
    if address.startswith("ray://"):
        raise V3DError(f"{address} cannot be used: run this on a machine of the cluster, with --ray auto.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address not in ("auto", "local"):
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), 10).close()  # Ray itself would try for minutes
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, OverflowError, RuntimeError) as error:
        raise V3DError(
            f"There is no Ray cluster at {address}: give auto on a machine of the cluster, or HOST:PORT of "
            "its head node; `ray start --head` starts one."
        ) from error
    nodes: list[dict[str, Any]] = ray.nodes()
    nodes = [node for node in nodes if node["Alive"]]
    _check_nodes(nodes, folder)
    sizes = [node["Resources"] for node in nodes]
    able = [(int(s.get("CPU", 0)), int(s.get("GPU", 0)), s.get("memory", 0) / 2**30) for s in sizes]
    able = [size for size in able if size[0] > 0]
    if not able:
        raise V3DError(f"The Ray cluster at {address} has no cores.")
    return Cluster(tuple(able))


def _check_nodes(nodes: Sequence[dict[str, Any]], folder: Path) -> None:
    """See that every node has this V3D and sees the folder.

    Raises:
        V3DError: one does not.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    with clear_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
    try:
        answers = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            remote = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(look)
            answers.append((node["NodeManagerAddress"], remote.remote(str(probe))))
        for name, answer in answers:
            try:
                version, sees = ray.get(answer, timeout=_ANSWER)
            except RayError as error:
                raise V3DError(
                    f"The node {name} of the cluster cannot run V3D; install it there as here."
                ) from error
            if version != own_version():
                raise V3DError(f"The node {name} has V3D {version}, and this machine {own_version()}.")
            if not sees:
                raise V3DError(f"The node {name} does not see {folder}; give a folder that all nodes share.")
    finally:
        probe.unlink(missing_ok=True)
