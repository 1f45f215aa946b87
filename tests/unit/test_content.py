"""Lists and infos as clients accept them."""

from __future__ import annotations

import contextlib
import json
import random
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol import content, semver
from goproxy_vm.protocol.content import check_info, check_latest, render_list
from goproxy_vm.protocol.lines import LONGEST_LINE
from tests.fakes.steps import finish

M = "example.com/m"
T = TypeVar("T")


def parse_list(data: bytes, module: str) -> list[str]:
    return finish(content.parse_list(data, module))


def info(**fields: object) -> bytes:
    return json.dumps({"Version": "v1.0.0", "Time": "2024-01-02T03:04:05Z"} | fields).encode()


@pytest.mark.parametrize(
    ("case", "data"),
    [
        ("10", info()),
        ("13", b'{"Version":"v1.0.0"}'),
        ("13", info(Time=None)),
        ("14", info(Origin={"VCS": "git", "Hash": "abc", "Ref": None}, Unknown=[1, {"a": 2}])),
        ("14", info(Origin=None)),
        ("-", b'{"version":"v1.0.0","TIME":"2024-01-02T03:04:05.123456789+01:00"}'),
        ("-", b'{"Version":"v1.0.0","Time":"2024-01-02T3:04:05,5+24:00"}'),
        ("-", b' {"Version":"v0.0.1","Version":"v1.0.0"}\n'),
        ("-", b'{"version":"v1.0.0","Version":"v0.0.1","version":"v1.0.0"}'),
        ("-", '{"Version":"v0.0.1","Ver\u017fion":"v1.0.0"}'.encode()),
        ("-", b'{"Version":"v1.0.0","version":null}'),
        ("-", b'{"Version":"v1.0.0","x":%s}' % (b"1" * 5000)),
        ("-", b'{"Version":"v1.0.0","x":%s}' % (b"[" * 500 + b"]" * 500)),
    ],
)
def test_accepted(case: str, data: bytes) -> None:
    assert check_info(data, M, "v1.0.0") == "v1.0.0"


@pytest.mark.parametrize(
    ("case", "data"),
    [
        ("11", info(Version="v1.0.1")),
        ("12", b"<html></html>"),
        ("12", b"[]"),
        ("12", b""),
        ("12", b"\xef\xbb\xbf" + info()),
        ("12", info() + b"x"),
        ("15", info(Time="")),
        ("15", info(Time="2024-01-02")),
        ("15", info(Time="2024-13-02T03:04:05Z")),
        ("15", info(Time="2024-01-02T24:00:00Z")),
        ("15", info(Time="2023-02-29T03:04:05Z")),
        ("15", info(Time="2024-01-02T03:04:05+25:00")),
        ("15", info(Time=5)),
        ("15", b'{"Version":"v1.0.0","Time":"x","time":null}'),
        ("14", info(Origin=[])),
        ("14", info(Origin={"VCS": 1})),
        ("-", b"{}"),
        ("-", info(Version=1)),
        ("-", info(Version="")),
        ("-", info(Version="v" * 100_000)),
        ("-", b'{"Version":5,"Version":"v1.0.0"}'),
        ("-", b'{"Version":"v1.0.0","Origin":{"Ref":1},"Origin":{"Ref":"a"}}'),
        ("-", b'{"Version":"v1.0.0"}\x00'),
        ("-", b'{"Version":"v1.0.0","x":-Infinity}'),
        ("-", b'{"Version":"v1.0.0","x":NaN}'),
        ("-", b"[" * 100_000),
        ("-", b'{"Version":"v1.0.0","x":' + b'{"x":' * 100_000),
    ],
)
def test_refused(case: str, data: bytes) -> None:
    with pytest.raises(ContentError) as refused:
        check_info(data, M, "v1.0.0")
    assert len(refused.value.sentence) < 200


def test_case_16_query_answers_with_a_canonical_version() -> None:
    assert check_info(info(), M, "master") == "v1.0.0"


def test_case_16a_query_answered_with_the_branch() -> None:
    with pytest.raises(ContentError):
        check_info(info(Version="master"), M, "master")


def test_case_26_incompatible() -> None:
    assert check_info(info(Version="v2.0.0+incompatible"), M, "v2.0.0") == "v2.0.0+incompatible"
    with pytest.raises(ContentError):
        check_latest(info(Version="v2.0.0"), M)


def test_case_1_and_7_list_drops_what_clients_must_not_see() -> None:
    data = (
        b"v1.0.0\r\nv0.9.0 2024-01-02T03:04:05Z\nv2.0.0\njunk\n\nv1.0\nv1.0.0\n\xff\n"
        b"v0.0.0-20191109021931-daa7c04131f5 2019-11-09T02:19:31Z\nv1.10.0\nv1.9.0\nv2.0.0+incompatible\n"
    )
    pseudo = "v0.0.0-20191109021931-daa7c04131f5"
    assert parse_list(data, M) == [pseudo, "v0.9.0", "v1.0.0", "v1.9.0", "v1.10.0", "v2.0.0+incompatible"]


def test_pseudo_versions_stay_for_who_finds_no_latest() -> None:
    older, newer = "v0.0.0-20191109021931-daa7c04131f5", "v0.0.0-20200101000000-abcdefabcdef"
    assert parse_list(f"{newer}\n{older} 2019-11-09T02:19:31Z\nv2.0.0\n".encode(), M) == [older, newer]
    assert parse_list(f"{newer}\nv0.1.0\n".encode(), M) == [newer, "v0.1.0"]


def test_case_2_empty_list() -> None:
    assert parse_list(b"", M) == []
    assert render_list([]) == b""


@given(st.binary(max_size=200))
def test_any_list_renders_to_what_it_parses_to(data: bytes) -> None:
    try:
        versions = parse_list(data, M)
    except ContentError:
        return
    assert parse_list(render_list(versions), M) == versions


DOCUMENTS = st.recursive(
    st.none() | st.text(),
    lambda values: st.dictionaries(st.sampled_from(["Version", "Time", "Origin"]), values),
)


@given(st.binary(max_size=100) | DOCUMENTS.map(lambda value: json.dumps(value).encode()))
def test_any_info_is_a_version_or_a_content_error(data: bytes) -> None:
    with contextlib.suppress(ContentError):
        assert check_info(data, M, "master").startswith("v")


@pytest.mark.parametrize(
    "data",
    [
        b"<html>\n<body>sign in</body>\n",
        b"not a version\n",
        b'{"error": 1}',
        b"x\rv1.0.0\xe2\x80\xa8v1.0.0\n",
    ],
)
def test_a_page_is_no_list(data: bytes) -> None:
    with pytest.raises(ContentError):
        parse_list(data, M)


def test_a_list_of_another_major_is_one() -> None:
    assert parse_list(b"v2.0.0\n", M) == []


def test_a_long_list_is_the_same_in_steps() -> None:
    """Lines are whole in each step, whatever is on them, and none counts twice."""
    versions = [f"v1.{n}.{n % 7}" for n in range(3000)] + [f"v0.1.0-{n}.x" for n in range(3000)]
    lines = [f"{version} 2019-11-09T02:19:31Z é" for version in versions] * 2 + ["junk", "v2.0.0"] * 100
    random.Random(1).shuffle(lines)
    steps = content.parse_list("\n".join(lines).encode(), M)
    assert sum(1 for _ in content.parse_list("\n".join(lines).encode(), M)) > 100
    assert finish(steps) == sorted(versions, key=semver.order)


def test_bounds_of_lists_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MOST_VERSIONS", 500)
    lines = "".join(f"v1.{n}.0\n" for n in range(500)).encode()
    assert len(parse_list(lines * 2, M)) == 500
    with pytest.raises(ContentError, match="more than 500 versions"):
        parse_list(lines + b"v1.500.0", M)


@pytest.mark.parametrize("size", [100, 60_000, LONGEST_LINE + 2000, 200_000, 1_000_000])
def test_very_long_lines(size: int) -> None:
    """Versions are never so long."""
    longest = LONGEST_LINE
    long = f"v1.0.0-{'x' * size}"
    versions = parse_list(f"v0.1.0\n{long}\nv1.0.0 {'é' * size}\nv0.2.0".encode(), M)
    assert [each for each in versions if len(each) < 10] == [
        "v0.1.0",
        "v0.2.0",
        *["v1.0.0"] * (size < longest // 3),
    ]
    assert (long in versions) == (size < longest)
    assert all(len(each) < longest for each in versions)
    with pytest.raises(ContentError, match="no line that begins"):
        parse_list(b"<html>" + b"v1.0.0 " * size, M)


@pytest.mark.parametrize(
    ("data", "time"),
    [
        (info(), 1704164645.0),
        (b'{"version":"v1.0.0","TIME":"2024-01-02T04:04:05.250000000+01:00"}', 1704164645.25),
        (b'{"Version":"v1.0.0"}', None),
        (info(Time=None), None),
        (info(Time=5), None),
        (info(Time="2024-01-02T3:04:05Z"), None),
        (info(Time="2024-01-02T03:04:05"), None),
        (b"", None),
        (b"<html>", None),
    ],
)
def test_commit_time(data: bytes, time: float | None) -> None:
    assert content.commit_time(data) == time
