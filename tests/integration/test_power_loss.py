"""After a power loss: what was not certainly on disk is hashed before it is used."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import recency
from goproxy_vm.cache.store import Store
from goproxy_vm.cache.upkeep import scrub
from tests.fakes.disk import allocated, copy_of
from tests.fakes.stores import artifact, purge_versions
from tests.integration.stores import V, adopt, content, drained, module, opened, path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.fakes.upstream import FakeUpstream
    from tests.integration.conftest import Serve

SIZE = 300_000
DATA = {i: bytes([65 + i]) * SIZE for i in range(4)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were read to be compared."""
    names: list[str] = []
    opening = scrub.Hasher.__init__

    def note(self: scrub.Hasher, file: Path, top: Path) -> None:
        names.append(file.parts[-3])
        opening(self, file, top)

    monkeypatch.setattr(scrub.Hasher, "__init__", note)
    return names


async def never(_: str) -> bool | None:
    """Recovery without anybody who could prove a file."""
    return None


async def recovered(store: Store) -> None:
    store.recover(never)
    while not store.recovery.done:
        await asyncio.sleep(0)


async def unclean(store: Store, root: Path, copy: Path) -> None:
    """The directory as it is at this moment, while the store is open, becomes ``copy``."""
    await drained(store)
    shutil.copytree(root, copy)


def zero_filled(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def zeros_at_the_end(file: Path) -> None:
    with file.open("r+b") as opened_file:
        opened_file.seek(-4096, 2)
        opened_file.write(bytes(4096))


def cut(file: Path) -> None:
    with file.open("r+b") as opened_file:
        opened_file.truncate(4096)


def emptied(file: Path) -> None:
    file.write_bytes(b"")


DAMAGES = [zero_filled, zeros_at_the_end, cut, emptied]


@pytest.mark.parametrize("recovery", [False, True])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_found_out_before_it_is_used(
    root: Path, tmp_path: Path, hashed: list[str], damage: Callable[[Path], None], *, recovery: bool
) -> None:
    after = tmp_path / "after"
    async with opened(root, boot="one") as store:
        for i, data in DATA.items():
            (await adopt(store, i, data)).close()
        await unclean(store, root, after)
    damage(after / "modules" / path(1))
    hashed.clear()
    async with opened(after, boot="two") as store:
        if recovery:
            await recovered(store)
        assert await content(store, 1) is None
        for i in (0, 2, 3):
            assert await content(store, i) == DATA[i]
        assert sorted(set(hashed) - {"m1"}) == ["m0", "m2", "m3"]
        count = len(hashed)
        assert await content(store, 0) == DATA[0]
        assert len(hashed) == count, "once is enough"
        assert len(list((after / "quarantine").iterdir())) == 1
        (await adopt(store, 1, DATA[1])).close()
        await drained(store)
        assert await content(store, 1) == DATA[1]
        assert store.usage.used == allocated(after / "modules")
    hashed.clear()
    async with opened(after, boot="three") as store:
        assert await content(store, 2) == DATA[2]
        assert hashed == [], "a clean end vouches for all"


async def test_the_same_boot_hashes_nothing(root: Path, tmp_path: Path, hashed: list[str]) -> None:
    after = tmp_path / "after"
    async with opened(root, boot="one") as store:
        (await adopt(store, 0, DATA[0])).close()
        await unclean(store, root, after)
    async with opened(after, boot="one") as store:
        assert await content(store, 0) == DATA[0]
    assert hashed == []


async def test_a_loss_right_after_a_loss(root: Path, tmp_path: Path, hashed: list[str]) -> None:
    """What was suspect and not looked at yet stays so."""
    async with opened(root, boot="one") as store:
        (await adopt(store, 0, DATA[0])).close()
        await unclean(store, root, tmp_path / "first")
    zero_filled(tmp_path / "first" / "modules" / path(0))
    async with opened(tmp_path / "first", boot="two") as store:
        await unclean(store, tmp_path / "first", tmp_path / "second")
    async with opened(tmp_path / "second", boot="two") as store:
        assert await content(store, 0) is None
    assert hashed == ["m0"]


async def test_a_clean_end_between_does_not_vouch_for_what_was_not_looked_at(
    root: Path, tmp_path: Path, hashed: list[str]
) -> None:
    async with opened(root, boot="one") as store:
        (await adopt(store, 0, DATA[0])).close()
        await unclean(store, root, tmp_path / "first")
    zero_filled(tmp_path / "first" / "modules" / path(0))
    async with opened(tmp_path / "first", boot="two"):
        pass
    async with opened(tmp_path / "first", boot="two") as store:
        assert await content(store, 0) is None
    assert hashed == ["m0"]


async def test_what_is_older_than_the_clean_mark_is_not_hashed(
    root: Path, tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    after = tmp_path / "after"
    async with opened(root, boot="one") as store:
        (await adopt(store, 0, DATA[0])).close()
    async with opened(root, boot="one") as store:
        (await adopt(store, 1, DATA[1])).close()
        await drained(store)
        with monkeypatch.context() as patch:
            patch.setattr(recency, "CLEAN_AGE", 0.0)
            await store.core.flush()  # notes what is newest
            await store.core.flush()  # and later that it is certainly on disk
        (await adopt(store, 2, DATA[2])).close()
        await drained(store)
        await store.core.flush()
        await unclean(store, root, after)
    async with opened(after, boot="two") as store:
        for i in range(3):
            assert await content(store, i) == DATA[i]
    assert hashed == ["m2"]


async def test_lost_last_transactions(root: Path, tmp_path: Path) -> None:
    """The index is one of some moments ago: newer files have no row, evicted ones still have theirs."""
    after = tmp_path / "after"
    async with opened(root, boot="one") as store:
        for i in (0, 1):
            (await adopt(store, i, DATA[i])).close()
        await drained(store)
        earlier = {
            file.name: file.read_bytes() for file in root.iterdir() if file.name.startswith("index.db")
        }
        await purge_versions(store, module(0), V, forget_hash=False, dry_run=False)
        (await adopt(store, 2, DATA[2])).close()
        (await adopt(store, 3, DATA[3])).close()
        await unclean(store, root, after)
    for name in ("index.db", "index.db-wal", "index.db-shm"):
        (after / name).unlink(missing_ok=True)
        if name in earlier and not name.endswith("-shm"):
            (after / name).write_bytes(earlier[name])
    async with opened(after, boot="two") as store:
        assert await content(store, 0) is None, "a row without a file"
        assert await content(store, 1) == DATA[1]
        assert await content(store, 2) is None, "a file without a row"
        await recovered(store)
        assert store.recovery.ghosts <= 1
        assert await content(store, 2) is None
        assert store.usage.used == allocated(after / "modules")
        claimed = await store.strays.claim(artifact(path(3)), h1="h1:3")
        assert claimed is not None
        with claimed:
            assert claimed.pread(0, SIZE) == DATA[3]
        (await adopt(store, 2, DATA[2])).close()
        await drained(store)
        assert [await content(store, i) for i in range(4)] == [None, DATA[1], DATA[2], DATA[3]]
        assert store.usage.used == allocated(after / "modules")


async def test_a_server_fetches_what_was_lost_again(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [f"/example.com/m/@v/v1.0.0.{kind}" for kind in ("info", "mod", "zip")]
    boots = iter(("one", "two"))
    monkeypatch.setattr("goproxy_vm.cache.store.boot_id", lambda: next(boots))
    host = await serve(upstream)
    for file in files:
        assert (await host.get(file)).status == 200
    await drained(host.server.store)
    copy_of(tmp_path / "cache", tmp_path / "after")
    for file in files:
        zero_filled(tmp_path / "after" / "modules" / file[1:])
    upstream.requests.clear()
    host = await serve(upstream, cache_dir=tmp_path / "after")
    for file in files:
        got = await host.get(file)
        assert (got.status, got.body) == (200, upstream.files[file])
    assert sorted(upstream.requests) == files
    await drained(host.server.store)
    for file in files:
        assert (await host.get(file)).body == upstream.files[file]
    assert sorted(upstream.requests) == files, "and stores it"
    assert len(list((tmp_path / "after" / "quarantine").iterdir())) == 3
