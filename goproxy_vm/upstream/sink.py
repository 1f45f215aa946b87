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

    def stand_in(self) -> None:
        """What comes is what the upstream, a server like this one, answers in place of its own upstreams."""
        ...


class Memory:
    """A sink for small documents: the whole content in ``data``."""

    substitute = False
    """Whether the latest attempt brought a substitute, which is not to be stored as an upstream's word."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []

    @property
    def data(self) -> bytes:
        """All bytes of the latest attempt."""
        return b"".join(self._chunks)

    async def begin(self, _length: int | None) -> None:
        """Forget earlier bytes."""
        self._chunks.clear()
        self.substitute = False

    def stand_in(self) -> None:
        """Note it."""
        self.substitute = True

    async def write(self, chunk: bytes) -> None:
        """Keep the next bytes."""
        self._chunks.append(chunk)
