"""What a VM may tell of itself."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.errors import MalformedReport
from goproxy_vm.protocol.report import SIZES, WORDS, VmReport, parse_report

WHOLE = "script=clean&go=go1.26.8&bootstrap=go1.24.11&os=linux&arch=amd64&modcache_mib=409&gocache_mib=920"
LEAST = WHOLE.partition("&modcache_mib")[0]
NO_WORDS = (
    *("", "a" * 33, "Go1", "go1 ", "go%31", "a/b", "a_b", "a\n", "\n", "a=b", "é", "٣"),
    *('a"', "a{}", "<b>", "$(x)", "\x1b[0m"),
)
NO_NUMBERS = ("", "1234567890", "-1", "+1", "1.0", "0x1", "٤", " 1", "1\n", "1e3", "1_0")
NO_RELEASES = ("devel", "go", "1.26.8", "go2.1", "go1.26.8-x", "go1.26.8+auto", "go1.", "other", "go1.26.8.1")


def test_a_report() -> None:
    assert parse_report(WHOLE) == VmReport("clean", "go1.26.8", "go1.24.11", "linux", "amd64", 409, 920)
    assert parse_report(LEAST) == VmReport("clean", "go1.26.8", "go1.24.11", "linux", "amd64", None, None)
    assert parse_report("&".join(reversed(WHOLE.split("&")))) == parse_report(WHOLE)
    assert parse_report(f"{LEAST}&gocache_mib=0").gocache_mib == 0


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "nothing else"),
        ("&", "nothing else"),
        (WHOLE + "&", "nothing else"),
        (WHOLE + "&host=vm7", "nothing else"),
        (WHOLE + "&Script=x", "nothing else"),
        (WHOLE.replace("os=", "%6fs="), "nothing else"),
        (WHOLE.replace("&os=linux", ""), "os is missing"),
        ("modcache_mib=1", "script is missing"),
        (WHOLE + "&go=go1.26.8", "go is given twice"),
        (WHOLE + "&gocache_mib=920", "gocache_mib is given twice"),
        (LEAST + "&script=clean" * 50_000, "script is given twice"),
        *((WHOLE.replace("go1.26.8", bad), "go: 1 to 32") for bad in NO_WORDS),
        *((WHOLE.replace("409", bad), "modcache_mib: a") for bad in NO_NUMBERS),
    ],
)
def test_what_is_none(query: str, said: str) -> None:
    with pytest.raises(MalformedReport) as caught:
        parse_report(query)
    assert said in caught.value.sentence
    assert caught.value.status == 400
    assert len(caught.value.sentence) < 200
    assert caught.value.sentence.isprintable()


def test_a_sentence_repeats_nothing() -> None:
    for query in (f"{WHOLE}&<script>=1", WHOLE.replace("linux", "<script>"), "<script>"):
        with pytest.raises(MalformedReport) as caught:
            parse_report(query)
        assert "<" not in caught.value.sentence


WORD = st.text(string.ascii_lowercase + string.digits + ".+-", min_size=1, max_size=32)
SIZE = st.none() | st.integers(0, 10**9 - 1)


@given(st.builds(VmReport, WORD, WORD, WORD, WORD, WORD, SIZE, SIZE))
def test_it_is_read_as_it_is_written(report: VmReport) -> None:
    assert parse_report(report.query) == report


@given(
    st.text(max_size=300) | st.lists(st.sampled_from([*WORDS, *SIZES, "x", "", "=", "&", "1"])).map("".join)
)
def test_anything_is_a_report_or_none(text: str) -> None:
    for query in (text, f"{WHOLE}{text}", WHOLE.replace("go1.26.8", text)):
        try:
            report = parse_report(query)
        except MalformedReport:
            continue
        assert parse_report(report.query) == report


@pytest.mark.parametrize(
    ("go", "release"),
    [
        *(("go1.26.8", "1.26.8"), ("go1.27", "1.27"), ("go1.27rc1", "1.27rc1"), ("go1.4beta1", "1.4beta1")),
        *((each, "") for each in NO_RELEASES),
    ],
)
def test_a_release(go: str, release: str) -> None:
    assert VmReport("setup", go, "go1.24.11", "linux", "amd64").release == release
