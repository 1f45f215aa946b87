"""console/greeting.py: what a person reads who starts a server."""

from __future__ import annotations

import pytest

from goproxy_vm.console.greeting import Serving, greeting, said
from goproxy_vm.upstream.probe import Trial
from goproxy_vm.web import listener


def test_greeting() -> None:
    serving = Serving(
        version="1.2.3",
        url="http://192.168.1.5:8080",
        admin_url="http://127.0.0.1:8081",
        directory="/var/cache/goproxy-vm",
        used_bytes=450_000,
        limit_bytes=50_000_000_000,
        upstreams=[
            ("goproxy.cn", said(Trial("goproxy.cn", 0.0123))),
            ("proxy.golang.org", said(Trial("x", 3.0, "Name or service not known"))),
            ("files", said(None)),
        ],
        database="sum.golang.org",
    )
    assert greeting(serving).splitlines() == [
        "goproxy_vm 1.2.3 serves; Ctrl-C ends it",
        "",
        "  on each VM  go env -w GOPROXY=http://192.168.1.5:8080",
        "  upstreams   goproxy.cn        ok, 12 ms",
        "              proxy.golang.org  trouble: Name or service not known",
        "              files             not tried: a directory, or behind a proxy",
        "  checksums   proven by sum.golang.org",
        "  cache       /var/cache/goproxy-vm: 439 KiB of 46.6 GiB (50.0 GB) used",
        "  admin       goproxy-vm status (at http://127.0.0.1:8081)",
    ]


def test_alone() -> None:
    text = greeting(Serving("1", "", "unix:/x", "/c", 0, 1 << 20, [], ""))
    assert "on each VM  none reaches it (setting listen)" in text
    assert "upstreams   none  only what is stored is served" in text
    assert "checksums   not proven (sumdb = off)" in text


@pytest.mark.parametrize(
    ("urls", "outward", "found"),
    [
        (["http://0.0.0.0:8080"], "192.0.2.5", "http://192.0.2.5:8080"),
        (["http://[::]:8080"], "192.0.2.5", "http://192.0.2.5:8080"),
        (["http://0.0.0.0:8080"], "", "http://a-host:8080"),
        (["http://127.0.0.1:1", "unix:/x", "http://[::1]:2"], "192.0.2.5", ""),
        (["http://127.0.0.1:1", "http://10.0.0.1:2"], "192.0.2.5", "http://10.0.0.1:2"),
        (["http://[fd00::1]:2"], "192.0.2.5", "http://[fd00::1]:2"),
        ([], "192.0.2.5", ""),
    ],
)
def test_reachable(monkeypatch: pytest.MonkeyPatch, urls: list[str], outward: str, found: str) -> None:
    monkeypatch.setattr(listener, "outward_address", lambda: outward)
    monkeypatch.setattr("socket.gethostname", lambda: "a-host")
    assert listener.reachable(urls) == found
