"""What each route of the admin API does: validated values in, an operation, its facts out."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from typing import TYPE_CHECKING

from aiohttp import web

from goproxy_vm.admin import bodies, rendering
from goproxy_vm.admin.call import (
    BASE,
    Call,
    Route,
    answer,
    answer_with,
    body_of,
    cursor_of_ours,
    module_and_version,
    no_body,
    pattern_of,
    removal_flags,
)
from goproxy_vm.admin.details import HEADERS, Problem
from goproxy_vm.protocol.artifact import KINDS

if TYPE_CHECKING:
    from goproxy_vm.admin.operations import Operations
    from goproxy_vm.cache.facts import Pass, Pin, Selection

DOCUMENT = "openapi.yaml"


class Actions:
    """The routes, and what they do. ``routes`` are in order: the first that matches is it.

    ``document`` is the OpenAPI document that they are held to.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self.document = resources.files(__package__).joinpath(DOCUMENT).read_bytes()
        self.routes = (
            Route(f"{BASE}/status", {"GET": ("status", self._status)}),
            Route(f"{BASE}/settings", {"GET": ("settings", self._settings)}),
            Route(f"{BASE}/modules", {"GET": ("list", self._versions)}),
            Route(
                f"{BASE}/modules/{{module}}/@v/{{version}}",
                {"GET": ("show", self._version), "DELETE": ("purge", self._purge_version)},
            ),
            Route(f"{BASE}/modules/{{module}}", {"DELETE": ("purge", self._purge_module)}),
            Route(f"{BASE}/purge", {"POST": ("purge", self._purge)}),
            Route(f"{BASE}/evict", {"POST": ("evict", self._evict)}),
            Route(f"{BASE}/refresh", {"POST": ("refresh", self._refresh)}),
            Route(f"{BASE}/pins", {"GET": ("pins", self._pins)}),
            Route(
                f"{BASE}/pins/{{pattern}}",
                {
                    "GET": ("pin", self._one_pin),
                    "PUT": ("pin", self._pin),
                    "DELETE": ("unpin", self._unpin),
                },
            ),
            Route(f"{BASE}/scrub", {"POST": ("scrub", self._scrub)}),
            Route(f"{BASE}/passes", {"GET": ("passes", self._passes)}),
            Route(
                f"{BASE}/passes/{{pass}}",
                {"GET": ("pass", self._one_pass), "DELETE": ("cancel", self._cancel)},
            ),
            Route(
                f"{BASE}/snapshots",
                {"GET": ("snapshots", self._snapshots), "POST": ("snapshot", self._snapshot)},
            ),
            Route(f"{BASE}/snapshots/{{name}}", {"DELETE": ("forget", self._delete_snapshot)}),
            Route(f"{BASE}/snapshots/{{a}}/diff/{{b}}", {"GET": ("diff", self._difference)}),
            Route(f"{BASE}/vms", {"GET": ("vms", self._vms)}),
            Route(f"{BASE}/{DOCUMENT}", {"GET": ("document", self._openapi)}),
        )

    # Reading

    async def _status(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        return answer(rendering.status(await self._operations.status()))

    async def _settings(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        return answer(rendering.in_force(await self._operations.settings()))

    async def _versions(self, call: Call) -> web.Response:
        asked = bodies.listing(call.query)
        with cursor_of_ours(asked.cursor):
            page = await self._operations.versions(asked)
        return answer(rendering.versions(page))

    async def _version(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        module, version = module_and_version(call)
        found = await self._operations.version(module, version)
        if found is None:
            raise Problem(404, f"{module}@{version} is not stored")
        return answer(rendering.version(found))

    async def _pins(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        return answer(rendering.pins(await self._operations.pins()))

    async def _one_pin(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        return answer(rendering.pin(await self._found_pin(pattern_of(call))))

    async def _passes(self, call: Call) -> web.Response:
        limit = bodies.limit_alone(call.query)
        found = await self._operations.passes(limit)
        return answer({"items": [rendering.one_pass(each) for each in found]})

    async def _one_pass(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        return answer(rendering.one_pass(await self._found_pass(bodies.pass_in_path(call.parts["pass"]))))

    async def _snapshots(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        found = await self._operations.snapshots()
        return answer({"items": [rendering.snapshot(each) for each in found]})

    async def _vms(self, call: Call) -> web.Response:
        limit, cursor = bodies.page(call.query)
        with cursor_of_ours(cursor):
            page = await self._operations.vms(limit, cursor)
        return answer(rendering.vms(page))

    async def _difference(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        a, b = call.parts["a"], call.parts["b"]
        found = await self._operations.difference(a, b)
        if found is None:
            there = {"now", *(each.name for each in await self._operations.snapshots())}
            missing = " or ".join(dict.fromkeys(name for name in (a, b) if name not in there))
            raise Problem(404, f"there is no snapshot {missing or f'{a} or {b}'}")
        return answer(rendering.difference(found))

    async def _openapi(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        return web.Response(body=self.document, headers={**HEADERS, "Content-Type": "application/yaml"})

    # Changing

    async def _purge_version(self, call: Call) -> web.Response:
        module, version = module_and_version(call)
        forget_hash = await removal_flags(call)
        removal = await self._operations.purge_version(
            module, version, forget_hash=forget_hash, dry_run=call.dry_run
        )
        return await answer_with(rendering.removal(removal), removal.items, rendering.removed)

    async def _purge_module(self, call: Call) -> web.Response:
        module = bodies.module_in_path(call.parts["module"])
        forget_hash = await removal_flags(call)
        removal = await self._operations.purge_module(module, forget_hash=forget_hash, dry_run=call.dry_run)
        return await answer_with(rendering.removal(removal), removal.items, rendering.removed)

    async def _purge(self, call: Call) -> web.Response:
        asked = bodies.purge(await body_of(call))
        call.what, call.dry_run = _described(asked.selection), asked.dry_run
        removal = await self._operations.purge(
            asked.selection, forget_hash=asked.forget_hash, dry_run=asked.dry_run
        )
        return await answer_with(rendering.removal(removal), removal.items, rendering.removed)

    async def _evict(self, call: Call) -> web.Response:
        asked = bodies.evict(await body_of(call))
        target = "low water" if asked.target_bytes is None else f"{asked.target_bytes} bytes"
        call.what, call.dry_run = f"to {target}", asked.dry_run
        eviction = await self._operations.evict(asked.target_bytes, dry_run=asked.dry_run)
        return await answer_with(rendering.eviction(eviction), eviction.removal.items, rendering.removed)

    async def _refresh(self, call: Call) -> web.Response:
        module = bodies.refresh(await body_of(call))
        call.what = module
        return answer({"module": module, "forgotten": await self._operations.refresh(module)})

    async def _pin(self, call: Call) -> web.Response:
        pattern = pattern_of(call)
        bodies.nothing(await body_of(call, optional=True))
        return answer(rendering.pin(await self._operations.pin(pattern)))

    async def _unpin(self, call: Call) -> web.Response:
        pattern = pattern_of(call)
        bodies.nothing(call.query)
        no_body(call)
        pin = await self._found_pin(pattern)
        if pin.source == "config":
            raise Problem(409, f"{pattern} is pinned by the setting pins, and cannot be unpinned here")
        if not await self._operations.unpin(pattern):
            raise Problem(404, f"{pattern} is not pinned")
        return answer(rendering.pin(pin))

    async def _scrub(self, call: Call) -> web.Response:
        asked = bodies.scrub(await body_of(call))
        call.what = " ".join(asked.match or ("everything",))
        number = await self._operations.scrub(asked.match, asked.rate)
        if number is None:
            raise Problem(
                409,
                "as many ordered scrubs as may have not ended yet: wait for one, or cancel it (see passes)",
            )
        return answer({"pass": number}, status=202)

    async def _cancel(self, call: Call) -> web.Response:
        number = bodies.pass_in_path(call.parts["pass"])
        bodies.nothing(call.query)
        no_body(call)
        cancelled = await self._operations.cancel_scrub(number)
        found = await self._found_pass(number)
        if not cancelled:
            raise Problem(409, f"pass {number} is no scrub that was ordered and has not ended")
        return answer(rendering.one_pass(found))

    async def _snapshot(self, call: Call) -> web.Response:
        name = bodies.snapshot(await body_of(call)) or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        call.what = name
        snapshot = await self._operations.snapshot(name)
        if snapshot is None:
            raise Problem(409, f"there is a snapshot {name} already", field="name")
        return answer(rendering.snapshot(snapshot), status=201)

    async def _delete_snapshot(self, call: Call) -> web.Response:
        name = call.parts["name"]
        bodies.nothing(call.query)
        no_body(call)
        found = await self._operations.delete_snapshot(name)
        if found is None:
            raise Problem(404, f"there is no snapshot {name}")
        return answer(rendering.snapshot(found))

    async def _found_pass(self, number: int) -> Pass:
        found = await self._operations.one_pass(number)
        if found is None:
            raise Problem(404, f"there is no pass {number}")
        return found

    async def _found_pin(self, pattern: str) -> Pin:
        for pin in (await self._operations.pins()).items:
            if pin.pattern == pattern:
                return pin
        raise Problem(404, f"{pattern} is not pinned")


def _described(selection: Selection) -> str:
    """A selection in words, for the audit log."""
    words = list(selection.match or ())
    words += [
        f"{name}={value:.12g}"
        for name, value in (("idle_for", selection.idle_for), ("older_than", selection.older_than))
        if value is not None
    ]
    if selection.larger_than is not None:
        words.append(f"larger_than={selection.larger_than}")
    if len(selection.kinds) < len(KINDS):
        words.append(f"kinds={','.join(selection.kinds)}")
    return " ".join(words)
