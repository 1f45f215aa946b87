"""The process that serves: signals, systemd, the log, and the settings read again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sqlite3
import sys
from functools import partial
from typing import TYPE_CHECKING

from goproxy_vm import __version__
from goproxy_vm.admin.status import InForce
from goproxy_vm.cache.background import supervised
from goproxy_vm.console.greeting import status_command
from goproxy_vm.errors import OperatorError
from goproxy_vm.hostos import notify, raise_open_files_limit, watchdog_seconds
from goproxy_vm.observe import logs
from goproxy_vm.server import Server
from goproxy_vm.upstream.environment import proxy_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from goproxy_vm.config import Loaded

log = logs.get_logger("server")


async def _run(loaded: Loaded, again: Callable[[], Loaded], *, greets: bool) -> None:
    with awake():
        await _serve(loaded, again, greets=greets)


async def _serve(loaded: Loaded, again: Callable[[], Loaded], *, greets: bool) -> None:
    settings = loaded.settings
    stopped, hung_up = asyncio.Event(), asyncio.Event()
    notice(signal.SIGHUP, hung_up)
    notice(signal.SIGTERM, stopped)
    notice(signal.SIGINT, stopped)
    for warning in loaded.warnings:
        log.warning("configuration", reason=warning)
    server = Server(settings, InForce(loaded.origins, proxy_variables()))
    await server.start()
    gc.freeze()  # what lives as long as the process: walking it in each full collection would stop all hits
    log.info(
        "serving",
        url=server.url,
        urls=server.urls,
        admin_url=server.admin_url,
        admin_socket=server.admin_socket,
        cache_dir=str(settings.cache_dir),
        version=__version__,
        pid=os.getpid(),
    )
    notify("READY=1")
    if greets:
        command = await asyncio.to_thread(
            status_command,
            loaded,
            os.environ,
            sys.argv[0],
            server.admin_url,
            socket=server.admin_socket is not None,
        )
        print(await server.greeting(command), file=sys.stderr, flush=True)
    watchdog = asyncio.create_task(_pet_watchdog())
    reloader = asyncio.create_task(supervised(partial(_reload, server, again, hung_up)))
    await stopped.wait()
    notify("STOPPING=1")
    log.info("stopping", shutdown_timeout=settings.shutdown_timeout)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing will read the settings again
    reloader.cancel()
    await server.stop()
    watchdog.cancel()
    log.info("stopped")


def notice(number: signal.Signals, event: asyncio.Event) -> None:
    """Set ``event`` at a signal, in the running loop.

    Not through the loop's own handlers: those put each signal into one pipe, and where many come while the
    loop is busy (300 are enough), the rest is lost, a SIGTERM behind SIGHUPs too. In :func:`awake`, for the
    loop may sleep.
    """
    loop = asyncio.get_running_loop()

    def noticed(_number: int, _frame: FrameType | None) -> None:
        if not event.is_set():
            loop.call_soon_threadsafe(event.set)

    signal.signal(number, noticed)
    signal.siginterrupt(number, False)  # what other threads do meanwhile goes on


@contextlib.contextmanager
def awake() -> Iterator[None]:
    """Have the running loop wake up at each signal, whichever thread the system interrupts for it: only the
    main one runs the handlers."""
    loop = asyncio.get_running_loop()
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        loop.add_reader(reader, reader.recv, 4096)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)  # one byte is enough
        try:
            yield
        finally:
            signal.set_wakeup_fd(-1)
            loop.remove_reader(reader)


async def _pet_watchdog() -> None:
    """Show systemd that the loop turns, twice as often as it asks for; one that hangs is restarted."""
    seconds = watchdog_seconds()
    while seconds is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(seconds / 2)


async def _reload(server: Server, again: Callable[[], Loaded], hung_up: asyncio.Event) -> None:
    """Read the settings again at each SIGHUP; a mistake in them changes nothing."""
    while True:
        await hung_up.wait()
        hung_up.clear()
        try:
            loaded = await asyncio.to_thread(again)
            done = await server.reload(loaded.settings, loaded.origins)
        except (OperatorError, sqlite3.Error) as error:
            log.error("reload failed", reason=str(error))
            continue
        for warning in loaded.warnings:
            log.warning("configuration", reason=warning)
        log.info("reloaded", changed=done.applied)
        if done.restart:
            log.warning("restart needed", changed=done.restart)


def run(again: Callable[[], Loaded], *, greets: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; the exit status. Raises OperatorError when it cannot start.

    ``again`` reads the settings, at the start and after each SIGHUP; ``greets`` says that a person looks on.
    """
    loaded = again()
    raise_open_files_limit()
    greets = greets and loaded.settings.log_format == "text"
    with logs.setup(loaded.settings.log_format, loaded.settings.log_level, greets=greets):
        asyncio.run(_run(loaded, again, greets=greets))
    return 0
