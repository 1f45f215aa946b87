"""For whom something is fetched: the servers like this one that wait for it.

A fetch is shared by all who want the same, and it asks for other things in turn. So a trail knows the trails
of the fetches that wait for it, and names them all whenever an upstream is asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextvars import Context, ContextVar, copy_context

from goproxy_vm.lru import Lru
from goproxy_vm.protocol.loop import MOST


class Trail:
    """The servers that a request came through, or those of all requests that wait for a fetch; the newest
    ``MOST``, for a client can name as many as it likes and ask as often. ``client`` is who began it."""

    def __init__(self, names: Iterable[str] = (), *, shared: bool = False, client: str = "") -> None:
        """``shared``: it is a fetch's, which others may join later."""
        self.client = client
        self.names: Lru[str, None] = Lru(MOST)
        self.joined: Counter[Trail] = Counter()
        self._shared = shared
        self._note(names)

    def join(self, other: Trail) -> None:
        """What ``other`` is about waits for this, too, until :meth:`leave`."""
        if other is not self:
            self._note(other)
            if other._shared:  # else it never has other names than now
                self.joined[other] += 1

    def leave(self, other: Trail) -> None:
        """It waits no longer. Its names stay: a server that was told to ask again does."""
        if other in self.joined:
            self._note(other)
            self.joined[other] -= 1
            if not self.joined[other]:
                del self.joined[other]

    def _note(self, names: Iterable[str]) -> None:
        for name in list(names):
            self.names.keep(name, None)

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


def begin(names: Iterable[str] = (), client: str = "") -> Trail:
    """Let this task, and those that it starts, be about a request of ``client`` (its address) that came
    through these servers."""
    trail = Trail(names, client=client)
    _TRAIL.set(trail)
    return trail


def shared() -> tuple[Trail, Context]:
    """A trail for what others may join, begun for the present one, and the context of the task about it."""
    about = current()
    trail, context = Trail(about, shared=True, client=about.client), copy_context()
    context.run(_TRAIL.set, trail)
    return trail, context


def current() -> Trail:
    """What this task is about; one of its own where nobody has said."""
    return _TRAIL.get() or begin()
