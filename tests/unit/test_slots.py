"""Miss slots: bounded, fair, and never lost."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goproxy_vm.errors import Overloaded, UpstreamTimeout
from goproxy_vm.traffic import slots as slots_module
from goproxy_vm.traffic.slots import Claim, FairSlots


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Club:
    """Clients that hold slots until told to leave."""

    def __init__(self, total: int) -> None:
        self.slots = FairSlots(total)
        self.inside: list[str] = []
        self.leave: dict[asyncio.Task[None], asyncio.Event] = {}
        self.claims: dict[asyncio.Task[None], Claim] = {}

    def ask(self, client: str) -> asyncio.Task[None]:
        event = asyncio.Event()
        claim = self.slots.claim(client)

        async def hold() -> None:
            async with claim.hold(60):
                self.inside.append(client)
                try:
                    await event.wait()
                finally:
                    self.inside.remove(client)

        task = asyncio.create_task(hold())
        self.leave[task] = event
        self.claims[task] = claim
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
    assert club.slots.waiting == 18
    club.ask("newcomer")
    await settle()
    assert Counter(club.inside) == {"greedy": 2, "newcomer": 1}
    await club.empty()
    assert club.slots.waiting == 0


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
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["ask", "leave", "cancel", "lend"])), max_size=60
    ),
)
def test_never_more_than_total_nor_than_a_quarter(total: int, steps: list[tuple[str, str]]) -> None:
    async def play() -> None:
        club = Club(total)
        asked: list[asyncio.Task[None]] = []
        for client, step in steps:
            if step == "ask":
                asked.append(club.ask(client))
            elif asked and step == "lend":
                club.claims[asked[len(steps) % len(asked)]].lend(client)
            elif asked and step == "leave":
                club.leave[asked[len(steps) % len(asked)]].set()
            elif asked:
                asked[0].cancel()
            await settle()
            held = Counter(claim._holder for claim in club.claims.values() if claim.held)
            assert sum(held.values()) == len(club.inside) <= total
            assert max(held.values(), default=0) <= max(1, total // 4)
        await club.empty()
        assert club.inside == []
        assert club.slots.waiting == 0

    asyncio.run(play())


async def test_a_deadline_for_waiting_and_working_together() -> None:
    slots = FairSlots(1)
    async with slots.claim("a").hold(60):
        with pytest.raises(Overloaded, match=r"no slot for a fetch came free within 0\.05 s"):
            async with slots.claim("b").hold(0.05):
                pytest.fail("there is one slot")
    with pytest.raises(UpstreamTimeout, match=r"not fetched within 0\.05 s \(setting total_timeout\)"):
        async with slots.claim("b").hold(0.05):
            await asyncio.sleep(60)
    async with slots.claim("c").hold(60):
        pass


async def test_a_timeout_of_the_work_is_its_own() -> None:
    """Not one of ours: an operating system's ETIMEDOUT says nothing about total_timeout."""
    slots = FairSlots(1)
    error = TimeoutError(110, "Connection timed out")
    with pytest.raises(TimeoutError) as caught:
        async with slots.claim("a").hold(60):
            raise error
    assert caught.value is error


async def test_who_wants_the_same_lends_its_share() -> None:
    club = Club(8)
    tasks = [club.ask("greedy") for _ in range(20)]
    await settle()
    assert Counter(club.inside) == {"greedy": 2}
    club.claims[tasks[-1]].lend("other")
    await settle()
    assert len(club.inside) == 3
    assert club.claims[tasks[-1]].held
    two = [club.ask("other") for _ in range(2)]
    await settle()
    assert Counter(club.inside) == {"greedy": 3, "other": 1}, "what it lent is its own share"
    club.leave[tasks[-1]].set()
    await settle()
    assert Counter(club.inside) == {"greedy": 2, "other": 2}
    assert club.slots.waiting == 17
    await club.empty()
    assert club.slots.waiting == 0
    assert all(task.done() for task in two)


async def test_a_share_lent_before_the_claim_waits() -> None:
    club = Club(4)
    tasks = [club.ask("greedy") for _ in range(2)]
    club.claims[tasks[1]].lend("other")  # its task has not run yet
    await settle()
    assert club.claims[tasks[1]].held
    await club.empty()


async def test_a_client_has_so_many_waiting_and_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "MOST_OF_CLIENT", 10)
    club = Club(4)
    tasks = [club.ask("greedy") for _ in range(20)]
    await settle()
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 9
    assert all("10 fetches wait for greedy already" in str(task.exception()) for task in refused)
    club.ask("other")
    await settle()
    assert "other" in club.inside
    await club.empty()


async def test_so_many_wait_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots_module, "MOST_WAITING", 10)
    club = Club(4)
    tasks = [club.ask(f"2001:db8::{number}") for number in range(20)]
    await settle()
    refused = [task for task in tasks if task.done()]
    assert len(refused) == 6
    assert all("10 fetches wait already" in str(task.exception()) for task in refused)
    await club.empty()


async def test_what_is_no_longer_true_does_not_pile_up() -> None:
    club = Club(1)
    club.ask("first")
    await settle()
    for _ in range(1000):
        task = club.ask("fickle")
        await settle()
        task.cancel()
        await settle()
    assert len(club.slots._next) < 200
    assert club.slots.waiting == 0
    await club.empty()


class Proving:
    """Proofs under way."""

    def __init__(self, slots: FairSlots) -> None:
        self.slots = slots
        self.inside = 0
        self.leave = asyncio.Event()

    def ask(self, count: int) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._hold()) for _ in range(count)]

    async def _hold(self) -> None:
        async with self.slots.proof():
            self.inside += 1
            try:
                await self.leave.wait()
            finally:
                self.inside -= 1


async def test_neither_kind_takes_the_last_slots_from_the_other() -> None:
    club = Club(8)
    club.slots = FairSlots(8, share=2)
    proofs = Proving(club.slots)
    for n in range(10):
        club.ask(f"{n}")
    await settle()
    assert len(club.inside) == 6
    asked = proofs.ask(10)
    await settle()
    assert proofs.inside == 2
    asked[0].cancel()  # holds one
    asked[5].cancel()  # waits
    await settle()
    assert proofs.inside == 2
    await club.empty()
    await settle()
    assert proofs.inside == 6
    late = club.ask("late")
    others = [club.ask(f"{n}") for n in range(5)]
    await settle()
    assert len(club.inside) == 2
    proofs.leave.set()
    await asyncio.gather(*asked, return_exceptions=True)
    await settle()
    assert len(club.inside) == 6
    club.leave[late].set()
    await club.empty()
    assert all(task.done() for task in others)
    # All eight are free again, and shared as at first.
    proofs = Proving(club.slots)
    asked = proofs.ask(10)
    again = [club.ask(f"{n}") for n in range(10)]
    await settle()
    assert (proofs.inside, len(club.inside)) == (6, 2)
    proofs.leave.set()
    await asyncio.gather(*asked)
    await settle()
    assert len(club.inside) == 6
    await club.empty()
    assert all(task.done() for task in again)


async def test_a_slot_that_comes_free_goes_to_a_proof_first() -> None:
    club = Club(4)
    club.slots = FairSlots(4, share=1)
    proofs = Proving(club.slots)
    tasks = [club.ask(f"{n}") for n in range(4)]
    asked = proofs.ask(3)
    await settle()
    assert (len(club.inside), proofs.inside) == (3, 1)
    club.leave[tasks[0]].set()
    await settle()
    assert (len(club.inside), proofs.inside) == (2, 2)
    proofs.leave.set()
    await asyncio.gather(*asked)
    await settle()
    assert len(club.inside) == 3
    await club.empty()


async def test_a_proof_that_is_cancelled_as_its_turn_comes_gives_the_slot_back() -> None:
    slots = FairSlots(1)
    proofs = Proving(slots)
    first, second, third = proofs.ask(3)
    await settle()
    first.cancel()
    second.cancel()
    await settle()
    assert proofs.inside == 1
    third.cancel()
    await settle()
    (last,) = proofs.ask(1)
    await settle()
    assert proofs.inside == 1
    proofs.leave.set()
    await last
