"""What Prometheus scrapes.

A request costs a few additions to plain numbers: the counters are dictionaries, and one collector turns
them into samples at the scrape. Every series exists from the start at 0, so that rates work before the
first event, and no label ever holds a module, a version or a path.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from goproxy_vm.observe.histogram import IDLE_SECONDS, REQUEST_SECONDS, Histogram
from goproxy_vm.observe.traffic import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

ENDPOINTS = ("list", "latest", "info", "mod", "zip", "sumdb", "vulndb", "other")
RESULTS = ("hit", "miss", "collapsed", "stale", "negative", "refused", "pending", "error")
SOURCES = ("cache", "upstream", "other")
UPSTREAM_OUTCOMES = (
    *("ok", "not_found", "refused", "unavailable", "timeout", "connection", "redirect", "content", "probe"),
)
VERIFICATION_KINDS = ("mod", "zip", "lookup", "tile", "head")
VERIFICATION_OUTCOMES = ("verified", "known", "mismatch", "malformed", "unavailable", "absent", "fork")
REFUSALS = ("block", "deny", "allow", "age")
RULES = ("block", "exempt", "deny", "allow")
EVICTION_REASONS = ("size", "idle", "min_free", "evict", "purge", "corrupt")
SOURCE = {"hit": "cache", "stale": "cache", "miss": "upstream", "collapsed": "upstream"}
"""Where the bytes of an answer came from, by its result; those of errors and pages are ``other``."""

Labels = tuple[str, ...]
_Counts = dict[Labels, float]


class Metrics:
    """All counters of one server, in a registry of their own.

    Labels other than those listed in this module raise KeyError: they are mistakes of ours.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._durations: dict[Labels, Histogram] = {
            labels: Histogram(REQUEST_SECONDS) for labels in product(ENDPOINTS, RESULTS)
        }
        self._sent: _Counts = dict.fromkeys(product(ENDPOINTS, SOURCES), 0)
        self._upstreams: _Counts = {}
        self._upstream_durations: dict[Labels, Histogram] = {}
        self._watched: list[tuple[str, Callable[[], tuple[int, bool | None]]]] = []
        self._verifications: _Counts = dict.fromkeys(product(VERIFICATION_KINDS, VERIFICATION_OUTCOMES), 0)
        self._evictions: _Counts = {(reason,): 0 for reason in EVICTION_REASONS}
        self._evicted: _Counts = {(reason,): 0 for reason in EVICTION_REASONS}
        self._idle = Histogram(IDLE_SECONDS)
        self._refusals: _Counts = {(rule,): 0 for rule in REFUSALS}
        self._rules: _Counts = {(kind,): 0 for kind in RULES}
        self._scrubbed = 0
        self._corrupt = 0
        self._ledger: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._gauges: tuple[Metric, ...] = ()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(_Collector(self))

    def request(self, endpoint: str, result: str, seconds: float, sent: int) -> None:
        """One request on the main listener was answered in so many seconds with a body of ``sent`` bytes.

        Pages are answered from memory like hits, but no file is behind them.
        """
        self._durations[endpoint, result].observe(seconds)
        source = "other" if endpoint == "other" else SOURCE.get(result, "other")
        self._sent[endpoint, source] += sent

    def add_upstream(self, name: str, watch: Callable[[], tuple[int, bool | None]]) -> None:
        """Make the series of an upstream, by its name without userinfo.

        ``watch`` tells, at each scrape, the bytes received from it so far and whether it is up; None for
        what brings no modules.
        """
        for outcome in UPSTREAM_OUTCOMES:
            self._upstreams.setdefault((name, outcome), 0)
        self._upstream_durations.setdefault((name,), Histogram(REQUEST_SECONDS))
        self._watched.append((name, watch))

    def watch_ledger(self, watch: Callable[[], tuple[int, int]]) -> None:
        """``watch`` tells, at each scrape, the ledger's rows, and the fetches that it does not know of."""
        self._ledger = watch

    def upstream(self, name: str, outcome: str, seconds: float) -> None:
        """One request that an upstream saw has ended, after so many seconds."""
        self._upstreams[name, outcome] += 1
        self._upstream_durations[name,].observe(seconds)

    def verification(self, kind: str, outcome: str) -> None:
        """One thing was checked against the checksum database, or against what was known of it."""
        self._verifications[kind, outcome] += 1

    def eviction(self, reason: str, size: int, idle_seconds: float | None) -> None:
        """A stored file of ``size`` bytes went; ``idle_seconds`` since it was asked for, None for purges."""
        self._evictions[reason,] += 1
        self._evicted[reason,] += size
        if idle_seconds is not None:
            self._idle.observe(idle_seconds)

    def barred(self, rule: str) -> None:
        """A request was refused by a rule of the gate."""
        self._refusals[rule,] += 1

    def rules(self, kind: str, count: int) -> None:
        """So many rules of a kind are in force now."""
        self._rules[kind,] = count

    def scrubbed(self, size: int) -> None:
        """Bytes of stored files were read and compared."""
        self._scrubbed += size

    def corrupt(self) -> None:
        """A stored file was not what it was."""
        self._corrupt += 1

    def served(self, seconds: float) -> Served:
        """What was answered so far, in a run of so many seconds; the hit ratio's rule, without pages."""
        requests = decided = hits = 0
        for (endpoint, result), each in self._durations.items():
            if endpoint == "other":
                continue
            count = sum(each.counts)
            requests += count
            decided += count if result in SOURCE else 0
            hits += count if SOURCE.get(result) == "cache" else 0
        saved = sum(size for (_, source), size in self._sent.items() if source == "cache")
        return Served(seconds, requests, decided, hits, int(saved))

    def render(self, gauges: Iterable[Metric] = ()) -> bytes:
        """All metrics in Prometheus' text format, version 0.0.4; ``gauges`` are those of the moment."""
        self._gauges = tuple(gauges)
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """The counters as they are now."""
        requests: _Counts = {labels: sum(each.counts) for labels, each in self._durations.items()}
        both = ("endpoint", "result")
        yield counter("requests", "Requests answered on the main listener.", both, requests)
        yield histogram(
            "request_duration_seconds", "Time until a request was answered.", both, self._durations
        )
        yield counter(
            "response_bytes",
            "Bytes of bodies sent, by where they came from.",
            ("endpoint", "source"),
            self._sent,
        )
        yield from self._upstream_families()
        yield counter(
            "verifications",
            "Checks of files, records, tiles and tree heads.",
            ("kind", "outcome"),
            self._verifications,
        )
        yield counter("evictions", "Stored files removed.", ("reason",), self._evictions)
        yield counter("evicted_bytes", "Bytes of stored files removed.", ("reason",), self._evicted)
        yield histogram(
            "eviction_idle_seconds", "Age since last use of files at eviction.", (), {(): self._idle}
        )
        yield counter("refusals", "Requests that a rule of the gate refused.", ("rule",), self._refusals)
        yield gauge("gate_rules", "Rules of the gate that are in force.", ("kind",), self._rules)
        yield counter("scrubbed_bytes", "Bytes of stored files compared.", (), {(): self._scrubbed})
        yield counter("corrupt", "Stored files that were not what they were.", (), {(): self._corrupt})
        rows, dropped = self._ledger()
        yield gauge("ledger_rows", "Pairs of client and version in the ledger.", (), {(): rows})
        yield counter(
            "ledger_dropped", "Fetches and refusals that the ledger does not know of.", (), {(): dropped}
        )
        yield from self._gauges
        yield InfoMetricFamily("goproxy_vm_build", "The version that runs.", {"version": self._version})

    def _upstream_families(self) -> Iterator[Metric]:
        received: _Counts = {}
        up: _Counts = {}
        for name, watch in self._watched:
            size, is_up = watch()
            received[name,] = received.get((name,), 0) + size
            if is_up is not None:
                up[name,] = min(up.get((name,), 1), int(is_up))
        one = ("upstream",)
        yield counter(
            "upstream_requests", "Requests that upstreams saw.", ("upstream", "outcome"), self._upstreams
        )
        yield histogram(
            "upstream_duration_seconds", "Time of requests to upstreams.", one, self._upstream_durations
        )
        yield counter("upstream_bytes", "Bytes of bodies received from upstreams.", one, received)
        yield gauge(
            "upstream_up",
            "0 from a failure that is backed off from until the upstream answers again.",
            one,
            up,
        )


class _Collector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def counter(
    name: str, help_: str, labels: tuple[str, ...], counts: Mapping[Labels, float]
) -> CounterMetricFamily:
    """A counter's family, its children by their labels' values; ``_total`` is added to the name."""
    family = CounterMetricFamily(f"goproxy_vm_{name}", help_, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def gauge(
    name: str, help_: str, labels: tuple[str, ...], values: Mapping[Labels, float]
) -> GaugeMetricFamily:
    """A gauge's family, its children by their labels' values."""
    family = GaugeMetricFamily(f"goproxy_vm_{name}", help_, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def histogram(
    name: str, help_: str, labels: tuple[str, ...], values: Mapping[Labels, Histogram]
) -> HistogramMetricFamily:
    """A histogram's family, its children by their labels' values."""
    family = HistogramMetricFamily(f"goproxy_vm_{name}", help_, labels=labels)
    for each, value in values.items():
        family.add_metric(each, value.buckets(), value.sum)
    return family
