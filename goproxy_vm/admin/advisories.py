"""Which stored versions advisories are about: the route, and its answer (docs/vulnerabilities.md)."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Any

from goproxy_vm.admin import bodies
from goproxy_vm.admin.call import BASE, Call, Route, answer
from goproxy_vm.admin.details import Problem, malformed
from goproxy_vm.admin.rendering import timestamp
from goproxy_vm.errors import Absent, GoproxyError, Unavailable

if TYPE_CHECKING:
    from aiohttp import web

    from goproxy_vm.protocol.osv import Exposure
    from goproxy_vm.proxy.advisories import AdvisoryWatch, VulnerableVersion

Json = dict[str, Any]

ADVISORY = re.compile(r"GO-[0-9]{4}-[0-9]{4,8}", re.ASCII)


class AdvisoryActions:
    """``watch`` is None where no vulnerability database is mirrored."""

    def __init__(self, watch: AdvisoryWatch | None) -> None:
        self._watch = watch
        self.routes = (
            Route(f"{BASE}/vulnerabilities", {"GET": ("vulns", self._vulnerabilities)}),
            Route(f"{BASE}/advisories/{{id}}", {"GET": ("advisory", self._advisory)}),
        )

    async def _advisory(self, call: Call) -> web.Response:
        bodies.nothing(call.query)
        if self._watch is None:
            raise Problem(404, "no vulnerability database is mirrored here (setting vulndb)")
        id_ = call.parts["id"]
        if not ADVISORY.fullmatch(id_):
            raise malformed("id", "expected one like GO-2026-1234")
        try:
            found = await self._watch.advisory(id_)
        except Absent:
            raise Problem(404, f"there is no advisory {id_}") from None
        except GoproxyError as error:
            raise Problem(503, error.sentence) from None
        members = {"id": found.id, "summary": found.summary, "aliases": list(found.aliases)}
        return answer({**members, "withdrawn": found.withdrawn, "rules": found.rules()})

    async def _vulnerabilities(self, call: Call) -> web.Response:
        limit, cursor = bodies.page(call.query)
        watch = self._watch
        if watch is None:
            raise Problem(404, "no vulnerability database is mirrored here (setting vulndb)")
        # Later pages are of the report that the first one was of.
        report = None if cursor is None else watch.report
        if report is None:
            try:
                report = await watch.look()
            except sqlite3.Error as error:
                raise Unavailable(f"this host cannot use its index now: {error}") from error
        try:
            items, more = report.page(limit, cursor)
        except ValueError as error:
            raise malformed("cursor", str(error)) from None
        return answer(
            {
                "database": {"url": watch.url, "modified": timestamp(report.modified)},
                "checked": timestamp(report.checked),
                "unread": len(report.unread),
                "items": [_version(each) for each in items],
                "next_cursor": more,
                "total": report.total,
            }
        )


def _version(each: VulnerableVersion) -> Json:
    return {
        "module": each.module,
        "version": each.version,
        "advisories": [_exposure(one) for one in each.exposures],
    }


def _exposure(one: Exposure) -> Json:
    return {
        "id": one.id,
        "summary": "" if one.advisory is None else one.advisory.summary,
        "aliases": [] if one.advisory is None else list(one.advisory.aliases),
        "fixed": one.fixed or None,
    }
