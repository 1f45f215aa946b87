"""The server's life: open the store, start both listeners, stop them cleanly."""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from goproxy_vm import __version__
from goproxy_vm.admin.api import Api
from goproxy_vm.admin.app import ADMIN_CONNECTIONS, LOCAL_CONNECTIONS, admin_app
from goproxy_vm.admin.auth import Guard, admin_token
from goproxy_vm.admin.gatekeeping import Gatekeeping
from goproxy_vm.admin.operations import Operations
from goproxy_vm.admin.routes import routes
from goproxy_vm.admin.serving import NEVER, administer, local_socket
from goproxy_vm.admin.status import Activity, InForce
from goproxy_vm.cache.background import cancel, supervised
from goproxy_vm.cache.store import Store
from goproxy_vm.config import keys
from goproxy_vm.config.token import private_tokens
from goproxy_vm.console.greeting import Serving, greeting, said
from goproxy_vm.errors import StartError
from goproxy_vm.hostos import (
    listen_fds,
    open_files_limit,
    own_names,
)
from goproxy_vm.ledger.ledger import NAME as LEDGER
from goproxy_vm.ledger.ledger import FetchLedger
from goproxy_vm.observe import logs
from goproxy_vm.observe.access import AccessLog
from goproxy_vm.observe.metrics import RULES, Metrics
from goproxy_vm.observe.traffic import Traffic
from goproxy_vm.protocol.loop import new_name
from goproxy_vm.prover import Repacker, ZipProver
from goproxy_vm.proxy.advisories import AdvisoryWatch, open_advisories
from goproxy_vm.proxy.agelimit import AgeLimit
from goproxy_vm.proxy.ages import Ages
from goproxy_vm.proxy.gate import Gate
from goproxy_vm.proxy.mirror import SumdbMirror
from goproxy_vm.proxy.proxy import Proxy
from goproxy_vm.proxy.rulebook import Rulebook
from goproxy_vm.proxy.sources import Sources
from goproxy_vm.proxy.toolchains import Toolchains
from goproxy_vm.sumdb.proof import Proofs
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.dates import DatedClock
from goproxy_vm.upstream.direct.dial import Roads
from goproxy_vm.upstream.upstream import Pace
from goproxy_vm.web.connections import Connections
from goproxy_vm.web.forwarded import Forwarded
from goproxy_vm.web.front import Front
from goproxy_vm.web.handler import Handler
from goproxy_vm.web.http_protocol import HttpProtocol
from goproxy_vm.web.listener import Bound, Listener, bind, reachable, url_of
from goproxy_vm.web.shares import most_connections, most_kept, most_of_one
from goproxy_vm.web.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from goproxy_vm.config import Settings, Shown
    from goproxy_vm.sumdb.client import ChecksumDatabase

RELOADED = (
    "admin_token",
    "admin_token_file",
    "allow",
    "allow_clients",
    "client_names",
    "deny",
    "ledger",
    "ledger_keep",
    "ledger_rows",
    "log_level",
    "min_age",
    "min_age_exempt",
    "min_age_private",
    "min_age_unproven",
    "pins",
    "private_clients",
    "private_tokens_file",
)
"""Settings that SIGHUP puts into force; all others need a restart."""
READERS = 4
"""Threads that read stored files for answers."""

log = logs.get_logger("server")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The settings that changed: those in force now, and those that need a restart."""

    applied: list[str]
    restart: list[str]


class Server:
    """A running server: ``start`` to its listeners, ``stop`` to a clean end.

    ``url`` and ``admin_url`` are the real addresses, with the port that port 0 became; ``admin_socket`` is
    the path of the socket in the cache directory, None where it is not served.
    """

    def __init__(
        self,
        settings: Settings,
        in_force: InForce | None = None,
        *,
        open_store: Callable[..., Awaitable[Store]] = Store.open,
        roads: Roads | None = None,
        pace: Pace | None = None,
        clock: DatedClock | None = None,
    ) -> None:
        """``in_force`` is what the admin API tells of the settings, by default nothing. ``open_store`` is
        called as :meth:`Store.open`; ``roads`` lead to version control, by default as this host's do;
        ``pace`` is the clock by which upstreams are tried again, ``clock`` the one by which versions age."""
        self._clock = clock or DatedClock()
        self._roads = roads or Roads()
        self._pace = pace
        self._settings = settings
        self._open_store = open_store
        self.in_force = in_force or InForce()
        self._stack = AsyncExitStack()
        self._name = new_name()
        self.url = ""
        self.urls: list[str] = []
        self.admin_url = ""
        self.admin_socket: str | None = None
        self.metrics = Metrics(__version__)
        self.store: Store
        self.ages: Ages
        self.database: ChecksumDatabase | None = None
        self.proxy: Proxy
        self.mirror: SumdbMirror | None = None
        self.advisories: AdvisoryWatch | None = None
        self.operations: Operations
        self._reloading = asyncio.Lock()

    async def start(self) -> None:
        """Open the store, then listen. Raises StartError; what was opened is closed again."""
        async with AsyncExitStack() as stack:
            await self._start(stack)
            self._stack = stack.pop_all()

    async def stop(self) -> None:
        """Stop listening, let answers under way finish within ``shutdown_timeout``, close the store."""
        await self._stack.aclose()

    async def greeting(self, command: str) -> str:
        """What a person is told who starts it, as soon as each upstream was tried; ``command`` as in
        :class:`Serving`."""
        settings = self._settings
        trials = {each.name: each for each in await self._upstreams_in_use.trials()}
        return greeting(
            Serving(
                version=__version__,
                url=settings.public_url or await asyncio.to_thread(reachable, self.urls),
                admin_url=self.admin_url,
                directory=str(settings.cache_dir),
                used_bytes=self.store.usage.used,
                limit_bytes=self.store.admission.limits.total,
                upstreams=[
                    (name, "not asked: offline" if settings.offline else said(trials.get(name)))
                    for name in self._upstreams_in_use.names
                ],
                database=settings.sumdb.name if settings.sumdb else "",
                command=command,
            )
        )

    async def reload(self, settings: Settings, origins: Mapping[str, Shown] | None = None) -> Reloaded:
        """Put into force what may change while others keep their connections (:data:`RELOADED`).

        ``origins`` are the settings as they are shown.

        ConfigError or StartError: a file of tokens; sqlite3.Error: the pins. Nothing has changed then.
        """
        async with self._reloading:
            before = self._settings
            token = await asyncio.to_thread(admin_token, settings)
            tokens = await asyncio.to_thread(private_tokens, settings.private_tokens_file)
            changed = [name for name in keys() if getattr(before, name) != getattr(settings, name)]
            kept = {name: getattr(before, name) for name in changed if name not in RELOADED}
            if settings.pins != before.pins:
                await self.store.control.configure_pins(replace(before, pins=settings.pins).pinned)
            await self._ledger.change(replace(settings, **kept))
            logs.set_level(settings.log_level)  # from here on nothing waits
            for guard in self._guards:
                guard.change(token)
            self.ages.change(settings)
            self._gate.change(settings, tokens)
            self._handler.networks = settings.allow_clients
            if self._front is not None:
                self._front.networks = settings.allow_clients
            self._connections.reconsider()
            self._settings = replace(settings, **kept)
            told = {name: each for name, each in (origins or {}).items() if name not in kept}
            self.in_force = replace(self.in_force, settings={**self.in_force.settings, **told})
            return Reloaded([name for name in changed if name in RELOADED], list(kept))

    async def _info(self, module: str, version: str) -> bytes:
        return await self.proxy.info(module, version)

    async def _fixed(self, module: str, version: str) -> bool:
        """Whether an advisory names a version as one that fixes something."""
        known = await self.advisories.learn(module, version) if self.advisories is not None else None
        return known is not None and known.fixed(module, version) is not None

    async def _start(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        main, admin = self._sockets(stack)
        store = await self._open_store(
            settings.cache_dir, settings, observer=self.metrics, wall=self._clock.latest
        )
        stack.push_async_callback(store.close)
        self.store = store
        prover = ZipProver()
        await prover.start()
        stack.push_async_callback(prover.close)
        reader = ThreadPoolExecutor(READERS, "answer-reader")
        stack.callback(reader.shutdown)
        # Both kinds need one at the least.
        slots = FairSlots(max(2, settings.max_misses), max(1, settings.max_misses // 4))
        sources = await Sources.open(
            stack, settings, store, slots, self.metrics, self._name, self._roads, self._pace, self._clock
        )
        self._upstreams_in_use = upstreams = sources.upstreams
        database, direct = sources.database, sources.direct
        proofs = Proofs(settings, store, database, self.metrics)
        self.database = database
        history = database.history if database else None
        self.ages = Ages(settings, store, proofs, self._clock, history, info=self._info)
        self._gate = gate = Gate(
            settings, await asyncio.to_thread(private_tokens, settings.private_tokens_file), self.ages
        )

        def ruled() -> None:
            for kind in RULES:
                self.metrics.rules(kind, gate.count(kind))

        gate.watch(ruled)
        ruled()
        rulebook = Rulebook(settings.cache_dir.absolute(), gate.rule)
        await asyncio.to_thread(rulebook.load)
        stack.push_async_callback(cancel, asyncio.create_task(supervised(rulebook.run), name="rulebook"))
        limit = AgeLimit(gate, self.ages, self._fixed)
        proxy = Proxy(settings, gate, store, upstreams, prover, proofs, slots, sources.private, limit)
        stack.push_async_callback(proxy.close)
        self.proxy = proxy
        store.recover(proxy.intake.prove_stray)
        mirror = None
        if database is not None:
            self.mirror = mirror = SumdbMirror(settings, gate, database, proofs, slots)
            stack.push_async_callback(mirror.close)
        advisories = open_advisories(stack, settings, gate, store, sources.vulndb, slots)
        self.advisories = advisories
        toolchains = Toolchains(proxy, store, Repacker())
        stack.push_async_callback(toolchains.close)
        access = AccessLog(settings.access_log)
        access.start()
        stack.callback(access.stop)
        self._ledger = ledger = FetchLedger(settings.cache_dir.absolute() / LEDGER, settings)
        stack.push_async_callback(ledger.close)
        await ledger.open()
        stack.push_async_callback(cancel, asyncio.create_task(supervised(ledger.run), name="ledger"))
        self.metrics.watch_ledger(lambda: ledger.figures)
        forwarded = Forwarded(
            settings.trusted_proxies, own_names() | {address.host for address in settings.listen}
        )
        open_files = open_files_limit(0) or sys.maxsize
        front = None
        if settings.fast_path:
            front = Front(
                proxy,
                Tally(self.metrics, access, ledger.notes),
                reader,
                store.touch,
                settings.allow_clients,
                forwarded,
                most_kept(open_files),
            )
            stack.push_async_callback(front.close)
            store.watch(front.forget)
            gate.watch(partial(front.forget, None))
            store.records.watch(front.forget_records)
            proxy.watch(front.forget_documents)
        handler = Handler(
            settings,
            store,
            proxy,
            mirror,
            self.metrics,
            upstreams.names,
            self._name,
            reader,
            access,
            ledger.notes,
            forwarded,
            toolchains,
            front,
            advisories.mirror if advisories else None,
        )
        server = web.Server(handler, handler_cancellation=True)
        in_all = most_connections(open_files, settings.max_misses)
        connections = Connections(
            lambda: HttpProtocol(
                server, handler.malformed, access_log=None, keepalive_timeout=NEVER, lingering_time=0
            ),
            front,
            most=most_of_one(in_all, settings.max_client_connections),
            in_all=in_all,
            send_timeout=settings.send_timeout,
            refused=handler.refused,
            exempt=forwarded.trusts,
            pressed=lambda: store.waits_for_readers,
        )
        listener = Listener(server, connections, main)
        traffic = Traffic(self.metrics.served)
        stack.push_async_callback(cancel, asyncio.create_task(supervised(traffic.run), name="traffic"))

        def activity() -> Activity:
            return Activity(
                since_start=traffic.since_start,
                last_day=traffic.last_day,
                requests_per_second=traffic.rate,
                addresses=connections.addresses,
                connections=len(connections),
                upstreams=[*upstreams.conditions(), *(direct.condition() if direct else [])],
                database=None if database is None else (database.name, database.condition),
                rules={kind: gate.count(kind) for kind in RULES},
                aging=self.ages.aging,
            )

        operations = Operations(
            store,
            proxy,
            __version__,
            lambda: (
                (mirror.fetches_in_flight if mirror else 0)
                + (advisories.mirror.fetches_in_flight if advisories else 0)
            ),
            activity,
            lambda: replace(self.in_force, urls=self.urls, admin_url=self.admin_url),
            direct.forget if direct else None,
            settings.vm_go,
            ledger.page,
        )
        self.operations = operations
        token = await asyncio.to_thread(admin_token, settings)
        guards = [Guard(token), Guard(token, users={0, os.geteuid()})]
        self._guards, self._handler, self._front, self._connections = guards, handler, front, connections
        every = routes(operations, Gatekeeping(gate, rulebook, proxy, operations), advisories)

        async def serve_admin(guard: Guard, sockets: list[Bound], most: int) -> None:
            api = Api(every, guard)
            app = admin_app(
                store, self.metrics, lambda: operations.fetches_in_flight, api, self.ages, advisories
            )
            await administer(stack, app, sockets, most, settings.send_timeout)

        await serve_admin(guards[0], admin, ADMIN_CONNECTIONS)
        local = local_socket(stack, settings.cache_dir, admin)
        if local is not None:
            await serve_admin(guards[1], [local], LOCAL_CONNECTIONS)
            self.admin_socket = local.sock.getsockname()
        listener.start()
        stack.push_async_callback(listener.stop, settings.shutdown_timeout)
        self.urls = listener.urls
        self.url = listener.urls[0]
        self.admin_url = url_of(admin[0].sock)

    def _sockets(self, stack: AsyncExitStack) -> tuple[list[Bound], list[Bound]]:
        """What to listen on: sockets handed over by systemd first, else what the settings name."""
        try:
            handed = listen_fds()
        except OSError as error:
            raise StartError(f"LISTEN_FDS: {error.strerror}") from None
        for _, sock in handed:
            stack.callback(sock.close)
        main = [Bound(sock) for name, sock in handed if name != "admin"]
        admin = [Bound(sock) for name, sock in handed if name == "admin"]
        for address in () if main else self._settings.listen:
            main.append(bind(address, "listen"))
            stack.callback(main[-1].close)
        if not admin:
            admin.append(bind(self._settings.admin_listen, "admin_listen"))
            stack.callback(admin[-1].close)
        return main, admin
