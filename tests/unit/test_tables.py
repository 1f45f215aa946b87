"""Sizes, ages and tables for people."""

from __future__ import annotations

import pytest

from goproxy_vm.config.text import percent, size
from goproxy_vm.console import tables


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (10 * 1024, "10.0 KiB"),
        (10239, "10.0 KiB"),
        (100 * 1024, "100 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (50_000_000_000, "46.6 GiB"),
        (1 << 63, "8.00 EiB"),
        (1 << 73, "8192 EiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (0, 0, "0.0%"),
        (0, 7, "0.0%"),
        (34, 47, "72.3%"),
        (2, 3, "66.7%"),
        (9996, 10000, "99.9%"),
        (999_999_999, 1_000_000_000, "99.9%"),
        (10000, 10000, "100.0%"),
    ],
)
def test_percent(part: int, whole: int, text: str) -> None:
    assert percent(part, whole) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0.4, "0s"),
        (59.6, "1m"),
        (61, "1m 1s"),
        (3600, "1h"),
        (3659, "1h"),
        (3660, "1h 1m"),
        (93784, "1d 2h"),
        (86400 * 365, "365d"),
    ],
)
def test_age(seconds: float, text: str) -> None:
    assert tables.age(seconds) == text


def test_table() -> None:
    lines = tables.table(("NAME", "SIZE"), [("a", 1), ("bcdef", 12345)], "SIZE")
    assert lines == ["NAME    SIZE", "a          1", "bcdef  12345"]


def test_recovery_and_truncation() -> None:
    removed = {"versions": 1, "files": 2, "bytes": 3, "answers": 1}
    answer = {"dry_run": False, "removed": removed, "items": [], "truncated": True}
    assert tables.removal(answer) == ["...", "removed: 1 version, 2 files, 3 B, 1 cached answer"]
    difference = {"a": "x", "b": "y", "came": [], "went": [], "bytes_came": 0, "bytes_freed": 0,
                  "freed_by_reason": {}, "truncated": True}  # fmt: skip
    assert tables.difference(difference) == ["...", "from x to y: 0 B came, 0 B freed"]


def test_vulns() -> None:
    one = {"id": "GO-2026-0001", "summary": "Trouble", "aliases": [], "fixed": "v1.2.0"}
    other = {**one, "id": "GO-2026-0002", "fixed": None, "summary": "x" * 100}
    answer = {
        "database": {"url": "https://vuln.go.dev", "modified": "2026-01-02T03:04:05.000Z"},
        "unread": 0,
        "items": [{"module": "example.com/m", "version": "v1.0.0", "advisories": [one, other]}],
        "total": 1,
    }
    lines = tables.vulns(answer)
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["example.com/m@v1.0.0", "GO-2026-0001", "v1.2.0"],
        ["example.com/m@v1.0.0", "GO-2026-0002", "none"],
    ]
    assert lines[2].endswith(" " + "x" * 60)
    assert lines[3].startswith("advisories are about 1 stored version; https://vuln.go.dev as of 2026-01-0")
    (last,) = tables.vulns({**answer, "items": [], "total": 12_345, "unread": 2})
    assert last.startswith(
        "advisories, of which 2 could not be read, are about 12,345 stored versions; 0 of them listed; "
    )
