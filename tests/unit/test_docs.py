"""The docs and the annotated file say what the code does."""

import argparse
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from goproxy_vm.admin.gauges import gauges
from goproxy_vm.cache.facts import CacheStatus
from goproxy_vm.config import File, Key, environment_name, flag_name, keys, load
from goproxy_vm.console.arguments import Commands
from goproxy_vm.doctor.check import TITLES
from goproxy_vm.observe.metrics import EVICTION_REASONS, RESULTS, Metrics
from goproxy_vm.proxy.ages import Aging
from goproxy_vm.server import RELOADED

ROOT = Path(__file__).parents[2]
METRICS_PAGE = (ROOT / "docs" / "metrics.md").read_text()
KEYS = list(keys().items())


def sections(name: str) -> dict[str, str]:
    """The third-level sections of docs/configuration.md: title and text."""
    text = (ROOT / "docs" / name).read_text()
    return dict(re.findall(r"^### `(\w+)`\n\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_docs_have_the_key(name: str, key: Key) -> None:
    default = key.default if key.computed else f"`{key.default}`" if key.default else "none"
    facts, meaning = sections("configuration.md")[name].split("\n\n", 1)
    flag = "No flag" if key.hidden else f"Flag `{flag_name(name)}`"
    assert facts == (
        f"{flag}, environment `{environment_name(name)}`, default {default}.\nTakes {key.form.allowed}."
    )
    assert meaning.strip()


def test_docs_have_no_other_key() -> None:
    assert sorted(sections("configuration.md")) == sorted(keys())


def test_what_a_reload_changes_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    sentence = re.search(r"reads its settings again\. (.*?) are in force then", text, re.DOTALL)
    assert sentence is not None
    assert re.findall(r"`(\w+)`", sentence[1]) == list(RELOADED)


def annotated() -> str:
    return (ROOT / "config" / "goproxy-vm.toml").read_text()


def test_annotated_file_has_every_key_with_its_default(tmp_path: Path) -> None:
    assert tomllib.loads(annotated()) == {}
    file = tmp_path / "all.toml"
    file.write_text(re.sub(r"^#(?=\w+ = )", "", annotated(), flags=re.MULTILINE))
    assert sorted(tomllib.loads(file.read_text())) == sorted(keys())
    environ = {"CACHE_DIRECTORY": "/var/cache/goproxy-vm"}
    loaded, defaults = load({}, environ, File(file, "x")), load({}, environ, None)
    assert loaded.settings == defaults.settings
    for name in keys():
        assert loaded.origins[name].value == defaults.origins[name].value
        assert loaded.origins[name].origin == f"file {file}"


@pytest.mark.parametrize(("name", "key"), KEYS)
def test_annotated_file_explains_the_key(name: str, key: Key) -> None:
    block = next(block for block in annotated().split("\n\n") if f"\n#{name} = " in block)
    *comment, variable, _ = block.strip().split("\n")
    words = " ".join(line.removeprefix("# ") for line in comment)
    default = f" Default: {key.default}." if key.computed else ""
    assert words == f"{key.help[0].upper()}{key.help[1:]}.{default} Takes {key.form.allowed}."
    assert variable == f"# {environment_name(name)}"


def test_every_metric_is_in_the_docs() -> None:
    cache = CacheStatus("", "", *[0] * 7, None, 0, 0, {}, {}, *[0] * 8)
    page = (
        Metrics("1")
        .render(gauges(cache, 0, {"other": 0}, Aging(0.0, 0.0), reached=True, writable=True, vulnerable=0))
        .decode()
    )
    names = {
        name.removesuffix("_created") for name in re.findall(r"^# TYPE (goproxy_vm_\w+)", page, re.MULTILINE)
    }
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert names == set(re.findall(r"^\| `(goproxy_vm_\w+)`", text, re.MULTILINE))


def listed(cell: str) -> dict[str, set[str]]:
    """The labels of a row of docs/metrics.md that say which values they have, and these."""
    found = {}
    for part in cell.split(";"):
        match = re.fullmatch(r"\s*`(\w+)` (\w+(?:, \w+)*)\s*", part)
        if match is not None:
            found[match[1]] = set(match[2].split(", "))
    return found


def test_the_docs_list_each_value_of_a_label() -> None:
    metrics = Metrics("1")
    metrics.add_upstream("u", lambda: (0, True))
    kinds = dict.fromkeys(("info", "mod", "zip"), 1)
    cache = CacheStatus("", "", *[0] * 7, None, 0, 0, kinds, kinds, *[0] * 8)
    page = metrics.render(
        gauges(cache, 0, {"other": 0}, Aging(0.0, 0.0), reached=True, writable=True, vulnerable=0)
    ).decode()
    values: dict[tuple[str, str], set[str]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault((sample.name, label), set()).add(value)
    rows = re.findall(r"^\| `(goproxy_vm_\w+)` \| \w+ \| (.*?) \|", METRICS_PAGE, re.MULTILINE)
    compared = 0
    for name, cell in rows:
        for label, named in listed(cell).items():
            assert named == values[name, label], (name, label)
            compared += 1
    assert compared >= 7
    results = METRICS_PAGE.partition("| result | meaning |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", results, re.MULTILINE)) == set(RESULTS)
    budget = (ROOT / "docs" / "operating.md").read_text().partition("| reason | when | what |")[2]
    reasons = re.findall(r"^\| `(\w+)` \|", budget.partition("\n\n")[0], re.MULTILINE)
    assert set(reasons) == set(EVICTION_REASONS)


def test_every_api_route_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    documented = dict(re.findall(r"^\| `(/api/\S+)` \| ([A-Z, ]+) \|", text, re.MULTILINE))
    paths = yaml.safe_load((ROOT / "goproxy_vm" / "admin" / "openapi.yaml").read_text())["paths"]
    assert {path: sorted(methods.split(", ")) for path, methods in documented.items()} == {
        path: sorted(method.upper() for method in item if method != "parameters")
        for path, item in paths.items()
    }


def test_every_command_is_in_the_docs() -> None:
    parsers = argparse.ArgumentParser().add_subparsers()
    Commands(parsers, lambda _: 0).add()
    text = (ROOT / "docs" / "operating.md").read_text()
    section = text.partition("## The command line")[2].partition("\n## ")[0]
    assert sorted(set(re.findall(r"`goproxy-vm (\w+)", section))) == sorted(["help", *parsers.choices])
    for parser in parsers.choices.values():
        for flag in re.findall(r"--[a-z-]+", parser.format_help()):
            assert flag == "--help" or f"{flag}" in section


def test_no_page_names_a_flag_that_a_command_does_not_have() -> None:
    parsers = argparse.ArgumentParser().add_subparsers()
    Commands(parsers, lambda _: 0).add()
    known = {
        name: set(re.findall(r"--[a-z-]+", each.format_help())) for name, each in parsers.choices.items()
    }
    known["serve"] = {flag_name(name) for name, _ in KEYS}
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    named = [
        (page.name, command, flag)
        for page in pages
        for command, rest in re.findall(r"goproxy-vm ([a-z]+)\b([^`|;\n]*)", page.read_text())
        for flag in re.findall(r"(?<=[\s[])--[a-z-]+", rest)
        if command in known
    ]
    assert len({command for _, command, _ in named}) > 5
    assert [each for each in named if each[2] not in known[each[1]]] == []


def test_memory_is_what_was_measured() -> None:
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    sizing = (ROOT / "docs" / "sizing.md").read_text()
    for zips in ("4", "20"):
        section = results.partition(f"## Memory, {zips} zips at a time\n")[2].partition("\n## ")[0]
        most = max(int(figure) for figure in re.findall(r" (\d+) \|$", section, re.MULTILINE))
        kills = re.findall(r"(\d+) OOM kills", section)
        assert f"| {zips} | {most} MiB | {kills[0]} |" in sizing


def test_every_check_of_the_doctor_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "operating.md").read_text()
    section = text.partition("## `goproxy-vm doctor`")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(TITLES)
    for title in TITLES.values():
        assert f"  {title}  " in section
