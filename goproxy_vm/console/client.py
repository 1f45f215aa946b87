"""Asks a running server's admin API, blocking: a command has nothing else to do."""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from goproxy_vm.config.text import printable
from goproxy_vm.config.token import TOKEN_NAME, read_token
from goproxy_vm.errors import ConfigError, NoServer, NotDone, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from goproxy_vm.config import Address, Settings

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 3600.0
"""An eviction answers when it is done."""
PROBE_SECONDS = 5.0
"""A server that needs longer to say that it is healthy is not."""
MOST = 256 << 20
"""Bytes of an answer that are read."""
SHORT = 1 << 10
"""Bytes that are read of an answer which may be anybody's."""
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
    return Token(None, f"no admin token was found ({reason}); set GOPROXY_VM_ADMIN_TOKEN or --token-file")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


_KINDS: dict[str, type[http.client.HTTPConnection]] = {
    "http": http.client.HTTPConnection,
    "https": http.client.HTTPSConnection,
}


class Client:
    """One server. ``url`` is http(s)://HOST:PORT or unix:PATH. ConfigError for another one."""

    def __init__(self, url: str, token: Token) -> None:
        self._shown = printable(url)
        self._token = token
        self._url = url
        self._connection()  # says at once what is wrong with the URL

    def get(self, *path: str, **query: str | int | None) -> Json:
        """What is there; see :meth:`ask`."""
        return self.ask("GET", path, query=query)

    def post(self, *path: str, **body: object) -> Json:
        """Have something done; members that are None are not sent; see :meth:`ask`."""
        return self.ask("POST", path, body={name: each for name, each in body.items() if each is not None})

    def check_health(self) -> None:
        """Ask ``/healthz``, without the token. NoServer unless it says that the server serves."""
        status, _, content = self._exchange("GET", "/healthz", None, {}, PROBE_SECONDS)
        if status != 200 or content.strip() != b"ok":
            raise NoServer(f"no server: {self._shown} answers, but not as goproxy_vm's health check")

    def readiness(self) -> str:
        """What ``/readyz`` says, without the token: ``ready``, or ``degraded: …``. NoServer otherwise."""
        status, _, content = self._exchange("GET", "/readyz", None, {}, PROBE_SECONDS, SHORT)
        said = content.decode("utf-8", "replace").strip()
        if status != 200 or not said.startswith(("ready", "degraded: ")):
            raise NoServer(f"no server: {self._shown} answers, but not as goproxy_vm")
        return printable(said)

    def ask(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        query: Mapping[str, str | int | None] | None = None,
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
        status, kind, content = self._exchange(method, target, data, headers, ANSWER_SECONDS)
        return self._checked(status, kind, content)

    def _exchange(
        self,
        method: str,
        target: str,
        data: bytes | None,
        headers: dict[str, str],
        seconds: float,
        most: int = MOST,
    ) -> tuple[int, str, bytes]:
        connection = self._connection()
        try:
            connection.connect()
            connection.sock.settimeout(seconds)
            connection.request(method, target, data, headers)
            got = connection.getresponse()
            return got.status, got.headers.get_content_type(), got.read(most)
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

    def _checked(self, status: int, kind: str, content: bytes) -> Json:
        try:
            members = json.loads(content)
        except ValueError:
            members = None
        if kind not in ("application/json", "application/problem+json") or not isinstance(members, dict):
            raise NoServer(f"no server: {self._shown} answers, but not as goproxy_vm's admin API")
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
