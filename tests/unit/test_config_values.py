"""config/values.py: sizes, shares and globs of the cache's settings."""

from __future__ import annotations

import re

import pytest

from goproxy_vm.config import load
from goproxy_vm.config.address import is_authority
from goproxy_vm.config.mapped import Mapped
from goproxy_vm.config.values import (
    CLIENT_NAMES,
    GLOBS,
    HOSTS,
    REPOSITORIES,
    URL,
    VULNDB,
    Amount,
    amount,
    bounded_duration,
    share,
    size,
)
from goproxy_vm.errors import ConfigError

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("50GB", Amount(50 * 10**9, None)),
        ("1.5 MiB", Amount(3 * MIB // 2, None)),
        ("1048576", Amount(MIB, None)),
        ("80%", Amount(None, 80.0)),
        (" 0.5 % ", Amount(None, 0.5)),
        ("50GB,50%", Amount(50 * 10**9, 50.0)),
        ("50%, 2MiB,", Amount(2 * MIB, 50.0)),
        ("100%", Amount(None, 100.0)),
    ],
)
def test_amount(text: str, value: Amount) -> None:
    assert amount(MIB, "1MiB").parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "x",
        "1MiB,2MiB",
        "1%,2%",
        "1MiB,2%,3%",
        "1048575",
        "0%",
        "101%",
        "-1%",
        "1.5",
        "%",
        "1e3MB",
        "9" * 40,
    ],
)
def test_amount_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # some say nothing more than what is allowed
        amount(MIB, "1MiB").parse(text)


def test_nothing_at_all_may_be_enough() -> None:
    assert amount(0, "0").parse("0") == Amount(0, None)
    assert amount(0, "0").parse("0%") == Amount(None, 0.0)


@pytest.mark.parametrize(
    ("given", "of_thousand"),
    [
        (Amount(300, None), 300),
        (Amount(3000, None), 1000),
        (Amount(None, 33.3), 333),
        (Amount(300, 50.0), 300),
        (Amount(700, 50.0), 500),
        (Amount(None, 0.0), 0),
    ],
)
def test_the_smaller_counts(given: Amount, of_thousand: int) -> None:
    assert given.of(1000) == of_thousand


@pytest.mark.parametrize(("text", "value"), [("97", 97.0), ("97%", 97.0), (" 1.5 % ", 1.5), ("100", 100.0)])
def test_share(text: str, value: float) -> None:
    assert share(1, 100).parse(text) == value


@pytest.mark.parametrize("text", ["", "0", "0.9%", "101", "x", "1%%", "-5", "nan"])
def test_share_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        share(1, 100).parse(text)


def test_bounded_duration() -> None:
    form = bounded_duration(1.0, 60.0)
    assert [form.parse(text) for text in ("1", "30s", "1m")] == [1.0, 30.0, 60.0]
    assert form.allowed.endswith("from 1s to 60s")
    for text in ("0.9", "61", "2m", "x"):
        with pytest.raises(ValueError):  # noqa: PT011
            form.parse(text)


def test_globs() -> None:
    assert GLOBS.parse("x.org/*, y.org/a@v1.*,") == ("x.org/*", "y.org/a@v1.*")
    assert GLOBS.parse("") == ()
    with pytest.raises(ValueError, match=r'"y\[" is malformed: a \[ is not closed'):
        GLOBS.parse("x,y[")


@pytest.mark.parametrize("text", ["9" * 400 + ".5TB", "9" * 5000, "1." + "9" * 400 + "TB"])
def test_a_size_beyond_all_measure(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        size(1, 10, "10").parse(text)


def test_water_marks_are_in_order() -> None:
    with pytest.raises(
        ConfigError, match=r"low_water: 98 \(.*\): expected no more than high_water, which is 97"
    ):
        load({"low_water": "98"}, {"HOME": "/home/x"}, None)


AUTHORITIES = ["proxy", "10.0.2.2:8080", "a-b.example.", "my_vm:1", "[fe80::1]", "[::ffff:10.0.0.1]:65535"]
NO_AUTHORITIES = [
    *(
        "",
        ":80",
        "a:",
        "a:0",
        "a:65536",
        "a:80:80",
        "a:-1",
        "a b",
        "a\n",
        "a@b",
        "-a",
        ".a",
        "a-",
        "é",
        "a:８",
    ),
    *("::1", "[::1", "[]", "[::g]", "[1:2]", "[::1]x", "[::1%eth0]", "[::1%25$(reboot)]", "[10.0.0.1]"),
    *("$(reboot)", "`reboot`", "a;b", "a'b", 'a"b', "a\\b", "a" * 260),
]


@pytest.mark.parametrize("text", AUTHORITIES)
def test_authority(text: str) -> None:
    assert is_authority(text)
    assert URL.parse(f"https://{text}/") == f"https://{text}"
    assert URL.parse(f"http://{text}/go/v1.x_~-") == f"http://{text}/go/v1.x_~-"


@pytest.mark.parametrize("text", NO_AUTHORITIES)
def test_no_authority(text: str) -> None:
    assert not is_authority(text)
    with pytest.raises(ValueError):  # noqa: PT011  # what is allowed says enough
        URL.parse(f"http://{text}")


@pytest.mark.parametrize(
    "text",
    [
        "proxy",
        "ftp://proxy",
        "HTTP://proxy",
        "http://a,http://b",
        "http://u:p@a",
        "http://a/b?c",
        "http://a//b",
    ],
)
def test_no_url(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        URL.parse(text)


def test_no_url_at_all() -> None:
    assert URL.parse("") == ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", ()),
        (
            "git.corp/*/*=ssh://git@git.corp:2222/{1}/{2}.git, code.corp/x=https://code.corp/scm/x.git",
            (
                Mapped("git.corp/*/*", "ssh://git@git.corp:2222/{1}/{2}.git"),
                Mapped("code.corp/x", "https://code.corp/scm/x.git"),
            ),
        ),
        ("git.corp/*=https://10.0.0.1:3000/{1}", (Mapped("git.corp/*", "https://10.0.0.1:3000/{1}"),)),
        ("git.corp/a=ssh://host/~me/a", (Mapped("git.corp/a", "ssh://host/~me/a"),)),
    ],
)
def test_repositories(text: str, value: tuple[Mapped, ...]) -> None:
    assert REPOSITORIES.parse(text) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("git.corp", "has no ="),
        ("git.corp/x=", "is no URL like"),
        ("nodot/x=https://h/x", "is no beginning of module paths"),
        ("git.corp/x y=https://h/x", "is no beginning of module paths"),
        ("git.corp/x*=https://h/x", "is no beginning of module paths"),
        ("git.corp/x=http://h/x", "is no URL like"),
        ("git.corp/x=file:///x", "is no URL like"),
        ("git.corp/x=ext::sh", "is no URL like"),
        ("git.corp/x=ssh://-oProxyCommand=x/y", "is no URL like"),
        ("git.corp/x=ssh://git:secret@h/x", "is no URL like"),
        ("git.corp/x=https://user:secret@h/x", "is no URL like"),
        ("git.corp/x=https://h:70000/x", "is no URL like"),
        ("git.corp/x=https://h/x?y", "is no URL like"),
        ("git.corp/*=https://h/{1}/{2}", "{2} stands for a *"),
    ],
)
def test_repositories_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        REPOSITORIES.parse(text)


def test_hosts() -> None:
    assert HOSTS.parse("a.corp:443, [fd00::1]:22") == {"a.corp:443", "[fd00::1]:22"}
    assert HOSTS.parse("") == frozenset()
    for text in ("a.corp", "a.corp:", ":443", "a.corp:0", "a.corp:70000", "A.corp:443", "a b:1", "a.corp:x"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            HOSTS.parse(text)


def test_private_for_everyone_is_warned_about() -> None:
    def warnings(**settings: str) -> tuple[str, ...]:
        return load({"private": "git.corp", "cache_dir": "/c", **settings}, {}, None).warnings

    (warning,) = warnings()
    assert "whoever reaches this server may have private modules" in warning
    for key, value in (
        ("private_clients", "10.0.0.0/8"),
        ("allow_clients", "10.0.0.0/8"),
        ("private_tokens_file", "/t"),
    ):
        assert warnings(**{key: value}) == ()


@pytest.mark.parametrize(
    ("private", "prefix", "named"),
    [
        ("", "git.corp/*", False),
        ("git.corp", "git.corp/*", True),
        ("other.corp,*.corp", "git.corp/*/*", True),
        ("other.corp", "git.corp/*/*", False),
        ("git.corp/team", "git.corp/*/*", True),
        ("git.corp/team/x", "git.corp/*", True),
        ("git.corp/team", "git.corp/group/*", False),
        ("git.corp/t*m", "git.corp/team", True),
    ],
)
def test_repositories_of_modules_that_are_not_private_are_warned_about(
    private: str, prefix: str, named: bool
) -> None:
    """The setting would do nothing, and the proxies would learn the names."""
    given = {"private": private, "private_clients": "10.0.0.0/8", "cache_dir": "/c"}
    warnings = load({**given, "private_repos": f"{prefix}=https://git.corp/x"}, {}, None).warnings
    assert [each.partition(": private names")[0] for each in warnings] == (
        [] if named else [f"private_repos: {prefix}"]
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", ""),
        ("", ""),
        ("https://vuln.go.dev", "https://vuln.go.dev"),
        ("http://127.0.0.1:8080/vulndb/", "http://127.0.0.1:8080/vulndb"),
        ("file:///srv/vuln db/", "file:///srv/vuln db"),
    ],
)
def test_vulndb(text: str, value: str) -> None:
    assert VULNDB.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("on", "vuln.go.dev", "ftp://vuln.go.dev", "https://user:secret@vuln.go.dev", "https://"),
        *("file://", "file:///", "file://host/x", "file:srv", "file:///a%20b", "file:///a?b", "file:///a\nb"),
        "https://vuln.go.dev|https://other.example",
    ],
)
def test_no_vulndb(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the form says what is allowed)
        VULNDB.parse(text)
    with pytest.raises(ConfigError, match=r"vulndb.*http\(s\)://HOST"):
        load({"vulndb": text}, {}, None)


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("10.0.0.7", "build-7"),
        ("10.0.0.8", "ci"),
        ("10.1.2.3", "all=of+them"),
        ("11.0.0.1", ""),
        ("fd00::7", "six"),
        ("fd01::7", ""),
        ("unix", ""),
        ("~0a1b", ""),
    ],
)
def test_the_smallest_network_names_a_client(client: str, name: str) -> None:
    text = "10.0.0.0/8=all=of+them, 10.0.0.7=build-7,10.0.0.0/24 = ci,fd00::/16=six"
    names = CLIENT_NAMES.parse(text)
    assert names.of(client) == name
    assert (name in names) == bool(name)
    assert names == CLIENT_NAMES.parse(text)
    assert CLIENT_NAMES.parse("") != names


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.7", '"10.0.0.7" has no ='),
        ("10.0.0.7=", '"" is no name'),
        ("10.0.0.7=a b", '"a b" is no name'),
        ("10.0.0.7=ä", "is no name"),
        (f"10.0.0.7={'a' * 101}", "is no name"),
        ("10.0.0.7/24=a", "has host bits set"),
        ("build=10.0.0.7", "does not appear to be"),
        ("10.0.0.7=a,10.0.0.7/32=b", '"10.0.0.7/32" has a name already'),
    ],
)
def test_names_of_clients_that_are_none(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        CLIENT_NAMES.parse(text)
