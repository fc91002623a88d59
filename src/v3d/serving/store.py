"""Jobs on disk: what was asked, how far it is, what came of it. A restart loses none.

A job has a row in `jobs.sqlite` and a folder of its name: `input/` has the uploads, `result/` what was made.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from v3d.errors import V3DError

State = Literal["queued", "running", "done", "failed", "cancelled"]
FINISHED = ("done", "failed", "cancelled")
"""States in which nothing happens to a job any more."""
_ID = re.compile(r"[0-9a-f]{16}")
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, request TEXT NOT NULL, state TEXT NOT NULL,
    created REAL NOT NULL, started REAL, ended REAL, tries INTEGER NOT NULL DEFAULT 0,
    stage TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 1,
    reason TEXT NOT NULL DEFAULT '', warnings TEXT NOT NULL DEFAULT '[]', files TEXT NOT NULL DEFAULT '[]'
);
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, created);
"""


@dataclass(frozen=True)
class Job:
    """One job as its row says.

    Attributes:
        id: sixteen hexadecimal digits; no other job has them.
        kind: what is made, for example generate.
        request: what was asked for, as plain values.
        state: where it is.
        created, started, ended: seconds since 1970; None for what has not happened.
        tries: how often it was begun.
        stage, done, total: how far it is: `done` of `total` steps of a stage.
        reason: why it failed, in one sentence.
        warnings: what the user should know, one sentence each.
        files: names of the results in `result/`.
    """

    id: str
    kind: str
    request: dict[str, Any]
    state: State
    created: float
    started: float | None
    ended: float | None
    tries: int
    stage: str
    done: int
    total: int
    reason: str
    warnings: tuple[str, ...]
    files: tuple[str, ...]


class JobStore:
    """The jobs of one folder. Threads and processes may share it."""

    def __init__(self, root: str | Path) -> None:
        """Open or make the folder.

        Raises:
            V3DError: the folder cannot be made or written, or its database is damaged.
        """
        self.root = Path(root)
        self._lock = threading.Lock()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.root / "jobs.sqlite", timeout=30, check_same_thread=False, isolation_level=None
            )
            self._database.row_factory = sqlite3.Row
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise V3DError(f"{self.root} cannot hold jobs ({error}).") from error

    def close(self) -> None:
        """Let go of the database."""
        with self._lock:
            self._database.close()

    def new_id(self) -> str:
        """An id for a job whose input is being written; its folder `input/` is there."""
        name = secrets.token_hex(8)
        (self.root / name / "input").mkdir(parents=True)
        return name

    def add(self, id: str, kind: str, request: dict[str, Any], *, most: int) -> Job:
        """Queue a job whose input is complete.

        Args:
            id: from `new_id`.
            kind: what is to be made.
            request: what is asked for; plain values.
            most: jobs that may wait.

        Raises:
            QueueFullError: so many wait already.
        """
        with self._transaction() as database:
            waiting = database.execute("SELECT COUNT(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
            if waiting >= most:
                raise QueueFullError(f"{waiting} jobs are waiting already; try again later.")
            database.execute(
                "INSERT INTO jobs (id, kind, request, state, created) VALUES (?, ?, ?, 'queued', ?)",
                (id, kind, json.dumps(request), time.time()),
            )
        return self.get(id)

    def __contains__(self, id: str) -> bool:
        with self._lock:
            return self._database.execute("SELECT 1 FROM jobs WHERE id = ?", (id,)).fetchone() is not None

    def get(self, id: str) -> Job:
        """The job of this id.

        Raises:
            KeyError: there is none.
        """
        with self._lock:
            row = self._database.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise KeyError(id)
        return _job(row)

    def jobs(self, *, limit: int = 100, before: float | None = None) -> list[Job]:
        """The newest jobs first, of those created before a time (seconds since 1970)."""
        with self._lock:
            rows = self._database.execute(
                "SELECT * FROM jobs WHERE created < ? ORDER BY created DESC LIMIT ?",
                (float("inf") if before is None else before, limit),
            ).fetchall()
        return [_job(row) for row in rows]

    def waiting_before(self, job: Job) -> int:
        """How many queued jobs come before this one."""
        with self._lock:
            query = "SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND created < ?"
            return int(self._database.execute(query, (job.created,)).fetchone()[0])

    def take(self) -> Job | None:
        """Begin the oldest queued job: no other process gets it. None where none waits."""
        with self._transaction() as database:
            row = database.execute(
                "UPDATE jobs SET state = 'running', started = ?, tries = tries + 1, stage = '' WHERE id = "
                "(SELECT id FROM jobs WHERE state = 'queued' ORDER BY created LIMIT 1) RETURNING *",
                (time.time(),),
            ).fetchone()
        return None if row is None else _job(row)

    def progress(self, id: str, stage: str, done: int, total: int) -> None:
        """Note how far a running job is."""
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET stage = ?, done = ?, total = ? WHERE id = ?", (stage, done, total, id)
            )

    def finish(
        self,
        id: str,
        state: State,
        *,
        reason: str = "",
        warnings: tuple[str, ...] = (),
        files: tuple[str, ...] = (),
    ) -> None:
        """Note that a job has ended; one that has ended already stays as it is."""
        with self._transaction() as database:
            database.execute(
                "UPDATE jobs SET state = ?, ended = ?, reason = ?, warnings = ?, files = ? "
                "WHERE id = ? AND state IN ('queued', 'running')",
                (state, time.time(), reason, json.dumps(warnings), json.dumps(files), id),
            )

    def again(self, id: str, *, tries: int) -> None:
        """Queue a running job again, whose process died; after so many tries it has failed."""
        if self.get(id).tries >= tries:
            self.finish(id, "failed", reason="Its process ended twice; perhaps memory ran out.")
            return
        with self._transaction() as database:
            database.execute("UPDATE jobs SET state = 'queued' WHERE id = ? AND state = 'running'", (id,))

    def recover(self, *, tries: int) -> None:
        """Queue again what a server that died was running. Only for the one process that runs jobs."""
        for job in self.jobs(limit=-1):
            if job.state == "running":
                self.again(job.id, tries=tries)

    def remove(self, id: str) -> None:
        """Forget a job that has ended, with its files."""
        with self._transaction() as database:
            database.execute("DELETE FROM jobs WHERE id = ? AND state NOT IN ('queued', 'running')", (id,))
        if id not in self:
            shutil.rmtree(self.root / id, ignore_errors=True)

    def trim(self, *, seconds: float, gigabytes: float) -> list[str]:
        """Remove the oldest ended jobs: those older than `seconds`, and as many as exceed `gigabytes`.

        Returns:
            The removed ids.
        """
        ended = [job for job in self.jobs(limit=-1) if job.state in FINISHED]  # newest first
        kept, removed = 0.0, []
        for job in ended:
            kept += self.size(job.id) / 2**30
            if kept > gigabytes or time.time() - (job.ended or job.created) > seconds:
                self.remove(job.id)
                removed.append(job.id)
        return removed

    def size(self, id: str) -> int:
        """Bytes of all files of a job."""
        total = 0
        for file in (self.root / id).rglob("*"):
            with suppress(OSError):  # a run replaces its files
                total += file.lstat().st_size
        return total

    def result(self, job: Job, name: str) -> Path:
        """The file of a result by its name.

        Raises:
            KeyError: the job has no such result, or it is gone.
        """
        path = self.root / job.id / "result" / name
        if name not in job.files or not path.is_file() or path.is_symlink():
            raise KeyError(name)
        return path

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


class QueueFullError(Exception):
    """So many jobs wait that no more are taken."""


def is_for_clients(name: str) -> bool:
    """Whether a result is for clients, not a view among many or what a run keeps to go on from."""
    return not name.startswith(".") and name.removeprefix("finished/").count("/") == 0


def is_id(text: str) -> bool:
    """Whether a text can be the id of a job."""
    return _ID.fullmatch(text) is not None


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for name in ("request", "warnings", "files"):
        values[name] = json.loads(values[name])
    values["warnings"], values["files"] = tuple(values["warnings"]), tuple(values["files"])
    return Job(**values)
