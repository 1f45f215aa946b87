"""The admin API (docs/api.md): every request is authenticated, dispatched, answered, and a change audited."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from aiohttp import web

from goproxy_vm.admin import bodies
from goproxy_vm.admin.auth import CHALLENGE, Guard
from goproxy_vm.admin.call import BODY_MOST, ROOT, Call, Route, user_of
from goproxy_vm.admin.details import Problem, busy
from goproxy_vm.errors import Overloaded, Unavailable
from goproxy_vm.observe import logs

if TYPE_CHECKING:
    from collections.abc import Sequence

UNCHANGING = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that leave no line in the audit log, for they change nothing."""

_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")

log = logs.get_logger("admin")


class Api:
    """Answers every request below ``/api``: of ``routes`` the first that matches."""

    def __init__(self, routes: Sequence[Route], guard: Guard) -> None:
        self._routes = routes
        self._guard = guard

    @staticmethod
    def owns(request: web.Request) -> bool:
        """Whether the request is for the API, however its path is encoded."""
        path = _octets(request.rel_url.raw_path)
        return path == ROOT.encode() or path.startswith(f"{ROOT}/".encode())

    async def __call__(self, request: web.Request) -> web.Response:
        """Answer, and leave a line in the audit log where the method can change something."""
        call = Call(request, request.method, request.rel_url.raw_path)
        status = 499  # where the client has gone, or the server stops
        try:
            response = await self._answer(call)
            status = response.status
            return response
        finally:
            if request.method not in UNCHANGING:
                extra = {"dry_run": True} if call.dry_run else {}
                log.info("audit", who=call.who, action=call.action, what=call.what, status=status, **extra)

    async def _answer(self, call: Call) -> web.Response:
        try:
            return await self._handled(call)
        except Problem as problem:
            return problem.response()
        except web.HTTPRequestEntityTooLarge:
            return Problem(413, f"the body is larger than {BODY_MOST} bytes").response()
        except (Unavailable, Overloaded) as error:
            return busy(error.sentence, error.retry_after).response()
        except Exception:
            number = secrets.token_hex(6)
            log.exception("admin request failed", request=number, method=call.request.method, what=call.what)
            return Problem(500, f"an internal error; the log has it as request {number}").response()

    async def _handled(self, call: Call) -> web.Response:
        request = call.request
        path = _decoded(request.rel_url.raw_path)
        route = self._route(call, path)
        method = "GET" if request.method == "HEAD" else request.method
        action, handler = route.methods.get(method, (method, None)) if route else (method, None)
        call.action = action
        if not self._guard.admits(request.headers.getall("Authorization", ()), user_of(request)):
            raise Problem(
                401,
                "the header Authorization: Bearer TOKEN is needed, with this server's admin token",
                headers={"WWW-Authenticate": CHALLENGE},
            )
        if path is None:
            raise Problem(400, "the path is not percent-encoded UTF-8")
        if route is None:
            raise Problem(404, "no such route")
        if handler is None:
            raise Problem(405, f"only {route.allow} here", headers={"Allow": route.allow})
        call.query = bodies.query(request.rel_url.raw_query_string)
        return await handler(call)

    def _route(self, call: Call, path: str | None) -> Route | None:
        for route in self._routes if path is not None else ():
            parts = route.match(path or "")
            if parts is not None:
                call.parts = parts
                call.what = "@".join(parts.values()) or call.what
                return route
        return None


def _decoded(raw_path: str) -> str | None:
    """A raw path percent-decoded once; None where it is malformed."""
    if _BROKEN_ESCAPE.search(raw_path):
        return None
    try:
        return _octets(raw_path).decode()
    except UnicodeError:
        return None


def _octets(raw_path: str) -> bytes:
    """A raw path percent-decoded once. One of aiohttp's two parsers takes bytes outside ASCII as well."""
    return unquote_to_bytes(raw_path.encode("utf-8", "surrogateescape"))
