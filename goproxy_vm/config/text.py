"""How settings and figures are shown: on one line, without passwords, with units."""

from __future__ import annotations

import json
import re


def quoted(text: str) -> str:
    """Text in double quotes on one line of ASCII: a JSON string, and a TOML string where it can be one."""
    return json.dumps(text).replace("\x7f", "\\u007f")


def printable(text: str) -> str:
    """The text itself where it prints on one line, else quoted."""
    return text if text.isprintable() else quoted(text)


MASKED = "***"
"""What stands for a password where a setting is shown."""
_USERINFO = re.compile(r"(^|://)(?:(?!://).)*@")


def redacted(text: str) -> str:
    """The text with the userinfo of every URL in it replaced by ``***``.

    Rather hides too much than too little: everything between ``://`` and the last ``@`` before the
    next ``://``, for a password may hold characters that should have been percent-encoded.
    """
    return _USERINFO.sub(rf"\1{MASKED}@", text)


def percent(part: int, whole: int) -> str:
    """``72.3%``, rounded; 100% is nothing less than all of it. Of nothing it is 0%."""
    share = round(100 * part / whole, 1) if whole else 0.0
    return f"{share if part >= whole else min(share, 99.9):.1f}%"


UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
"""Of sizes, each 1024 times the one before."""


def size(count: float) -> str:
    """Bytes with a unit of powers of 1024, three digits or four: ``1.50 GiB``."""
    if count < 1024:
        return f"{count:.0f} B"
    power = 0
    while count >= 999.5 and power < len(UNITS):
        count /= 1024
        power += 1
    return f"{count:.{2 if count < 9.995 else 1 if count < 99.95 else 0}f} {UNITS[power - 1]}"
