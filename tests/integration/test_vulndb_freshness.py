"""How new the files of a mirrored vulnerability database are, by a clock of the test's own."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm.cache.answers import VULNDB, Answers
from goproxy_vm.config import Settings
from goproxy_vm.errors import UnderWay, UpstreamError
from goproxy_vm.observe.metrics import Metrics
from goproxy_vm.protocol.vulndb import DatabaseFile
from goproxy_vm.proxy.advisories import MOST, AdvisoryWatch
from goproxy_vm.proxy.answer import Result
from goproxy_vm.proxy.asker import Asker
from goproxy_vm.proxy.gate import Gate
from goproxy_vm.proxy.vulndb import FRESH, PATIENCE, REST, VulndbMirror
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.chain import Upstreams
from goproxy_vm.upstream.http import Timeouts
from goproxy_vm.upstream.spec import parse_upstreams
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.vulndb import NEXT_DAY, documents, entry
from tests.integration.conftest import Serve

M = "example.com/m"
ID = "GO-2026-0001"
OLD = entry(ID, {M: [{"introduced": "0"}, {"fixed": "1.0.0"}]})
OTHER = entry("GO-2026-0002", {"example.com/other": [{"introduced": "0"}]})
NEW = {**OLD, "modified": NEXT_DAY, "summary": "Trouble that has grown"}
ASKER = Asker("10.0.0.1")
INDEX = ("index/db", "index/modules", "index/vulns")


@dataclass
class Rig:
    """A mirror of ``database`` with a clock, on the answers of a store; ``new`` makes another on the same."""

    database: FakeUpstream
    answers: Answers
    new: Callable[..., Awaitable[VulndbMirror]]
    mirror: VulndbMirror
    now: float = 1e9

    def fill(self, *entries: dict[str, Any], modified: str | None = None) -> None:
        files = documents(entries, modified)
        self.database.files = {f"/{path}": data for path, data in files.items()}

    async def ask(self, name: str, asker: Asker = ASKER) -> tuple[Any, Result]:
        """A file as JSON, and how it was come by."""
        answer = await self.mirror.get(DatabaseFile(name, zipped=True), asker)
        assert isinstance(answer.body, bytes)
        return json.loads(gzip.decompress(answer.body)), answer.result

    def asked(self) -> list[str]:
        """What the database was asked for since this was looked at last."""
        found = [path.removeprefix("/").partition(".json")[0] for path in self.database.requests]
        self.database.requests.clear()
        return found


@pytest.fixture
async def rig(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> AsyncIterator[Rig]:
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(FakeUpstream())
        host = await serve(upstream)
        settings = Settings(cache_dir=tmp_path, vulndb=database.url, negative=0)

        async def new(patience: float = PATIENCE) -> VulndbMirror:
            upstreams = Upstreams(
                parse_upstreams(database.url), Timeouts(2, 2, 10), Metrics("1"), "x", database=True
            )
            await upstreams.start(probe=False)
            stack.push_async_callback(upstreams.close)
            mirror = VulndbMirror(
                settings,
                Gate(settings),
                host.store.answers,
                upstreams,
                FairSlots(8, 2),
                patience=patience,
                wall=lambda: made.now,
                monotonic=lambda: made.now,
            )
            stack.push_async_callback(mirror.close)
            return mirror

        made = Rig(database, host.store.answers, new, await new())
        made.fill(OLD, OTHER)
        yield made


async def test_nothing_is_asked_for_within_the_hour(rig: Rig) -> None:
    for name in (*INDEX, f"ID/{ID}"):
        assert (await rig.ask(name))[1] is Result.MISS
    assert rig.asked() == [*INDEX, f"ID/{ID}"]
    rig.now += FRESH - 60
    for name in (*INDEX, f"ID/{ID}"):
        assert (await rig.ask(name))[1] is Result.HIT
    assert rig.asked() == []


async def test_where_it_is_unchanged_it_alone_is_asked_for(rig: Rig) -> None:
    for name in (*INDEX, f"ID/{ID}"):
        await rig.ask(name)
    rig.asked()
    rig.mirror.changed.clear()
    rig.now += 2 * FRESH
    await rig.ask(f"ID/{ID}")
    assert rig.asked() == ["index/db"]
    assert not rig.mirror.changed.is_set()


async def test_what_was_modified_is_asked_for_again_and_nothing_else(rig: Rig) -> None:
    names = (*INDEX, f"ID/{ID}", "ID/GO-2026-0002")
    for name in names:
        await rig.ask(name)
    rig.asked()
    rig.mirror.changed.clear()
    rig.fill(NEW, OTHER)
    rig.now += 2 * FRESH
    assert (await rig.ask(f"ID/{ID}"))[0]["summary"] == NEW["summary"]
    assert rig.asked() == ["index/db", "index/modules", f"ID/{ID}"]
    assert rig.mirror.changed.is_set()
    assert (await rig.ask("ID/GO-2026-0002"))[1] is Result.HIT
    assert (await rig.ask("index/modules"))[1] is Result.HIT
    assert (await rig.ask("index/vulns"))[1] is Result.MISS
    assert rig.asked() == ["index/vulns"]


async def test_an_entry_that_is_behind_its_index_is_not_asked_for_all_the_time(rig: Rig) -> None:
    for name in (*INDEX, f"ID/{ID}"):
        await rig.ask(name)
    behind = dict(rig.database.files)
    rig.fill(NEW, OTHER)
    rig.database.files |= {path: data for path, data in behind.items() if path.startswith("/ID/")}
    rig.now += 2 * FRESH
    assert (await rig.ask(f"ID/{ID}"))[1] is Result.MISS
    rig.asked()
    assert (await rig.ask(f"ID/{ID}"))[1] is Result.HIT
    assert rig.asked() == []
    rig.now += 61  # the setting fresh
    assert (await rig.ask(f"ID/{ID}"))[1] is Result.MISS


async def test_an_index_that_is_behind_its_database_is_fresh_for_an_hour(rig: Rig) -> None:
    rig.fill(OLD, modified=NEXT_DAY)
    await rig.ask("index/db")
    await rig.ask("index/modules")
    assert (await rig.ask("index/modules"))[1] is Result.HIT
    rig.asked()
    rig.fill(NEW)
    rig.now += FRESH + 1
    rig.database.on("/index/db.json*", Reply(documents([NEW])["index/db.json"]))
    assert (await rig.ask("index/modules"))[1] is Result.MISS


async def test_one_that_is_silent_keeps_nobody_waiting_for_long(rig: Rig) -> None:
    rig.mirror = await rig.new(0.05)
    for name in (*INDEX, f"ID/{ID}"):
        await rig.ask(name)
    rig.now += 2 * FRESH
    gate = rig.database.hold("*")
    assert (await rig.ask(f"ID/{ID}"))[1] is Result.STALE
    rig.asked()
    for _ in range(10):  # at once: nobody waits once more
        assert (await rig.ask(f"ID/{ID}"))[1] is Result.STALE
        assert (await rig.ask("index/db"))[1] is Result.STALE
    assert rig.asked() == []
    gate.open()
    while rig.mirror.fetches_in_flight:
        await asyncio.sleep(0)
    rig.now += REST + 1
    assert (await rig.ask(f"ID/{ID}"))[1] is Result.HIT


async def test_who_would_rather_ask_again_may(rig: Rig) -> None:
    gate = rig.database.hold("*")
    with pytest.raises(UnderWay):
        await rig.ask("index/db", Asker("10.0.0.1", patience=0.01))
    gate.open()
    await rig.ask("index/db")


async def test_one_that_lies_is_not_asked_all_the_time(rig: Rig) -> None:
    for name in INDEX:
        await rig.ask(name)
    rig.asked()
    rig.now += 2 * FRESH
    rig.database.on("*", Reply(b"<html>"))
    for _ in range(10):
        for name in INDEX:
            assert (await rig.ask(name))[1] is Result.STALE
    assert rig.asked() == ["index/db"]
    rig.now += REST + 1
    rig.database.forget_rules()
    assert (await rig.ask("index/db"))[1] is Result.MISS
    # Nothing older is kept of this one.
    rig.database.on("*", Reply(b"<html>"))
    with pytest.raises(UpstreamError):
        await rig.ask(f"ID/{ID}")


async def test_what_is_gone_is_gone(rig: Rig) -> None:
    for name in (*INDEX, f"ID/{ID}"):
        await rig.ask(name)
    rig.fill({**OTHER, "modified": NEXT_DAY})
    rig.now += 2 * FRESH
    with pytest.raises(Exception, match="no such module"):
        await rig.ask(f"ID/{ID}")
    assert await rig.answers.get(f"{VULNDB}/ID/{ID}") is None
    # An index is never gone: a database without one is none, and the older one stays.
    rig.database.files.clear()
    rig.now += 2 * FRESH
    assert (await rig.ask("index/modules"))[1] is Result.STALE


async def test_it_goes_on_where_the_last_one_ended(rig: Rig) -> None:
    for name in (*INDEX, f"ID/{ID}"):
        await rig.ask(name)
    rig.asked()
    rig.mirror = await rig.new()
    for name in (*INDEX, f"ID/{ID}"):
        assert (await rig.ask(name))[1] is Result.HIT
    assert rig.asked() == []


def watch(rig: Rig, *versions: tuple[str, str], most: int = MOST) -> AdvisoryWatch:
    async def stored(modules: Collection[str]) -> list[tuple[str, str]]:
        return [each for each in versions if each[0] in modules]

    return AdvisoryWatch(rig.mirror, stored, most=most, wall=lambda: rig.now)


async def test_only_what_concerns_this_host_is_read_and_only_once(rig: Rig) -> None:
    seen = watch(rig, (M, "v0.9.0"), (M, "v1.0.0"), ("golang.org/toolchain", "v0.0.1-go1.21.linux-amd64"))
    await seen.check()
    assert rig.asked() == ["index/db", "index/modules", f"ID/{ID}"]
    assert seen.report is not None
    assert [each.version for each in seen.report.items] == ["v0.9.0"]
    await seen.check()
    assert rig.asked() == []
    rig.fill(NEW, OTHER)
    rig.now += 2 * FRESH
    await seen.check()
    assert rig.asked() == ["index/db", "index/modules", f"ID/{ID}"]
    (item,) = seen.report.items
    assert item.exposures[0].advisory is not None
    assert item.exposures[0].advisory.summary == NEW["summary"]


async def test_it_looks_when_the_database_changes(rig: Rig) -> None:
    seen = watch(rig, (M, "v0.9.0"))
    running = asyncio.create_task(seen.run())
    while seen.report is None:
        await asyncio.sleep(0.001)
    assert seen.report.total == 1
    rig.fill(NEW, OTHER)
    rig.now += 2 * FRESH
    await rig.ask("index/db")  # a VM's request finds out
    while not new(seen):
        await asyncio.sleep(0.001)
    running.cancel()
    await asyncio.wait([running])


def new(seen: AdvisoryWatch) -> bool:
    advisory = seen.known.get(ID) if seen.known is not None else None
    return advisory is not None and advisory.modified == NEXT_DAY


async def test_a_report_names_so_many_and_counts_all(rig: Rig) -> None:
    seen = watch(rig, *[(M, f"v0.{n}.0") for n in range(125)], most=50)
    await seen.check()
    assert seen.report is not None
    assert seen.report.total == 125
    assert [each.version for each in seen.report.items] == [f"v0.{n}.0" for n in range(50)]


async def test_many_advisories_and_one_that_fails_ends_it(rig: Rig) -> None:
    many = [entry(f"GO-2026-{n:05}", {M: [{"introduced": "0"}]}) for n in range(100)]
    rig.fill(*many)
    rig.database.on("/ID/*", Reply(status=500))
    seen = watch(rig, (M, "v0.9.0"))
    await seen.check()
    assert len(rig.asked()) < 20
    assert seen.report is not None
    assert len(seen.report.unread) == 100
    assert seen.report.total == 1
    rig.database.forget_rules()
    rig.mirror = await rig.new()
    seen = watch(rig, (M, "v0.9.0"))
    await seen.check()
    assert seen.report is not None
    assert not seen.report.unread
