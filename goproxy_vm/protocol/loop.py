"""CDN-Loop (RFC 8586): which servers a request came through, so that one that comes back is recognised."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence

FIELD = "CDN-Loop"
MOST = 16
"""Names of other servers that are passed on, the newest: a client can name as many as it likes."""
_NAME = re.compile(r"goproxy-vm-[0-9a-f]{16}", re.ASCII)


def new_name() -> str:
    """A name for one server, for as long as it runs."""
    return f"goproxy-vm-{secrets.token_hex(8)}"


def names(values: Sequence[str]) -> tuple[str, ...]:
    """The servers like this one that the values of the field name; others mind their own. Of more than one
    of them sends, the newest."""
    entries = (entry.partition(";")[0].strip() for value in values for entry in value.split(","))
    return tuple(dict.fromkeys(entry for entry in entries if _NAME.fullmatch(entry)))[-MOST - 1 :]


def value(through: Iterable[str], own: str) -> str:
    """The field's value for a request by the server ``own`` that came ``through`` others."""
    others = [name for name in dict.fromkeys(through) if name != own]
    return ", ".join([*others[-MOST:], own])
