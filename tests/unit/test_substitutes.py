"""Answers made of what is stored: what a newer go.mod retracts is read once for all."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from goproxy_vm.protocol.gomod import Retractions
from goproxy_vm.protocol.lines import Steps
from goproxy_vm.proxy import substitutes as module
from goproxy_vm.proxy.substitutes import KEPT, Substitutes
from goproxy_vm.traffic.steps import SHORT
from tests.fakes.stores import Shop, artifact, open_shop

NAME = "example.com/m"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each go.mod that is read for what it retracts."""
    found: list[int] = []
    real = module.retractions

    def counted(mod: bytes) -> Steps[Retractions]:
        found.append(len(mod))
        return real(mod)

    monkeypatch.setattr(module, "retractions", counted)
    return found


async def stock(shop: Shop, name: str, mod: bytes) -> None:
    """Two whole versions, and the go.mod of a newer one that retracts the first."""
    await shop.put(f"{name}@v1.0.0", f"{name}@v1.1.0", kind="mod")
    await shop.put(f"{name}@v1.0.0", f"{name}@v1.1.0")
    stored = await shop.store.put(artifact(f"{name}/@v/v1.9.0.mod"), b"retract v1.0.0\n" + mod, h1="h1:x")
    stored.close()
    await shop.settled()


async def versions(substitutes: Substitutes, name: str, client: str) -> object:
    answer = await substitutes.version_list(name, client)
    assert answer is not None
    return answer.body


async def test_a_long_go_mod_is_read_once_for_all(tmp_path: Path, read: list[int]) -> None:
    async with open_shop(tmp_path) as shop:
        await stock(shop, NAME, b"// retract\n" * SHORT)
        substitutes = Substitutes(shop.store, lambda _, __: False)
        got = await asyncio.gather(*(versions(substitutes, NAME, f"192.0.2.{n % 3}") for n in range(6)))
        assert got == [b"v1.1.0\n"] * 6
        assert len(read) == 1


async def test_what_is_kept_of_long_ones_is_bounded(tmp_path: Path, read: list[int]) -> None:
    async with open_shop(tmp_path) as shop:
        names = [f"example.com/m{n}" for n in range(KEPT + 1)]
        for number, name in enumerate(names):
            await stock(shop, name, b"// %d\n" % number * SHORT)
        substitutes = Substitutes(shop.store, lambda _, __: False)
        for name in [*names, names[-1], names[0]]:
            assert await versions(substitutes, name, "192.0.2.1") == b"v1.1.0\n"
        assert len(read) == len(names) + 1, "the first one was read again, the last one was not"


async def test_who_leaves_has_nothing_read_on(tmp_path: Path, read: list[int]) -> None:
    """No thread goes on with it, for which the end of the process would wait."""
    async with open_shop(tmp_path) as shop:
        await stock(shop, NAME, b"// retract\n" * SHORT)
        substitutes = Substitutes(shop.store, lambda _, __: False)
        task = asyncio.create_task(versions(substitutes, NAME, "192.0.2.1"))
        while not read:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await versions(substitutes, NAME, "192.0.2.2") == b"v1.1.0\n"
        assert len(read) == 2
