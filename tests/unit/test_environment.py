"""Proxies and credentials of the environment, by Go's rules."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from yarl import URL

from goproxy_vm.errors import StartError
from goproxy_vm.upstream.environment import Environment, proxy_variables, with_proxies
from tests.fakes.lines import logged

NONE = {"NETRC": "/nonexistent"}


def proxy(url: str, **environ: str) -> str | None:
    found = Environment(NONE | environ).proxy(URL(url))
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("proxy.example:3128", "http://proxy.example:3128"),
        ("10.0.0.1:3128", "http://10.0.0.1:3128"),
        ("[::1]:3128", "http://[::1]:3128"),
        ("proxy.example", "http://proxy.example"),
        ("HTTP://proxy.example:3128/", "http://proxy.example:3128"),
        ("https://proxy.example", "https://proxy.example"),
        ("http://us%40er:pass@proxy.example:1", "http://us%40er:pass@proxy.example:1"),
        ("", None),
    ],
)
def test_forms_of_a_proxy(text: str, used: str | None) -> None:
    assert proxy("https://a.example/x", HTTPS_PROXY=text) == used
    assert proxy("http://a.example/x", http_proxy=text) == used
    assert proxy("http://a.example/x", HTTPS_PROXY=text) is None


def test_capitals_first_unless_empty() -> None:
    both = {"HTTPS_PROXY": "big:1", "https_proxy": "small:1"}
    assert proxy("https://a.example", **both) == "http://big:1"
    assert proxy("https://a.example", **(both | {"HTTPS_PROXY": ""})) == "http://small:1"
    assert proxy("https://a.example", ALL_PROXY="socks5://x:1") is None


@pytest.mark.parametrize(
    "text",
    ["socks5://h:1080", "socks5h://h:1", "ftp://u:secret@h", "http://", "http://h:99999", "//h", "http://[x"],
)
@pytest.mark.parametrize("name", ["HTTP_PROXY", "https_proxy"])
def test_what_cannot_be_used_is_named(name: str, text: str) -> None:
    with pytest.raises(StartError, match=f"^{name}: ") as caught:
        Environment(NONE | {name: text})
    assert "secret" not in caught.value.sentence


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("", "http://localhost:1", True),
        ("", "http://127.8.8.8", True),
        ("", "http://[::1]", True),
        ("", "http://[::ffff:127.0.0.1]", True),
        ("", "http://localhost.example", False),
        ("*", "http://a.example", True),
        ("x, *", "http://a.example", True),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.1/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("fd00::/8", "http://[fd12::1]:80", True),
        ("10.1.2.3", "http://10.1.2.3:8080", True),
        ("10.1.2.3:8080", "http://10.1.2.3:8080", True),
        ("10.1.2.3:8080", "http://10.1.2.3", False),
        ("10.1.2.3:80", "http://10.1.2.3", True),
        ("[fd00::1]:80", "http://[fd00::1]", True),
        ("[fd00::1]:81", "http://[fd00::1]", False),
        ("foo.example", "http://foo.example", True),
        ("foo.example", "http://bar.foo.example", True),
        ("foo.example", "http://barfoo.example", False),
        (".foo.example", "http://bar.foo.example", True),
        (".foo.example", "http://foo.example", False),
        ("*.foo.example", "http://bar.foo.example", True),
        ("*.foo.example", "http://foo.example", False),
        ("foo.example:443", "https://foo.example", True),
        ("foo.example:443", "http://foo.example", False),
        (" FOO.example ,x", "http://Foo.EXAMPLE", True),
        (":80,,", "http://a.example", False),
        ("256.0.0.0/8", "http://a.example", False),
    ],
)
def test_no_proxy(no_proxy: str, url: str, direct: bool) -> None:
    both = {"HTTP_PROXY": "proxy:1", "HTTPS_PROXY": "proxy:1"}
    assert (proxy(url, **both, NO_PROXY=no_proxy) is None) is direct
    assert (proxy(url, **both, no_proxy=no_proxy) is None) is direct


def test_proxies_that_somebody_else_has() -> None:
    """They are told without passwords: with stars for one nobody can ask."""
    own = NONE | {"https_proxy": "http://u:secret@proxy.example:1", "HTTP_PROXY": "b:1", "NO_PROXY": "c"}
    told = {"HTTPS_PROXY": "http://***@proxy.example:1", "NO_PROXY": "d"}
    assert proxy_variables(own) == told | {"HTTP_PROXY": "b:1", "NO_PROXY": "c"}
    theirs = NONE | {"HTTPS_PROXY": "http://u:secret@proxy.example:1", "NO_PROXY": "d"}
    assert with_proxies(own, told) == theirs
    assert with_proxies(theirs, {}) == NONE


def test_netrc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "netrc"
    file.write_text(
        "machine a.example login me password x\nmachine b.example login me\ndefault login d password d\n"
    )
    environment = Environment({"NETRC": str(file)})
    assert environment.credentials("a.example") == ("me", "x")
    assert environment.credentials("b.example") is None
    assert environment.credentials("c.example") is None
    assert environment.credentials("default") is None
    caplog.set_level(logging.WARNING)
    for bad in (b"machine", b"\xff\xfe"):
        file.write_bytes(bad)
        assert Environment({"NETRC": str(file)}).credentials("a.example") is None
    assert logged(caplog).count("netrc cannot be read") == 2
