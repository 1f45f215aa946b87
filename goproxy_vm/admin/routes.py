"""All routes of the admin API, in order: the first that matches is it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.admin.actions import Actions
from goproxy_vm.admin.advisories import AdvisoryActions
from goproxy_vm.admin.fetches import FetchRoutes
from goproxy_vm.admin.rules import RuleActions

if TYPE_CHECKING:
    from goproxy_vm.admin.call import Route
    from goproxy_vm.admin.gatekeeping import Gatekeeping
    from goproxy_vm.admin.operations import Operations
    from goproxy_vm.proxy.advisories import AdvisoryWatch


def routes(operations: Operations, gate: Gatekeeping, advisories: AdvisoryWatch | None) -> tuple[Route, ...]:
    """Those of the OpenAPI document; ``advisories`` is None where no vulnerability database is mirrored."""
    return (
        *Actions(operations).routes,
        *FetchRoutes(operations).routes,
        *RuleActions(gate).routes,
        *AdvisoryActions(advisories).routes,
    )
