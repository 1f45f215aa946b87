"""Asks a running server's admin API, blocking: a command has nothing else to do.

The token goes to nobody but a server: not to another user of this host who has taken its port, and what does
not answer as a server does ends in one line (docs/decisions/0010-the-admin-socket.md).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import pwd
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from goproxy_vm.config.text import printable
from goproxy_vm.config.token import SOCKET_NAME, TOKEN_NAME, read_token
from goproxy_vm.errors import ConfigError, NoServer, NotDone, NotFound
from goproxy_vm.hostos import peer_users

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from goproxy_vm.config import Address, Settings

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 3600.0
"""An eviction answers when it is done."""
PROBE_SECONDS = 5.0
"""A server that needs longer to say that it is healthy is not."""
REST_SECONDS = 60.0
"""From the first byte of an answer to its last."""
MOST = 64 << 20
"""Bytes of an answer; a list of 10,000 of the longest names has 10 MiB."""
SHORT = 1 << 10
"""Bytes that are read of an answer which may be anybody's."""
POLL_SECONDS = 0.02
"""Between two looks whether somebody has accepted a connection."""
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what a server listens on is asked here)
"""Where to ask a server that listens on every address."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Token:
    """The token to send, or None, and then why there is none."""

    text: str | None
    missing: str = ""


def admin_url(address: Address) -> str:
    """Where a server with this ``admin_listen`` is asked."""
    if address.path is not None:
        return str(address)
    host = ANYWHERE.get(address.host, address.host)
    return f"http://[{host}]:{address.port}" if ":" in host else f"http://{host}:{address.port}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is asked.

    ``missed`` says at which better place none answers, and why; empty where this is the first one.
    """

    url: str
    missed: str = ""


def find_server(settings: Settings) -> Place:
    """Where the server of these settings is asked (blocking): at the socket in its cache directory, which
    nobody else can have put there, else at its ``admin_listen``."""
    path = str(settings.cache_dir.absolute() / SOCKET_NAME)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CONNECT_SECONDS)
        try:
            sock.connect(path)
        except TimeoutError:
            pass  # it is there, and busy
        except OSError as error:  # none there, none of a path so long, not for us
            return Place(admin_url(settings.admin_listen), f"unix:{path}: {error.strerror or error}")
    return Place(f"unix:{path}")


def find_owners(settings: Settings, named: Path | None) -> frozenset[int]:
    """The users to whom the token of :func:`find_token` may be told (blocking): root, whoever asks, and who
    owns the cache directory or the token's file, and could read it there."""
    owners = {0, os.geteuid()}
    for path in (settings.cache_dir, named or settings.admin_token_file):
        with contextlib.suppress(OSError):
            owners |= {path.stat().st_uid} if path is not None else set()
    return frozenset(owners)


def find_token(settings: Settings, named: Path | None) -> Token:
    """The token: from the file ``named`` on the command line, the settings, ``admin.token`` (blocking).

    ConfigError for a file that somebody named and that cannot be used; one that nobody named may be
    missing, for the server may be elsewhere, or not be there at all.
    """
    if named is None and settings.admin_token:
        return Token(settings.admin_token)
    chosen = named or settings.admin_token_file
    path = chosen or settings.cache_dir / TOKEN_NAME
    try:
        return Token(read_token(path))
    except OSError as error:
        reason = f"{path}: {error.strerror}"
    if chosen is not None:
        raise ConfigError(f"the admin token cannot be read: {reason}")
    return Token(
        None,
        f"no admin token was found ({reason}); name the server's cache directory (--cache-dir) or the "
        "token's file (--token-file), or set GOPROXY_VM_ADMIN_TOKEN",
    )


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _wait_for(sock: socket.socket, seconds: float) -> None:
    """Until the answer begins, or the connection ends. TimeoutError."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if not poll.poll(seconds * 1000):
        raise TimeoutError


@contextlib.contextmanager
def _ending(sock: socket.socket, seconds: float) -> Iterator[None]:
    """The block hears nothing more after so long, however little comes at a time. TimeoutError then."""
    over = threading.Event()

    def end() -> None:
        over.set()
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # of TLS too, without a farewell

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException):
        if over.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
    if over.is_set():
        raise TimeoutError


def _read(got: http.client.HTTPResponse, most: int) -> bytes | None:
    """The body; None if it has more than ``most`` bytes."""
    content = bytearray()
    while part := got.read1(1 << 16):
        content += part
        if len(content) > most:
            return None
    return bytes(content)


def _named(user: int) -> str:
    try:
        return f"{user} ({pwd.getpwuid(user).pw_name})"
    except KeyError:
        return str(user)


_KINDS: dict[str, type[http.client.HTTPConnection]] = {
    "http": http.client.HTTPConnection,
    "https": http.client.HTTPSConnection,
}


class Client:
    """One server. ``url`` is http(s)://HOST:PORT or unix:PATH. ConfigError for another one.

    Where a user of this host answers, it must be one of ``owners`` to be told the token.
    """

    def __init__(self, url: str, token: Token, owners: frozenset[int]) -> None:
        self._shown = printable(url)
        self._token = token
        self._owners = owners
        self._url = url
        self._connection()  # says at once what is wrong with the URL

    def get(self, *path: str, **query: str | float | None) -> Json:
        """What is there; see :meth:`ask`."""
        return self.ask("GET", path, query=query)

    def post(self, *path: str, **body: object) -> Json:
        """Have something done; members that are None are not sent; see :meth:`ask`."""
        return self.ask("POST", path, body={name: each for name, each in body.items() if each is not None})

    def check_health(self) -> None:
        """Ask ``/healthz``, without the token. NoServer unless it says that the server serves."""
        status, _, content = self._exchange("GET", "/healthz", None, {}, PROBE_SECONDS, SHORT)
        if status != 200 or content.strip() != b"ok":
            raise NoServer(f"no server: {self._shown} answers, but not as goproxy_vm's health check")

    def readiness(self) -> str:
        """What ``/readyz`` says, without the token: ``ready``, or ``degraded: …``. NoServer otherwise, and
        where none of the owners answers."""
        status, _, content = self._exchange("GET", "/readyz", None, {}, PROBE_SECONDS, SHORT, known=True)
        said = content.decode("utf-8", "replace").strip()
        if status != 200 or not said.startswith(("ready", "degraded: ")):
            raise NoServer(f"no server: {self._shown} answers, but not as goproxy_vm")
        return printable(said)

    def ask(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, str | float | None] | None = None,
        body: Json | None = None,
    ) -> Json:
        """The answer's JSON object. ``path`` are segments below ``/api/v1``, quoted here.

        NoServer where nothing answers, or something else; NotFound for a 404, NotDone for every other
        refusal: both carry the problem as ``answer``.
        """
        target = "/api/v1/" + "/".join(quote(each, safe="/@!$&'()*+,;=:") for each in path)
        if given := {name: each for name, each in (query or {}).items() if each is not None}:
            target += f"?{urlencode(given)}"
        headers = {} if self._token.text is None else {"Authorization": f"Bearer {self._token.text}"}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        status, kind, content = self._exchange(
            method, target, data, headers, ANSWER_SECONDS, MOST, known=self._token.text is not None
        )
        return self._checked(status, kind, content)

    def strange(self) -> NoServer:
        """What to say of an answer that no server of ours gives."""
        return NoServer(f"no server: {self._shown} answers, but not as goproxy_vm's admin API")

    def _exchange(
        self,
        method: str,
        target: str,
        data: bytes | None,
        headers: dict[str, str],
        seconds: float,
        most: int,
        *,
        known: bool = False,
    ) -> tuple[int, str, bytes]:
        connection = self._connection()
        try:
            connection.connect()
            if known and not isinstance(connection, http.client.HTTPSConnection):
                self._check_owner(connection.sock)
            connection.sock.settimeout(seconds)
            connection.request(method, target, data, headers)
            _wait_for(connection.sock, seconds)
            with _ending(connection.sock, min(seconds, REST_SECONDS)):
                got = connection.getresponse()
                content = _read(got, most)
            if content is None:
                raise NoServer(f"no server: {self._shown} answers with more than {most} bytes")
            return got.status, got.headers.get_content_type(), content
        except TimeoutError:
            raise NoServer(f"no server: {self._shown} does not answer") from None
        except http.client.HTTPException:
            raise NoServer(f"no server: {self._shown} does not answer in HTTP") from None
        except OSError as error:
            raise NoServer(f"no server: {self._shown}: {error.strerror or error}") from None
        except UnicodeError:
            raise NoServer(f"no server: {self._shown}: the host name has a part that is too long") from None
        finally:
            connection.close()

    def _check_owner(self, sock: socket.socket) -> None:
        """NoServer if another user of this host has taken the connection, or nobody does."""
        deadline = time.monotonic() + CONNECT_SECONDS
        while (users := peer_users(sock)) is not None and not users:
            if time.monotonic() > deadline:
                raise NoServer(f"no server: {self._shown} does not answer")
            time.sleep(POLL_SECONDS)
        if users is not None and not users <= self._owners:
            names = ", ".join(_named(user) for user in sorted(users))
            raise NoServer(
                f"no server: {self._shown} is served by user {names}, who is neither root nor you, "
                "nor owns the server's cache directory (--cache-dir); nothing was sent"
            )

    def _checked(self, status: int, kind: str, content: bytes) -> Json:
        try:
            members = json.loads(content)
        except (ValueError, RecursionError):
            members = None
        if kind not in ("application/json", "application/problem+json") or not isinstance(members, dict):
            raise self.strange()
        if status < 300:
            return members
        sentence = printable(str(members.get("detail", f"status {status}")))
        if status == 401:
            sentence = self._token.missing or "the server has another admin token"
        raise (NotFound if status == 404 else NotDone)(sentence, members)

    def _connection(self) -> http.client.HTTPConnection:
        if self._url.startswith("unix:") and len(self._url) > len("unix:"):
            return _UnixConnection(self._url.removeprefix("unix:"), CONNECT_SECONDS)
        try:
            parts = urlsplit(self._url)
            kind = _KINDS[parts.scheme]
            if parts.hostname and parts.path in ("", "/") and "@" not in parts.netloc and not parts.query:
                return kind(parts.hostname, parts.port, timeout=CONNECT_SECONDS)
        except (KeyError, ValueError, http.client.InvalidURL):
            pass
        raise ConfigError(f"--admin-url: {self._shown}: expected http(s)://HOST:PORT or unix:PATH")
