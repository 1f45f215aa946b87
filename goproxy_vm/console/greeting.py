"""What a server says on a terminal when it begins to serve: the line to copy first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.config.text import size
from goproxy_vm.console.tables import bound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from goproxy_vm.upstream.probe import Trial


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that has begun to serve.

    ``url`` is the one that VMs use, "" where none reaches this server; ``upstreams`` has, for each, its name
    and what came of the first try; bytes are those of the store.
    """

    version: str
    url: str
    admin_url: str
    directory: str
    used_bytes: int
    limit_bytes: int
    upstreams: Sequence[tuple[str, str]]
    database: str


def greeting(serving: Serving) -> str:
    """The text, some lines."""
    upstreams = list(serving.upstreams) or [("none", "only what is stored is served")]
    width = max(len(name) for name, _ in upstreams)
    vm = f"go env -w GOPROXY={serving.url}" if serving.url else "none reaches it (setting listen)"
    rows = [
        ("on each VM", vm),
        *((("upstreams", "")[n > 0], f"{name:{width}}  {said}") for n, (name, said) in enumerate(upstreams)),
        ("checksums", f"proven by {serving.database}" if serving.database else "not proven (sumdb = off)"),
        ("cache", f"{serving.directory}: {size(serving.used_bytes)} of {bound(serving.limit_bytes)} used"),
        ("admin", f"goproxy-vm status (at {serving.admin_url})"),
    ]
    lines = [f"goproxy_vm {serving.version} serves; Ctrl-C ends it", ""]
    return "\n".join([*lines, *(f"  {name:10}  {text}" for name, text in rows), ""])


def said(trial: Trial | None) -> str:
    """What came of trying an upstream, in words; None: it was not tried."""
    if trial is None:
        return "not tried: a directory, or behind a proxy"
    return f"trouble: {trial.trouble}" if trial.trouble else f"ok, {max(1, round(trial.seconds * 1000))} ms"
