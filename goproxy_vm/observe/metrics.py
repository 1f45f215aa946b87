"""What Prometheus scrapes.

A request costs one addition to a plain integer: the counters are dictionaries, and one collector turns
them into samples at the scrape. Every series exists from the start at 0, so that rates work before the
first event, and no label ever holds a module, a version or a path.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, InfoMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.core import Metric

ENDPOINTS = ("list", "latest", "info", "mod", "zip", "sumdb", "other")
RESULTS = ("hit", "miss", "collapsed", "stale", "negative", "refused", "error")
UPSTREAM_OUTCOMES = ("ok", "not_found", "refused", "unavailable", "timeout", "connection", "content")
VERIFICATION_KINDS = ("mod", "zip", "lookup", "tile", "head")
VERIFICATION_OUTCOMES = ("verified", "known", "mismatch", "malformed", "unavailable", "absent", "fork")

_Counts = dict[tuple[str, str], int]


class Metrics:
    """All counters of one server, in a registry of their own.

    Labels other than those listed in this module raise KeyError: they are mistakes of ours.
    """

    def __init__(self, version: str) -> None:
        self._version = version
        self._requests: _Counts = dict.fromkeys(product(ENDPOINTS, RESULTS), 0)
        self._upstreams: _Counts = {}
        self._verifications: _Counts = dict.fromkeys(product(VERIFICATION_KINDS, VERIFICATION_OUTCOMES), 0)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(_Collector(self))

    def request(self, endpoint: str, result: str) -> None:
        """One request on the main listener was answered."""
        self._requests[endpoint, result] += 1

    def add_upstream(self, name: str) -> None:
        """Make the series of an upstream, by its name without userinfo."""
        for outcome in UPSTREAM_OUTCOMES:
            self._upstreams.setdefault((name, outcome), 0)

    def upstream(self, name: str, outcome: str) -> None:
        """One request that an upstream saw has ended."""
        self._upstreams[name, outcome] += 1

    def verification(self, kind: str, outcome: str) -> None:
        """One thing was checked against the checksum database, or against what was known of it."""
        self._verifications[kind, outcome] += 1

    def render(self) -> bytes:
        """All metrics in Prometheus' text format, version 0.0.4."""
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """The counters as they are now."""
        yield _family(
            "goproxy_vm_requests",
            "Requests answered on the main listener.",
            ("endpoint", "result"),
            self._requests,
        )
        yield _family(
            "goproxy_vm_upstream_requests",
            "Requests that upstreams saw.",
            ("upstream", "outcome"),
            self._upstreams,
        )
        yield _family(
            "goproxy_vm_verifications",
            "Checks of files, records, tiles and tree heads.",
            ("kind", "outcome"),
            self._verifications,
        )
        yield InfoMetricFamily("goproxy_vm_build", "The version that runs.", {"version": self._version})


class _Collector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def _family(
    name: str, help_: str, labels: tuple[str, str], counts: Mapping[tuple[str, str], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, help_, labels=labels)
    for values, count in counts.items():
        family.add_metric(values, count)
    return family
