"""Ports on which nothing listens."""

from __future__ import annotations

import random
import socket

# Below those that systems choose themselves (32768 and above on Linux): what runs beside takes none of them.
LEAST, MOST = 20_000, 30_000


def closed_port() -> int:
    """A port on which nothing listens, and which no other test is given either."""
    while True:
        port = random.randint(LEAST, MOST)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
