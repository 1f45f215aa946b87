"""What is known of each VM: what its scripts told last (docs/vms.md). In memory, and in one file for the next
start; nothing depends on it but what operators see."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import time
from collections import Counter
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.cache.database import LATEST
from goproxy_vm.cache.facts import Page, Vm
from goproxy_vm.cache.health import reason
from goproxy_vm.cache.threads import paused
from goproxy_vm.errors import MalformedReport
from goproxy_vm.lru import Lru
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.report import parse_report
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from goproxy_vm.cache.health import Health
    from goproxy_vm.cache.layout import Layout
    from goproxy_vm.cache.threads import Threads
    from goproxy_vm.protocol.report import VmReport

MOST = 10_000
"""Addresses that are known; the one that has reported least recently goes first."""
INTERVAL = 60.0
"""Seconds from one write to the next."""
RECENT = 7 * 86400.0
"""Seconds for which a VM counts after its report."""
NAMED = 20
"""Go versions that the metrics name."""
OTHER = "other"
"""Stands for those that they do not."""
PLACE = "vms"
"""Of :class:`Health`."""
HEAD = "goproxy-vm vms 1"
"""The first line of the file; each other one is an address, epoch seconds and the report as it was sent."""
LONGEST = 4 << 20
"""Bytes of a file that can be ours."""

log = get_logger("cache")

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


class KnownVms:
    """The VMs by their address, ``MOST`` of them. See :meth:`open`."""

    def __init__(
        self,
        layout: Layout,
        threads: Threads,
        health: Health,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``pause`` waits for so many seconds."""
        self._layout = layout
        self._threads = threads
        self._health = health
        self._pause = pause
        self._known: Lru[str, Vm] = Lru(MOST)
        self._numbers = 0
        self._changed = asyncio.Event()
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        """Take up what the last run has written. A file, or a row, that is not ours is told of and passed
        over."""
        try:
            rows = await self._threads.run(self._read)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            log.warning("VMs begun anew", reason=reason(error))
            return
        refused = 0
        for row in rows:
            try:
                address, seen, report = _parsed(row)
            except (ValueError, MalformedReport):
                refused += 1
            else:
                self._keep(address, seen, report)
        if refused:
            log.warning("rows of VMs passed over", count=refused)

    def seen(self, address: str, report: VmReport) -> None:
        """A VM has reported."""
        self._keep(address, time.time(), report)
        self._changed.set()

    def _keep(self, address: str, seen: float, report: VmReport) -> None:
        self._numbers += 1
        self._known.keep(address, Vm(address, seen, report, report.release, self._numbers))

    def page(self, limit: int, cursor: str | None) -> Page[Vm]:
        """So many of them at most, those that reported last first. ValueError: a cursor that is none.

        Who reports while somebody goes from page to page comes before them all.
        """
        if cursor is not None and not _NUMBER.fullmatch(cursor):
            raise ValueError("the cursor is none that this server gave")
        before = self._numbers + 1 if cursor is None else int(cursor)
        left = [vm for vm in reversed(self._known.oldest_first()) if vm.number < before]
        more = str(left[limit - 1].number) if len(left) > limit else None
        return Page(left[:limit], more, len(self._known))

    def releases(self) -> dict[str, int]:
        """How many VMs have reported within ``RECENT``, by their release of Go: the ``NAMED`` that most have,
        and the others together."""
        since = time.time() - RECENT
        counted = Counter(vm.release for vm in self._known.oldest_first() if vm.seen >= since)
        others = counted.pop("", 0)  # a VM may say anything: only what looks like a release is named
        order = sorted(counted, key=lambda release: (-counted[release], release))
        others += sum(counted[release] for release in order[NAMED:])
        return {**{release: counted[release] for release in order[:NAMED]}, OTHER: others}

    async def run(self) -> None:
        """Write down what has changed, until cancelled: the first report at once, others together."""
        while True:
            await self._changed.wait()
            with contextlib.suppress(OSError):  # it is in the log, and tried again
                await self.write()
            await self._pause(INTERVAL)

    async def retry(self) -> None:
        """Write what could not be written. OSError: it still cannot."""
        if self._health.failing(PLACE):
            await self.write()

    async def close(self) -> None:
        """Write down what is not yet."""
        if self._changed.is_set():
            with contextlib.suppress(OSError):
                await self.write()

    async def write(self) -> None:
        """Write them all down. OSError: the disk fails."""
        async with self._writing:  # an older list must not come last
            await to_the_end(self._write())

    async def _write(self) -> None:
        vms = self._known.oldest_first()
        self._changed.clear()
        try:
            await self._threads.run(self._publish, vms)
        except OSError as error:
            self._changed.set()
            self._health.failed(error, PLACE)
            raise
        self._health.succeeded(PLACE)

    def _publish(self, vms: Sequence[Vm]) -> None:
        rows = [f"{vm.address} {vm.seen!r} {vm.report.query}" for vm in paused(vms)]
        data = "\n".join([HEAD, *rows, ""]).encode()
        tree.write(data, self._layout.seen, self._layout.vms, self._layout.tmp)

    def _read(self) -> list[str]:
        data = tree.read(self._layout.seen, self._layout.vms, LONGEST + 1)
        head, *rows = data.decode("ascii").split("\n")
        if head != HEAD or len(data) > LONGEST:
            raise ValueError("it is no list of VMs")
        return [row for row in rows if row]


def _parsed(row: str) -> tuple[str, float, VmReport]:
    """ValueError, MalformedReport: no row of ours."""
    address, seen, query = row.split(" ")
    if address != "unix":
        ipaddress.ip_address(address)
    if not 0 <= float(seen) < LATEST:
        raise ValueError("no time")
    return address, float(seen), parse_report(query)
