"""cache/upkeep/janitor.py and cache/upkeep/removal.py: what goes, when, and what is written down of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import tree
from goproxy_vm.cache.reports import scanner
from goproxy_vm.cache.upkeep import janitor
from goproxy_vm.cache.upkeep.janitor import Janitor, Policy
from goproxy_vm.config.values import Amount
from goproxy_vm.errors import NoRoom
from tests.fakes.lines import logged
from tests.fakes.stores import BLOCK, FAILS, Shop, artifact, open_shop, purge_versions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from goproxy_vm.cache.rows import Victim


def another(
    shop: Shop,
    pressed: asyncio.Event | None = None,
    *,
    of: type[Janitor] = Janitor,
    interval: float = 3600.0,
    **tools: object,
) -> Janitor:
    """Another janitor of the same store, with tools of its own in place of some of the store's."""

    async def trim() -> None:
        return

    core = replace(shop.core, **tools)  # type: ignore[arg-type]  # by name
    return of(core, Policy(0, None, interval), pressed or asyncio.Event(), trim, interrupted=False)


@contextlib.asynccontextmanager
async def working(janitor: Janitor) -> AsyncIterator[None]:
    """While it does what it is pressed to."""
    task = asyncio.create_task(janitor.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


class Removes:
    """A remover that does something before each batch that its janitor has it remove."""

    def __init__(self, shop: Shop, before: Callable[[], Awaitable[object]]) -> None:
        self._shop = shop
        self._before = before

    async def remove(self, victims: Sequence[Victim], reason: str) -> list[Victim]:
        await self._before()
        return await self._shop.core.remover.remove(victims, reason)


async def test_from_high_to_low_water(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=20, high_water=80.0, low_water=50.0) as shop:
        await shop.put(*"abcdefghijklmnop")
        await shop.touch("a")
        await shop.janitor.relieve()
        assert len(shop.zips()) == 16, "the high water mark is not passed"
        assert shop.janitor.last is None
        await shop.put("q")
        await shop.janitor.relieve()
        assert shop.zips() == "aijklmnopq", "the oldest ones but for what was asked for again"
        last = shop.janitor.last
        assert last is not None
        assert (last.reason, last.reached, last.evicted_entries) == ("size", True, 7)
        assert (last.before.entries, last.evicted_bytes, last.target_bytes) == (17, 7 * BLOCK, 10 * BLOCK)
        assert last.after is not None
        assert last.after.entries == 10
        assert shop.told.evictions[0][:2] == ("size", BLOCK)
        assert shop.janitor.reached
        shop.consistent()
        assert (await shop.control.passes(9))[0] == last


async def test_room_is_made_for_who_waits(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=10, still=False, high_water=100.0, low_water=100.0) as shop:
        await shop.put(*"abcdefghij")
        await shop.put("k", blocks=3)
        assert shop.zips() == "defghijk"
        shop.consistent()
        assert shop.store.admission.wanted == 0


async def test_a_purge_that_takes_the_files_away_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass that finds them dying has nothing to choose; their room comes free all the same."""
    blocked, free = threading.Event(), threading.Event()
    remove = tree.remove

    def slowly(file: Path, top: Path) -> None:
        blocked.set()
        assert free.wait(9)
        remove(file, top)

    async with open_shop(tmp_path, max_size=10) as shop:
        await shop.put(*"abcdefgh")
        monkeypatch.setattr(tree, "remove", slowly)
        purges: list[asyncio.Task[list[Victim]]] = []

        async def purge_first() -> None:
            if not purges:
                victims = [shop.victim(name) for name in "abcdefgh"]
                purges.append(asyncio.create_task(shop.core.remover.remove(victims, "purge")))
                await asyncio.to_thread(blocked.wait, 9)
                asyncio.get_running_loop().call_later(0.1, free.set)

        pressed = asyncio.Event()
        reservation = await shop.store.admission.reserve(6 * BLOCK)
        async with working(another(shop, pressed, flush=purge_first)):
            holding = asyncio.create_task(reservation.hold(6 * BLOCK))
            await asyncio.sleep(0)
            pressed.set()
            await holding
        reservation.release()
        await purges[0]
        shop.consistent()


async def test_what_is_committed_during_a_pass_can_be_evicted(tmp_path: Path) -> None:
    """It was in the queue when the pass chose, and is on record when the pass found nothing."""
    async with open_shop(tmp_path, max_size=10) as shop:

        class TooEarly:
            """Finds nothing at first."""

            chosen = 0
            metadata = shop.core.scanner.metadata

            def to_evict(self, *asked: object) -> list[Victim]:
                self.chosen += 1
                if self.chosen > 1:
                    return shop.core.scanner.to_evict(*asked)  # type: ignore[arg-type]  # as they came
                loop.call_soon_threadsafe(shop.store.admission.changed)  # as the queue does with each file
                return []

        loop = asyncio.get_running_loop()
        await shop.put(*"abcdefgh")
        pressed, scanner = asyncio.Event(), TooEarly()
        reservation = await shop.store.admission.reserve(6 * BLOCK)
        async with working(another(shop, pressed, scanner=scanner)):
            holding = asyncio.create_task(reservation.hold(6 * BLOCK))
            await asyncio.sleep(0)
            pressed.set()
            await holding
        assert scanner.chosen > 1
        reservation.release()
        shop.consistent()


async def test_who_waits_is_told_that_nothing_may_go(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=10, still=False) as shop:
        reservation = await shop.store.admission.reserve(6 * BLOCK)
        shop.core.usage.sizes["zip"] += 5 * BLOCK  # files that nobody can remove
        with pytest.raises(NoRoom, match="nothing in it may be removed"):
            await reservation.hold(6 * BLOCK)
        reservation.release()
        assert not shop.janitor.reached
        assert not shop.store.target_reached


async def test_what_is_queued_is_waited_for(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=4) as shop:
        reservation = await shop.store.admission.reserve(2 * BLOCK)
        async with shop.core.queue.disk:
            await shop.store.put(artifact(shop.path("a")), b"x" * BLOCK * 2, h1="h1:x")
            shop.core.usage.sizes["zip"] += BLOCK  # a file that nobody can remove
            holding = asyncio.create_task(reservation.hold(2 * BLOCK))
            await asyncio.sleep(0)
            relieving = asyncio.create_task(shop.janitor.relieve())
            while not relieving.done() and not shop.core.queue.disk._waiters:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            assert not relieving.done()
        await relieving
        await holding
        assert shop.zips() == "", "it looked again"
        reservation.release()
        shop.core.usage.sizes["zip"] -= BLOCK
        shop.consistent()


async def test_pins_beyond_half(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=20, pins=("p*",), high_water=70.0, low_water=50.0) as shop:
        await shop.put(*(f"p{i}" for i in range(1, 9)), blocks=2)
        await shop.put("a", blocks=2)
        await shop.janitor.relieve()
        assert shop.zips() == "p4p5p6p7p8", "the excess, in the same order"
        assert shop.janitor.reached
        shop.consistent()


async def test_protected_pins_make_the_target_unreachable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_shop(tmp_path, max_size=20, pins=("p*",), high_water=30.0, low_water=20.0) as shop:
        await shop.put(*(f"p{i}" for i in range(1, 6)), blocks=2)
        await shop.put("a", "b")
        for _ in range(2):
            await shop.janitor.relieve()
        assert shop.zips() == "p1p2p3p4p5"
        assert not shop.janitor.reached
        assert logged(caplog).count("cache target missed") == 1
        assert len(await shop.control.passes(9)) == 1, "no record of nothing"


async def test_metadata_is_a_tenth(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=50) as shop:
        await shop.put("a", kind="mod")
        await shop.put("a")
        await shop.put(*"bcdefgh", kind="mod")
        await shop.janitor.relieve()
        assert [name[0] for name in shop.files()] == list("aaefgh")
        assert (await shop.control.passes(9))[0].evicted_entries == 3
        shop.consistent()


async def test_metadata_of_zips_stays(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=20) as shop:
        for name in "abc":
            await shop.put(name, kind="mod")
            await shop.put(name)
        await shop.janitor.relieve()
        assert len(shop.files()) == 6
        assert await shop.control.passes(9) == []


async def test_idle(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_idle=100.0, pins=("p",)) as shop:
        await shop.put("a", "b", "p")
        await shop.put("m", kind="mod")
        shop.later(60)
        await shop.touch("b")
        shop.later(60)
        await shop.janitor.once()
        assert shop.zips() == "bp"
        assert [(why, int(idle or 0)) for why, _, idle in shop.told.evictions] == [("idle", 120)]
        (record,) = await shop.control.passes(9)
        assert (record.reason, record.reached, record.target_bytes) == ("idle", True, None)
        await shop.janitor.once()
        assert len(await shop.control.passes(9)) == 1


async def test_no_idle_limit(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        shop.later(1e9)
        await shop.janitor.once()
        assert shop.zips() == "a"


async def test_offline_nothing_goes_that_cannot_come_back(tmp_path: Path) -> None:
    given = {"offline": True, "max_idle": 100.0, "min_free": Amount(BLOCK, None)}
    async with open_shop(tmp_path, free=lambda _: 0, **given) as shop:
        await shop.put("a", "b")
        shop.later(1e9)
        await shop.janitor.once()
        assert shop.zips() == "ab"
        assert shop.janitor.reached


async def test_min_free(tmp_path: Path) -> None:
    others = 3

    def free(_: Path) -> int:
        return 10 * BLOCK - shop.core.usage.used - others * BLOCK

    async with open_shop(tmp_path, free=free) as shop:
        await shop.put(*"abcdef")
        assert await shop.janitor.make_room(1 * BLOCK)
        assert shop.zips() == "abcdef"
        assert await shop.janitor.make_room(3 * BLOCK)
        assert shop.zips() == "cdef"
        assert shop.told.evictions[-1][0] == "min_free"
        others = 9
        assert not await shop.janitor.make_room(2 * BLOCK)
        assert shop.zips() == ""
        assert not shop.janitor.reached
        others = 0
        assert await shop.janitor.make_room(2 * BLOCK)
        assert shop.janitor.reached


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "DISK_STEP", 2 * BLOCK)
    async with open_shop(tmp_path) as shop:
        await shop.put(*"abcdef")
        assert await shop.janitor.full(BLOCK)
        assert shop.zips() == "cdef"
        assert await shop.janitor.full(3 * BLOCK)
        assert shop.zips() == "f"
        assert await shop.janitor.full(BLOCK)
        assert not await shop.janitor.full(BLOCK), "nothing left"


async def test_a_target_missed_for_one_reason_is_not_reached_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop(tmp_path, max_size=20, pins=("p",), high_water=30.0, low_water=20.0) as shop:
        await shop.put("p", blocks=8)
        await shop.janitor.relieve()
        assert not shop.janitor.reached
        assert await shop.janitor.make_room(0)
        assert not shop.janitor.reached, "there is room on the disk, but not in the budget"
        await purged(shop, "p")
        await shop.janitor.relieve()
        assert shop.janitor.reached


async def purged(shop: Shop, module: str) -> None:
    await purge_versions(shop.store, module, None, forget_hash=False, dry_run=False)


async def test_a_record_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "BATCH", 1)
    async with open_shop(tmp_path, max_size=10, high_water=50.0, low_water=10.0) as shop:
        await shop.put(*"abcdefgh")
        await shop.sql(f"CREATE TRIGGER fails BEFORE UPDATE ON passes {FAILS}")
        await shop.janitor.relieve()
        assert shop.zips() == "h"
        assert shop.janitor.reached
        await shop.sql("DROP TRIGGER fails")


async def test_idle_files_that_cannot_go_do_not_hold_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    async with open_shop(tmp_path, max_idle=10.0) as shop:
        await shop.put("a")
        shop.later(60)
        with monkeypatch.context() as patch:
            patch.setattr(tree, "remove", fail)
            await shop.janitor.once()
        assert shop.janitor.last is not None
        assert (shop.janitor.last.evicted_entries, shop.janitor.last.reached) == (0, False)


# An operator's


async def test_evict(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=10, low_water=50.0) as shop:
        await shop.put(*"abcdefgh")
        dry = await shop.control.evict(6 * BLOCK, dry_run=True)
        assert (dry.before_bytes, dry.after_bytes, dry.reached, dry.pass_id) == (
            8 * BLOCK,
            6 * BLOCK,
            True,
            None,
        )
        assert shop.zips() == "abcdefgh"
        wet = await shop.control.evict(6 * BLOCK, dry_run=False)
        assert wet.removal.items == dry.removal.items
        assert (wet.after_bytes, wet.reached, wet.removal.dry_run) == (6 * BLOCK, True, False)
        assert shop.zips() == "cdefgh"
        assert shop.told.evictions[-1][0] == "evict"
        default = await shop.control.evict(None, dry_run=False)
        assert default.target_bytes == 5 * BLOCK
        assert shop.zips() == "defgh"
        nothing = await shop.control.evict(9 * BLOCK, dry_run=False)
        assert (nothing.removal.files, nothing.reached) == (0, True)
        everything = await shop.control.evict(0, dry_run=False)
        assert everything.removal.files == 5
        assert shop.core.usage.used == 0
        assert not any(shop.modules.iterdir()), "no empty directories either"


async def test_evict_to_what_cannot_be(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=10, pins=("p",)) as shop:
        await shop.put("a", "p")
        dry = await shop.control.evict(0, dry_run=True)
        wet = await shop.control.evict(0, dry_run=False)
        assert (dry.reached, wet.reached) == (False, False)
        assert dry.after_bytes == wet.after_bytes == BLOCK
        assert not shop.store.target_reached
        await shop.control.evict(BLOCK, dry_run=False)
        assert shop.store.target_reached
        await shop.control.evict(0, dry_run=False)
        assert not shop.store.target_reached
        await shop.core.remover.remove([shop.victim("p")], "purge")
        await shop.janitor.relieve()
        assert shop.store.target_reached, "no more is used than was asked for"


async def test_a_dry_run_asks_no_thread_that_hits_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_shop(tmp_path, max_size=10) as shop:
        await shop.put("a", "b")
        threads: set[str] = set()
        to_evict = scanner.Scanner.to_evict

        def noting(*args: object) -> object:
            threads.add(threading.current_thread().name)
            return to_evict(*args)  # type: ignore[arg-type]  # as they came

        monkeypatch.setattr(scanner.Scanner, "to_evict", noting)
        async with shop.janitor._lock:  # nor does it wait for a pass, or a pass for it
            dry = await shop.control.evict(BLOCK, dry_run=True)
        assert (dry.after_bytes, dry.removal.files) == (BLOCK, 1)
        assert {name.partition("_")[0] for name in threads} == {"goproxy-vm reports"}


async def test_evict_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "BATCH", 2)
    async with open_shop(tmp_path, max_size=16, pins=("p*",)) as shop:
        await shop.put(*"abcde", *(f"p{number}" for number in range(11)))
        dry = await shop.control.evict(0, dry_run=True)
        wet = await shop.control.evict(0, dry_run=False)
        assert wet.removal.items == dry.removal.items
        assert [each.module for each in wet.removal.items] == [*"abcde", "p0", "p1", "p2"]
        assert wet.after_bytes == dry.after_bytes == 8 * BLOCK, "the share of the pinned ones"


async def test_evict_follows_no_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "BATCH", 2)
    async with open_shop(tmp_path, max_size=20) as shop:
        await shop.put(*"abcdef")
        more = iter("uvwxyz")
        fetching = Removes(shop, lambda: shop.put(next(more), next(more)))
        eviction = await another(shop, remover=fetching).evict(0)
        assert (eviction.removal.files, eviction.reached) == (6, False)
        assert shop.zips() == "uvwxyz"


# Interrupted


async def unfinished(shop_root: Path, reason: str, target: int | None, **settings: object) -> None:
    async with open_shop(shop_root, **settings) as shop:
        await shop.put(*"abcdefgh")
        await shop.core.ask(shop.core.ledger.begin, reason, target, 8, 8 * BLOCK)  # type: ignore[arg-type]  # a reason


def killed(root: Path) -> None:
    """As if the run before had not ended cleanly."""
    with closing(sqlite3.connect(root / "index.db")) as database, database:
        database.execute("UPDATE meta SET value = 1 WHERE key = 'running'")


@pytest.mark.parametrize(
    ("reason", "target", "left", "reached"),
    [
        ("size", 3 * BLOCK, "efgh", True),
        ("size", 6 * BLOCK, "cdefgh", True),
        ("evict", 3 * BLOCK, "fgh", True),
        ("evict", 0, "", True),
        ("idle", None, "abcdefgh", None),
    ],
)
async def test_a_pass_that_a_kill_interrupted_goes_on(
    tmp_path: Path, reason: str, target: int | None, left: str, *, reached: bool | None
) -> None:
    await unfinished(tmp_path, reason, target, max_size=10)
    killed(tmp_path)
    async with open_shop(tmp_path, max_size=10, low_water=40.0, still=False) as shop:
        while shop.janitor.last is None:
            await asyncio.sleep(0)
        last = shop.janitor.last
        assert (last.reason, last.reached) == (reason, reached)
        assert last.evicted_entries == 8 - len(left)
        assert shop.zips() == left
        assert await shop.core.ask(shop.core.ledger.unfinished) == []
        assert len(await shop.control.passes(9)) == 1


@pytest.mark.parametrize("reason", ["size", "evict"])
async def test_an_order_without_an_end_does_not_run_again_after_a_clean_end(
    tmp_path: Path, reason: str
) -> None:
    """Its end could not be written, perhaps long ago."""
    await unfinished(tmp_path, reason, 0, max_size=10)
    async with open_shop(tmp_path, max_size=10, low_water=40.0, still=False) as shop:
        while shop.janitor.last is None:
            await asyncio.sleep(0)
        assert (shop.zips(), shop.janitor.last.reached) == ("abcdefgh", False)
        assert await shop.core.ask(shop.core.ledger.unfinished) == []


async def test_the_end_of_a_pass_is_written_once_that_can_be(tmp_path: Path) -> None:
    """A kill long after it must not have it run again."""
    async with open_shop(tmp_path, max_size=10) as shop:
        await shop.put(*"abcd")
        ledger = shop.core.ledger
        await shop.sql(f"CREATE TRIGGER fails BEFORE UPDATE ON passes {FAILS}")
        eviction = await shop.control.evict(3 * BLOCK, dry_run=False)
        await shop.sql("DROP TRIGGER fails")
        assert eviction.reached
        assert [each.id for each in await shop.core.ask(ledger.unfinished)] == [eviction.pass_id]
        await shop.parts.trial.once()
        assert await shop.core.ask(ledger.unfinished) == []
        assert (await shop.control.passes(1))[0].reached


async def test_a_pass_that_fails_has_ended(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_size=10, high_water=30.0, low_water=10.0) as shop:
        await shop.put(*"abcd")
        await shop.sql(f"CREATE TRIGGER fails BEFORE DELETE ON files {FAILS}")
        with pytest.raises(sqlite3.Error):
            await shop.control.evict(3 * BLOCK, dry_run=False)
        with pytest.raises(sqlite3.Error):
            await shop.janitor.relieve()
        await shop.sql("DROP TRIGGER fails")
        assert await shop.core.ask(shop.core.ledger.unfinished) == []
        assert [each.reached for each in await shop.control.passes(9)] == [False, False]


async def test_a_pass_is_written_down_as_it_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "BATCH", 1)
    async with open_shop(tmp_path, max_size=4) as shop:
        await shop.put(*"abcd")
        on_record = []

        async def look() -> None:
            (record,) = await shop.core.ask(shop.core.ledger.unfinished)
            on_record.append(record.evicted_entries)

        await another(shop, remover=Removes(shop, look)).evict(BLOCK)
        assert on_record == [0, 1, 2]


# Its task


async def test_pressure_does_not_keep_it_from_its_regular_work(tmp_path: Path) -> None:
    """Somebody waits for room whenever a pass ends: the wait for the next one returns at once, for ever."""
    regular, pressed = asyncio.Event(), asyncio.Event()
    passes = 0

    class Pressed(Janitor):
        async def once(self) -> None:
            regular.set()

        async def relieve(self) -> None:
            nonlocal passes
            passes += 1
            await asyncio.sleep(0)
            pressed.set()

    async with open_shop(tmp_path) as shop, working(another(shop, pressed, of=Pressed, interval=0.001)):
        pressed.set()
        due = asyncio.get_running_loop().time() + 0.001
        # Not one second of the clock but many passes after it was due: a slow machine changes nothing.
        while asyncio.get_running_loop().time() < due:
            await asyncio.sleep(0)
        late = passes + 1000
        while passes < late and not regular.is_set():
            await asyncio.sleep(0)
        assert regular.is_set()


async def test_regular_work_trims_the_answers(tmp_path: Path) -> None:
    async with open_shop(tmp_path, answers_max_size=1) as shop:
        await shop.store.answers.set("k", b"x" * 100_000, keep=None)
        await shop.janitor.once()
        assert (await shop.store.answers.size())[0] == 0


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("disk I/O error"), OSError(errno.EIO, "I/O error")]
)
async def test_an_error_ends_the_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async with open_shop(tmp_path, max_size=2, still=False, high_water=100.0, low_water=100.0) as shop:
        await shop.put("a", "b")

        def fail(*_: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(scanner.Scanner, "to_evict", fail)
            reservation = await shop.store.admission.reserve(BLOCK)
            with pytest.raises(NoRoom):
                await reservation.hold(BLOCK)
        assert not shop.store.writable
        assert "janitor failed" in logged(caplog)
        await reservation.hold(BLOCK)
        assert shop.zips() == "b", "it lives"
        reservation.release()


async def test_a_bug_does_not_end_the_janitor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_shop(tmp_path, max_size=2, still=False, high_water=100.0, low_water=100.0) as shop:
        await shop.put("a", "b")

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        reservation = await shop.store.admission.reserve(BLOCK)
        with monkeypatch.context() as patch:
            patch.setattr(scanner.Scanner, "to_evict", fail)
            with pytest.raises(NoRoom):
                await reservation.hold(BLOCK)
        await reservation.hold(BLOCK)
        reservation.release()
    assert "janitor failed" in logged(caplog)


# Removal


async def test_what_cannot_be_unlinked_is_not_served_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remove = tree.remove

    def fail(file: Path, top: Path) -> None:
        if file.parent.parent.name == "a":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        remove(file, top)

    async with open_shop(tmp_path) as shop:
        await shop.put("a", "b")
        with monkeypatch.context() as patch:
            patch.setattr(tree, "remove", fail)
            eviction = await shop.control.evict(0, dry_run=False)
        assert [each.module for each in eviction.removal.items] == ["b"]
        assert not eviction.reached
        assert await shop.store.get(artifact(shop.path("a"))) is None
        shop.consistent()
    assert "file not removed" in logged(caplog)
    async with open_shop(tmp_path) as shop:
        shop.store.recover(lambda _: asyncio.sleep(0))
        while not shop.store.recovery.done:
            await asyncio.sleep(0)
        assert shop.store.recovery.dying == 1
        assert shop.files() == []
        shop.consistent()


async def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        shop.file("a").unlink()
        shop.file("a").parent.rmdir()
        shop.file("a").parent.write_bytes(b"")
        await shop.control.evict(0, dry_run=False)
        assert shop.core.usage.used == 0
        assert shop.file("a").parent.exists()


async def test_directories_that_are_not_empty_stay(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a", "x.org/a/b")
        victim = shop.victim("x.org/a/b")
        assert await shop.core.remover.remove([victim], "size") == [victim]
        assert await shop.core.remover.remove([victim], "size") == []
        assert [path.name for path in (shop.modules / "x.org" / "a").iterdir()] == ["@v"]


async def test_cancelled_in_the_middle_it_still_counts(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        removing = asyncio.create_task(shop.core.remover.remove([shop.victim("a")], "size"))
        for _ in range(3):
            await asyncio.sleep(0)
        removing.cancel()
        await asyncio.wait([removing])
        assert removing.cancelled()
        assert not shop.core.queue.disk.locked()
        shop.consistent()
