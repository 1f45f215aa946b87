"""Metrics: every series from the start, counts that agree, labels that are known."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from goproxy_vm.observe.metrics import (
    ENDPOINTS,
    RESULTS,
    UPSTREAM_OUTCOMES,
    VERIFICATION_KINDS,
    VERIFICATION_OUTCOMES,
    Metrics,
)

LABELS = ["endpoint", "result", "upstream", "kind", "outcome", "version", "generation"]


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
    metrics.add_upstream("goproxy.cn:443")
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
    metrics.add_upstream("a:443")
    for _ in range(3):
        metrics.request("zip", "hit")
    metrics.upstream("a:443", "ok")
    metrics.add_upstream("a:443")  # again: nothing is forgotten
    metrics.verification("zip", "verified")
    assert samples(metrics, "goproxy_vm_requests_total")["zip", "hit"] == 3
    assert samples(metrics, "goproxy_vm_upstream_requests_total")["a:443", "ok"] == 1
    assert samples(metrics, "goproxy_vm_verifications_total")["zip", "verified"] == 1


def test_unknown_labels_are_mistakes() -> None:
    metrics = Metrics("1")
    with pytest.raises(KeyError):
        metrics.request("/evil", "hit")
    with pytest.raises(KeyError):
        metrics.upstream("never added", "ok")
    with pytest.raises(KeyError):
        metrics.verification("zip", "maybe")


def test_process_and_python_are_covered_in_a_registry_of_their_own() -> None:
    first, second = Metrics("1"), Metrics("1")
    assert first.registry is not second.registry
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "python_info"):
        assert f"\n{name}" in first.render().decode()
    assert samples(second, "python_gc_collections_total")
