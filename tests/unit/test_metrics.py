"""Metrics: every series from the start, counts that agree, labels that are known."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from goproxy_vm.admin.gauges import gauges
from goproxy_vm.cache.facts import CacheStatus
from goproxy_vm.observe.metrics import (
    ENDPOINTS,
    RESULTS,
    UPSTREAM_OUTCOMES,
    VERIFICATION_KINDS,
    VERIFICATION_OUTCOMES,
    Metrics,
)
from goproxy_vm.proxy.ages import Aging

CACHE = CacheStatus("", "", *[0] * 7, None, 0, 0, {}, {}, *[0] * 8)
LABELS = ["endpoint", "result", "upstream", "kind", "outcome", "version", "generation", "source", "reason"]


def samples(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        # Exposition sorts the labels by name; what comes back is upstream or kind first, as we write them.
        tuple(sample.labels[label] for label in sorted(sample.labels, key=LABELS.index)): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def test_every_series_is_there_from_the_start() -> None:
    metrics = Metrics("1.2.3")
    metrics.add_upstream("goproxy.cn:443", lambda: (0, True))
    requests = samples(metrics, "goproxy_vm_requests_total")
    assert requests == {(endpoint, result): 0 for endpoint in ENDPOINTS for result in RESULTS}
    assert samples(metrics, "goproxy_vm_upstream_requests_total") == {
        ("goproxy.cn:443", outcome): 0 for outcome in UPSTREAM_OUTCOMES
    }
    assert samples(metrics, "goproxy_vm_verifications_total") == {
        (kind, outcome): 0 for kind in VERIFICATION_KINDS for outcome in VERIFICATION_OUTCOMES
    }
    assert samples(metrics, "goproxy_vm_build_info") == {("1.2.3",): 1}


def test_counts() -> None:
    metrics = Metrics("1")
    metrics.add_upstream("a:443", lambda: (10, True))
    for seconds in (0.0004, 0.3, 700.0):
        metrics.request("zip", "hit", seconds, 100)
    metrics.request("zip", "miss", 1.0, 7)
    metrics.request("zip", "error", 1.0, 60)
    metrics.request("other", "hit", 0.1, 5)
    metrics.upstream("a:443", "ok", 0.2)
    metrics.add_upstream("a:443", lambda: (5, False))  # again: nothing is forgotten
    metrics.eviction("size", 4096, 90.0)
    metrics.eviction("purge", 512, None)
    metrics.scrubbed(10)
    metrics.corrupt()
    metrics.verification("zip", "verified")
    assert samples(metrics, "goproxy_vm_requests_total")["zip", "hit"] == 3
    assert samples(metrics, "goproxy_vm_upstream_requests_total")["a:443", "ok"] == 1
    assert samples(metrics, "goproxy_vm_verifications_total")["zip", "verified"] == 1
    sent = samples(metrics, "goproxy_vm_response_bytes_total")
    assert (sent["zip", "cache"], sent["zip", "upstream"], sent["zip", "other"]) == (300, 7, 60)
    assert sent["other", "other"] == 5
    text = metrics.render().decode()
    prefix = 'goproxy_vm_request_duration_seconds_bucket{endpoint="zip",le="%s",result="hit"}'
    for bound, count in (("0.0005", 1), ("0.5", 2), ("600", 2), ("+Inf", 3)):
        assert f"{prefix % bound} {count}.0\n" in text
    assert 'goproxy_vm_request_duration_seconds_sum{endpoint="zip",result="hit"} 700.3004' in text
    assert samples(metrics, "goproxy_vm_upstream_bytes_total") == {("a:443",): 15}
    assert samples(metrics, "goproxy_vm_upstream_up") == {("a:443",): 0}
    assert samples(metrics, "goproxy_vm_evicted_bytes_total")["size",] == 4096
    assert samples(metrics, "goproxy_vm_evictions_total")["purge",] == 1
    assert samples(metrics, "goproxy_vm_eviction_idle_seconds_count") == {(): 1}
    assert samples(metrics, "goproxy_vm_scrubbed_bytes_total") == {(): 10}
    assert samples(metrics, "goproxy_vm_corrupt_total") == {(): 1}


def test_names_and_help_follow_the_rules() -> None:
    found = gauges(CACHE, 0, {"other": 0}, Aging(604800.0, 90.0), reached=True, writable=True)
    page = Metrics("1").render(found).decode()
    types = re.findall(r"^# HELP (goproxy_vm_\w+) (.*)\n# TYPE (\S+) (\w+)$", page, re.MULTILINE)
    assert len(types) == page.count("# TYPE goproxy_vm") > 20
    for name, help_, again, kind in types:
        assert name == again
        assert re.fullmatch(r"[A-Z0-9][^\n]*\.", help_)
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"milli|micro|kilo|mega|minutes|hours|_ms$|_total_|_count(_|$)|_sum(_|$)", name)
        if re.search("second|byte|duration|size", name):
            assert re.search(r"_(seconds|bytes)(_total)?$", name)
        if kind == "histogram":
            assert name.endswith("_seconds")


def test_unknown_labels_are_mistakes() -> None:
    metrics = Metrics("1")
    with pytest.raises(KeyError):
        metrics.request("/evil", "hit", 0.0, 0)
    with pytest.raises(KeyError):
        metrics.upstream("never added", "ok", 0.0)
    with pytest.raises(KeyError):
        metrics.verification("zip", "maybe")


def test_process_and_python_are_covered_in_a_registry_of_their_own() -> None:
    first, second = Metrics("1"), Metrics("1")
    assert first.registry is not second.registry
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "python_info"):
        assert f"\n{name}" in first.render().decode()
    assert samples(second, "python_gc_collections_total")
