"""The process that serves: signals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from goproxy_vm.process import notice


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The signals' handlers are those from before again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def test_a_flood_of_signals_loses_none(capfd: pytest.CaptureFixture[str]) -> None:
    """All come while the loop is busy."""
    hung_up, stopped = asyncio.Event(), asyncio.Event()
    notice(signal.SIGHUP, hung_up)
    notice(signal.SIGTERM, stopped)
    for _ in range(10_000):
        os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await hung_up.wait()
        await stopped.wait()
    assert capfd.readouterr().err == ""


async def test_each_signal_is_noticed_by_itself() -> None:
    hung_up = asyncio.Event()
    notice(signal.SIGHUP, hung_up)
    for _ in range(3):
        os.kill(os.getpid(), signal.SIGHUP)
        async with asyncio.timeout(10):
            await hung_up.wait()
        hung_up.clear()
