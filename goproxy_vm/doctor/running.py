"""The server that runs already, if one does: what it says, and what its process holds."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm import __version__
from goproxy_vm.cache.layout import Layout
from goproxy_vm.config.token import SOCKET_NAME, TOKEN_NAME
from goproxy_vm.console.client import Client, Token, admin_url, find_owners, find_server, find_token
from goproxy_vm.doctor.check import Finding
from goproxy_vm.errors import ConfigError, NoServer, NotDone
from goproxy_vm.hostos import lock_holder

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.config import Address, Settings


@dataclass(frozen=True, slots=True)
class Running:
    """What is known of the running server.

    ``holder`` is the process that holds the cache directory: 0 for none, None where the system cannot say.
    ``readiness`` is its ``/readyz`` on the admin listener, None if nothing answers there as a server of ours;
    ``token`` the finding about its token; ``version`` its version, None unless the token was accepted.
    ``socket`` says whether it serves the socket in the cache directory, where commands ask first.
    """

    holder: int | None
    readiness: str | None
    token: Finding
    version: str | None
    socket: bool

    @property
    def ours(self) -> bool:
        """Whether a server that answers somewhere may be the one of this cache directory."""
        return self.holder != 0


def readiness(settings: Settings, address: Address) -> str | None:
    """What a server of ours says at ``address`` on ``/readyz`` (blocking); None if there is none, or another
    user's."""
    try:
        return Client(admin_url(address), Token(None), find_owners(settings, None)).readiness()
    except (NoServer, ConfigError):
        return None


def look(settings: Settings) -> Running:
    """Ask the server that the settings name (blocking, up to ten seconds)."""
    holder = lock_holder(Layout.at(settings.cache_dir).lock)
    ready = readiness(settings, settings.admin_listen)
    token, version = _token(settings, running=ready is not None)
    socket = not find_server(settings).missed
    return Running(holder, ready, token, version, socket)


def check_server(settings: Settings, running: Running) -> Finding:
    """Whether the server runs, is ready, and is of this version."""
    where = str(settings.admin_listen)
    if running.readiness is None:
        if not running.holder:
            idle = ", and none holds the cache directory" if running.holder == 0 else ""
            return Finding("skipped", f"no server answers at {where}{idle}")
        return Finding(
            "failed",
            f"process {running.holder} holds the cache directory, but does not answer at {where}",
            "if it listens elsewhere, set admin_listen to that; if it hangs, restart it",
        )
    who = f"process {running.holder}" if running.holder else "a server"
    found = f"{who} at {where} says {running.readiness}"
    if running.holder == 0:
        return Finding(
            "warning",
            f"{found}, but none holds this cache directory",
            "give this command the server's own configuration (--config), cache_dir above all",
        )
    if running.readiness != "ready":
        return Finding(
            "warning", found, "make room or repair the disk below cache_dir; the log names the first error"
        )
    if not running.socket:
        return Finding(
            "warning",
            f"{found}; commands ask it over TCP, for it does not serve {SOCKET_NAME} in the cache directory",
            "the log says why (admin socket not served); restart the server once that is put right",
        )
    if running.version is None:
        return Finding("ok", f"{found}; its version is unknown without the token")
    if running.version != __version__:
        return Finding(
            "warning",
            f"{found}, version {running.version}, but {__version__} is installed",
            "restart it, as in: systemctl restart goproxy-vm",
        )
    return Finding("ok", f"{found}, version {running.version}")


def _token(settings: Settings, *, running: bool) -> tuple[Finding, str | None]:
    """Whether there is a token, who may read it, and whether the server takes it; the server's version."""
    path = settings.admin_token_file or settings.cache_dir / TOKEN_NAME
    origin = "admin_token" if settings.admin_token else str(path)
    try:
        token = find_token(settings, None)
    except ConfigError as error:
        return Finding(
            "failed", error.sentence, "put a token into the file that admin_token_file names"
        ), None
    if token.text is None:
        return _missing(token.missing, path, running=running), None
    readable = None if settings.admin_token else _readable(path)
    if not running:
        return readable or Finding("ok", f"from {origin}; not tried, for no server answers"), None
    try:
        owners = find_owners(settings, None)
        answer = Client(admin_url(settings.admin_listen), token, owners).get("status")
    except (NoServer, NotDone) as error:
        return Finding(
            "failed",
            f"the running server does not take the token from {origin}: {error.sentence}",
            "restart the server if admin_token or its file has changed; else set admin_token_file or "
            "cache_dir to the running server's",
        ), None
    version = str(answer.get("version", ""))
    return readable or Finding("ok", f"from {origin}; accepted by the running server"), version


def _missing(why: str, path: Path, *, running: bool) -> Finding:
    reachable = "Permission denied" not in why
    if reachable and not running:
        return Finding("ok", f"none yet; the first start makes one, in {path}")
    return Finding(
        "failed" if reachable else "warning",
        why.partition(";")[0],
        "run this as the server's user or as root, or set admin_token_file",
    )


def _readable(path: Path) -> Finding | None:
    """A warning where others may read the token (blocking)."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o077:
        return None
    return Finding(
        "warning", f"{path} has mode {mode:04o}: other users may read or change it", f"chmod 600 {path}"
    )
