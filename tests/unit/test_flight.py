"""One flight per key: joined, outliving its clients, failing for all, leaving nothing behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from goproxy_vm.errors import UnderWay
from goproxy_vm.protocol.loop import MOST, new_name
from goproxy_vm.traffic.flight import Flights
from goproxy_vm.traffic.slots import Claim, FairSlots
from goproxy_vm.upstream import trail


@dataclass
class Source:
    """A fetch that waits for its gate and counts its calls."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    calls: int = 0
    error: Exception | None = None

    async def fetch(self) -> str:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return "bytes"


@dataclass
class Ledger:
    shared: int = 0
    released: list[str] = field(default_factory=list)

    def flights(self) -> Flights[str]:
        def share(value: str) -> str:
            self.shared += 1
            return f"{value}-{self.shared}"

        return Flights(share, self.released.append)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_concurrent_joins_share_one_fetch_and_each_gets_a_copy() -> None:
    ledger, source = Ledger(), Source()
    flights = ledger.flights()
    joins = [asyncio.create_task(flights.join("k", source.fetch)) for _ in range(50)]
    await settle()
    assert "k" in flights
    assert len(flights) == 1
    source.gate.set()
    results = await asyncio.gather(*joins)
    assert source.calls == 1
    assert sorted(collapsed for _, collapsed in results) == [False] + [True] * 49
    assert len({value for value, _ in results}) == 50
    assert ledger.released == ["bytes"]
    assert len(flights) == 0


async def test_flight_outlives_the_client_that_began_it() -> None:
    ledger, source = Ledger(), Source()
    flights = ledger.flights()
    first = asyncio.create_task(flights.join("k", source.fetch))
    await settle()
    second = asyncio.create_task(flights.join("k", source.fetch))
    await settle()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    source.gate.set()
    assert await second == ("bytes-1", True)
    assert source.calls == 1
    assert ledger.released == ["bytes"]


async def test_flight_without_any_waiter_releases_its_result() -> None:
    ledger, source = Ledger(), Source()
    flights = ledger.flights()
    assert flights.start("k", source.fetch)
    assert not flights.start("k", source.fetch)
    source.gate.set()
    await settle()
    assert ledger.released == ["bytes"]
    assert ledger.shared == 0


async def test_failure_reaches_all_and_is_not_remembered() -> None:
    ledger, source = Ledger(), Source(error=OSError("broken"))
    flights = ledger.flights()
    joins = [asyncio.create_task(flights.join("k", source.fetch)) for _ in range(3)]
    await settle()
    source.gate.set()
    assert [str(error) for error in await asyncio.gather(*joins, return_exceptions=True)] == ["broken"] * 3
    source.error = None
    assert await flights.join("k", source.fetch) == ("bytes-1", False)
    assert source.calls == 2


async def test_failure_nobody_waits_for_is_no_unretrieved_exception() -> None:
    ledger, source = Ledger(), Source(error=OSError("broken"))
    flights = ledger.flights()
    flights.start("k", source.fetch)
    source.gate.set()
    await settle()
    assert len(flights) == 0


async def test_close_cancels_what_is_under_way() -> None:
    ledger, source = Ledger(), Source()
    flights = ledger.flights()
    join = asyncio.create_task(flights.join("k", source.fetch))
    await settle()
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await join
    assert ledger.released == []
    assert len(flights) == 0


async def test_a_detached_flight_is_joined_by_nobody_more() -> None:
    ledger, old, new = Ledger(), Source(), Source()
    flights = ledger.flights()
    waiting = asyncio.create_task(flights.join("k", old.fetch))
    other = asyncio.create_task(flights.join("other", old.fetch))
    await settle()
    flights.detach(lambda key: key == "k")
    assert "k" not in flights
    assert "other" in flights
    assert len(flights) == 2, "it goes on"
    anew = asyncio.create_task(flights.join("k", new.fetch))
    await settle()
    assert new.calls == 1
    old.gate.set()
    assert (await waiting)[1] is False
    assert "k" in flights, "the old one's landing is not the new one's"
    await other
    assert not anew.done()
    new.gate.set()
    assert (await anew)[1] is False
    assert "k" not in flights
    assert ledger.released == ["bytes"] * 3
    flights.detach(lambda _: True)


async def test_closing_cancels_detached_flights_too() -> None:
    ledger, source = Ledger(), Source()
    flights = ledger.flights()
    flights.start("k", source.fetch)
    await settle()
    flights.detach(lambda _: True)
    await flights.close()
    await settle()
    assert len(flights) == 0
    assert ledger.released == []


async def waiting(flights: Flights[str], claim: Claim, key: str = "k") -> asyncio.Task[tuple[str, bool]]:
    """A join whose fetch needs a slot first."""

    async def fetch() -> str:
        async with claim.hold(60):
            await asyncio.sleep(3600)
        return "bytes"

    task = asyncio.create_task(flights.join(key, fetch, claim))
    await settle()
    return task


async def test_a_flight_without_slot_ends_with_its_last_waiter() -> None:
    slots, flights = FairSlots(1), Ledger().flights()
    async with slots.claim("another").hold(60):
        first = await waiting(flights, slots.claim("a"))
        second = await waiting(flights, slots.claim("b"))
        first.cancel()
        await settle()
        assert "k" in flights
        second.cancel()
        await asyncio.sleep(0)
        assert "k" not in flights
        await settle()
        assert (len(flights), slots.waiting) == (0, 0)


async def test_a_flight_with_its_slot_goes_on() -> None:
    slots, flights = FairSlots(1), Ledger().flights()
    only = await waiting(flights, slots.claim("a"))
    only.cancel()
    await settle()
    assert "k" in flights
    await flights.close()


async def test_who_joins_lends_its_share_to_the_flight() -> None:
    slots, flights = FairSlots(8), Ledger().flights()
    greedy = [await waiting(flights, slots.claim("greedy"), f"k{number}") for number in range(10)]
    claim = slots.claim("greedy")
    greedy.append(await waiting(flights, claim, "popular"))
    assert not claim.held
    other = await waiting(flights, slots.claim("other"), "popular")
    assert claim.held
    for task in (*greedy, other):
        task.cancel()
    await flights.close()


async def test_nobody_joins_what_has_ended_and_not_landed() -> None:
    """Two who come in the same turn of the loop would share a result that the first of them releases."""
    ledger, source = Ledger(), Source()
    flights = ledger.flights()
    flights.start("k", source.fetch)
    await settle()
    (task,) = (each for each in asyncio.all_tasks() if each.get_name() == "flight k")

    async def join() -> tuple[str, bool]:
        assert task.done()
        return await flights.join("k", source.fetch)

    source.gate.set()  # it ends in the next turn of the loop, and lands in the one after that
    late = [asyncio.create_task(join()) for _ in range(2)]
    results = await asyncio.gather(*late)
    assert source.calls == 2, "a new flight, which looks in the store"
    assert len({value for value, _ in results}) == 2
    await settle()
    assert ledger.released == ["bytes", "bytes"]


async def test_who_has_no_patience_is_told_and_the_flight_goes_on() -> None:
    source, ledger = Source(), Ledger()
    flights = ledger.flights()
    for _ in range(3):
        with pytest.raises(UnderWay):
            await flights.join("k", source.fetch, patience=0)
    source.gate.set()
    assert await flights.join("k", source.fetch, patience=60) == ("bytes-1", True)
    await settle()
    assert source.calls == 1
    assert ledger.released == ["bytes"]


async def test_names_of_who_left_are_bounded() -> None:
    """One connection that was told to ask again, and did, left all that it named each time: 330 MiB."""
    source, ledger, seen = Source(), Ledger(), [new_name() for _ in range(40 * MOST)]
    flights = ledger.flights()
    about: list[trail.Trail] = []

    async def fetch() -> str:
        about.append(trail.current())
        return await source.fetch()

    async def ask(number: int) -> None:
        trail.begin(seen[: number * MOST])
        await flights.join("k", fetch, patience=0)

    for number in range(41):
        with pytest.raises(UnderWay):
            await asyncio.create_task(ask(number))
    assert list(about[0]) == seen[-MOST:]
    assert not about[0].joined
    loop = asyncio.get_running_loop()
    timers = [each for each in loop._scheduled if not each.cancelled()]  # type: ignore[attr-defined]
    assert len(timers) == 1, "one look whether anybody came back"
    source.gate.set()
    await settle()


async def test_a_fetch_that_waits_for_another_names_who_joins_it_later() -> None:
    inner, outer, ledger = Source(), Source(), Ledger()
    flights = ledger.flights()
    about: list[trail.Trail] = []

    async def innermost() -> str:
        about.append(trail.current())
        return await inner.fetch()

    async def around() -> str:
        await flights.join("inner", innermost)
        return await outer.fetch()

    async def ask(name: str) -> None:
        trail.begin([name])
        await flights.join("outer", around)

    asking = [asyncio.create_task(ask("one"))]
    await settle()
    asking.append(asyncio.create_task(ask("two")))
    await settle()
    assert set(about[0]) == {"one", "two"}
    other = asyncio.create_task(flights.join("inner", innermost))
    inner.gate.set()
    await settle()
    assert not about[0].joined
    outer.gate.set()
    await asyncio.gather(other, *asking)
