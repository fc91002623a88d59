"""Servers as processes of their own, for tests and benchmarks of what speaks to them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

DRAFTS = """
import sys, uvicorn
from pathlib import Path
from v3d.serving.runner import Limits
from v3d.serving.server import make_server
from v3d.settings import GenerateSettings
jobs, port, until, waiting = sys.argv[1:]
settings = GenerateSettings(quality="draft", until=until)
server = make_server(Path(jobs), settings=settings, limits=Limits(waiting=int(waiting)))
uvicorn.run(server, host="127.0.0.1", port=int(port), log_level="warning")
"""
"""`v3d app` without its page: jobs are drafts where they do not say otherwise."""


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def drafts(jobs: Path, port: int, until: str = "mesh", waiting: int = 32) -> list[str]:
    """The command of a server whose jobs are drafts, up to a stage, of which so many may wait."""
    return [sys.executable, "-c", DRAFTS, str(jobs), str(port), until, str(waiting)]


def start(command: Sequence[str], port: int) -> subprocess.Popen[bytes]:
    """A server that is up."""
    server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
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


@contextmanager
def running(jobs: Path, until: str = "mesh") -> Iterator[str]:
    """The address of a server of drafts."""
    port = free_port()
    server = start(drafts(jobs, port, until), port)
    try:
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(60)
