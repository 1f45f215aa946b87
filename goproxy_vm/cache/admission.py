"""Room in the budget, reserved before a file is written and given back in a ``finally``."""

from __future__ import annotations

UNKNOWN_LENGTH = 64 << 20
"""Bytes reserved for a download whose length was not declared, and the step by which it grows."""


class Reservation:
    """Room held by one file from before its first byte until it is on record, or gone."""

    def __init__(self, admission: Admission, size: int) -> None:
        self._admission = admission
        self.size = size
        """Bytes held."""

    def grow(self, n: int) -> None:
        """Hold at least ``n`` more bytes. NoRoom where there are none: it holds room, so it never waits."""
        n = max(n, UNKNOWN_LENGTH)
        self._admission.reserved += n
        self.size += n

    def release(self) -> None:
        """Give the room back; a second call does nothing."""
        self._admission.reserved -= self.size
        self.size = 0


class Admission:
    """Who may write: admits every file, and counts what they hold."""

    def __init__(self) -> None:
        self.reserved = 0
        """Bytes held by all reservations."""

    async def reserve(self, length: int | None) -> Reservation:
        """Room for a file of ``length`` bytes, or of a length not yet known.

        May wait, so the caller holds nothing meanwhile. NoRoom where it can never fit.
        """
        size = UNKNOWN_LENGTH if length is None else length
        self.reserved += size
        return Reservation(self, size)
