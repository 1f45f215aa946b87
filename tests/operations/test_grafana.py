"""The dashboard: it loads, nothing overlaps, each panel says what it shows. Queries: test_prometheus.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from goproxy_vm.observe.metrics import EVICTION_REASONS
from tests.operations.test_prometheus import DASHBOARD, expressions, panels, series

HOME = Path(__file__).parents[2] / "config" / "grafana"


def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text())


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + dx, at["y"] + dy) for dx in range(at["w"]) for dy in range(at["h"])}
        assert not taken & cells, panel["title"]
        taken |= cells
    numbers = [panel["id"] for panel in panels()]
    assert len(set(numbers)) == len(numbers)


def test_every_panel_says_what_it_shows() -> None:
    for panel in panels():
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["targets"]


def test_it_asks_the_data_source_and_the_servers_that_are_chosen() -> None:
    names = {variable["name"] for variable in dashboard()["templating"]["list"]}
    assert names == {"datasource", "job", "instance"}
    for panel in panels():
        for target in panel.get("targets", ()):
            assert (
                target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            )
            assert target["expr"].count('{job=~"$job", instance=~"$instance"') == target["expr"].count("{")


def test_every_metric_of_ours_is_shown_or_watched() -> None:
    asked = " ".join(expression for _, expression in expressions())
    for name in series():
        if name.startswith("goproxy_vm_"):
            family = name.removesuffix("_sum").removesuffix("_count").removesuffix("_bucket")
            assert family in asked, name


def test_panels_by_reason_explain_each() -> None:
    """A description that lists what a label may be lists all of it, and nothing else."""
    by_reason = [panel for panel in panels() if "sum by (reason)" in json.dumps(panel)]
    assert len(by_reason) == 2
    for panel in by_reason:
        words = set(re.findall(r"\w+", panel["description"])) & {*EVICTION_REASONS, "scrub", "recovery"}
        assert words == set(EVICTION_REASONS)


def test_provisioning() -> None:
    (source,) = yaml.safe_load((HOME / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    scraping = yaml.safe_load((HOME.parent / "prometheus/prometheus.yml").read_text())["global"]
    assert source["type"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == scraping["scrape_interval"]
    (provider,) = yaml.safe_load((HOME / "provisioning/dashboards/goproxy-vm.yml").read_text())["providers"]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
