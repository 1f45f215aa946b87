"""The index: what is stored, how big, how recently used; and the hash each version had when first seen.

The file system is the truth for presence, the index for everything else. All functions block and
belong to the one database thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from goproxy_vm.cache.files import Entry
from goproxy_vm.errors import StartError
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from goproxy_vm.cache.files import Kind

log = get_logger("cache")

BLOCK = 512
"""Bytes in one of ``st_blocks``."""

SCHEMAS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE files (
            id INTEGER PRIMARY KEY,
            path TEXT NOT NULL UNIQUE,         -- below modules/, escaped
            module TEXT NOT NULL,              -- unescaped
            version TEXT NOT NULL,
            kind TEXT NOT NULL,                -- info, mod, zip
            length INTEGER NOT NULL,           -- bytes
            blocks INTEGER NOT NULL,           -- allocated, of 512 bytes
            sha256 BLOB NOT NULL,              -- of the bytes
            h1 TEXT,                           -- of mod and zip
            fetched REAL NOT NULL,             -- epoch seconds
            last_used REAL NOT NULL,           -- epoch seconds
            hits INTEGER NOT NULL DEFAULT 0,
            segment INTEGER NOT NULL DEFAULT 0,  -- 0 probation, 1 protected
            pinned INTEGER NOT NULL DEFAULT 0,
            state INTEGER NOT NULL DEFAULT 0   -- 0 stored, 1 dying
        ) STRICT
        """,
        "CREATE INDEX files_version ON files (module, version, kind)",
        """
        CREATE TABLE known (
            module TEXT NOT NULL,
            version TEXT NOT NULL,
            kind TEXT NOT NULL,                -- mod, zip
            h1 TEXT NOT NULL,
            seen REAL NOT NULL,                -- epoch seconds
            database TEXT NOT NULL DEFAULT '',  -- the checksum database that has proven it
            PRIMARY KEY (module, version, kind)
        ) STRICT, WITHOUT ROWID
        """,
    ),
)
"""Statements that lead from each schema version to the next; ``PRAGMA user_version`` counts them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A file that has just been published."""

    path: str
    module: str
    version: str
    kind: Kind
    length: int
    blocks: int
    sha256: str
    h1: str | None


@dataclass(frozen=True, slots=True)
class Known:
    """The h1 hashes a version's ``.mod`` and ``.zip`` had when first seen, or None.

    Beside each, the name of the checksum database whose log has proven it; empty if none has.
    """

    mod: str | None
    zip: str | None
    mod_database: str = ""
    zip_database: str = ""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is on record: versions of modules, files, and the bytes allocated for them."""

    versions: int
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Touch:
    """Hits on one file since the last flush, and the time of the newest in epoch seconds."""

    last_used: float
    hits: int


class Index:
    """An open index.db. sqlite3.Error from any method: the database cannot be read or written."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> Index:
        """Open or create the index.

        A file that is no sound database is moved aside to ``index.db.broken``, with a warning, and a
        new one is begun. StartError: it cannot be opened, or a newer version of this program wrote it.
        """
        if path.is_dir():
            raise StartError(f"{path}: is a directory and not a database")
        try:
            return cls._open(path)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode not in {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}:
                raise StartError(f"{path}: {error}") from error
            broken = path.with_name(f"{path.name}.broken")
            log.warning("index moved aside and begun anew", path=path, to=broken, reason=str(error))
        try:
            path.replace(broken)
            # A log or a shared-memory file left behind would be played into the new database.
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            return cls._open(path)
        except (OSError, sqlite3.Error) as error:
            raise StartError(f"{path}: {error}") from error

    @classmethod
    def _open(cls, path: Path) -> Index:
        database = sqlite3.connect(path, timeout=1.0, isolation_level=None)
        try:
            # In WAL, NORMAL loses the last transactions in a power loss, never the database; a
            # file without a row is only fetched again.
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL"):
                database.execute(f"PRAGMA {pragma}")
            index = cls(database)
            index._migrate(path)
        except BaseException:
            database.close()
            raise
        return index

    def _migrate(self, path: Path) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version > len(SCHEMAS):
            raise StartError(
                f"{path}: schema {version} is of a newer goproxy-vm; this one knows up to {len(SCHEMAS)}"
            )
        for number, statements in enumerate(SCHEMAS[version:], version + 1):
            with self._transaction():
                for statement in statements:
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {number}")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after a full disk.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Fold the log into the database and close it."""
        self._database.close()

    def entry(self, path: str) -> Entry | None:
        """The stored file with that path."""
        row = self._database.execute(
            "SELECT length, sha256, h1 FROM files WHERE path = ? AND state = 0", (path,)
        ).fetchone()
        return row and Entry(path, row[0], row[1].hex(), row[2])

    def add(self, rows: Iterable[Row], now: float) -> None:
        """Put published files on record, all or none; they replace older rows of the same path."""
        with self._transaction():
            self._database.executemany(
                "INSERT OR REPLACE INTO files"
                " (path, module, version, kind, length, blocks, sha256, h1, fetched, last_used)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        *(row.path, row.module, row.version, row.kind.value, row.length, row.blocks),
                        *(bytes.fromhex(row.sha256), row.h1, now, now),
                    )
                    for row in rows
                ),
            )

    def remove(self, path: str) -> None:
        """Strike a file off the record."""
        self._database.execute("DELETE FROM files WHERE path = ?", (path,))

    def touch(self, touches: dict[str, Touch]) -> None:
        """Add hits, in one transaction; paths that are no longer on record are passed over."""
        with self._transaction():
            self._database.executemany(
                "UPDATE files SET last_used = max(last_used, ?), hits = hits + ? WHERE path = ?",
                ((touch.last_used, touch.hits, path) for path, touch in touches.items()),
            )

    def known(self, module: str, version: str) -> Known:
        """The hashes first seen for that version."""
        rows = self._database.execute(
            "SELECT kind, h1, database FROM known WHERE module = ? AND version = ?", (module, version)
        ).fetchall()
        found = {kind: (h1, database) for kind, h1, database in rows}
        mod, mod_database = found.get("mod", (None, ""))
        zip_, zip_database = found.get("zip", (None, ""))
        return Known(mod, zip_, mod_database, zip_database)

    def remember(self, module: str, version: str, kind: Literal["mod", "zip"], h1: str, now: float) -> str:
        """Keep a hash unless there is one on record already; the one on record now."""
        key = (module, version, kind)
        found = "SELECT h1 FROM known WHERE module = ? AND version = ? AND kind = ?"
        row = self._database.execute(found, key).fetchone()
        if row is None:
            self._database.execute(
                "INSERT INTO known (module, version, kind, h1, seen) VALUES (?, ?, ?, ?, ?)", (*key, h1, now)
            )
        return h1 if row is None else str(row[0])

    def prove(self, module: str, version: str, hashes: dict[str, str], database: str, now: float) -> None:
        """Keep what a checksum database has proven, by kind; another hash seen first stays on record."""
        with self._transaction():
            self._database.executemany(
                "INSERT INTO known (module, version, kind, h1, seen, database) VALUES (?, ?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET database = excluded.database WHERE h1 = excluded.h1",
                [(module, version, kind, h1, now, database) for kind, h1 in hashes.items()],
            )

    def kinds(self, module: str) -> list[tuple[str, str]]:
        """Version and kind of every stored file of a module."""
        return self._database.execute(
            "SELECT version, kind FROM files WHERE module = ? AND state = 0", (module,)
        ).fetchall()

    def statistics(self) -> Statistics:
        """Totals over all stored files: one pass over the table."""
        files, blocks = self._database.execute(
            "SELECT count(*), coalesce(sum(blocks), 0) FROM files"
        ).fetchone()
        (versions,) = self._database.execute(
            "SELECT count(*) FROM (SELECT DISTINCT module, version FROM files)"
        ).fetchone()
        return Statistics(versions, files, blocks * BLOCK)
