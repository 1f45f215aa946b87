"""The ledger: which client got which zip, and when (docs/operating.md). Notes are taken in memory, and
written to a file of their own by a thread of their own. No request waits for it, and none fails by it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import time
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

from goproxy_vm.cache.database import unsound
from goproxy_vm.cache.facts import Page
from goproxy_vm.cache.health import FULL, is_full, reason
from goproxy_vm.cache.threads import Threads, paused
from goproxy_vm.errors import Unavailable
from goproxy_vm.ledger.facts import Fetched, FetchPage
from goproxy_vm.ledger.notes import Notes
from goproxy_vm.ledger.table import FetchTable
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from goproxy_vm.config import Settings
    from goproxy_vm.ledger.facts import Noted, Sought

NAME = "ledger.db"
"""Of the file, in the cache directory."""
INTERVAL = 30.0
"""Seconds from one write to the next: what a crash may lose."""
CHUNK = 500
"""Notes that are written in one transaction, so that nobody who asks waits for all."""
STRETCH = 0.0005
"""Seconds of the processor's time between two pauses while they are being written: who asks waits for it."""
HASHED = "~"
"""What the hash of an address begins with; no address does."""
TROUBLES = (sqlite3.Error, OSError, UnicodeDecodeError)

log = get_logger("ledger")

T = TypeVar("T")


def _gently(noted: Iterable[Noted]) -> Iterable[Noted]:
    return paused(noted, STRETCH)


class FetchLedger:
    """Its owner calls :meth:`open`, has :meth:`run` run, and calls :meth:`close`; ``notes`` are for who
    serves.

    Settings: ``ledger``, ``ledger_keep``, ``ledger_rows``, ``client_names``, which :meth:`change` changes.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        *,
        interval: float = INTERVAL,
        open_table: Callable[[Path], FetchTable] = FetchTable.open,
    ) -> None:
        """``path`` is that of the file, which is absolute; ``interval`` in seconds; ``open_table`` is called
        as :meth:`FetchTable.open`."""
        self._path = path
        self._settings = settings
        self._interval = interval
        self._open_table = open_table
        self._threads = Threads("ledger", 1)
        self._full = asyncio.Event()
        self.notes = Notes(self._full.set)
        self._table: FetchTable | None = None
        self._writing = asyncio.Lock()
        """Held while notes are being written, and while settings change."""
        self._failing = False
        self._key = b""
        """Of the hashes of this run."""
        self._unhashed = False
        """Whether addresses on record are still to be hashed."""

    @property
    def figures(self) -> tuple[int, int]:
        """The rows on record, and the fetches and refusals of which nothing is known."""
        return self._table.rows if self._table is not None else 0, self.notes.dropped

    async def open(self) -> None:
        """Take notes from now on, if the settings say so. The log says what cannot be opened."""
        async with self._writing:
            self._begin()
            await self._attempt([])

    def _begin(self) -> None:
        self.notes.switch(on=self._settings.ledger != "off")
        self._unhashed = self._settings.ledger == "hashed"
        self._key = secrets.token_bytes(32)

    async def change(self, settings: Settings) -> None:
        """Put other settings into force."""
        async with self._writing:
            await to_the_end(self._change(settings))

    async def _change(self, settings: Settings) -> None:
        before = self._settings.ledger
        await self._attempt(self.notes.take())
        self._settings = settings
        if settings.ledger != before:
            self._begin()
            await self._attempt([])
            if settings.ledger == "off":
                await self._close_table()

    async def run(self) -> None:
        """Write down what was noted, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._full.wait()
            await self.flush()

    async def flush(self) -> None:
        """Write down what was noted so far, and forget what is too old or too much."""
        async with self._writing:
            self._full.clear()
            await to_the_end(self._attempt(self.notes.take()))

    async def close(self) -> None:
        """Write down what is not yet, and close the file."""
        async with self._writing:
            await self._attempt(self.notes.take(), pace=list)
            await self._close_table()
        self._threads.close()

    async def page(self, wanted: Sought) -> FetchPage:
        """Some of what is on record, up to this moment. ValueError: a cursor that is none; Unavailable: it
        cannot be read."""
        await self.flush()
        settings = self._settings
        found: Page[Fetched] = Page([], None, 0)
        if settings.ledger != "off":
            try:
                found = await self._in_table(
                    lambda table: table.find(wanted, settings.client_names, time.time())
                )
            except TROUBLES as error:
                await self._failed(error)
                raise Unavailable(f"this host cannot read its ledger now: {_why(error)}") from error
        return FetchPage(
            found.items, found.next_cursor, found.total, settings.ledger, bool(settings.trusted_proxies)
        )

    async def _attempt(
        self, noted: Sequence[Noted], pace: Callable[[Iterable[Noted]], Iterable[Noted]] = _gently
    ) -> None:
        """Write notes, and forget what is too old or too much; what cannot be written is left out. ``pace``
        says how fast they go."""
        settings = self._settings
        if settings.ledger == "off":
            return
        since, most = time.time() - settings.ledger_keep, settings.ledger_rows
        left = noted
        if settings.ledger == "hashed":
            left = [replace(each, client=self._hashed(each.client)) for each in noted]
        try:
            if self._unhashed:
                await self._in_table(lambda table: table.rename(self._hashed))
                self._unhashed = False
            while left:
                await self._in_table(partial(_write, pace(left[:CHUNK]), most))
                left = left[CHUNK:]
            while await self._in_table(lambda table: table.trim(since, most)):
                pass  # others have their turn
        except TROUBLES as error:
            self.notes.dropped += sum(each.count + each.refused for each in left)
            await self._failed(error)
            return
        if self._failing and noted:  # without any, nothing was tried
            self._failing = False
            log.info("ledger written again")

    def _hashed(self, client: str) -> str:
        if client.startswith(HASHED):
            return client
        return HASHED + blake2b(client.encode(), key=self._key, digest_size=8).hexdigest()

    async def _in_table(self, work: Callable[[FetchTable], T]) -> T:
        """What some work on the file says, which is opened if need be. TROUBLES."""

        def run() -> T:
            if self._table is None:
                self._table = self._opened()
            return work(self._table)

        return await self._threads.run(run)

    def _opened(self) -> FetchTable:
        try:
            return self._open_table(self._path)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if not unsound(error):
                raise
            self._set_aside(error)
            return self._open_table(self._path)

    async def _failed(self, error: Exception) -> None:
        """It cannot be used as it is: told once, until it can."""
        if unsound(error):
            try:
                await self._threads.run(self._set_aside, error)
            except OSError as failure:
                error = failure
            else:
                return
        if not self._failing:
            self._failing = True
            log.warning("ledger not written", reason=_why(error))

    def _set_aside(self, error: Exception) -> None:
        """OSError: it stays where it is."""
        self._close()
        broken = self._path.with_name(f"{NAME}.broken")
        log.warning("ledger begun anew", path=self._path, to=broken, reason=str(error))
        self._path.replace(broken)
        # A log left behind would be played into the new one.
        self._path.with_name(f"{NAME}-wal").unlink(missing_ok=True)

    async def _close_table(self) -> None:
        await self._threads.run(self._close)

    def _close(self) -> None:
        table, self._table = self._table, None
        if table is not None:
            with contextlib.suppress(sqlite3.Error):  # what it could not fold in, the next start does
                table.close()


def _write(noted: Iterable[Noted], most: int, table: FetchTable) -> None:
    table.write(noted, most)


def _why(error: Exception) -> str:
    return FULL if is_full(error) else reason(error)
