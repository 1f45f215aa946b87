"""aiohttp's protocol, save that what it cannot parse is answered as everything else is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from goproxy_vm.web.connection import Connection

BAD_REQUEST = 400
"""The status aiohttp gives whatever it cannot parse."""

Malformed = Callable[[web.BaseRequest, str], web.Response]
"""Makes the answer to what is no HTTP; the text is the parser's, for the log alone."""


class HttpProtocol(web.RequestHandler):
    """Speaks HTTP on one connection of ``server``, and says when an answer is written.

    aiohttp itself would log every malformed request with a traceback and send the parser's words back. It
    never decodes a body: what is compressed may be a thousand times as large.
    """

    def __init__(self, server: web.Server, malformed: Malformed, **options: Any) -> None:
        """``options`` are aiohttp's own."""
        super().__init__(server, loop=asyncio.get_running_loop(), auto_decompress=False, **options)
        self._malformed = malformed

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write what the handler has not written yet, and let the connection go on."""
        connection = self.transport.get_protocol() if self.transport is not None else None
        if not isinstance(connection, Connection):
            return await super().finish_response(request, resp, start_time)
        if connection.last and not resp.prepared:
            resp.force_close()
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            connection.answered(last=not resp.keep_alive)

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
        response = self._malformed(request, str(exc))
        response.force_close()
        return response
