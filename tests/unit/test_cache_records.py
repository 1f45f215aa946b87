"""cache/records.py: what VMs verify with is kept apart from the answers, and within its own bound."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import answers as answers_module
from goproxy_vm.cache.answers import Answers
from tests.fakes.lines import logged
from tests.fakes.stores import FAILS, open_shop, purge_versions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME = "sum.example.org"


def key(kind: str, number: int) -> str:
    return f"{NAME}/{'tile/8/0' if kind == 'tile' else 'lookup'}/{number:03}"


async def test_records_go_before_tiles_and_the_oldest_first(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        records = shop.store.records
        gone: list[str] = []
        records.watch(gone.extend)
        for number in range(3):
            for first in range(0, 200, 50):
                some = range(200 * number + first, 200 * number + first + 50)
                assert await records.keep({key("lookup", each): b"r" * 1000 for each in some})
                if number == 0:
                    assert await records.keep({key("tile", each): b"t" * 8192 for each in some})
        _, size = await records.size()
        dropped = 0
        while not dropped:  # what is in the log only goes first
            size -= 100_000
            dropped = await records.trim(size)
        assert 0 < dropped == len(gone) < 600
        assert gone == [key("lookup", number) for number in range(dropped)]
        assert await records.get(key("lookup", 0)) is None
        assert await records.get(key("lookup", 599)) == b"r" * 1000
        gone.clear()
        await records.trim(1_000_000)
        assert gone[-1] == key("tile", 199 - (await records.size())[0])
        assert gone.index(key("lookup", 599)) < gone.index(key("tile", 0))
        assert (await records.size())[1] <= 1_000_000


async def test_the_janitor_bounds_them(tmp_path: Path) -> None:
    async with open_shop(tmp_path, sumdb_max_size=1) as shop:
        await shop.store.records.keep({key("tile", 1): b"t" * 8192})
        await shop.janitor.once()
        assert (await shop.store.records.size())[0] == 0


async def test_no_purge_and_no_refresh_touches_them(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.store.records.keep({key("tile", 1): b"t", key("lookup", 1): b"r"})
        for name in ("sumdb", "record", "tile", NAME):
            assert await shop.control.refresh(name) == 0
            removal = await purge_versions(shop.store, name, None, forget_hash=True, dry_run=False)
            assert removal.answers == 0
        assert (await shop.store.records.size())[0] == 2


def old(number: int) -> dict[str, bytes]:
    """What an earlier version kept among the answers."""
    return {f"sumdb/{key('tile', number)}": b"t" * 8192, f"sumdb/{key('lookup', number)}": b"r%d" % number}


async def test_what_lay_among_the_answers_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with open_shop(tmp_path) as shop:
        for number in range(150):
            await shop.store.answers.set_all(old(number))
        await shop.store.answers.set("x.org/a/@v/list", b"v1.0.0\n", keep=None)
        await shop.store.records.keep({key("tile", 7): b"t" * 100, key("lookup", 8): b"the newer one"})
    with closing(sqlite3.connect(tmp_path / "answers" / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET mode = 4 WHERE key = ?", (f"sumdb/{key('lookup', 9)}",))
    async with open_shop(tmp_path) as shop:
        records = shop.store.records
        assert (await records.size())[0] == 299, "and not what was planted"
        assert await records.get(key("tile", 7)) == b"t" * 8192, "the wider one"
        assert await records.get(key("lookup", 8)) == b"the newer one"
        assert await records.get(key("lookup", 149)) == b"r149"
        assert (await shop.store.answers.size())[0] == 1
        size = (await records.size())[1]
        while not await records.trim(size):
            size -= 4096
        assert (await records.size())[0] < 299
        for number in range(150):
            assert await records.get(key("tile", number)) is not None, "a record is a record"
    assert "checksum database records moved {'count': 2" in logged(caplog)


@pytest.mark.parametrize("seed", range(5))
async def test_a_kill_while_they_are_taken_over_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    class Killed(BaseException):
        """Nothing is done after it."""

    monkeypatch.setattr(answers_module, "SLICE", 10)
    async with open_shop(tmp_path) as shop:
        for number in range(50):
            await shop.store.answers.set_all(old(number))
    left = random.Random(seed).randrange(1, 110)

    def dying(work: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **given: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return work(*arguments, **given)

        return step

    with monkeypatch.context() as patch:
        for name in ("_take", "_delete_all"):
            patch.setattr(Answers, name, dying(getattr(Answers, name)))
        with pytest.raises(Killed):
            async with open_shop(tmp_path):
                pass
    async with open_shop(tmp_path) as shop:
        for number in range(50):
            assert await shop.store.records.get(key("tile", number)) == b"t" * 8192
            assert await shop.store.records.get(key("lookup", number)) == b"r%d" % number
        assert (await shop.store.answers.size())[0] == 0


async def test_a_failing_disk_leaves_them_where_they_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.store.answers.set_all(old(1))
        records = shop.core.layout.records / "cache.db"
    with closing(sqlite3.connect(records)) as other:
        other.execute(f"CREATE TRIGGER fails BEFORE INSERT ON Cache {FAILS}")
        async with open_shop(tmp_path) as shop:
            assert (await shop.store.answers.size())[0] == 2
            assert "cache not writable" in logged(caplog)
        other.execute("DROP TRIGGER fails")
    async with open_shop(tmp_path) as shop:
        assert await shop.store.records.get(key("lookup", 1)) == b"r1"
