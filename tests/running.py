"""Servers as processes of their own, for tests of what speaks to them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from small_jobs import free_port, start

_DRAFTS = """
import sys, uvicorn
from pathlib import Path
from v3d.serving.server import make_server
from v3d.settings import GenerateSettings
server = make_server(Path(sys.argv[1]), settings=GenerateSettings(quality="draft"))
uvicorn.run(server, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
"""


@contextmanager
def running(jobs: Path) -> Iterator[str]:
    """The address of a server without page, whose jobs are drafts where they do not say otherwise."""
    port = free_port()
    server = start([sys.executable, "-c", _DRAFTS, str(jobs), str(port)], port)
    try:
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(60)
