"""aiohttp's protocol, save that what it cannot parse is answered as everything else is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiohttp import web

if TYPE_CHECKING:
    from goproxy_vm.web.handler import Handler

BAD_REQUEST = 400
"""The status aiohttp gives whatever it cannot parse."""


class HttpProtocol(web.RequestHandler):
    """Speaks HTTP on one connection of ``server``.

    aiohttp itself would log every malformed request with a traceback and send the parser's words back.
    """

    def __init__(self, server: web.Server, handler: Handler, **options: Any) -> None:
        """``options`` are aiohttp's own."""
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._handler = handler

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be parsed; it is the connection's last."""
        if status != BAD_REQUEST:
            return super().handle_error(request, status, exc, message)
        response = self._handler.malformed(request, str(exc))
        response.force_close()
        return response
