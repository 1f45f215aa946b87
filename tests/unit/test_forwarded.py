"""web/forwarded.py: who asked a reverse proxy, and by which URL."""

from __future__ import annotations

import ipaddress

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from goproxy_vm.web.forwarded import MOST_ADDRESSES, Forwarded, Requester

OURS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


def requester(peer: str, *headers: tuple[str, str], networks: tuple[object, ...] = OURS) -> Requester:
    given = CIMultiDictProxy(CIMultiDict(headers))
    return Forwarded(networks).requester(peer, given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("addresses", "client"),
    [
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7:4711"], "192.0.2.7"),
        (["2001:db8::1"], "2001:db8::1"),
        (["[2001:db8::1]:4711"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["[::ffff:c000:207%eth0]:4711"], "192.0.2.7"),
        (["fe80::1%eth0"], "fe80::1"),
        (["2001:DB8:0::1"], "2001:db8::1"),
        (["192.0.2.9, 192.0.2.7"], "192.0.2.7"),
        (["192.0.2.9", "192.0.2.7"], "192.0.2.7"),
        (["192.0.2.7, 10.1.1.1,fd00::1"], "192.0.2.7"),
        (["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
        (["192.0.2.7, nonsense"], "10.0.0.1"),
        (["nonsense, 192.0.2.7"], "192.0.2.7"),
        (["unknown, 10.1.1.1"], "10.1.1.1"),
        (["192.0.2.7" + ",10.1.1.1" * MOST_ADDRESSES], "10.1.1.1"),
    ],
)
def test_client(addresses: list[str], client: str) -> None:
    assert requester("10.0.0.1", *(("x-forwarded-for", each) for each in addresses)).client == client


def test_nobody_else_is_believed() -> None:
    told = (
        ("X-Forwarded-For", "192.0.2.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "a.example"),
    )
    for peer in ("192.0.2.1", "fe80::1"):
        assert requester(peer, *told, ("Host", "b")) == Requester(peer, "http://b")
    for peer in ("10.0.0.1", "unix"):
        assert requester(peer, *told, ("Host", "b"), networks=()) == Requester(peer, "http://b")
    assert requester("unix", *told, ("Host", "b")) == Requester("192.0.2.7", "https://a.example")


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ([("Host", "a.example:8443")], "http://a.example:8443"),
        ([("Host", "a.example"), ("X-Forwarded-Proto", "https")], "https://a.example"),
        ([("Host", "a.example"), ("X-Forwarded-Proto", "http, https")], "https://a.example"),
        ([("Host", "a.example"), ("X-Forwarded-Proto", "javascript")], "http://a.example"),
        ([("Host", "in:8080"), ("X-Forwarded-Host", "a.example")], "http://a.example"),
        ([("Host", "in:8080"), ("X-Forwarded-Host", "x, a.example")], "http://a.example"),
        ([("Host", "in:8080"), ("X-Forwarded-Host", "a b")], ""),
        ([("X-Forwarded-Host", "$(reboot)")], ""),
        ([("Host", "a"), ("Host", "b")], ""),
        ([], ""),
    ],
)
def test_url(headers: list[tuple[str, str]], url: str) -> None:
    assert requester("10.0.0.1", *headers).url == url


NAMES = ("Build1.example.com", "")


@pytest.mark.parametrize(
    "host",
    [
        *("192.0.2.1:8080", "[fd00::1]:8080", "[2001:db8::1]", "10.0.2.2", "localhost:8080", "a.localhost"),
        *("goproxy", "GoProxy:8080", "goproxy.lan:8080", "a.b.internal", "host.local.", "nas.home.arpa"),
        *("build1.example.com:8080", "BUILD1.example.com.", "host.docker.internal", "db.corp"),
    ],
)
def test_names_that_are_ours_or_nobodys(host: str) -> None:
    headers = CIMultiDictProxy(CIMultiDict([("Host", host)]))
    assert Forwarded((), NAMES).requester("192.0.2.7", headers) == Requester("192.0.2.7", f"http://{host}")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com:8080",
        "build1.evil.com",
        "xbuild1.example.com",
        "a.lan.evil.com",
        "arpa.org",
        "x.com.",
    ],
)
def test_names_that_may_be_anybodys(host: str) -> None:
    """A page whose name is made to lead here is served by it."""
    headers = CIMultiDictProxy(CIMultiDict([("Host", host)]))
    assert Forwarded((), NAMES).requester("192.0.2.7", headers) == Requester("192.0.2.7", "", host)
    assert Forwarded(OURS, NAMES).requester("192.0.2.7", headers).url == ""
    assert Forwarded(OURS, NAMES).requester("10.0.0.1", headers).url == f"http://{host}"
