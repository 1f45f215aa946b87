"""What takes long, done in steps between which everybody else has a turn."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeVar

from goproxy_vm.protocol.lines import Steps
from goproxy_vm.prover import Turns

SHORT = 16 << 10
"""Bytes of a document that is read at once: real ones, but for a few."""

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


class Reading:
    """Of long documents one is read at a time, and clients take turns: else each would take its memory, and
    each the time of all."""

    def __init__(self) -> None:
        self._turns = Turns()

    def turn(self, size: int, client: str) -> AbstractAsyncContextManager[None]:
        """A client's turn to read so many bytes of a document, to be held meanwhile; short ones need none."""
        return nullcontext() if size <= SHORT else self._turns.take(client)
