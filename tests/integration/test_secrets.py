"""Passwords and tokens show nowhere: not in the log, not in what clients, operators and Prometheus get."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from goproxy_vm.config.sumdb import parse_sumdb
from goproxy_vm.observe.logs import setup
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Host, Serve

TOKEN = "adm1n-t0ken-of-this-server"
WRONG = "wr0ng-t0ken-of-somebody"
PASSWORDS = [
    "p4ss/w0rd-one",
    "p4ss:w0rd-two",
    "p4ss@w0rd-three",
    "p4ssw0rd-proxy",
    "p4ssw0rd-redirect",
    "p4ssw0rd-sumdb",
]
USERS = ["us3r-one", "us3r-two", "us3r-three", "us3r-proxy", "us3r-redirect", "us3r-sumdb"]
KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
MODULE = "/example.com/m/@v/v1.0.0"


def userinfo(number: int) -> str:
    return f"{USERS[number]}:{quote(PASSWORDS[number], safe='')}@"


def shown(text: str) -> list[str]:
    """The secrets that a text shows, plain or encoded."""
    forms: dict[str, str] = {}
    for each in [TOKEN, WRONG, *PASSWORDS, *USERS]:
        forms |= {each: each, quote(each, safe=""): each}
    for user, password in zip(USERS, PASSWORDS, strict=True):
        forms[base64.b64encode(f"{user}:{password}".encode()).decode()] = password
    return [name for form, name in forms.items() if form in text]


@pytest.fixture
def nobody() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def logging_to(file: Path, log_format: str) -> Iterator[None]:
    with file.open("wb") as opened, setup(log_format, "debug", fd=opened.fileno()):
        yield


async def everything(host: Host) -> str:
    """What anybody can see of a server, after requests that fail in all sorts of ways."""
    texts = []
    for path in (
        f"{MODULE}.info",
        f"{MODULE}.zip",
        "/example.com/m/@v/list",
        "/",
        "/nothing",
        f"{MODULE}.zip",
    ):
        got = await host.get(path)
        texts.append(f"{got.headers}{got.text}")
    texts.append((await host.admin("/metrics")).text)
    url = f"{host.server.admin_url}/api/v1"
    for token in (WRONG, TOKEN):
        headers = {"Authorization": f"Bearer {token}"}
        async with host.session.get(f"{url}/status", headers=headers) as response:
            texts.append(await response.text())
        async with host.session.post(f"{url}/purge", headers=headers, json={"match": "x*"}) as response:
            assert response.status == (401 if token == WRONG else 200)
            texts.append(await response.text())
    return "\n".join(texts)


@pytest.mark.parametrize("log_format", ["text", "json"])
async def test_upstreams_that_fail(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, nobody: int, log_format: str
) -> None:
    upstream.on("*.info", Reply(b"no\n", 401, {"Content-Type": "text/plain"}))
    upstream.on("*.zip", Reply(b"", 302, {"Location": f"http://{userinfo(4)}127.0.0.1:{nobody}/x"}))
    upstreams = "|".join(
        [
            f"http://{userinfo(0)}{upstream.name}",
            f"http://{userinfo(1)}127.0.0.1:{nobody}",
            f"https://{userinfo(2)}127.0.0.1:{nobody}",
        ]
    )
    file = tmp_path / "log"
    with logging_to(file, log_format):
        # The first has the .mod; its proof fails.
        sumdb = parse_sumdb(f"{KEY} http://{userinfo(5)}127.0.0.1:{nobody}")
        host = await serve(upstreams, admin_token=TOKEN, access_log="all", sumdb=sumdb)
        seen = await everything(host)
        await host.server.stop()
    lines = file.read_text()
    for event in ("not proven", "fetch failed", "retrying", "audit", "request", "upstream cannot be reached"):
        assert event in lines
    assert any(b"Authorization: Basic" in head for head in upstream.heads)  # it was sent where it belongs
    assert shown(seen) == []
    assert shown(lines) == []


@pytest.mark.parametrize("answers", [407, None])
async def test_a_proxy_on_the_way(
    serve: Serve,
    upstream: FakeUpstream,
    tmp_path: Path,
    nobody: int,
    monkeypatch: pytest.MonkeyPatch,
    answers: int | None,
) -> None:
    port = nobody if answers is None else int(upstream.name.rpartition(":")[2])
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://{userinfo(3)}127.0.0.1:{port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    upstream.on("*", Reply(b"no\n", 407))
    file = tmp_path / "log"
    upstreams = f"http://{userinfo(0)}goproxy.invalid|https://{userinfo(1)}goproxy.invalid"
    with logging_to(file, "json"):
        host = await serve(
            "file:///nonexistent", admin_token=TOKEN, access_log="all", cache_dir=tmp_path / "x"
        )
        await host.server.stop()
        host = await serve(upstreams, admin_token=TOKEN, access_log="all")
        seen = await everything(host)
        await host.server.stop()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    reasons = " ".join(str(line.get("reason")) for line in lines if line["event"] == "fetch failed")
    assert ("cannot connect to the proxy" if answers is None else "407") in reasons
    assert shown(seen) == []
    assert shown(file.read_text()) == []
