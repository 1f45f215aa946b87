"""What min_age refuses: lists, @latest, queries and zips of what is too young, and what is said about it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from goproxy_vm.protocol.growth import DAY, HOUR
from goproxy_vm.proxy import needs
from goproxy_vm.proxy.agelimit import span
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Got, Host, Serve
from tests.integration.test_ages import MODULE, WEEK, Days, settled
from tests.integration.test_api_server import valid
from tests.integration.test_cases import refused_text
from tests.integration.test_gate import TOKEN, api

LIST, LATEST = f"/{MODULE}/@v/list", f"/{MODULE}/@latest"


@pytest.fixture
def days(upstream: FakeUpstream, tmp_path: Path, serve: Serve) -> Days:
    return Days(upstream, tmp_path, serve)


def file(version: str, kind: str = "zip") -> str:
    return f"/{MODULE}/@v/{version}.{kind}"


async def refused(host: Host, path: str) -> str:
    got = await host.get(path)
    assert got.status == 403, got.text
    refused_text(got.text)
    assert got.headers["Cache-Control"] == "no-store"
    head = await host.get(path, method="HEAD")
    assert head.status == 403
    return got.text


async def given(host: Host, path: str) -> Got:
    got = await host.get(path)
    assert got.status == 200, got.text
    return got


@pytest.mark.parametrize("fast_path", [True, False])
async def test_too_young(days: Days, *, fast_path: bool) -> None:
    """Hidden in lists, refused as code; .mod and .info pass; a week later it is offered and given."""
    host = await settled(days, fast_path=fast_path, admin_token=TOKEN, fresh=0.0)
    days.release("v1.1.0")
    await days.pass_days(host, 2)
    assert (await given(host, LIST)).text.split() == ["v0.9.0", "v1.0.0"]
    assert json.loads((await given(host, LATEST)).body)["Version"] == "v1.0.0"
    said = await refused(host, file("v1.1.0"))
    limit = "and this host offers nothing younger than 7 d (setting min_age)"
    assert re.search(rf": published 1 d 1[12] h ago, {re.escape(limit)}; ", said)
    assert "newest version allowed: v1.0.0; passes after 2027-01-30 20:00 UTC, or: goproxy-vm exempt" in said
    for kind in ("mod", "info"):
        await given(host, file("v1.1.0", kind))
    await host.quiet()
    assert days.upstream.count(file("v1.1.0")) == 0, "it is not fetched ahead either"
    for _ in range(2):
        await given(host, file("v1.0.0"))
    checked = await api(host, "GET", f"gate/check?module={MODULE}&version=v1.1.0", status=200)
    valid("Passing", checked)
    assert (checked["verdict"], checked["rule"], checked["newest_allowed"]) == ("refused", "age", "v1.0.0")
    assert checked["age"]["evidence"] == "log"
    assert await host.metric('goproxy_vm_refusals_total{rule="age"}') == 2
    await days.pass_days(host, 6)
    assert (await given(host, LIST)).text.split() == ["v0.9.0", "v1.0.0", "v1.1.0"]
    assert json.loads((await given(host, LATEST)).body)["Version"] == "v1.1.0"
    for _ in range(2):
        await given(host, file("v1.1.0"))


async def test_exempted(days: Days) -> None:
    host = await settled(days, admin_token=TOKEN)
    days.release("v1.1.0")
    await refused(host, file("v1.1.0"))
    body = {"kind": "exempt", "rule": f"{MODULE}@v1.1.0", "reason": "a fix", "for": "14d"}
    rule = await api(host, "POST", "gate/rules", body, status=201)
    await given(host, file("v1.1.0"))
    assert "v1.1.0" in (await given(host, LIST)).text
    assert json.loads((await given(host, LATEST)).body)["Version"] == "v1.1.0"
    # A block counts more than an exemption.
    blocked = {"kind": "block", "rule": f"{MODULE}@v1.1.0", "reason": "no"}
    block = await api(host, "POST", "gate/rules", blocked, status=201)
    assert "blocked on this host: no" in await refused(host, file("v1.1.0"))
    await api(host, "DELETE", f"gate/rules/{block['id']}", status=200)
    await given(host, file("v1.1.0"))
    await api(host, "DELETE", f"gate/rules/{rule['id']}", status=200)
    await refused(host, file("v1.1.0"))


async def test_a_younger_one_below_is_passed_over_for_latest(days: Days) -> None:
    """Where more is young than a list is looked at for, @latest still names what can be had."""
    host = await settled(days)
    days.release("v1.0.1", "v1.0.2", "v1.1.0", "v1.2.0")
    assert (await given(host, LIST)).text.split() == ["v0.9.0", "v1.0.0"]
    assert json.loads((await given(host, LATEST)).body)["Version"] == "v1.0.0"


async def test_what_a_young_version_retracts(days: Days) -> None:
    """go reads retractions of the newest version that is listed: of a hidden one we read them for it."""
    host = await settled(days)
    days.release("v1.0.1")
    await days.pass_days(host, 9)
    gomod = f"module {MODULE}\n\nretract v1.0.1 // broken\n".encode()
    days.upstream.add_module(MODULE, "v1.1.0", {"go.mod": gomod, "m.go": b"package m\n"}, gomod=gomod)
    days.world.record(MODULE, "v1.1.0")
    assert (await given(host, LIST)).text.split() == ["v0.9.0", "v1.0.0"]
    assert json.loads((await given(host, LATEST)).body)["Version"] == "v1.0.0"


async def test_retractions_that_cannot_be_read(days: Days, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "goproxy_vm")
    host = await settled(days)
    days.release("v1.1.0")
    days.upstream.on(file("v1.1.0", "mod"), Reply(status=503))
    assert (await given(host, LIST)).text.split() == ["v0.9.0", "v1.0.0"]
    assert "retractions not known" in caplog.text


async def test_a_query_for_what_is_young(days: Days) -> None:
    host = await settled(days)
    days.release("v1.1.0")
    days.upstream.files[file("master", "info")] = days.upstream.files[file("v1.1.0", "info")]
    said = await refused(host, file("master", "info"))
    assert "master is v1.1.0 now, which is not provably 7 d old" in said


async def test_nothing_is_old_enough(days: Days) -> None:
    host = await settled(days)
    days.release("v1.0.0", "v1.1.0", module="example.com/new")
    assert (await given(host, "/example.com/new/@v/list")).body == b""
    said = await refused(host, "/example.com/new/@latest")
    assert "every version is refused here: 2 younger than 7 d (setting min_age)" in said


async def test_a_commit_dated_back_says_so(days: Days) -> None:
    host = await settled(days)
    days.release("v1.1.0", committed=days.now - 400 * DAY)
    await given(host, file("v1.1.0", "info"))
    await days.pass_days(host, 1)
    said = await refused(host, file("v1.1.0"))
    assert " only, though committed 2025-12-" in said


async def test_a_new_host_goes_by_the_commits_time(days: Days) -> None:
    """What was published between the release and the installation; marked as unproven."""
    host = await days.serve(admin_token=TOKEN)
    await given(host, file("v1.0.0"))
    days.release("v1.1.0")
    said = await refused(host, file("v1.1.0"))
    assert "published 0 s ago by its commit's time, unproven, and this host offers nothing younger" in said
    strict = await days.restarted(host, min_age_unproven="refuse")
    assert "not provably 7 d old" in await refused(strict, file("v1.1.0"))


async def test_the_database_out_of_reach(days: Days) -> None:
    """Nobody can tell: trouble, not policy; what is old enough is given."""
    host = await settled(days)
    days.release("v1.1.0")
    await given(host, file("v1.0.0"))
    days.upstream.on(f"{days.world.prefix}/lookup/*", Reply(status=503))
    assert (await host.get(file("v1.1.0"))).status == 502
    assert (await given(host, LIST)).text.split() == ["v1.0.0"], "what may be too young is not offered"
    await given(host, file("v1.0.0"))


async def test_reload(days: Days) -> None:
    host = await settled(days, fast_path=True)
    days.release("v1.1.0")
    assert host.settings is not None
    await refused(host, file("v1.1.0"))
    await host.server.reload(replace(host.settings, min_age=0.0))
    for _ in range(2):
        await given(host, file("v1.1.0"))
    await host.server.reload(replace(host.settings, min_age=WEEK))
    await refused(host, file("v1.1.0"))


def require(days: Days, module: str, version: str, *others: str) -> None:
    lines = "".join(f"\t{each}\n" for each in others)
    gomod = f"module {module}\n\nrequire (\n{lines})\n".encode()
    days.upstream.add_module(module, version, {"go.mod": gomod, "m.go": b"package m\n"}, gomod=gomod)
    days.world.record(module, version)


async def test_what_a_young_version_requires(days: Days) -> None:
    """Only what is too young, and what that requires; for exempt --deep."""
    host = await settled(days, admin_token=TOKEN)
    require(days, "example.com/deep", "v1.0.0")
    require(days, "example.com/mid", "v1.0.0", "example.com/deep v1.0.0", f"{MODULE} v1.0.0")
    require(days, "example.com/top", "v1.0.0", "example.com/mid v1.0.0 // indirect", "example.com/top v1.0.0")
    found = await api(host, "GET", "gate/needs?module=example.com/top&version=v1.0.0", status=200)
    valid("Needs", found)
    assert [(each["module"], each["version"]) for each in found["items"]] == [
        ("example.com/mid", "v1.0.0"),
        ("example.com/deep", "v1.0.0"),
    ]
    assert not found["truncated"]
    for query in ("", "module=x", "module=example.com/top", "module=example.com/top&version=main"):
        await api(host, "GET", f"gate/needs?{query}", status=400)
    await api(host, "GET", "gate/needs?module=example.com/none&version=v1.0.0", status=404)


async def test_requirements_without_end(days: Days, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "MOST", 3)
    host = await settled(days, admin_token=TOKEN)
    names = [f"example.com/r{number}" for number in range(5)]
    for each in names:
        require(days, each, "v1.0.0")
    require(days, "example.com/top", "v1.0.0", *(f"{each} v1.0.0" for each in names))
    found = await api(host, "GET", "gate/needs?module=example.com/top&version=v1.0.0", status=200)
    assert (len(found["items"]), found["truncated"]) == (3, True)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (3 * HOUR + 61, "3 h 1 min"),
        (7 * DAY, "7 d"),
        (2 * DAY + 3 * HOUR + 59, "2 d 3 h"),
        (DAY + 59, "1 d"),
    ],
)
def test_span(seconds: float, text: str) -> None:
    assert span(seconds) == text
