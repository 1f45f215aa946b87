"""Where a Go vulnerability database is, as the setting vulndb says it."""

from __future__ import annotations

from collections.abc import Callable

SCHEME = "file://"


def parse_vulndb(text: str, parse_url: Callable[[str], str]) -> str:
    """A URL without a slash at its end, or nothing for off. ValueError: it is none of http, https or file."""
    if text in ("", "off"):
        return ""
    if not text.startswith(SCHEME):
        return parse_url(text)
    path = text.removeprefix(SCHEME).rstrip("/")
    if not path.startswith("/") or not path.isprintable() or {"?", "#", "%"} & {*path}:
        raise ValueError
    return f"{SCHEME}{path}"
