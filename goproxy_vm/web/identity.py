"""What this server calls itself in its answers."""

from __future__ import annotations

SERVER = "goproxy-vm"
"""What the Server field says: nothing about versions."""
CACHE_NAME = "goproxy-vm"
"""This cache's name in Cache-Status (RFC 9211)."""
