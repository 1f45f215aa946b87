"""Modules from version control, as a source like any other."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from goproxy_vm.upstream.backoff import Condition
    from goproxy_vm.upstream.direct.options import Options
    from goproxy_vm.upstream.source import Source


class Turn(Protocol):
    """A claim to one of the processes."""

    def hold(self, limit: float, /) -> AbstractAsyncContextManager[None]:
        """Have it, after ``limit`` seconds at most, together with what is done with it. Overloaded."""
        ...


class Slots(Protocol):
    """Who may run a process when."""

    def claim(self, client: str, /) -> Turn:
        """A turn on behalf of a client."""
        ...


class Direct:
    """Fetches by the go command; one per server. :meth:`start` it."""

    def __init__(
        self,
        options: Options,
        slots: Slots,
        *,
        room: Callable[[], bool] = lambda: True,
        look_up: Callable[[str, int], Awaitable[list[str]]] | None = None,
        connect: Callable[..., Awaitable[object]] | None = None,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.monotonic,
    ) -> None: ...

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def source(self, *, private: bool) -> Source: ...

    def condition(self) -> list[tuple[str, Condition]]: ...

    def forget(self, module: str) -> None: ...
