"""`v3d app`: the web page and the REST calls on this computer."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from v3d.distribution import install_hint
from v3d.errors import V3DError

_LOCAL = ("127.0.0.1", "localhost", "::1")


def app(
    out: Annotated[Path, arg(aliases=["-o"], metavar="JOBS")] = Path("jobs"),
    host: str = "127.0.0.1",
    port: int = 7860,
    token: str | None = None,
    workers: int = 1,
    mcp: bool = False,
) -> None:
    """A web page and REST calls on this computer: photos in, assets out.

    Args:
        out: folder of the jobs and their results; a restart goes on with them.
        host: address to listen on; another than this computer's own needs a token.
        port: to listen on.
        token: what callers must send: `Authorization: Bearer TOKEN`; browsers open `?token=TOKEN`.
        workers: jobs that run side by side.
        mcp: let agents make assets by MCP, at /gradio_api/mcp/; for this computer alone.

    Raises:
        V3DError: the extra `app` is missing, the port is taken, the address needs a token.
    """
    if host not in _LOCAL and not token:
        raise V3DError(f"{host} can be reached from other computers: give a --token, or leave --host out.")
    if workers < 1 or not 0 < port < 65536:
        raise V3DError("--workers is 1 or more, and --port from 1 to 65535.")
    if mcp and host not in _LOCAL:
        raise V3DError("--mcp lets agents read photos by their path, so it is for this computer alone.")
    try:
        import uvicorn

        from v3d.serving.page import mount
        from v3d.serving.server import make_server
    except ImportError as error:
        raise V3DError(f"The web page needs an extra: {install_hint('app')}.") from error
    from v3d.serving.guard import LOCAL, Rules

    _check_port(host, port)
    rules = Rules(hosts=LOCAL if host in _LOCAL else (), token=token)
    server = make_server(out, rules=rules, workers=workers)
    mount(server, server.state.desk, out, mcp=mcp)
    print(f"V3D is at http://{'localhost' if host in _LOCAL else host}:{port} (Ctrl-C ends it)", flush=True)
    # Open pages hold connections that never end: three seconds after Ctrl-C they are cut, which is no error.
    logging.getLogger("uvicorn.error").addFilter(_is_error)
    uvicorn.run(server, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3)


def _is_error(record: logging.LogRecord) -> bool:
    """Whether a line of the server's log is more than a connection that was cut at its end."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


def _check_port(host: str, port: int) -> None:
    """See that the port is free.

    Raises:
        V3DError: another program listens there.
    """
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"Port {port} of {host} cannot be used ({error.strerror}); give another --port."
            raise V3DError(reason) from error
