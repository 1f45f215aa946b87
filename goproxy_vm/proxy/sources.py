"""Where the checksum database's answers come from: any carrier will do, since each answer is proven."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from goproxy_vm.errors import Absent, ContentError, ForkError, Refused, Unproven, UpstreamError
from goproxy_vm.upstream.sink import Memory

if TYPE_CHECKING:
    from goproxy_vm.upstream.chain import Upstreams

LIMIT = 1 << 20
"""Bytes allowed for a lookup, a tree head or a tile."""
LACKING = 600.0
"""Seconds for which a carrier that lacked what another had is asked last."""

T = TypeVar("T")


@dataclass(slots=True)
class _Source:
    """One carrier: ``prefix`` is what its paths begin with; ``lacking_until`` by the monotonic clock."""

    upstreams: Upstreams
    index: int
    prefix: str
    lacking_until: float = 0.0

    @property
    def name(self) -> str:
        return self.upstreams.names[self.index]


class Sources:
    """The upstreams' ``/sumdb/NAME/`` in their order, then the database itself.

    Whatever goes wrong with one, the next is asked: the separators of the upstream list do not matter
    here. A fork ends it: that is the database's own doing, and no carrier's.
    """

    def __init__(self, name: str, upstreams: Upstreams | None, database: Upstreams) -> None:
        """``upstreams`` is None where the database has an explicit URL: that is then asked alone."""
        self._sources = (
            [_Source(upstreams, index, f"sumdb/{name}/") for index in range(len(upstreams.names))]
            if upstreams is not None
            else []
        )
        self._sources.append(_Source(database, 0, ""))

    def __len__(self) -> int:
        return len(self._sources)

    async def fetch(self, path: str, check: Callable[[bytes], Awaitable[T]], *, skip: int = 0) -> T:
        """What ``check`` makes of the first good answer for ``path``, as in ``tile/8/0/000``.

        ``skip`` sources are asked last. Absent: every one says 404 or 410. ForkError from ``check``.
        Otherwise ContentError if a source's answer was bad, else Unproven; both name what went wrong, and
        where some say absent, that too.
        """
        absent: list[Absent] = []
        lacking: list[_Source] = []
        failed: list[UpstreamError | Refused] = []
        for source in self._order(skip):
            sink = Memory()

            async def verdict(sink: Memory = sink) -> T:
                return await check(sink.data)

            try:
                value = await source.upstreams.fetch_from(
                    source.index, source.prefix + path, sink, limit=LIMIT, check=verdict
                )
            except ForkError:
                raise
            except Absent as error:
                absent.append(error)
                lacking.append(source)
            except (Refused, UpstreamError) as error:
                failed.append(error)
            else:
                for other in lacking:
                    other.lacking_until = time.monotonic() + LACKING
                return value
        if not failed:
            raise absent[0]
        lied = any(isinstance(error, ContentError) for error in failed)
        family = ContentError if lied else Unproven
        raise family("; ".join(error.sentence for error in [*absent[:1], *failed[:2]]))

    def _order(self, skip: int) -> list[_Source]:
        turned = self._sources[skip % len(self) :] + self._sources[: skip % len(self)]
        now = time.monotonic()
        return sorted(
            turned, key=lambda source: (source.upstreams.failing(source.index), source.lacking_until > now)
        )
