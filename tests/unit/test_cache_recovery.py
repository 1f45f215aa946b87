"""upkeep/recovery.py: what an earlier run, or somebody else, left is put right while all is served."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import tree
from goproxy_vm.cache.upkeep import recovery
from tests.fakes.lines import logged
from tests.fakes.stores import BLOCK, Shop, artifact, open_shop, purge_versions

if TYPE_CHECKING:
    from goproxy_vm.cache.upkeep.recovery import Prove


async def refuse(_: str) -> bool:
    return False


async def recovered(shop: Shop, prove: Prove = refuse) -> None:
    shop.store.recover(prove)
    while not shop.store.recovery.done:
        await asyncio.sleep(0)
    shop.consistent()


def plant(root: Path, path: str, data: bytes = b"planted") -> Path:
    file = root / "modules" / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


async def test_nothing_to_put_right(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a", "b")
        await shop.put("a", kind="info")
    async with open_shop(tmp_path) as shop:
        assert not shop.store.recovery.done
        await recovered(shop)
        facts = shop.store.recovery
        assert (facts.temporary, facts.dying, facts.ghosts, facts.adopted, facts.discarded) == (0,) * 5
        assert (facts.first_seen, facts.refused, facts.withheld) == (0,) * 3
        assert len(shop.files()) == 3


async def test_temporary_files_of_the_run_before(tmp_path: Path) -> None:
    async with open_shop(tmp_path):
        pass
    tmp = tmp_path / "tmp"
    (tmp / "half").write_bytes(b"half")
    (tmp / "directory" / "x").mkdir(parents=True)
    (tmp / "link").symlink_to(tmp_path / "modules")
    async with open_shop(tmp_path) as shop:
        download = shop.store.download()
        await download.begin(1)
        await recovered(shop)
        assert [path.name for path in tmp.iterdir()] == [download.path.name]
        assert shop.store.recovery.temporary == 3
        assert shop.modules.is_dir()
        await download.discard()


async def test_one_that_cannot_be_removed_keeps_nothing_else_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remove_all = tree.remove_all

    def fail(name: str, top: Path) -> None:
        if name == "directory":
            raise PermissionError(1, "Operation not permitted")
        remove_all(name, top)

    async with open_shop(tmp_path):
        pass
    (tmp_path / "tmp" / "directory").mkdir()
    (tmp_path / "tmp" / "half").write_bytes(b"half")
    plant(tmp_path, "a/@v/v1.0.0.info")
    async with open_shop(tmp_path) as shop:
        with monkeypatch.context() as patch:
            patch.setattr(tree, "remove_all", fail)
            await recovered(shop)
        assert shop.store.recovery.temporary == 1
        assert shop.store.recovery.discarded == 1
    assert "temporary file not removed" in logged(caplog)


async def test_dying_rows_are_finished(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a", "b", "c")
        await shop.core.ask(shop.core.index.dying, [shop.victim("a"), shop.victim("b")])
        shop.file("b").unlink()
    async with open_shop(tmp_path) as shop:
        assert shop.core.usage.entries["zip"] == 3
        await recovered(shop)
        assert shop.store.recovery.dying == 2
        assert shop.zips() == "c"
        assert await shop.sql("SELECT count(*) FROM files") == [(1,)]


async def test_rows_without_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a", "b", "c")
        shop.file("a").unlink()
        shutil.rmtree(shop.file("b").parent)
        shop.file("b").parent.write_bytes(b"")
    async with open_shop(tmp_path) as shop:
        await recovered(shop)
        assert shop.store.recovery.ghosts == 2
        assert shop.zips() == "c"
        assert shop.told.evictions == [], "a repair, not a removal"
        assert shop.told.corrupted == 0
        assert await shop.sql("SELECT reason, count(*) FROM removals GROUP BY reason") == [("ghost", 2)]


@pytest.mark.parametrize("damage", ["cut", "longer", "link", "directory"])
async def test_files_that_cannot_be_right(tmp_path: Path, damage: str) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a", "b")
        file = shop.file("a")
        data = file.read_bytes()
    file.unlink()
    if damage == "link":
        file.symlink_to(shop.file("b"))
    elif damage == "directory":
        (file / "x").mkdir(parents=True)
    else:
        file.write_bytes(data[:-1] if damage == "cut" else data + b"x")
    async with open_shop(tmp_path) as shop:
        await recovered(shop)
        assert shop.files() == ["b@v1.0.0.zip"]
        assert shop.told.corrupted == 1
        assert len(list((tmp_path / "quarantine").iterdir())) == (damage in {"cut", "longer"})
        assert shop.store.recovery.ghosts == 0


async def test_a_directory_that_cannot_be_read_is_no_proof_of_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied")

    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        with monkeypatch.context() as patch:
            patch.setattr(os, "lstat", fail)
            await recovered(shop)
        assert shop.zips() == "a"
        assert shop.store.recovery.ghosts == 0


async def test_strays(tmp_path: Path) -> None:
    names = [f"x.org/{name}/@v/v1.0.0.{kind}" for name in ("yes", "no", "unsaid") for kind in ("mod", "zip")]
    async with open_shop(tmp_path) as shop:
        for name in names:
            plant(tmp_path, name)
        asked: list[str] = []

        async def prove(path: str) -> bool | None:
            asked.append(path)
            assert await shop.store.get(artifact(path)) is None, "not served before it is proven"
            if "unsaid" in path:
                return None
            if "no" in path:
                return False
            claimed = await shop.store.strays.claim(artifact(path), h1="h1:x")
            assert claimed is not None
            claimed.close()
            return True

        await recovered(shop, prove)
        assert sorted(asked) == sorted(names)
        facts = shop.store.recovery
        assert (facts.adopted, facts.refused, facts.withheld, facts.discarded) == (2, 2, 2, 0)
        assert {name.split("@")[0] for name in shop.files()} == {"x.org/yes", "x.org/unsaid"}
        stored = await shop.store.get(artifact("x.org/yes/@v/v1.0.0.zip"))
        assert stored is not None
        with stored:
            assert stored.pread(0, 99) == b"planted"
        assert await shop.store.get(artifact("x.org/unsaid/@v/v1.0.0.zip")) is None
    async with open_shop(tmp_path) as shop:
        await recovered(shop)
        assert {name.split("@")[0] for name in shop.files()} == {"x.org/yes"}


async def test_strays_go_first_when_room_is_needed(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a")
        plant(tmp_path, "x.org/b/@v/v1.0.0.zip")
        plant(tmp_path, "x.org/c/@v/v1.0.0.zip")

        await recovered(shop, unsaid)
        assert shop.core.usage.entries["zip"] == 3
        await shop.control.evict(2 * BLOCK, dry_run=False)
        assert shop.files() == ["x.org/a@v1.0.0.zip", "x.org/c@v1.0.0.zip"]
        await shop.control.evict(BLOCK, dry_run=False)
        assert shop.files() == ["x.org/a@v1.0.0.zip"]
        shop.consistent()


async def test_no_metadata_goes_unread_for_room(tmp_path: Path) -> None:
    """Like other metadata: it is little, and every build needs it."""
    async with open_shop(tmp_path) as shop:
        for kind in ("info", "mod", "zip"):
            plant(tmp_path, f"x.org/a/@v/v1.0.0.{kind}")
        await recovered(shop, unsaid)
        await shop.control.evict(0, dry_run=False)
        assert shop.files() == ["x.org/a@v1.0.0.info", "x.org/a@v1.0.0.mod"]
        shop.consistent()


async def unsaid(_: str) -> None:
    return None


@pytest.mark.parametrize(
    "name",
    [
        "x.org/a/@v/v1.0.info",
        "x.org/a/@v/v1.0.0.ziphash",
        "x.org/a/@v/v1.0.zip",
        "x.org/a/@v/list",
        "x.org/a/@latest",
        "x.org/A/@v/v1.0.0.zip",
        "x.org/a/@v/v1.0.0.ZIP",
        "noise",
        ".hidden",
        "x.org/a b/@v/v1.0.0.zip",
        "x.org/\u00e9/@v/v1.0.0.zip",
        "x.org/a/@v/v1.0.0-\u00e9.mod",
        "x.org/a%41/@v/v1.0.0.mod",
        os.fsdecode(b"x.org/\xff/@v/v1.0.0.zip"),
        "x.org/a/@v/v1.0.0.zip\n",
    ],
)
async def test_what_is_no_module_file_goes(tmp_path: Path, name: str) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/kept")
        file = plant(tmp_path, name)
        await recovered(shop)
        assert not file.exists()
        assert shop.store.recovery.discarded == 1
        assert shop.files() == ["x.org/kept@v1.0.0.zip"]


async def test_links_go_and_what_they_lead_to_stays(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "@v").mkdir(parents=True)
    (outside / "@v" / "v1.0.0.zip").write_bytes(b"x")
    async with open_shop(tmp_path / "cache") as shop:
        (shop.modules / "x.org").mkdir()
        (shop.modules / "x.org" / "a").symlink_to(outside)
        (shop.modules / "x.org" / "loop").symlink_to(shop.modules)
        os.mkfifo(shop.modules / "x.org" / "fifo")
        (shop.modules / "b").mkdir()
        (shop.modules / "b" / "@v").mkdir()
        (shop.modules / "b" / "@v" / "v1.0.0.zip").symlink_to(outside / "@v" / "v1.0.0.zip")
        await recovered(shop)
        assert shop.files() == []
        assert shop.store.recovery.discarded == 4
    assert (outside / "@v" / "v1.0.0.zip").exists()


async def test_a_stray_that_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remove = tree.remove

    def fail(file: Path, top: Path) -> None:
        if file.suffix == ".lock":
            raise PermissionError(1, "Operation not permitted")
        remove(file, top)

    async with open_shop(tmp_path) as shop:
        file = plant(tmp_path, "x.org/a/@v/v1.0.0.lock")
        plant(tmp_path, "x.org/b/@v/v1.0.0.zip")
        with monkeypatch.context() as patch:
            patch.setattr(tree, "remove", fail)
            shop.store.recover(refuse)
            while not shop.store.recovery.done:
                await asyncio.sleep(0)
        assert shop.files() == ["x.org/a@v1.0.0.lock"]
        file.unlink()
    assert "stray file not removed" in logged(caplog)


async def test_what_is_stored_meanwhile_is_spared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "BATCH", 2)
    async with open_shop(tmp_path) as shop:
        await shop.put(*(f"x.org/a{i}" for i in range(6)))
    async with open_shop(tmp_path) as shop:

        async def work() -> None:
            for i in range(8):
                await shop.put(f"x.org/a{i}", f"x.org/b{i}")

        busy = asyncio.create_task(work())
        await recovered_without_looking(shop)
        await busy
        shop.consistent()
        facts = shop.store.recovery
        assert (facts.ghosts, facts.adopted, facts.discarded) == (0, 0, 0)
        assert len(shop.files()) == 16


async def recovered_without_looking(shop: Shop) -> None:
    shop.store.recover(refuse)
    while not shop.store.recovery.done:
        await asyncio.sleep(0)


async def test_a_stray_that_is_fetched_meanwhile(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        plant(tmp_path, "x.org/a/@v/v1.0.0.zip")

        async def prove(_: str) -> bool:
            await shop.put("x.org/a")
            return False

        await recovered(shop, prove)
        assert shop.store.recovery.refused == 0
        await shop.touch("x.org/a")


async def test_a_stray_that_goes_meanwhile(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        file = plant(tmp_path, "x.org/a/@v/v1.0.0.zip")

        async def prove(path: str) -> bool:
            file.unlink()
            with pytest.raises(FileNotFoundError):
                await shop.store.strays.claim(artifact(path), h1="h1:x")
            return False

        await recovered(shop, prove)
        assert shop.core.usage.used == 0


async def test_what_is_no_stray_is_not_claimed(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a")
        assert await shop.store.strays.find(shop.path("x.org/a")) is None
        claimed = shop.store.strays.claim(artifact(shop.path("x.org/a")), h1="h1:x")
        assert await claimed is None


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), ZeroDivisionError("a bug")])
async def test_an_error_stops_one_step_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    async with open_shop(tmp_path) as shop:
        plant(tmp_path, "x.org/a/@v/v1.0.0.zip")
        monkeypatch.setattr(type(shop.core.scanner), "dying", fail)
        await recovered(shop)
        assert shop.store.recovery.refused == 1
    assert "recovery incomplete" in logged(caplog)


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), IndexError("a bug")])
async def test_what_goes_wrong_with_one_stray_concerns_that_one_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    async with open_shop(tmp_path) as shop:
        for number in range(40):
            plant(tmp_path, f"x.org/m{number:02}/@v/v1.0.0.zip")

        async def prove(path: str) -> bool:
            if "m07" in path:
                raise error
            claimed = await shop.store.strays.claim(artifact(path), h1="h1:x")
            assert claimed is not None
            claimed.close()
            return True

        await recovered(shop, prove)
        assert shop.store.recovery.adopted == 39
        assert shop.file("x.org/m07").exists()
    assert "file without a record not looked at" in logged(caplog)
    assert "recovery incomplete" not in logged(caplog)


async def test_a_file_is_asked_for_before_recovery_has_come_to_it(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        file = plant(tmp_path, "x.org/a/@v/v1.0.0.info", b"{}")
        outside = tmp_path / "outside"
        (outside / "@v").mkdir(parents=True)
        (outside / "@v" / "v1.0.0.info").write_bytes(b"{}")
        (shop.modules / "x.org" / "link").symlink_to(outside)
        assert await shop.store.strays.find("x.org/a/@v/v1.0.0.info") == file
        assert await shop.store.strays.find("x.org/b/@v/v1.0.0.info") is None
        assert await shop.store.strays.find("x.org/link/@v/v1.0.0.info") is None, "as the walk, by no link"
        shop.consistent()
        await recovered(shop, unsaid)
        assert shop.store.recovery.withheld == 1
        plant(tmp_path, "x.org/late/@v/v1.0.0.info")
        assert await shop.store.strays.find("x.org/late/@v/v1.0.0.info") is None, "somebody is copying it"


async def test_a_purge_waits_for_what_was_not_looked_at(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        plant(tmp_path, "x.org/a/@v/v1.0.0.zip")
        async with shop.core.queue.disk:
            shop.store.recover(unsaid)
            await asyncio.sleep(0)
            purging = asyncio.create_task(
                purge_versions(shop.store, "x.org/a", None, forget_hash=False, dry_run=False)
            )
            for _ in range(20):
                await asyncio.sleep(0)
        assert (await purging).files == 1
        assert shop.files() == []


async def test_a_stray_that_is_purged_while_it_is_looked_at(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with open_shop(tmp_path) as shop:
        path = "x.org/a/@v/v1.0.0.zip"
        plant(tmp_path, path)
        since = shop.core.fences.now
        assert await shop.store.strays.find(path) is not None
        shop.core.fences.add(lambda module, _: module == "x.org/a")
        claimed = await shop.store.strays.claim(artifact(path), h1="h1:x", since=since)
        assert claimed is None
        assert await shop.store.get(artifact(path)) is None
    assert "kept out by a purge" in logged(caplog)


async def test_an_index_that_is_gone_is_a_new_one_and_the_disk_is_counted_first(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a")
    for name in ("index.db", "index.db-wal", "index.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    async with open_shop(tmp_path) as shop:
        assert shop.store.recovery.index_rebuilt
        assert not shop.store.admission.counted.is_set()
        await recovered(shop, unsaid)
        assert shop.store.admission.counted.is_set()


async def test_closing_ends_it(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        plant(tmp_path, "x.org/a/@v/v1.0.0.zip")
        begun = asyncio.Event()

        async def prove(_: str) -> bool:
            begun.set()
            await asyncio.Event().wait()
            return True

        shop.store.recover(prove)
        await begun.wait()
        assert not shop.store.recovery.done


async def test_a_new_index_proves_everything_again(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("x.org/a")
        await shop.put("x.org/a", kind="mod")
        await shop.put("x.org/a", kind="info")
    (tmp_path / "index.db").write_bytes(b"no database" * 1000)
    async with open_shop(tmp_path) as shop:

        async def prove(path: str) -> bool:
            h1 = None if path.endswith(".info") else "h1:x"
            claimed = await shop.store.strays.claim(artifact(path), h1=h1)
            assert claimed is not None
            claimed.close()
            return True

        await recovered(shop, prove)
        assert shop.store.recovery.index_rebuilt
        assert (shop.store.recovery.adopted, shop.store.recovery.discarded) == (3, 0)
        await shop.touch("x.org/a")
