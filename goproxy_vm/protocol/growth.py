"""How an append-only log has grown, as far as one host has proof of it, and how old a record is by that.

A signed tree head has no time, and may be stale when it comes: that it was proven at a time says that the log
had so many records then, or more. So each error goes one way: a record may be older than can be shown here,
and is never younger. Times are epoch seconds, by a clock that was not behind when a head was noted.
"""

from __future__ import annotations

import re
import zlib
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

HOUR: Final = 3600.0
DAY: Final = 86_400.0
EVERY: Final = 600.0
"""Seconds between two heads that are noted: more of them would tell nothing more."""
ALL: Final = DAY
"""Seconds back to which all of them are kept; of those before it one an hour."""
HOURLY: Final = 400 * DAY
"""Seconds back to which that is so; of those before it one a day is kept."""

_LINE: Final = re.compile(r"([0-9]{1,19}) ([0-9]{1,12}) ([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class NotedHead:
    """At the time ``at`` the log had ``size`` records, or more."""

    size: int
    at: float


class Growth:
    """Sizes of a log by the times at which they were proven; both only grow."""

    def __init__(self, heads: Iterable[NotedHead] = ()) -> None:
        """ValueError: one of them is not larger and later than the one before it."""
        self._sizes: list[int] = []
        self._times: list[float] = []
        for each in heads:
            if each.size <= self.size or (self._times and each.at <= self._times[-1]) or each.at < 0:
                raise ValueError(f"a head of {each.size} records at {each.at:.0f} is out of order")
            self._add(each)

    def _add(self, head: NotedHead) -> None:
        self._sizes.append(head.size)
        self._times.append(head.at)

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def heads(self) -> list[NotedHead]:
        """All of them, the oldest first."""
        return [NotedHead(size, at) for size, at in zip(self._sizes, self._times, strict=True)]

    @property
    def size(self) -> int:
        """The largest one."""
        return self._sizes[-1] if self._sizes else 0

    @property
    def first(self) -> float | None:
        """When the first one was noted."""
        return self._times[0] if self._times else None

    @property
    def last(self) -> float | None:
        """When the last one was noted."""
        return self._times[-1] if self._times else None

    def note(self, size: int, at: float) -> NotedHead | None:
        """Note a head that has just been proven; None where it tells nothing: a stale one, one too soon after
        another, or by a clock that has been set back behind it."""
        if size <= self.size or at < 0 or (self._times and at < self._times[-1] + EVERY):
            return None
        head = NotedHead(size, float(int(at) + 1))  # whole seconds, and not before it was there
        self._add(head)
        return head

    def logged_before(self, number: int) -> float | None:
        """The earliest time at which the record of that number was noted to be in the log; None: not yet."""
        place = bisect_right(self._sizes, number)
        return self._times[place] if place < len(self._sizes) else None

    def absent_at(self, number: int) -> float | None:
        """The latest time of a head that did not have that record; it may have been stale. None: there is
        none."""
        place = bisect_right(self._sizes, number)
        return self._times[place - 1] if place else None

    def size_at(self, then: float) -> int:
        """How many records the log is known to have had at that time: those of lower numbers are older."""
        place = bisect_right(self._times, then)
        return self._sizes[place - 1] if place else 0

    def old_enough(self, number: int, age: float, now: float) -> bool:
        """Whether the record of that number has provably been in the log for ``age`` seconds."""
        return number < self.size_at(now - age)

    def forget_after(self, then: float) -> bool:
        """Forget what was noted after ``then``, by a clock that ran ahead; whether there was any."""
        place = bisect_right(self._times, then)
        found = place < len(self._times)
        del self._sizes[place:], self._times[place:]
        return found

    def copy(self) -> Growth:
        """One that grows by itself."""
        other = Growth()
        other._sizes, other._times = self._sizes.copy(), self._times.copy()
        return other

    def thin(self, now: float) -> None:
        """Forget heads that tell little: of each hour, and long ago of each day, the first one stays."""
        kept: list[NotedHead] = []
        before: tuple[float, int] | None = None
        recent = bisect_left(self._times, now - ALL)
        for head in self.heads[:recent]:
            span = HOUR if head.at >= now - HOURLY else DAY
            place = span, int(head.at // span)
            if place != before:
                kept.append(head)
            before = place
        kept += self.heads[recent:]
        self._sizes = [head.size for head in kept]
        self._times = [head.at for head in kept]


def line(head: NotedHead) -> bytes:
    """A head as a line of the file that keeps them, with a check of its digits."""
    text = f"{head.size} {head.at:.0f}"
    return f"{text} {_check(text)}\n".encode()


def parse(data: bytes) -> tuple[Growth, bool]:
    """What such a file says, and whether its last line is torn, and left out: it was being written when the
    power failed. ValueError: anything else is wrong with it."""
    *whole, rest = data.decode("ascii", "replace").split("\n")
    heads = []
    for number, each in enumerate(whole, 1):
        match = _LINE.fullmatch(each)
        if match is None or _check(f"{match[1]} {match[2]}") != match[3]:
            raise ValueError(f"line {number} is damaged")
        heads.append(NotedHead(int(match[1]), float(match[2])))
    return Growth(heads), bool(rest)


def _check(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"
