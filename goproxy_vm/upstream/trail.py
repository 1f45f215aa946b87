"""For whom something is fetched: the servers like this one that wait for it.

A fetch is shared by all who want the same, and it asks for other things in turn. So a trail knows the trails
of those that have joined it, and names them all whenever an upstream is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextvars import Context, ContextVar, copy_context


class Trail:
    """The servers that a request came through, and those of all requests that wait for what it fetches."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = tuple(names)
        self.joined: dict[Trail, None] = {}

    def join(self, other: Trail) -> None:
        """What ``other`` is about waits for this, too."""
        if other is not self:
            self.joined[other] = None

    def __iter__(self) -> Iterator[str]:
        """The names, one may come twice."""
        seen = {self}
        waiting = [self]
        while waiting:
            trail = waiting.pop()
            yield from trail.names
            more = [each for each in trail.joined if each not in seen]
            seen.update(more)
            waiting += more


_TRAIL: ContextVar[Trail | None] = ContextVar("trail", default=None)


def begin(names: Iterable[str] = ()) -> Trail:
    """Let this task, and those that it starts, be about a request that came through these servers."""
    trail = Trail(names)
    _TRAIL.set(trail)
    return trail


def shared() -> tuple[Trail, Context]:
    """A trail for what others may join later, and the context of the task that is about it."""
    trail, context = Trail(), copy_context()
    trail.join(current())
    context.run(_TRAIL.set, trail)
    return trail, context


def current() -> Trail:
    """What this task is about; one of its own where nobody has said."""
    return _TRAIL.get() or begin()
