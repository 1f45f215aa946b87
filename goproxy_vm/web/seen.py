"""``/vm/seen``: a VM's script tells what Go the VM has, and how large its caches are (docs/vms.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.protocol.report import parse_report
from goproxy_vm.proxy.answer import UNCACHEABLE, Answer, Result

if TYPE_CHECKING:
    from goproxy_vm.cache.vms import KnownVms

PATH = "/vm/seen"
"""No module file's path: it has no ``/@``."""


def seen(vms: KnownVms, client: str, query: str, *, keep: bool) -> Answer:
    """The answer to a report, which says nothing; ``query`` as it came on the wire. MalformedReport.

    ``keep``: it is noted, and not looked at alone.
    """
    report = parse_report(query)
    if keep:
        vms.seen(client, report)
    return Answer(b"", "text/plain; charset=utf-8", UNCACHEABLE, "detail=page", Result.HIT)
