"""cache/admission.py and cache/usage.py: who may write, how much, and who waits."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goproxy_vm.cache.admission import MOST_HEADROOM, STEP, UNKNOWN_LENGTH, Admission, Limits
from goproxy_vm.cache.rows import Row, Sum, Victim
from goproxy_vm.cache.usage import Usage
from goproxy_vm.errors import NoRoom
from goproxy_vm.protocol.artifact import Kind
from tests.fakes.stores import artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.cache.admission import Reservation

BLOCK = 512
SHA = "ab" * 32


class Rig:
    """An admission over a budget in blocks, and what is stored of it."""

    def __init__(self, total: int, *, used: int = 0, patience: float = 30.0) -> None:
        self.usage = Usage()
        self.pressed = 0
        self.stored(used)
        limits = Limits(total * BLOCK, BLOCK, total * BLOCK, total * BLOCK, patience)
        self.admission = Admission(limits, self.usage, self.press)

    def press(self) -> None:
        self.pressed += 1

    def stored(self, zips: int, *, pinned: int = 0, mods: int = 0) -> None:
        self.usage.reset(
            [
                Sum(Kind.ZIP, pinned=False, entries=zips, bytes=zips * BLOCK),
                Sum(Kind.ZIP, pinned=True, entries=pinned, bytes=pinned * BLOCK),
                Sum(Kind.MOD, pinned=False, entries=mods, bytes=mods * BLOCK),
            ]
        )

    def freed(self, **left: int) -> None:
        self.stored(**left)
        self.admission.changed()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("length", "blocks"),
    [(0, 0), (1, 1), (512, 1), (513, 2), (STEP, STEP // 512), (STEP + 1, STEP // 512 + 2)],
)
def test_allocated(length: int, blocks: int) -> None:
    assert Limits(1, BLOCK).allocated(length) == blocks * BLOCK


def test_a_long_file_has_room_for_its_map() -> None:
    length = 1 << 30
    assert Limits(1, 4096).allocated(length) == length + 17 * 4096


async def test_what_can_never_fit_is_refused_at_once() -> None:
    rig = Rig(10)
    with pytest.raises(NoRoom, match="needs 5632 of a budget of 5120 bytes"):
        await rig.admission.reserve(11 * BLOCK)
    rig.stored(0, pinned=9, mods=2)
    with pytest.raises(NoRoom):
        await rig.admission.reserve(4 * BLOCK)
    (await rig.admission.reserve(3 * BLOCK)).release()
    assert rig.admission.capacity == 3 * BLOCK, "pins protect a half at most"


async def test_first_come_first_served() -> None:
    rig = Rig(10)
    first = await rig.admission.reserve(8 * BLOCK)
    order: list[int] = []

    async def ask(blocks: int) -> Reservation:
        reservation = await rig.admission.reserve(blocks * BLOCK)
        order.append(blocks)
        return reservation

    waiting = [asyncio.create_task(ask(blocks)) for blocks in (9, 1, 2)]
    await settle()
    assert order == [], "what is small does not overtake"
    first.release()
    first.release()
    await settle()
    assert order == [9, 1]
    waiting[0].result().release()
    await settle()
    assert order == [9, 1, 2]
    for task in waiting:
        task.result().release()
    assert rig.admission.admitted == 0


async def test_cancelled_while_waiting_lets_the_next_one_in() -> None:
    rig = Rig(10)
    first = await rig.admission.reserve(5 * BLOCK)
    large = asyncio.create_task(rig.admission.reserve(10 * BLOCK))
    small = asyncio.create_task(rig.admission.reserve(5 * BLOCK))
    await settle()
    large.cancel()
    await settle()
    assert small.done()
    first.release()
    small.result().release()
    assert rig.admission.admitted == 0


async def test_cancelled_in_the_moment_of_admission() -> None:
    rig = Rig(10)
    first = await rig.admission.reserve(10 * BLOCK)
    one, two = (asyncio.create_task(rig.admission.reserve(10 * BLOCK)) for _ in range(2))
    await settle()
    first.release()
    one.cancel()
    await settle()
    assert one.cancelled()
    two.result().release()
    assert rig.admission.admitted == 0


async def test_cancelled_and_not_yet_out_of_the_queue() -> None:
    rig = Rig(10)
    first = await rig.admission.reserve(10 * BLOCK)
    one, two = (asyncio.create_task(rig.admission.reserve(10 * BLOCK)) for _ in range(2))
    await settle()
    one.cancel()
    first.release()
    await settle()
    assert one.cancelled()
    two.result().release()
    assert rig.admission.admitted == 0
    assert not rig.admission.waiting


async def test_patience_ends() -> None:
    rig = Rig(10, patience=0.0)
    first = await rig.admission.reserve(10 * BLOCK)
    with pytest.raises(NoRoom, match="no room came free within 0 s"):
        await rig.admission.reserve(BLOCK)
    first.release()
    rig.stored(10)
    reservation = await rig.admission.reserve(BLOCK)
    with pytest.raises(NoRoom, match="no room was made within 0 s"):
        await reservation.hold(1)
    assert rig.admission.wanted == 0
    assert reservation.size == 0
    reservation.release()


async def test_hold_waits_for_an_eviction() -> None:
    rig = Rig(10, used=9)
    reservation = await rig.admission.reserve(3 * BLOCK)
    holding = asyncio.create_task(reservation.hold(3 * BLOCK))
    await settle()
    assert rig.pressed == 1
    assert rig.admission.wanted == 3 * BLOCK
    rig.freed(zips=8)
    await settle()
    assert not holding.done()
    rig.freed(zips=7)
    await holding
    assert (rig.admission.wanted, rig.admission.reserved) == (0, 3 * BLOCK)
    await reservation.hold(2 * BLOCK)
    assert rig.admission.reserved == 3 * BLOCK, "what is held already is not held again"
    reservation.release()
    assert rig.admission.reserved == 0


async def test_hold_presses_above_the_high_water_mark() -> None:
    rig = Rig(10)
    rig.admission.limits = Limits(10 * BLOCK, BLOCK, high=4 * BLOCK, low=2 * BLOCK)
    reservation = await rig.admission.reserve(10 * BLOCK)
    await reservation.hold(1)
    assert rig.pressed == 1, "held ahead of what has come"


async def test_give_up() -> None:
    rig = Rig(10, used=10)
    reservation = await rig.admission.reserve(BLOCK)
    holding = asyncio.create_task(reservation.hold(1))
    await settle()
    rig.admission.give_up()
    with pytest.raises(NoRoom, match="nothing in it may be removed"):
        await holding
    again = asyncio.create_task(reservation.hold(1))
    await settle()
    assert not again.done(), "only those who waited then"
    rig.admission.give_up()
    rig.freed(zips=9)
    await again
    assert reservation.size == BLOCK, "room that came with the same breath is taken"


async def test_cancelled_while_holding() -> None:
    rig = Rig(10, used=10)
    reservation = await rig.admission.reserve(BLOCK)
    holding = asyncio.create_task(reservation.hold(1))
    await settle()
    holding.cancel()
    await settle()
    assert (rig.admission.wanted, rig.admission.reserved) == (0, 0)


async def test_growth() -> None:
    rig = Rig(10)
    reservation = await rig.admission.reserve(2 * BLOCK)
    await reservation.hold(3 * BLOCK)
    assert reservation.admitted == 10 * BLOCK, "whatever is left, up to a large step"
    with pytest.raises(NoRoom, match="grew beyond the room"):
        await reservation.hold(11 * BLOCK)
    assert reservation.size == 10 * BLOCK
    reservation.release()
    assert rig.admission.admitted == 0


async def test_growth_never_waits() -> None:
    rig = Rig(10)
    one, two = await rig.admission.reserve(5 * BLOCK), await rig.admission.reserve(5 * BLOCK)
    with pytest.raises(NoRoom, match="grew"):
        await one.hold(6 * BLOCK)
    two.release()
    await one.hold(6 * BLOCK)


async def test_unknown_length() -> None:
    rig = Rig(10)
    reservation = await rig.admission.reserve(None)
    assert reservation.admitted == 10 * BLOCK
    large = Rig(1 << 30)
    assert (await large.admission.reserve(None)).admitted == UNKNOWN_LENGTH


def test_usage() -> None:
    usage = Usage()
    zip_ = Row(artifact("a/@v/v1.0.0.zip"), 5, 8, SHA, None, pinned=True)
    mod = Row(artifact("a/@v/v1.0.0.mod"), 5, 16, SHA, None, pinned=True)
    usage.add(zip_)
    usage.add(mod)
    assert (usage.used, usage.metadata, usage.pinned) == (24 * 512, 16 * 512, 8 * 512)
    assert usage.entries == {"info": 0, "mod": 1, "zip": 1}
    usage.remove(
        Victim(1, zip_.artifact.path, "a", "v1.0.0", Kind.ZIP, 5, 8 * 512, pinned=True, last_used=0.0)
    )
    assert (usage.used, usage.pinned) == (16 * 512, 0)


class Model:
    """Downloads in random order, beside an evicting janitor: the budget holds at every step."""

    def __init__(self, total: int, stored: int) -> None:
        self.rig = Rig(total)
        self.total = total * BLOCK
        self.zips = stored
        self.rig.stored(stored)
        self.most = 0

    def look(self) -> None:
        both = self.rig.usage.used + self.rig.admission.reserved
        self.most = max(self.most, both)
        assert both <= self.total
        assert self.rig.admission.reserved <= self.rig.admission.admitted <= self.total

    async def download(self, declared: int | None, length: int) -> None:
        try:
            reservation = await self.rig.admission.reserve(declared and declared * BLOCK)
        except NoRoom:
            return
        try:
            for come in range(1, length + 1):
                await reservation.hold(come * BLOCK)
                self.look()
                await asyncio.sleep(0)
            self.zips += length
            self.rig.stored(self.zips)
        except NoRoom:
            return
        finally:
            reservation.release()
            self.look()

    def evict(self) -> None:
        admission = self.rig.admission
        while (
            admission.wanted
            and self.zips
            and self.rig.usage.used + admission.reserved > (self.total - admission.wanted)
        ):
            self.zips -= 1
            self.rig.freed(zips=self.zips)
            self.look()
        if admission.wanted and not self.zips and admission.reserved + admission.wanted > self.total:
            admission.give_up()


@settings(max_examples=60, deadline=None)
@given(
    stored=st.integers(0, 20),
    downloads=st.lists(st.tuples(st.none() | st.integers(0, 25), st.integers(0, 12)), max_size=8),
    actions=st.lists(st.integers(0, 20), max_size=80),
)
def test_the_budget_holds_in_every_order(
    stored: int, downloads: list[tuple[int | None, int]], actions: list[int]
) -> None:
    async def play() -> None:
        model = Model(20, stored)
        tasks: list[asyncio.Task[None]] = []
        waiting = list(downloads)
        steps: list[Callable[[], object]] = [
            lambda: tasks.append(asyncio.create_task(model.download(*waiting.pop()))) if waiting else None,
            model.evict,
        ]
        for action in actions:
            if action < 2:
                steps[action]()
            elif action < 4 and tasks:
                tasks[action % len(tasks)].cancel()
            await asyncio.sleep(0)
            model.look()
        while not all(task.done() for task in tasks):
            model.evict()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            assert task.cancelled() or task.exception() is None
        admission = model.rig.admission
        assert (admission.reserved, admission.wanted, admission.admitted, admission.waiting) == (0,) * 4

    asyncio.run(play())


async def test_a_small_file_passes_those_that_wait_or_is_not_admitted() -> None:
    rig = Rig(10)
    large = await rig.admission.reserve(6 * BLOCK)
    waiting = asyncio.create_task(rig.admission.reserve(6 * BLOCK))
    await settle()
    small = [rig.admission.at_once(BLOCK) for _ in range(4)]
    with pytest.raises(NoRoom, match="taken by downloads under way"):
        rig.admission.at_once(BLOCK)
    with pytest.raises(NoRoom, match="needs 5632 of a budget of 5120 bytes"):
        rig.admission.at_once(11 * BLOCK)
    assert not waiting.done()
    for each in (large, *small):
        each.release()
    (await waiting).release()


async def test_headroom_is_for_small_files_alone() -> None:
    rig = Rig(100)
    admission = rig.admission
    assert admission.capacity == 98 * BLOCK
    with pytest.raises(NoRoom, match="needs 50688 of a budget"):
        await admission.reserve(99 * BLOCK)
    large = await admission.reserve(None)
    assert large.admitted == 98 * BLOCK
    small = [admission.at_once(BLOCK) for _ in range(2)]
    with pytest.raises(NoRoom, match="taken by downloads"):
        admission.at_once(1)
    with pytest.raises(NoRoom, match="grew beyond"):
        admission.grow(large, BLOCK)
    waiting = asyncio.create_task(admission.reserve(BLOCK))
    await settle()
    small.pop().release()
    await settle()
    assert not waiting.done(), "the headroom"
    large.release()
    (await waiting).release()
    more = [admission.at_once(BLOCK) for _ in range(99)]  # all of the budget, while nobody else wants it
    assert admission.capacity == 0
    for each in more + small:
        each.release()
    assert admission.capacity == 98 * BLOCK
    assert Limits(1 << 40, BLOCK).headroom == MOST_HEADROOM
