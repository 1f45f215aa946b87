"""Records of the checksum database: numbered ``go.sum`` lines (PROTOCOL §4, *Record*)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from goproxy_vm.errors import ContentError

_NUMBER: Final = re.compile(rb"[0-9]{1,19}")
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Record:
    """A lookup's record: its number in the log, and the ``go.sum`` lines that the log's leaf stands for."""

    number: int
    text: bytes

    def h1(self, module: str, version: str) -> str | None:
        """The h1 of the line for exactly this module and version (``V/go.mod`` for the ``.mod``), or None.

        Raises ContentError if there are several that differ. Other algorithms' lines are ignored.
        """
        prefix = f"{module} {version} h1:"
        found = {line for line in self.text.decode().split("\n") if line.startswith(prefix)}
        if len(found) > 1:
            raise ContentError(f"the checksum database's record has several h1 for {module} {version}")
        return "h1:" + found.pop().removeprefix(prefix) if found else None


def parse_record(data: bytes) -> tuple[Record, bytes]:
    """Cut a lookup response into its record and its signed head; raises ContentError."""
    number, _, rest = data.partition(b"\n")
    text, blank, head = rest.partition(b"\n\n")
    try:
        characters = text.decode()
    except UnicodeDecodeError:
        raise ContentError("the checksum database's record is not UTF-8") from None
    if not _NUMBER.fullmatch(number) or not blank or not text or text.startswith(b"\n"):
        raise ContentError("the lookup is malformed; expected a number, a record, a blank line and a head")
    if _CONTROL.search(characters):
        raise ContentError("the checksum database's record has control characters")
    return Record(int(number), text + b"\n"), head
