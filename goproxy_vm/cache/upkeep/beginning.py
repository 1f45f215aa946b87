"""What a start finds in the index and settles there: clock, power losses, proof, pins. Everything blocks and
belongs to the database thread."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.cache.database import Database, unsound
from goproxy_vm.cache.index import Index
from goproxy_vm.cache.recency import begin_clock
from goproxy_vm.cache.reports.scanner import Scanner
from goproxy_vm.cache.upkeep.ledger import Ledger
from goproxy_vm.errors import StartError
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.names import exempt
from goproxy_vm.protocol.selector import normalize

if TYPE_CHECKING:
    from pathlib import Path

    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.rows import Sum
    from goproxy_vm.config import Settings

log = get_logger("cache")


@dataclass(frozen=True, slots=True)
class Begun:
    """What the database thread found and settled at the start."""

    index: Index
    clock: LogicalClock
    sums: list[Sum]
    pins: dict[str, str]
    interrupted: bool
    """Whether the run before did not end cleanly."""
    unsettled: sqlite3.Error | None
    """Why what a start writes down could not be: it is kept in memory, and tried again."""


def open_index(path: Path, settings: Settings, protected: int, boot: str) -> tuple[Database, Begun]:
    """The index, begun anew where what is there cannot be used. StartError."""
    database = Database.open(path)
    try:
        return database, _begin(database, settings, protected, boot)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if not unsound(error):
            database.close()
            raise StartError(f"{path}: {error}") from error
        database.connection.close()
        database = Database.anew(path, error)
    try:
        return database, _begin(database, settings, protected, boot)
    except sqlite3.Error as error:
        database.close()
        raise StartError(f"{path}: {error}") from error


def _begin(database: Database, settings: Settings, protected: int, boot: str) -> Begun:
    index, clock, interrupted = Index(database), begin_clock(database), database.unclean
    for fact in ("clean", "first_seen"):
        database.number(fact, 0)  # Impossible, before anything goes by it
    unsettled = None
    try:
        marked = settle(database, index, clock, settings, protected, boot)
    except sqlite3.OperationalError as error:
        unsettled = error
        marked = _hold_back(database, index, clock, settings, boot)
    return Begun(index, clock, index.sums(), marked, interrupted, unsettled)


def _hold_back(
    database: Database, index: Index, clock: LogicalClock, settings: Settings, boot: str
) -> dict[str, str]:
    """On a full disk: what must not be served as it is, as :func:`settle` would write it, and the pins."""
    if _lost_power(database, boot):
        index.doubts.suspected = int(database.number("clean", 0))
    name, patterns = _proof(settings)
    if name and _must_prove(database, settings):
        rows = index.not_proven(name, lambda module: exempt(patterns, module))
        index.doubts.withheld = frozenset(row[0] for row in rows)
    return {**Ledger(database, clock).pins(), **{normalize(pin): "config" for pin in settings.pinned}}


def _lost_power(database: Database, boot: str) -> bool:
    return database.unclean and database.get("boot", boot) != boot


def settle(
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
        ledger.set_pins([normalize(pin) for pin in settings.pinned], "config")
        marked = ledger.pins()
        if marked.keys() != before.keys() or database.unclean:
            pin, unpin = Scanner(database.connection, clock, database.notice).pinned(marked)
            index.mark_pinned(pin, pinned=True)
            index.mark_pinned(unpin, pinned=False)
    database.unclean = False
    index.doubts.suspected, index.doubts.withheld = None, frozenset()
    return marked


def _proof(settings: Settings) -> tuple[str, str]:
    """The checksum database that files must be proven by, and the modules that need not be."""
    return ("", "") if settings.sumdb is None else (settings.sumdb.name, settings.exempt)


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
