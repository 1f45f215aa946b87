"""Ranges and validators (PROTOCOL cases 52–55)."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.web.fileio import PIECE, pieces
from goproxy_vm.web.send import Unsatisfiable, matches, parse_range
from goproxy_vm.web.unread import Unread

if TYPE_CHECKING:
    from goproxy_vm.web.connection import Connection


@pytest.mark.parametrize(
    ("value", "part"),
    [
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 10)),
        ("bytes=90-1000", (90, 10)),
        ("bytes=-5", (95, 5)),
        ("bytes=-500", (0, 100)),
        ("bytes=99-99", (99, 1)),
        ("bytes=9-0", None),
        ("bytes=-", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("bytes=a-b", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("", None),
    ],
)
def test_single_ranges(value: str, part: tuple[int, int] | None) -> None:
    assert parse_range(value, 100) == part


@pytest.mark.parametrize(("value", "length"), [("bytes=100-", 100), ("bytes=-0", 100), ("bytes=0-", 0)])
def test_range_past_the_end(value: str, length: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(value, length)


@given(st.text(), st.integers(0, 1 << 40))
def test_any_header_gives_a_part_of_the_file_or_nothing(value: str, length: int) -> None:
    try:
        part = parse_range(f"bytes={value}", length)
    except Unsatisfiable:
        return
    if part is not None:
        offset, count = part
        assert offset >= 0
        assert count > 0
        assert offset + count <= length


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('"a"', True),
        ("*", True),
        ('W/"a"', True),
        ('"b", "a"', True),
        ('"b"', False),
        ("", False),
        ("a", False),
    ],
)
def test_if_none_match(header: str, *, expected: bool) -> None:
    assert matches(header, '"a"') is expected


async def test_a_quick_client_leaves_turns_to_others() -> None:
    """One that takes all at once was sent 16 MiB in a single turn of the loop."""
    turns, got = 0, bytearray()

    class Quick:
        client = "quick"
        unread = Unread()
        transport = SimpleNamespace(write=got.extend)

        async def taken(self) -> None:
            """It always has."""

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    body = bytes(4 << 20)
    assert await pieces(cast("Connection", Quick()), body, 0, len(body)) == len(body)
    counting.cancel()
    assert bytes(got) == body
    assert turns >= len(body) // PIECE
