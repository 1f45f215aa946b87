"""What a developer does all day, run on VMs through a server, and how two such days compare.

A day is a script of ``go`` commands, each from the same state of the project; what is compared is what a
developer has afterwards: the exit status, go.mod, go.sum, and what was printed on stdout.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.gocommand import Running, Vm, start
from tests.fakes.upstream import Reply

if TYPE_CHECKING:
    from tests.e2e.upstream_thread import UpstreamThread

REFUSED = "http://127.0.0.1:1"
"""An upstream where nothing listens."""
GONE = "http://upstream.invalid"
"""An upstream whose name nobody knows (RFC 6761)."""
NO_DATABASE = {"HTTPS_PROXY": REFUSED}
"""For servers: the checksum database's own host cannot be reached, only what carries it."""


@dataclass(frozen=True)
class Command:
    """One ``go`` command, and the state of the project that it begins with.

    ``looks_up``: whether it needs hashes that the go.sum of that state does not hold.
    """

    name: str
    arguments: tuple[str, ...]
    state: str = "tidied"
    looks_up: bool = False


@dataclass(frozen=True)
class Script:
    """Commands in their order, and the files of each state."""

    commands: tuple[Command, ...]
    states: Mapping[str, Mapping[str, str]]

    def without_lookups(self) -> Script:
        """The commands that a VM can verify with the project's own go.sum."""
        return replace(self, commands=tuple(each for each in self.commands if not each.looks_up))

    def without(self, *names: str) -> Script:
        """The commands with other names."""
        return replace(self, commands=tuple(each for each in self.commands if each.name not in names))

    def only(self, *names: str) -> Script:
        """The commands with these names."""
        return replace(self, commands=tuple(each for each in self.commands if each.name in names))


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, stdout without what is the VM's own, go.mod and go.sum."""

    status: int
    stdout: str
    files: Mapping[str, str]
    stderr: str
    seconds: float


EXTRACTED = re.compile(r',?\n\t"Dir": "[^"]*"')
"""Where ``go`` has unpacked a module, which depends on what it did before."""
Day = Mapping[str, Outcome]
"""Outcomes by the names of the commands."""


@dataclass
class Yesterday:
    """A good day, and the cache directory that it left; the server is stopped."""

    script: Script
    day: Day
    cache: Path
    settings: tuple[str, ...]
    environment: dict[str, str]
    gocache: Path

    def vm(self, home: Path, url: str, *, inside: tuple[str, ...] = ()) -> Vm:
        """A fresh VM that trusts the checksum database of the day."""
        return Vm(home, url, self.gocache, env=self.environment, inside=inside)


def live(script: Script, make_vm: Callable[[str], Vm], *, one_vm: bool = False) -> Day:
    """Run the script: each command on a fresh VM, or all on one, whose module cache then fills.

    Only what a fresh VM asks for shows that all is there; one VM stores what one VM brought.
    """
    day: dict[str, Outcome] = {}
    vm: Vm | None = None
    for command in script.commands:
        if vm is None or not one_vm:
            vm = make_vm(command.name.replace(" ", "-"))
        day[command.name] = _run(vm, command, script.states[command.state])
    return day


def _run(vm: Vm, command: Command, state: Mapping[str, str]) -> Outcome:
    shutil.rmtree(vm.work)
    vm.work.mkdir()
    vm.write(dict(state))
    began = time.monotonic()
    done = vm.go(*command.arguments, ok=False)
    seconds = time.monotonic() - began
    files = {name: (vm.work / name).read_text() for name in ("go.mod", "go.sum") if (vm.work / name).exists()}
    stdout = EXTRACTED.sub("", done.stdout.replace(str(vm.home), "HOME"))
    return Outcome(done.returncode, stdout, files, done.stderr.replace(str(vm.home), "HOME"), seconds)


def assert_good(day: Day) -> None:
    """Each command did what it was to do."""
    failed = [f"go {name}: {each.stderr}" for name, each in day.items() if each.status]
    assert not failed, "\n".join(failed)


def assert_same(healthy: Day, day: Day, seen: Callable[[str, Outcome], object] | None = None) -> None:
    """Every command of ``day`` left what it left on the healthy day, as far as ``seen`` sees it."""
    seen = seen or exactly
    differ = []
    print(table(healthy, day))
    for name, outcome in day.items():
        expected, got = seen(name, healthy[name]), seen(name, outcome)
        if expected != got:
            differ.append(f"--- {name}: {_first_difference(expected, got)}\n{outcome.stderr[-800:]}")
    assert not differ, f"{len(differ)} of {len(day)} commands differ:\n" + "\n".join(differ)


def exactly(_: str, outcome: Outcome) -> tuple[object, ...]:
    """All of an outcome."""
    return outcome.status, outcome.files, outcome.stdout


HINTS = re.compile(r" \[[^]]*\]| \((?:retracted|deprecated)[^)]*\)")


def without_hints(name: str, outcome: Outcome) -> tuple[object, ...]:
    """Without news of versions that are not needed: a server without upstreams lists what it can give."""
    stdout = outcome.stdout.split()[:1] if name == "versions" else HINTS.sub("", outcome.stdout)
    return outcome.status, outcome.files, stdout


def without_times(name: str, outcome: Outcome) -> tuple[object, ...]:
    """As ``without_hints``, and without the times of versions, which builds do not need."""
    status, files, stdout = without_hints(name, outcome)
    if isinstance(stdout, str):
        stdout = re.sub(r',?\n\t"Time": "[^"]*"', "", stdout)
    return status, files, stdout


def _first_difference(expected: object, got: object) -> str:
    assert isinstance(expected, tuple)
    assert isinstance(got, tuple)
    for what, one, other in zip(("exit status", "files", "stdout"), expected, got, strict=True):
        if one != other:
            lines = [set(str(each).splitlines()) for each in (one, other)]
            missing, new = sorted(lines[0] - lines[1])[:6], sorted(lines[1] - lines[0])[:6]
            return f"another {what}: not {missing}, but {new}"
    raise AssertionError("they are equal")


def table(healthy: Day, day: Day) -> str:
    """Seconds of each command, healthy and not; shown with ``pytest -s``."""
    rows = [f"{'command':14}{'healthy':>9}{'now':>9}{'times':>7}"]
    for name, outcome in day.items():
        before, now = healthy[name].seconds, outcome.seconds
        mark = "" if outcome.status == healthy[name].status else f"  exit status {outcome.status}"
        rows.append(f"{name:14}{before:9.2f}{now:9.2f}{now / before:7.1f}{mark}")
    return "\n".join(["", *rows])


# Ways to die, and to lose things.


def refuse(upstream: UpstreamThread) -> None:
    """Nothing listens any more."""
    upstream.stop()


def fall_silent(upstream: UpstreamThread) -> None:
    """Connections are taken, and no byte ever comes."""
    upstream.fake.hold("*")


def answer(status: int) -> Callable[[UpstreamThread], None]:
    """Every request is answered so."""

    def die(upstream: UpstreamThread) -> None:
        upstream.fake.on("*", Reply(b"out of order\n", status, {"Content-Type": "text/plain"}))

    return die


DEATHS: dict[str, Callable[[UpstreamThread], None]] = {
    "refused": refuse,
    "silent": fall_silent,
    "500": answer(500),
    "403": answer(403),
}
"""Of an upstream whose server goes on running; the fifth, a name that is gone, shows after a restart."""


@dataclass
class Host:
    """A running server on a cache directory."""

    cache: Path
    running: Running

    @property
    def url(self) -> str:
        return self.running.url

    def recovered(self) -> dict[str, object]:
        """Wait until what was found at the start has been put right; what that was."""
        assert self.running.process.stderr is not None
        events = iter(self.running.log)
        while True:
            event = next(events, None) or json.loads(self.running.process.stderr.readline())
            if event["event"] == "recovered":
                return dict(event)

    def kill(self) -> None:
        """kill -9."""
        self.running.process.kill()
        self.running.process.communicate()

    def stop(self) -> None:
        """SIGTERM; it must end cleanly."""
        assert self.running.stop() == 0, self.running.log[-5:]


@contextmanager
def host(
    cache: Path, *arguments: str, inside: tuple[str, ...] = (), env: Mapping[str, str] = NO_DATABASE
) -> Iterator[Host]:
    """A server for the time of a block that has put right what it found; ``inside`` as :func:`start`."""
    running = start(cache, *arguments, env=dict(env), inside=inside)
    try:
        one = Host(cache, running)
        one.recovered()
        yield one
        if running.process.poll() is None:
            one.stop()
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.communicate()


NAMESPACE = ("unshare", "-n", "sh", "-c")
LOOPBACK = 'ip link set lo up && exec "$@"'


@contextmanager
def air_gapped(cache: Path, *arguments: str) -> Iterator[tuple[Host, tuple[str, ...]]]:
    """A server on a host without network, and what runs the commands of that host's VMs there.

    Where no network namespace can be made, the server is at least told to ask nobody.
    """
    apart = not impossible(*NAMESPACE, "ip link set lo up")
    inside = (*NAMESPACE, LOOPBACK, "sh") if apart else ()
    with host(cache, "--offline", *arguments, inside=inside) as server:
        yield server, ("nsenter", "-n", "-t", str(server.running.process.pid)) if apart else ()


def lose_index(cache: Path) -> None:
    """``index.db`` and its log are gone."""
    for file in cache.glob("index.db*"):
        file.unlink()


def lose_answers(cache: Path) -> None:
    """``answers/`` is gone."""
    shutil.rmtree(cache / "answers")


def copied(source: Path, target: Path, *parts: str) -> Path:
    """``cp -a`` of a cache directory, or of some of what is in it."""
    target.mkdir(mode=0o700)
    for part in parts or (".",):
        subprocess.run(["cp", "-a", f"{source}/{part}", str(target)], check=True)
    return target


def impossible(*command: str) -> str:
    """Why a command cannot be run here; empty where it can."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError as error:
        return str(error)
    return (done.stderr.strip() or "it fails") if done.returncode else ""
