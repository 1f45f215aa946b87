"""How old versions provably are: a server before a log that grows while the host's clock goes on."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path

import pytest

from goproxy_vm.cache.heads import growth_file
from goproxy_vm.cache.layout import Layout
from goproxy_vm.config import Settings
from goproxy_vm.errors import NoRecord, Unproven
from goproxy_vm.protocol.growth import DAY, HOUR, Growth, NotedHead
from goproxy_vm.protocol.policy import Rule
from goproxy_vm.proxy.ages import LINES, LOOKUPS, Age, Ages
from goproxy_vm.sumdb.proof import Proofs
from goproxy_vm.upstream.dates import DatedClock
from tests.fakes.tasks import under_way
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Host, Serve
from tests.integration.test_database import World

NOW = 1_800_000_000.0
WEEK = 7 * DAY
MODULE = "example.com/m"


class Days:
    """A host's wall clock, which a test sets, before a log that grows."""

    def __init__(self, upstream: FakeUpstream, tmp_path: Path, serve: Serve) -> None:
        self.upstream = upstream
        self.world = World(upstream, tmp_path)
        self.root = tmp_path / "cache"
        self.now = NOW
        self.monotonic = 0.0
        self.clock = DatedClock(wall=lambda: self.now, monotonic=lambda: self.monotonic)
        self._serve = serve

    async def serve(self, **settings: object) -> Host:
        given = {"sumdb": self.world.spec, "min_age": WEEK, **settings}
        return await self._serve(self.upstream, clock=self.clock, **given)

    async def restarted(self, host: Host, **settings: object) -> Host:
        await host.server.stop()
        return await self.serve(**settings)

    def release(self, *versions: str, module: str = MODULE, committed: float | None = None) -> None:
        """Publish versions, committed now unless it is said otherwise; their records are the log's next."""
        when = datetime.fromtimestamp(self.now if committed is None else committed, UTC)
        for version in versions:
            self.upstream.add_module(module, version)
            told = {"Version": version, "Time": when.strftime("%Y-%m-%dT%H:%M:%SZ")}
            self.upstream.files[f"/{module}/@v/{version}.info"] = json.dumps(told).encode()
            self.world.record(module, version)

    async def pass_days(self, host: Host, days: float, *, every: float = 12 * HOUR) -> None:
        """Let time pass, the log grow, and the newest head be seen now and then."""
        left = days * DAY
        while left > 0:
            step = min(every, left)
            left -= step
            self.now += step
            self.monotonic += step
            self.world.database.grow(3)
            await self.look(host)

    async def look(self, host: Host) -> None:
        """As the server does each hour."""
        assert host.server.database is not None
        await host.server.database.latest()

    def lookups(self) -> int:
        """How often the database was asked for a record."""
        return self.world.lookups()


async def fetch(host: Host, version: str, module: str = MODULE) -> None:
    """Have its zip stored, however young it is."""
    assert host.settings is not None
    await host.server.reload(replace(host.settings, min_age=0.0))
    assert (await host.get(f"/{module}/@v/{version}.zip")).status == 200
    await host.server.reload(host.settings)


async def age(host: Host, version: str, module: str = MODULE) -> Age:
    return await host.server.ages.judge(module, version)


@pytest.fixture
def days(upstream: FakeUpstream, tmp_path: Path, serve: Serve) -> Days:
    return Days(upstream, tmp_path, serve)


async def settled(days: Days, **settings: object) -> Host:
    """A host that has noted heads for longer than ``min_age``."""
    host = await days.serve(**settings)
    await days.look(host)
    await days.pass_days(host, 8)
    return host


async def test_a_version_passes_once_the_log_has_had_it_for_so_long(days: Days) -> None:
    """Never before, and half a day later at most: as often as heads are noted here."""
    host = await settled(days)
    days.release("v1.1.0")
    published = days.now
    passed = None
    while days.now < published + 9 * DAY:
        found = await age(host, "v1.1.0")
        assert found.passes == (passed is not None) or days.now >= published + WEEK
        if found.passes and passed is None:
            passed = days.now
            assert found.evidence == "log"
            assert found.seconds is not None
            assert found.seconds <= days.now - published
        elif passed is None and found.noted is not None:
            assert found.evidence == "log"
            assert found.passes_after == found.noted + WEEK
            assert published + WEEK <= found.passes_after <= published + WEEK + 13 * HOUR
        await days.pass_days(host, 0.5)
    assert passed is not None
    assert published + WEEK <= passed <= published + WEEK + DAY
    assert (await age(host, "v1.1.0")).passes


async def test_a_commit_dated_back_is_as_young_as_its_record(days: Days) -> None:
    host = await settled(days)
    days.release("v1.1.0", committed=NOW - 900 * DAY)
    found = await age(host, "v1.1.0")
    assert (found.passes, found.evidence, found.committed) == (False, "log", None), "no .info is stored"
    assert (await host.get("/example.com/m/@v/v1.1.0.info")).status == 200
    await host.quiet()
    await days.pass_days(host, 1)
    found = await age(host, "v1.1.0")
    assert (found.passes, found.evidence, found.committed) == (False, "unlogged", NOW - 900 * DAY)
    assert found.seconds is not None
    assert 0 < found.seconds <= DAY
    await days.pass_days(host, 7)
    assert (await age(host, "v1.1.0")).passes


async def test_what_was_there_before_the_first_start_counts_by_its_commit_or_not_at_all(days: Days) -> None:
    days.release("v1.1.0", committed=NOW - 8 * DAY)
    days.release("v1.2.0", committed=NOW - DAY)
    host = await days.serve()
    for version in ("v1.1.0", "v1.2.0"):
        assert (await host.get(f"/example.com/m/@v/{version}.info")).status == 200
    await host.quiet()
    found = await age(host, "v1.1.0")
    assert (found.passes, found.evidence, found.seconds) == (True, "time", 8 * DAY)
    found = await age(host, "v1.2.0")
    assert (found.passes, found.evidence, found.passes_after) == (False, "time", NOW + 6 * DAY)
    host = await days.restarted(host, min_age_unproven="refuse")
    found = await age(host, "v1.1.0")
    assert (found.passes, found.evidence, found.seconds) == (False, "seen", None), "it may be much older"
    assert found.passes_after == NOW + WEEK
    days.now = NOW + WEEK
    for version in ("v1.1.0", "v1.2.0"):
        assert (await age(host, version)).passes


async def test_a_commit_dated_back_after_the_first_day_proves_nothing_on_a_new_host_either(
    days: Days,
) -> None:
    host = await days.serve()
    await days.look(host)
    await days.pass_days(host, 0.5, every=HOUR)
    days.release("v1.1.0", committed=NOW - 900 * DAY)
    assert (await host.get("/example.com/m/@v/v1.1.0.info")).status == 200
    await host.quiet()
    found = await age(host, "v1.1.0")
    assert (found.passes, found.evidence) == (False, "unlogged")
    days.release("v0.0.0-20200102030405-abcdefabcdef", committed=NOW - 900 * DAY)
    found = await age(host, "v0.0.0-20200102030405-abcdefabcdef")
    assert (found.passes, found.evidence) == (False, "unlogged")
    assert found.committed == 1577934245.0


async def test_history_that_is_lost_opens_no_way_for_commits_dated_back(
    days: Days, caplog: pytest.LogCaptureFixture
) -> None:
    host = await settled(days)
    days.release("v1.1.0", committed=NOW - 900 * DAY)
    await host.server.stop()
    file = growth_file(Layout.at(days.root), days.world.database.name)
    file.write_bytes(b"x" + file.read_bytes())
    host = await days.serve()
    assert (await host.get("/example.com/m/@v/v1.1.0.info")).status == 200
    await host.quiet()
    assert not (await age(host, "v1.1.0")).passes
    assert not (await age(host, "v1.0.0")).passes, "it was old, and is not provably so"


async def test_heads_outlive_a_restart(days: Days) -> None:
    host = await settled(days)
    assert host.server.database is not None
    noted = host.server.database.history.growth.heads
    assert len(noted) >= 16
    host = await days.restarted(host)
    assert host.server.database is not None
    assert host.server.database.history.growth.heads == noted
    assert (await age(host, "v1.0.0")).evidence == "log"


async def test_heads_are_noted_where_no_age_is_asked_for(days: Days) -> None:
    host = await days.serve(min_age=0.0)
    assert (await host.get("/example.com/m/@v/v1.0.0.zip")).status == 200
    assert host.server.database is not None
    assert host.server.database.history.growth.size == len(days.world.database)
    assert host.server.ages.passes(MODULE, "v1.0.0")
    assert await age(host, "v1.0.0") == Age(True, "exempt")


async def test_what_the_release_knows_is_old_on_the_first_day(days: Days) -> None:
    host = await days.serve()
    (number,) = [n for key, n in days.world.database.log.numbers.items() if key == "example.com/m@v1.0.0"]
    shipped = Growth([NotedHead(number, NOW - 60 * DAY), NotedHead(number + 1, NOW - 30 * DAY)])
    assert host.settings is not None
    assert host.server.database is not None
    history = host.server.database.history
    proofs = Proofs(host.settings, host.store, host.server.database, host.server.metrics)
    ages = Ages(host.settings, host.store, proofs, days.clock, history, anchors=shipped)
    found = await ages.judge(MODULE, "v1.0.0")
    assert (found.passes, found.evidence, found.seconds) == (True, "shipped", 30 * DAY)
    found = await ages.judge(MODULE, "v0.9.0")
    assert (found.evidence, found.seconds) == ("shipped", 60 * DAY)
    # Between an anchor that is old enough and one that is not: no commit's time helps.
    young = Growth([NotedHead(number, NOW - 60 * DAY), NotedHead(number + 1, NOW - DAY)])
    ages = Ages(host.settings, host.store, proofs, days.clock, history, anchors=young)
    found = await ages.judge(MODULE, "v1.0.0")
    assert (found.passes, found.passes_after) == (False, NOW + 6 * DAY)


async def test_what_lay_here_for_so_long_is_old_though_no_head_was_seen(days: Days) -> None:
    days.release("v1.1.0")
    host = await days.serve(min_age_unproven="refuse")
    await fetch(host, "v1.1.0")
    await host.quiet()
    found = await age(host, "v1.1.0")
    assert (found.passes, found.noted) == (False, NOW)
    days.now += WEEK
    found = await age(host, "v1.1.0")
    assert (found.passes, found.evidence, found.seconds) == (True, "seen", WEEK)


async def test_the_number_is_kept_with_the_hash_and_outlives_the_record(days: Days) -> None:
    host = await settled(days)
    days.release("v1.1.0")
    await fetch(host, "v1.1.0")
    await host.server.stop()
    for file in (days.root / "sumdb" / "_records").iterdir():
        file.unlink()
    asked = days.lookups()
    host = await days.serve()
    number = (await age(host, "v1.1.0")).number
    assert days.world.database.log.texts[number].startswith(b"example.com/m v1.1.0 ")
    assert days.lookups() == asked


def forget_numbers(root: Path) -> None:
    """As an older version left them."""
    with closing(sqlite3.connect(root / "index.db")) as index, index:
        assert index.execute("UPDATE known SET number = NULL").rowcount > 0


async def test_the_number_of_an_older_row_is_read_from_the_record_or_looked_up(days: Days) -> None:
    host = await settled(days)
    days.release("v1.1.0")
    await fetch(host, "v1.1.0")
    await host.server.stop()
    forget_numbers(days.root)
    asked = days.lookups()
    host = await days.serve()
    number = (await age(host, "v1.1.0")).number
    assert (number is not None, days.lookups()) == (True, asked)
    await host.server.stop()
    for file in (days.root / "sumdb" / "_records").iterdir():
        file.unlink()
    host = await days.serve()
    assert (await age(host, "v1.1.0")).number == number
    assert days.lookups() == asked + 1
    await host.server.stop()
    with closing(sqlite3.connect(days.root / "index.db")) as index:
        assert index.execute("SELECT DISTINCT number FROM known").fetchall() == [(number,)]


async def test_what_cannot_be_looked_up_now_is_no_verdict(days: Days) -> None:
    host = await settled(days)
    days.release("v1.1.0", "v1.2.0")
    days.world.database.lose("lookup/example.com/m@v1.2.0")
    days.upstream.on(f"{days.world.prefix}/*", Reply(b"", 500))
    with pytest.raises(Unproven) as caught:
        await age(host, "v1.1.0")
    assert (caught.value.status, "not proven by checksum database" in caught.value.sentence) == (502, True)
    assert await host.server.ages.young(MODULE, ["v1.1.0"]) == {"v1.1.0": None}
    days.upstream.forget_rules()
    days.world.carry(days.upstream)
    assert not (await age(host, "v1.1.0")).passes


async def test_a_version_that_the_database_does_not_know(days: Days) -> None:
    async with FakeUpstream() as itself:
        days.world.carry(itself, prefix="/")
        host = await settled(days, sumdb=replace(days.world.spec, url=itself.url))
        with pytest.raises(NoRecord) as caught:
            await age(host, "v7.7.7")
        assert "has no record of example.com/m@v7.7.7" in caught.value.sentence
        assert await host.server.ages.young(MODULE, ["v7.7.7"]) == {}
        await host.server.stop()


async def test_what_was_old_enough_costs_nothing_and_stays_so(days: Days) -> None:
    host = await settled(days)
    assert not host.server.ages.passes(MODULE, "v1.0.0")
    assert (await age(host, "v1.0.0")).passes
    assert host.server.ages.passes(MODULE, "v1.0.0")
    days.now -= 30 * DAY
    assert (await age(host, "v1.0.0")).passes
    assert not (await age(host, "v0.9.0")).passes, "the clock is behind, and nothing else is known of it"


async def test_a_clock_set_forward_lets_nothing_in(days: Days) -> None:
    host = await settled(days)
    days.release("v1.1.0")
    await days.pass_days(host, 1)
    days.clock.heard({"Date": formatdate(days.now, usegmt=True)})
    days.now += 30 * DAY
    assert not (await age(host, "v1.1.0")).passes
    await days.look(host)
    days.now -= 30 * DAY
    assert not (await age(host, "v1.1.0")).passes


async def test_settings_that_are_read_again_count_at_once(days: Days) -> None:
    host = await settled(days)
    assert (await age(host, "v1.0.0")).passes
    assert host.settings is not None

    async def reload(**settings: object) -> list[str]:
        given = {name: getattr(host.settings, name) for name in host.settings.__slots__}
        return (await host.server.reload(Settings(**{**given, **settings}))).applied

    assert await reload(min_age=30 * DAY) == ["min_age"]
    assert not host.server.ages.passes(MODULE, "v1.0.0")
    assert not (await age(host, "v1.0.0")).passes
    assert await host.metric("goproxy_vm_min_age_seconds") == 30 * DAY
    rules = (Rule.parse("example.com/m@v1.*"),)
    assert await reload(min_age=30 * DAY, min_age_exempt=rules) == ["min_age_exempt"]
    assert (await age(host, "v1.0.0")).passes
    assert not (await age(host, "v0.9.0")).passes
    assert await reload(min_age=0.0) == ["min_age", "min_age_exempt"]
    assert host.server.ages.passes(MODULE, "v1.0.0")


async def test_toolchains_are_exempt_unless_it_is_said_otherwise(days: Days) -> None:
    host = await days.serve()
    toolchain = "golang.org/toolchain"
    assert host.server.ages.passes(toolchain, "v0.0.1-go1.26.8.linux-amd64")
    assert await host.server.ages.young(toolchain, ["v0.0.1-go1.26.8.linux-amd64"]) == {}
    host = await days.restarted(host, min_age_exempt=())
    assert not host.server.ages.passes(toolchain, "v0.0.1-go1.26.8.linux-amd64")


async def test_private_modules_age_from_when_they_are_seen_if_at_all(days: Days) -> None:
    host = await days.serve(nosumdb="example.com")
    assert await age(host, "v1.0.0") == Age(True, "exempt")
    host = await days.restarted(host, nosumdb="example.com", min_age_private=True, min_age_unproven="refuse")
    found = await age(host, "v1.0.0")
    assert (found.passes, found.evidence, found.noted, found.passes_after) == (
        *(False, "seen", NOW, NOW + WEEK),
    )
    days.now += 6 * DAY
    assert not (await age(host, "v0.9.0")).passes
    days.now += DAY
    host = await days.restarted(host, nosumdb="example.com", min_age_private=True, min_age_unproven="refuse")
    assert (await age(host, "v1.0.0")).passes
    found = await age(host, "v0.9.0")
    assert (found.passes, found.seconds) == (False, DAY)
    assert days.lookups() == 0


async def test_without_a_database_all_versions_age_from_when_they_are_seen(days: Days) -> None:
    host = await days.serve(sumdb=None)
    assert await host.metric("goproxy_vm_log_head_age_seconds") == 0
    assert (await host.get("/example.com/m/@v/v1.0.0.info")).status == 200
    await host.quiet()
    found = await age(host, "v1.0.0")
    assert (found.passes, found.evidence) == (True, "time"), "by its commit, in the first week"
    assert not (await age(host, "v0.9.0")).passes, "whose .info is not here"
    days.now += 8 * DAY
    assert (await age(host, "v0.9.0")).passes
    days.release("v1.1.0", committed=NOW - 900 * DAY)
    assert (await host.get("/example.com/m/@v/v1.1.0.info")).status == 200
    await host.quiet()
    found = await age(host, "v1.1.0")
    assert (found.passes, found.evidence, found.seconds) == (False, "seen", 0.0)


async def test_few_versions_are_kept_in_memory(days: Days) -> None:
    days.release("v1.1.0")
    host = await settled(days)
    assert host.settings is not None
    assert host.server.database is not None
    proofs = Proofs(host.settings, host.store, host.server.database, host.server.metrics)
    ages = Ages(host.settings, host.store, proofs, days.clock, host.server.database.history, kept=2)
    versions = ["v0.9.0", "v1.0.0", "v1.1.0"]
    for version in versions:
        assert (await ages.judge(MODULE, version)).passes
    assert [ages.passes(MODULE, version) for version in versions] == [False, True, True]
    assert (await ages.judge(MODULE, "v0.9.0")).passes


async def test_the_date_of_answers_is_heard(days: Days) -> None:
    host = await days.serve()
    path = "/example.com/m/@v/v1.0.0.info"
    dated = {"Date": formatdate(NOW - 5 * DAY, usegmt=True)}
    days.upstream.on(path, Reply(days.upstream.files[path], headers=dated))
    assert days.clock.earliest() == NOW
    assert (await host.get(path)).status == 200
    assert days.clock.earliest() == NOW - 5 * DAY
    await host.quiet()


# Lists


async def test_of_a_list_the_newest_lines_are_judged_from_the_top(days: Days) -> None:
    old = [f"v1.{minor}.{patch}" for minor in range(6) for patch in range(3)]
    days.release(*old)
    host = await settled(days)
    new = ["v1.5.3", "v1.5.4", "v1.4.3", "v1.0.3", "v1.6.0-rc.1"]
    days.release(*new)
    versions = sorted([*old, *new], key=lambda v: [int(part) for part in v[1:].split("-")[0].split(".")])
    asked = days.lookups()
    young = await host.server.ages.young(MODULE, versions)
    assert sorted(young) == ["v1.4.3", "v1.5.3", "v1.5.4", "v1.6.0-rc.1"], "and v1.0.3 is too deep"
    assert all(each is not None and not each.passes for each in young.values())
    # v1.6.0-rc.1 has nothing below it; v1.5.2, v1.4.2, v1.3.2 are old.
    assert days.lookups() - asked == len(young) + LINES - 1
    asked = days.lookups()
    assert await host.server.ages.young(MODULE, versions) == young
    assert days.lookups() == asked
    host = await days.restarted(host)
    assert sorted(await host.server.ages.young(MODULE, versions)) == sorted(young)
    assert days.lookups() == asked, "the numbers are on record"
    await days.pass_days(host, 8)
    assert await host.server.ages.young(MODULE, versions) == {}


async def test_no_list_costs_more_than_so_many_lookups(days: Days) -> None:
    host = await settled(days)
    versions = [f"v1.{minor}.{patch}" for minor in range(4) for patch in range(10)]
    days.release(*versions)
    asked = days.lookups()
    young = await host.server.ages.young(MODULE, versions)
    assert days.lookups() - asked == len(young) == LOOKUPS
    assert "v1.3.9" in young
    more = await host.server.ages.young(MODULE, versions)
    assert set(young) < set(more), "what is known of is no lookup"
    assert days.lookups() - asked == 2 * LOOKUPS


async def test_versions_of_no_minor_version_are_no_trouble(days: Days) -> None:
    host = await settled(days)
    assert await host.server.ages.young(MODULE, []) == {}
    assert await host.server.ages.young(MODULE, ["nonsense"]) == {}


# What is told


async def test_the_age_of_the_newest_head_is_a_metric(days: Days) -> None:
    host = await settled(days)
    assert await host.metric("goproxy_vm_min_age_seconds") == WEEK
    assert await host.metric("goproxy_vm_log_head_age_seconds") == 0
    days.now += 3 * DAY
    assert await host.metric("goproxy_vm_log_head_age_seconds") == pytest.approx(3 * DAY, abs=2)


async def test_the_newest_head_is_watched_unless_nobody_may_be_asked(days: Days) -> None:
    host = await days.serve()
    assert under_way("newest-head")
    host = await days.restarted(host, offline=True)
    assert not under_way("newest-head")
    host = await days.restarted(host, sumdb=None)
    assert not under_way("newest-head")
