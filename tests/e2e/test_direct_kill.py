"""kill -9 of a server whose runs are under way: nothing lives on, and nothing is in the way of the next."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.gocommand import Running, start
from tests.fakes.gitnames import ConnectProxy
from tests.integration.direct import HOST, Bed, bed, processes, until

__all__ = ["bed"]
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LONGEST = 1.5
"""Seconds within which a run that begins with a cold clone is done."""


def fetched(server: Running, path: str) -> int:
    """The status of an answer; 0 where the server dies meanwhile."""
    try:
        with urllib.request.urlopen(f"{server.url}/{path}", timeout=60) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


async def killed(bed: Bed, times: int, seed: int) -> None:
    chance = random.Random(seed)
    shape = bed.repositories.versions("team/many", times + 1)
    cache = bed.directory / "cache"
    arguments = ("--upstream", "off", "--private", HOST, "--sumdb", "off")
    arguments += ("--upstream-ca-file", str(bed.authority.certificate), "--no-prefetch")
    async with ConnectProxy(bed.names) as proxy:
        environ = {"HTTPS_PROXY": proxy.url}
        for number in range(times):
            server = await asyncio.to_thread(start, cache, *arguments, env=environ)
            paths = [f"{shape.module}/@v/v1.{number}.0.{kind}" for kind in ("zip", "info")]
            asking = [asyncio.create_task(asyncio.to_thread(fetched, server, path)) for path in paths]
            await asyncio.sleep(chance.uniform(0, LONGEST))  # the point at which it dies
            server.process.send_signal(signal.SIGKILL)
            died = time.monotonic()
            await asyncio.to_thread(server.process.communicate)
            await asyncio.gather(*asking)
            await until(lambda: not processes(cache / "direct"))
            assert time.monotonic() - died < 10, "nothing may outlive the server for long"
        server = await asyncio.to_thread(start, cache, *arguments, env=environ)
        try:
            for number in range(times + 1):
                path = f"{shape.module}/@v/v1.{number}.0.zip"
                assert await asyncio.to_thread(fetched, server, path) == 200, path
            await until(lambda: not list((cache / "direct" / "runs").iterdir()))
            assert left(cache) == []
        finally:
            assert await asyncio.to_thread(server.stop) == 0
    assert not processes(cache / "direct")


def left(cache: Path) -> list[Path]:
    """What a killed git leaves in a clone for ever."""
    return [
        path
        for path in (cache / "direct").rglob("*")
        if path.name.startswith("tmp_pack_") or (path.suffix == ".lock" and path.parent.suffix != "")
        if os.path.lexists(path) and path.parent.name not in ("vcs", "vcs-public")
    ]


async def test_at_some_points(bed: Bed) -> None:
    await killed(bed, 4, seed=7)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_at_a_hundred_points(bed: Bed) -> None:
    await killed(bed, 100, seed=11)
