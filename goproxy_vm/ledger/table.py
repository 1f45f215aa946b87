"""ledger.db: who got which zip. Everything blocks, and belongs to one thread; sqlite3.Error,
UnicodeDecodeError: it cannot be read or written."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
from typing import TYPE_CHECKING

from goproxy_vm.cache.database import ALONE, Impossible
from goproxy_vm.cache.facts import Page
from goproxy_vm.ledger.facts import Fetched
from goproxy_vm.protocol.artifact import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from goproxy_vm.config.clients import ClientNames
    from goproxy_vm.ledger.facts import Noted, Sought

SCHEMA = 1
STEP = 1_000
"""Rows that go in one transaction."""
REFUSED_SHARE = 10
"""What was only ever refused may have one row in so many: a client may ask for whatever it makes up, and must
not push out who has what."""
LOG = 16 << 20
"""Bytes that are left of the write-ahead log when it has been folded in."""

_TABLES = (
    "CREATE TABLE clients (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT",
    """
    CREATE TABLE versions (
        id INTEGER PRIMARY KEY,
        module TEXT NOT NULL,              -- unescaped
        version TEXT NOT NULL,
        UNIQUE (module, version)
    ) STRICT
    """,
    """
    CREATE TABLE fetches (
        version INTEGER NOT NULL,
        client INTEGER NOT NULL,
        first INTEGER NOT NULL,            -- epoch seconds
        last INTEGER NOT NULL,
        count INTEGER NOT NULL,            -- how often it was sent whole
        refused INTEGER NOT NULL,
        PRIMARY KEY (version, client)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX fetches_client ON fetches (client, last)",
    "CREATE INDEX fetches_last ON fetches (last)",
    "CREATE INDEX fetches_refused ON fetches (last) WHERE count = 0",
)
_CURSOR = re.compile(r"([0-9]{1,12})\.([0-9]{1,18})\.([0-9]{1,18})", re.ASCII)
_FORGET_VERSION = """
    DELETE FROM versions WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM fetches WHERE version = ?1)
"""
_FORGET_CLIENT = """
    DELETE FROM clients WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM fetches WHERE client = ?1)
"""
_PAGE = "SELECT * FROM fetches f WHERE {} ORDER BY {last} DESC, f.version DESC, f.client DESC LIMIT ?"
_NAMED = """
    SELECT f.version, f.client, v.module, v.version, c.name, f.first, f.last, f.count, f.refused
    FROM ({}) f JOIN versions v ON v.id = f.version JOIN clients c ON c.id = f.client
    ORDER BY f.last DESC, f.version DESC, f.client DESC
"""
# Of one client the index has them in their order. Else the sign keeps the index of times from being chosen.
_IN_ORDER, _SORTED = "f.last", "+f.last"
_OF_VERSIONS = "f.version IN (SELECT value FROM json_each(?))"
_OF_CLIENTS = "f.client IN (SELECT value FROM json_each(?))"
_OF_CLIENT = "f.client = ?"


class FetchTable:
    """The open ledger.db. ``rows`` counts the pairs of client and version, ``only_refused`` those of which
    nothing was ever sent."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.rows = self._number("SELECT count(*) FROM fetches")
        self.only_refused = self._number("SELECT count(*) FROM fetches WHERE count = 0")

    @classmethod
    def open(cls, path: Path) -> FetchTable:
        """Open or create it. Impossible: it is of another version of this program."""
        connection = sqlite3.connect(path.as_uri() + ALONE, uri=True, timeout=1.0, isolation_level=None)
        try:
            # In WAL, NORMAL loses the last transactions in a power loss, never the database.
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", f"journal_size_limit = {LOG}"):
                connection.execute(f"PRAGMA {pragma}")
            (schema,) = connection.execute("PRAGMA user_version").fetchone()
            if schema == 0:
                with _transaction(connection):
                    for statement in _TABLES:
                        connection.execute(statement)
                    connection.execute(f"PRAGMA user_version = {SCHEMA}")
            elif schema != SCHEMA:
                raise Impossible(f"schema {schema}")
            return cls(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Fold the log in, and close it."""
        self._connection.close()

    def write(self, noted: Iterable[Noted], most: int) -> None:
        """Add what was noted, some hundreds at a time; beyond ``most`` rows those go that were last asked for
        longest ago. All of it or nothing."""
        with self._changing():
            for each in noted:
                self._add(each)
            self._shrink(most)

    def _add(self, noted: Noted) -> None:
        artifact = Artifact.stored(noted.path)
        version = self._id(
            "SELECT id FROM versions WHERE module = ? AND version = ?",
            "INSERT INTO versions (module, version) VALUES (?, ?)",
            (artifact.module, artifact.version),
        )
        client = self._id(
            "SELECT id FROM clients WHERE name = ?", "INSERT INTO clients (name) VALUES (?)", (noted.client,)
        )
        before = self._connection.execute(
            "SELECT count FROM fetches WHERE version = ? AND client = ?", (version, client)
        ).fetchone()
        values = (noted.first, noted.last, noted.count, noted.refused)
        if before is None:
            self._connection.execute(
                "INSERT INTO fetches VALUES (?, ?, ?, ?, ?, ?)", (version, client, *values)
            )
            self.rows += 1
            self.only_refused += not noted.count
            return
        self._connection.execute(
            "UPDATE fetches SET first = min(first, ?), last = max(last, ?), count = count + ?, "
            "refused = refused + ? WHERE version = ? AND client = ?",
            (*values, version, client),
        )
        self.only_refused -= not before[0] and bool(noted.count)

    def _id(self, find: str, insert: str, names: tuple[str, ...]) -> int:
        row = self._connection.execute(find, names).fetchone()
        return self._connection.execute(insert, names).lastrowid or 0 if row is None else row[0]

    def trim(self, before: float, most: int) -> int:
        """Remove what was last asked for before a time, then what is beyond ``most`` rows; some at a time, so
        many went: until none does, there may be more."""
        with self._changing():
            gone = self._remove("SELECT version, client, count FROM fetches WHERE last < ?", STEP, before)
            return gone + self._shrink(most)

    def _shrink(self, most: int) -> int:
        gone = self._remove(
            "SELECT version, client, count FROM fetches WHERE count = 0",
            min(STEP, self.only_refused - most // REFUSED_SHARE),
        )
        return gone + self._remove("SELECT version, client, count FROM fetches", min(STEP, self.rows - most))

    def _remove(self, which: str, limit: int, *values: float) -> int:
        """Remove so many of some rows, the oldest first, with the names that nothing is left of."""
        if limit <= 0:
            return 0
        rows = self._connection.execute(f"{which} ORDER BY last LIMIT ?", (*values, limit)).fetchall()
        for version, client, count in rows:
            self._connection.execute(
                "DELETE FROM fetches WHERE version = ? AND client = ?", (version, client)
            )
            self.only_refused -= not count
        self.rows -= len(rows)
        for version in {row[0] for row in rows}:
            self._connection.execute(_FORGET_VERSION, (version,))
        for client in {row[1] for row in rows}:
            self._connection.execute(_FORGET_CLIENT, (client,))
        return len(rows)

    def rename(self, new: Callable[[str], str]) -> None:
        """Give clients other names, which are different ones for different clients."""
        with self._changing():
            rows = self._connection.execute("SELECT id, name FROM clients").fetchall()
            self._connection.executemany(
                "UPDATE clients SET name = ? WHERE id = ?",
                ((new(name), number) for number, name in rows if new(name) != name),
            )

    def find(self, sought: Sought, names: ClientNames, now: float) -> Page[Fetched]:
        """A page of what is on record. ValueError: a cursor that is none."""
        after = None if sought.cursor is None else _place(sought.cursor)
        which, ids = self._which(sought, names)
        last = _IN_ORDER if which == _OF_CLIENT else _SORTED
        since = 0 if sought.since is None else now - sought.since
        conditions, values = f"{which} AND {last} >= ?", [ids, since]
        total = self._number(f"SELECT count(*) FROM fetches f WHERE {conditions}", *values)  # noqa: S608
        if after is not None:
            conditions += f" AND {last} <= ? AND (f.last, f.version, f.client) < (?, ?, ?)"
            values += [after[0], *after]
        page = _PAGE.format(conditions, last=last)
        rows = self._connection.execute(_NAMED.format(page), (*values, sought.limit + 1)).fetchall()
        more = None
        if len(rows) > sought.limit:
            version, client, *_, last, _, _ = rows[sought.limit - 1]
            more = f"{last}.{version}.{client}"
        found = [
            Fetched(module, version, client, names.of(client), first, last, count, refused)
            for _, _, module, version, client, first, last, count, refused in rows[: sought.limit]
        ]
        return Page(found, more, total)

    def _which(self, sought: Sought, names: ClientNames) -> tuple[str, str | int]:
        """The condition, and the ids for it."""
        if sought.module:
            versions = self._connection.execute(
                "SELECT id, version FROM versions WHERE module = ?", (sought.module,)
            )
            chosen = sought.versions
            some = [number for number, version in versions if chosen is None or version in chosen]
            return _OF_VERSIONS, json.dumps(some)
        if sought.client not in names:
            row = self._connection.execute(
                "SELECT id FROM clients WHERE name = ?", (sought.client,)
            ).fetchone()
            return _OF_CLIENT, -1 if row is None else row[0]
        clients = self._connection.execute("SELECT id, name FROM clients")
        some = [number for number, name in clients if sought.client in (name, names.of(name))]
        return (_OF_CLIENT, some[0]) if len(some) == 1 else (_OF_CLIENTS, json.dumps(some))

    def _number(self, query: str, *values: object) -> int:
        (number,) = self._connection.execute(query, values).fetchone()
        return int(number)

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        before = self.rows, self.only_refused
        try:
            with _transaction(self._connection):
                yield
        except BaseException:
            self.rows, self.only_refused = before
            raise


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _place(cursor: str) -> list[int]:
    match = _CURSOR.fullmatch(cursor)
    if match is None:
        raise ValueError("the cursor is none that this server gave")
    return [int(part) for part in match.groups()]
