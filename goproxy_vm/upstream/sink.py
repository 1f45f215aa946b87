"""Where the bytes of a fetch go."""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """Takes the bytes of one file, possibly in several attempts."""

    async def begin(self, length: int | None) -> None:
        """A new attempt: forget earlier bytes. ``length`` is what the upstream declares. May raise NoRoom."""
        ...

    async def write(self, chunk: bytes) -> None:
        """The next bytes. May raise NoRoom."""
        ...


class Memory:
    """A sink for small documents: the whole content in ``data``."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    @property
    def data(self) -> bytes:
        """All bytes of the latest attempt."""
        return b"".join(self._chunks)

    async def begin(self, _length: int | None) -> None:
        """Forget earlier bytes."""
        self._chunks.clear()

    async def write(self, chunk: bytes) -> None:
        """Keep the next bytes."""
        self._chunks.append(chunk)
