"""What the store remembers of its own doing: passes of the janitor, removals, pins. Everything blocks
and belongs to the database thread; sqlite3.Error: index.db cannot be read or written."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from goproxy_vm.cache.database import Impossible
from goproxy_vm.cache.facts import Pass, PassReason, Totals
from goproxy_vm.cache.rows import possible
from goproxy_vm.protocol.selector import normalize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goproxy_vm.cache.clock import LogicalClock
    from goproxy_vm.cache.database import Database

MOST_PASSES = 100
MOST_REMOVALS = 200_000
"""Removals remembered, the newest: what comparisons of snapshots can explain."""


class Ledger:
    """Passes, removals and pins, in index.db."""

    def __init__(self, database: Database, clock: LogicalClock) -> None:
        self._database = database
        self._connection = database.connection
        self._clock = clock
        self._ended: list[Pass] = []
        """Passes whose end could not be written."""

    def begin(self, reason: PassReason, target: int | None, entries: int, size: int) -> Pass:
        """Open the record of a pass over so many files and bytes; it stays open if the process is killed.

        It has the id 0 where it cannot be written: on a full disk the pass makes the room for its record.
        """
        begun = Pass(0, reason, self._clock.wall(), Totals(entries, size, self.oldest_idle()), target)
        with contextlib.suppress(sqlite3.OperationalError):
            begun.id = self._insert(begun)
        return begun

    def _insert(self, record: Pass) -> int:
        cursor = self._connection.execute(
            "INSERT INTO passes (reason, target, record) VALUES (?, ?, ?)",
            (record.reason, record.target_bytes, _dump(record)),
        )
        return cursor.lastrowid or 0

    def save(self, record: Pass) -> None:
        """Write a pass as it stands."""
        self._connection.execute(
            "UPDATE passes SET finished = ?, record = ? WHERE id = ?",
            (record.finished, _dump(record), record.id),
        )

    def end(self, record: Pass, entries: int, size: int, *, reached: bool | None) -> None:
        """Close the record of a pass that left so many files and bytes, and forget the oldest ones.

        Raises nothing: an end that cannot be written is kept for :meth:`write_ends`, lest the pass be taken
        for one that a kill interrupted.
        """
        record.finished = self._clock.wall()
        record.reached = reached
        self._ended.append(record)
        with contextlib.suppress(sqlite3.Error):
            record.after = Totals(entries, size, self.oldest_idle())
            self.write_ends()

    def write_ends(self) -> None:
        """Write the ends of passes that are not written yet."""
        while self._ended:
            record = self._ended[0]
            with self._database.transaction():
                if not record.id:
                    record.id = self._insert(record)
                self.save(record)
                self._connection.execute(
                    "DELETE FROM passes WHERE id <= ? AND finished IS NOT NULL", (record.id - MOST_PASSES,)
                )
                self._connection.execute(
                    "DELETE FROM removals WHERE id <= (SELECT max(id) FROM removals) - ?", (MOST_REMOVALS,)
                )
            del self._ended[0]

    def passes(self, limit: int) -> list[Pass]:
        """The newest passes, newest first."""
        rows = self._connection.execute("SELECT id, record FROM passes ORDER BY id DESC LIMIT ?", (limit,))
        return list(possible(_load, rows, self._database.notice))

    def newest(self, reason: PassReason) -> Pass | None:
        """The newest pass of a kind."""
        rows = self._connection.execute(
            "SELECT id, record FROM passes WHERE reason = ? ORDER BY id DESC LIMIT 1", (reason,)
        )
        return next(iter(possible(_load, rows, self._database.notice)), None)

    def find(self, number: int) -> Pass | None:
        """The pass with that id."""
        rows = self._connection.execute("SELECT id, record FROM passes WHERE id = ?", (number,))
        return next(iter(possible(_load, rows, self._database.notice)), None)

    def unfinished(self) -> list[Pass]:
        """Passes that an earlier run did not end, oldest first."""
        rows = self._connection.execute("SELECT id, record FROM passes WHERE finished IS NULL ORDER BY id")
        return list(possible(_load, rows, self._database.notice))

    def oldest_idle(self) -> float:
        """Seconds since the zip that was not asked for for longest was; 0 where there is none."""
        (oldest,) = self._connection.execute("SELECT min(last_used) FROM files WHERE kind = 'zip'").fetchone()
        if oldest is not None and not isinstance(oldest, float):
            raise Impossible("files last_used")
        return 0.0 if oldest is None else max(0.0, self._clock.now() - oldest)

    def pins(self) -> dict[str, str]:
        """All pins: pattern and source, by pattern."""
        rows = self._connection.execute("SELECT pattern, source FROM pins ORDER BY pattern")
        return dict(possible(_pin, rows, self._database.notice))

    def set_pins(self, patterns: Sequence[str], source: str) -> None:
        """Replace the pins of one source; a pattern that both name stays the configuration's."""
        with self._database.transaction():
            self._connection.execute("DELETE FROM pins WHERE source = ?", (source,))
            self._connection.executemany(
                "INSERT INTO pins VALUES (?, ?) ON CONFLICT DO UPDATE SET source = 'config'",
                ((pattern, source) for pattern in patterns),
            )

    def add_pin(self, pattern: str) -> None:
        """Pin by the API; a pin of the configuration stays its own."""
        self._connection.execute("INSERT OR IGNORE INTO pins VALUES (?, 'api')", (pattern,))

    def remove_pin(self, pattern: str) -> bool:
        """Take away a pin of the API; whether there was one."""
        cursor = self._connection.execute("DELETE FROM pins WHERE pattern = ? AND source = 'api'", (pattern,))
        return cursor.rowcount == 1


def _dump(record: Pass) -> str:
    return json.dumps(asdict(record))


def _pin(row: Sequence[Any]) -> tuple[str, str]:
    pattern, source = row
    try:
        if source not in {"config", "api"} or normalize(pattern) != pattern:
            raise Impossible(f"pins {pattern!r}")
    except (ValueError, TypeError, AttributeError) as error:
        raise Impossible(f"pins {pattern!r}") from error
    return pattern, source


def _load(row: Sequence[Any]) -> Pass:
    id_, text = row
    try:
        record = json.loads(text)
        for name in ("before", "after"):
            if record[name] is not None:
                record[name] = Totals(**record[name])
        if record["scrubbed"] is not None:
            record["scrubbed"] = tuple(record["scrubbed"])
        return Pass(**{**record, "id": id_})
    except (ValueError, KeyError, TypeError) as error:
        raise Impossible(f"passes {id_!r}") from error
