"""The process that serves: signals, and what they have it do."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import selectors
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from goproxy_vm import process
from goproxy_vm.cache import background
from goproxy_vm.config import Loaded, Settings
from goproxy_vm.config.address import Address
from goproxy_vm.process import awake, notice
from tests.fakes.lines import logged
from tests.fakes.wire import until


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The signals' handlers are those from before again."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
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


async def test_a_bug_in_reading_settings_again_does_not_end_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(background, "AGAIN", 0.0)
    listen = Address("127.0.0.1", 0)
    settings = Settings(cache_dir=tmp_path, listen=(listen,), admin_listen=listen, offline=True, sumdb=None)
    loaded = Loaded(settings, {}, (), None)
    read = 0

    def again() -> Loaded:
        nonlocal read
        read += 1
        if read == 1:
            raise ZeroDivisionError
        return loaded

    caplog.set_level(logging.INFO)
    serving = asyncio.create_task(process._serve(loaded, again, greets=False))
    try:
        await until(lambda: "serving" in logged(caplog))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "background task failed" in logged(caplog))
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: "reloaded" in logged(caplog))
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
        gc.unfreeze()
    assert read == 2
