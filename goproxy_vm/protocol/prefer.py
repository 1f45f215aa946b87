"""How two servers in a row tell each other that a fetch is under way (RFC 7240 §4.1 and §4.3).

Whoever asks with ``Prefer: respond-async, wait=10`` gets 202 where the answer takes longer than that, and
asks again: no silence between the two outlasts a time limit, whatever stands between them. ``go`` never does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

PREFER = "Prefer"
PREFERENCE_APPLIED = "Preference-Applied"
RESPOND_ASYNC = "respond-async"

_WAIT = re.compile(r"wait\s*=\s*\"?([0-9]{1,6}(?:\.[0-9]{1,6})?)\"?", re.ASCII)


def preference(seconds: float) -> str:
    """The field's value that asks to hear after so many seconds that work is under way.

    In whole seconds, as the RFC wants it; fractions, which others ignore, below one.
    """
    return f"{RESPOND_ASYNC}, wait={int(seconds) or seconds:g}"


def patience(fields: Sequence[str]) -> float | None:
    """The seconds after which a client with these Prefer fields wants to hear; None: it waits."""
    preferences = [part.partition(";")[0].strip().lower() for part in ",".join(fields).split(",")]
    waits = [match[1] for each in preferences if (match := _WAIT.fullmatch(each))]
    return float(waits[0]) if waits and RESPOND_ASYNC in preferences else None


def is_under_way(status: int, applied: str) -> bool:
    """Whether an answer with this status and Preference-Applied says: ask again."""
    return status == 202 and applied.strip().lower() == RESPOND_ASYNC
