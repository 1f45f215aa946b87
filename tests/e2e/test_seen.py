"""What VMs have told outlives the server, also where it is killed."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from goproxy_vm.config.token import TOKEN_NAME
from tests.e2e.gocommand import Running, serving, start

ARGUMENTS = ("--offline", "--sumdb", "off", "--min-free", "0")
PATH = (
    "/vm/seen?script=clean&go=go1.{}&bootstrap=go1.24.11&os=linux&arch=amd64&modcache_mib=409&gocache_mib=920"
)


def report(server: Running, go: str) -> None:
    where = urlsplit(server.url)
    with closing(http.client.HTTPConnection(str(where.hostname), where.port, 30)) as client:
        client.request("GET", PATH.format(go))
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"")


def known(server: Running, cache: Path) -> list[Any]:
    where = urlsplit(server.admin_url)
    headers = {"Authorization": f"Bearer {(cache / TOKEN_NAME).read_text().strip()}"}
    with closing(http.client.HTTPConnection(str(where.hostname), where.port, 30)) as client:
        client.request("GET", "/api/v1/vms", headers=headers)
        return [each["go"] for each in json.loads(client.getresponse().read())["items"]]


def test_killed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    seen = cache / "vms" / "seen"
    server = start(cache, *ARGUMENTS)
    try:
        report(server, "26.8")
        until = time.monotonic() + 20
        while not seen.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
    finally:
        server.process.kill()
        server.process.communicate()
    with serving(cache, *ARGUMENTS) as server:
        assert known(server, cache) == ["go1.26.8"]
        report(server, "27.0")
        report(server, "27.1")
    assert b"go=go1.27.1&" in seen.read_bytes()
    seen.write_bytes(seen.read_bytes()[:-7] + b"\xff")  # as no write of ours leaves it
    with serving(cache, *ARGUMENTS) as server:
        assert known(server, cache) == []
        told = subprocess.run(
            [sys.executable, "-m", "goproxy_vm", "vms", "--cache-dir", str(cache)],
            capture_output=True,
            text=True,
            check=True,
        )
        assert told.stdout == "0 of 0 VMs\n"
    assert "VMs begun anew" in [line["event"] for line in server.log]
