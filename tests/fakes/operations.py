"""Operations without a store: a few versions in memory, and a record of what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from goproxy_vm.admin.status import Activity, InForce, Status
from goproxy_vm.cache.facts import (
    KINDS,
    CacheStatus,
    Difference,
    Eviction,
    FileFacts,
    Listing,
    Page,
    Pass,
    Pin,
    Pins,
    Removal,
    RemovedVersion,
    Selection,
    Snapshot,
    Totals,
    VersionFacts,
    Vm,
    VmPage,
    Went,
)
from goproxy_vm.config import Shown
from goproxy_vm.ledger.facts import Fetched, FetchPage, Sought
from goproxy_vm.observe.traffic import Served
from goproxy_vm.protocol.report import VmReport
from goproxy_vm.protocol.selector import Selector, normalize
from goproxy_vm.upstream.backoff import Condition

STARTED = 1_750_000_000.0
SIZE = 4096
DAY = 86400.0


def stored(
    module: str, version: str, *, idle: float, hits: int = 1, zip_bytes: int = 3 * SIZE
) -> VersionFacts:
    """A whole version that was fetched with the server's start and not asked for since ``idle`` seconds."""
    files = {
        kind: FileFacts(
            bytes=zip_bytes if kind == "zip" else SIZE,
            length=(zip_bytes if kind == "zip" else SIZE) - 7,
            sha256="ab" * 32,
            fetched=STARTED,
            last_used=STARTED,
            hits=hits,
            h1=None if kind == "info" else f"h1:{'A' * 43}=",
        )
        for kind in KINDS
    }
    total = sum(each.bytes for each in files.values())
    return VersionFacts(module, version, total, hits, STARTED, STARTED, idle, False, files)


class FakeOperations:
    """Every operation of the facade. ``failure`` is raised by all of them; ``asked`` records the changes."""

    def __init__(self) -> None:
        self.stored = {
            (each.module, each.version): each
            for each in (
                stored("example.com/a", "v1.0.0", idle=5.0, hits=7),
                stored("example.com/a", "v1.1.0", idle=40 * DAY),
                stored("github.com/Azure/sdk/v2", "v2.0.0+incompatible", idle=3600.0, zip_bytes=100 * SIZE),
            )
        }
        self.configured = {normalize("example.com/kept/*"): "config"}
        self.pinned: dict[str, str] = {}
        self.made: list[Snapshot] = []
        self.run: list[Pass] = []
        self.asked: list[tuple[object, ...]] = []
        self.forgotten = 3
        self.vm_go = "1.26.8"
        right = VmReport("clean", "go1.26.8", "go1.24.11", "linux", "amd64", 409, 920)
        wrong = VmReport("setup", "go1.24.11", "go1.24.11", "linux", "arm64")
        self.known = [
            Vm("10.0.0.2", STARTED, right, right.release, 7),
            Vm("fd00::1", STARTED - DAY, wrong, wrong.release, 3),
        ]
        at = int(STARTED)
        self.fetched = [
            Fetched("example.com/a", "v1.0.0", "10.0.0.7", "build-7", at - 60, at, 12, 3),
            Fetched("example.com/a", "v1.0.0", "10.0.0.8", "", at - 90, at - 90, 1, 0),
            Fetched("example.com/a", "v1.1.0", "10.0.0.7", "build-7", at - 99, at - 95, 1000, 0),
        ]
        self.ledger, self.proxies = "on", False
        self.failure: Exception | None = None
        self.hold: asyncio.Event | None = None
        """While it is not set, changes wait."""

    async def _ask(self, *words: object) -> None:
        self.asked.append(words)
        if self.hold is not None:
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure

    @property
    def bytes(self) -> int:
        return sum(each.bytes for each in self.stored.values())

    def _totals(self) -> Totals:
        oldest = max((each.idle_seconds for each in self.stored.values()), default=0.0)
        return Totals(len(self.stored), self.bytes, oldest)

    async def settings(self) -> InForce:
        await self._ask("settings")
        return InForce(
            {
                "offline": Shown(False, "default"),
                "listen": Shown(["0.0.0.0:8080"], "file /etc/goproxy-vm.toml"),
                "high_water": Shown(97.5, "flag --high-water"),
                "upstream": Shown("https://***@goproxy.example", "default"),
            },
            {"HTTPS_PROXY": "http://***@proxy.example:3128"},
        )

    async def status(self) -> Status:
        await self._ask("status")
        sizes = {
            kind: sum(each.files[kind].bytes for each in self.stored.values() if kind in each.files)
            for kind in KINDS
        }
        entries = {kind: sum(kind in each.files for each in self.stored.values()) for kind in KINDS}
        cache = CacheStatus(
            dir="/var/cache/goproxy-vm",
            policy="slru",
            limit_bytes=50_000_000_000,
            used_bytes=self.bytes,
            reserved_bytes=0,
            pinned_bytes=0,
            pinned_limit_bytes=25_000_000_000,
            min_free_bytes=1 << 30,
            disk_free_bytes=9 << 30,
            max_idle_seconds=None,
            oldest_idle_seconds=self._totals().oldest_idle_seconds,
            versions=len(self.stored),
            entries=entries,
            sizes=sizes,
            answers=4,
            answers_bytes=0,
            answers_limit_bytes=1 << 28,
            sumdb=5,
            sumdb_bytes=0,
            sumdb_limit_bytes=1 << 29,
            quarantine_bytes=0,
            quarantine_entries=0,
        )
        last = self.run[-1] if self.run else None
        activity = Activity(
            since_start=Served(93784.5, 1300, 1000, 930, 5 << 30),
            last_day=Served(86400.0, 130, 100, 95, 1 << 30),
            requests_per_second=12.5,
            addresses=3,
            connections=41,
            upstreams=[
                ("one.example", Condition("ok")),
                ("two.example", Condition("backed_off", 120.0, 42.0, "two.example: 503")),
                ("three.example", Condition("failing", 7200.0, None, "three.example: timed out")),
            ],
            database=("sum.golang.org", Condition("untried")),
        )
        scrubs = [each for each in self.run if each.reason == "scrub"]
        return Status(
            *("1.2.3", STARTED, 93784.5, "ready", cache, 0, activity),
            last_pass=last,
            last_scrub=scrubs[-1] if scrubs else None,
        )

    async def versions(self, asked: Listing) -> Page[VersionFacts]:
        prefix, sort, limit, cursor = asked.prefix, asked.sort, asked.limit, asked.cursor
        await self._ask("versions", prefix, sort, limit, cursor, *(asked.match or ()))
        begin = 0 if cursor is None else int(cursor)
        matches = Selector(["*"] if asked.match is None else asked.match)
        items = sorted(
            (
                each
                for each in self.stored.values()
                if each.module.startswith(prefix) and matches(each.module, each.version)
            ),
            key=lambda each: (each.module, each.version),
        )
        if sort != "name":
            key = {"size": "bytes", "idle": "idle_seconds", "hits": "hits"}[sort]
            items.sort(key=lambda each: -getattr(each, key))
        end = begin + limit
        return Page(items[begin:end], str(end) if end < len(items) else None, len(items))

    async def version(self, module: str, version: str) -> VersionFacts | None:
        await self._ask("version", module, version)
        return self.stored.get((module, version))

    async def purge(self, selection: Selection, *, forget_hash: bool, dry_run: bool) -> Removal:
        await self._ask("purge", selection, forget_hash, dry_run)
        match = Selector(selection.match or ["*"])
        return self._remove(
            [
                each
                for each in self.stored.values()
                if match(each.module, each.version)
                and (selection.idle_for is None or each.idle_seconds >= selection.idle_for)
                and (selection.larger_than is None or each.bytes > selection.larger_than)
            ],
            selection.kinds,
            dry_run=dry_run,
        )

    def keep_out(self, matches: Callable[[str, str], bool]) -> None:
        self.asked.append(("keep_out", matches))

    async def purge_version(
        self, module: str, version: str, *, forget_hash: bool = False, dry_run: bool = False
    ) -> Removal:
        await self._ask("purge_version", module, version, forget_hash, dry_run)
        found = self.stored.get((module, version))
        return self._remove([found] if found else [], KINDS, dry_run=dry_run)

    async def purge_module(self, module: str, *, forget_hash: bool = False, dry_run: bool = False) -> Removal:
        await self._ask("purge_module", module, forget_hash, dry_run)
        return self._remove([e for e in self.stored.values() if e.module == module], KINDS, dry_run=dry_run)

    def _remove(self, found: list[VersionFacts], kinds: tuple[str, ...], *, dry_run: bool) -> Removal:
        items = []
        for each in sorted(found, key=lambda facts: (facts.module, facts.version)):
            taken = tuple(kind for kind in kinds if kind in each.files)
            if not taken:
                continue
            freed = sum(each.files[kind].bytes for kind in taken)
            items.append(RemovedVersion(each.module, each.version, taken, freed))
            if not dry_run:
                left = {kind: facts for kind, facts in each.files.items() if kind not in taken}
                if left:
                    name = each.module, each.version
                    self.stored[name] = replace(each, files=left, bytes=each.bytes - freed)
                else:
                    del self.stored[each.module, each.version]
        files, freed = sum(len(e.kinds) for e in items), sum(e.bytes for e in items)
        return Removal(dry_run, len(items), files, freed, 2 * len(items), items, truncated=False)

    async def evict(self, target_bytes: int | None, *, dry_run: bool) -> Eviction:
        await self._ask("evict", target_bytes, dry_run)
        before, totals = self.bytes, self._totals()
        target = before * 95 // 100 if target_bytes is None else target_bytes
        chosen, left = [], before
        for each in sorted(self.stored.values(), key=lambda facts: -facts.idle_seconds):
            if left > target and "zip" in each.files:
                chosen.append(each)
                left -= each.files["zip"].bytes
        removal = self._remove(chosen, ("zip",), dry_run=dry_run)
        if dry_run:
            return Eviction(removal, target, before, left, left <= target, None)
        record = self._record("evict", totals, target, left <= target)
        record.evicted_entries, record.evicted_bytes = removal.files, removal.bytes
        return Eviction(removal, target, before, left, left <= target, len(self.run))

    def _record(self, reason: str, before: Totals, target: int | None, reached: bool | None) -> Pass:
        made = Pass(len(self.run) + 1, reason, STARTED, before, target, STARTED + 2, reached, self._totals())  # type: ignore[arg-type]  # one of the reasons
        self.run.append(made)
        return made

    async def refresh(self, module: str) -> int:
        await self._ask("refresh", module)
        return self.forgotten

    def _pin(self, pattern: str, source: str) -> Pin:
        match = Selector([pattern])
        found = [each for each in self.stored.values() if match(each.module, each.version)]
        return Pin(pattern, source, len(found), sum(each.bytes for each in found))  # type: ignore[arg-type]  # one of the sources

    async def pins(self) -> Pins:
        await self._ask("pins")
        items = [self._pin(*each) for each in sorted({**self.pinned, **self.configured}.items())]
        return Pins(items, sum(each.bytes for each in items), 25_000_000_000)

    async def pin(self, pattern: str) -> Pin:
        await self._ask("pin", pattern)
        if pattern in self.configured:
            return self._pin(pattern, "config")
        self.pinned[pattern] = "api"
        return self._pin(pattern, "api")

    async def unpin(self, pattern: str) -> bool:
        await self._ask("unpin", pattern)
        return self.pinned.pop(pattern, None) is not None

    async def scrub(self, match: tuple[str, ...] | None, rate: int | None) -> int | None:
        await self._ask("scrub", match, rate)
        made = self._record("scrub", self._totals(), None, None)
        made.scrubbed = (len(self.stored), self.bytes, 0)
        return made.id

    async def cancel_scrub(self, number: int) -> bool:
        await self._ask("cancel_scrub", number)
        found = await self.one_pass(number)
        if found is None or found.reason != "scrub" or found.cancelled:
            return False
        found.cancelled = True
        return True

    async def one_pass(self, number: int) -> Pass | None:
        return next((each for each in self.run if each.id == number), None)

    async def passes(self, limit: int) -> list[Pass]:
        await self._ask("passes", limit)
        return self.run[::-1][:limit]

    async def snapshots(self) -> list[Snapshot]:
        await self._ask("snapshots")
        return list(self.made)

    async def snapshot(self, name: str) -> Snapshot | None:
        await self._ask("snapshot", name)
        if any(each.name == name for each in self.made):
            return None
        self.made.append(Snapshot(len(self.made) + 1, name, STARTED, len(self.stored), self.bytes))
        return self.made[-1]

    async def delete_snapshot(self, name: str) -> Snapshot | None:
        await self._ask("delete_snapshot", name)
        found = next((each for each in self.made if each.name == name), None)
        self.made = [each for each in self.made if each is not found]
        return found

    async def vms(self, limit: int, cursor: str | None) -> VmPage:
        await self._ask("vms", limit, cursor)
        left = [vm for vm in self.known if cursor is None or vm.number < int(cursor)]
        more = str(left[limit - 1].number) if len(left) > limit else None
        return VmPage(left[:limit], more, len(self.known), self.vm_go)

    async def fetches(self, wanted: Sought) -> FetchPage:
        await self._ask("fetches", wanted)
        found = [
            each
            for each in self.fetched
            if (each.module == wanted.module and (wanted.versions is None or each.version in wanted.versions))
            or (wanted.client and wanted.client in (each.client, each.name))
        ]
        start = 0 if wanted.cursor is None else int(wanted.cursor)
        end = start + wanted.limit
        more = str(end) if end < len(found) else None
        return FetchPage(found[start:end], more, len(found), self.ledger, self.proxies)

    async def difference(self, a: str, b: str) -> Difference | None:
        await self._ask("difference", a, b)
        names = {each.name for each in self.made}
        if a not in names or b not in {*names, "now"}:
            return None
        came = [RemovedVersion("example.com/new", "v1.0.0", ("info", "mod"), 2 * SIZE)]
        went = [Went("example.com/old", "v0.1.0", ("zip",), 5 * SIZE, "size")]
        return Difference(a, b, came, went, 2 * SIZE, 5 * SIZE, {"size": 5 * SIZE}, truncated=False)
