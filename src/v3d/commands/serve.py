"""`v3d serve`: the REST calls, without the page; and what it shares with `v3d app`."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from v3d.commands.shared import join_cluster
from v3d.distribution import install_hint
from v3d.errors import V3DError

_LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServerOptions:
    """Where a server listens, and who does its work.

    Attributes:
        out: folder of the jobs and their results; a restart goes on with them.
        host: address to listen on; another than this computer's own needs a token.
        port: to listen on.
        token: what callers must send: `Authorization: Bearer TOKEN`; browsers open `?token=TOKEN`.
        workers: jobs that run side by side: by default 1, and in a cluster one a GPU, or one a node.
        ray: carry jobs out in a Ray cluster: auto, or HOST:PORT of its head node (needs the extra ray).
    """

    out: Annotated[Path, arg(aliases=["-o"], metavar="JOBS")] = Path("jobs")
    host: str = "127.0.0.1"
    port: int = 7860
    token: str | None = None
    workers: int | None = None
    ray: Annotated[str | None, arg(metavar="ADDRESS")] = None


def serve(server: OmitArgPrefixes[ServerOptions] = ServerOptions()) -> None:
    """REST calls on this computer, for programs: photos in, assets out. (With a page: v3d app.)

    Raises:
        V3DError: the extra `serve` is missing, the port is taken, the address needs a token, there is no
            cluster.
    """
    run_server(server, page=False)


def run_server(options: ServerOptions, *, page: bool, mcp: bool = False) -> None:
    """Listen until interrupted.

    Args:
        options: see `ServerOptions`.
        page: serve the web page, too.
        mcp: with the page, serve agents, too.

    Raises:
        V3DError: an extra is missing, the port is taken, the address needs a token, there is no cluster.
    """
    host, port = options.host, options.port
    if host not in _LOCAL and not options.token:
        raise V3DError(f"{host} can be reached from other computers: give a --token, or leave --host out.")
    if (options.workers is not None and options.workers < 1) or not 0 < port < 65536:
        raise V3DError("--workers is 1 or more, and --port from 1 to 65535.")
    if mcp and host not in _LOCAL:
        raise V3DError("--mcp lets agents read photos by their path, so it is for this computer alone.")
    try:
        import uvicorn

        from v3d.serving.guard import LOCAL, Rules
        from v3d.serving.server import make_server

        if page:
            from v3d.serving.page import mount
    except ImportError as error:
        hint = install_hint("app" if page else "serve")
        raise V3DError(f"The {'web page' if page else 'server'} needs an extra: {hint}.") from error
    _check_port(host, port)
    out = options.out.absolute()
    rules = Rules(hosts=LOCAL if host in _LOCAL else (), token=options.token)
    cluster = None if options.ray is None else join_cluster(options.ray, out)
    workers = (options.workers or 1) if cluster is None else cluster.workers(options.workers)
    server = make_server(out, rules=rules, workers=workers)
    if page:
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
