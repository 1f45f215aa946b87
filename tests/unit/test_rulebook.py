"""proxy/rulebook.py: rules that are given while the server runs are on disk before anybody is told."""

from __future__ import annotations

import asyncio
import json
from math import inf, nan
from pathlib import Path

import pytest

from goproxy_vm.errors import StartError, Unavailable
from goproxy_vm.protocol.policy import GateRule, Rule
from goproxy_vm.proxy import rulebook
from goproxy_vm.proxy.rulebook import KEPT, NAME, Full, Rulebook
from tests.fakes.wire import until as eventually

RULE = Rule.parse("github.com/x/y@v1.2.3")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Book:
    """A rulebook, and what it said was in force."""

    def __init__(self, root: Path, clock: Clock) -> None:
        (root / "tmp").mkdir(exist_ok=True)
        self.told: list[list[int]] = []
        self.clock = clock
        self.book = Rulebook(root, self._changed, clock)
        self.book.load()

    def _changed(self, rulings: list[GateRule]) -> None:
        self.told.append([each.number for each in rulings])

    async def give(
        self, rule: Rule = RULE, *, kind: str = "block", until: float | None = None, reason: str = "INC-1"
    ) -> tuple[GateRule, bool]:
        return await self.book.give(kind, rule, reason=reason, by="alice", until=until)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def made(tmp_path: Path, clock: Clock) -> Book:
    return Book(tmp_path, clock)


async def test_kept_over_a_restart(made: Book, tmp_path: Path, clock: Clock) -> None:
    first, new = await made.give()
    assert new
    assert made.told[-1] == [first.number] == [1]
    second, _ = await made.give(Rule.parse("a.b", whole=True), kind="exempt", until=clock.now + 60)
    again = Book(tmp_path, clock)
    assert again.book.in_force() == [first, second] == list(reversed(again.book.all()))
    assert again.told == [[1, 2]]
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
    assert not list((tmp_path / "tmp").iterdir())


async def test_the_same_again_is_the_same(made: Book) -> None:
    first, _ = await made.give()
    again, new = await made.give()
    assert (again, new) == (first, False)
    other, new = await made.give(reason="INC-2")
    assert (other.number, new) == (2, True)


async def test_numbers_are_never_used_again(made: Book, tmp_path: Path, clock: Clock) -> None:
    first, _ = await made.give()
    ended = await made.book.end(first.number)
    assert ended is not None
    assert ended.ended == clock.now
    assert made.told[-1] == []
    assert await made.book.end(first.number) is None
    assert await made.book.end(99) is None
    clock.now += KEPT + 1
    await made.give(reason="later")
    again = Book(tmp_path, clock)
    assert [each.number for each in again.book.all()] == [2], "what ended long ago is listed no more"
    assert again.book.find(1) is None


async def test_it_expires(made: Book, tmp_path: Path, clock: Clock) -> None:
    await made.give(until=clock.now + 10)
    kept, _ = await made.give(reason="for good")
    clock.now += 11
    task = asyncio.create_task(made.book.run())
    await eventually(lambda: made.told[-1] == [kept.number])
    # One that is given later is looked at, too, however long the nap.
    short, _ = await made.give(until=clock.now - 1, reason="over already")
    await eventually(lambda: made.told[-1] == [kept.number])
    assert made.told[-2] == [kept.number, short.number]
    task.cancel()
    await asyncio.wait([task])
    assert Book(tmp_path, clock).told == [[kept.number]]


async def test_a_clock_that_was_ahead(made: Book, tmp_path: Path, clock: Clock) -> None:
    """What was over by a wrong clock alone is in force again; what was taken back is not."""
    kept, _ = await made.give(until=clock.now + 10)
    taken, _ = await made.give(until=clock.now + 10, reason="taken back")
    await made.book.end(taken.number)
    clock.now += 11
    task = asyncio.create_task(made.book.run())
    await eventually(lambda: made.told[-1] == [])
    await made.give(reason="has the file written")
    clock.now -= 10
    await made.give(reason="has the clock looked at")
    await eventually(lambda: made.told[-1] == [kept.number, 3, 4])
    task.cancel()
    await asyncio.wait([task])
    assert Book(tmp_path, clock).told == [[kept.number, 3, 4]]


async def test_one_that_cannot_be_written_is_not_in_force(made: Book, tmp_path: Path) -> None:
    first, _ = await made.give()
    (tmp_path / "tmp").rmdir()
    (tmp_path / "tmp").write_bytes(b"")
    with pytest.raises(Unavailable, match="cannot be written, and nothing was changed: Not a directory"):
        await made.give(reason="another")
    with pytest.raises(Unavailable, match="nothing was changed"):
        await made.book.end(first.number)
    assert made.book.in_force() == [first]
    assert made.told == [[1]]


async def test_as_many_as_may_be(
    made: Book, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rulebook, "MOST", 3)
    for number in range(3):
        await made.give(reason=str(number))
    with pytest.raises(Full):
        await made.give(reason="one more")
    for number in range(4, 10):  # those that have ended are bounded, too
        await made.book.end(number - 3)
        await made.give(reason=str(number))
    assert [each.number for each in made.book.all()] == [9, 8, 7, 6, 5, 4]
    assert [each.number for each in Book(tmp_path, clock).book.all()] == [9, 8, 7, 6, 5, 4]


async def test_the_longest_file_can_be_read_again(made: Book, tmp_path: Path, clock: Clock) -> None:
    """A full rulebook of the longest rules is within the bound that a start holds the file to."""
    rule = Rule.parse("a.b/" + "c" * 990)
    made.book._rules = {
        number: GateRule(
            "exempt", rule, number, "\u2603" * 200, "\u2603" * 200, clock.now, clock.now + 1e9, None
        )
        for number in range(1, 2 * rulebook.MOST)
    }
    made.book._next = 2 * rulebook.MOST
    await made.book.end(1)
    assert len(Book(tmp_path, clock).book.all()) == 2 * rulebook.MOST - 1


GOOD = {
    "number": 1,
    "kind": "block",
    "rule": "a.b@v1.0.0",
    "whole": False,
    "reason": "r",
    "by": "b",
    "at": 1.0,
    "until": None,
    "ended": None,
}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b"[]", "list indices"),
        (b'{"format": 1, "next": 1}', "'rules'"),
        (b'{"format": 2, "next": 1, "rules": []}', "its format is 2, and this version knows 1"),
        (json.dumps({"format": 1, "next": 1, "rules": [GOOD]}).encode(), "numbers are not in order"),
        (json.dumps({"format": 1, "next": 9, "rules": [GOOD, GOOD]}).encode(), "numbers are not in order"),
        (json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "kind": "x"}]}).encode(), "of the kind 'x'"),
        (json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "rule": "a b"}]}).encode(), "holds a space"),
        (json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "at": "x"}]}).encode(), "a time is 'x'"),
        (
            json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "whole": "true"}]}).encode(),
            "whole is 'true'",
        ),
        (
            json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "until": 1e300}]}).encode(),
            "a time is 1e+300",
        ),
        (json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "until": nan}]}).encode(), "a time is nan"),
        (json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "at": 10**400}]}).encode(), "a time is 1000"),
        (json.dumps({"format": 1, "next": inf, "rules": [GOOD]}).encode(), "a number is inf"),
        (json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "number": 0}]}).encode(), "a number is 0"),
        (json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "reason": "a\nb"}]}).encode(), "a text is"),
        (json.dumps({"format": 1, "next": 2, "rules": [{**GOOD, "by": None}]}).encode(), "a text is None"),
        (b"\xff", "can't decode"),
        (b"{" + b" " * rulebook.LONGEST, "more than"),
    ],
)
def test_a_broken_file_ends_the_start(tmp_path: Path, clock: Clock, data: bytes, why: str) -> None:
    """No rules are not what was meant."""
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(StartError) as raised:
        Book(tmp_path, clock)
    said = raised.value.sentence
    assert said.startswith(f"{tmp_path / NAME}: this is no file of the gate's rules (")
    assert why in said
    assert "put a backup of it in its place" in said


def test_a_file_that_cannot_be_read(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(StartError, match="the gate's rules cannot be read: Is a directory"):
        Book(tmp_path, clock)
