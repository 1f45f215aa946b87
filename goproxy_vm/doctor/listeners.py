"""The addresses that the server is to listen on: free, held by our own server, reachable by whom."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.doctor.check import Finding, merged
from goproxy_vm.doctor.running import Running, readiness
from goproxy_vm.errors import StartError
from goproxy_vm.web.listener import bind

if TYPE_CHECKING:
    from goproxy_vm.config import Address, Settings

CONNECT_SECONDS = 2.0


def check_listeners(settings: Settings, running: Running) -> Finding:
    """The main listener: whether it can listen, and whether a VM can reach it (blocking)."""
    finding = merged(_check(settings, address, "listen", running) for address in settings.listen)
    if finding.status == "failed" or any(_reachable(address) for address in settings.listen):
        return finding
    return Finding(
        "warning",
        f"{finding.found}; only this host reaches it, no VM does",
        "set listen to 0.0.0.0:8080, or to the address of the bridge that VMs are on",
    )


def check_admin(settings: Settings, running: Running) -> Finding:
    """The admin listener: whether it can listen, and whether only this host reaches it (blocking)."""
    address = settings.admin_listen
    finding = _check(settings, address, "admin_listen", running)
    if finding.status == "failed":
        return finding
    if _reachable(address):
        return Finding(
            "warning",
            f"{finding.found}; it can be reached from other networks",
            "set admin_listen to 127.0.0.1:8081 or unix:/run/goproxy-vm/admin.sock, or keep others out with "
            "a firewall",
        )
    return Finding(finding.status, f"{finding.found}; only this host reaches it", finding.remedy)


def _check(settings: Settings, address: Address, key: str, running: Running) -> Finding:
    if address.path is not None:
        return _check_unix(settings, address, address.path, key, running)
    try:
        bind(address, key).close()
    except StartError as error:
        return _held(settings, address, key, running) or Finding(
            "failed", error.sentence, f"set {key} to an address of this host and a port that is free"
        )
    return _free(address, key, running)


def _check_unix(settings: Settings, address: Address, path: str, key: str, running: Running) -> Finding:
    if held := _held(settings, address, key, running):
        return held
    file = Path(path)
    remedy = f"set {key} to a path in a directory that the server's user may write to"
    try:
        if not stat.S_ISSOCK(file.lstat().st_mode):
            return Finding("failed", f"{path} is there and is no socket", f"remove it, or {remedy}")
    except FileNotFoundError:
        pass
    except OSError as error:
        return Finding("failed", f"{address}: {error.strerror}", remedy)
    if not os.access(file.parent, os.W_OK | os.X_OK):
        return Finding("failed", f"{file.parent} is missing or cannot be written to", remedy)
    return _free(address, key, running)


def _free(address: Address, key: str, running: Running) -> Finding:
    if running.holder and running.readiness is not None and (address.path or address.port):
        return Finding(
            "warning",
            f"{address} is free, though process {running.holder} serves the cache directory",
            f"restart the server, so that it takes {key} as it is set now",
        )
    return Finding("ok", f"{address} is free")


def _held(settings: Settings, address: Address, key: str, running: Running) -> Finding | None:
    """What holds the address, if something takes connections there."""
    if not _connects(address):
        return None
    said = readiness(settings, address)
    if said is not None and running.ours:
        who = f"process {running.holder}" if running.holder else "a running server"
        return Finding("ok", f"{address} is served by {who}")
    if said is not None:
        return Finding(
            "failed",
            f"{address} is held by another goproxy-vm server, of another cache directory",
            f"stop that one, or set {key} to another address; if it is the one you mean, name its --config",
        )
    names = "ss -lxp" if address.path is not None else f"ss -ltnp 'sport = :{address.port}'"
    return Finding(
        "failed",
        f"{address} is held by something other than goproxy-vm",
        f"stop it ({names} names it), or set {key} to another address",
    )


def _connects(address: Address) -> bool:
    try:
        if address.path is not None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(CONNECT_SECONDS)
                sock.connect(address.path)
        else:
            # A connection to 0.0.0.0 or :: goes to this host.
            socket.create_connection((address.host, address.port), CONNECT_SECONDS).close()
    except (OSError, UnicodeError):
        return False
    return True


def _reachable(address: Address) -> bool:
    """Whether other machines may reach it; a name counts by what it stands for, an unknown one may be."""
    if address.path is not None:
        return False
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        return not all(ipaddress.ip_address(each[4][0]).is_loopback for each in found)
    except (OSError, UnicodeError, ValueError):
        return True
