"""Serves the admin listener: its sockets, its connections, its timers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from goproxy_vm.admin.details import not_http, refusal
from goproxy_vm.config.token import SOCKET_NAME
from goproxy_vm.errors import StartError
from goproxy_vm.observe import logs
from goproxy_vm.web.connections import Connections
from goproxy_vm.web.http_protocol import HttpProtocol
from goproxy_vm.web.listener import Bound, Listener, bind_unix, url_of
from goproxy_vm.web.shares import most_of_one

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack
    from pathlib import Path

NEVER = 1e8
"""Seconds of aiohttp's idle timer: it does not see what the short cut sends; ours does."""
SOCKET_MODE = 0o600
"""Permissions of the socket that commands use."""
SHUTDOWN = 2.0
"""Seconds that answers may take to finish at a stop."""
LINGERING = 2.0
"""Seconds for which the rest of a request's body is still taken after the answer, and thrown away."""

log = logs.get_logger("server")


def local_socket(stack: AsyncExitStack, directory: Path, admin: Sequence[Bound]) -> Bound | None:
    """The socket in the cache directory, which is ours alone by now; None where it is one of ``admin``, and
    where it cannot be: without it the rest is served."""
    path = str(directory.absolute() / SOCKET_NAME)
    if any(url_of(each.sock) == f"unix:{path}" for each in admin):
        return None
    try:
        bound = bind_unix(path, SOCKET_MODE)
    except OSError as error:
        log.warning("admin socket not served", path=path, reason=error.strerror or str(error))
        return None
    stack.callback(bound.close)
    return bound


async def administer(
    stack: AsyncExitStack, app: web.Application, sockets: Sequence[Bound], most: int, send_timeout: float
) -> None:
    """Serve ``app`` on ``most`` connections, with the timers of the main listener, until the stack ends."""
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    server = runner.server
    if server is None:
        raise StartError("admin_listen: it cannot be served")
    connections = Connections(
        lambda: HttpProtocol(
            server, not_http, access_log=None, keepalive_timeout=NEVER, lingering_time=LINGERING
        ),
        most=most_of_one(most, most),
        in_all=most,
        send_timeout=send_timeout,
        bodies=True,
        refusal=refusal,
    )
    listener = Listener(server, connections, sockets)
    listener.start()
    stack.push_async_callback(listener.stop, SHUTDOWN)
