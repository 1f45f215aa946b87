"""Miss slots: bounded, fair, and never lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goproxy_vm.errors import Overloaded, UpstreamTimeout
from goproxy_vm.proxy.slots import FairSlots


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Club:
    """Clients that hold slots until told to leave."""

    def __init__(self, total: int) -> None:
        self.slots = FairSlots(total)
        self.inside: list[str] = []
        self.leave: dict[asyncio.Task[None], asyncio.Event] = {}

    def ask(self, client: str) -> asyncio.Task[None]:
        event = asyncio.Event()

        async def hold() -> None:
            async with self.slots.hold(client, 60):
                self.inside.append(client)
                try:
                    await event.wait()
                finally:
                    self.inside.remove(client)

        task = asyncio.create_task(hold())
        self.leave[task] = event
        return task

    async def empty(self) -> None:
        for event in self.leave.values():
            event.set()
        await asyncio.gather(*self.leave, return_exceptions=True)


async def test_no_client_holds_more_than_a_quarter() -> None:
    club = Club(8)
    for _ in range(20):
        club.ask("greedy")
    await settle()
    assert Counter(club.inside) == {"greedy": 2}
    assert len(club.slots._waiting) == 18
    club.ask("newcomer")
    await settle()
    assert Counter(club.inside) == {"greedy": 2, "newcomer": 1}
    await club.empty()
    assert len(club.slots._waiting) == 0


async def test_freed_slots_go_to_whoever_holds_fewest() -> None:
    club = Club(8)
    for name in ("a", "b", "c"):
        for _ in range(3):
            club.ask(name)
    last = [club.ask(name) for name in ("d", "d", "e")]
    await settle()
    assert Counter(club.inside) == {"a": 2, "b": 2, "c": 2, "d": 2}
    club.leave[last[0]].set()
    await settle()
    assert Counter(club.inside) == {"a": 2, "b": 2, "c": 2, "d": 1, "e": 1}
    await club.empty()


async def test_a_single_slot_serves_everyone_in_turn() -> None:
    club = Club(1)
    tasks = [club.ask(name) for name in "abc"]
    await settle()
    assert club.inside == ["a"]
    club.leave[tasks[0]].set()
    await settle()
    assert club.inside == ["b"]
    await club.empty()


async def test_cancelled_waiter_gives_up_its_turn() -> None:
    club = Club(1)
    first, second, third = (club.ask(name) for name in "abc")
    await settle()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    club.leave[first].set()
    await settle()
    assert club.inside == ["c"]
    club.leave[third].set()
    await third
    assert club.inside == []


async def test_slot_granted_to_a_waiter_cancelled_in_the_same_turn_is_passed_on() -> None:
    club = Club(1)
    first, second, third = (club.ask(name) for name in "abc")
    await settle()
    club.leave[first].set()
    await asyncio.sleep(0)  # first leaves: the slot is granted to second, which has not run yet
    second.cancel()
    await settle()
    assert second.cancelled()
    assert club.inside == ["c"]
    await club.empty()
    assert third.done()


@settings(max_examples=50, deadline=None)
@given(
    total=st.integers(1, 9),
    steps=st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["ask", "leave", "cancel"])), max_size=60
    ),
)
def test_never_more_than_total_nor_than_a_quarter(total: int, steps: list[tuple[str, str]]) -> None:
    async def play() -> None:
        club = Club(total)
        asked: list[asyncio.Task[None]] = []
        for client, step in steps:
            if step == "ask":
                asked.append(club.ask(client))
            elif asked and step == "leave":
                club.leave[asked[len(steps) % len(asked)]].set()
            elif asked:
                asked[0].cancel()
            await settle()
            assert len(club.inside) <= total
            assert max(Counter(club.inside).values(), default=0) <= max(1, total // 4)
        await club.empty()
        assert club.inside == []
        assert len(club.slots._waiting) == 0

    asyncio.run(play())


async def test_a_deadline_for_waiting_and_working_together() -> None:
    slots = FairSlots(1)
    async with slots.hold("a", 60):
        with pytest.raises(Overloaded, match=r"no slot for a fetch came free within 0\.05 s"):
            async with slots.hold("b", 0.05):
                pytest.fail("there is one slot")
    with pytest.raises(UpstreamTimeout, match=r"not fetched within 0\.05 s \(setting total_timeout\)"):
        async with slots.hold("b", 0.05):
            await asyncio.sleep(60)
    async with slots.hold("c", 60):
        pass


async def test_a_timeout_of_the_work_is_its_own() -> None:
    """Not one of ours: an operating system's ETIMEDOUT says nothing about total_timeout."""
    slots = FairSlots(1)
    error = TimeoutError(110, "Connection timed out")
    with pytest.raises(TimeoutError) as caught:
        async with slots.hold("a", 60):
            raise error
    assert caught.value is error
