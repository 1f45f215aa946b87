"""admin/operations.py: an index that fails is a lack of room, with a sentence."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.admin.operations import Operations
from goproxy_vm.cache.facts import Listing, Selection
from goproxy_vm.errors import Unavailable
from tests.fakes.stores import open_shop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Forgetful:
    """As much of a proxy as is asked."""

    fetches_in_flight = 0

    def __init__(self) -> None:
        self.forgotten: list[Callable[[str, str], bool]] = []

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        self.forgotten.append(matches)

    async def absences(self, module: str) -> int:
        del module
        return 0


async def test_an_index_that_fails(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        operations = Operations(shop.store, Forgetful(), "1", lambda: 0)  # type: ignore[arg-type]  # see there
        await shop.sql("ALTER TABLE files RENAME TO lost")
        with pytest.raises(Unavailable, match="cannot use its index now: no such table"):
            await operations.versions(Listing(limit=9))
        with pytest.raises(Unavailable):
            await operations.purge(Selection(), forget_hash=False, dry_run=True)
        await shop.sql("ALTER TABLE lost RENAME TO files")
        with pytest.raises(ValueError, match="cursor"):
            await operations.versions(Listing(limit=9, cursor="x"))
        assert (await operations.versions(Listing(limit=9))).total == 1


async def test_what_is_forgotten(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a", "a@v1.1.0", "b")
        proxy = Forgetful()
        operations = Operations(shop.store, proxy, "1", lambda: 0)  # type: ignore[arg-type]  # see there
        names = [("a", "v1.0.0"), ("a", "v1.1.0"), ("b", "v1.0.0")]

        def last() -> list[bool]:
            return [proxy.forgotten[-1](*name) for name in names]

        await operations.purge_version("a", "v1.1.0")
        assert last() == [False, True, False]
        await operations.purge_module("a")
        assert last() == [True, True, False]
        await operations.purge(Selection(match=("b",)), forget_hash=False, dry_run=False)
        assert last() == [False, False, True]
        await operations.purge(Selection(), forget_hash=False, dry_run=False)
        assert last() == [True] * 3
        before = len(proxy.forgotten)
        await operations.purge(Selection(), forget_hash=False, dry_run=True)
        assert len(proxy.forgotten) == before
        serial = shop.core.fences.now
        await operations.refresh("a")
        assert last() == [False] * 3, "files stay; documents are forgotten by the proxy in any case"
        assert shop.core.fences.now == serial + 1


async def test_memory_is_forgotten_before_and_after_a_purge(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.put("a")
        seen: list[list[str]] = []

        class Watching(Forgetful):
            def forget(self, matches: Callable[[str, str], bool]) -> None:
                seen.append(shop.files())

        operations = Operations(shop.store, Watching(), "1", lambda: 0)  # type: ignore[arg-type]  # see there
        await operations.purge(Selection(), forget_hash=False, dry_run=False)
        assert seen == [["a@v1.0.0.zip"], []]


async def test_a_failing_index_is_not_hidden_otherwise(tmp_path: Path) -> None:
    async with open_shop(tmp_path) as shop:
        await shop.sql("ALTER TABLE files RENAME TO lost")
        with pytest.raises(sqlite3.OperationalError):
            await shop.control.versions(Listing(limit=9))
        assert (await shop.store.figures.statistics()).versions == 0
        await shop.sql("ALTER TABLE lost RENAME TO files")
