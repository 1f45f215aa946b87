"""How the descriptors that the process may open are shared out: connections leave enough to work with."""

from __future__ import annotations

OWN = 256
"""Descriptors for databases, listeners, workers, the admin listener's connections."""
KEPT, MOST_KEPT = 4, 16_384
"""One descriptor in so many, but no more than that, keeps open a file that the short cut may be asked for."""
EACH = 2
"""For a fetch, its connection and its file; for a VM's connection, that and the file being sent."""
FEWEST = 16
"""Connections of the main listener that are taken in any case."""


def most_kept(limit: int) -> int:
    """Files that are kept open, of the ``limit`` that a process may open."""
    return min(limit // KEPT, MOST_KEPT)


def least(max_misses: int) -> int:
    """Descriptors that are needed beside connections: of fewer, what is kept open must go."""
    return (OWN + EACH * max_misses) * KEPT // (KEPT - 1)


def most_connections(limit: int, max_misses: int) -> int:
    """Connections that the main listener may hold, of a process that may open ``limit`` files."""
    return max(FEWEST, (limit - OWN - most_kept(limit) - EACH * max_misses) // EACH)


def most_of_one(in_all: int, max_client_connections: int) -> int:
    """Of these, how many for one address: it never has all."""
    return max(1, min(max_client_connections, in_all // 2))
