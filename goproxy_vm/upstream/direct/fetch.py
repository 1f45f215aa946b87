"""One module by one run of the go command, twice where the clone on this host is damaged."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from goproxy_vm.errors import MalformedPath
from goproxy_vm.lru import Lru
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.names import escape_path, escape_version
from goproxy_vm.upstream.direct import judge
from goproxy_vm.upstream.direct.answer import Found, Heard, Kind, heard, read
from goproxy_vm.upstream.direct.clones import Clone, Clones
from goproxy_vm.upstream.direct.egress import GIT, GO, Egress
from goproxy_vm.upstream.direct.environ import Surroundings
from goproxy_vm.upstream.direct.options import Options
from goproxy_vm.upstream.direct.place import make_directories, vcs_directory
from goproxy_vm.upstream.direct.policy import Target
from goproxy_vm.upstream.direct.run import Job, run
from goproxy_vm.upstream.direct.ticket import Ticket
from goproxy_vm.waiting import to_the_end

_ARGUMENTS = {
    "stat": ("list", "-e", "-m", "-json"),
    "zip": ("mod", "download", "-json"),
    "list": ("list", "-e", "-m", "-versions", "-retracted", "-json"),
}
_LIMITS = {"CORE": 0, "NOFILE": 512, "CPU": 900}
_READABLE = (
    *("/usr", "/lib", "/lib64", "/bin", "/sbin"),
    *("/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/etc/crypto-policies", "/etc/alternatives"),
    *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/resolv.conf", "/etc/host.conf"),
    *("/etc/ld.so.cache", "/etc/ld.so.preload", "/etc/localtime", "/etc/ssh/ssh_known_hosts"),
    *("/proc/self", "/proc/meminfo", "/sys/fs/cgroup", "/sys/kernel/mm/transparent_hugepage"),
    *("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom"),
)
"""What any command may have to read. What is not there is passed over."""
VAIN_SECONDS = 300.0
"""How long no clone is made anew of a repository of which a new one was no better."""
VAIN_MOST = 256
"""Modules of which that is known."""

log = get_logger("upstream")


class Stopped(Exception):
    """A run brought nothing. ``answered``: the host answered all the same; ``down``: it takes no
    connection."""

    def __init__(self, ruling: judge.Ruling, *, answered: bool = False, down: bool = False) -> None:
        super().__init__(ruling.phrase)
        self.ruling = ruling
        self.answered = answered
        self.down = down


class Fetcher:
    """Runs the go command. ``certificates``: the file with those that are trusted, if the system's will not
    do (blocking); ``room``: whether the disk has any; ``confined``: by Landlock."""

    def __init__(
        self,
        options: Options,
        egress: Egress,
        clones: Clones,
        goroot: Path,
        certificates: Callable[[], Path | None],
        *,
        room: Callable[[], bool],
        now: Callable[[], float],
        confined: bool,
    ) -> None:
        self._options = options
        self._egress = egress
        self._clones = clones
        self._goroot = goroot
        self._certificates = certificates
        self._room = room
        self._now = now
        self._confined = confined
        self._tidying = asyncio.Lock()
        self._vain: Lru[tuple[bool, str], float] = Lru(VAIN_MOST)
        self._tickets: dict[bool, set[Ticket]] = {True: set(), False: set()}
        self._ended: dict[bool, list[int]] = {True: [0, 0], False: [0, 0]}

    def traffic(self, *, private: bool) -> tuple[int, int]:
        """Bytes that came for private modules or for public ones, and connections that were made."""
        tickets = self._tickets[private]
        received, answered = self._ended[private]
        return (
            received + sum(ticket.received for ticket in tickets),
            answered + sum(len(ticket.connected) for ticket in tickets),
        )

    async def fetch(
        self,
        target: Target,
        query: str,
        kind: Kind,
        directory: Path,
        *,
        fresh: Callable[[], bool],
        renewed: Callable[[], Awaitable[None]],
    ) -> Found:
        """Fetch into a new directory, which whoever calls removes. ``fresh``: whether to do without the clone
        that is there, which is replaced, unless it is in use; ``renewed`` is told that it was. Raises
        Stopped."""
        until = self._now() + self._options.timeout
        found = await self._found(target, query, kind, directory, until, fresh, renewed)
        if kind != "list" or not found.retracted:
            return found
        # With -retracted the list has all versions, but such a one is the latest, too.
        try:
            latest = await self._found(target, query, "stat", directory / "latest", until, fresh, renewed)
        except Stopped as stopped:
            return Found("", versions=found.versions, trouble=stopped.ruling)
        return replace(latest, versions=found.versions)

    async def _found(
        self,
        target: Target,
        query: str,
        kind: Kind,
        directory: Path,
        until: float,
        fresh: Callable[[], bool],
        renewed: Callable[[], Awaitable[None]],
    ) -> Found:
        anew = fresh()
        for attempt in ("1", "2"):
            place = directory / attempt
            answer, ticket, killed = await self._once(target, query, kind, place, until, fresh=anew)
            damaged = judge.is_ours(answer.text, target.module, query)
            again = damaged and not anew and not self._in_vain(target)
            if await self._tidy(target, answer, place, fresh=anew, damaged=again, killed=killed):
                await renewed()
            if ticket.over and answer.text:
                raise Stopped(judge.TOO_MUCH)
            if not again:
                break
            # Without the clone that is there: whichever it is, the answer is right.
            self._log(target, query, judge.DAMAGED, answer.text)
            anew = True
        if damaged and anew:
            self._vain.keep((target.private, target.module), self._now())
        ruling = None
        if answer.text:
            connected = bool(ticket.connected)
            seen = judge.judge(answer.text, ticket.events, connected=connected, private=target.private)
            ruling = judge.DAMAGED if damaged and (seen is judge.UNKNOWN or not anew) else seen
            if not (kind == "list" and answer.fields.get("Versions")):
                self._log(target, query, ruling, answer.text)
                raise Stopped(ruling, answered=connected, down=ticket.down)
        try:
            return await asyncio.to_thread(read, place, target.module, kind, answer, ruling)
        except (OSError, LookupError, TypeError, ValueError, MalformedPath) as error:
            self._log(target, query, judge.UNKNOWN, f"{type(error).__name__}: {error}")
            raise Stopped(judge.UNKNOWN) from error

    def _in_vain(self, target: Target) -> bool:
        """Whether a clone was made anew of late, and was no better."""
        when = self._vain.get((target.private, target.module))
        return when is not None and self._now() - when < VAIN_SECONDS

    async def _once(
        self, target: Target, query: str, kind: Kind, place: Path, until: float, *, fresh: bool
    ) -> tuple[Heard, Ticket, bool]:
        ticket = Ticket(target, self._now, self._options.max_size)
        self._tickets[target.private].add(ticket)
        self._egress.admit(ticket)
        try:
            job = await asyncio.to_thread(self._prepare, ticket, query, kind, place, fresh)
            said = await run(job, lambda: self._watch(ticket, until))
        except OSError as error:
            ruling = judge.of_disk(error)
            ruling = judge.NOT_STARTED if ruling is judge.OWN_FILES else ruling
            self._log(target, query, ruling, error.strerror or "")
            raise Stopped(ruling) from error
        except BaseException:
            await to_the_end(asyncio.create_task(self._sweep()))
            raise
        finally:
            await to_the_end(asyncio.create_task(self._egress.dismiss(ticket)))
            self._tickets[target.private].discard(ticket)
            ended = self._ended[target.private]
            ended[0] += ticket.received
            ended[1] += len(ticket.connected)
        return await asyncio.to_thread(heard, said), ticket, said.killed

    def _watch(self, ticket: Ticket, until: float) -> None:
        if self._now() >= until:
            raise Stopped(judge.LATE)
        if ticket.silent(self._options.stall):
            raise Stopped(judge.SILENT)
        if ticket.over:
            raise Stopped(judge.TOO_MUCH)
        if not self._room():
            raise Stopped(judge.FULL)

    def _prepare(self, ticket: Ticket, query: str, kind: Kind, place: Path, fresh: bool) -> Job:
        """The run's directory, and what is run in it (blocking)."""
        target, options = ticket.target, self._options
        vcs = vcs_directory(options.root, private=target.private)
        make_directories(options.root)
        certificates = self._certificates()
        for name in ("cache", "tmp", "home", "template"):
            (place / name).mkdir(parents=True, mode=0o700)
        if fresh:
            (place / "cache" / "vcs").mkdir()
        else:
            (place / "cache" / "vcs").symlink_to(vcs)
        # go looks for a go.mod above the directory it runs in, and pays no heed to one in TMPDIR itself.
        (place / "tmp" / "go.mod").touch()
        if kind == "zip":  # what is there already is not unpacked
            (place / f"{escape_path(target.module)}@{escape_version(query)}").mkdir(parents=True)
        home = options.git_home if target.private and options.git_home is not None else place / "home"
        _configure(place / "config", home / ".config")
        surroundings = Surroundings(
            goroot=self._goroot,
            run=place,
            home=home,
            private=target.private,
            page=target.page,
            certificates=certificates,
            stall=options.stall,
            port=self._egress.port,
            token=ticket.token,
            go_proxy=self._egress.address(GO, ticket),
            git_proxy=self._egress.address(GIT, ticket),
        )
        read = [*_READABLE, sys.prefix, sys.base_prefix, str(Path(__file__).parent)]
        read += [str(self._goroot), str(options.go.resolve().parent), str(home)]
        if certificates is not None:
            read.append(str(certificates))
        jail = {
            "argv": [str(options.go), *_ARGUMENTS[kind], f"{target.module}@{query}"],
            "cwd": str(place / "tmp"),
            "read": read,
            "write": [str(place), "/dev/null", *([] if fresh else [str(vcs)])],
            "port": self._egress.port,
            "landlock": self._confined,
            "limits": _LIMITS
            | {
                "CPU": max(_LIMITS["CPU"], math.ceil(options.timeout)),
                "FSIZE": options.max_size,
                "DATA": options.max_memory,
            },
        }
        return Job(jail, surroundings.variables())

    async def _tidy(
        self, target: Target, answer: Heard, place: Path, *, fresh: bool, damaged: bool, killed: bool
    ) -> bool:
        """See to the clone that was used. Whether one that was made from nothing is there now."""
        if killed:
            await self._sweep()
        url = str(answer.origin.get("URL", ""))
        vcs = vcs_directory(self._options.root, private=target.private)
        concerns = _used(vcs, judge.directory_of(answer.text), url)
        if fresh:
            return await self._see_to(partial(self._clones.adopt, place / "cache" / "vcs", vcs))
        if damaged:
            await self._see_to(partial(self._clones.drop, concerns, "it is damaged"))
            return False
        await self._see_to(partial(self._clones.used, concerns))
        if answer.text and not any(self._tickets.values()):
            await self._see_to(self._clones.clear_out)
        return False

    async def _sweep(self) -> None:
        await self._see_to(self._clones.sweep)

    async def _see_to(self, step: Callable[[], object]) -> bool:
        """Do something to clones; what it says. Nobody's answer depends on whether it can be done."""
        async with self._tidying:
            try:
                return bool(await asyncio.to_thread(step))
            except OSError as error:
                log.warning("clones not tidied", reason=error.strerror)
        return False

    def _log(self, target: Target, query: str, ruling: judge.Ruling, text: str) -> None:
        log.info(
            "direct fetch failed",
            module=target.module,
            version=query,
            reason=ruling.phrase,
            said=judge.loggable(text),
        )


def _configure(directory: Path, home: Path) -> None:
    """What stands in for ``~/.config`` (blocking): it has the same content, for credential helpers keep
    theirs there, but go's telemetry is off, which no variable says."""
    telemetry = directory / "go" / "telemetry"
    telemetry.mkdir(parents=True)
    (telemetry / "mode").write_text("off\n")
    for entry in home.iterdir() if home.is_dir() else ():
        if entry.name != "go":
            (directory / entry.name).symlink_to(entry)


def _used(vcs: Path, name: str, url: str) -> Callable[[Clone], bool]:
    """Whether a clone is the one that a run used: the directory ``name`` in ``vcs``, or that of ``url``."""

    def concerns(clone: Clone) -> bool:
        return clone.path.parent == vcs and (clone.path.name == name or (bool(url) and clone.url == url))

    return concerns
