"""The index: what is stored, how big, how recently used; and the hash each version had when first seen.

The file system is the truth for presence, the index for everything else. All functions block and
belong to the one database thread, which alone writes; sqlite3.Error: index.db cannot be read or written.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from typing import TYPE_CHECKING

from goproxy_vm.cache.reader import Doubts, Reader
from goproxy_vm.cache.rows import BLOCK, VICTIM, Held, Sight, possible, stray, total, victim
from goproxy_vm.cache.threads import paused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from goproxy_vm.cache.database import Database
    from goproxy_vm.cache.rows import Proven, Row, Sum, Touch, Victim
    from goproxy_vm.protocol.artifact import Artifact, Kind

MOST_SEEN = 100_000
"""Versions of which is kept when they were first seen, where no checksum database tells their age."""


class Index(Reader):
    """The rows of files, and of the hashes known, on the connection that writes them."""

    def __init__(self, database: Database) -> None:
        super().__init__(database.connection, Doubts(), database.notice)
        self._database = database

    def add(self, rows: Sequence[Row], now: float, used: float) -> list[Victim]:
        """Put published files on record, all or none; the older rows of the same paths, which are gone.

        ``now`` in epoch seconds, ``used`` by the logical clock.
        """
        replaced: list[Victim] = []
        with self._database.transaction():
            for row in rows:
                # One by one: a path may be there twice, if a purge came between two fetches.
                artifact = row.artifact
                replaced += self.of_path(artifact.path)
                self._connection.execute("DELETE FROM strays WHERE path = ?", (artifact.path,))
                self._connection.execute(
                    "INSERT OR REPLACE INTO files (path, module, version, kind, length, blocks, sha256, h1,"
                    " pinned, fetched, last_used, rank, checked)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(artifact.path, artifact.module, artifact.version, artifact.kind.value),
                        *(row.length, row.blocks),
                        *(bytes.fromhex(row.sha256), row.h1, int(row.pinned), now, used, used, used),
                    ),
                )
        return replaced

    def add_strays(self, strays: Iterable[tuple[str, Kind, int]]) -> list[Victim]:
        """Note files without a row: path, kind, blocks; those that are new here."""
        added = []
        with self._database.transaction():
            for path, kind, blocks in strays:
                if not self.of_path(path):
                    self._connection.execute(
                        "INSERT INTO strays VALUES (?, ?, ?)", (path, kind.value, blocks)
                    )
                    added.append(stray(path, kind, blocks))
        return added

    def dying(self, victims: Iterable[Victim]) -> list[Victim]:
        """Mark files that are about to be unlinked, whatever happens meanwhile; those still on record, as
        they stand there: they may have been pinned since they were chosen."""
        with self._database.transaction():
            return [now for each in victims if (now := self._mark(each)) is not None]

    def standing(self, victims: Iterable[Victim]) -> list[Victim]:
        """Those still on record, without a mark."""
        return [now for each in victims for now in self.of_path(each.path) if now.id == each.id]

    def _mark(self, each: Victim) -> Victim | None:
        if each.id is None:
            found = self._connection.execute("SELECT 1 FROM strays WHERE path = ?", (each.path,)).fetchone()
            return None if found is None else each
        row = self._connection.execute("SELECT pinned FROM files WHERE id = ?", (each.id,)).fetchone()
        if row is None:
            return None
        self._connection.execute("UPDATE files SET state = 1 WHERE id = ?", (each.id,))
        return replace(each, pinned=bool(row[0]))

    def remove(self, victims: Sequence[Victim], reason: str, now: float) -> None:
        """Strike files that are gone off the record, and note why (``now`` in epoch seconds)."""
        with self._database.transaction():
            self._connection.executemany(
                "DELETE FROM files WHERE id = ?",
                ((each.id,) for each in paused(victims) if each.id is not None),
            )
            self._connection.executemany(
                "DELETE FROM strays WHERE path = ?", ((each.path,) for each in victims if each.id is None)
            )
            self._connection.executemany(
                "INSERT INTO removals (at, module, version, kind, bytes, reason) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    (now, each.module, each.version, each.kind.value, each.bytes, reason)
                    for each in paused(victims)
                    if each.module
                ),
            )

    def touch(self, touches: dict[str, Touch], protected: int) -> None:
        """Add hits, in one transaction; paths that are no longer on record are passed over.

        Zips asked for again move to the protected segment, which holds at most ``protected`` bytes: what
        is too much returns to probation, as its newest. With 0 there is one segment only: plain LRU.
        """
        promoted = int(protected > 0)
        with self._database.transaction():
            self._connection.executemany(
                "UPDATE files SET last_used = max(last_used, ?), rank = max(rank, ?), hits = hits + ?,"
                " segment = ? WHERE path = ?",
                ((at, at, hits, promoted, path) for path, (at, hits) in touches.items()),
            )
            if protected and touches:
                self._demote(protected, max(touch.last_used for touch in touches.values()))

    def _demote(self, protected: int, now: float) -> None:
        (blocks,) = self._connection.execute(
            "SELECT coalesce(sum(blocks), 0) FROM files"
            " WHERE kind = 'zip' AND state = 0 AND pinned IN (0, 1) AND segment = 1"
        ).fetchone()
        excess = blocks * BLOCK - protected
        if excess <= 0:
            return
        demoted = []
        for id_, size in self._connection.execute(
            "SELECT id, blocks FROM files WHERE kind = 'zip' AND state = 0 AND segment = 1 ORDER BY rank"
        ):
            demoted.append((now, id_))
            excess -= size * BLOCK
            if excess <= 0:
                break
        self._connection.executemany("UPDATE files SET segment = 0, rank = ? WHERE id = ?", demoted)

    def settle_policy(self, protected: int) -> None:
        """Begin with that share protected: without one, all zips are in one segment by their last use."""
        if not protected:
            self._connection.execute("UPDATE files SET segment = 0, rank = last_used WHERE segment = 1")

    def sums(self) -> list[Sum]:
        """Totals by kind and pin, strays included."""
        rows = self._connection.execute(
            "SELECT kind, pinned, count(*), coalesce(sum(blocks), 0) FROM files GROUP BY kind, pinned"
            " UNION ALL SELECT kind, 0, count(*), coalesce(sum(blocks), 0) FROM strays GROUP BY kind"
        )
        return list(possible(total, rows, self._notice))

    def mark_pinned(self, ids: Iterable[int], *, pinned: bool) -> int:
        """Change the mark of rows, by id; the bytes of the zips among those that had the other one."""
        blocks = 0
        with self._database.transaction():
            for id_ in ids:
                row = self._connection.execute(
                    "SELECT kind, blocks FROM files WHERE id = ? AND pinned <> ?", (id_, int(pinned))
                ).fetchone()
                if row is not None:
                    self._connection.execute("UPDATE files SET pinned = ? WHERE id = ?", (int(pinned), id_))
                    blocks += row[1] if row[0] == "zip" else 0
        return blocks * BLOCK

    def suspect(self, clean: int) -> int:
        """After a power loss: what was committed after the clean mark is hashed before use; how many."""
        return self._connection.execute("UPDATE files SET unsure = 1 WHERE id > ?", (clean,)).rowcount

    def newest(self) -> int:
        """The id of the newest row, ever."""
        row = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'files'").fetchone()
        return row[0] if row else 0

    def note_first_seen(self) -> None:
        """Something is on record that nobody could prove."""
        self._database.set("first_seen", 1)

    def unproven(self, database: str, exempt: Callable[[str], bool]) -> int:
        """Make strays of the files that this checksum database has not proven, unless their module is exempt;
        how many. They are proven in place before they are served again."""
        found = self.not_proven(database, exempt)
        with self._database.transaction():
            self._connection.executemany("DELETE FROM files WHERE id = ?", ((row[0],) for row in found))
            self._connection.executemany("INSERT INTO strays VALUES (?, ?, ?)", (row[1:4] for row in found))
        return len(found)

    def not_proven(
        self, database: str, exempt: Callable[[str], bool]
    ) -> list[tuple[int, str, str, int, str]]:
        """Id, path, kind, blocks and module of such files."""
        rows = self._connection.execute(
            "SELECT f.id, f.path, f.kind, f.blocks, f.module FROM files AS f LEFT JOIN known AS k"
            " ON k.module = f.module AND k.version = f.version AND k.kind = f.kind"
            " WHERE f.kind IN ('mod', 'zip') AND f.state = 0 AND (k.database IS NULL OR k.database <> ?)",
            (database,),
        ).fetchall()
        return [row for row in rows if not exempt(row[4])]

    def checked(self, paths: Iterable[str], now: float) -> None:
        """These files' bytes were compared with their hashes, and are sound."""
        with self._database.transaction():
            self._connection.executemany(
                "UPDATE files SET checked = ?, unsure = 0 WHERE path = ?", ((now, path) for path in paths)
            )

    def remember(self, artifact: Artifact, h1: str, now: float) -> str:
        """Keep a hash unless there is one on record already; the one on record now."""
        key = (artifact.module, artifact.version, artifact.kind.value)
        found = "SELECT h1 FROM known WHERE module = ? AND version = ? AND kind = ?"
        row = self._connection.execute(found, key).fetchone()
        if row is None:
            self._connection.execute(
                "INSERT INTO known (module, version, kind, h1, seen) VALUES (?, ?, ?, ?, ?)", (*key, h1, now)
            )
        return h1 if row is None else str(row[0])

    def hold(self, artifact: Artifact, h1: str, proven: Proven | None, now: float) -> Held:
        """Keep the hash of a file that was fetched, and what a checksum database has ``proven`` of its
        version; what is on record of it then.

        Where the disk takes nothing that is not kept, and told in the result; sqlite3.Error: it cannot be
        read either.
        """
        doubted: list[Victim] = []
        failure = None
        try:
            if proven is not None:
                doubted = self.prove(artifact.module, artifact.version, proven, now)
        except sqlite3.Error as error:
            failure = error
        recorded = self.known(artifact.module, artifact.version).h1(artifact.kind)
        try:
            if recorded is None:
                recorded = self.remember(artifact, h1, now)
        except sqlite3.Error as error:
            failure = error
        if failure is not None:
            self._notice(failure)
        return Held(h1 if recorded is None else recorded, doubted, failure)

    def prove(
        self,
        module: str,
        version: str,
        proven: Proven,
        now: float,
        *,
        fetched: bool = True,
    ) -> list[Victim]:
        """Keep what a checksum database has proven, by kind: a hash that was only seen first gives way, one
        that another database has proven stays. The rows of files with other hashes, which are strays now.

        Unless a file of it was ``fetched``, nothing is kept of a version that is not on record already: who
        looks versions up would fill the disk.
        """
        doubted: list[Victim] = []
        if not (fetched or self.known(module, version).on_record):
            return doubted
        with self._database.transaction():
            for kind, h1 in proven.hashes.items():
                # Another hash is seen first now.
                self._connection.execute(
                    "INSERT INTO known (module, version, kind, h1, seen, database, number)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET h1 = excluded.h1,"
                    " seen = iif(h1 = excluded.h1, seen, excluded.seen),"
                    " database = excluded.database, number = excluded.number"
                    " WHERE h1 = excluded.h1 OR database = ''",
                    (module, version, kind, h1, now, proven.database, proven.number),
                )
                doubted += self._doubt(
                    "module = ? AND version = ? AND kind = ? AND h1 <> ?", module, version, kind, h1
                )
        return doubted

    def _doubt(self, condition: str, *values: object) -> list[Victim]:
        """Make strays of the files for which ``condition`` (SQL of ours) is true; the rows they had."""
        rows = self._connection.execute(
            f"SELECT {VICTIM} FROM files WHERE state = 0 AND {condition}",  # noqa: S608
            values,
        ).fetchall()
        doubted = list(possible(victim, rows, self._notice))
        self._connection.executemany("DELETE FROM files WHERE id = ?", ((each.id,) for each in doubted))
        self._connection.executemany(
            "INSERT INTO strays VALUES (?, ?, ?)",
            ((each.path, each.kind.value, each.bytes // BLOCK) for each in doubted),
        )
        return doubted

    def first_sight(self, module: str, version: str, now: float) -> Sight:
        """When a version was first asked about by this: now, if it was not yet. Of more than ``MOST_SEEN``
        those that were seen first go, which are old by now."""
        since = self._database.number("sights_since", now)
        found = "SELECT seen FROM first_seen WHERE module = ? AND version = ?"
        row = self._connection.execute(found, (module, version)).fetchone()
        if row is not None:
            return Sight(row[0], min(since, row[0]))
        with self._database.transaction():
            self._connection.execute("INSERT INTO first_seen VALUES (?, ?, ?)", (module, version, now))
            self._database.set("sights_since", since)
            (count,) = self._connection.execute("SELECT count(*) FROM first_seen").fetchone()
            if count > MOST_SEEN:
                self._connection.execute(
                    "DELETE FROM first_seen WHERE (module, version) IN"
                    " (SELECT module, version FROM first_seen ORDER BY seen LIMIT ?)",
                    (count - MOST_SEEN + MOST_SEEN // 100,),
                )
        return Sight(now, since)

    def forget(self, versions: Iterable[tuple[str, str]]) -> None:
        """Drop the hashes known of versions: the next ones seen count as the first."""
        with self._database.transaction():
            self._connection.executemany("DELETE FROM known WHERE module = ? AND version = ?", versions)
