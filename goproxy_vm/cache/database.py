"""index.db: opening, migrating, transactions. Everything blocks."""

from __future__ import annotations

import contextlib
import mmap
import os
import sqlite3
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from goproxy_vm.cache.health import FULL, is_full, reason
from goproxy_vm.cache.schema import SCHEMAS
from goproxy_vm.cache.threads import Threads
from goproxy_vm.errors import StartError
from goproxy_vm.hostos import file_system
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

log = get_logger("cache")

P = ParamSpec("P")
T = TypeVar("T")

ALONE = "?vfs=unix-excl"
"""Has the connections of one process share memory that is no file, and keeps other processes out."""
COPYING = frozenset({"btrfs", "bcachefs", "zfs"})
"""File systems on which writing again to the same place takes new room."""


def mappable(path: Path) -> bool:
    """Whether the file by which SQLite's connections share memory may be mapped (blocking).

    SQLite sees to it that each page has a byte on the disk. Where a page is more than one block, or a block
    is not written in place, a full disk makes of the first write to the page a SIGBUS.
    """
    try:
        block = os.statvfs(path.parent).f_frsize
    except OSError:
        return False
    return block >= mmap.PAGESIZE and file_system(path.parent) not in COPYING


def damaged(error: sqlite3.DatabaseError) -> bool:
    """Whether the error says that what was opened is no sound database."""
    # The low byte of an extended code is the code itself.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}


HOST = frozenset(
    {
        *(sqlite3.SQLITE_PERM, sqlite3.SQLITE_ABORT, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
        *(sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_AUTH),
        sqlite3.SQLITE_MISUSE,
    }
)
"""Errors of SQLite that speak of the host, or of us: all others speak of what the database holds."""
NEWEST = 1000
"""No version of this program will have a later schema."""
LATEST = 1e11
"""Epoch seconds that no clock of a host shows, in the year 5138."""
BROKEN = 2
"""The value of ``running`` that has the next start begin anew: damage was met, and a check may miss it."""


class Impossible(sqlite3.DatabaseError):
    """What is on record cannot be: this program does not write such a thing. ``row`` says where it was."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    def __init__(self, row: str) -> None:
        super().__init__(f"what is on record cannot be: {row}")
        self.row = row


def unsound(error: Exception) -> bool:
    """Whether the content of our own database is at fault: the statements are ours, and were right before."""
    if isinstance(error, UnicodeDecodeError):
        return True  # of SQLite's own words about it
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, sqlite3.Error) and str(error).startswith("Could not decode to UTF-8")
    return code & 0xFF not in HOST


class Database:
    """The open index.db of the one thread that writes to it.

    sqlite3.Error from any method: it cannot be read or written.
    """

    rebuilt = False
    """True where what was there was no sound database, and this is a new one."""
    unclean = False
    """True where the last run did not end with :meth:`close`, until somebody has seen to it."""
    broken = False
    """True once damage was met: the next start begins anew."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.skipped: set[str] = set()
        """Rows that were passed over, for they cannot be."""

    @classmethod
    def open(cls, path: Path) -> Database:
        """Open or create it.

        A file that is no sound database is moved aside to ``index.db.broken``, with a warning, and a
        new one is begun. StartError: it cannot be opened, or a newer version of this program wrote it.
        """
        if path.is_dir():
            raise StartError(f"{path}: is a directory and not a database")
        try:
            return cls._open(path)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not unsound(error):
                raise StartError(f"{path}: {FULL if is_full(error) else error}") from error
            return cls.anew(path, error)

    @classmethod
    def anew(cls, path: Path, error: Exception) -> Database:
        """Move aside what is there, which nobody has open any more, and begin a new one. StartError."""
        broken = path.with_name(f"{path.name}.broken")
        log.warning("index moved aside and begun anew", path=path, to=broken, reason=str(error))
        try:
            path.replace(broken)
            # A log or a shared-memory file left behind would be played into the new database.
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            database = cls._open(path)
        except (OSError, sqlite3.Error) as failure:
            raise StartError(f"{path}: {failure}") from failure
        database.rebuilt = True
        return database

    @classmethod
    def _open(cls, path: Path) -> Database:
        if mappable(path):
            try:
                return cls._open_with(path, "")
            except sqlite3.OperationalError as error:
                # No room for the shared memory, perhaps: then it is this process's own.
                log.debug("index opened for this process alone", path=path, reason=str(error))
        return cls._open_with(path, ALONE)

    @classmethod
    def _open_with(cls, path: Path, mode: str) -> Database:
        connection = sqlite3.connect(path.as_uri() + mode, uri=True, timeout=1.0, isolation_level=None)
        try:
            # In WAL, NORMAL loses the last transactions in a power loss, never the database; a
            # file without a row is verified, or fetched again.
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
                connection.execute(f"PRAGMA {pragma}")
            database = cls(connection)
            database._migrate(path)
            running = database.number("running", 0)
            if running == BROKEN:
                raise Impossible("noticed by the run before")
            database.unclean = bool(running)
            if database.unclean:
                database._check()
            with contextlib.suppress(sqlite3.OperationalError):  # a full disk: set with what is settled
                database.set("running", 1)
        except BaseException:
            connection.close()
            raise
        return database

    def _check(self) -> None:
        # Only after a run that did not end cleanly: it reads the whole file.
        (verdict,) = self.connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            error = sqlite3.DatabaseError(verdict)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error

    def _migrate(self, path: Path) -> None:
        (version,) = self.connection.execute("PRAGMA user_version").fetchone()
        if not 0 <= version <= NEWEST:
            raise Impossible(f"schema {version}")
        if version > len(SCHEMAS):
            raise StartError(
                f"{path}: schema {version} is of a newer goproxy-vm; this one knows up to {len(SCHEMAS)}"
            )
        if version == 0 and self._tables() and "meta" not in self._tables():
            raise StartError(f"{path}: is a database, and none of goproxy-vm")
        for number, statements in enumerate(SCHEMAS[version:], version + 1):
            with self.transaction():
                for statement in statements:
                    self.connection.execute(statement)
                self.connection.execute(f"PRAGMA user_version = {number}")

    def _tables(self) -> set[str]:
        rows = self.connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        return {name for (name,) in rows}

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; one inside another is part of it."""
        if self.connection.in_transaction:
            yield
            return
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after a full disk.
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def get(self, key: str, otherwise: Any) -> Any:
        """A small fact about the whole store."""
        row = self.connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return otherwise if row is None else row[0]

    def number(self, key: str, otherwise: float | None) -> float:
        """A fact that is a number. Impossible: it is none, or out of all bounds."""
        value = self.get(key, otherwise)
        if not isinstance(value, int | float) or not 0 <= value < LATEST:
            raise Impossible(f"meta {key}")
        return value

    def notice(self, error: Exception, *, here: bool = True) -> None:
        """Something failed on the content of this database: if that is damage, the next start begins anew.

        ``here``: in the thread of the connection, so that it can be written down at once.
        """
        if not unsound(error):
            return
        if isinstance(error, Impossible):
            self.skipped.add(error.row)
        if not self.broken:
            self.broken = True
            log.error("index damaged", reason=reason(error))
        if here:
            with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):  # the next start sees for itself
                self.begin_run()

    def begin_run(self) -> None:
        """Write down that a run is under way, and whether the index must be begun anew after it."""
        self.set("running", BROKEN if self.broken else 1)

    def set(self, key: str, value: str | float | int) -> None:
        """Keep a small fact."""
        self.connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def close(self) -> None:
        """Note a clean end, fold the log into the database and close it."""
        if self.broken:
            log.warning("index is begun anew at the next start", skipped=len(self.skipped))
        # A disk that failed, or damage: the next start looks closer.
        with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
            # A start that failed early has not seen to what the run before it left.
            self.set("running", BROKEN if self.broken else int(self.unclean))
        self.connection.close()


class Watched(Threads):
    """The same threads, for the uses that speak of the index: ``notice`` is told of their errors."""

    def __init__(self, threads: Threads, notice: Callable[[Exception], None]) -> None:
        self.executor = threads.executor
        self._notice = notice

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As the threads, whose owner closes them; sqlite3.Error for whatever damage does to SQLite."""

        def watched() -> T:
            try:
                return function(*args, **kwargs)
            except sqlite3.Error as error:
                self._notice(error)
                raise
            except UnicodeDecodeError as error:
                self._notice(error)
                raise Impossible("an error that is no text") from error

        return await super().run(watched)
