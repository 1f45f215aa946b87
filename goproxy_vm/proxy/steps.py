"""What takes long, done in steps between which everybody else has a turn."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from goproxy_vm.protocol.lines import Steps

T = TypeVar("T")


async def in_turns(steps: Steps[T]) -> T:
    """What the steps come to. In a thread they would keep the loop waiting for milliseconds, each time that
    it wants the interpreter's lock."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
        await asyncio.sleep(0)
