"""Facts as the admin API's JSON (docs/api.md): sizes in bytes, times in RFC 3339, durations in seconds."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from goproxy_vm.protocol.artifact import HASHED, KINDS

if TYPE_CHECKING:
    from goproxy_vm.admin.status import InForce, Status
    from goproxy_vm.cache.facts import (
        CacheStatus,
        Difference,
        Eviction,
        FileFacts,
        Page,
        Pass,
        Pin,
        Pins,
        Removal,
        RemovedVersion,
        Snapshot,
        Totals,
        VersionFacts,
        Vm,
        VmPage,
    )
    from goproxy_vm.observe.traffic import Served
    from goproxy_vm.upstream.backoff import Condition

Json = dict[str, Any]


def timestamp(seconds: float) -> str:
    """Epoch seconds as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def timestamp_or_none(seconds: float | None) -> str | None:
    """The same, of what may not have been, or not be to come."""
    return None if seconds is None else timestamp(seconds)


def in_force(facts: InForce) -> Json:
    """The answer of ``GET /api/v1/settings``."""
    return {
        "settings": {name: asdict(origin) for name, origin in facts.settings.items()},
        "proxies": dict(facts.proxies),
        "urls": list(facts.urls),
        "admin_url": facts.admin_url,
    }


def status(facts: Status) -> Json:
    """The answer of ``GET /api/v1/status``."""
    now, activity = time.time(), facts.activity
    return {
        "version": facts.version,
        "started": timestamp(facts.started),
        "uptime_seconds": facts.uptime_seconds,
        "state": facts.state,
        "cache": _cache(facts.cache),
        "traffic": {
            "since_start": _served(activity.since_start),
            "last_day": _served(activity.last_day),
            "requests_per_second": activity.requests_per_second,
        },
        "clients": {"addresses": activity.addresses, "connections": activity.connections},
        "upstreams": [_source(name, each, now) for name, each in activity.upstreams],
        "sumdb": None if activity.database is None else _source(*activity.database, now),
        "gate": {
            "rules": dict(activity.rules),
            "min_age_seconds": activity.aging.min_age,
            "head_age_seconds": activity.aging.head_age,
        },
        "fetches_in_flight": facts.fetches_in_flight,
        "recovery": asdict(facts.recovery),
        "last_pass": None if facts.last_pass is None else one_pass(facts.last_pass),
        "last_scrub": None if facts.last_scrub is None else one_pass(facts.last_scrub),
    }


def _served(facts: Served) -> Json:
    return {
        "seconds": facts.seconds,
        "requests": facts.requests,
        "found": facts.decided,
        "hits": facts.hits,
        "hit_ratio": facts.hit_ratio,
        "saved_bytes": facts.saved_bytes,
    }


def _source(name: str, facts: Condition, now: float) -> Json:
    return {
        "name": name,
        "state": facts.state,
        "since": None if facts.failing_seconds is None else timestamp(now - facts.failing_seconds),
        "retry_seconds": facts.retry_seconds,
        "reason": facts.reason or None,
    }


def _cache(facts: CacheStatus) -> Json:
    made = asdict(facts)
    del made["answers"], made["sumdb"]  # their numbers are for the metrics
    return made


def version(facts: VersionFacts) -> Json:
    """A version and its files; kinds that are not stored are left out."""
    return {
        "module": facts.module,
        "version": facts.version,
        "bytes": facts.bytes,
        "hits": facts.hits,
        "fetched": timestamp(facts.fetched),
        "last_used": timestamp(facts.last_used),
        "idle_seconds": facts.idle_seconds,
        "pinned": facts.pinned,
        "files": {kind: _file(kind, facts.files[kind]) for kind in KINDS if kind in facts.files},
    }


def _file(kind: str, facts: FileFacts) -> Json:
    made: Json = {
        "bytes": facts.bytes,
        "length": facts.length,
        "sha256": facts.sha256,
        "fetched": timestamp(facts.fetched),
        "last_used": timestamp(facts.last_used),
        "hits": facts.hits,
    }
    if kind in HASHED:
        made["h1"] = facts.h1
    return made


def versions(page: Page[VersionFacts]) -> Json:
    """A page of versions."""
    return {
        "items": [version(each) for each in page.items],
        "next_cursor": page.next_cursor,
        "total": page.total,
    }


def vms(page: VmPage) -> Json:
    """A page of VMs."""
    wanted, now = page.vm_go.partition("+")[0], time.time()
    return {
        "vm_go": page.vm_go or None,
        "items": [_vm(each, wanted, now) for each in page.items],
        "next_cursor": page.next_cursor,
        "total": page.total,
    }


def _vm(facts: Vm, wanted: str, now: float) -> Json:
    report = facts.report
    return {
        "address": facts.address,
        "go": report.go,
        "differs": report.go != f"go{wanted}" if wanted else None,
        "bootstrap": report.bootstrap,
        "os": report.os,
        "arch": report.arch,
        "script": report.script,
        "seen": timestamp(facts.seen),
        "idle_seconds": max(0.0, now - facts.seen),
        "modcache_bytes": _bytes_or_none(report.modcache_mib),
        "gocache_bytes": _bytes_or_none(report.gocache_mib),
    }


def _bytes_or_none(mib: int | None) -> int | None:
    return None if mib is None else mib << 20


def removal(facts: Removal) -> Json:
    """What went, or in a dry run would go; the items not among it."""
    sums = {
        "versions": facts.versions,
        "files": facts.files,
        "bytes": facts.bytes,
        "answers": facts.answers,
    }
    return {
        "dry_run": facts.dry_run,
        "removed": sums,
        "truncated": facts.truncated,
    }


def removed(facts: RemovedVersion) -> Json:
    """One version that went."""
    return {
        "module": facts.module,
        "version": facts.version,
        "kinds": list(facts.kinds),
        "bytes": facts.bytes,
    }


def eviction(facts: Eviction) -> Json:
    """A removal, and how far it came; ``pass`` is null for a dry run."""
    return {
        **removal(facts.removal),
        "target_bytes": facts.target_bytes,
        "before_bytes": facts.before_bytes,
        "after_bytes": facts.after_bytes,
        "reached": facts.reached,
        "pass": facts.pass_id,
    }


def pin(facts: Pin) -> Json:
    """One pin, and what it matches now."""
    return asdict(facts)


def pins(facts: Pins) -> Json:
    """All pins."""
    return {
        "items": [pin(each) for each in facts.items],
        "pinned_bytes": facts.pinned_bytes,
        "limit_bytes": facts.limit_bytes,
    }


def one_pass(facts: Pass) -> Json:
    """One run of the janitor, the scrub or the recovery; only a scrub has ``scrubbed``."""
    made: Json = {
        "id": facts.id,
        "reason": facts.reason,
        "started": timestamp(facts.started),
        "finished": timestamp_or_none(facts.finished),
        "state": facts.state,
        "target_bytes": facts.target_bytes,
        "reached": facts.reached,
        "before": _totals(facts.before),
        "after": None if facts.after is None else _totals(facts.after),
        "evicted": {"entries": facts.evicted_entries, "bytes": facts.evicted_bytes},
    }
    if facts.scrubbed is not None:
        made["scrubbed"] = dict(zip(("entries", "bytes", "corrupt"), facts.scrubbed, strict=True))
    return made


def _totals(facts: Totals) -> Json:
    return asdict(facts)


def snapshot(facts: Snapshot) -> Json:
    """One snapshot."""
    return {
        "id": facts.id,
        "name": facts.name,
        "created": timestamp(facts.created),
        "versions": facts.versions,
        "bytes": facts.bytes,
    }


def difference(facts: Difference) -> Json:
    """What came and went between two snapshots."""
    return {
        "a": facts.a,
        "b": facts.b,
        "came": [removed(each) for each in facts.came],
        "went": [
            {
                "module": each.module,
                "version": each.version,
                "kinds": list(each.kinds),
                "bytes": each.bytes,
                "reason": each.reason,
            }
            for each in facts.went
        ],
        "bytes_came": facts.bytes_came,
        "bytes_freed": facts.bytes_freed,
        "freed_by_reason": dict(facts.freed_by_reason),
        "truncated": facts.truncated,
    }
