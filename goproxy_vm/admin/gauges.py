"""The store's state as gauges, asked for at each scrape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.observe.metrics import gauge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

    from goproxy_vm.cache.facts import CacheStatus
    from goproxy_vm.observe.metrics import Labels
    from goproxy_vm.proxy.ages import Aging


def gauges(
    cache: CacheStatus,
    fetches_in_flight: int,
    vms: Mapping[str, int],
    aging: Aging,
    *,
    reached: bool,
    writable: bool,
    vulnerable: int | None = None,
) -> Iterator[Metric]:
    """``vms`` counts them by release of Go. ``reached``: the janitor's last pass for room got there;
    ``writable``: so was the last write; ``vulnerable`` is None where nobody can tell."""
    by = ("kind",)
    sizes: dict[Labels, float] = {(kind,): float(size) for kind, size in cache.sizes.items()}
    sizes |= {("answers",): cache.answers_bytes, ("sumdb",): cache.sumdb_bytes}
    sizes |= {("quarantine",): cache.quarantine_bytes}
    entries: dict[Labels, float] = {(kind,): float(count) for kind, count in cache.entries.items()}
    entries |= {("answers",): cache.answers, ("sumdb",): cache.sumdb}
    entries |= {("quarantine",): cache.quarantine_entries}
    yield gauge("cache_size_bytes", "Bytes allocated for what is stored.", by, sizes)
    yield gauge("cache_entries", "What is stored, in number.", by, entries)
    running: dict[Labels, float] = {(release,): float(count) for release, count in vms.items()}
    yield gauge("vms", "VMs that have reported within seven days, by their release of Go.", ("go",), running)
    known: dict[Labels, float] = {} if vulnerable is None else {(): float(vulnerable)}
    yield gauge("vulnerable_versions", "Stored versions that an advisory is about.", (), known)
    for name, help_, value in (
        ("fetches_in_flight", "Fetches from upstreams under way or not on disk yet.", fetches_in_flight),
        ("cache_limit_bytes", "Bytes that stored files and downloads may use.", cache.limit_bytes),
        ("cache_reserved_bytes", "Bytes held by downloads under way.", cache.reserved_bytes),
        ("cache_pinned_bytes", "Bytes of pinned zips.", cache.pinned_bytes),
        ("disk_free_bytes", "Bytes that the file system has left.", cache.disk_free_bytes),
        (
            "oldest_idle_seconds",
            "Age since last use of the zip unused for longest.",
            cache.oldest_idle_seconds,
        ),
        ("pass_target_reached", "1 if the last eviction freed what it had to.", reached),
        ("min_age_seconds", "How old versions must be.", aging.min_age),
        ("log_head_age_seconds", "Time since the checksum database's log last grew.", aging.head_age),
        ("cache_writable", "0 while the last write to any part of the cache directory failed.", writable),
    ):
        yield gauge(name, help_, (), {(): float(value)})
