"""What modules from version control need on this host, and whether their servers let it in."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from goproxy_vm.config.text import printable
from goproxy_vm.config.token import private_tokens
from goproxy_vm.doctor.check import Finding, merged
from goproxy_vm.errors import Absent, ConfigError, StartError
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.direct.dial import Dial, Roads
from goproxy_vm.upstream.direct.direct import Direct, check_home
from goproxy_vm.upstream.direct.find import PATH, find_git
from goproxy_vm.upstream.direct.jail import landlock_abi
from goproxy_vm.upstream.direct.options import Options
from goproxy_vm.upstream.direct.policy import Rules, Target
from goproxy_vm.upstream.direct.ticket import Blocked, Ticket
from goproxy_vm.upstream.environment import Environment
from goproxy_vm.upstream.failure import Failure
from goproxy_vm.upstream.session import trusted
from goproxy_vm.upstream.sink import Buffer
from goproxy_vm.upstream.spec import parse_upstreams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from goproxy_vm.config import Settings

MOST_ASKED = 8
"""Repositories that are asked for."""
LIMIT_SECONDS = 20.0
LIMIT_BYTES = 1 << 20
TCP_FROM = 4
"""The version of Landlock that confines connections, too."""


async def check_version_control(
    settings: Settings, environ: Mapping[str, str] = os.environ, roads: Roads | None = None
) -> Finding:
    """Look for git and go, at ``git_home``, and ask for what the settings name.

    ``environ`` names the proxies; ``roads`` lead there, by default as this host's do.
    """
    tokens = await asyncio.to_thread(_tokens, settings.private_tokens_file)
    if not (settings.private or parse_upstreams(settings.upstream).direct):
        unused = Finding("ok", "not used: private is empty, and upstream does not end in direct")
        return merged([unused, *tokens])
    try:
        git = await asyncio.to_thread(find_git)
        options = await asyncio.to_thread(Options.of, settings)
    except StartError as error:
        remedy = "install it, or set go; pip install 'goproxy-vm[direct]' brings go"
        return Finding("failed", error.sentence, remedy)
    findings = [Finding("ok", f"{git}; {options.go}"), _confinement(), *tokens]
    if settings.git_home is not None:
        findings += await asyncio.to_thread(_home, settings.git_home, options)
    if not settings.offline:
        findings += await _asked(options, environ, roads or Roads())
    return merged(findings)


def _tokens(file: Path | None) -> list[Finding]:
    """What is wrong with ``private_tokens_file`` (blocking): with that no server starts."""
    try:
        private_tokens(file)
    except ConfigError as error:
        return [Finding("failed", error.sentence, "correct that file")]
    return []


def _confinement() -> Finding:
    abi = landlock_abi()
    if not abi:
        return Finding(
            "warning",
            "this kernel has no Landlock: git and go can read what the server can",
            "Linux 5.13 or newer has it, where lsm= on its command line names landlock",
        )
    if abi < TCP_FROM:
        return Finding("ok", f"Landlock {abi}, which confines files and not connections")
    return Finding("ok", f"Landlock {abi}")


def _home(home: Path, options: Options) -> list[Finding]:
    """What is in ``git_home`` (blocking)."""
    try:
        check_home(home, _owner(options))
    except StartError as error:
        return [Finding("failed", error.sentence, f"chown it to the server's user, then: chmod 700 {home}")]
    secrets = [home / ".netrc", *(each for each in home.glob(".ssh/id_*") if each.suffix != ".pub")]
    found = [
        Finding("failed", f"{file} can be read by others", f"chmod 600 {file}")
        for file in secrets
        if file.exists() and file.stat().st_mode & 0o077
    ]
    by_ssh = any(urlsplit(each.url).scheme == "ssh" for each in options.repos)
    if by_ssh and not (home / ".ssh" / "known_hosts").exists():
        found.append(
            Finding(
                "failed",
                f"{home}/.ssh/known_hosts is not there, and unknown hosts are refused",
                f"ssh-keyscan HOST >> {home}/.ssh/known_hosts, and compare it with what HOST's operator says",
            )
        )
    if by_ssh and shutil.which("ssh", path=PATH) is None:
        found.append(Finding("failed", "there is no ssh command", "install it (Debian: openssh-client)"))
    return found or [Finding("ok", f"{home} is closed to others")]


def _owner(options: Options) -> int:
    """Whose ``git_home`` has to be: the cache directory's owner, for root may look in the server's stead."""
    try:
        return options.root.parent.stat().st_uid
    except OSError:
        return os.geteuid()


async def _asked(options: Options, environ: Mapping[str, str], roads: Roads) -> list[Finding]:
    """Ask for each repository that the settings name wholly, as a fetch does, with its credentials."""
    found = await _reached(options, environ, roads)
    named = [each.prefix for each in options.repos if "*" not in each.prefix][:MOST_ASKED]
    if not named:
        return found
    if options.git_home is not None and options.git_home.stat().st_uid != os.geteuid():
        asked = "repositories are not asked for: run this as the server's user for that"
        return [*found, Finding("skipped", asked)]
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goproxy-vm-doctor")))
        direct = Direct(
            options.elsewhere(scratch),
            FairSlots(MOST_ASKED),
            environ=environ,
            roads=roads,
        )
        try:
            await direct.start()
        except StartError as error:
            return [*found, Finding("failed", error.sentence, "correct that")]
        stack.push_async_callback(direct.close)
        return [*found, *await asyncio.gather(*(_ask(direct, each) for each in named))]


async def _reached(options: Options, environ: Mapping[str, str], roads: Roads) -> list[Finding]:
    """Connect to each host that the settings name for private modules."""
    trust = await asyncio.to_thread(trusted, options.ca_file)
    dial = Dial(Environment(environ), trust, options.connect, roads)
    mapped = {each.prefix.partition("/")[0] for each in options.repos}
    pages = {f"{host}:443" for host in Rules(options).private_hosts if host not in mapped}
    by_tls = pages | {each.target for each in options.repos if urlsplit(each.url).scheme == "https"}
    targets = pages | options.hosts | {each.target for each in options.repos}
    asked = sorted(targets)[:MOST_ASKED]
    found = await asyncio.gather(*(_connect(dial, each, trust if each in by_tls else None) for each in asked))
    if len(targets) > len(asked):
        found.append(Finding("skipped", f"{len(targets) - len(asked)} more hosts are not asked"))
    return found


async def _connect(dial: Dial, target: str, trust: ssl.SSLContext | None) -> Finding:
    """Connect, and where certificates are given, for TLS."""
    host, _, port = target.rpartition(":")
    whom = Target(host, True, host, frozenset({target}))
    try:
        _, writer = await dial(Ticket(whom, time.monotonic, 1), host.strip("[]"), int(port))
    except Blocked as blocked:
        why = {"dns": "its name cannot be resolved", "timeout": "no connection in time"}
        remedy = "check the name in private, private_hosts and private_repos, the network and the firewall"
        return Finding("failed", f"{target}: {why.get(blocked.trouble, 'it takes no connection')}", remedy)
    try:
        if trust is not None:
            async with asyncio.timeout(LIMIT_SECONDS):
                await writer.start_tls(trust, server_hostname=host.strip("[]"))
    except ssl.SSLCertVerificationError as error:
        untrusted = f"{target}: its certificate is not trusted: {printable(error.verify_message)}"
        return Finding("failed", untrusted, "name its authority's certificate in upstream_ca_file")
    except (OSError, TimeoutError):
        return Finding("failed", f"{target}: it does not speak TLS", "check what listens there")
    finally:
        writer.close()
    return Finding("ok", f"{target} takes connections")


async def _ask(direct: Direct, module: str) -> Finding:
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            await direct.source(private=True).fetch(f"{module}/@v/list", Buffer(), LIMIT_BYTES)
    except TimeoutError:
        late = f"{module}: nothing within {LIMIT_SECONDS:g} s"
        return Finding("failed", late, "check the network and the firewall")
    except Failure as failure:
        kind = (
            "credentials" if isinstance(failure.error, Absent) or failure.outcome == "refused" else "network"
        )
        remedy = {
            "credentials": "check the URL in private_repos and the credentials in git_home",
            "network": "check the network, known_hosts and upstream_ca_file",
        }[kind]
        return Finding("failed", failure.error.sentence, remedy)
    return Finding("ok", f"{module} can be read")
