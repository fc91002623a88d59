"""`v3d app`: the web page and the REST calls on this computer."""

from __future__ import annotations

from tyro.conf import OmitArgPrefixes

from v3d.commands.serve import ServerOptions, run_server


def app(server: OmitArgPrefixes[ServerOptions] = ServerOptions()) -> None:  # noqa: B008 (frozen)
    """A web page and REST calls on this computer: photos in, assets out.

    Raises:
        V3DError: the extra `app` is missing, the port is taken, the address needs a token, there is no
            cluster.
    """
    run_server(server, page=True)
