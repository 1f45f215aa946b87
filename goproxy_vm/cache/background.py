"""Tasks that run until they are cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

AGAIN = 5.0
"""Seconds until one that a bug has ended begins anew."""

log = get_logger("cache")


async def supervised(work: Callable[[], Awaitable[None]]) -> None:
    """Do what runs until it is cancelled, again after a bug: without it the store would go on half alive."""
    while True:
        try:
            return await work()
        except Exception:
            log.exception("background task failed")
        await asyncio.sleep(AGAIN)


async def cancel(task: asyncio.Task[None]) -> None:
    """End a task and wait for its end."""
    task.cancel()
    await asyncio.wait([task])
