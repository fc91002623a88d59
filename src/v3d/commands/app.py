"""`v3d app`: the web page and the REST calls on this computer."""

from __future__ import annotations

from tyro.conf import OmitArgPrefixes

from v3d.commands.serve import ServerOptions, run_server


def app(
    server: OmitArgPrefixes[ServerOptions] = ServerOptions(),  # noqa: B008 (frozen)
    mcp: bool = False,
) -> None:
    """A web page and REST calls on this computer: photos in, assets out.

    Args:
        server: where it listens, who does its work.
        mcp: let agents make assets by MCP, at /gradio_api/mcp/; for this computer alone.

    Raises:
        V3DError: the extra `app` is missing, the port is taken, the address needs a token, there is no
            cluster.
    """
    run_server(server, page=True, mcp=mcp)
