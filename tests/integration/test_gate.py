"""The gate on a whole server: what each kind of rule refuses, however the answer comes about."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from goproxy_vm.cache.files import StoredFile
from goproxy_vm.errors import StartError
from goproxy_vm.proxy.rulebook import NAME
from tests.fakes.lines import logged
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.wire import until as eventually
from tests.integration.conftest import Got, Host, Serve
from tests.integration.test_api_server import valid
from tests.integration.test_cases import refused_text

M = "example.com/m"
BAD = "v1.2.0"
LIST, LATEST, QUERY = f"/{M}/@v/list", f"/{M}/@latest", f"/{M}/@v/master.info"
FILES = {
    f"{version}.{kind}": f"/{M}/@v/{version}.{kind}"
    for version in ("v1.1.0", BAD)
    for kind in ("info", "mod", "zip")
}
TOKEN = "x" * 16
SEVERAL = ["miss", "aiohttp", "front", "stale", "offline", "cached-only"]


@pytest.fixture
async def upstream() -> Any:
    async with FakeUpstream() as fake:
        for version in ("v1.0.0", "v1.1.0", BAD):
            fake.add_module(M, version)
        fake.add_module("example.com/single", BAD)
        fake.files[QUERY] = fake.files[f"/{M}/@v/{BAD}.info"]
        yield fake


async def api(host: Host, method: str, path: str, body: object = None, *, status: int) -> Any:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"{host.server.admin_url}/api/v1/{path}"
    async with host.session.request(method, url, headers=headers, json=body) as got:
        assert got.status == status, await got.text()
        return json.loads(await got.read())


async def block(host: Host, rule: str, *, status: int = 201, **more: object) -> Any:
    body = {"kind": "block", "rule": rule, "reason": "INC-4711 malware", **more}
    answer = await api(host, "POST", "gate/rules", body, status=status)
    valid("Given", answer)
    assert (answer["clients"] is None) == ("@" not in rule or "*" in rule.partition("@")[0])
    return answer


async def warmed(host: Host) -> None:
    """Have everything stored, and prepared where that is done."""
    for _ in range(2):
        oldest = [f"/{M}/@v/v1.0.0.{kind}" for kind in ("info", "mod", "zip")]
        for path in (LIST, LATEST, QUERY, *FILES.values(), *oldest):
            assert (await host.get(path)).status == 200
        await host.quiet()


async def world(way: str, serve: Serve, upstream: FakeUpstream, **settings: object) -> Host:
    """A server that is about to answer in this way; ``settings`` are in force only then."""
    if way == "miss":
        return await serve(upstream, admin_token=TOKEN, **settings)
    common = {"admin_token": TOKEN, "fast_path": way != "aiohttp"}
    if way in ("stale", "offline", "cached-only"):
        first = await serve(upstream, admin_token=TOKEN)
        await warmed(first)
        await first.server.stop()
        if way == "stale":
            upstream.on("*", Reply(status=503))
            return await serve(upstream, **common, fresh=0.0, **settings)
        return await serve(upstream, **common, offline=way == "offline", **settings)
    host = await serve(upstream, **common)
    await warmed(host)
    if settings:
        await host.server.stop()
        host = await serve(upstream, **common, **settings)
    return host


class Client:
    """Asks, by GET and by HEAD, which must agree."""

    def __init__(self, host: Host, way: str) -> None:
        self._host = host
        self._prefix = "/cached-only" if way == "cached-only" else ""

    async def get(self, path: str, status: int) -> Got:
        head = await self._host.get(self._prefix + path, method="HEAD")
        got = await self._host.get(self._prefix + path)
        assert (head.status, got.status) == (status, status), (path, got.text)
        if status == 403:
            refused_text(got.text)
            assert got.headers["Cache-Control"] == head.headers["Cache-Control"] == "no-store"
            again = await self._host.get(self._prefix + path, Range="bytes=0-0", If_None_Match="*")
            assert again.status == 403
        return got


@pytest.mark.parametrize("way", SEVERAL)
@pytest.mark.parametrize("given", ["block", "deny"])
async def test_versions(serve: Serve, upstream: FakeUpstream, way: str, given: str) -> None:
    """The code goes, and its place in lists; what a graph needs of it stays."""
    rule = f"{M}@>=v1.2.0 <v1.3.0"
    host = await world(way, serve, upstream, **({"deny": rule} if given == "deny" else {}))
    client = Client(host, way)
    if given == "block":
        await block(host, rule)
        why = "blocked on this host: INC-4711 malware (block 1); newest version allowed: v1.1.0"
    else:
        why = f"denied on this host (setting deny: {rule}); newest version allowed: v1.1.0"
    if way == "miss":  # the newest version is told of those that are known
        assert "newest version" not in (await client.get(FILES[f"{BAD}.zip"], 403)).text
    assert (await client.get(LIST, 200)).text.split() == ["v1.0.0", "v1.1.0"]
    assert json.loads((await client.get(LATEST, 200)).body)["Version"] == "v1.1.0"
    said = (await client.get(FILES[f"{BAD}.zip"], 403)).text
    assert f"goproxy-vm: {M}@{BAD} zip: {why}; if a VM has it already, see /vm/incident [request" in said
    for name in (f"{BAD}.mod", f"{BAD}.info", "v1.1.0.info", "v1.1.0.mod", "v1.1.0.zip"):
        await client.get(FILES[name], 200)
    if way not in ("offline", "cached-only"):
        said = (await client.get(QUERY, 403)).text
        assert f"{M}@master info: master is {BAD} now, which is {why}" in said
    if way in ("miss", "aiohttp", "front"):
        said = (await client.get("/example.com/single/@latest", 200)).text
    if given == "block":
        await api(host, "DELETE", "gate/rules/1", status=200)
        assert BAD in (await client.get(LIST, 200)).text
        await client.get(FILES[f"{BAD}.zip"], 200)


@pytest.mark.parametrize("way", SEVERAL)
@pytest.mark.parametrize("given", ["block", "deny", "allow"])
async def test_modules(serve: Serve, upstream: FakeUpstream, way: str, given: str) -> None:
    """A whole module is refused, and none of it is asked for upstream; what is beside it is not."""
    settings = {"deny": {"deny": M}, "allow": {"allow": "example.com/single"}}.get(given, {})
    host = await world(way, serve, upstream, **settings)
    client = Client(host, way)
    if given == "block":
        await block(host, M)
    asked = upstream.count(f"/{M}/*")
    why = {
        "block": "module blocked on this host: INC-4711 malware (block 1); ask the host's operators",
        "deny": f"module denied on this host (setting deny: {M}); ask the host's operators",
        "allow": "not on this host's allow list (setting allow); ask the host's operators to add it",
    }[given]
    for path in (LIST, LATEST, QUERY, *FILES.values(), f"/{M}/sub/@v/list"):
        assert f": {why} [request" in (await client.get(path, 403)).text
    assert upstream.count(f"/{M}/*") == asked
    if way in ("miss", "aiohttp", "front"):
        await client.get(f"/example.com/single/@v/{BAD}.zip", 200)
    assert await host.metric(f'goproxy_vm_refusals_total{{rule="{given}"}}') == 3 * 10
    kinds = {"block": 1, "deny": 1, "allow": 1}
    assert await host.metric(f'goproxy_vm_gate_rules{{kind="{given}"}}') == kinds[given]


@pytest.mark.parametrize("way", ["miss", "front"])
async def test_whole_versions(serve: Serve, upstream: FakeUpstream, way: str) -> None:
    host = await world(way, serve, upstream)
    client = Client(host, way)
    await block(host, f"{M}@{BAD}", whole=True)
    for kind in ("info", "mod", "zip"):
        await client.get(FILES[f"{BAD}.{kind}"], 403)
        await client.get(FILES[f"v1.1.0.{kind}"], 200)
    assert (await client.get(LIST, 200)).text.split() == ["v1.0.0", "v1.1.0"]


@pytest.mark.parametrize("way", ["miss", "front", "offline"])
async def test_allowed_versions(serve: Serve, upstream: FakeUpstream, way: str) -> None:
    """What the allow list does not name of a module is refused as code; longer paths, by which go asks first,
    are looked for upstream."""
    host = await world(way, serve, upstream, allow=f"{M}@<v1.2.0")
    client = Client(host, way)
    assert (await client.get(LIST, 200)).text.split() == ["v1.0.0", "v1.1.0"]
    assert json.loads((await client.get(LATEST, 200)).body)["Version"] == "v1.1.0"
    said = (await client.get(FILES[f"{BAD}.zip"], 403)).text
    assert "not on this host's allow list (setting allow); newest version allowed: v1.1.0; ask the" in said
    for name in (f"{BAD}.mod", f"{BAD}.info", "v1.1.0.zip"):
        await client.get(FILES[name], 200)
    await client.get(f"/{M}/sub/@v/list", 404)
    await client.get("/example.com/other/@v/list", 403)


async def test_nothing_is_left(serve: Serve, upstream: FakeUpstream) -> None:
    """An empty list, for 404 would send VMs on to the next proxy; @latest says why."""
    host = await world("miss", serve, upstream)
    client = Client(host, "miss")
    await block(host, "example.com/single@*")
    assert (await client.get("/example.com/single/@v/list", 200)).body == b""
    said = (await client.get("/example.com/single/@latest", 403)).text
    assert (
        "every version is refused here: 1 blocked on this host: INC-4711 malware (block 1); if a VM" in said
    )
    # A proxy without lists, whose @latest names what is blocked.
    upstream.on("/example.com/single/@v/list", Reply(b"not found", 404))
    await api(host, "POST", "refresh", {"module": "example.com/single"}, status=200)
    await client.get("/example.com/single/@latest", 403)


@pytest.mark.parametrize("path", [FILES[f"{BAD}.zip"], LIST, LATEST, QUERY])
async def test_given_while_a_flight_waits(serve: Serve, upstream: FakeUpstream, path: str) -> None:
    """What lands then is stored, and not given."""
    host = await world("miss", serve, upstream)
    gate = upstream.hold(path)
    asked = asyncio.create_task(host.get(path))
    await gate.arrived.wait()
    await block(host, f"{M}@{BAD}")
    gate.open()
    got = await asked
    assert got.status == (403 if path in (FILES[f"{BAD}.zip"], QUERY) else 200)
    assert BAD.encode() not in got.body or got.status == 403


async def test_nothing_is_fetched_ahead(serve: Serve, upstream: FakeUpstream) -> None:
    """The zip of a blocked version is not even asked for, while its .mod and .info are."""
    host = await world("miss", serve, upstream)
    await block(host, f"{M}@{BAD}")
    for kind in ("mod", "info"):
        assert (await host.get(FILES[f"{BAD}.{kind}"])).status == 200
        await host.quiet()
    assert (await host.get(FILES["v1.1.0.mod"])).status == 200
    await host.quiet()
    assert (await host.get(FILES["v1.1.0.info"])).status == 200
    await host.quiet()
    assert upstream.count("*v1.1.0.zip") == 1, "it is fetched ahead otherwise"
    assert upstream.count(f"*{BAD}.zip") == 0


async def test_purged_versions_stay_away(serve: Serve, upstream: FakeUpstream) -> None:
    host = await world("front", serve, upstream)
    answer = await block(host, f"{M}@{BAD}", purge=True)
    assert answer["purged"]
    assert answer["stored"]["versions"] == 1
    assert (await host.get(FILES[f"{BAD}.zip"])).status == 403
    await host.quiet()
    assert list((Path(str(host.settings and host.settings.cache_dir)) / "modules").rglob(f"{BAD}.zip")) == []
    assert (await host.get(FILES["v1.1.0.zip"])).status == 200
    # The same once more removes what is there by now, and is no new rule.
    again = await block(host, f"{M}@{BAD}", purge=True, status=200)
    assert (again["id"], again["stored"]["versions"]) == (answer["id"], 0)


async def test_a_purge_while_it_is_fetched(serve: Serve, upstream: FakeUpstream) -> None:
    """What comes after it is neither given nor stored."""
    host = await world("miss", serve, upstream)
    gate = upstream.hold(f"/{M}/@v/{BAD}.*")
    asked = asyncio.create_task(host.get(FILES[f"{BAD}.zip"]))
    await gate.arrived.wait()
    await block(host, f"{M}@>v1.1.0", purge=True)
    gate.open()
    assert (await asked).status == 403
    await host.quiet()
    assert list((Path(str(host.settings and host.settings.cache_dir)) / "modules").rglob(f"{BAD}.zip")) == []


async def test_stored_counts_what_a_rule_means(serve: Serve, upstream: FakeUpstream) -> None:
    host = await world("front", serve, upstream)
    await host.get(f"/example.com/single/@v/{BAD}.zip")
    await host.quiet()
    for rule, versions in ((M, 3), ("example.com/*", 4), ("*.com/[ms]*@v1.2.*", 2), (f"{M}@>v9", 0)):
        answer = await block(host, rule, dry_run=True, status=200)
        assert (answer["id"], answer["stored"]["versions"]) == (None, versions)
        assert (answer["stored"]["bytes"] > 0) == (versions > 0)
    assert (await api(host, "GET", "gate/rules", status=200))["items"] == []


async def test_rules_over_their_life(
    serve: Serve, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "goproxy_vm")
    host = await serve(upstream, admin_token=TOKEN, deny="example.com/denied")
    given = await block(host, f"{M}@{BAD}", by="alice", **{"for": "1d"})
    assert (given["id"], given["by"], given["ended"]) == (1, "alice", None)
    mine = await block(host, f"{M}@v1.1.0")
    assert mine["by"] == "127.0.0.1"
    rules = await api(host, "GET", "gate/rules", status=200)
    valid("Rules", rules)
    assert [(each["id"], each["source"]) for each in rules["items"]] == [
        (2, "api"),
        (1, "api"),
        (None, "config"),
    ]
    valid("Rule", await api(host, "GET", "gate/rules/1", status=200))
    ended = await api(host, "DELETE", "gate/rules/1", status=200)
    valid("Rule", ended)
    assert ended["ended"]
    await api(host, "DELETE", "gate/rules/1", status=404)
    for number in ("9", "x", "-1", "1" * 30):
        await api(host, "GET", f"gate/rules/{number}", status=404)
    assert [each["id"] for each in (await api(host, "GET", "gate/rules?all=true", status=200))["items"]] == [
        2,
        1,
        None,
    ]
    assert "'action': 'block', 'what': 'example.com/m@v1.2.0', 'status': 201" in logged(caplog)
    assert "'action': 'unblock', 'what': 'example.com/m@v1.2.0', 'status': 200" in logged(caplog)
    for _ in range(3):
        assert (await host.get(FILES["v1.1.0.zip"])).status == 403
    assert logged(caplog).count("refused {'client': '127.0.0.1', 'module': 'example.com/m'") == 1
    await host.server.stop()
    host = await serve(upstream, admin_token=TOKEN)
    assert (await host.get(FILES["v1.1.0.zip"])).status == 403, "a restart keeps it"
    assert (await host.get(FILES[f"{BAD}.zip"])).status == 200


async def test_check(serve: Serve, upstream: FakeUpstream) -> None:
    host = await world("front", serve, upstream)
    await block(host, f"{M}@{BAD}")

    async def check(query: str, status: int = 200) -> Any:
        return await api(host, "GET", f"gate/check?{query}", status=status)

    refused = await check(f"module={M}&version={BAD}")
    valid("Passing", refused)
    assert (refused["verdict"], refused["rule"], refused["newest_allowed"]) == ("refused", "block", "v1.1.0")
    assert refused["reason"] == "blocked on this host: INC-4711 malware (block 1)"
    passes = await check(f"module={M}&version=v1.1.0")
    valid("Passing", passes)
    assert (passes["verdict"], passes["reason"]) == ("passes", None)
    assert (await check(f"module={M}"))["verdict"] == "passes"
    wrongs = ("", "module=x", *(f"module={M}&{more}" for more in ("version=a!b", "more=1", "version=v1.2")))
    for wrong in (*wrongs, f"module={M}&version=v2.0.0", f"module={M}&version=master"):
        await check(wrong, 400)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "deny"}, "kind"),
        ({"rule": "a b"}, "rule"),
        ({"rule": 7}, "rule"),
        ({"rule": f"{M}@^v1"}, "rule"),
        ({"reason": ""}, "reason"),
        ({"reason": "a\nb"}, "reason"),
        ({"reason": "x" * 201}, "reason"),
        ({"until": "yesterday"}, "until"),
        ({"until": "2001-01-01T00:00:00Z"}, "until"),
        ({"until": "2099-01-01T00:00:00Z", "for": "1d"}, "for"),
        ({"for": 0}, "for"),
        ({"kind": "exempt"}, "for"),
        ({"kind": "exempt", "for": "1d", "purge": True}, "purge"),
        ({"kind": "exempt", "for": "1d", "whole": True}, "whole"),
        ({"purge": True, "dry_run": True}, "purge"),
        ({"other": 1}, "other"),
    ],
)
async def test_malformed(serve: Serve, upstream: FakeUpstream, body: dict[str, object], field: str) -> None:
    host = await serve(upstream, admin_token=TOKEN)
    good = {"kind": "block", "rule": f"{M}@{BAD}", "reason": "r"}
    answer = await api(host, "POST", "gate/rules", {**good, **body}, status=400)
    assert answer["field"] == field
    assert (await api(host, "GET", "gate/rules", status=200))["items"] == []
    for missing in good:
        rest = {name: value for name, value in good.items() if name != missing}
        assert (await api(host, "POST", "gate/rules", rest, status=400))["field"] == missing


async def test_a_broken_file_ends_the_start(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    await (await serve(upstream)).server.stop()
    (tmp_path / "cache" / NAME).write_text("{")
    with pytest.raises(StartError, match="this is no file of the gate's rules"):
        await serve(upstream)


async def test_it_expires_while_clients_ask(serve: Serve, upstream: FakeUpstream) -> None:
    host = await world("front", serve, upstream)
    await block(host, f"{M}@{BAD}", **{"for": 2})
    assert (await host.get(FILES[f"{BAD}.zip"])).status == 403

    async def given() -> None:
        while (await host.get(FILES[f"{BAD}.zip"])).status != 200:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(given(), 10)
    assert BAD in (await host.get(LIST)).text


@pytest.mark.parametrize("fast_path", [True, False])
async def test_a_block_while_many_ask(serve: Serve, upstream: FakeUpstream, *, fast_path: bool) -> None:
    """Of 200 clients that hammer a file, none that asks after the API's answer is given it."""
    host = await serve(upstream, admin_token=TOKEN, fast_path=fast_path)
    path = FILES[f"{BAD}.zip"]
    await warmed(host)
    blocked = asyncio.Event()
    given, refused = [0, 0], 0

    async def hammer(session: aiohttp.ClientSession) -> None:
        nonlocal refused
        for _ in range(10_000):
            after = blocked.is_set()
            async with session.get(host.server.url + path) as got:
                await got.read()
            if got.status == 200:
                given[after] += 1
            elif after:
                refused += 1
                return

    async with contextlib.AsyncExitStack() as stack:
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        tasks = [asyncio.create_task(hammer(session)) for _ in range(200)]
        await eventually(lambda: given[0] > 400)
        await block(host, f"{M}@{BAD}")
        blocked.set()
        await asyncio.gather(*tasks)
    assert (given[1], refused) == (0, 200)


async def test_a_block_while_a_file_is_read(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The short cut has opened it by then; it is not given all the same."""
    first = await serve(upstream, admin_token=TOKEN)
    path = FILES[f"{BAD}.zip"]
    assert (await first.get(path)).status == 200
    await first.quiet()
    await first.server.stop()
    host = await serve(upstream, admin_token=TOKEN)
    begun, goes_on = threading.Event(), threading.Event()
    pread = StoredFile.pread

    def slowly(stored: StoredFile, offset: int, n: int) -> bytes:
        begun.set()
        assert goes_on.wait(30)
        return pread(stored, offset, n)

    def cold(*_: object) -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "preadv", cold)
    monkeypatch.setattr(StoredFile, "pread", slowly)
    asked = asyncio.create_task(host.get(path))
    await eventually(begun.is_set)
    await block(host, f"{M}@{BAD}")
    goes_on.set()
    assert (await asked).status == 403


async def test_two_that_are_given_at_once(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, admin_token=TOKEN)
    answers = await asyncio.gather(*(block(host, f"{M}@v1.0.{n}") for n in range(20)))
    assert sorted(each["id"] for each in answers) == list(range(1, 21))
    kept = json.loads((Path(str(host.settings and host.settings.cache_dir)) / NAME).read_text())
    assert len(kept["rules"]) == 20


@pytest.mark.parametrize("way", ["offline", "down"])
async def test_latest_of_what_is_stored(serve: Serve, upstream: FakeUpstream, way: str) -> None:
    """Where no upstream ever said which is the latest, it is the newest that is stored and passes."""
    first = await serve(upstream, admin_token=TOKEN)
    for path in FILES.values():
        assert (await first.get(path)).status == 200
    await first.quiet()
    await first.server.stop()
    upstream.on("*", Reply(status=503))
    host = await serve(upstream, admin_token=TOKEN, offline=way == "offline")
    assert json.loads((await host.get(LATEST)).body)["Version"] == BAD
    await block(host, f"{M}@{BAD}")
    client = Client(host, way)
    assert json.loads((await client.get(LATEST, 200)).body)["Version"] == "v1.1.0"
    await block(host, f"{M}@*")
    assert "every version is refused here: 1 blocked" in (await client.get(LATEST, 403)).text


async def test_nothing_is_left_where_there_is_no_latest(serve: Serve, upstream: FakeUpstream) -> None:
    """404 would send VMs on to the next proxy, which gives what is blocked."""
    upstream.on(LATEST, Reply(b"not found", 404))
    host = await world("miss", serve, upstream)
    client = Client(host, "miss")
    await client.get(LATEST, 404)
    await block(host, f"{M}@{BAD}")
    await client.get(LATEST, 404)  # the list says what there is
    await block(host, f"{M}@*")
    assert (await client.get(LIST, 200)).body == b""
    assert "every version is refused here: 2 blocked" in (await client.get(LATEST, 403)).text


async def test_the_next_best_without_its_info(serve: Serve, upstream: FakeUpstream) -> None:
    upstream.on(FILES["v1.1.0.info"], Reply(b"not found", 404))
    upstream.on(FILES["v1.1.0.mod"], Reply(b"not found", 404))
    host = await world("miss", serve, upstream)
    await block(host, f"{M}@{BAD}")
    said = (await Client(host, "miss").get(LATEST, 403)).text
    assert "blocked on this host: INC-4711 malware (block 1)" in said


async def test_what_a_blocked_version_retracts(serve: Serve, upstream: FakeUpstream) -> None:
    """Nothing: whoever publishes a bad version does not take the good ones away by its go.mod."""
    gomod = f"module {M}\n\nretract [v0.0.0, v1.1.9]\n".encode()
    upstream.add_module(M, BAD, gomod=gomod)
    first = await serve(upstream, admin_token=TOKEN)
    for path in (FILES["v1.1.0.zip"], FILES["v1.1.0.mod"], FILES[f"{BAD}.mod"]):
        assert (await first.get(path)).status == 200
    await first.quiet()
    await first.server.stop()
    host = await serve(upstream, admin_token=TOKEN, offline=True)
    await Client(host, "offline").get(LIST, 404)
    await block(host, f"{M}@{BAD}")
    client = Client(host, "offline")
    assert (await client.get(LIST, 200)).text == "v1.1.0\n"
    assert json.loads((await client.get(LATEST, 200)).body)["Version"] == "v1.1.0"


async def test_who_may_not_know(serve: Serve, upstream: FakeUpstream) -> None:
    """What a rule says of a private module is for those who may have it."""
    elsewhere = (ip_network("192.0.2.1"),)
    host = await serve(upstream, admin_token=TOKEN, private="example.com/m", private_clients=elsewhere)
    before = (await host.get(LIST)).text.partition(" [request")[0]
    for rule in (M, f"{M}@{BAD}"):
        await block(host, rule)
        for path in (LIST, LATEST, QUERY, *FILES.values()):
            said = (await host.get(path)).text
            assert "module example.com/m is not for clients at 127.0.0.1" in said, said
            assert "INC-4711" not in said
    assert (await host.get(LIST)).text.partition(" [request")[0] == before
