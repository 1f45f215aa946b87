"""Snapshots: what was stored at some time, to compare with later. In a database of their own, written by
a thread of their own: copying the list of a large store must not hold up hits. Everything blocks."""

from __future__ import annotations

import sqlite3
import time
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from goproxy_vm.cache.database import ALONE, unsound
from goproxy_vm.cache.facts import Difference, RemovedVersion, Snapshot, Went
from goproxy_vm.cache.health import is_full, reason
from goproxy_vm.cache.reports.report import MOST_ITEMS
from goproxy_vm.cache.rows import BLOCK
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

log = get_logger("cache")

MOST = 20
"""Snapshots kept, the newest."""
NOW = "now"

TABLES = (
    """
CREATE TABLE IF NOT EXISTS kept.snapshots (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    created REAL NOT NULL, versions INTEGER NOT NULL, bytes INTEGER NOT NULL,
    removal INTEGER NOT NULL -- the newest removal then: by number, since clocks jump
    ) STRICT
""",
    """
CREATE TABLE IF NOT EXISTS kept.contents (snapshot INTEGER NOT NULL, module TEXT NOT NULL,
    version TEXT NOT NULL, kind TEXT NOT NULL, blocks INTEGER NOT NULL,
    PRIMARY KEY (snapshot, module, version, kind)) STRICT, WITHOUT ROWID
""",
)
CONTENTS = "SELECT module, version, kind, blocks FROM contents WHERE snapshot = ?"
PRESENT = "SELECT module, version, kind, blocks FROM live.files WHERE state = 0 AND ? IS NOT NULL"


class _File(NamedTuple):
    module: str
    version: str
    kind: str
    bytes: int


class Snapshots:
    """The open snapshots.db, with index.db beside it to read from."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self._path = path
        self._attached = False

    @classmethod
    def open(cls, path: Path, index: Path) -> Snapshots:
        """Open or create; what is no database is begun anew. sqlite3.Error, OSError: it cannot be.

        On a full disk the index can be read without snapshots: the first of them opens their database.
        """
        connection = sqlite3.connect(":memory:", timeout=5.0, isolation_level=None, uri=True)
        snapshots = cls(connection, path)
        try:
            connection.execute("ATTACH ? AS live", (f"{index.as_uri()}?mode=ro",))
            try:
                snapshots._begin()
            except sqlite3.DatabaseError as error:
                if not is_full(error):
                    raise
                log.warning("snapshots unavailable", reason=reason(error))
        except BaseException:
            connection.close()
            raise
        return snapshots

    def _begin(self) -> None:
        if self._attached:
            return
        try:
            self._attach()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if not unsound(error):
                raise
            for suffix in ("", "-wal", "-shm"):  # an old log would be played into the new database
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
            self._attach()
        self._attached = True

    def _attach(self) -> None:
        # No other process reads it, and none need share its memory.
        self.connection.execute("ATTACH ? AS kept", (self._path.as_uri() + ALONE,))
        try:
            self.connection.execute("PRAGMA kept.journal_mode = WAL")
            for table in TABLES:
                self.connection.execute(table)
        except BaseException:
            self.connection.execute("DETACH kept")
            raise

    def close(self) -> None:
        """Close the database."""
        self.connection.close()

    def take(self, name: str) -> Snapshot | None:
        """Keep what is stored now under a name; None: the name is taken. The oldest ones go."""
        self._begin()
        execute = self.connection.execute
        if name == NOW or execute("SELECT 1 FROM snapshots WHERE name = ?", (name,)).fetchone():
            return None
        execute("BEGIN")
        try:
            id_ = execute(
                "INSERT INTO snapshots SELECT NULL, ?, ?, 0, 0, coalesce(max(id), 0) FROM live.removals",
                (name, time.time()),
            ).lastrowid
            execute(
                "INSERT INTO contents SELECT ?, module, version, kind, blocks FROM live.files"
                " WHERE state = 0",
                (id_,),
            )
            execute(
                "UPDATE snapshots SET bytes = (SELECT coalesce(sum(blocks), 0) * ? FROM contents"
                " WHERE snapshot = ?), versions = (SELECT count(*) FROM (SELECT DISTINCT module, version"
                " FROM contents WHERE snapshot = ?)) WHERE id = ?",
                (BLOCK, id_, id_, id_),
            )
            execute(
                "DELETE FROM snapshots WHERE id NOT IN (SELECT id FROM snapshots ORDER BY id DESC LIMIT ?)",
                (MOST,),
            )
            execute("DELETE FROM contents WHERE snapshot NOT IN (SELECT id FROM snapshots)")
            execute("COMMIT")
        except BaseException:
            execute("ROLLBACK")
            raise
        return self._find(name)

    def delete(self, name: str) -> Snapshot | None:
        """Forget a snapshot, as it was; None: there is none of that name."""
        self._begin()
        found = self._find(name)
        if found is None:
            return None
        self.connection.execute("BEGIN")
        try:
            self.connection.execute("DELETE FROM snapshots WHERE id = ?", (found.id,))
            self.connection.execute("DELETE FROM contents WHERE snapshot = ?", (found.id,))
            self.connection.execute("COMMIT")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        return found

    def all(self) -> list[Snapshot]:
        """All snapshots, oldest first."""
        self._begin()
        rows = self.connection.execute("SELECT id, name, created, versions, bytes FROM snapshots ORDER BY id")
        return [Snapshot(*row) for row in rows]

    def difference(self, a: str, b: str) -> Difference | None:
        """What came and went from snapshot ``a`` to ``b``, or to now; None: there is no such snapshot."""
        self._begin()
        from_, to = self._find(a), self._find(b)
        if from_ is None or (to is None and b != NOW):
            return None
        later, key = (PRESENT, 0) if to is None else (CONTENTS, to.id)
        came = self._only(later, key, CONTENTS, from_.id)
        went = self._only(CONTENTS, from_.id, later, key)
        freed: dict[str, int] = {}
        reasons: dict[tuple[str, str], str] = {}
        for file in went:
            why = self._reason(file, from_, to)
            freed[why] = freed.get(why, 0) + file.bytes
            reasons[file.module, file.version] = why
        came_items = [RemovedVersion(*each) for each in _by_version(came)]
        went_items = [Went(*each, reasons[each[:2]]) for each in _by_version(went)]
        return Difference(
            a,
            b,
            came_items[:MOST_ITEMS],
            went_items[:MOST_ITEMS],
            sum(each.bytes for each in came),
            sum(freed.values()),
            freed,
            max(len(came_items), len(went_items)) > MOST_ITEMS,
        )

    def _find(self, name: str) -> Snapshot | None:
        row = self.connection.execute(
            "SELECT id, name, created, versions, bytes FROM snapshots WHERE name = ?", (name,)
        ).fetchone()
        return row and Snapshot(*row)

    def _only(self, these: str, key: int, others: str, other: int) -> list[_File]:
        """Files of one state that the other lacks."""
        rows = self.connection.execute(
            f"SELECT module, version, kind, blocks FROM ({these}) AS t WHERE NOT EXISTS"  # noqa: S608
            f" (SELECT 1 FROM ({others}) AS o WHERE o.module = t.module AND o.version = t.version"
            " AND o.kind = t.kind) ORDER BY module, version, kind",
            (key, other),
        )
        return [_File(module, version, kind, blocks * BLOCK) for module, version, kind, blocks in rows]

    def _reason(self, file: _File, a: Snapshot, b: Snapshot | None) -> str:
        later = b and b.id
        row = self.connection.execute(
            "SELECT reason FROM live.removals WHERE module = ? AND version = ? AND kind = ?"
            " AND id > (SELECT removal FROM snapshots WHERE id = ?)"
            " AND (? IS NULL OR id <= (SELECT removal FROM snapshots WHERE id = ?))"
            " ORDER BY id DESC LIMIT 1",
            (*file[:3], a.id, later, later),
        ).fetchone()
        return row[0] if row else "unknown"


def _by_version(files: list[_File]) -> Iterator[tuple[str, str, tuple[str, ...], int]]:
    """Module, version, kinds and bytes, of files in order."""
    for (module, version), group in groupby(files, key=lambda each: (each.module, each.version)):
        members = list(group)
        kinds = tuple(each.kind for each in members)
        yield module, version, kinds, sum(each.bytes for each in members)
