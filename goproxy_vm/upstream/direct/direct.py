"""Modules from version control, as sources like any other: runs that many share, few at a time."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.errors import ChecksumMismatch, GoproxyError, StartError, UpstreamTimeout
from goproxy_vm.lru import Lru
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.upstream.direct import judge
from goproxy_vm.upstream.direct.clones import Clones
from goproxy_vm.upstream.direct.dial import Dial, Roads
from goproxy_vm.upstream.direct.egress import Egress
from goproxy_vm.upstream.direct.fetch import Fetcher, Stopped
from goproxy_vm.upstream.direct.find import find_git, find_goroot
from goproxy_vm.upstream.direct.forgotten import Forgotten
from goproxy_vm.upstream.direct.hosts import Hosts
from goproxy_vm.upstream.direct.jail import landlock_abi
from goproxy_vm.upstream.direct.joint import Joint, Slots, Wanted
from goproxy_vm.upstream.direct.place import make_bundle, make_directories, remove_tree, vcs_directory
from goproxy_vm.upstream.direct.policy import Rules
from goproxy_vm.upstream.direct.run import adopt_orphans
from goproxy_vm.upstream.direct.source import DirectSource
from goproxy_vm.upstream.environment import Environment
from goproxy_vm.upstream.failure import Failure
from goproxy_vm.upstream.session import trusted
from goproxy_vm.waiting import to_the_end

if TYPE_CHECKING:
    from goproxy_vm.upstream.backoff import Condition
    from goproxy_vm.upstream.direct.answer import Found, Kind
    from goproxy_vm.upstream.direct.options import Options
    from goproxy_vm.upstream.direct.policy import Target
    from goproxy_vm.upstream.source import Source

KEPT_SECONDS = 60.0
"""How long what a run brought besides is good for: go asks for a version's files one after the other."""
KEPT_MOST = 256
"""Versions of which it is kept."""
KEPT_BYTES = 64 << 10
"""Bytes of the info and mod of one version, up to which they are kept."""

log = get_logger("upstream")


class Direct:
    """Fetches modules by the go command; one per server. :meth:`start` it; one event loop.

    ``slots``: who of those that wait is next, ``public``: of those that want public modules, if they have
    slots of their own; ``room``: False while the disk has none to spare; ``roads``:
    names and connections, otherwise those of this host; ``environ``: names the proxies on the
    way out; ``known_mod``: the h1 of a version's ``.mod`` that is stored, or ""; ``confined``: by Landlock,
    where the kernel has it.
    """

    def __init__(
        self,
        options: Options,
        slots: Slots,
        *,
        public: Slots | None = None,
        room: Callable[[], bool] = lambda: True,
        roads: Roads | None = None,
        environ: Mapping[str, str] = os.environ,
        known_mod: Callable[[str, str], Awaitable[str]] | None = None,
        confined: bool = True,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._slots = {True: slots, False: public or slots}
        self._room = room
        self._roads = roads or Roads()
        self._environ = environ
        self._known_mod = known_mod
        self._confined = confined
        self._now = now
        self._rules = Rules(options)
        self._runs = options.root / "runs"
        self._hosts = {private: Hosts(now, options.stall) for private in (True, False)}
        self._joints: dict[tuple[bool, str, str, str], Joint] = {}
        """Those that others may join."""
        self._running: set[Joint] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._kept: Lru[tuple[bool, str, str], tuple[float, Found]] = Lru(KEPT_MOST)
        self._forgotten = Forgotten(options.root / "forgotten")
        self._processes = asyncio.Semaphore(options.processes)
        """Whatever the slots allow."""
        self._egress: Egress | None = None
        self._fetcher: Fetcher | None = None

    async def start(self) -> None:
        """Empty the directory of runs, mend the clones, and listen on the loopback.

        StartError: go, git, git_home, a directory, or what the environment says of proxies cannot be used.
        """
        options = self._options
        environment = await asyncio.to_thread(Environment, self._environ)
        trust = await asyncio.to_thread(trusted, options.ca_file)
        directories = tuple(vcs_directory(options.root, private=private) for private in (True, False))
        clones = Clones(directories, options.max_size)
        bundle = options.root / "certificates.pem"
        certificates = partial(make_bundle, options.ca_file, self._environ, bundle)
        goroot = await asyncio.to_thread(self._prepare, clones, bundle, certificates)
        dial = Dial(environment, trust, options.connect, self._roads)
        egress = Egress(dial, options.processes)
        try:
            await egress.start()
        except OSError as error:
            raise StartError(f"no port for fetches from version control: {error.strerror}") from error
        adopt_orphans()
        if self._confined and not landlock_abi():
            log.warning("no landlock", consequence="go and git can read what this server can")
        self._egress = egress
        self._fetcher = Fetcher(
            options,
            egress,
            clones,
            goroot,
            certificates,
            room=self._room,
            now=self._now,
            confined=self._confined,
        )

    async def close(self) -> None:
        """End every run with all that it started, and close the gate. What still waits for one fails."""
        self._fetcher = None
        joints = list(self._running)
        self._joints.clear()
        self._running.clear()
        for joint in joints:
            joint.task.cancel()
        await asyncio.gather(*(joint.task for joint in joints), return_exceptions=True)
        for joint in joints:
            await asyncio.to_thread(remove_tree, joint.directory)
        await asyncio.gather(*self._leaving)
        if self._egress is not None:
            await self._egress.close()

    def source(self, *, private: bool) -> Source:
        """Where private modules come from, with credentials; or public ones, without."""
        return DirectSource(self, private=private)

    def condition(self) -> list[tuple[str, Condition]]:
        """How each host of private modules does."""
        return self._hosts[True].conditions([f"{host}:443" for host in self._rules.private_hosts])

    def traffic(self, *, private: bool) -> tuple[int, int]:
        """Bytes that came for private modules or for public ones, and connections that were made."""
        return (0, 0) if self._fetcher is None else self._fetcher.traffic(private=private)

    async def forget(self, modules: Collection[str]) -> None:
        """Do not believe what is known of modules here: an operator has purged them. Who asks from now on
        joins no run that is under way, and the next one asks the server for everything, for a clone that is
        there keeps tags as they were."""
        for key in self._kept:
            if key[1] in modules:
                self._kept.forget(key)
        for wanted, joint in list(self._joints.items()):
            if joint.wanted.target.module in modules:
                joint.outdated = True
                del self._joints[wanted]
        await self._forgotten.add([module for module in modules if self._rules.fetches(module)])

    @asynccontextmanager
    async def found(
        self, module: str, query: str, kind: Kind, *, private: bool, client: str
    ) -> AsyncIterator[Found]:
        """What a run brings, for as long as the context lasts. ``query``: a version, or what may stand for
        one; ``client``: on whose behalf. Raises Failure."""
        try:
            target = self._rules.target(module, private=private)
        except GoproxyError as error:
            raise Failure(error, judge.outcome_of(type(error))) from None
        wanted = Wanted(target, query, kind)
        kept = self._kept.get((private, module, query))
        if kind == "stat" and kept is not None and self._now() - kept[0] < KEPT_SECONDS:
            yield kept[1]
            return
        async with self._joined(wanted, client) as found:
            yield found

    @asynccontextmanager
    async def _joined(self, wanted: Wanted, client: str) -> AsyncIterator[Found]:
        joint = self._joints.get(wanted.key)
        if joint is None:
            joint = self._begin(wanted, client)
        else:
            joint.claim.lend(client)
        joint.waiters += 1
        try:
            try:
                found = await asyncio.shield(joint.task)
            except Failure as failure:  # each who waits has an error of its own
                raise Failure(_again(failure.error), failure.outcome) from failure
            except asyncio.CancelledError:
                if joint.task.cancelled():
                    raise judge.STOPPING.failure(wanted.what) from None
                raise
            yield found
        finally:
            joint.waiters -= 1
            if not joint.waiters:
                if self._joints.get(wanted.key) is joint:
                    del self._joints[wanted.key]
                self._running.discard(joint)
                leaving = asyncio.create_task(_left(joint))
                self._leaving.add(leaving)
                leaving.add_done_callback(self._leaving.discard)
                await to_the_end(leaving)

    def _begin(self, wanted: Wanted, client: str) -> Joint:
        fetcher = self._fetcher
        if fetcher is None:
            raise judge.STOPPING.failure(wanted.what)
        if trouble := self._hosts[wanted.target.private].trouble(wanted.target.first):
            raise trouble.failure(wanted.what)
        try:
            full = not self._room()
        except OSError as error:
            raise judge.of_disk(error).failure(wanted.what) from error
        if full:
            raise judge.FULL.failure(wanted.what)
        joint = Joint(
            wanted, self._runs / secrets.token_hex(8), self._slots[wanted.target.private].claim(client)
        )
        joint.task = asyncio.create_task(self._run(fetcher, joint), name="direct")
        self._joints[wanted.key] = joint
        self._running.add(joint)
        return joint

    async def _run(self, fetcher: Fetcher, joint: Joint) -> Found:
        wanted, target = joint.wanted, joint.wanted.target
        hosts = self._hosts[target.private]
        try:
            async with joint.claim.hold(2 * self._options.timeout), self._processes:
                found = await self._fetch(fetcher, joint)
        except Stopped as stopped:
            ruling = stopped.ruling
            if stopped.down:
                hosts.failed(target.first, ruling)
            elif stopped.answered:
                hosts.succeeded(target.first)
            raise ruling.failure(wanted.what) from stopped
        except UpstreamTimeout:
            raise judge.LATE.failure(wanted.what) from None
        except GoproxyError as error:
            raise Failure(error, judge.outcome_of(type(error))) from None
        except OSError as error:
            log.warning("direct fetch broke off", module=target.module, reason=error.strerror)
            raise judge.of_disk(error).failure(wanted.what) from error
        hosts.succeeded(target.first)
        return found

    async def _fetch(self, fetcher: Fetcher, joint: Joint) -> Found:
        wanted, target = joint.wanted, joint.wanted.target
        found = await fetcher.fetch(
            target,
            wanted.query,
            wanted.kind,
            joint.directory,
            fresh=lambda: target.module in self._forgotten,
            renewed=partial(self._renewed, joint),
        )
        if not joint.outdated:
            if wanted.kind == "zip":
                await self._compare(wanted, found)
            self._keep(target, found)
        return found

    async def _renewed(self, joint: Joint) -> None:
        """Its module's clone was made from nothing, by a run that began after any purge."""
        if not joint.outdated:
            await self._forgotten.remove(joint.wanted.target.module)

    async def _compare(self, wanted: Wanted, found: Found) -> None:
        """A zip is of the commit that the version's mod was of, or it is not taken."""
        key = (wanted.target.private, wanted.target.module, wanted.query)
        kept = self._kept.get(key)
        got = h1_mod(found.mod)
        recorded = h1_mod(kept[1].mod) if kept else ""
        if not kept and self._known_mod is not None:
            recorded = await self._known_mod(wanted.target.module, wanted.query)
        if (kept and {kept[1].commit, found.commit} - {""} - {found.commit}) or recorded not in ("", got):
            self._kept.forget(key)
            moved = f"{wanted.what}: its tag has moved: the zip is of another commit than its go.mod"
            raise Failure(ChecksumMismatch(moved, recorded=recorded, got=got), "content")

    def _keep(self, target: Target, found: Found) -> None:
        if found.version and len(found.info) + len(found.mod) <= KEPT_BYTES:
            besides = replace(found, zip=None, versions=())
            self._kept.keep((target.private, target.module, found.version), (self._now(), besides))

    def _prepare(self, clones: Clones, bundle: Path, certificates: Callable[[], Path | None]) -> Path:
        """The directories, and where go keeps its own files (blocking). StartError."""
        options = self._options
        find_git()
        goroot = find_goroot(options.go)
        if options.git_home is not None:
            check_home(options.git_home, os.geteuid())
        try:
            remove_tree(self._runs)
            make_directories(options.root)
            self._forgotten.load()
            bundle.unlink(missing_ok=True)  # what is trusted may be another now
            certificates()
            clones.sweep()
            clones.clear_out()
        except OSError as error:
            raise StartError(f"{error.filename or options.root}: {error.strerror}") from error
        return goroot


def _again(error: GoproxyError) -> GoproxyError:
    """The same error once more: whoever passes one on may say more in it."""
    another = type(error).__new__(type(error), *error.args)
    vars(another).update(vars(error))
    return another


async def _left(joint: Joint) -> None:
    """Nobody waits for it any more."""
    joint.task.cancel()
    await asyncio.wait((joint.task,))
    if not joint.task.cancelled():
        joint.task.exception()  # seen
    await asyncio.to_thread(remove_tree, joint.directory)


def check_home(home: Path, owner: int) -> None:
    """StartError unless nobody but ``owner`` can read or change what is in ``git_home`` (blocking)."""
    try:
        facts = home.stat()
        is_directory = home.is_dir()
    except OSError as error:
        raise StartError(f"git_home: {home}: {error.strerror}") from error
    if not is_directory:
        raise StartError(f"git_home: {home} is no directory")
    if facts.st_uid != owner:
        raise StartError(f"git_home: {home} belongs to another user")
    if facts.st_mode & 0o077:
        raise StartError(f"git_home: {home} is open to others (chmod 700 it)")
