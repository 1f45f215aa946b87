"""All routes of the admin API, in order: the first that matches is it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.admin.actions import Actions
from goproxy_vm.admin.rules import RuleActions

if TYPE_CHECKING:
    from goproxy_vm.admin.call import Route
    from goproxy_vm.admin.gatekeeping import Gatekeeping
    from goproxy_vm.admin.operations import Operations


def routes(operations: Operations, gate: Gatekeeping) -> tuple[Route, ...]:
    """Those of the OpenAPI document."""
    return (*Actions(operations).routes, *RuleActions(gate).routes)
