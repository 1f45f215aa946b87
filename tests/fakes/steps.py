"""Work in steps, done at once."""

from __future__ import annotations

from typing import TypeVar

from goproxy_vm.protocol.lines import Steps

T = TypeVar("T")


def finish(steps: Steps[T]) -> T:
    """What the steps come to."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: T = done.value
            return result
