"""The ledger: what is written when, what a bad disk does to it, and what its settings change."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from goproxy_vm.config import Settings
from goproxy_vm.config.clients import parse_client_names
from goproxy_vm.errors import Unavailable
from goproxy_vm.ledger.facts import Fetched, Noted, Sought
from goproxy_vm.ledger.ledger import CHUNK, HASHED, NAME, FetchLedger
from goproxy_vm.ledger.notes import FULL
from goproxy_vm.ledger.table import FetchTable
from tests.fakes.lines import logged

ZIP = "example.com/m/@v/v1.0.0.zip"
M = Sought("example.com/m")


class Runs:
    """Begins runs of a server's ledger in one directory, and ends them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._under_way: list[FetchLedger] = []

    def __call__(
        self,
        open_table: Callable[[Path], FetchTable] = FetchTable.open,
        interval: float = 3600.0,
        **settings: object,
    ) -> FetchLedger:
        """Keywords are settings, but for those of :class:`FetchLedger`."""
        given = Settings(cache_dir=self._path.parent, **settings)  # type: ignore[arg-type]  # a test's
        ledger = FetchLedger(self._path, given, open_table=open_table, interval=interval)
        self._under_way.append(ledger)
        return ledger

    async def end(self, ledger: FetchLedger) -> None:
        self._under_way.remove(ledger)
        await ledger.close()

    async def end_all(self) -> None:
        for ledger in list(self._under_way):
            await self.end(ledger)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / NAME


@pytest.fixture
async def begin(path: Path) -> AsyncIterator[Runs]:
    runs = Runs(path)
    yield runs
    await runs.end_all()


@pytest.fixture(autouse=True)
def every_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")


def note(ledger: FetchLedger, client: str = "10.0.0.1", path: str = ZIP) -> None:
    ledger.notes.fetched(client, path, time.monotonic())


async def found(ledger: FetchLedger, wanted: Sought = M) -> list[Fetched]:
    return (await ledger.page(wanted)).items


async def clients(ledger: FetchLedger) -> set[str]:
    return {each.client for each in await found(ledger)}


class Troubled(FetchTable):
    """A file whose disk fails while ``trouble`` is set."""

    trouble: Exception | None = None

    def write(self, noted: object, most: int) -> None:
        """As the real one, or not."""
        if self.trouble is not None:
            raise self.trouble
        super().write(noted, most)  # type: ignore[arg-type]  # passed on


@pytest.fixture
def troubled() -> Callable[[Path], FetchTable]:
    Troubled.trouble = None
    return Troubled.open


async def test_what_was_noted_is_told_at_once(begin: Runs, path: Path) -> None:
    ledger = begin(client_names=parse_client_names(["10.0.0.1=one"]))
    before = int(time.time())
    await ledger.open()
    assert path.stat().st_mode & 0o777 & ~0o644 == 0
    note(ledger)
    note(ledger)
    ledger.notes.refused("10.0.0.2", ZIP, time.monotonic())
    page = await ledger.page(M)
    assert (page.total, page.next_cursor, page.ledger, page.proxies) == (2, None, "on", False)
    one, two = sorted(page.items, key=lambda each: each.client)
    assert (one.client, one.name, one.count, one.refused) == ("10.0.0.1", "one", 2, 0)
    assert (two.client, two.name, two.count, two.refused) == ("10.0.0.2", "", 0, 1)
    assert before - 1 <= one.first <= one.last <= time.time() + 1
    assert ledger.figures == (2, 0)


async def test_it_is_written_as_often_as_it_should(begin: Runs) -> None:
    ledger = begin(interval=0.01)
    await ledger.open()
    note(ledger)
    running = asyncio.create_task(ledger.run())
    while ledger.figures[0] != 1:
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])


async def test_it_is_written_early_where_there_is_much(begin: Runs) -> None:
    ledger = begin()
    await ledger.open()
    running = asyncio.create_task(ledger.run())
    for n in range(FULL - 1):
        note(ledger, f"10.0.{n >> 8}.{n & 255}")
    await asyncio.sleep(0)
    assert ledger.figures == (0, 0)
    note(ledger, "10.9.9.9")
    while ledger.figures[0] != FULL:
        await asyncio.sleep(0.001)
    assert len(ledger.notes) == 0
    running.cancel()
    await asyncio.wait([running])


async def test_a_stop_writes_what_is_left(begin: Runs) -> None:
    ledger = begin()
    await ledger.open()
    for n in range(CHUNK + 1):
        note(ledger, f"10.0.{n >> 8}.{n & 255}")
    await begin.end(ledger)
    again = begin()
    await again.open()
    assert again.figures == (CHUNK + 1, 0)
    assert (await again.page(M)).total == CHUNK + 1


async def test_who_is_cancelled_loses_nothing(begin: Runs) -> None:
    """A flush that is cut off would have taken the notes with it."""
    ledger = begin()
    await ledger.open()
    for n in range(3 * CHUNK):
        note(ledger, f"10.0.{n >> 8}.{n & 255}")
    flushing = asyncio.create_task(ledger.flush())
    await asyncio.sleep(0)
    flushing.cancel()
    await asyncio.wait([flushing])
    assert (await ledger.page(M)).total == 3 * CHUNK


async def test_off_writes_no_file(begin: Runs, path: Path) -> None:
    ledger = begin(ledger="off")
    await ledger.open()
    note(ledger)
    await ledger.flush()
    page = await ledger.page(M)
    assert (page.items, page.total, page.ledger) == ([], 0, "off")
    await begin.end(ledger)
    assert list(path.parent.iterdir()) == []


async def test_hashed_knows_how_many(begin: Runs, path: Path) -> None:
    ledger = begin(ledger="hashed")
    await ledger.open()
    for client in ("10.0.0.1", "10.0.0.2", "10.0.0.1"):
        note(ledger, client)
        await ledger.flush()
    items = await found(ledger)
    assert sorted(each.count for each in items) == [1, 2]
    assert all(each.client.startswith(HASHED) for each in items)
    assert await found(ledger, Sought(client="10.0.0.1")) == []
    assert len(await found(ledger, Sought(client=items[0].client))) == 1
    await begin.end(ledger)
    assert b"10.0.0." not in path.read_bytes()
    again = begin(ledger="hashed")
    await again.open()
    note(again, "10.0.0.1")
    assert len(await found(again)) == 3, "nobody can tell that it is the same"


async def test_settings_change_while_it_serves(begin: Runs, path: Path) -> None:
    ledger = begin()
    await ledger.open()
    note(ledger, "10.0.0.1")
    settings = Settings(cache_dir=path.parent)
    await ledger.change(replace(settings, client_names=parse_client_names(["10.0.0.1=one"])))
    assert [each.name for each in await found(ledger)] == ["one"]
    note(ledger, "10.0.0.2")
    await ledger.change(replace(settings, ledger="hashed"))
    note(ledger, "10.0.0.1")
    hashed = await clients(ledger)
    assert len(hashed) == 2, "the same, and who was noted before"
    assert all(each.startswith(HASHED) for each in hashed)
    await ledger.change(replace(settings, ledger="off"))
    note(ledger, "10.0.0.3")
    page = await ledger.page(M)
    assert (page.items, page.ledger) == ([], "off")
    await ledger.change(settings)
    note(ledger, "10.0.0.4")
    assert await clients(ledger) == {*hashed, "10.0.0.4"}


async def test_what_is_kept_and_how_much(begin: Runs, path: Path) -> None:
    ledger = begin()
    await ledger.open()
    now = int(time.time())
    await begin.end(ledger)
    with closing(FetchTable.open(path)) as table:
        table.write([Noted("10.0.0.9", ZIP, now - 100 * 86400, now - 91 * 86400, 1, 0)], 100)
        table.write([Noted("10.0.0.8", ZIP, now - 100 * 86400, now - 89 * 86400, 1, 0)], 100)
    ledger = begin()
    await ledger.open()
    assert await clients(ledger) == {"10.0.0.8"}
    for n in range(1200):
        note(ledger, f"10.0.{n >> 8}.{n & 255}")
    await ledger.change(Settings(cache_dir=path.parent, ledger_rows=1000))
    await ledger.flush()
    assert ledger.figures == (1000, 0)


def full() -> Exception:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


@pytest.mark.parametrize("trouble", [full(), OSError(errno.EIO, "Input/output error")])
async def test_a_disk_that_takes_nothing(
    begin: Runs,
    troubled: Callable[[Path], FetchTable],
    trouble: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ledger = begin(troubled)
    await ledger.open()
    note(ledger, "10.0.0.1")
    await ledger.flush()
    Troubled.trouble = trouble
    for _ in range(3):
        note(ledger, "10.0.0.2")
        ledger.notes.refused("10.0.0.3", ZIP, time.monotonic())
        await ledger.flush()
    assert ledger.figures == (1, 6)
    assert logged(caplog).count("ledger not written") == 1
    assert await clients(ledger) == {"10.0.0.1"}, "what is on record can be read"
    Troubled.trouble = None
    note(ledger, "10.0.0.4")
    assert await clients(ledger) == {"10.0.0.1", "10.0.0.4"}
    assert logged(caplog).count("ledger written again") == 1
    assert ledger.figures == (2, 6)


async def test_a_place_where_no_file_can_be(
    begin: Runs, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.mkdir()
    ledger = begin()
    await ledger.open()
    note(ledger)
    await ledger.flush()
    assert ledger.figures == (0, 1)
    with pytest.raises(Unavailable, match="cannot read its ledger now"):
        await ledger.page(M)
    assert logged(caplog).count("ledger not written") == 1
    path.rmdir()
    note(ledger)
    assert await clients(ledger) == {"10.0.0.1"}


@pytest.mark.parametrize("content", [b"no database" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_damaged_file_is_put_aside(
    begin: Runs, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(content)
    ledger = begin()
    await ledger.open()
    assert logged(caplog).count("ledger begun anew") == 1
    assert path.with_name(f"{NAME}.broken").read_bytes() == content
    note(ledger)
    assert await clients(ledger) == {"10.0.0.1"}


async def test_of_a_newer_version(begin: Runs, path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 7")
    ledger = begin()
    await ledger.open()
    note(ledger)
    assert await clients(ledger) == {"10.0.0.1"}
    assert path.with_name(f"{NAME}.broken").exists()


async def test_damage_that_shows_while_it_serves(
    begin: Runs, path: Path, troubled: Callable[[Path], FetchTable], caplog: pytest.LogCaptureFixture
) -> None:
    ledger = begin(troubled)
    await ledger.open()
    note(ledger, "10.0.0.1")
    await ledger.flush()
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    Troubled.trouble = error
    note(ledger, "10.0.0.2")
    await ledger.flush()
    Troubled.trouble = None
    assert logged(caplog).count("ledger begun anew") == 1
    assert "ledger not written" not in logged(caplog)
    assert path.with_name(f"{NAME}.broken").exists()
    note(ledger, "10.0.0.3")
    assert await clients(ledger) == {"10.0.0.3"}
    assert ledger.figures == (1, 1)
