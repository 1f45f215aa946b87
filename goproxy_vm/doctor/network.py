"""Upstreams, the checksum database, and the clock that their answers tell."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.console.tables import age
from goproxy_vm.doctor.check import Finding
from goproxy_vm.doctor.itself import is_itself
from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.names import TOOLCHAIN
from goproxy_vm.protocol.note import VerifierKey, open_note
from goproxy_vm.protocol.tlog import Head
from goproxy_vm.upstream.spec import DIRECT, parse_upstreams

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from goproxy_vm.config import Settings, SumdbSpec
    from goproxy_vm.doctor.asking import Inquiry, Reply
    from goproxy_vm.protocol.names import TOOLCHAIN
from goproxy_vm.upstream.spec import UpstreamSpec

ASKED = "golang.org/x/text/@v/v0.3.0.info"
"""A file that every public proxy has, and that a private one may say no to."""
MINUTE = 60.0
DAY = 86_400.0
NETWORK = "check the network, DNS, the firewall and HTTPS_PROXY"


async def check_upstreams(settings: Settings, inquiry: Inquiry) -> Finding:
    """Ask every upstream at once; absence and refusal are answers too. None of them is the server itself."""
    specs = _proxies(settings)
    if not specs:
        return Finding("ok", "upstream is off: only what is stored is served")
    for spec in specs:
        if await asyncio.to_thread(is_itself, settings, spec):
            return Finding(
                "failed", f"{spec.name} is this server itself", "name another upstream in its place"
            )
    replies = await asyncio.gather(*(inquiry.ask(spec, ASKED) for spec in specs))
    answers = [_reaches(spec, reply) for spec, reply in zip(specs, replies, strict=True)]
    found = "; ".join(reply.sentence for reply in replies)
    if all(answers):
        return Finding("ok", found)
    remedy = _remedy(reply for reply, good in zip(replies, answers, strict=True) if not good)
    first = answers.index(True) if any(answers) else len(specs)
    blocking = next((spec for spec in specs[:first] if not spec.falls_through), None)
    if first < len(specs) and blocking is not None:
        return Finding(
            "failed",
            found,
            f"{remedy}; or write | instead of , behind {blocking.name} in upstream: after a comma the next "
            "is asked on 404 and 410 only",
        )
    return Finding("warning" if any(answers) else "failed", found, remedy)


async def check_database(settings: Settings, spec: SumdbSpec, inquiry: Inquiry) -> Finding:
    """Fetch the newest signed head as the server does, from the first source that has a good one."""
    sources = _sources(settings, spec)
    tasks = [asyncio.create_task(inquiry.ask(source, path)) for source, path in sources]
    bad: list[str] = []
    lied = False
    try:
        for (source, _), task in zip(sources, tasks, strict=True):
            reply = await task
            if reply.outcome != "ok":
                bad.append(reply.sentence)
                continue
            try:
                size = _verified(spec, reply.data)
            except ContentError as error:
                lied = True
                bad.append(f"{source.name}: {error.sentence}")
                continue
            found = f"{spec.name} has signed a log of {size:,} records, says {source.name}"
            if not lied:
                return Finding("ok", found)
            return Finding(
                "warning",
                "; ".join([found, *bad]),
                "take the upstream whose answer is not signed by that key out of upstream",
            )
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if lied:
        remedy = f"sumdb must hold the key of {spec.name} as whoever runs it gives it, NAME+hash+key"
    else:
        remedy = f"name an upstream that carries it, or sumdb = '{spec.name} URL' (with its key); {NETWORK}"
    return Finding("failed", "; ".join(bad), remedy)


async def check_toolchain(settings: Settings, inquiry: Inquiry) -> Finding:
    """Whether the Go version of the VMs is on record, so that it can be proven, by the first source that has it."""
    if not settings.vm_go or settings.sumdb is None:
        return Finding("ok", "not pinned: vm_go is empty")
    version = settings.vm_go.removesuffix("+auto")
    wanted = f"lookup/{TOOLCHAIN}@v0.0.1-go{version}.linux-amd64"
    said = []
    for source, latest in _sources(settings, settings.sumdb):
        reply = await inquiry.ask(source, f"{latest.removesuffix('latest')}{wanted}")
        if reply.outcome == "ok":
            return Finding("ok", f"Go {version} is on record in {settings.sumdb.name}, says {source.name}")
        said.append(reply.sentence)
    remedy = f"set vm_go to a release that there is (go.dev/dl names them), or {NETWORK}"
    return Finding("failed", f"Go {version} is not found on record: {'; '.join(said)}", remedy)


def check_clock(offsets: Mapping[str, float]) -> Finding:
    """Compare this host's clock with those that answered; ``offsets`` as :class:`Inquiry` has them.

    The closest one counts: one server with a wrong clock says nothing about ours.
    """
    if not offsets:
        return Finding("skipped", "no answer told a date")
    host = min(offsets, key=lambda each: abs(offsets[each]))
    offset = offsets[host]
    if abs(offset) <= MINUTE:
        # Dates are told in whole seconds, and answers take time.
        return Finding("ok", f"within {max(2, round(abs(offset)) + 1)} s of {host}")
    way = "behind" if offset > 0 else "ahead of"
    return Finding(
        "failed" if abs(offset) > DAY else "warning",
        f"this host's clock is {age(abs(offset))} {way} that of {host}",
        "set the clock, as by: timedatectl set-ntp true; certificates and signed heads depend on it",
    )


def _proxies(settings: Settings) -> list[UpstreamSpec]:
    """The entries of the upstream list that are no version control."""
    return [each for each in parse_upstreams(settings.upstream).entries if each.kind != DIRECT]


def _sources(settings: Settings, spec: SumdbSpec) -> Sequence[tuple[UpstreamSpec, str]]:
    """Each source of the database and the path of its newest head there, in the server's order."""
    itself = parse_upstreams(spec.url or f"https://{spec.name}").entries[0]
    if spec.url is not None:
        return [(itself, "latest")]
    upstreams = _proxies(settings)
    return [*((each, f"sumdb/{spec.name}/latest") for each in upstreams), (itself, "latest")]


def _verified(spec: SumdbSpec, note: bytes) -> int:
    """The number of records under a signed head. ContentError unless the database's key has signed it."""
    return Head.parse(open_note(note, [VerifierKey.parse(spec.vkey)]).text).size


def _reaches(spec: UpstreamSpec, reply: Reply) -> bool:
    if spec.kind == "file":
        return reply.outcome == "ok" or (reply.outcome == "not_found" and Path(spec.url).is_dir())
    if reply.outcome == "refused":
        return not _status(reply).startswith("401")
    return reply.outcome in ("ok", "not_found")


def _status(reply: Reply) -> str:
    return reply.sentence.partition(": ")[2]


def _remedy(replies: Iterable[Reply]) -> str:
    """What to do about the first of these."""
    reply = next(iter(replies))
    if "certificate" in reply.sentence:
        return (
            "check the clock and what intercepts TLS; name a private authority's certificate with "
            "upstream_ca_file"
        )
    if reply.outcome == "refused":
        return (
            "put the right name and password into the URL in upstream, or the right of reading on its files"
        )
    if _status(reply).startswith("508"):
        return "it leads back to itself, or to a server that asks it: name other upstreams on one of them"
    if reply.outcome in ("timeout", "connection"):
        return f"{NETWORK}, or name another upstream"
    if reply.outcome == "not_found":
        return "set upstream to a directory that exists"
    return "wait until it is well again, or name another upstream in upstream"
