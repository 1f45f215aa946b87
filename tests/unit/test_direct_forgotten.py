"""Modules whose clones are not to be believed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from goproxy_vm.upstream.direct.forgotten import Forgotten


async def test_every_purge_is_known_to_the_next_server(tmp_path: Path) -> None:
    """However many there are: none goes in favour of another."""
    modules = [f"git.corp.test/m{number}" for number in range(5_000)]
    first = Forgotten(tmp_path / "forgotten")
    first.load()
    await first.add(modules)
    await first.remove(modules[7])
    second = Forgotten(tmp_path / "forgotten")
    second.load()
    assert [module for module in modules if module not in second] == [modules[7]]


async def test_who_waits_no_longer_leaves_a_whole_file(tmp_path: Path) -> None:
    forgotten = Forgotten(tmp_path / "forgotten")
    tasks = [asyncio.create_task(forgotten.add([f"git.corp.test/m{number}"])) for number in range(50)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    again = Forgotten(tmp_path / "forgotten")
    again.load()
    assert all(f"git.corp.test/m{number}" in again for number in range(50))


async def test_what_cannot_be_noted_holds_all_the_same(tmp_path: Path) -> None:
    forgotten = Forgotten(tmp_path / "none" / "forgotten")
    await forgotten.add(["git.corp.test/m"])
    assert "git.corp.test/m" in forgotten
