"""Where the checksum database's answers come from: any carrier will do, since each answer is proven."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from goproxy_vm.errors import (
    Absent,
    ContentError,
    ForkError,
    GoproxyError,
    Refused,
    Unconfirmed,
    Unproven,
    UpstreamError,
    UpstreamTimeout,
)
from goproxy_vm.protocol.content import check_supported
from goproxy_vm.upstream.backoff import Condition
from goproxy_vm.upstream.sink import Buffer

if TYPE_CHECKING:
    from goproxy_vm.traffic.slots import FairSlots
    from goproxy_vm.upstream.chain import Upstreams
    from goproxy_vm.upstream.upstream import Upstream

LONGEST_TILE = 256 << 10
"""Bytes allowed for a tile; the largest, those of records, have some fifty thousand."""
LONGEST_NOTE = 32 << 10
"""Bytes allowed for a lookup or a tree head; they have some hundred, and one more for each signature."""
LACKING = 600.0
"""Seconds for which a carrier that lacked what another had is asked last."""
UNCLEAR = 60.0
"""Seconds for which it stays unclear whether one that does not say so carries the database."""

_BEST = ("ok", "untried", "failing", "backed_off")

T = TypeVar("T")


@dataclass(slots=True)
class _Carrier:
    """One carrier: ``prefix`` is what its paths begin with; ``lacking_until`` by the monotonic clock.

    ``carries`` once it is known to have the database, which is not looked into before ``unclear_until``;
    ``trouble`` is how it failed last.
    """

    upstream: Upstream
    prefix: str
    slots: FairSlots
    carries: bool = False
    lacking_until: float = 0.0
    unclear_until: float = 0.0
    trouble: UpstreamError | None = None
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def failing(self) -> bool:
        return self.upstream.failing

    @property
    def lacking(self) -> bool:
        return self.lacking_until > time.monotonic()

    @property
    def slow(self) -> bool:
        """Whether it fails, and in a way that takes its time."""
        return self.failing and isinstance(self.trouble, UpstreamTimeout)

    async def fetch(self, path: str, check: Callable[[bytes], Awaitable[T]]) -> T:
        """As :meth:`Carriers.fetch`, from this one; Absent, Refused and UpstreamError as it says."""
        async with AsyncExitStack() as slot:
            await slot.enter_async_context(self.slots.proof())
            sink = Buffer()

            async def verdict() -> T:
                await slot.aclose()  # the check has tiles fetched
                return await check(sink.data)

            try:
                value = await self.upstream.fetch_alone(self.prefix + path, sink, _limit(path), verdict)
            except UpstreamError as error:
                self.trouble = error
                raise
        self.carries = True
        return value

    async def known_to_carry(self) -> bool:
        """Whether its 404 is about what was asked for, and not about the database as a whole."""
        async with self.looking:  # one asks, for all who want to know
            unclear = self.unclear_until > time.monotonic()
            if not (self.carries or self.lacking or self.slow or unclear):
                try:
                    await self.fetch("supported", _no_page)
                except Absent:
                    self.lacking_until = time.monotonic() + LACKING
                except GoproxyError:
                    self.unclear_until = time.monotonic() + UNCLEAR
        return self.carries

    def look_again(self, path: str) -> None:
        """Find out whether it still fails, when it is time to; nobody waits for that."""
        self.upstream.look_again(self.prefix + path, _limit(path))


class Carriers:
    """The upstreams' ``/sumdb/NAME/`` in their order, then the database itself.

    Whatever goes wrong with one, the next is asked: the separators of the upstream list do not matter
    here. A fork ends it: that is the database's own doing, and no carrier's.

    A carrier that fails is asked last, and not at all after a carrier's 404: how it failed is known. Nor does
    anybody wait for a database that is silent when a carrier had its chance. One request at a time, which
    nobody waits for, finds out whether a carrier is back.
    """

    def __init__(self, name: str, upstreams: Upstreams | None, database: Upstreams, slots: FairSlots) -> None:
        """``upstreams`` is None where the database has an explicit URL: that is then asked alone. Each
        request takes one of ``slots``."""
        self._carriers = (
            [_Carrier(carrier, f"sumdb/{name}/", slots) for carrier in upstreams.carriers]
            if upstreams is not None
            else []
        )
        (itself,) = database.carriers
        self._carriers.append(_Carrier(itself, "", slots, carries=True))

    def __len__(self) -> int:
        return len(self._carriers)

    @property
    def condition(self) -> Condition:
        """How the best of them does, for any will do."""
        every = [each.upstream.condition for each in self._carriers if not each.lacking]
        return min(every, key=lambda each: _BEST.index(each.state), default=Condition("untried"))

    async def fetch(self, path: str, check: Callable[[bytes], Awaitable[T]], *, skip: int = 0) -> T:
        """What ``check`` makes of the first good answer for ``path``, as in ``tile/8/0/000``.

        ``skip`` carriers are asked last. Absent: every one says 404 or 410. ForkError from ``check``.
        Otherwise ContentError if a carrier's answer was bad, Unconfirmed where one that carries the database
        says absent, else Unproven; they name what went wrong, and where some say absent, that too.
        """
        absent: list[tuple[_Carrier, Absent]] = []
        failed: list[tuple[_Carrier, UpstreamError | Refused]] = []
        order = self._order(skip)
        for number, carrier in enumerate(order):
            if carrier.trouble is not None and await self._in_vain(carrier, absent, failed):
                failed.append((carrier, carrier.trouble))
                carrier.look_again(path)
                continue
            try:
                value = await carrier.fetch(path, check)
            except ForkError:
                raise
            except Absent as error:
                absent.append((carrier, error))
            except (Refused, UpstreamError) as error:
                failed.append((carrier, error))
            else:
                for other, _ in absent:
                    other.lacking_until = time.monotonic() + LACKING
                for other in order[number + 1 :]:
                    other.look_again(path)
                return value
        if not failed:
            raise absent[0][1]
        said = "; ".join(error.sentence for _, error in [*absent[:1], *failed[:2]])
        if any(isinstance(error, ContentError) for _, error in failed):
            raise ContentError(said)
        raise Unconfirmed(said) if await _carried(absent) else Unproven(said)

    async def _in_vain(
        self,
        carrier: _Carrier,
        absent: list[tuple[_Carrier, Absent]],
        failed: list[tuple[_Carrier, UpstreamError | Refused]],
    ) -> bool:
        """Whether a carrier that fails need not be asked, after what others said."""
        if not carrier.failing:
            return False
        slow_database = carrier.slow and carrier is self._carriers[-1]
        return await _carried(absent) or (slow_database and await _carried(failed))

    def _order(self, skip: int) -> list[_Carrier]:
        turned = self._carriers[skip % len(self) :] + self._carriers[: skip % len(self)]
        return sorted(turned, key=lambda carrier: (carrier.failing, carrier.slow, carrier.lacking))


def _limit(path: str) -> int:
    return LONGEST_TILE if path.startswith("tile/") else LONGEST_NOTE


async def _carried(said: Sequence[tuple[_Carrier, GoproxyError]]) -> bool:
    """Whether any of those that said so carries the database."""
    for carrier, _ in said:
        if await carrier.known_to_carry():
            return True
    return False


async def _no_page(data: bytes) -> None:
    check_supported(data)
