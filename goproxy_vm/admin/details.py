"""Problem details (RFC 9457): how the admin API says what is wrong."""

from __future__ import annotations

import http
import json
import math
from typing import TYPE_CHECKING

from aiohttp import web

from goproxy_vm.observe.logs import get_logger
from goproxy_vm.web.identity import SERVER
from goproxy_vm.web.refusal import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBLEM = "application/problem+json"
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": SERVER}
"""What every answer of the API carries."""

log = get_logger("admin")


def members(status: int, detail: str) -> dict[str, object]:
    """The members that every problem has."""
    return {
        "type": "about:blank",
        "title": http.HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }


class Problem(Exception):
    """An answer other than success: ``status``, one sentence for people, headers.

    ``field`` names the member of the body, or the parameter, that is wrong; ``more`` are further members of
    the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.field = field
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    def response(self) -> web.Response:
        """As ``application/problem+json``."""
        made = members(self.status, self.detail) | self.more
        if self.field is not None:
            made["field"] = self.field
        return web.Response(
            status=self.status,
            body=f"{json.dumps(made)}\n".encode(),
            headers={**HEADERS, "Content-Type": PROBLEM, **self.headers},
        )


def malformed(field: str, reason: str) -> Problem:
    """400 for one member of a body, or one parameter."""
    return Problem(400, f"{field}: {reason}", field=field)


def busy(sentence: str, retry_after: float | None) -> Problem:
    """503; ``retry_after`` in seconds."""
    headers = {} if retry_after is None else {"Retry-After": str(math.ceil(retry_after))}
    return Problem(503, sentence, headers=headers)


def refusal(status: int, sentence: str) -> bytes:
    """What a client is told before a request of it is read."""
    return whole(status, PROBLEM, f"{json.dumps(members(status, sentence))}\n".encode())


def not_http(_: web.BaseRequest, reason: str) -> web.Response:
    """The answer to what is no HTTP; ``reason`` is the parser's, for the log."""
    log.debug("malformed request", reason=reason)
    return Problem(400, "not a valid HTTP/1.1 request, or its head is too long").response()
