"""One request to the admin API: its route, its body, its answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from aiohttp import web

from goproxy_vm.admin import bodies
from goproxy_vm.admin.details import HEADERS, Problem, malformed
from goproxy_vm.cache.threads import slices
from goproxy_vm.hostos import peer_user

ROOT = "/api"
BASE = f"{ROOT}/v1"
JSON = "application/json"
BODY_MOST = 64 << 10
"""Bytes of a request's body: it is read at once, on the loop."""
BODY_SECONDS = 30.0
"""How long a client may take to send it."""

T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """One request on its way: the route's parts, the query, and what the audit log will say of it."""

    request: web.Request
    action: str
    what: str
    parts: dict[str, str] = field(default_factory=dict)
    query: bodies.Members = field(default_factory=lambda: bodies.query(""))
    dry_run: bool = False

    @property
    def who(self) -> str:
        """The client: its address, or on a Unix socket its user's number."""
        if self.request.remote:
            return self.request.remote
        user = user_of(self.request)
        return "unix" if user is None else f"unix:uid={user}"


def user_of(request: web.Request) -> int | None:
    """Who has connected to a Unix socket; None for any other, and where the system cannot say."""
    sock = request.get_extra_info("socket")
    return None if sock is None or sock.family != socket.AF_UNIX else peer_user(sock)


Handler = Callable[[Call], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """A path of the OpenAPI document, and by method the action's name and its handler."""

    template: str
    methods: dict[str, tuple[str, Handler]]

    def match(self, path: str) -> dict[str, str] | None:
        """The parts of a decoded path, or None where it is another one's."""
        found = re.fullmatch(_expression(self.template), path, re.DOTALL)
        return found.groupdict() if found else None

    @property
    def allow(self) -> str:
        """For the Allow header."""
        return ", ".join(sorted({*self.methods, *({"HEAD"} if "GET" in self.methods else ())}))


def _expression(template: str) -> str:
    """A template as a regular expression: modules and patterns hold slashes, nothing else does."""
    text = re.sub(r"\{(module|pattern)\}", r"(?P<\1>.+)", template)
    return re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", text)


def answer(members: Mapping[str, object], *, status: int = 200) -> web.Response:
    """A JSON object as the answer."""
    body = f"{json.dumps(members)}\n".encode()
    return web.Response(status=status, body=body, headers={**HEADERS, "Content-Type": JSON})


async def answer_with(
    members: Mapping[str, object], items: Sequence[T], render: Callable[[T], object]
) -> web.Response:
    """A JSON object with very many ``items``, each as ``render`` makes it."""
    parts = [", ".join(json.dumps(render(each)) for each in some).encode() async for some in slices(items)]
    body = b'%b, "items": [%b]}\n' % (json.dumps(members)[:-1].encode(), b", ".join(parts))
    return web.Response(body=body, headers={**HEADERS, "Content-Type": JSON})


@contextlib.contextmanager
def cursor_of_ours(cursor: str | None) -> Iterator[None]:
    """A cursor that the list does not take is at fault, and nobody else."""
    try:
        yield
    except (ValueError, OverflowError, RecursionError):
        if cursor is None:
            raise
        raise malformed("cursor", "it is none of this server's for this list") from None


def module_and_version(call: Call) -> tuple[str, str]:
    """Both from the path. Problem where one is malformed."""
    module, version = call.parts["module"], call.parts["version"]
    return bodies.module_in_path(module), bodies.version_in_path(version)


def pattern_of(call: Call) -> str:
    """A pin's pattern from the path, normalized. Problem where it is malformed."""
    call.what = bodies.pattern_in_path(call.parts["pattern"])
    return call.what


async def removal_flags(call: Call) -> bool:
    """The query of a DELETE: notes a dry run, returns ``forget_hash``."""
    forget_hash, call.dry_run = bodies.removal_flags(call.query)
    no_body(call)
    return forget_hash


async def body_of(call: Call, *, optional: bool = False) -> bodies.Members:
    """The JSON object that was sent; an empty one for no bytes at all where the body is optional."""
    bodies.nothing(call.query)
    if optional and not call.request.body_exists:
        return bodies.body(b"{}")
    _check_type(call.request)
    return bodies.body(await _read(call.request))


def _check_type(request: web.Request) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(
            415, "a body is taken as it is, without Content-Encoding", headers={"Accept-Encoding": "identity"}
        )
    charset = (request.charset or "utf-8").lower()
    if "Content-Type" not in request.headers or request.content_type != JSON or charset != "utf-8":
        raise Problem(415, f"a body with Content-Type: {JSON} is needed", headers={"Accept-Post": JSON})


def no_body(call: Call) -> None:
    """Refuse a body that would be ignored: someone may have put ``dry_run`` there."""
    if call.request.body_exists:
        raise Problem(400, "DELETE takes no body; dry_run and forget_hash belong into the query")


async def _read(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await request.read()
    except TimeoutError:
        raise Problem(408, f"the body did not arrive within {BODY_SECONDS:.0f} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise Problem(400, "the body cannot be read") from None
