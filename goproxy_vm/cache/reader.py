"""Reading the index on a connection of its own: what a request waits for waits for no writer and no scan.

Everything blocks; sqlite3.Error: index.db cannot be read. Each read sees what was committed before it began.
"""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import dataclass
from queue import LifoQueue
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from goproxy_vm.cache.database import Impossible, unsound
from goproxy_vm.cache.rows import VICTIM, Entry, Known, Standing, possible, stray, victim
from goproxy_vm.cache.threads import paused

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from goproxy_vm.cache.rows import Victim
    from goproxy_vm.cache.threads import Threads

P = ParamSpec("P")
T = TypeVar("T")

TOGETHER = 64
"""Questions that are answered in one job at most."""
Question = tuple[str, str, str]
"""What :meth:`Reader.look` is asked: a path, its module and its version."""
CACHE = -256
"""SQLite's ``cache_size`` of a connection that only reads: KiB, negative."""


@dataclass(slots=True)
class Doubts:
    """What a start that could not write has to hold back, by row; for all connections of a store."""

    suspected: int | None = None
    """The last row of before a power loss that is known to be on disk, where :meth:`Index.suspect` could not
    be written: those after it are unsure."""
    withheld: frozenset[int] = frozenset()
    """Rows that :meth:`Index.unproven` has to make strays of, where that could not be written."""


class Reader:
    """Reads of the rows of files, and of the hashes known. ``notice`` is told of rows that cannot be."""

    def __init__(
        self, connection: sqlite3.Connection, doubts: Doubts, notice: Callable[[Exception], None]
    ) -> None:
        self._connection = connection
        self.doubts = doubts
        self._notice = notice

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def entry(self, path: str) -> Entry | None:
        """The stored file with that path."""
        # Before the row: what is not held back any more is written down by then.
        suspected, withheld = self.doubts.suspected, self.doubts.withheld
        row = self._connection.execute(
            "SELECT length, sha256, unsure, id FROM files WHERE path = ? AND state = 0", (path,)
        ).fetchone()
        if row is None or row[3] in withheld:
            return None
        if not isinstance(row[1], bytes) or not isinstance(row[0], int):
            self._notice(Impossible(f"files {row[3]!r}"))
            return None
        suspect = suspected is not None and row[3] > suspected
        return Entry(path, row[0], row[1].hex(), unsure=bool(row[2]) or suspect)

    def entries(self, paths: Sequence[str]) -> list[Entry]:
        """As :meth:`entry`, of several; those only that can be served as they are."""
        found = [self.entry(path) for path in paused(paths)]
        return [entry for entry in found if entry is not None and not entry.unsure]

    def look(self, path: str, module: str, version: str) -> Standing:
        """All that a request for a file of a version needs to know: the entry; where there is none, whether
        something stands under its path all the same, and what is known of the version."""
        entry = self.entry(path)
        if entry is not None:
            return Standing(entry)
        other = bool(self.of_path(path))
        try:
            return Standing(None, other, self.known(module, version))
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if not unsound(error):
                raise
            # Who holds a file to it asks for it, and is refused; a .info needs none.
            self._notice(error)
            return Standing(None, other)

    def look_all(self, questions: Sequence[Question]) -> list[Standing | sqlite3.Error]:
        """As :meth:`look`, of several."""
        found: list[Standing | sqlite3.Error] = []
        for question in questions:
            try:
                found.append(self.look(*question))
            except sqlite3.Error as error:  # of one row, perhaps
                self._notice(error)
                found.append(error)
            except UnicodeDecodeError as error:
                self._notice(error)
                found.append(Impossible("an error that is no text"))
        return found

    def of_path(self, path: str) -> list[Victim]:
        """What stands under a path, row or stray, as something that may go: none or one."""
        rows = self._connection.execute(f"SELECT {VICTIM} FROM files WHERE path = ?", (path,)).fetchall()  # noqa: S608
        found = list(possible(victim, rows, self._notice))
        return found or self.strays("WHERE path = ?", path)

    def strays(self, condition: str = "", *values: object) -> list[Victim]:
        """Files without a row, as something that may go; ``condition`` is SQL of ours."""
        rows = self._connection.execute(f"SELECT path, kind, blocks FROM strays {condition}", values)  # noqa: S608
        return list(possible(lambda row: stray(*row), rows, self._notice))

    def known(self, module: str, version: str) -> Known:
        """The hashes first seen for that version."""
        rows = self._connection.execute(
            "SELECT kind, h1, database, seen, number FROM known WHERE module = ? AND version = ?",
            (module, version),
        ).fetchall()
        for *texts, seen, number in rows:
            sound = all(isinstance(text, str) for text in texts) and isinstance(seen, float)
            if not sound or not (number is None or (isinstance(number, int) and number >= 0)):
                raise Impossible(f"known {module}@{version}")
        found = {kind: (h1, database, seen) for kind, h1, database, seen, _ in rows}
        mod, mod_database, _ = found.get("mod", (None, "", None))
        zip_, zip_database, zip_seen = found.get("zip", (None, "", None))
        return Known(
            mod,
            zip_,
            mod_database,
            zip_database,
            on_record=bool(found) or self._stored(module, version),
            numbers={row[2]: row[4] for row in rows if row[4] is not None},
            zip_seen=zip_seen,
        )

    def _stored(self, module: str, version: str) -> bool:
        (found,) = self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM files WHERE module = ? AND version = ?)", (module, version)
        ).fetchone()
        return bool(found)

    def kinds(self, module: str) -> list[tuple[str, str]]:
        """Version and kind of every stored file of a module."""
        withheld = self.doubts.withheld
        rows = self._connection.execute(
            "SELECT id, version, kind FROM files WHERE module = ? AND state = 0", (module,)
        )
        return [(version, kind) for id_, version, kind in rows if id_ not in withheld]


def connect(path: Path) -> sqlite3.Connection:
    """A connection that only reads, beside the one that writes, which is open; for one thread at a time.
    sqlite3.Error: there can be none."""
    # Where that one is ALONE, this one shares its memory: SQLite keeps that by file, in one process.
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, timeout=1.0, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA query_only = 1")
        connection.execute(f"PRAGMA cache_size = {CACHE}")
        connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


class Lookups:
    """Readers of the index for those who wait for an answer, one for each of ``threads``."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._free: LifoQueue[Reader] = LifoQueue()  # the one used last has its pages in memory
        self._count = 0
        self._asked: list[tuple[Question, asyncio.Future[Standing]]] = []
        self._jobs: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls, threads: Threads, path: Path, count: int, doubts: Doubts, notice: Callable[[Exception], None]
    ) -> Lookups:
        """Open ``count`` connections to the index. sqlite3.Error: it cannot be read."""
        lookups = cls(threads)
        try:
            for _ in range(count):
                connection = await threads.run(connect, path)
                lookups._free.put(Reader(connection, doubts, notice))
                lookups._count += 1
        except BaseException:
            await lookups.close()
            raise
        return lookups

    async def close(self) -> None:
        """Close the connections, as soon as nobody uses them."""
        while self._asked or self._jobs:
            await asyncio.sleep(0)  # what was asked in this turn is answered in the next
            await asyncio.gather(*self._jobs)
        for _ in range(self._count):
            await self._threads.run(lambda: self._free.get().close())

    async def look(self, question: Question) -> Standing:
        """As :meth:`Reader.look`. What is asked in one turn of the loop is answered together: waking a
        thread costs more than an answer."""
        loop = asyncio.get_running_loop()
        if not self._asked:
            loop.call_soon(self._answer)
        answer: asyncio.Future[Standing] = loop.create_future()
        self._asked.append((question, answer))
        return await answer

    def _answer(self) -> None:
        asked = [each for each in self._asked if not each[1].done()]  # others are gone already
        self._asked = []
        for start in range(0, len(asked), TOGETHER):
            job = asyncio.get_running_loop().create_task(self._look(asked[start : start + TOGETHER]))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)

    async def _look(self, asked: Sequence[tuple[Question, asyncio.Future[Standing]]]) -> None:
        found: Sequence[Standing | Exception]
        try:
            found = await self.run(Reader.look_all, [question for question, _ in asked])
        except Exception as error:  # noqa: BLE001 (whoever asked has to deal with it)
            found = [error] * len(asked)
        for (_, answer), each in zip(asked, found, strict=True):
            if answer.done():
                continue  # nobody waits any more
            if isinstance(each, Exception):
                answer.set_exception(each)
            else:
                answer.set_result(each)

    async def run(
        self, function: Callable[Concatenate[Reader, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """The function's result, of a reader that nobody else uses meanwhile. sqlite3.Error as it has it."""

        def asked() -> T:
            reader = self._free.get()
            try:
                return function(reader, *args, **kwargs)
            finally:
                self._free.put(reader)

        return await self._threads.run(asked)
