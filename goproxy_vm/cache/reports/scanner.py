"""Choosing files: victims of an eviction, what an operator's selection means, and lists. Everything
blocks; sqlite3.Error: index.db cannot be read."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from goproxy_vm.cache.database import Impossible
from goproxy_vm.cache.facts import FileFacts, Page, Pin, Selection, Sort, VersionFacts
from goproxy_vm.cache.rows import BLOCK, VICTIM, Victim, possible, stray, victim
from goproxy_vm.cache.threads import paused
from goproxy_vm.errors import MalformedPath
from goproxy_vm.protocol.artifact import Artifact
from goproxy_vm.protocol.selector import Selector

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Container, Iterable, Mapping, Sequence

    from goproxy_vm.cache.clock import LogicalClock

ORDER = (
    f"SELECT {VICTIM} FROM files WHERE kind = 'zip' AND state = 0 AND pinned = ?"  # noqa: S608
    # What left the protected segment together has one rank.
    " ORDER BY segment, rank, last_used"
)


P = ParamSpec("P")
T = TypeVar("T")

CHECKS = 64
"""Files to scrub that are looked up at once."""
BEGIN = (-1.0, 0)
"""Where :meth:`Scanner.to_check` begins."""


def _of_types(read: Callable[P, T]) -> Callable[P, T]:
    """The same, with Impossible where a value is not of the type that its column has."""

    @wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (TypeError, AttributeError) as error:
            raise Impossible(f"{read.__name__}: {error}") from error

    return reading


@dataclass(frozen=True, slots=True)
class Scanner:
    """Reads of index.db on one connection, which may be another one than the writer's."""

    connection: sqlite3.Connection
    clock: LogicalClock
    notice: Callable[[Exception], None]
    """Told of rows that cannot be, which are skipped."""

    def to_evict(
        self, need: int, pinned_excess: int, limit: int | None, spared: Container[str] = ()
    ) -> list[Victim]:
        """The next zips to evict: those without a row, which nobody is served, then as :meth:`victims`."""
        chosen: list[Victim] = []
        if need > 0:
            rows = self.connection.execute(
                "SELECT path, kind, blocks FROM strays WHERE kind = 'zip' LIMIT ?",
                (-1 if limit is None else limit,),
            )
            for each in possible(lambda row: stray(*row), paused(rows), self.notice):
                if need <= 0:
                    break
                chosen.append(each)
                need -= each.bytes
        left = None if limit is None else limit - len(chosen)
        return chosen + self.victims(need, pinned_excess, left, spared)

    def victims(
        self, need: int, pinned_excess: int, limit: int | None, spared: Container[str] = ()
    ) -> list[Victim]:
        """The next zips to evict until ``need`` bytes are free, at most ``limit`` of them: probation by
        age, then protected; after all others as many pinned ones as ``pinned_excess`` bytes. Not the
        ``spared`` paths."""
        chosen: list[Victim] = []
        for pinned in (0, 1):
            left = min(need, pinned_excess) if pinned else need
            rows = paused(self.connection.execute(ORDER, (pinned,)))
            for each in possible(victim, rows, self.notice):
                if left <= 0 or len(chosen) == limit:
                    break
                if each.path in spared:
                    continue
                chosen.append(each)
                left -= chosen[-1].bytes
                need -= chosen[-1].bytes
        return chosen

    def metadata(self, need: int, limit: int) -> list[Victim]:
        """``.info`` and ``.mod`` of versions without a zip, oldest first, until ``need`` bytes are free;
        pinned ones after all others."""
        chosen = []
        rows = self.connection.execute(
            f"SELECT {VICTIM} FROM files AS f WHERE kind IN ('info', 'mod') AND state = 0 AND NOT EXISTS"  # noqa: S608
            " (SELECT 1 FROM files WHERE module = f.module AND version = f.version AND kind = 'zip')"
            " ORDER BY pinned, last_used LIMIT ?",
            (limit,),
        )
        for each in possible(victim, rows, self.notice):
            if need <= 0:
                break
            chosen.append(each)
            need -= chosen[-1].bytes
        return chosen

    def idle(self, longest: float, limit: int) -> list[Victim]:
        """Zips that were not asked for for so many seconds and are not pinned, oldest first."""
        rows = self.connection.execute(
            f"SELECT {VICTIM} FROM files WHERE kind = 'zip' AND last_used < ? AND state = 0 AND pinned = 0"  # noqa: S608
            " ORDER BY last_used LIMIT ?",
            (self.clock.now() - longest, limit),
        )
        return list(possible(victim, rows, self.notice))

    def newest(self, limit: int) -> list[str]:
        """The paths of the files used last, the newest at the end."""
        rows = self.connection.execute(
            "SELECT path FROM files WHERE state = 0 ORDER BY last_used DESC LIMIT ?", (limit,)
        )
        return list(possible(_path, paused(rows), lambda _: None))[::-1]  # others tell of them

    def dying(self) -> list[Victim]:
        """Files marked by an earlier run, which did not get to the end."""
        rows = self.connection.execute(f"SELECT {VICTIM} FROM files WHERE state = 1")  # noqa: S608
        return list(possible(victim, rows, self.notice))

    def after(self, id_: int, limit: int) -> list[Victim]:
        """The next rows by id."""
        rows = self.connection.execute(
            f"SELECT {VICTIM} FROM files WHERE id > ? AND state = 0 ORDER BY id LIMIT ?",  # noqa: S608
            (id_, limit),
        )
        return list(possible(victim, rows, self.notice))

    @_of_types
    def selected(self, selection: Selection) -> list[Victim]:
        """The files an operator means, by module and version."""
        chosen: list[Victim] = []
        now = self.clock.now()
        fetched_before = None if selection.older_than is None else self.clock.wall() - selection.older_than
        matches = None if selection.match is None else Selector(paused(selection.match))
        rows = self.connection.execute(
            "SELECT module, version, max(last_used), max(fetched), sum(blocks) FROM files WHERE state = 0"
            " GROUP BY module, version ORDER BY module, version"
        ).fetchall()
        for module, version, last_used, fetched, blocks in paused(rows):
            if matches is not None and not matches(module, version):
                continue
            if selection.idle_for is not None and now - last_used < selection.idle_for:
                continue
            if fetched_before is not None and fetched >= fetched_before:
                continue
            if selection.larger_than is not None and blocks * BLOCK <= selection.larger_than:
                continue
            chosen += self.files([(module, version)], selection.kinds)
        return chosen

    def files(self, versions: Iterable[tuple[str, str]], kinds: Sequence[str]) -> list[Victim]:
        """The files of some kinds of versions."""
        return [each for version in versions for each in self.of_version(*version) if each.kind in kinds]

    def of_version(self, module: str, version: str | None) -> list[Victim]:
        """The files of one version, or of all versions of a module."""
        rows = self.connection.execute(
            f"SELECT {VICTIM} FROM files WHERE state = 0 AND module = ? AND (? IS NULL OR version = ?)"  # noqa: S608
            " ORDER BY version, kind",
            (module, version, version),
        )
        return list(possible(victim, paused(rows), self.notice))

    def strays(self, matches: Callable[[str, str], bool], kinds: Sequence[str]) -> list[Victim]:
        """Files without a row of versions that match."""
        chosen = []
        rows = self.connection.execute("SELECT path, kind, blocks FROM strays")
        for each in possible(lambda row: stray(*row), rows, self.notice):
            try:
                artifact = Artifact.at(each.path)
            except MalformedPath:
                self.notice(Impossible(f"strays {each.path!r}"))
                continue
            if each.kind in kinds and matches(artifact.module, artifact.version):
                chosen.append(replace(each, module=artifact.module, version=artifact.version))
        return chosen

    def known(self, matches: Callable[[str, str], bool]) -> list[tuple[str, str]]:
        """Versions that match and of which a hash is known, stored or not."""
        rows = self.connection.execute("SELECT DISTINCT module, version FROM known")
        return [(module, version) for module, version in paused(rows) if matches(module, version)]

    def to_check(
        self, before: float, match: Selector | None, after: tuple[float, int]
    ) -> tuple[list[tuple[Victim, str]], tuple[float, int] | None]:
        """The files to scrub among the next few rows, each with its SHA-256 on record, and where to go on,
        None at the end: not checked since ``before``, least recently first. Where few match it is asked
        often, so that hits come in between."""
        rows = self.connection.execute(
            f"SELECT checked, sha256, {VICTIM} FROM files WHERE state = 0 AND checked < ?"  # noqa: S608
            " AND (checked, id) > (?, ?) ORDER BY checked, id LIMIT ?",
            (before, *after, CHECKS),
        ).fetchall()
        chosen = [
            (each, sha256)
            for each, sha256 in possible(_to_check, paused(rows), self.notice)
            if match is None or match(each.module, each.version)
        ]
        return chosen, (rows[-1][0], rows[-1][2]) if rows else None

    def versions(self) -> int:
        """How many versions have a file stored."""
        (count,) = self.connection.execute(
            "SELECT count(*) FROM (SELECT DISTINCT module, version FROM files)"
        ).fetchone()
        return int(count)

    @_of_types
    def page(
        self, prefix: str, sort: Sort, limit: int, cursor: str | None, match: Selector | None = None
    ) -> Page[VersionFacts]:
        """A page of versions whose module begins with ``prefix``, all or those that ``match``.

        ValueError: a cursor that is none.
        """
        key = {"name": "0", "size": "-sum(blocks)", "idle": "max(last_used)", "hits": "-sum(hits)"}[sort]
        after = (None, "", "") if cursor is None else _after(cursor, sort)
        among = (prefix, prefix, prefix + "\U0010ffff")
        grouped = (
            f"SELECT {key} AS key, module, version FROM files WHERE state = 0"  # noqa: S608
            " AND (? = '' OR (module >= ? AND module < ?)) GROUP BY module, version"
        )
        order = " ORDER BY key, module, version"
        if match is None:
            rows = self.connection.execute(
                f"{grouped} HAVING ? IS NULL OR (key, module, version) > (?, ?, ?) {order} LIMIT ?",
                (*among, after[0], *after, limit + 1),
            ).fetchall()
            (total,) = self.connection.execute(
                "SELECT count(*) FROM (SELECT DISTINCT module, version FROM files WHERE state = 0"
                " AND (? = '' OR (module >= ? AND module < ?)))",
                among,
            ).fetchone()
        else:
            rows, total = [], 0
            for row in paused(self.connection.execute(f"{grouped} {order}", among)):
                if match(row[1], row[2]):
                    total += 1
                    if len(rows) <= limit and (cursor is None or row > after):
                        rows.append(row)
        items = [facts for _, m, v in rows[:limit] if (facts := self.version(m, v)) is not None]
        more = _cursor(sort, rows[limit - 1]) if len(rows) > limit else None
        return Page(items, more, total)

    @_of_types
    def version(self, module: str, version: str) -> VersionFacts | None:
        """What is stored of one version, None where nothing is."""
        rows = self.connection.execute(
            "SELECT kind, blocks, length, sha256, fetched, last_used, hits, h1, pinned FROM files"
            " WHERE module = ? AND version = ? AND state = 0 ORDER BY kind",
            (module, version),
        ).fetchall()
        if not rows:
            return None
        files = {
            kind: FileFacts(blocks * BLOCK, length, sha256.hex(), fetched, self.clock.epoch(used), hits, h1)
            for kind, blocks, length, sha256, fetched, used, hits, h1, _ in rows
        }
        last_used = max(row[5] for row in rows)
        return VersionFacts(
            module,
            version,
            sum(each.bytes for each in files.values()),
            sum(each.hits for each in files.values()),
            max(each.fetched for each in files.values()),
            self.clock.epoch(last_used),
            max(0.0, self.clock.now() - last_used),
            any(row[8] for row in rows),
            files,
        )

    def zips_of(self, modules: Iterable[str]) -> list[tuple[str, str]]:
        """The versions of modules whose zip is stored, module by module."""
        # By the index of versions: + keeps SQLite from going through all zips for each module.
        query = "SELECT module, version FROM files WHERE module = ? AND +kind = 'zip' AND +state = 0"
        return [
            (str(module), str(version))
            for each in paused(modules)
            for module, version in self.connection.execute(query, (each,))
        ]

    def pins(self, pins: Mapping[str, str]) -> list[Pin]:
        """What pins cover, by pattern, each with its source: versions, and the bytes of their zips."""
        selectors = {pattern: Selector([pattern]) for pattern in paused(sorted(pins))}
        versions, blocks = dict.fromkeys(selectors, 0), dict.fromkeys(selectors, 0)
        rows = self.connection.execute(
            "SELECT module, version, sum(CASE kind WHEN 'zip' THEN blocks ELSE 0 END) FROM files"
            " WHERE state = 0 GROUP BY module, version"
        )
        for module, version, size in paused(rows):
            for pattern, matches in selectors.items():
                if matches(module, version):
                    versions[pattern] += 1
                    blocks[pattern] += size
        return [
            Pin(
                pattern,
                "config" if pins[pattern] == "config" else "api",
                versions[pattern],
                blocks[pattern] * BLOCK,
            )
            for pattern in selectors
        ]

    def pinned(
        self, patterns: Iterable[str], pace: Callable[[Iterable[Any]], Iterable[Any]] = iter
    ) -> tuple[list[int], list[int]]:
        """Rows whose mark has to change: ids to pin, ids to unpin. ``pace``: ``paused`` beside a loop that
        serves."""
        matches = Selector(pace(patterns))
        pin: list[int] = []
        unpin: list[int] = []
        rows = self.connection.execute("SELECT id, module, version, pinned FROM files")
        for id_, module, version, pinned in pace(rows):
            if matches(module, version) != bool(pinned):
                (unpin if pinned else pin).append(id_)
        return pin, unpin


def _path(row: Sequence[Any]) -> str:
    try:
        return Artifact.at(row[0]).path
    except (MalformedPath, TypeError, AttributeError) as error:
        raise Impossible(f"files {row[0]!r}") from error


def _to_check(row: Sequence[Any]) -> tuple[Victim, str]:
    _, sha256, *rest = row
    if not isinstance(sha256, bytes):
        raise Impossible(f"files {rest[0]!r}")
    return victim(rest), sha256.hex()


def _cursor(sort: Sort, row: Sequence[object]) -> str:
    return base64.urlsafe_b64encode(json.dumps([sort, *row]).encode()).decode()


def _after(cursor: str, sort: Sort) -> tuple[float, str, str]:
    try:
        of, key, module, version = json.loads(base64.urlsafe_b64decode(cursor.encode()))
        if of != sort or not math.isfinite(key):
            raise ValueError
        f"{module}{version}".encode()
        return float(key), str(module), str(version)
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise ValueError("the cursor is none that this server gave for this order") from None
