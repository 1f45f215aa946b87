"""What a server says on a terminal when it begins to serve: the line to copy first."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.config import ENVIRONMENT_PREFIX, file_of_settings, load
from goproxy_vm.config.text import size
from goproxy_vm.console.client import admin_url
from goproxy_vm.console.tables import bound
from goproxy_vm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from goproxy_vm.config import Loaded
    from goproxy_vm.upstream.probe import ProbeResult


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that has begun to serve.

    ``url`` is the one that VMs use, "" where none reaches this server; ``upstreams`` has, for each, its name
    and what came of the first try; bytes are those of the store; ``command`` asks it how it is.
    """

    version: str
    url: str
    admin_url: str
    directory: str
    used_bytes: int
    limit_bytes: int
    upstreams: Sequence[tuple[str, str]]
    database: str
    command: str


def status_command(
    loaded: Loaded, environ: Mapping[str, str], program: str, url: str, *, socket: bool
) -> str:
    """The command that asks this server how it is, as a shell in any directory takes it (blocking).

    ``loaded`` is what the server was started with; ``program`` is ``sys.argv[0]``; ``url`` where its admin
    listener is; ``socket`` says that it also serves the socket in its cache directory. Flags say only what a
    command would not find by itself where the variables that set up this server are not set.
    """
    there = Path(program).absolute()
    if there.name == "__main__.py":
        words = [sys.executable, "-m", "goproxy_vm"]
    else:
        words = [there.name if shutil.which(there.name) == str(there) else str(there)]
    words.append("status")
    named = loaded.file.path if loaded.file is not None and loaded.file.origin != "default" else None
    others = {
        name: value
        for name, value in environ.items()
        if not name.startswith(ENVIRONMENT_PREFIX) and name != "CACHE_DIRECTORY"
    }
    try:
        found = load({}, others, file_of_settings(named, others)).settings
        file = named
    except ConfigError:  # flags or variables have overridden what is wrong there
        found, file = None, Path(os.devnull)
    if file is not None:
        words += ["--config", str(file.absolute())]
    if found is None or found.cache_dir != loaded.settings.cache_dir:
        words += ["--cache-dir", str(loaded.settings.cache_dir)]
    if not socket and (found is None or admin_url(found.admin_listen) != url):
        words += ["--admin-url", url]
    return shlex.join(words)


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
        ("admin", f"{serving.command} (at {serving.admin_url})"),
    ]
    lines = [f"goproxy_vm {serving.version} serves; Ctrl-C ends it", ""]
    return "\n".join([*lines, *(f"  {name:10}  {text}" for name, text in rows), ""])


def said(trial: ProbeResult | None) -> str:
    """What came of trying an upstream, in words; None: it was not tried."""
    if trial is None:
        return "not tried: a directory, or behind a proxy"
    return f"trouble: {trial.trouble}" if trial.trouble else f"ok, {max(1, round(trial.seconds * 1000))} ms"
