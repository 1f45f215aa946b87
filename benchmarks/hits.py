"""Hits: ours against nginx as a static server and a plain aiohttp application, alternating in one run."""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks import load, tree, wide
from benchmarks.servers import Target, fetch, nginx, ours, plain

PATHS = {
    ".info": (f"/{tree.MODULE}/@v/v1.0.2.info", (1, 32, 256)),
    ".mod": (f"/{tree.MODULE}/@v/v1.0.2.mod", (32,)),
    "list": (f"/{tree.MODULE}/@v/list", (32,)),
    "tile": (f"/sumdb/{{database}}/{tree.TILE}", (32,)),
    "zip 2 kB": (f"/{tree.MODULE}/@v/v1.0.2.zip", (32,)),
    "zip 300 kB": (f"/{tree.MODULE}/@v/v1.0.300.zip", (1, 32, 256)),
    "zip 4 MiB": (f"/{tree.MODULE}/@v/v1.4.0.zip", (1, 32)),
    "zip 64 MiB": (f"/{tree.MODULE}/@v/v1.64.0.zip", (1, 8)),
}


def main() -> None:
    """Measure all paths; the table goes to RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=2, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="names of paths, separated by commas")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=URL", help="another GOPROXY server"
    )
    parser.add_argument("--access-log", default="misses", help="ours' setting of that name")
    parser.add_argument("--rules", type=int, default=0, help="rules of deny that ours has, not the older one")
    parser.add_argument(
        "--older", metavar="PYTHON", help="the interpreter of an environment with another version of ours"
    )
    parser.add_argument(
        "--wide",
        action="append",
        nargs=2,
        metavar=("N", "SIZE"),
        help="N different files: zips of so many kB (100kB), mod or info; --peer is NAME=COMMAND then",
    )
    options = parser.parse_args()
    if options.wide:
        wide.measure(options)
        return
    rows = []
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        database = tree.make(root / "tree")
        sumdb = f"{database.key}"
        arguments = ("--sumdb", sumdb, "--nosumdb", "example.com", "--fresh", "1h", "--max-size", "1GB")
        arguments += ("--access-log", options.access_log)
        denied = ",".join(f"example.org/m{number}@>=v1.0.0 <v1.2.3" for number in range(options.rules))
        rules = ("--deny", denied) if denied else ()
        upstream = f"file://{root}/tree"
        targets = [
            stack.enter_context(
                ours(root / "cache", upstream, *arguments, *rules, "--max-client-connections", "2000")
            ),
            stack.enter_context(nginx(root / "tree")),
            stack.enter_context(plain(root / "tree")),
            *(
                stack.enter_context(ours(root / "older", upstream, *arguments, python=options.older))
                for _ in range(bool(options.older))
            ),
            *(
                Target(name, url.rstrip("/"), None)
                for name, url in (peer.split("=", 1) for peer in options.peer)
            ),
        ]
        for name, (pattern, counts) in PATHS.items():
            if options.only and name not in options.only.split(","):
                continue
            path = pattern.format(database=database.name)
            bodies = {fetch(target.url + path) for target in targets for _ in range(3)}
            if len(bodies) != 1:
                raise SystemExit(f"{path}: the servers answer differently")
            for connections in counts:
                runs: list[list[load.Run]] = [[] for _ in targets]
                for _ in range(options.rounds):
                    for target, own in zip(targets, runs, strict=True):
                        own.append(load.wrk(target, path, connections, options.seconds))
                rows.append([name, *load.row(connections, runs)])
                print(*rows[-1], flush=True)
    older = ["older"] if options.older else []
    names = ["goproxy_vm", "nginx", "plain", *older, *(peer.partition("=")[0] for peer in options.peer)]
    head = ["what", *load.head(names)]
    title = "Hits" if options.access_log == "misses" else f"Hits with access_log = {options.access_log}"
    if options.rules:
        title += f" with {options.rules:,} rules"
    load.write(title, load.table(head, rows))


if __name__ == "__main__":
    main()
