"""Modules that an operator purges: whoever asks after that gets them as they are now."""

from __future__ import annotations

import asyncio
import fcntl
import json

from tests.fakes.gitrepos import Shape
from tests.integration.direct import Bed, bed, fetch, h1, info

__all__ = ["bed"]  # fixture


def moved(made: Shape) -> str:
    """Move the tag to a commit of its own."""
    files = {"m.go": f"package m\n\nconst Moved = {made.repository.made}\n"}
    return made.repository.retag("v1.0.0", files).hash


def commit(data: bytes) -> str:
    """The commit that an .info is of."""
    found: str = json.loads(data)["Origin"]["Hash"]
    return found


async def test_who_asks_after_a_purge_joins_no_run_from_before(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start()
    source = direct.source(private=True)
    before = await h1(source, made.module, "v1.0.0")
    moved(made)
    gate = bed.server.hold("*go-get=1")
    first = asyncio.create_task(h1(source, made.module, "v1.0.0"))
    await gate.arrived.wait()
    await direct.forget({made.module})
    second = asyncio.create_task(h1(source, made.module, "v1.0.0"))
    await asyncio.sleep(0)  # it has joined, or begun
    gate.open()
    await first
    assert await second != before


async def test_what_a_run_from_before_a_purge_brings_is_not_kept(bed: Bed) -> None:
    now = [1000.0]
    made = bed.repositories.shape("root")
    direct = await bed.start(now=lambda: now[0])
    source = direct.source(private=True)
    await h1(source, made.module, "v1.0.0")
    now[0] += 61  # what that run brought besides is kept no longer
    after = moved(made)
    gate = bed.server.hold("*go-get=1")
    first = asyncio.create_task(fetch(source, info(made.module, "v1.0.0")))
    await gate.arrived.wait()
    await direct.forget({made.module})
    gate.open()
    await first
    assert commit(await fetch(source, info(made.module, "v1.0.0"))) == after


async def test_a_purge_holds_until_there_is_another_clone(bed: Bed) -> None:
    """A module of the same repository has it at the moment."""
    made = bed.repositories.shape("root")
    direct = await bed.start()
    source = direct.source(private=True)
    before = await h1(source, made.module, "v1.0.0")
    after = moved(made)
    await direct.forget({made.module})
    (clone,) = bed.clones()
    with clone.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert commit(await fetch(source, info(made.module, "v1.0.0"))) == after
    assert await h1(source, made.module, "v1.0.0") != before


async def test_a_purge_while_a_clone_is_made_anew_holds(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start()
    source = direct.source(private=True)
    await h1(source, made.module, "v1.0.0")
    seen = {moved(made)}
    await direct.forget({made.module})
    gate = bed.server.hold("*#fetch")
    first = asyncio.create_task(fetch(source, info(made.module, "v1.0.0")))
    await gate.arrived.wait()  # it knows the commit already
    after = moved(made)
    await direct.forget({made.module})
    gate.open()
    assert {commit(await first)} == seen
    assert commit(await fetch(source, info(made.module, "v1.0.0"))) == after


async def test_a_purge_outlives_the_server(bed: Bed) -> None:
    """Clones do."""
    made = bed.repositories.shape("root")
    direct = await bed.start()
    before = await h1(direct.source(private=True), made.module, "v1.0.0")
    moved(made)
    await direct.forget({made.module})
    await direct.close()
    second = await bed.start()
    after = await h1(second.source(private=True), made.module, "v1.0.0")
    assert after != before
    await second.close()
    moved(made)
    third = await bed.start()  # the purge is done with: it believes the clone
    assert await h1(third.source(private=True), made.module, "v1.0.0") == after
