"""Remembering after a start what was asked for last before it: its first hits need not ask the index."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from goproxy_vm.cache.health import reason
from goproxy_vm.cache.memory import ENTRIES
from goproxy_vm.cache.reader import TOGETHER, Reader
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from goproxy_vm.cache.core import Core

log = get_logger("cache")


async def warm(core: Core) -> None:
    """Fill the memory of entries with those of the files used last, once; a few at a time, so that those who
    wait for the index wait no longer."""
    try:
        paths = await core.scan(core.scanner.newest, ENTRIES)
        for start in range(0, len(paths), TOGETHER):
            with core.memory.changes() as changes:
                entries = await core.lookups.run(Reader.entries, paths[start : start + TOGETHER])
            core.memory.warm(entries, changes)
    except sqlite3.Error as error:
        log.warning("index unavailable", reason=reason(error))  # requests ask, and find out more
    except Exception:
        log.exception("background task failed")
