"""Opening a cache directory: what the store is made of, in the order in which it is put together."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from goproxy_vm.cache.admission import Admission, Limits
from goproxy_vm.cache.answers import Answers
from goproxy_vm.cache.commit import CommitQueue
from goproxy_vm.cache.database import Database, Watched, unsound
from goproxy_vm.cache.files import Entry
from goproxy_vm.cache.heads import Heads
from goproxy_vm.cache.health import Health, reason
from goproxy_vm.cache.holders import Holders
from goproxy_vm.cache.index import Index
from goproxy_vm.cache.janitor import Janitor, Policy
from goproxy_vm.cache.keeper import Keeper
from goproxy_vm.cache.layout import Layout
from goproxy_vm.cache.ledger import Ledger
from goproxy_vm.cache.leftovers import Leftovers
from goproxy_vm.cache.lock import DirectoryLock
from goproxy_vm.cache.memory import Memory
from goproxy_vm.cache.quarantine import Quarantine
from goproxy_vm.cache.recency import Recency, begin_clock
from goproxy_vm.cache.records import Records
from goproxy_vm.cache.recovery import Recoverer
from goproxy_vm.cache.removal import Remover
from goproxy_vm.cache.scrub import Scrub
from goproxy_vm.cache.selection import Shelf
from goproxy_vm.cache.snapshots import Snapshots
from goproxy_vm.cache.stock import Stock
from goproxy_vm.cache.threads import Threads
from goproxy_vm.cache.trial import Trial
from goproxy_vm.cache.usage import Usage
from goproxy_vm.errors import StartError
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.names import exempt
from goproxy_vm.protocol.selector import normalize

if TYPE_CHECKING:
    from contextlib import AsyncExitStack
    from pathlib import Path

    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.index import Sum, Victim
    from goproxy_vm.cache.publish import Checkpoint, Item
    from goproxy_vm.config import Settings

log = get_logger("cache")

PROTECTED = 80
"""Percent of the budget that zips asked for again may fill before they compete with the others (slru)."""
PATIENCE = 300.0
"""Seconds that a download waits for room at most."""
REASONS = frozenset({"size", "idle", "min_free", "purge", "corrupt"})
"""Why files go, for the metrics; others are no removals but repairs of the index."""
OPERATORS = frozenset({"purge", "corrupt"})
"""Reasons that say nothing of how long files stay."""


class Observer(Protocol):
    """Told of what happens to stored files, for the metrics."""

    def eviction(self, reason: str, size: int, idle_seconds: float | None) -> None:
        """A file of ``size`` bytes went."""

    def scrubbed(self, size: int) -> None:
        """Bytes were read and compared."""

    def corrupt(self) -> None:
        """A file was not what it was."""


@dataclass(frozen=True, slots=True)
class Parts:
    """An open cache directory."""

    stock: Stock
    memory: Memory
    heads: Heads
    answers: Answers
    records: Records
    quarantine: Quarantine
    janitor: Janitor
    scrub: Scrub
    keeper: Keeper
    recoverer: Recoverer
    trial: Trial
    hits: Threads
    downloads: Threads
    min_free: int


@dataclass(frozen=True, slots=True)
class _Begun:
    """What the database thread found and settled at the start."""

    index: Index
    clock: LogicalClock
    sums: list[Sum]
    pins: dict[str, str]
    interrupted: bool
    """Whether the run before did not end cleanly."""
    unsettled: sqlite3.Error | None
    """Why what a start writes down could not be: it is kept in memory, and tried again."""


async def open_parts(
    stack: AsyncExitStack,
    root: Path,
    settings: Settings,
    *,
    lock_wait: float,
    checkpoint: Checkpoint | None,
    observer: Observer,
    boot: str,
) -> Parts:
    """Take possession of a cache directory; ``stack`` leaves it again. StartError: it cannot be used."""
    layout, health, usage = Layout.at(root), Health(), Usage()
    layout.prepare()
    stack.callback((await DirectoryLock.acquire(layout, lock_wait)).release)
    temporary = list(layout.tmp.iterdir()) if layout.tmp.exists() else []
    limits, min_free = _limits(layout, settings)
    protected = limits.total * PROTECTED // 100 if settings.policy == "slru" else 0
    names = {"database": 1, "hits": 4, "downloads": 4, "reports": 1, "background": 1}
    threads = {name: _threads(stack, name, count) for name, count in names.items()}
    writer = threads["database"]

    # Files copied here, or whose index is gone: nothing is on record of them either.
    lost = not layout.index.exists() and any(layout.modules.iterdir())
    database, begun = await writer.run(_open_index, layout.index, settings, protected, boot)
    stack.push_async_callback(writer.run, database.close)
    # Others use the same threads, whose errors say nothing of the index.
    asking = Watched(writer, database.notice)
    reading = Watched(threads["reports"], partial(database.notice, here=False))
    answers, records, snapshots = await _others(stack, layout, threads, health, settings)
    await records.take_over(answers)
    index, clock = begun.index, begun.clock
    usage.reset(begun.sums)
    if begun.unsettled:
        health.failed(begun.unsettled)
    memory = Memory(clock)

    def stored(item: Item) -> None:
        memory.forget(item.path)
        memory.keep(Entry(item.path, item.content.length, item.content.sha256, item.h1))
        usage.add(item.row())

    def gone(victim: Victim, why: str) -> None:
        if why in REASONS:
            idle = None if why in OPERATORS else max(0.0, clock.now() - victim.last_used)
            observer.eviction(why, victim.bytes, idle)

    def starve() -> None:
        janitor.starve()

    pressed = asyncio.Event()
    admission = Admission(limits, usage, pressed.set)
    recency = Recency(database, index, memory, clock, asking, health, protected)
    # After the queue: hits on what it still held, and its last files, count as settled too.
    stack.push_async_callback(recency.settle)
    holders = Holders(usage, admission.changed, lambda: admission.wanted > 0)

    def replaced(victim: Victim) -> None:
        usage.remove(victim)
        holders.removed(victim.path, victim.bytes)

    leftovers = Leftovers(admission, health)
    queue = CommitQueue(
        index, asking, health, stored, replaced, holders, leftovers, clock, checkpoint, starve
    )
    stack.push_async_callback(queue.close)
    remover = Remover(
        layout,
        index,
        usage,
        holders,
        admission,
        clock,
        asking,
        queue.disk,
        queue.threads,
        memory.forget,
        gone,
    )
    stock = Stock(
        layout=layout,
        index=index,
        shelf=Shelf(database.connection, clock, database.notice),
        ledger=Ledger(database, clock),
        usage=usage,
        admission=admission,
        holders=holders,
        leftovers=leftovers,
        clock=clock,
        health=health,
        queue=queue,
        remover=remover,
        database=asking,
        disk=threads["background"],
        flush=recency.flush,
    )
    policy = Policy(min_free, settings.max_idle or None, settings.janitor_interval)

    async def trim() -> None:
        await answers.trim()
        await records.trim()

    janitor = Janitor(stock, policy, pressed, trim, interrupted=begun.interrupted)
    quarantine = Quarantine(layout.quarantine, settings.quarantine_max_size)
    scrub = Scrub(
        stock, quarantine, settings.scrub_interval, settings.scrub_rate, observer.scrubbed, observer.corrupt
    )
    reader = Shelf(snapshots.connection, clock, partial(database.notice, here=False))
    recoverer = Recoverer(stock, scrub, temporary, rebuilt=database.rebuilt or lost)
    keeper = Keeper(
        stock, reader, reading, threads["reports"], snapshots, answers, janitor, scrub, recoverer, begun.pins
    )
    stack.push_async_callback(keeper.close)
    heads = Heads(layout, threads["downloads"], health)
    settled = begun.unsettled is None

    async def settle() -> None:
        nonlocal settled
        if settled:
            await asking.run(database.begin_run)
            await asking.run(stock.ledger.write_ends)
            return
        async with queue.disk:
            pins = await asking.run(_settle, database, index, clock, settings, protected, boot)
            usage.reset(await asking.run(index.sums))
            # What was believed until now may be unsure, a stray or not pinned from here on.
            memory.forget_all()
            keeper.pins_settled(pins)
        settled = True

    attempts = {
        "index": settle,
        layout.answers.name: answers.retry,
        layout.records.name: records.retry,
        "heads": heads.retry,
    }
    trial = Trial(stock, min_free, settings.janitor_interval, attempts)
    await trial.once()
    for work in (janitor.run(), scrub.run(), recency.run(settings.recency_flush), trial.run()):
        stack.push_async_callback(cancel, asyncio.create_task(work, name="cache"))
    return Parts(
        stock=stock,
        memory=memory,
        heads=heads,
        answers=answers,
        records=records,
        quarantine=quarantine,
        janitor=janitor,
        scrub=scrub,
        keeper=keeper,
        recoverer=recoverer,
        trial=trial,
        hits=threads["hits"],
        downloads=threads["downloads"],
        min_free=min_free,
    )


async def cancel(task: asyncio.Task[None]) -> None:
    """End a task and wait for its end."""
    task.cancel()
    await asyncio.wait([task])


def _threads(stack: AsyncExitStack, name: str, count: int) -> Threads:
    threads = Threads(name, count)
    stack.callback(threads.close)
    return threads


async def _others(
    stack: AsyncExitStack,
    layout: Layout,
    threads: dict[str, Threads],
    health: Health,
    settings: Settings,
) -> tuple[Answers, Records, Snapshots]:
    path = layout.answers
    try:
        answers = await Answers.open(path, threads["database"], health, most_bytes=settings.answers_max_size)
        stack.push_async_callback(answers.close)
        path = layout.records
        records = await Answers.open(path, threads["database"], health, precious=True)
        stack.push_async_callback(records.close)
        path = layout.snapshots
        snapshots = await threads["reports"].run(Snapshots.open, path, layout.index)
        stack.push_async_callback(threads["reports"].run, snapshots.close)
    except (OSError, sqlite3.Error) as error:
        raise StartError(f"{path}: {reason(error)}") from error
    return answers, Records(records, settings.sumdb_max_size), snapshots


def _limits(layout: Layout, settings: Settings) -> tuple[Limits, int]:
    """The budget, and what is to stay free, in bytes, on this file system."""
    facts = os.statvfs(layout.root)
    size = facts.f_blocks * facts.f_frsize
    total = settings.max_size.of(size)
    limits = Limits(
        total,
        max(512, facts.f_frsize),
        high=int(total * settings.high_water / 100),
        low=int(total * settings.low_water / 100),
        patience=min(PATIENCE, settings.total_timeout * 0.9),
    )
    return limits, settings.min_free.of(size)


def _open_index(path: Path, settings: Settings, protected: int, boot: str) -> tuple[Database, _Begun]:
    """The index, begun anew where what is there cannot be used. StartError."""
    database = Database.open(path)
    try:
        return database, _begin(database, settings, protected, boot)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        database.connection.close()
        if not unsound(error):
            raise StartError(f"{path}: {error}") from error
        database = Database.anew(path, error)
    try:
        return database, _begin(database, settings, protected, boot)
    except sqlite3.Error as error:
        database.close()
        raise StartError(f"{path}: {error}") from error


def _begin(database: Database, settings: Settings, protected: int, boot: str) -> _Begun:
    index, clock, interrupted = Index(database), begin_clock(database), database.unclean
    for fact in ("clean", "first_seen"):
        database.number(fact, 0)  # Impossible, before anything goes by it
    unsettled = None
    try:
        marked = _settle(database, index, clock, settings, protected, boot)
    except sqlite3.OperationalError as error:
        unsettled = error
        marked = _hold_back(database, index, clock, settings, boot)
    return _Begun(index, clock, index.sums(), marked, interrupted, unsettled)


def _hold_back(
    database: Database, index: Index, clock: LogicalClock, settings: Settings, boot: str
) -> dict[str, str]:
    """On a full disk: what must not be served as it is, as :func:`_settle` would write it, and the pins."""
    if _lost_power(database, boot):
        index.suspected = int(database.number("clean", 0))
    name, patterns = _proof(settings)
    if name and _must_prove(database, settings):
        index.withheld = frozenset(row[0] for row in index.not_proven(name, lambda m: exempt(patterns, m)))
    return {**Ledger(database, clock).pins(), **{normalize(pin): "config" for pin in settings.pins}}


def _lost_power(database: Database, boot: str) -> bool:
    return database.unclean and database.get("boot", boot) != boot


def _settle(
    database: Database, index: Index, clock: LogicalClock, settings: Settings, protected: int, boot: str
) -> dict[str, str]:
    """Write down that this run has begun, and what its settings change; the pins."""
    ledger = Ledger(database, clock)
    with database.transaction():
        database.begin_run()
        if _lost_power(database, boot):
            count = index.suspect(int(database.number("clean", 0)))
            log.warning("power loss: files committed last are checked before their first use", count=count)
        database.set("boot", boot)
        index.settle_policy(protected)
        _hold_to_proof(database, index, settings)
        before = ledger.pins()
        ledger.set_pins([normalize(pin) for pin in settings.pins], "config")
        marked = ledger.pins()
        if marked.keys() != before.keys() or database.unclean:
            index.mark_pinned(*Shelf(database.connection, clock, database.notice).pinned(marked))
    database.unclean = False
    index.suspected, index.withheld = None, frozenset()
    return marked


def _proof(settings: Settings) -> tuple[str, str]:
    """The checksum database that files must be proven by, and the modules that need not be."""
    return ("", "") if settings.sumdb is None else (settings.sumdb.name, settings.nosumdb)


def _must_prove(database: Database, settings: Settings) -> bool:
    """Whether files may be stored that were not proven by what the settings name."""
    changed = database.get("proof", None) != " ".join(_proof(settings))
    return changed or bool(database.get("first_seen", 0) and not settings.offline)


def _hold_to_proof(database: Database, index: Index, settings: Settings) -> None:
    """What was stored unproven, by other settings or while nobody could be asked, has to be proven, if it can
    be, before it is served again."""
    name, patterns = _proof(settings)
    if not name:
        database.set("proof", "")
        return
    if _must_prove(database, settings):
        count = index.unproven(name, lambda module: exempt(patterns, module))
        if count:
            log.info("stored files are proven before they are served again", count=count, sumdb=name)
        database.set("proof", f"{name} {patterns}")
        if not settings.offline:
            database.set("first_seen", 0)
