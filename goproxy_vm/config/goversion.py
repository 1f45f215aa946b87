"""The Go version of the VMs (setting ``vm_go``)."""

from __future__ import annotations

import re

_VERSION = re.compile(r"1\.[0-9]{1,4}(?:\.[0-9]{1,4}|rc[0-9]{1,4}|beta[0-9]{1,4})?(?:\+auto)?", re.ASCII)


def parse_go_version(text: str) -> str:
    """A version as GOTOOLCHAIN has it behind ``go``, or nothing. ValueError."""
    if text and not _VERSION.fullmatch(text):
        raise ValueError
    return text
