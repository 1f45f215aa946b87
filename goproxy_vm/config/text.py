"""How settings are shown: on one line, and without passwords."""

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
