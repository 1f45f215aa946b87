"""One line on stderr that says how a long command gets on, for people only."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from typing import TYPE_CHECKING, TextIO

from goproxy_vm.console.tables import age

if TYPE_CHECKING:
    from collections.abc import Iterator

TICK = 1.0
"""Seconds between two lines."""


class Progress:
    """Writes over its own line. Silent where ``stream`` is no terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._shows = stream.isatty()

    def show(self, text: str) -> None:
        """In place of what was shown before."""
        if self._shows:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{text[:width]}")
            self._stream.flush()

    def clear(self) -> None:
        """Leave nothing behind."""
        self.show("")

    @contextlib.contextmanager
    def ticking(self, text: str) -> Iterator[None]:
        """Show how long it takes while the context lasts, from the first second on."""
        if not self._shows:
            yield
            return
        ended, started = threading.Event(), time.monotonic()

        def tick() -> None:
            while not ended.wait(TICK):
                self.show(f"{text} {age(time.monotonic() - started)}")

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.clear()
