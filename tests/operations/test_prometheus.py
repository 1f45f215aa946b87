"""Scraping and alerts: promtool's opinion of them, and that they ask for what the server has."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from aiohttp import ContentTypeError
from prometheus_client.parser import text_string_to_metric_families

from goproxy_vm.admin.gauges import gauges
from goproxy_vm.cache.facts import CacheStatus
from goproxy_vm.observe.metrics import Metrics
from goproxy_vm.proxy.ages import Aging
from tests.fakes.vulndb import documents, write
from tests.operations import promql

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.fakes.upstream import FakeUpstream
    from tests.integration.conftest import Serve

ROOT = Path(__file__).parents[2]
HOME = ROOT / "config" / "prometheus"
DASHBOARD = ROOT / "config" / "grafana" / "dashboards" / "goproxy-vm.json"
SCRAPED = {"job", "instance"}
"""Labels that Prometheus adds."""
KINDS = dict.fromkeys(("info", "mod", "zip"), 1)


def promtool(*arguments: str, given: bytes = b"") -> None:
    """Must find nothing wrong."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [program, *arguments], input=given, cwd=HOME, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((HOME / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def series() -> dict[str, dict[str, set[str]]]:
    """Every sample's name that the server has, the values of each of its labels."""
    metrics = Metrics("1")
    metrics.add_upstream("goproxy.cn:443", lambda: (0, True))
    cache = CacheStatus("", "", *[0] * 7, None, 0, 0, KINDS, KINDS, *[0] * 8)
    page = metrics.render(
        gauges(cache, 0, {"other": 0}, Aging(0.0, 0.0), reached=True, writable=True, vulnerable=0)
    ).decode()
    found: dict[str, dict[str, set[str]]] = {"up": {}}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    for rule in rules():
        if "record" in rule:
            found[rule["record"]] = {}
    return found


def panels() -> list[dict[str, Any]]:
    every = json.loads(DASHBOARD.read_text())["panels"]
    return [each for panel in every for each in (panel, *panel.get("panels", ()))]


def expressions() -> list[tuple[str, str]]:
    """Each expression of the alerts, the dashboard and the pages, and where it is."""
    found = [(str(rule.get("alert") or rule["record"]), str(rule["expr"])) for rule in rules()]
    for panel in panels():
        found += [(panel["title"], target["expr"]) for target in panel.get("targets", ())]
    for page in (ROOT / "docs").glob("*.md"):
        blocks = re.findall(r"^```promql\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        found += [(page.name, block) for block in blocks]
    return found


def check(expression: str) -> None:
    """Each metric, label and literal value in it must be one that the server has."""
    known = series()
    query = promql.parse(expression)
    assert query.selectors
    everywhere = set(SCRAPED)
    for selector in query.selectors:
        assert selector.metric in known, f"no such metric: {selector.metric}"
        labels = known[selector.metric]
        everywhere |= set(labels)
        for label, operator, value in selector.matchers:
            assert label in SCRAPED | set(labels), f"{selector.metric} has no label {label}"
            if label in SCRAPED or "$" in value:
                continue
            values = value.split("|") if "~" in operator else [value]
            assert set(values) <= labels[label], f"{selector.metric}: no {label} is one of {values}"
    assert query.labels <= everywhere, f"no such labels: {query.labels - everywhere}"


@pytest.mark.parametrize(("where", "expression"), expressions())
def test_it_asks_for_what_the_server_has(where: str, expression: str) -> None:
    check(expression)


@pytest.mark.parametrize(
    "wrong",
    [
        "goproxy_vm_request_total",
        'goproxy_vm_requests_total{reslut="hit"}',
        'goproxy_vm_requests_total{result="hits"}',
        'goproxy_vm_requests_total{result=~"hit|stael"}',
        "sum by (kind) (rate(goproxy_vm_requests_total[5m]))",
        "rat(goproxy_vm_requests_total[5m])",
        "goproxy_vm_corrupt_total / on (upstream) goproxy_vm_cache_writable",
        "1 + 1",
        "goproxy_vm_corrupt_total § 2",
        '{job="goproxy-vm"}',
        'goproxy_vm_requests_total{result="hit", endpoint}',
    ],
)
def test_mistakes_are_found(wrong: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check(wrong)


def test_promtool_takes_the_configuration() -> None:
    promtool("check", "config", "prometheus.yml")


def test_alerts_fire_when_they_should() -> None:
    promtool("test", "rules", "rules_test.yml")


def test_every_alert_is_tested() -> None:
    tests = (HOME / "rules_test.yml").read_text()
    tested = set(re.findall(r'alertname="(\w+)", alertstate="firing"', tests))
    assert tested == {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description"}
    assert f"`{alert['alert']}`" in (ROOT / "docs" / "metrics.md").read_text()


async def test_promtool_takes_the_metrics(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    assert (await host.get("/example.com/m/@v/v1.0.0.zip")).status == 200
    assert (await host.get("/example.com/m/@v/v9.9.9.zip")).status == 404
    page = await host.admin("/metrics")
    promtool("check", "metrics", given=page.body)


def concrete(expression: str) -> str:
    """The expression as Grafana sends it."""
    for variable, value in (("$__rate_interval", "1m"), ("$job", ".+"), ("$instance", ".+")):
        expression = expression.replace(variable, value)
    return expression


def test_promtool_takes_every_expression(tmp_path: Path) -> None:
    """It checks those of rules only: so the dashboard's become rules."""
    recorded = [{"record": f"x:{at}", "expr": concrete(text)} for at, (_, text) in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "x", "rules": recorded}]}))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[str]:
    """The real one, with our configuration, rules included, that scrapes ``target`` each second; its URL."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("prometheus is not installed")
    text = (HOME / "prometheus.yml").read_text()
    text = text.replace("goproxy-vm:8081", target).replace("_interval: 15s", "_interval: 1s")
    (directory / "prometheus.yml").write_text(text)
    shutil.copy(HOME / "rules.yml", directory)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [program, "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={address}"], cwd=directory, stdout=log, stderr=log
        )
        try:
            yield f"http://{address}/api/v1"
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.timeout(120)
async def test_prometheus_sees_the_server(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    """It finds the target, evaluates every rule, and has an answer for every panel."""
    write(tmp_path / "vulndb", documents([]))
    host = await serve(upstream, vulndb=f"file://{tmp_path}/vulndb")
    with prometheus(tmp_path, host.server.admin_url.removeprefix("http://")) as api:

        async def ask(path: str, **query: str) -> Any:
            plain = {"Accept-Encoding": "identity"}
            async with host.session.get(f"{api}/{path}", params=query, headers=plain) as response:
                return (await response.json())["data"]

        async def seen(expression: str) -> list[Any]:
            found: list[Any] = (await ask("query", query=concrete(expression)))["result"]
            return found

        async with asyncio.timeout(60):
            while True:
                await host.get("/example.com/m/@v/v1.0.0.zip")
                with suppress(OSError, ContentTypeError):  # not ready yet: 503 in plain text
                    if await seen("goproxy_vm:hit_ratio:1h"):
                        break
                await asyncio.sleep(0.2)
        (target,) = (await ask("targets"))["activeTargets"]
        assert (target["health"], target["labels"]["job"]) == ("up", "goproxy-vm")
        evaluated = [rule for group in (await ask("rules"))["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in evaluated} <= {"ok", "unknown"}
        assert len(evaluated) == len(rules())
        assert await seen("ALERTS") == []
        for panel in panels():
            for query in panel.get("targets", ()):
                if not query["expr"].endswith("> 0"):
                    assert await seen(query["expr"]), query["expr"]
