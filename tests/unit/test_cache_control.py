"""cache/reports/control.py: purges and the fences against older fetches, pins, and what is shown."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache.facts import Listing, Selection
from goproxy_vm.cache.fences import Fences
from goproxy_vm.cache.reports import control, scanner
from goproxy_vm.cache.reports.scanner import Scanner
from goproxy_vm.cache.rows import Known
from goproxy_vm.protocol.selector import Selector
from tests.fakes import stores
from tests.fakes.lines import logged
from tests.fakes.stores import BLOCK, Shop, artifact, open_shop

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from goproxy_vm.cache.facts import Removal
    from goproxy_vm.cache.rows import Victim


async def purge(
    shop: Shop, *, dry_run: bool = False, forget_hash: bool = False, **conditions: object
) -> Removal:
    selection = Selection(**conditions)  # type: ignore[arg-type]  # by name
    return await stores.purge(shop.store, selection, forget_hash=forget_hash, dry_run=dry_run)


async def purge_versions(
    shop: Shop, module: str, version: str | None, *, dry_run: bool = False, forget_hash: bool = False
) -> Removal:
    return await stores.purge_versions(shop.store, module, version, forget_hash=forget_hash, dry_run=dry_run)


async def stocked(shop: Shop) -> None:
    for name in ("x.org/a", "x.org/a@v1.1.0", "x.org/b", "y.org/c"):
        for kind in ("info", "mod", "zip"):
            await shop.put(name, kind=kind)
    for module in ("x.org/a", "x.org/b", "x.org/only-answers"):
        for key in ("v/list", "latest"):
            await shop.store.answers.set(f"{module}/@{key}", b"x", keep=None)


# Fences


def test_a_fence_bars_older_fetches_of_what_it_matches() -> None:
    fences = Fences()
    before = fences.now
    assert not fences.bars(before, "a", "v1.0.0")
    fences.add(Selector(["a@v1.*"]))
    assert fences.bars(before, "a", "v1.0.0")
    assert not fences.bars(before, "a", "v2.0.0")
    assert not fences.bars(fences.now, "a", "v1.0.0")
    fences.add(Selector(["b"]))
    assert fences.bars(before, "a", "v1.0.0"), "it stands"
    assert fences.bars(before + 1, "b", "v1.0.0")
    assert not fences.bars(before + 1, "a", "v1.0.0")


def test_forgotten_fences_bar_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxy_vm.cache.fences.MOST_FENCES", 3)
    fences = Fences()
    for _ in range(5):
        fences.add(Selector(["a"]))
    assert fences.bars(1, "b", "v1.0.0"), "nobody knows any more"
    assert not fences.bars(2, "b", "v1.0.0")
    assert fences.bars(2, "a", "v1.0.0")


async def fetched(shop: Shop, name: str, since: int, size: int = 10) -> bool:
    """Whether a zip whose fetch began at ``since`` is stored."""
    path = shop.path(name)
    await shop.store.put(artifact(path), b"x" * size, h1="h1:x", since=since)
    await shop.settled()
    return path in {f"{each.partition('@')[0]}/@v/{each.partition('@')[2]}" for each in shop.files()}


@pytest.mark.parametrize(
    ("conditions", "kept_out"),
    [
        ({"idle_for": 50.0}, ["x.org/a"]),
        ({"idle_for": 50.0, "match": ("y.org/*",)}, []),
        ({"older_than": 1e9}, []),
        ({"idle_for": 1e9}, []),
        ({"larger_than": 2 * BLOCK}, ["x.org/a", "large.org/m"]),
        ({"larger_than": 2 * BLOCK, "idle_for": 50.0}, ["x.org/a"]),
        ({"larger_than": 0}, ["x.org/a", "x.org/b", "small.org/m", "large.org/m"]),
        ({"match": ("x.org/*",)}, ["x.org/a", "x.org/b"]),
    ],
)
async def test_what_a_purge_keeps_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, conditions: dict[str, object], kept_out: list[str]
) -> None:
    """Of what is being fetched meanwhile only what it selects: that was asked for just now, and is new."""
    caplog.set_level("INFO")
    async with open_shop(tmp_path) as shop:
        for kind in ("info", "mod"):
            await shop.put("x.org/a", kind=kind, blocks=2)
        shop.later(100)
        await shop.put("x.org/b", kind="mod")
        since = shop.core.fences.now
        await purge(shop, **conditions)
        barred = [
            name for name in ("x.org/a", "x.org/b", "small.org/m") if not await fetched(shop, name, since)
        ]
        barred += [name for name in ("large.org/m",) if not await fetched(shop, name, since, 3 * BLOCK)]
        assert barred == kept_out
        assert logged(caplog).count("kept out by a purge") == len(kept_out)
        for name in kept_out:
            assert await fetched(shop, name, shop.core.fences.now), "a later one is stored"


async def test_what_comes_while_a_conditional_purge_selects_goes_with_it(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a", kind="mod")
        shop.later(100)
        selected = Scanner.selected

        def slowly(reader: Scanner, selection: Selection) -> list[Victim]:
            found = selected(reader, selection)
            put = shop.store.put(artifact(shop.path("x.org/a")), b"x", h1="h1:x")
            asyncio.run_coroutine_threadsafe(put, loop).result()
            return found

        loop = asyncio.get_running_loop()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Scanner, "selected", slowly)
            removal = await purge(shop, idle_for=50.0)
        assert (removal.versions, removal.files) == (1, 2)
        assert shop.files() == []


# Purges


@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"match": ("x.org/*",)},
        {"match": ("x.org/a@v1.1.0", "y.org/*")},
        {"match": ("none",)},
        {"match": ("x.org/only-answers",)},
        {"match": ("x.org/*",), "kinds": ("zip",)},
        {"kinds": ("mod", "info")},
        {"idle_for": 50.0},
        {"older_than": -1e9},
        {"older_than": 1e9},
        {"larger_than": 3 * BLOCK},
        {"larger_than": 2 * BLOCK, "match": ("x.org/a",)},
    ],
)
async def test_a_dry_run_says_what_follows(tmp_path: Path, conditions: dict[str, object]) -> None:
    async with open_shop(tmp_path) as shop:
        await stocked(shop)
        shop.later(100)
        await shop.touch("x.org/a")
        before = shop.files()
        serial = shop.core.fences.now
        dry = await purge(shop, dry_run=True, **conditions)
        assert shop.files() == before
        assert shop.core.fences.now == serial
        wet = await purge(shop, **conditions)
        assert dry.dry_run
        assert not wet.dry_run
        for name in ("versions", "files", "bytes", "answers", "items", "truncated"):
            assert getattr(dry, name) == getattr(wet, name), name
        gone = {f"{item.module}@{item.version}.{kind}" for item in wet.items for kind in item.kinds}
        assert gone == set(before) - set(shop.files())
        assert len(gone) == wet.files
        shop.consistent()
        again = await purge(shop, **conditions)
        assert (again.files, again.answers) == (0, 0)


async def test_a_module_or_a_version(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await stocked(shop)
        dry = await purge_versions(shop, "x.org/a", "v1.0.0", dry_run=True)
        wet = await purge_versions(shop, "x.org/a", "v1.0.0")
        assert (dry.items, dry.answers, dry.bytes) == (wet.items, wet.answers, wet.bytes)
        assert (wet.versions, wet.files, wet.answers) == (1, 3, 2)
        assert await shop.store.known("x.org/a", "v1.0.0") == Known("h1:x", "h1:x"), "hashes stay"
        wet = await purge_versions(shop, "x.org/a", None)
        assert (wet.versions, wet.files, wet.answers) == (1, 3, 0)
        assert [name.partition("@")[0] for name in shop.files()] == ["x.org/b"] * 3 + ["y.org/c"] * 3
        assert {why for why, _, _ in shop.told.evictions} == {"purge"}
        assert shop.told.evictions[0][2] is None


async def test_a_hash_is_forgotten_when_told_to(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await stocked(shop)
        await purge_versions(shop, "x.org/a", "v1.0.0", dry_run=True, forget_hash=True)
        assert (await shop.store.known("x.org/a", "v1.0.0")).zip is not None
        await purge_versions(shop, "x.org/a", "v1.0.0", forget_hash=True)
        assert await shop.store.known("x.org/a", "v1.0.0") == Known(None, None)
        assert (await shop.store.known("x.org/a", "v1.1.0")).zip is not None
        await purge(shop, match=("x.org/*",), forget_hash=True)
        assert await shop.store.known("x.org/a", "v1.1.0") == Known(None, None)
        assert (await shop.store.known("y.org/c", "v1.0.0")).zip is not None


async def test_a_dry_run_looks_for_no_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told which they are, and all of them would be walked along."""
    async with open_shop(tmp_path) as shop:
        await stocked(shop)
        monkeypatch.delattr(scanner.Scanner, "known")
        assert (await purge_versions(shop, "x.org/a", "v1.0.0", dry_run=True, forget_hash=True)).files
        assert (await purge(shop, match=("x.org/*",), dry_run=True, forget_hash=True)).files


async def test_a_hash_of_what_was_evicted_is_forgotten_too(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a", "x.org/a@v1.1.0", "x.org/b")
        await shop.control.evict(0, dry_run=False)
        removal = await purge_versions(shop, "x.org/a", "v1.0.0", forget_hash=True)
        assert removal.files == 0
        assert await shop.store.known("x.org/a", "v1.0.0") == Known(None, None)
        assert (await shop.store.known("x.org/a", "v1.1.0")).zip is not None
        await purge(shop, match=("x.org/b",), forget_hash=True)
        assert await shop.store.known("x.org/b", "v1.0.0") == Known(None, None)
        await purge(shop, match=("x.org/*",), larger_than=1, forget_hash=True)
        assert (await shop.store.known("x.org/a", "v1.1.0")).zip is not None, "a condition on what is stored"


async def test_a_purge_takes_what_is_queued_and_bars_what_is_under_way(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        since = shop.core.fences.now
        path = shop.path("x.org/a")
        async with shop.core.queue.disk:
            await shop.store.put(artifact(path), b"x", h1="h1:x")
            purging = asyncio.create_task(purge_versions(shop, "x.org/a", None))
            await asyncio.sleep(0)
        assert (await purging).files == 1
        assert shop.files() == []

        late = await shop.store.put(artifact(path), b"late", h1="h1:x", since=since)
        assert late.data == b"late", "the client has its answer"
        download = shop.store.download()
        await download.begin(4)
        await download.write(b"late")
        adopted = await shop.store.adopt(artifact(path), download, h1="h1:x", since=since)
        with adopted:
            assert adopted.pread(0, 9) == b"late"
        await download.discard()
        await shop.settled()
        assert shop.files() == []
        assert await shop.store.get(artifact(path)) is None
        assert shop.store.admission.reserved == 0
        assert list((tmp_path / "tmp").iterdir()) == []

        await shop.store.put(artifact(path), b"x", h1="h1:x", since=shop.core.fences.now)
        await shop.settled()
        assert shop.zips() == "x.org/a"


async def test_what_comes_while_a_purge_removes_is_spared(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a")
        chosen = await shop.store.purges.choose_versions("x.org/a", None, forget_hash=False, dry_run=False)
        await shop.put("x.org/a", blocks=2)
        await shop.store.purges.remove(chosen)
        assert shop.zips() == "x.org/a"
        assert shop.core.usage.used == 2 * BLOCK
        shop.consistent()


async def test_refresh(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await stocked(shop)
        assert await shop.control.refresh("x.org/a") == 2
        assert await shop.control.refresh("x.org/a") == 0


# Pins


async def test_pins(tmp_path: Path) -> None:
    async with open_shop(tmp_path, pins=("golang.org/toolchain",)) as shop:
        await shop.put("x.org/a", "x.org/b", "golang.org/toolchain", blocks=2)
        assert shop.core.usage.pinned == 2 * BLOCK
        pin = await shop.control.pin("x.org/a")
        assert (pin.pattern, pin.source, pin.versions, pin.bytes) == ("x.org/a@*", "api", 1, 2 * BLOCK)
        assert shop.core.usage.pinned == 4 * BLOCK
        await shop.put("x.org/a@v1.1.0")
        pins = await shop.control.pins()
        assert [(each.pattern, each.source, each.versions) for each in pins.items] == [
            ("golang.org/toolchain@*", "config", 1),
            ("x.org/a@*", "api", 2),
        ]
        assert pins.pinned_bytes == 5 * BLOCK
        assert pins.limit_bytes == shop.core.admission.limits.total // 2
        version = await shop.control.version("x.org/a", "v1.1.0")
        assert version is not None
        assert version.pinned
        shop.consistent()
        assert (await shop.control.pin("golang.org/toolchain@*")).source == "config"
        assert not await shop.control.unpin("golang.org/toolchain")
        assert not await shop.control.unpin("x.org/b")
        with pytest.raises(ValueError, match="not closed"):
            await shop.control.pin("[")
        await shop.control.evict(0, dry_run=False)
        assert [name.partition("@")[0] for name in shop.files()] == [
            "golang.org/toolchain",
            "x.org/a",
            "x.org/a",
        ]
    async with open_shop(tmp_path) as shop:
        assert [each.pattern for each in (await shop.control.pins()).items] == ["x.org/a@*"]
        assert shop.core.usage.pinned == 3 * BLOCK
        assert await shop.control.unpin("x.org/a")
        assert shop.core.usage.pinned == 0
        shop.consistent()
        await shop.control.evict(0, dry_run=False)
        assert shop.files() == []


async def test_a_pin_that_a_kill_left_unmarked(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a")
        await shop.core.ask(shop.core.ledger.add_pin, "x.org/a@*")
        await shop.sql("PRAGMA wal_checkpoint(TRUNCATE)")
        killed = (tmp_path / "index.db").read_bytes()
    (tmp_path / "index.db").write_bytes(killed)
    async with open_shop(tmp_path) as shop:
        assert shop.core.usage.pinned == BLOCK


async def test_two_pins_at_once(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a", "x.org/b")
        await asyncio.gather(
            *(shop.control.pin(f"x.org/{name}") for name in "ab"), shop.control.unpin("x.org/b")
        )
        pins = await shop.control.pins()
        assert pins.pinned_bytes == sum(each.bytes for each in pins.items)
        shop.consistent()


async def test_what_pins_cover_adds_up(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a", "x.org/b", "x.org/c", blocks=2)
        await shop.put("x.org/a", "x.org/d", kind="mod")
        for pattern in ("x.org/[ab]", "x.org/d"):
            await shop.control.pin(pattern)
        pins = await shop.control.pins()
        assert [(each.versions, each.bytes) for each in pins.items] == [(2, 4 * BLOCK), (1, 0)]
        assert pins.pinned_bytes == sum(each.bytes for each in pins.items) == shop.core.usage.pinned
        shop.consistent()


async def test_marking_pins_lets_others_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MARKED", 2)
    async with open_shop(tmp_path) as shop:
        await shop.put(*(f"x.org/{name}" for name in "abcde"))
        scanned: set[str] = set()
        marked: list[int] = []
        pinned, mark = scanner.Scanner.pinned, shop.core.index.mark_pinned

        def scanning(*args: object) -> object:
            scanned.add(threading.current_thread().name.partition("_")[0])
            return pinned(*args)  # type: ignore[arg-type]  # as they came

        def marking(ids: Sequence[int], *, pinned: bool) -> int:
            marked.append(len(ids))
            return mark(ids, pinned=pinned)

        monkeypatch.setattr(scanner.Scanner, "pinned", scanning)
        monkeypatch.setattr(shop.core.index, "mark_pinned", marking)
        chosen = shop.victim("x.org/e")
        await shop.control.pin("x.org/*")
        assert scanned == {"goproxy-vm reports"}
        assert marked == [2, 2, 1]
        await shop.core.remover.remove([chosen], "size")
        assert shop.core.usage.pinned == 4 * BLOCK, "what was chosen before it was pinned"
        shop.consistent()


# Shown


async def test_what_was_just_fetched_is_listed(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        path = shop.path("x.org/a")
        await shop.store.put(artifact(path), b"x", h1="h1:x")
        assert (await shop.control.versions(Listing(limit=9))).total == 1
        await shop.touch("x.org/a")
        shop.later(10)
        version = await shop.control.version("x.org/a", "v1.0.0")
        assert version is not None
        assert version.hits == 1
        assert version.idle_seconds >= 10
        assert version.fetched <= time.time()
        assert await shop.control.count() == 1
        with pytest.raises(ValueError, match="cursor"):
            await shop.control.versions(Listing(limit=9, cursor="no"))


async def test_snapshots(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a", "x.org/b")
        assert await shop.control.snapshot("first") is not None
        assert await shop.control.snapshot("first") is None
        await shop.control.evict(BLOCK, dry_run=False)
        await purge(shop, match=("x.org/b",))
        difference = await shop.control.difference("first", "now")
        assert difference is not None
        assert difference.freed_by_reason == {"evict": BLOCK, "purge": BLOCK}
        assert [each.name for each in await shop.control.snapshots()] == ["first"]
        assert await shop.control.difference("first", "other") is None
        await shop.control.snapshot("second")
        gone = await shop.control.delete_snapshot("first")
        assert gone is not None
        assert (gone.name, gone.versions) == ("first", 2)
        assert await shop.control.delete_snapshot("first") is None
        assert [each.name for each in await shop.control.snapshots()] == ["second"]
        assert await shop.control.difference("first", "now") is None
        assert await shop.control.snapshot("first") is not None


async def test_status(tmp_path: Path) -> None:
    async with open_shop(tmp_path, max_idle=100.0) as shop:
        await shop.put("x.org/a")
        shop.later(5)
        status = await shop.store.figures.status()
        assert (status.used_bytes, status.entries["zip"], status.versions) == (BLOCK, 1, 1)
        assert (status.policy, status.max_idle_seconds) == ("slru", 100.0)
        assert status.oldest_idle_seconds >= 5
        assert status.disk_free_bytes > 0
        assert status.dir == str(tmp_path)
