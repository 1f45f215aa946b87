"""The process that serves: signals."""

from __future__ import annotations

import asyncio
import ctypes
import os
import selectors
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from goproxy_vm.process import awake, notice


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


def wait_in_call(thread: threading.Thread, fd: int) -> None:
    """Wait until a thread is in a system call about a descriptor."""
    call = Path(f"/proc/self/task/{thread.native_id}/syscall")
    while f"{fd:#x}" not in call.read_text().split()[1:2]:
        os.sched_yield()


async def test_a_signal_that_another_thread_gets_wakes_the_loop() -> None:
    """As the system does where the main thread has one that it has not handled yet. What the other one was
    doing goes on."""
    stopped = asyncio.Event()
    notice(signal.SIGTERM, stopped)
    ours, theirs = os.pipe()
    selector: selectors.EpollSelector = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
    got: list[int] = []
    other = threading.Thread(target=lambda: got.append(ctypes.CDLL(None).read(ours, bytes(1), 1)))

    def send() -> None:
        wait_in_call(threading.main_thread(), selector.fileno())
        wait_in_call(other, ours)
        assert other.ident is not None
        signal.pthread_kill(other.ident, signal.SIGTERM)

    sender = threading.Thread(target=send)
    other.start()
    with awake():
        sender.start()
        try:
            async with asyncio.timeout(10):
                await stopped.wait()
        finally:
            sender.join()
            os.write(theirs, b"x")
            other.join()
    assert got == [1]
    for fd in (ours, theirs):
        os.close(fd)
