"""Runs all checks in their order; what depends on a failed one is skipped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from goproxy_vm.cache.layout import Layout
from goproxy_vm.doctor.ages import check_ages
from goproxy_vm.doctor.asking import Inquiry
from goproxy_vm.doctor.check import TITLES, Check, Finding
from goproxy_vm.doctor.descriptors import check_descriptors
from goproxy_vm.doctor.elsewhere import ask_running
from goproxy_vm.doctor.gate import check_gate
from goproxy_vm.doctor.judged import Judged, judge
from goproxy_vm.doctor.listeners import check_admin, check_listeners
from goproxy_vm.doctor.network import check_clock, check_database, check_toolchain, check_upstreams
from goproxy_vm.doctor.running import check_server, look
from goproxy_vm.doctor.storage import check_directory, check_disk
from goproxy_vm.doctor.version_control import check_version_control
from goproxy_vm.errors import ConfigError, StartError
from goproxy_vm.hostos import lock_holder

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.config import Loaded, Settings
    from goproxy_vm.doctor.elsewhere import Told

SHOW = "goproxy-vm config show prints every setting in force and where it came from"


def examine(load: Callable[[], Loaded]) -> list[Check]:
    """Every check of ``TITLES``, in that order (blocking, about ten seconds at most for each silent network).

    ``load`` reads the settings; a ConfigError of it is the first check's failure.
    """
    try:
        loaded = load()
    except ConfigError as error:
        findings = {
            "configuration": Finding("failed", error.sentence, "correct it, then: goproxy-vm config check")
        }
        return _checks(findings, "the configuration must be valid first")
    told = ask_running(loaded.settings)
    judged, configuration = _judged(loaded, told, _configuration(loaded))
    findings = {"configuration": configuration}
    findings |= _host(judged.settings)
    findings |= asyncio.run(_network(judged))
    return _checks(findings, "")


def _checks(findings: dict[str, Finding], why: str) -> list[Check]:
    return [Check(name, findings.get(name) or Finding("skipped", why)) for name in TITLES]


def _configuration(loaded: Loaded) -> Finding:
    origins = [each.origin for each in loaded.origins.values()]
    kinds = {
        "environment variable": sum(origin.startswith("environment variable") for origin in origins),
        "flag": sum(origin.startswith("flag") for origin in origins),
    }
    where = [str(loaded.file.path)] if loaded.file is not None else []
    where += [f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in kinds.items() if count]
    found = f"valid; from {', '.join(where)}" if where else "valid; every setting has its default"
    if loaded.warnings:
        return Finding("warning", f"{found}; {'; '.join(loaded.warnings)}", SHOW)
    return Finding("ok", found)


def _unset(loaded: Loaded) -> bool:
    """Whether nobody has said which cache directory is meant: then it is the running server's."""
    return loaded.origins["cache_dir"].origin.startswith("default")


def _judged(loaded: Loaded, told: Told | None, finding: Finding) -> tuple[Judged, Finding]:
    """What the other checks look at, and what is said about that."""
    settings = loaded.settings
    root = Layout.at(settings.cache_dir).root
    if told is None:
        return Judged(settings), _untold(finding, lock_holder(Layout.at(root).lock))
    if told.directory != root:
        finding = _differs(loaded, finding, told.directory)
        if not _unset(loaded):
            return Judged(settings), finding
    if not told.settings:
        finding = _untold(finding, lock_holder(Layout.at(told.directory).lock))
    judged = judge(loaded, told)
    judged = replace(judged, settings=replace(judged.settings, cache_dir=told.directory))
    if not judged.differences:
        return judged, finding
    found = f"{finding.found}; the running server has other settings: {'; '.join(judged.differences)}"
    if judged.expected:
        return judged, Finding(finding.status, found, finding.remedy)
    remedy = (
        "the checks below use the running server's settings; restart it to have it take those read here (for "
        "some SIGHUP is enough), or give this command the server's configuration (--config)"
    )
    return judged, Finding("warning", found, f"{finding.remedy}; {remedy}" if finding.remedy else remedy)


def _untold(finding: Finding, holder: int | None) -> Finding:
    """The running server, the process ``holder``, does not say what it runs with."""
    if not holder:
        return finding
    return Finding(
        "warning",
        f"{finding.found}; the running server, process {holder}, does not tell its own settings: "
        "what follows is about those read here",
        finding.remedy or "run this as the server's user or as root; restart a server of an older version",
    )


def _differs(loaded: Loaded, finding: Finding, elsewhere: Path) -> Finding:
    """The settings name another cache directory than the running server says it has."""
    here = Layout.at(loaded.settings.cache_dir).root
    found = f"{finding.found}; the running server says that its cache_dir is {elsewhere}, here it is {here}"
    remedy = (
        f'write cache_dir = "{elsewhere}" into the file of settings, so that commands find the server there; '
        "what follows is about that directory"
        if _unset(loaded)
        else f"if that server is meant, run this with --cache-dir {elsewhere}; what follows is about {here}"
    )
    return Finding("warning", found, remedy)


def _host(settings: Settings) -> dict[str, Finding]:
    """What can be seen on this host alone (blocking)."""
    running = look(settings)
    directory = check_directory(settings, running.holder)
    unusable = Finding("skipped", "the cache directory must be usable first")
    disk, gate, token = unusable, unusable, running.token
    if directory.status != "failed":
        disk, gate = check_disk(settings), check_gate(settings)
    elif not settings.admin_token and settings.admin_token_file is None:
        token = unusable
    return {
        "directory": directory,
        "disk": disk,
        "gate": gate,
        "ages": unusable if directory.status == "failed" else check_ages(settings),
        "listener": check_listeners(settings, running),
        "admin_listener": check_admin(settings, running),
        "descriptors": check_descriptors(settings, running.holder),
        "server": check_server(settings, running),
        "token": token,
    }


async def _network(judged: Judged) -> dict[str, Finding]:
    """What is learnt by asking upstreams; nothing is asked where offline is set."""
    settings = judged.settings
    off = Finding("skipped", "sumdb is off: no module is proven")
    if settings.offline:
        offline = Finding("skipped", "offline is set: nothing is asked")
        found = {"upstreams": offline, "database": offline if settings.sumdb else off}
        found |= {"toolchain": offline, "clock": offline}
        return found | {"version_control": await check_version_control(settings, judged.environ)}
    if judged.secret:
        untold = Finding(
            "skipped",
            f"the running server does not tell the passwords or files in its {', '.join(judged.secret)}: "
            "give this command its configuration",
        )
        found = {"upstreams": untold, "database": untold if settings.sumdb else off}
        found |= {"toolchain": untold, "clock": untold}
        return found | {"version_control": untold}
    try:
        async with Inquiry(settings, judged.environ) as inquiry:
            upstreams = await check_upstreams(settings, inquiry)
            database = await check_database(settings, settings.sumdb, inquiry) if settings.sumdb else off
            return {
                "upstreams": upstreams,
                "database": database,
                "toolchain": await check_toolchain(settings, inquiry),
                "version_control": await check_version_control(settings, judged.environ),
                "clock": check_clock(inquiry.offsets),
            }
    except StartError as error:
        cause, _, _ = error.sentence.partition(":")
        certificates = cause == "upstream_ca_file"
        remedy = (
            "set upstream_ca_file to a file of PEM certificates"
            if certificates
            else f"correct or unset {cause}"
        )
        failed = Finding("failed", error.sentence, remedy)
        skipped = Finding("skipped", f"{cause} must be usable first")
        return {"upstreams": failed} | dict.fromkeys(
            ("database", "toolchain", "version_control", "clock"), skipped
        )
