"""Noting heads: through restarts, torn and damaged files, failing disks and clocks that are wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from goproxy_vm.cache import tree
from goproxy_vm.cache.heads import Heads, growth_file
from goproxy_vm.cache.health import Health
from goproxy_vm.cache.layout import Layout
from goproxy_vm.cache.threads import Threads
from goproxy_vm.errors import Unproven
from goproxy_vm.protocol.growth import DAY, EVERY, NotedHead, line, parse
from goproxy_vm.sumdb.history import EARLIEST, HOUR, LOST, SETTLED, THIN, HeadHistory
from goproxy_vm.upstream.dates import DatedClock
from tests.fakes.lines import logged

NAME = "sumdb.example.com/log"
NOW = 1_800_000_000.0


class Bed:
    """A cache directory, a clock that a test sets, and histories opened on them."""

    def __init__(self, root: Path, threads: Threads) -> None:
        self.layout = Layout.at(root)
        self.layout.prepare()
        self.health = Health()
        self.heads = Heads(self.layout, threads, self.health)
        self.now = NOW
        self.monotonic = 0.0
        self.clock = DatedClock(wall=lambda: self.now, monotonic=lambda: self.monotonic)

    @property
    def file(self) -> Path:
        return growth_file(self.layout, NAME)

    async def open(self, **given: object) -> HeadHistory:
        history = HeadHistory(NAME, self.heads, self.clock, **given)  # type: ignore[arg-type]  # by name
        await history.open()
        return history

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.monotonic += seconds

    def on_disk(self) -> list[NotedHead]:
        growth, torn = parse(self.file.read_bytes())
        assert not torn
        return growth.heads


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Bed]:
    threads = Threads("test", 2)
    yield Bed(tmp_path / "cache", threads)
    threads.close()


async def test_what_is_noted_outlives_the_process(bed: Bed) -> None:
    history = await bed.open()
    assert history.growth.heads == []
    for size in (100, 200, 300):
        history.note(size)
        await history.close()
        bed.later(HOUR)
    noted = history.growth.heads
    assert [head.size for head in noted] == [100, 200, 300]
    assert bed.on_disk() == noted
    assert bed.file.stat().st_mode & 0o077 == 0
    again = await bed.open()  # as after a kill: nothing was closed
    assert again.growth.heads == noted
    again.note(300)
    again.note(400)
    await again.close()
    assert [head.size for head in bed.on_disk()] == [100, 200, 300, 400]


async def test_a_later_line_is_added_and_the_rest_left_alone(bed: Bed) -> None:
    history = await bed.open()
    history.note(100)
    await history.close()
    before = bed.file.stat().st_ino
    bed.later(HOUR)
    history.note(200)
    await history.close()
    assert bed.file.stat().st_ino == before
    assert len(bed.on_disk()) == 2


async def test_a_torn_line_is_dropped_and_nothing_is_added_behind_it(bed: Bed) -> None:
    history = await bed.open()
    for size in (100, 200):
        history.note(size)
        await history.close()
        bed.later(HOUR)
    data = bed.file.read_bytes()
    bed.file.write_bytes(data[:-3])
    again = await bed.open()
    assert [head.size for head in again.growth.heads] == [100]
    again.note(300)
    await again.close()
    assert [head.size for head in bed.on_disk()] == [100, 300]


@pytest.mark.parametrize(
    "damage", [lambda data: data[5:], lambda data: data + data, lambda _: b"\0" * 40 + b"\n"]
)
async def test_a_damaged_file_is_told_and_nothing_of_it_believed(
    bed: Bed, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    history = await bed.open()
    for size in (100, 200):
        history.note(size)
        await history.close()
        bed.later(DAY)
    bed.file.write_bytes(damage(bed.file.read_bytes()))
    again = await bed.open()
    assert "noted heads begun anew" in logged(caplog)
    assert not again.growth.old_enough(50, DAY, bed.now)
    assert again.growth.first == 0.0, "it is no new host, to which anything but proof is enough"
    again.note(200)
    await again.close()
    assert [head.size for head in bed.on_disk()] == [LOST.size, 200]
    assert again.growth.logged_before(50) == bed.now + 1
    assert (await bed.open()).growth.heads == again.growth.heads


async def test_a_disk_that_fails_loses_nothing_in_the_end(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    history = await bed.open()
    history.note(100)
    await history.close()
    bed.later(HOUR)
    bed.file.rename(bed.file.with_name("away"))
    bed.file.mkdir()  # neither added to nor replaced
    history.note(200)
    await history.close()
    assert "tree head cannot be noted" in logged(caplog)
    bed.later(HOUR)
    history.note(300)
    await history.close()
    assert not bed.health.writable
    bed.file.rmdir()
    await bed.heads.retry()
    assert bed.health.writable
    assert [head.size for head in bed.on_disk()] == [100, 200, 300]
    bed.later(HOUR)
    history.note(400)
    await history.close()
    assert [head.size for head in bed.on_disk()] == [100, 200, 300, 400]


async def test_the_file_is_thinned_now_and_then(bed: Bed) -> None:
    history = await bed.open()
    for size in range(1, 3 * THIN):
        history.note(size)
        await history.close()
        bed.later(2 * EVERY)
    assert len(bed.on_disk()) < 2 * THIN
    assert len(history.growth) == len(bed.on_disk())
    assert history.growth.size == 3 * THIN - 1


async def test_a_clock_that_was_never_set_notes_nothing(bed: Bed) -> None:
    bed.now = EARLIEST - 1
    history = await bed.open()
    history.note(100)
    assert history.growth.heads == []
    bed.clock.heard({"Date": formatdate(NOW, usegmt=True)})
    history.note(100)
    await history.close()
    assert history.growth.heads == [NotedHead(100, NOW + 1)], "the upstream's, which is ahead"


async def test_a_clock_that_ran_ahead_does_not_stop_it_for_ever(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    history = await bed.open()
    history.note(100)
    bed.now += 900 * DAY
    history.note(200)
    bed.now -= 900 * DAY
    bed.later(DAY)
    history.note(300)
    assert history.growth.size == 200, "nobody says which was right"
    bed.clock.heard({"Date": formatdate(bed.now, usegmt=True)})
    history.note(300)
    await history.close()
    assert [head.size for head in bed.on_disk()] == [100, 300]
    assert "noted heads forgotten" in logged(caplog)
    bed.file.write_bytes(line(NotedHead(100, NOW + 900 * DAY)))
    again = await bed.open()
    again.note(400)
    assert again.growth.heads[0] == LOST


async def test_the_age_of_the_head(bed: Bed) -> None:
    history = await bed.open()
    bed.later(50.0)
    assert history.idle_seconds == 50.0
    history.note(100)
    bed.later(100.0)
    assert history.idle_seconds == 99.0
    await history.close()
    assert (await bed.open()).idle_seconds == 99.0


class Ended(Exception):
    """The test has seen enough."""


async def asked(bed: Bed, times: int) -> tuple[list[float], int]:
    """How long was waited before each question, and how many there were."""
    waits: list[float] = []
    questions = 0

    async def pause(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > times:
            raise Ended
        await asyncio.sleep(0)

    async def latest() -> None:
        nonlocal questions
        questions += 1
        raise Unproven("no upstream answers")

    history = await bed.open(pause=pause)
    with pytest.raises(Ended):
        await history.run(latest)
    return waits, questions


async def test_the_newest_head_is_asked_for_each_hour_whatever_comes_of_it(bed: Bed) -> None:
    assert await asked(bed, 3) == ([SETTLED, HOUR, HOUR, HOUR], 3)


@pytest.mark.parametrize(
    ("since", "first"), [(0.0, HOUR), (HOUR / 2, HOUR / 2), (DAY, SETTLED), (-DAY, HOUR)]
)
async def test_a_restart_does_not_ask_again_at_once(bed: Bed, since: float, first: float) -> None:
    history = await bed.open()
    bed.now = NOW - 1
    history.note(100)
    await history.close()
    bed.now = NOW + since
    assert (await asked(bed, 1))[0] == [first, HOUR]


async def test_append_follows_no_link(bed: Bed, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"")
    bed.file.parent.mkdir(parents=True)
    bed.file.symlink_to(other)
    with pytest.raises(OSError, match="Too many levels"):
        tree.append(b"x", bed.file, bed.layout.sumdb)
    assert other.read_bytes() == b""
