"""What operators ask of a running server: the store's answers, and what the proxy holds in memory."""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from goproxy_vm.admin.status import Activity, InForce, Status
from goproxy_vm.cache.facts import VmPage
from goproxy_vm.errors import Unavailable
from goproxy_vm.ledger.facts import FetchPage

if TYPE_CHECKING:
    from goproxy_vm.cache.facts import (
        Difference,
        Eviction,
        Listing,
        Page,
        Pass,
        Pin,
        Pins,
        Removal,
        Selection,
        Snapshot,
        VersionFacts,
    )
    from goproxy_vm.cache.reports.purges import PurgePlan
    from goproxy_vm.cache.store import Store
    from goproxy_vm.ledger.facts import Sought
    from goproxy_vm.proxy.proxy import Proxy

P = ParamSpec("P")
T = TypeVar("T")


def _index(method: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    @functools.wraps(method)
    async def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await method(*args, **kwargs)
        except sqlite3.Error as error:
            raise Unavailable(f"this host cannot use its index now: {error}") from error

    return told


class Operations:
    """The admin API's side of the server. Unavailable: the index cannot be read or written now."""

    def __init__(
        self,
        store: Store,
        proxy: Proxy,
        version: str,
        others: Callable[[], int],
        activity: Callable[[], Activity] = Activity,
        in_force: Callable[[], InForce] = InForce,
        doubt: Callable[[Collection[str]], Awaitable[None]] | None = None,
        vm_go: str = "",
        fetches: Callable[[Sought], Awaitable[FetchPage]] | None = None,
    ) -> None:
        """``doubt`` is told of the modules of a purge: what is known of them elsewhere is to go, too;
        ``vm_go`` is the setting; ``fetches`` asks the ledger."""
        self._store = store
        self._proxy = proxy
        self._version = version
        self._others = others
        self._activity = activity
        self._in_force = in_force
        self._doubt = doubt
        self._vm_go = vm_go
        self._fetches = fetches
        self._started = time.time()
        self._monotonic = time.monotonic()

    @property
    def fetches_in_flight(self) -> int:
        """Fetches from upstreams, and what they brought and is not on disk yet."""
        return self._proxy.fetches_in_flight + self._others() + self._store.uncommitted

    @_index
    async def status(self) -> Status:
        """The server's state."""
        recovery = self._store.recovery
        return Status(
            version=self._version,
            started=self._started,
            uptime_seconds=time.monotonic() - self._monotonic,
            state="ready" if recovery.done else "recovering",
            cache=await self._store.figures.status(),
            fetches_in_flight=self.fetches_in_flight,
            activity=self._activity(),
            recovery=recovery,
            last_pass=self._store.last_pass,
            last_scrub=await self._store.control.last_scrub(),
        )

    async def settings(self) -> InForce:
        """What the server runs with."""
        return self._in_force()

    @_index
    async def versions(self, asked: Listing) -> Page[VersionFacts]:
        """A page of the stored versions. ValueError: a malformed glob, or a cursor that is none."""
        return await self._store.control.versions(asked)

    @_index
    async def version(self, module: str, version: str) -> VersionFacts | None:
        """What is stored of a version, None where nothing is."""
        return await self._store.control.version(module, version)

    @_index
    async def purge(self, selection: Selection, *, forget_hash: bool, dry_run: bool) -> Removal:
        """Remove what is selected; no request after this is answered from it, nor by a fetch begun before.

        ValueError: a malformed glob.
        """
        purge = await self._store.purges.choose(selection, forget_hash=forget_hash, dry_run=dry_run)
        return await self._purge(purge, dry_run=dry_run)

    @_index
    async def purge_version(
        self, module: str, version: str, *, forget_hash: bool = False, dry_run: bool = False
    ) -> Removal:
        """As :meth:`purge`, one version."""
        purge = await self._store.purges.choose_versions(
            module, version, forget_hash=forget_hash, dry_run=dry_run
        )
        return await self._purge(purge, dry_run=dry_run)

    @_index
    async def purge_module(self, module: str, *, forget_hash: bool = False, dry_run: bool = False) -> Removal:
        """As :meth:`purge`, all versions of a module."""
        purge = await self._store.purges.choose_versions(
            module, None, forget_hash=forget_hash, dry_run=dry_run
        )
        return await self._purge(purge, dry_run=dry_run)

    def keep_out(self, matches: Callable[[str, str], bool]) -> None:
        """What is being fetched of versions that match is not stored."""
        self._store.fences.add(matches)
        self._proxy.forget(matches)

    async def _purge(self, purge: PurgePlan, *, dry_run: bool) -> Removal:
        if dry_run:
            return await self._store.purges.foretell(purge)

        def concerned(module: str, version: str) -> bool:
            return self._store.fences.bars(purge.since, module, version)

        if self._doubt is not None:
            await self._doubt(purge.modules)
        # Only now, when no older fetch can be stored any more; and once more, for a fetch begun meanwhile may
        # have found what was on its way out, or an answer have been prepared.
        self._proxy.forget(concerned)
        removal = await self._store.purges.remove(purge)
        self._proxy.forget(concerned)
        return removal

    @_index
    async def evict(self, target_bytes: int | None, *, dry_run: bool) -> Eviction:
        """Evict to a size, the low water mark where None; returns when that is done."""
        return await self._store.control.evict(target_bytes, dry_run=dry_run)

    @_index
    async def refresh(self, module: str) -> int:
        """Forget a module's list, @latest, queries and absences; how many answers that were."""
        self._store.fences.add(lambda _m, _v: False)
        absences = await self._proxy.absences(module)
        dropped = await self._store.control.refresh(module)
        self._proxy.forget(lambda _m, _v: False)
        return absences + dropped

    @_index
    async def pins(self) -> Pins:
        """All pins."""
        return await self._store.control.pins()

    @_index
    async def pin(self, pattern: str) -> Pin:
        """Keep versions from eviction. ValueError: a malformed pattern."""
        return await self._store.control.pin(pattern)

    @_index
    async def unpin(self, pattern: str) -> bool:
        """Take back a pin of this API; False where there is none. ValueError as :meth:`pin`."""
        return await self._store.control.unpin(pattern)

    @_index
    async def scrub(self, match: tuple[str, ...] | None, rate: int | None) -> int | None:
        """Begin to check stored files; the pass, None where too many wait. ValueError: a malformed glob."""
        return await self._store.control.scrub(match, rate)

    @_index
    async def cancel_scrub(self, number: int) -> bool:
        """End a scrub that was ordered; False where that pass is none, or has ended."""
        return await self._store.control.cancel_scrub(number)

    @_index
    async def one_pass(self, number: int) -> Pass | None:
        """One pass, None where it is not on record."""
        return await self._store.control.one_pass(number)

    @_index
    async def passes(self, limit: int) -> list[Pass]:
        """The newest passes, newest first."""
        return await self._store.control.passes(limit)

    @_index
    async def snapshots(self) -> list[Snapshot]:
        """All snapshots, oldest first."""
        return await self._store.control.snapshots()

    @_index
    async def snapshot(self, name: str) -> Snapshot | None:
        """Keep a list of what is stored; None: the name is taken."""
        return await self._store.control.snapshot(name)

    @_index
    async def delete_snapshot(self, name: str) -> Snapshot | None:
        """Forget a snapshot, as it was; None: there is none of that name."""
        return await self._store.control.delete_snapshot(name)

    async def vms(self, limit: int, cursor: str | None) -> VmPage:
        """A page of the VMs that have reported. ValueError: a cursor that is none."""
        page = self._store.vms.page(limit, cursor)
        return VmPage(page.items, page.next_cursor, page.total, self._vm_go)

    async def fetches(self, wanted: Sought) -> FetchPage:
        """A page of who got what. ValueError: a cursor that is none; Unavailable: it cannot be read."""
        if self._fetches is None:
            return FetchPage([], None, 0, "off", proxies=False)
        return await self._fetches(wanted)

    @_index
    async def difference(self, a: str, b: str) -> Difference | None:
        """What came and went between snapshots; None: there is no such one."""
        return await self._store.control.difference(a, b)
