"""Hits spread over many files, each of which is asked for a few times, or once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import load
from benchmarks.servers import SERVER_CORE, Target, fetch, nginx, ours, peer, plain
from benchmarks.stored import populate
from goproxy_vm.protocol.artifact import Kind

if TYPE_CHECKING:
    from argparse import Namespace

PATTERNS = {"uniform": (32, 256), "zipf:0.9": (32,), "once": (32,)}
"""How files are asked for, and by how many connections."""
KINDS = {"mod": (Kind.MOD, 800), "info": (Kind.INFO, 150)}
"""What else than zips of some kB a set may be of, and the bytes of each."""
MOST_KEPT = 10_000
"""Files that nginx keeps open at most: a process may not open any number."""
SCRIPT = Path(__file__).with_name("wide.lua")

Start = Callable[[], AbstractContextManager[Target]]


@dataclass(frozen=True)
class Set:
    """Many files of a kind: their paths, the list of these, and servers of them, ours first."""

    paths: Sequence[str]
    listed: Path
    servers: dict[str, Start]


def measure(options: Namespace) -> None:
    """Measure every set; the table goes to RESULTS.md."""
    rows, names = [], []
    for count, what in options.wide:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
            files = prepare(Path(directory), int(count), what, options)
            names = list(files.servers)
            for pattern, counts in PATTERNS.items():
                for connections in counts:
                    runs = (
                        once(files, pattern, connections, options)
                        if pattern == "once"
                        else many(files, pattern, connections, options)
                    )
                    rows.append([count, what, pattern, *load.row(connections, runs)])
                    print(*rows[-1], flush=True)
    load.write("Wide hits", load.table(["files", "each", "asked for", *load.head(names)], rows))


def prepare(root: Path, count: int, what: str, options: Namespace) -> Set:
    """Make the files, which all servers serve."""
    kind, size = KINDS.get(what) or (Kind.ZIP, int(what.removesuffix("kB")) * 1000)
    paths = populate(root / "cache", count, {kind: size})
    modules = root / "cache" / "modules"
    (root / "list").write_text("\n".join(paths))
    settings = ("--sumdb", "off", "--max-size", "50GB", "--min-free", "0", "--scrub-interval", "0")
    settings += ("--access-log", options.access_log, "--offline", "--max-client-connections", "2000")
    servers: dict[str, Start] = {
        "goproxy_vm": partial(ours, root / "cache", "off", *settings),
        "nginx": partial(nginx, modules, kept=min(count, MOST_KEPT)),
        "nginx, none kept open": partial(nginx, modules, kept=0),
        "plain": partial(plain, modules),
    }
    if options.older:
        populate(root / "older", count, {kind: size})
        servers["older"] = partial(ours, root / "older", "off", *settings, python=options.older)
    for command in options.peer:
        servers[command.partition("=")[0]] = partial(peer, command, modules, "off", SERVER_CORE, {})
    return Set(paths, root / "list", servers)


def many(files: Set, pattern: str, connections: int, options: Namespace) -> list[list[load.Run]]:
    """Runs of each server, alternating; all files were asked for before."""
    runs: list[list[load.Run]] = [[] for _ in files.servers]
    with ExitStack() as stack:
        targets = [stack.enter_context(start()) for start in files.servers.values()]
        if len({fetch(target.url + files.paths[0]) for target in targets}) != 1:
            raise SystemExit(f"{files.paths[0]}: the servers answer differently")
        for target in targets:
            ask(target, files, "once", connections, 60)
        for _ in range(options.rounds):
            for target, own in zip(targets, runs, strict=True):
                own.append(ask(target, files, pattern, connections, options.seconds))
    return runs


def once(files: Set, pattern: str, connections: int, options: Namespace) -> list[list[load.Run]]:
    """As :func:`many`, of servers that were just started, each file once."""
    runs: list[list[load.Run]] = [[] for _ in files.servers]
    for _ in range(options.rounds):
        for start, own in zip(files.servers.values(), runs, strict=True):
            with start() as target:
                target.settled()
                own.append(ask(target, files, pattern, connections, 60))
    return runs


def ask(target: Target, files: Set, pattern: str, connections: int, seconds: int) -> load.Run:
    """One run of the load's script."""
    return load.wrk(target, "/", connections, seconds, *script(files.listed, pattern))


def script(listed: Path, pattern: str) -> tuple[str, ...]:
    """Options of wrk to ask for the paths in a file."""
    return "-s", str(SCRIPT), "--", str(listed), pattern
