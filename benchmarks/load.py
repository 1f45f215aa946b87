"""Load from wrk, and tables of what it saw."""

from __future__ import annotations

import platform
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.servers import CLIENT_CORE, Target

UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
RESULTS = Path(__file__).with_name("RESULTS.md")


@dataclass(frozen=True)
class Run:
    """One run: requests a second, milliseconds at two percentiles, the server's CPU µs a request."""

    rate: float
    p50: float
    p99: float
    cpu: float


def wrk(target: Target, path: str, connections: int, seconds: int, *script: str) -> Run:
    """One bounded run on one path, from the client's core; only 200 counts. ``script``: options of a script
    that chooses other paths, after ``--`` its arguments."""
    binary = shutil.which("wrk")
    if binary is None:
        raise SystemExit("wrk is needed to make load (Debian: wrk)")
    command = ["taskset", "-c", CLIENT_CORE, binary, "-t1", f"-c{connections}", f"-d{seconds}s"]
    before = target.cpu()
    given = [*script, "--"]
    mark = given.index("--")
    out = subprocess.run(
        [*command, "--timeout", "30s", "--latency", *given[:mark], target.url + path, *given[mark:]],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    used = target.cpu() - before
    found = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m)", out)
    if found is None or "Non-2xx" in out:
        raise SystemExit(f"{target.name}: {out}")
    count = int(found[1])
    lasted = float(found[2]) * {"ms": 1e-3, "s": 1.0, "m": 60.0}[found[3]]
    if each := re.search(r"each once in (\d+) us", out):
        lasted = int(each[1]) / 1e6
    at = {which: re.search(rf"{which}%\s+([\d.]+)(us|ms|s)", out) for which in ("50", "99")}
    p50, p99 = (float(m[1]) * UNITS[m[2]] if m else 0.0 for m in at.values())
    return Run(count / lasted, p50, p99, used / max(1, count) * 1e6)


def median(runs: Sequence[Run]) -> Run:
    """Each figure's median."""
    return Run(
        *(statistics.median(values) for values in zip(*(vars(run).values() for run in runs), strict=True))
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def head(names: Sequence[str]) -> list[str]:
    """The head of a table of :func:`row`, of servers with these names."""
    return [
        "connections",
        "requests/s",
        *(f"ratio to {name}" for name in names[1:]),
        "p50 ms",
        "p99 ms",
        *(f"p99 {name}" for name in names[1:]),
        "CPU µs",
        *(f"CPU {name}" for name in names[1:]),
    ]


def row(connections: int, runs: Sequence[Sequence[Run]]) -> list[str]:
    """One line of a table: the first server against the others, medians of its runs."""
    mine, *others = [median(own) for own in runs]
    return [
        str(connections),
        f"{mine.rate:,.0f}",
        *(f"{mine.rate / other.rate:.2f}" for other in others),
        f"{mine.p50:.2f}",
        f"{mine.p99:.2f}",
        *(f"{other.p99:.2f}" for other in others),
        f"{mine.cpu:.1f}",
        *(f"{other.cpu:.1f}" for other in others),
    ]


def machine() -> str:
    """What it ran on, in a line."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    cores = sum(line.startswith("processor") for line in Path("/proc/cpuinfo").read_text().splitlines())
    return (
        f"{cores} cores ({model[1] if model else platform.machine()}), Linux {platform.release()}, "
        f"Python {platform.python_version()}, aiohttp {version('aiohttp')}"
    )


def write(title: str, text: str) -> None:
    """Put one section into RESULTS.md in place of its older self, and print it."""
    words = " ".join(sys.argv[1:])
    for option, word in (("upstream", "URL"), ("older", "PYTHON"), ("graph", "DIR")):
        words = re.sub(rf"(--{option}[ =])\S+", rf"\1{word}", words)
    command = f"python -m benchmarks.{Path(sys.argv[0]).stem} {words}".strip()
    section = f"## {title}\n\n`{command}`; {machine()}.\n\n{text}\n"
    whole = (
        RESULTS.read_text()
        if RESULTS.exists()
        else "# Results\n\nHow to repeat them: README.md beside this file.\n"
    )
    pattern = re.compile(rf"## {re.escape(title)}\n.*?(?=\n## |\Z)", re.DOTALL)
    whole = pattern.sub(lambda _: section, whole) if pattern.search(whole) else f"{whole}\n{section}"
    RESULTS.write_text(whole.rstrip() + "\n")
    print(section)
