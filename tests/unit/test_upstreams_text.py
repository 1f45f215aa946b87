"""The upstream list as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.upstream.spec import parse_upstreams


def test_separators_names_and_userinfo() -> None:
    entries = parse_upstreams("https://u:p%40@a.example:8443/base/ | http://[::1]:80,file:///srv/go/").entries
    assert [(e.kind, e.url, e.name, e.userinfo, e.falls_through) for e in entries] == [
        ("http", "https://a.example:8443/base", "a.example:8443", ("u", "p@"), True),
        ("http", "http://[::1]:80", "[::1]:80", None, False),
        ("file", "/srv/go", "/srv/go", None, False),
    ]


def test_off_and_direct_end_the_list() -> None:
    assert [e.name for e in parse_upstreams("http://a.b,off,http://c.d").entries] == ["a.b"]
    assert parse_upstreams("off").entries == ()
    assert not parse_upstreams("http://a.b,off").direct
    listed = parse_upstreams("http://a.b|direct,http://c.d")
    assert [(e.kind, e.name, e.label, e.falls_through) for e in listed.entries] == [
        ("http", "a.b", "a.b:80", True),
        ("direct", "direct", "direct", False),
    ]
    assert listed.direct
    assert parse_upstreams("direct").direct


@pytest.mark.parametrize(
    "text",
    ["", ",", "a.b", "ftp://a.b", "http://", "http://a.b?x", "http://a.b#x", "file://host/x"]
    + ["file:x", "http://a.b:x", "http://[x", "http://a.b:0", "http://a..b", "http://a b", "http://é.example"]
    + ["http://-" + "x" * 64, "http://[::g]", "file:///a%00b", "http://" + "x." * 130],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="allowed are"):
        parse_upstreams(text)


@given(st.text(max_size=40))
def test_any_text_is_a_list_or_a_value_error(text: str) -> None:
    try:
        entries = parse_upstreams(text).entries
    except ValueError:
        return
    assert all("@" not in entry.name or entry.kind == "file" for entry in entries)
