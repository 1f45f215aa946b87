"""Opening a cache directory: what the store is made of, in the order in which it is put together."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

from goproxy_vm.cache.admission import Admission, Limits
from goproxy_vm.cache.answers import Answers, Desks
from goproxy_vm.cache.background import cancel, supervised
from goproxy_vm.cache.commit import CommitQueue
from goproxy_vm.cache.core import Core
from goproxy_vm.cache.database import Database, Watched
from goproxy_vm.cache.fences import Fences
from goproxy_vm.cache.heads import Heads
from goproxy_vm.cache.health import Health, reason
from goproxy_vm.cache.holders import Holders
from goproxy_vm.cache.layout import DIRECTORY, Layout, free_bytes
from goproxy_vm.cache.lock import DirectoryLock
from goproxy_vm.cache.memory import Memory
from goproxy_vm.cache.reader import Lookups, connect
from goproxy_vm.cache.reading import Published
from goproxy_vm.cache.recency import Recency, begin_clock
from goproxy_vm.cache.records import Records, tag_of
from goproxy_vm.cache.reports.control import Control
from goproxy_vm.cache.reports.purges import Purges
from goproxy_vm.cache.reports.scanner import Scanner
from goproxy_vm.cache.reports.snapshots import Snapshots
from goproxy_vm.cache.rows import Entry
from goproxy_vm.cache.threads import Threads
from goproxy_vm.cache.upkeep import beginning
from goproxy_vm.cache.upkeep.beginning import open_index
from goproxy_vm.cache.upkeep.janitor import Janitor, Policy
from goproxy_vm.cache.upkeep.ledger import Ledger
from goproxy_vm.cache.upkeep.leftovers import Leftovers
from goproxy_vm.cache.upkeep.quarantine import Quarantine
from goproxy_vm.cache.upkeep.recovery import Recoverer
from goproxy_vm.cache.upkeep.removal import Remover
from goproxy_vm.cache.upkeep.scrub import Scrubber
from goproxy_vm.cache.upkeep.trial import Trial
from goproxy_vm.cache.upkeep.warming import warm
from goproxy_vm.cache.usage import Usage
from goproxy_vm.cache.vms import PLACE, KnownVms
from goproxy_vm.errors import StartError
from goproxy_vm.hostos import file_system
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AsyncExitStack
    from pathlib import Path

    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.publish import Checkpoint, Item
    from goproxy_vm.cache.rows import Victim
    from goproxy_vm.config import Settings

log = get_logger("cache")

PROTECTED = 80
"""Percent of the budget that zips asked for again may fill before they compete with the others (slru)."""
LOOKUPS = 2
"""Threads, each with a connection, that read the index for those who wait for an answer."""
PATIENCE = 300.0
"""Seconds that a download waits for room at most."""
REASONS = frozenset({"size", "idle", "min_free", "evict", "purge", "corrupt"})
"""Why files go, for the metrics; others are no removals but repairs of the index."""
OPERATORS = frozenset({"evict", "purge", "corrupt"})
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

    core: Core
    heads: Heads
    answers: Answers
    records: Records
    quarantine: Quarantine
    janitor: Janitor
    scrub: Scrubber
    control: Control
    purges: Purges
    recoverer: Recoverer
    trial: Trial
    recency: Recency
    vms: KnownVms
    hits: Threads
    downloads: Threads
    published: Published
    min_free: int
    wall: Callable[[], float]


async def open_parts(
    stack: AsyncExitStack,
    root: Path,
    settings: Settings,
    *,
    lock_wait: float,
    checkpoint: Checkpoint | None,
    observer: Observer,
    boot: str,
    begin: Callable[[Database], LogicalClock] = begin_clock,
    free: Callable[[Path], int] = free_bytes,
    wall: Callable[[], float] = time.time,
) -> Parts:
    """Take possession of a cache directory; ``stack`` leaves it again. StartError: it cannot be used.

    Nothing goes on by itself before :func:`begin_work`. ``begin`` has this run's clock go on where the
    index says that the last one's was; ``free`` tells the bytes that a directory's file system has left,
    ``wall`` when hashes are seen first, in epoch seconds.
    """
    layout, health, usage = Layout.at(root), Health(), Usage()
    layout.prepare()
    stack.callback((await DirectoryLock.acquire(layout, lock_wait)).release)
    temporary = list(layout.tmp.iterdir()) if layout.tmp.exists() else []
    top = os.open(layout.modules, DIRECTORY)
    stack.callback(os.close, top)
    published = Published(top, file_system(layout.modules))
    limits, min_free = _limits(layout, settings)
    protected = limits.total * PROTECTED // 100 if settings.policy == "slru" else 0
    names = {
        "database": 1,
        "lookups": LOOKUPS,
        "scans": 1,
        "reports": 1,
        "answers": 1,
        "answer-lookups": 1,
        "hits": 4,
        "downloads": 4,
        "background": 1,
    }
    threads = {name: _threads(stack, name, count) for name, count in names.items()}
    writer = threads["database"]

    # Files copied here, or whose index is gone: nothing is on record of them either.
    lost = not layout.index.exists() and any(layout.modules.iterdir())
    database, begun = await writer.run(open_index, layout.index, settings, protected, boot, begin)
    stack.push_async_callback(writer.run, database.close)
    # Others use the same threads, whose errors say nothing of the index.
    asking = Watched(writer, database.notice)
    notice = partial(_noticed, database, writer)
    reading = Watched(threads["reports"], notice)
    looking, scanning = Watched(threads["lookups"], notice), Watched(threads["scans"], notice)
    try:
        lookups = await Lookups.open(looking, layout.index, LOOKUPS, begun.index.doubts, notice)
        stack.push_async_callback(lookups.close)
        scanner = await scanning.run(_scanner, layout.index, begun.clock, notice)
        stack.push_async_callback(scanning.run, scanner.connection.close)
    except sqlite3.Error as error:
        raise StartError(f"{layout.index}: {reason(error)}") from error
    answers, records, snapshots = await _others(stack, layout, threads, health, settings)
    await records.take_over(answers)
    index, clock = begun.index, begun.clock
    usage.reset(begun.sums)
    if begun.unsettled:
        health.failed(begun.unsettled)
    memory = Memory(clock)

    def stored(item: Item) -> None:
        memory.forget(item.path)
        memory.keep(Entry(item.path, item.content.length, item.content.sha256))
        memory.forget_known((item.artifact.module, item.artifact.version))
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
    core = Core(
        layout=layout,
        memory=memory,
        index=index,
        lookups=lookups,
        scanner=scanner,
        ledger=Ledger(database, clock),
        fences=Fences(),
        usage=usage,
        admission=admission,
        holders=holders,
        leftovers=leftovers,
        clock=clock,
        health=health,
        queue=queue,
        remover=remover,
        database=asking,
        scans=scanning,
        disk=threads["background"],
        flush=recency.flush,
        free=partial(free, layout.root),
    )
    if settings.offline:  # what goes cannot come back, and nothing comes that room is needed for
        policy = Policy(0, None, settings.janitor_interval)
    else:
        policy = Policy(min_free, settings.max_idle or None, settings.janitor_interval)

    async def trim() -> None:
        await answers.trim()
        await records.trim()

    janitor = Janitor(core, policy, pressed, trim, interrupted=begun.interrupted)
    quarantine = Quarantine(layout.quarantine, settings.quarantine_max_size)
    scrub = Scrubber(
        core, quarantine, settings.scrub_interval, settings.scrub_rate, observer.scrubbed, observer.corrupt
    )
    reader = Scanner(snapshots.connection, clock, notice)
    recoverer = Recoverer(core, scrub, temporary, rebuilt=database.rebuilt or lost)
    purges = Purges(core, reader, reading, answers, recoverer)
    control = Control(
        core,
        reader,
        reading,
        threads["reports"],
        snapshots,
        answers,
        purges,
        janitor,
        scrub,
        recoverer,
        begun.pins,
    )
    stack.push_async_callback(control.close)
    heads = Heads(layout, threads["downloads"], health)
    vms = KnownVms(layout, threads["downloads"], health)
    await vms.open()
    stack.push_async_callback(vms.close)
    settled = begun.unsettled is None

    async def settle() -> None:
        nonlocal settled
        if settled:
            await asking.run(database.begin_run)
            await asking.run(core.ledger.write_ends)
            return
        async with queue.disk:
            pins = await asking.run(beginning.settle, database, index, clock, settings, protected, boot)
            usage.reset(await asking.run(index.sums))
            # What was believed until now may be unsure, a stray or not pinned from here on.
            memory.forget_all()
            control.pins_settled(pins, await purges.selector(pins))
        settled = True

    attempts = {
        "index": settle,
        layout.answers.name: answers.retry,
        layout.records.name: records.retry,
        "heads": heads.retry,
        PLACE: vms.retry,
    }
    trial = Trial(core, min_free, settings.janitor_interval, attempts)
    await trial.once()
    return Parts(
        core=core,
        heads=heads,
        answers=answers,
        records=records,
        quarantine=quarantine,
        janitor=janitor,
        scrub=scrub,
        control=control,
        purges=purges,
        recoverer=recoverer,
        trial=trial,
        recency=recency,
        vms=vms,
        hits=threads["hits"],
        downloads=threads["downloads"],
        published=published,
        min_free=min_free,
        wall=wall,
    )


def begin_work(stack: AsyncExitStack, parts: Parts, settings: Settings) -> None:
    """Begin what goes on in the background; ``stack`` ends it."""
    warming = asyncio.create_task(warm(parts.core), name="warm")
    stack.push_async_callback(cancel, warming)
    writing_hits = partial(parts.recency.run, settings.recency_flush)
    for work in (parts.janitor.run, parts.scrub.run, writing_hits, parts.trial.run, parts.vms.run):
        stack.push_async_callback(cancel, asyncio.create_task(supervised(work), name="cache"))


def _noticed(database: Database, writer: Threads, error: Exception) -> None:
    """Something failed on the content of the index that another connection read: the writer notes it down."""
    before = database.broken
    database.notice(error, here=False)
    if database.broken and not before:
        writer.executor.submit(database.begin_run)  # the next start sees for itself where that fails


def _scanner(path: Path, clock: LogicalClock, notice: Callable[[Exception], None]) -> Scanner:
    return Scanner(connect(path), clock, notice)


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
    desks = Desks(threads["answer-lookups"], threads["answers"])
    try:
        answers = await Answers.open(path, desks, health, most_bytes=settings.answers_max_size)
        stack.push_async_callback(answers.close)
        path = layout.records
        records = await Answers.open(path, desks, health, tag_of=tag_of, precious=True)
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
