"""The admin API over HTTP: authentication, routes, answers, problems, the audit log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import yaml
from aiohttp import web
from jsonschema import Draft202012Validator
from yarl import URL

from goproxy_vm.admin import call as calls
from goproxy_vm.admin.api import Api
from goproxy_vm.admin.app import api_app
from goproxy_vm.admin.auth import Guard
from goproxy_vm.cache.facts import Selection
from goproxy_vm.config import values
from goproxy_vm.errors import NoRoom, Overloaded, Unavailable
from goproxy_vm.protocol.selector import normalize
from tests.fakes.gatekeeping import every_route
from tests.fakes.lines import logged
from tests.fakes.operations import SIZE, FakeOperations
from tests.fakes.wire import Wire

TOKEN = "s3cret-token-that-nobody-knows"
BASE = "/api/v1"
A1 = f"{BASE}/modules/example.com/a/@v/v1.0.0"
AZURE = f"{BASE}/modules/github.com/Azure/sdk/v2/@v/v2.0.0+incompatible"


@dataclass
class Got:
    """A whole answer."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A server on a real socket with fake operations behind it, and who asks it."""

    def __init__(self, url: str, session: aiohttp.ClientSession, operations: FakeOperations) -> None:
        self.url, self.session, self.operations = url, session, operations
        self.document: dict[str, Any] = {}

    async def ask(
        self, method: str, path: str, body: object = None, *, token: str | None = TOKEN, **sent: Any
    ) -> Got:
        """One request; ``body`` goes as JSON, ``data`` as it is."""
        headers = dict(sent.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if body is not None:
            sent["data"] = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        url = URL(self.url + path, encoded=True)
        async with self.session.request(
            method, url, headers=headers, skip_auto_headers=["Content-Type"], **sent
        ) as response:
            return Got(response.status, response.headers, await response.read())

    def valid(self, schema: str, value: object) -> None:
        """Hold an answer to a schema of the document."""
        reference = {"$ref": f"#/components/schemas/{schema}", "components": self.document["components"]}
        Draft202012Validator(reference, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


@pytest.fixture(autouse=True)
def audit(caplog: pytest.LogCaptureFixture) -> None:
    """Audit lines are info."""
    caplog.set_level("INFO", "goproxy_vm")


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    operations = FakeOperations()
    runner = web.AppRunner(api_app(Api(every_route(operations), Guard(TOKEN))), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        made = Client(f"http://127.0.0.1:{runner.addresses[0][1]}", session, operations)
        made.document = yaml.safe_load((await made.ask("GET", f"{BASE}/openapi.yaml")).body)
        yield made
    await runner.cleanup()


def problem(client: Client, got: Got, status: int, field: str | None = None) -> str:
    """Check a problem; its detail."""
    assert got.status == status, got.body
    assert got.headers["Content-Type"] == "application/problem+json"
    assert got.headers["Cache-Control"] == "no-store"
    client.valid("Problem", got.json)
    assert got.json["status"] == status
    assert got.json.get("field") == field
    return str(got.json["detail"])


def audited(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [r.goproxy_vm_fields for r in caplog.records if r.getMessage() == "audit"]  # type: ignore[attr-defined]


# Authentication

ROUTES = [
    (
        method,
        route.template.format(
            module="a.b/c",
            version="v1.0.0",
            pattern="a.b/*",
            a="x",
            b="y",
            name="n",
            number="1",
            id="GO-2026-0001",
            **{"pass": "1"},
        ),
    )
    for route in every_route(FakeOperations())
    for method in (*route.methods, "PATCH", "OPTIONS")
]


@pytest.mark.parametrize(
    "sent",
    [
        [],
        ["Bearer wrong"],
        ["Bearer"],
        ["Bearer "],
        [TOKEN],
        [f"Basic {TOKEN}"],
        [f"Bearer {TOKEN}x"],
        [f"Bearer {TOKEN[:-1]}"],
        [f"Bearer {TOKEN.upper()}"],
        [f"Bearer {TOKEN} {TOKEN}"],
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
        ["Bearer wrong", f"Bearer {TOKEN}"],
        ["Bearer \udce9\udcff"],
    ],
)
async def test_every_route_wants_the_token(
    client: Client, sent: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    asked = len(client.operations.asked)
    more = [("GET", "/api"), ("GET", "/api/"), ("POST", "/api/v2/x"), ("GET", "/%61pi/v1/status")]
    more += [("GET", "/api/%ff"), ("GET", "/api/%0a"), ("GET", "/api/%"), ("HEAD", f"{BASE}/status")]
    async with Wire(client.url) as wire:
        for method, path in ROUTES + more:
            lines = "".join(f"Authorization: {each}\r\n" for each in sent)
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n"
            wire.writer.write(head.encode("utf-8", "surrogateescape"))
            heard = await (wire.head() if method == "HEAD" else wire.answer())
            assert heard.status == 401, (method, path)
            assert heard.headers["WWW-Authenticate"] == 'Bearer realm="goproxy-vm"'
    assert len(client.operations.asked) == asked
    assert TOKEN not in logged(caplog)


async def test_scheme_in_any_case(client: Client) -> None:
    got = await client.ask("GET", f"{BASE}/status", token=None, headers={"authorization": f"bEARER  {TOKEN}"})
    assert got.status == 200


async def test_no_answer_but_401_names_the_token(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    detail = problem(client, await client.ask("DELETE", A1, token="wrong"), 401)
    assert "admin token" in detail
    assert "wrong" not in detail + logged(caplog)
    (line,) = audited(caplog)
    assert line == {
        "who": "127.0.0.1",
        "action": "purge",
        "what": "example.com/a@v1.0.0",
        "status": 401,
    }


# Routing


async def test_document_and_routes_are_the_same(client: Client) -> None:
    documented = {
        (path, method.upper())
        for path, item in client.document["paths"].items()
        for method in item.keys() - {"parameters"}
    }
    routed = {(route.template, method) for route in every_route(FakeOperations()) for method in route.methods}
    assert documented == routed
    for path, item in client.document["paths"].items():
        for method in item.keys() - {"parameters"}:
            named = [each.get("name") for each in item.get("parameters", []) if each.get("in") == "path"]
            named += [
                each["$ref"].rpartition("/")[2] for each in item.get("parameters", []) if "$ref" in each
            ]
            assert sorted(named) == sorted(part.split("}")[0] for part in path.split("{")[1:]), path
            assert item[method]["operationId"]


def test_document_is_openapi(client: Client) -> None:
    for name, schema in client.document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert name
    used = json.dumps(client.document)
    for group, members in client.document["components"].items():
        for name in members:
            if group != "securitySchemes":
                assert f"#/components/{group}/{name}" in used, name
    assert client.document["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    "path",
    ["/api", "/api/", "/api/v1", "/api/v2/status", f"{BASE}/status/", f"{BASE}/modules/", f"{BASE}//status"],
)
async def test_unknown_route(client: Client, path: str) -> None:
    assert problem(client, await client.ask("GET", path), 404) == "no such route"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", f"{BASE}/status", "GET, HEAD"),
        ("GET", f"{BASE}/purge", "POST"),
        ("GET", f"{BASE}/modules/example.com/a", "DELETE"),
        ("HEAD", f"{BASE}/evict", "POST"),
        ("OPTIONS", A1, "DELETE, GET, HEAD"),
        ("POST", f"{BASE}/pins/x", "DELETE, GET, HEAD, PUT"),
        ("DELETE", f"{BASE}/snapshots", "GET, HEAD, POST"),
    ],
)
async def test_wrong_method(client: Client, method: str, path: str, allow: str) -> None:
    got = await client.ask(method, path)
    assert got.headers["Allow"] == allow
    if method == "HEAD":
        assert (got.status, got.body) == (405, b"")
    else:
        problem(client, got, 405)


async def test_head_is_get_without_a_body(client: Client) -> None:
    for path in (f"{BASE}/status", A1, f"{BASE}/openapi.yaml"):
        got, head = await client.ask("GET", path), await client.ask("HEAD", path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == str(len(got.body))


async def test_reading_changes_nothing_and_leaves_no_audit_line(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    before = dict(client.operations.stored)
    for method in ("GET", "HEAD"):
        for _, path in ROUTES:
            await client.ask(method, path)
    assert client.operations.stored == before
    changes = {
        "purge",
        "purge_version",
        "purge_module",
        "evict",
        "refresh",
        "pin",
        "unpin",
        "scrub",
        "snapshot",
    }
    assert not changes & {words[0] for words in client.operations.asked}
    assert audited(caplog) == []


@pytest.mark.parametrize(
    "path",
    [
        A1,
        A1.replace("/", "%2f").replace("%2f", "/", 3),
        A1.replace("@", "%40"),
        A1.replace("example", "%65xample"),
        A1.replace("/api/", "/%61pi/"),
    ],
)
async def test_path_is_decoded_once(client: Client, path: str) -> None:
    assert (await client.ask("GET", path)).json["module"] == "example.com/a"


async def test_capitals_are_not_escaped(client: Client) -> None:
    for path in (AZURE, AZURE.replace("+", "%2B")):
        found = (await client.ask("GET", path)).json
        assert (found["module"], found["version"]) == ("github.com/Azure/sdk/v2", "v2.0.0+incompatible")


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("modules/example.com/%2541/@v/v1.0.0", "module"),
        ("modules/github.com/!azure/x/@v/v1.0.0", "module"),
        ("modules/example.com/../a/@v/v1.0.0", "module"),
        ("modules/example.com/%2e%2e/a/@v/v1.0.0", "module"),
        ("modules/example.com//a/@v/v1.0.0", "module"),
        ("modules/example.com/a%00/@v/v1.0.0", "module"),
        ("modules/example.com/a%0a/@v/v1.0.0", "module"),
        ("modules/ex%C3%A4mple.com/a/@v/v1.0.0", "module"),
        ("modules/nodots/@v/v1.0.0", "module"),
        ("modules/example.com/a/@v/v1.0.0!", "version"),
        ("modules/example.com/a/@v/..", "version"),
        ("modules/example.com/a/@v/v1%00", "version"),
        ("modules/example.com/a/@v/v1.0.%", None),
        ("modules/example.com/a/@v/v1.0.%zz", None),
        ("modules/example.com/a/@v/v1.0.%ff", None),
    ],
)
async def test_malformed_path(client: Client, path: str, field: str | None) -> None:
    for method in ("GET", "DELETE"):
        problem(client, await client.ask(method, f"{BASE}/{path}"), 400, field)
    assert client.operations.asked == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("modules?limit=0", "limit"),
        ("modules?limit=1001", "limit"),
        ("modules?limit=", "limit"),
        ("modules?limit=-1", "limit"),
        ("modules?limit=%D9%A1", "limit"),
        ("modules?limit=1.0", "limit"),
        ("modules?sort=age", "sort"),
        ("modules?cursor=x", "cursor"),
        ("modules?limit=1&limit=2", "limit"),
        ("modules?lmit=1", "lmit"),
        ("modules?prefix=" + "x" * 1001, "prefix"),
        ("modules?x%0ay=1", '"x\\ny"'),
        ("modules?limit", None),
        ("modules?prefix=%ff", None),
        ("modules?" + "&".join(f"a{n}=1" for n in range(30)), None),
        ("passes?limit=x", "limit"),
        ("vms?limit=0", "limit"),
        ("vms?cursor=x", "cursor"),
        ("vms?prefix=x", "prefix"),
        ("fetches", "module"),
        ("fetches?module=example.com/a&client=x", "module"),
        ("fetches?module=nodots", "module"),
        ("fetches?module=", "module"),
        ("fetches?module=example.com/a&version=v1%21", "version"),
        ("fetches?module=example.com/a&version=", "version"),
        ("fetches?client=x&version=v1.0.0", "version"),
        ("fetches?client=", "client"),
        ("fetches?client=" + "x" * 201, "client"),
        ("fetches?client=%0a", "client"),
        ("fetches?client=x&since=soon", "since"),
        ("fetches?client=10.0.0.7&cursor=x", "cursor"),
        ("fetches?client=x&limit=0", "limit"),
        ("fetches?client=x&dns=true", "dns"),
        ("passes?prefix=x", "prefix"),
        ("status?verbose=1", "verbose"),
    ],
)
async def test_malformed_query(client: Client, path: str, field: str | None) -> None:
    problem(client, await client.ask("GET", f"{BASE}/{path}"), 400, field)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("dry_run=1", "dry_run"),
        ("dry_run=", "dry_run"),
        ("dryrun=true", "dryrun"),
        ("forget_hash=yes", "forget_hash"),
        ("dry_run=true&dry_run=false", "dry_run"),
    ],
)
async def test_nothing_is_deleted_where_the_query_is_wrong(client: Client, query: str, field: str) -> None:
    for path in (A1, f"{BASE}/modules/example.com/a"):
        problem(client, await client.ask("DELETE", f"{path}?{query}"), 400, field)
        problem(client, await client.ask("DELETE", path, {"dry_run": True}), 400)
    assert client.operations.asked == []


# Answers


async def test_status(client: Client) -> None:
    for scrubbed in (False, True):
        if scrubbed:
            await client.ask("POST", f"{BASE}/scrub", {})
        got = await client.ask("GET", f"{BASE}/status")
        client.valid("Status", got.json)
        assert got.headers["Content-Type"] == "application/json"
        assert got.headers["Cache-Control"] == "no-store"
        assert (got.json["last_pass"] is not None) is scrubbed
    assert got.json["started"] == "2025-06-15T15:06:40.000Z"
    assert got.json["cache"]["used_bytes"] == sum(got.json["cache"]["sizes"].values())


async def test_list(client: Client) -> None:
    got = await client.ask("GET", f"{BASE}/modules")
    client.valid("VersionPage", got.json)
    assert [each["version"] for each in got.json["items"]] == ["v1.0.0", "v1.1.0", "v2.0.0+incompatible"]
    assert client.operations.asked[-1] == ("versions", "", "name", 100, None)
    got = await client.ask("GET", f"{BASE}/modules?prefix=example.com/&sort=idle&limit=1")
    assert (got.json["items"][0]["version"], got.json["next_cursor"], got.json["total"]) == ("v1.1.0", "1", 2)
    got = await client.ask("GET", f"{BASE}/modules?prefix=example.com/&sort=idle&limit=1&cursor=1")
    assert (got.json["items"][0]["version"], got.json["next_cursor"]) == ("v1.0.0", None)


async def test_list_of_what_matches(client: Client) -> None:
    got = await client.ask("GET", f"{BASE}/modules?match=*/Azure/*&match=nothing,*@v1.1.0&limit=1")
    client.valid("VersionPage", got.json)
    assert client.operations.asked[-1] == (
        *("versions", "", "name", 1, None),
        *("*/Azure/*@*", "nothing@*", "*@v1.1.0"),
    )
    assert (got.json["items"][0]["version"], got.json["next_cursor"], got.json["total"]) == ("v1.1.0", "1", 2)
    many = ",".join(["*"] * 1001)
    for query, reason in (
        ("match=", "it is empty"),
        ("match=a,,b", "it is empty"),
        ("match=[a", "a [ is not closed"),
        (f"match={many}", "1 to 1000 globs are needed"),
    ):
        assert reason in problem(client, await client.ask("GET", f"{BASE}/modules?{query}"), 400, "match")


async def test_vms(client: Client) -> None:
    got = await client.ask("GET", f"{BASE}/vms")
    client.valid("VmPage", got.json)
    assert client.operations.asked[-1] == ("vms", 100, None)
    assert (got.json["vm_go"], got.json["total"], got.json["next_cursor"]) == ("1.26.8", 2, None)
    first, second = got.json["items"]
    idle = first.pop("idle_seconds")
    assert second["idle_seconds"] - idle == pytest.approx(86400)
    assert first == {
        "address": "10.0.0.2",
        "go": "go1.26.8",
        "differs": False,
        "bootstrap": "go1.24.11",
        "os": "linux",
        "arch": "amd64",
        "script": "clean",
        "seen": "2025-06-15T15:06:40.000Z",
        "modcache_bytes": 409 << 20,
        "gocache_bytes": 920 << 20,
    }
    assert (second["differs"], second["modcache_bytes"], second["gocache_bytes"]) == (True, None, None)
    page = (await client.ask("GET", f"{BASE}/vms?limit=1")).json
    assert [each["address"] for each in page["items"]] == ["10.0.0.2"]
    page = (await client.ask("GET", f"{BASE}/vms?limit=1&cursor={page['next_cursor']}")).json
    assert ([each["address"] for each in page["items"]], page["next_cursor"]) == (["fd00::1"], None)


async def test_fetches(client: Client) -> None:
    got = await client.ask("GET", f"{BASE}/fetches?module=example.com/a&version=v1.0.0&since=7d")
    client.valid("FetchPage", got.json)
    (_, sought) = client.operations.asked[-1]
    assert (sought.module, sought.client, sought.since) == ("example.com/a", "", 7 * 86400)
    assert "v1.0.0" in sought.versions
    assert "v1.1.0" not in sought.versions
    assert (got.json["ledger"], got.json["trusted_proxies"], got.json["total"]) == ("on", False, 2)
    assert got.json["items"][0] == {
        "module": "example.com/a",
        "version": "v1.0.0",
        "client": "10.0.0.7",
        "name": "build-7",
        "first": "2025-06-15T15:05:40.000Z",
        "last": "2025-06-15T15:06:40.000Z",
        "count": 12,
        "refused": 3,
    }
    assert got.json["items"][1]["name"] is None
    page = (await client.ask("GET", f"{BASE}/fetches?module=example.com/a&limit=2")).json
    assert (len(page["items"]), page["next_cursor"], page["total"]) == (2, "2", 3)
    page = (await client.ask("GET", f"{BASE}/fetches?module=example.com/a&limit=2&cursor=2")).json
    assert (len(page["items"]), page["next_cursor"]) == (1, None)
    page = (await client.ask("GET", f"{BASE}/fetches?client=build-7")).json
    assert [each["version"] for each in page["items"]] == ["v1.0.0", "v1.1.0"]
    await client.ask("GET", f"{BASE}/fetches?client=fd00:0::0001")
    assert client.operations.asked[-1][1].client == "fd00::1"


@pytest.mark.parametrize(
    ("vm_go", "differ"), [("", [None, None]), ("1.26.8+auto", [False, True]), ("1.24.11", [True, False])]
)
async def test_vms_that_differ(client: Client, vm_go: str, differ: list[bool | None]) -> None:
    client.operations.vm_go = vm_go
    got = await client.ask("GET", f"{BASE}/vms")
    client.valid("VmPage", got.json)
    assert got.json["vm_go"] == (vm_go or None)
    assert [each["differs"] for each in got.json["items"]] == differ


async def test_show(client: Client) -> None:
    got = await client.ask("GET", A1)
    client.valid("Version", got.json)
    assert list(got.json["files"]) == ["info", "mod", "zip"]
    assert "h1" not in got.json["files"]["info"]
    assert problem(client, await client.ask("GET", A1.replace("v1.0.0", "v9.9.9")), 404) == (
        "example.com/a@v9.9.9 is not stored"
    )


async def test_purge_of_a_version(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    dry = await client.ask("DELETE", f"{A1}?dry_run=true")
    real = await client.ask("DELETE", f"{A1}?forget_hash=true")
    again = await client.ask("DELETE", A1)
    for got in (dry, real, again):
        assert got.status == 200
        client.valid("Removal", got.json)
    assert dry.json == {**real.json, "dry_run": True}
    assert real.json["removed"] == {"versions": 1, "files": 3, "bytes": 5 * SIZE, "answers": 2}
    assert again.json["removed"] == {"versions": 0, "files": 0, "bytes": 0, "answers": 0}
    name = ("purge_version", "example.com/a", "v1.0.0")
    assert client.operations.asked == [(*name, False, True), (*name, True, False), (*name, False, False)]
    line = {"who": "127.0.0.1", "action": "purge", "what": "example.com/a@v1.0.0", "status": 200}
    assert audited(caplog) == [{**line, "dry_run": True}, line, line]


async def test_purge_of_a_module(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    got = await client.ask("DELETE", f"{BASE}/modules/example.com/a?forget_hash=true")
    client.valid("Removal", got.json)
    assert got.json["removed"]["versions"] == 2
    assert client.operations.asked == [("purge_module", "example.com/a", True, False)]
    assert audited(caplog)[0]["what"] == "example.com/a"


@pytest.mark.parametrize(
    ("body", "selection", "what"),
    [
        ({"match": "example.com/*"}, Selection(("example.com/*@*",)), "example.com/*@*"),
        ({"match": ["a", "b@v1*"]}, Selection(("a@*", "b@v1*")), "a@* b@v1*"),
        ({"idle_for": "30d", "older_than": 1.5}, Selection(None, 30 * 86400, 1.5),
         "idle_for=2592000 older_than=1.5"),
        ({"larger_than": "200MiB"}, Selection(larger_than=200 << 20), "larger_than=209715200"),
        ({"larger_than": 0, "kinds": ["zip", "mod", "zip"]}, Selection(larger_than=0, kinds=("mod", "zip")),
         "larger_than=0 kinds=mod,zip"),
        ({"larger_than": 7.0}, Selection(larger_than=7), "larger_than=7"),
    ],
)  # fmt: skip
async def test_purge(
    client: Client, body: dict[str, Any], selection: Selection, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    client.valid("PurgeRequest", body)
    got = await client.ask("POST", f"{BASE}/purge", {**body, "dry_run": True, "forget_hash": True})
    client.valid("Removal", got.json)
    assert client.operations.asked == [("purge", selection, True, True)]
    assert [(line["what"], line["status"]) for line in audited(caplog)] == [(what, 200)]


async def test_evict(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    dry = await client.ask("POST", f"{BASE}/evict", {"target_bytes": "40KiB", "dry_run": True})
    real = await client.ask("POST", f"{BASE}/evict", {"target_bytes": 40960})
    low = await client.ask("POST", f"{BASE}/evict", {})
    for got in (dry, real, low):
        client.valid("Eviction", got.json)
    assert dry.json == {**real.json, "dry_run": True, "pass": None}
    assert (real.json["pass"], real.json["reached"]) == (1, True)
    assert client.operations.asked == [
        ("evict", 40960, True),
        ("evict", 40960, False),
        ("evict", None, False),
    ]
    assert [line["what"] for line in audited(caplog)] == ["to 40960 bytes", "to 40960 bytes", "to low water"]


async def test_refresh(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    got = await client.ask("POST", f"{BASE}/refresh", {"module": "github.com/Azure/x"})
    client.valid("Refreshed", got.json)
    assert got.json == {"module": "github.com/Azure/x", "forgotten": 3}
    assert audited(caplog)[0]["what"] == "github.com/Azure/x"


async def test_pins(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    path = f"{BASE}/pins/example.com/a*"
    assert problem(client, await client.ask("GET", path), 404) == "example.com/a*@* is not pinned"
    problem(client, await client.ask("DELETE", path), 404)
    for sent in ({}, {"body": {}}, {"headers": {"Content-Type": "application/octet-stream"}}):
        got = await client.ask("PUT", path, **sent)
        client.valid("Pin", got.json)
        assert got.json == {
            "pattern": "example.com/a*@*", "source": "api", "versions": 2, "bytes": 10 * SIZE
        }  # fmt: skip
    assert (await client.ask("GET", f"{BASE}/pins/example.com%2Fa*@*")).json == got.json
    every = await client.ask("GET", f"{BASE}/pins")
    client.valid("Pins", every.json)
    assert [each["source"] for each in every.json["items"]] == ["api", "config"]
    config = f"{BASE}/pins/example.com/kept/*"
    assert "setting pins" in problem(client, await client.ask("DELETE", config), 409)
    assert (await client.ask("PUT", config)).json["source"] == "config"
    assert (await client.ask("DELETE", path)).json == got.json
    problem(client, await client.ask("GET", path), 404)
    seen = [(line["action"], line["what"], line["status"]) for line in audited(caplog)]
    assert seen == [
        ("unpin", "example.com/a*@*", 404),
        *[("pin", "example.com/a*@*", 200)] * 3,
        ("unpin", "example.com/kept/*@*", 409),
        ("pin", "example.com/kept/*@*", 200),
        ("unpin", "example.com/a*@*", 200),
    ]


@pytest.mark.parametrize("pattern", ["a%20b", "a[b", "a%0Ab", "x" * 1001, "%ED%A0%80"])
async def test_malformed_pin(client: Client, pattern: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        field = None if pattern.startswith("%ED") else "pattern"
        problem(client, await client.ask(method, f"{BASE}/pins/{pattern}"), 400, field)


async def test_pin_with_every_wildcard(client: Client) -> None:
    pattern = "a.b/[!x-z]%3F*@v1.%3F"
    got = await client.ask("PUT", f"{BASE}/pins/{pattern}")
    assert got.json["pattern"] == normalize("a.b/[!x-z]?*@v1.?")


async def test_unpin_that_another_was_faster_with(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    await client.ask("PUT", f"{BASE}/pins/a.b/c")

    async def gone(_: str) -> bool:
        return False

    monkeypatch.setattr(client.operations, "unpin", gone)
    problem(client, await client.ask("DELETE", f"{BASE}/pins/a.b/c"), 404)


async def test_scrub_and_passes(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    got = await client.ask("POST", f"{BASE}/scrub", {"match": "a.b/*", "rate": "20MB"})
    client.valid("Begun", got.json)
    assert (got.status, got.json) == (202, {"pass": 1})
    assert client.operations.asked == [("scrub", ("a.b/*@*",), 20_000_000)]
    await client.ask("POST", f"{BASE}/evict", {})
    await client.ask("POST", f"{BASE}/scrub", {})
    assert [line["what"] for line in audited(caplog)] == ["a.b/*@*", "to low water", "everything"]
    passes = await client.ask("GET", f"{BASE}/passes")
    client.valid("Passes", passes.json)
    assert [each["id"] for each in passes.json["items"]] == [3, 2, 1]
    assert [("scrubbed" in each) for each in passes.json["items"]] == [True, False, True]
    assert len((await client.ask("GET", f"{BASE}/passes?limit=1")).json["items"]) == 1


async def test_an_ordered_scrub_is_cancelled(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    await client.ask("POST", f"{BASE}/scrub", {"rate": "64KiB"})
    await client.ask("POST", f"{BASE}/evict", {})
    got = await client.ask("DELETE", f"{BASE}/passes/1")
    client.valid("Pass", got.json)
    assert (got.status, got.json["state"]) == (200, "cancelled")
    assert (await client.ask("GET", f"{BASE}/passes/1")).json == got.json
    problem(client, await client.ask("DELETE", f"{BASE}/passes/1"), 409)
    problem(client, await client.ask("DELETE", f"{BASE}/passes/2"), 409)
    problem(client, await client.ask("DELETE", f"{BASE}/passes/3"), 404)
    problem(client, await client.ask("GET", f"{BASE}/passes/3"), 404)
    for number in ("0", "x", "1.0", "9223372036854775808"):
        problem(client, await client.ask("DELETE", f"{BASE}/passes/{number}"), 400, "pass")
    lines = [(line["action"], line["what"], line["status"]) for line in audited(caplog)]
    assert lines[2:5] == [("cancel", "1", 200), ("cancel", "1", 409), ("cancel", "2", 409)]


async def test_no_more_scrubs_wait_than_may(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scrub(*_: object) -> None:
        return None

    monkeypatch.setattr(client.operations, "scrub", scrub)
    problem(client, await client.ask("POST", f"{BASE}/scrub", {}), 409)


async def test_the_range_of_a_rate_is_the_settings(client: Client) -> None:
    rate = client.document["components"]["schemas"]["Rate"]
    number, _ = rate["oneOf"]
    assert rate["description"].endswith(values.SCRUB_RATE.allowed.partition(", from ")[2])
    for edge in (number["minimum"], number["maximum"]):
        assert values.SCRUB_RATE.parse(str(edge)) == edge
        assert (await client.ask("POST", f"{BASE}/scrub", {"rate": edge})).status == 202
    for beyond in (number["minimum"] - 1, number["maximum"] + 1):
        problem(client, await client.ask("POST", f"{BASE}/scrub", {"rate": beyond}), 400, "rate")


async def test_snapshots(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    got = await client.ask("POST", f"{BASE}/snapshots", {"name": "before"})
    client.valid("Snapshot", got.json)
    assert (got.status, got.json["name"]) == (201, "before")
    taken = problem(client, await client.ask("POST", f"{BASE}/snapshots", {"name": "before"}), 409, "name")
    assert taken == "there is a snapshot before already"
    dated = await client.ask("POST", f"{BASE}/snapshots", {})
    client.valid("SnapshotRequest", {"name": dated.json["name"]})
    every = await client.ask("GET", f"{BASE}/snapshots")
    client.valid("Snapshots", every.json)
    assert every.json["items"] == [got.json, dated.json]
    for b in ("now", dated.json["name"]):
        difference = await client.ask("GET", f"{BASE}/snapshots/before/diff/{b}")
        client.valid("Difference", difference.json)
        assert (difference.json["a"], difference.json["b"]) == ("before", b)
    problem(client, await client.ask("GET", f"{BASE}/snapshots/none/diff/now"), 404)
    assert [line["status"] for line in audited(caplog)] == [201, 409, 201]
    gone = await client.ask("DELETE", f"{BASE}/snapshots/before")
    assert (gone.status, gone.json) == (200, got.json)
    problem(client, await client.ask("DELETE", f"{BASE}/snapshots/before"), 404)
    assert (await client.ask("GET", f"{BASE}/snapshots")).json["items"] == [dated.json]


# Bodies


@pytest.mark.parametrize("path", ["purge", "evict", "refresh", "scrub", "snapshots"])
@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[" * 60_000, "the body is not JSON"),
        (b'{"match": NaN}', "the body is not JSON"),
        (b'{"larger_than": ' + b"9" * 5000 + b"}", "the body is not JSON"),
        (b'{"larger_than": ' + b"9" * 200 + b"}", "the body is not JSON"),
        (b"\xff\xfe{\x00}\x00", "the body is not JSON"),
        (b'{"a": 1, "a": 1}', "a field is given twice"),
        (b"[]", "the body is not a JSON object"),
        (b"null", "the body is not a JSON object"),
        (b'"x"', "the body is not a JSON object"),
    ],
)
async def test_no_object(client: Client, path: str, data: bytes, detail: str) -> None:
    sent = {"data": data, "headers": {"Content-Type": "application/json; charset=UTF-8"}}
    assert problem(client, await client.ask("POST", f"{BASE}/{path}", **sent), 400) == detail


@pytest.mark.parametrize("path", ["purge", "evict", "refresh", "scrub", "snapshots"])
@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16",
     "application/jsonx", "multipart/form-data; boundary=x", "json"],
)  # fmt: skip
async def test_content_type(client: Client, path: str, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    problem(client, await client.ask("POST", f"{BASE}/{path}", data=b"{}", headers=headers), 415)
    problem(client, await client.ask("PUT", f"{BASE}/pins/x", data=b"{}", headers=headers), 415)
    assert client.operations.asked == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("purge", {}, "match"),
        ("purge", {"kinds": ["zip"], "forget_hash": True}, "match"),
        ("purge", {"match": []}, "match"),
        ("purge", {"match": ""}, "match"),
        ("purge", {"match": [1]}, "match"),
        ("purge", {"match": {"a": 1}}, "match"),
        ("purge", {"match": None}, "match"),
        ("purge", {"match": "a[b"}, "match"),
        ("purge", {"match": "\ud800"}, "match"),
        ("purge", {"match": ["x"] * 1001}, "match"),
        ("purge", {"match": "x", "idle_for": -1}, "idle_for"),
        ("purge", {"match": "x", "idle_for": True}, "idle_for"),
        ("purge", {"match": "x", "idle_for": "1w"}, "idle_for"),
        ("purge", {"match": "x", "idle_for": ""}, "idle_for"),
        ("purge", {"match": "x", "idle_for": 1e300}, "idle_for"),
        ("purge", {"match": "x", "idle_for": "9999d"}, "idle_for"),
        ("purge", {"match": "x", "idle_for": "9" * 400}, "idle_for"),
        ("purge", {"match": "x", "older_than": []}, "older_than"),
        ("purge", {"match": "x", "larger_than": 1.5}, "larger_than"),
        ("purge", {"match": "x", "larger_than": -1}, "larger_than"),
        ("purge", {"match": "x", "larger_than": 1 << 63}, "larger_than"),
        ("purge", {"match": "x", "larger_than": "9" * 5000}, "larger_than"),
        ("purge", {"match": "x", "larger_than": "9" * 400 + ".5TB"}, "larger_than"),
        ("purge", {"match": "x", "larger_than": "5 apples"}, "larger_than"),
        ("purge", {"match": "x", "larger_than": False}, "larger_than"),
        ("purge", {"match": "x", "kinds": "zip"}, "kinds"),
        ("purge", {"match": "x", "kinds": []}, "kinds"),
        ("purge", {"match": "x", "kinds": ["ziphash"]}, "kinds"),
        ("purge", {"match": "x", "kinds": [["zip"]]}, "kinds"),
        ("purge", {"match": "x", "forget_hash": "true"}, "forget_hash"),
        ("purge", {"match": "x", "dry_run": 1}, "dry_run"),
        ("purge", {"match": "x", "dryrun": True}, "dryrun"),
        ("purge", {"match": "x", "a\nb": True}, '"a\\nb"'),
        ("evict", {"target_bytes": "80%"}, "target_bytes"),
        ("evict", {"target": 1}, "target"),
        ("evict", {"dry_run": None}, "dry_run"),
        ("refresh", {}, "module"),
        ("refresh", {"module": ""}, "module"),
        ("refresh", {"module": 1}, "module"),
        ("refresh", {"module": "!x.y/z"}, "module"),
        ("refresh", {"module": "a.b/c", "version": "v1"}, "version"),
        ("scrub", {"rate": 0}, "rate"),
        ("scrub", {"rate": 65535}, "rate"),
        ("scrub", {"rate": "16.1GiB"}, "rate"),
        ("scrub", {"rate": True}, "rate"),
        ("scrub", {"rate": "x"}, "rate"),
        ("scrub", {"match": 1}, "match"),
        ("scrub", {"wait": True}, "wait"),
        ("snapshots", {"name": ""}, "name"),
        ("snapshots", {"name": "now"}, "name"),
        ("snapshots", {"name": "a/b"}, "name"),
        ("snapshots", {"name": ".."}, "name"),
        ("snapshots", {"name": "x" * 101}, "name"),
        ("snapshots", {"name": None}, "name"),
    ],
)
async def test_wrong_field(
    client: Client, path: str, body: dict[str, Any], field: str, caplog: pytest.LogCaptureFixture
) -> None:
    detail = problem(client, await client.ask("POST", f"{BASE}/{path}", body), 400, field)
    assert detail.startswith(f"{field}: ")
    assert client.operations.asked == []
    assert [(line["what"], line["status"]) for line in audited(caplog)] == [(f"{BASE}/{path}", 400)]


async def test_wrong_bodies_of_a_pin(client: Client) -> None:
    problem(client, await client.ask("PUT", f"{BASE}/pins/x", {"x": 1}), 400, "x")
    problem(client, await client.ask("PUT", f"{BASE}/pins/x?y=1", {}), 400, "y")
    problem(client, await client.ask("POST", f"{BASE}/evict?dry_run=true", {}), 400, "dry_run")
    assert client.operations.asked == []


async def test_body_is_bounded(client: Client) -> None:
    fits = {"match": ["x" * 50] * 1000}
    assert (await client.ask("POST", f"{BASE}/purge", fits)).status == 200
    over = {"match": ["x" * 50] * 1300}
    problem(client, await client.ask("POST", f"{BASE}/purge", over), 413)
    sent = {"data": b"{" + b" " * 900_000, "headers": {"Content-Type": "application/json"}}
    problem(client, await client.ask("POST", f"{BASE}/purge", **sent), 413)


@pytest.mark.parametrize(
    "part", [b"{}", b'{"":0}', b"0", b'""', b"[]", b"1.5"], ids=lambda part: part.decode()
)
async def test_a_body_has_few_parts(client: Client, part: bytes) -> None:
    """Each of them cost its time, on the loop: 36 ms for the 87,000 objects of a quarter MiB."""
    body = b'{"match": [%b]}' % b",".join([part] * 9_000)
    sent = {"data": body, "headers": {"Content-Type": "application/json"}}
    got = await client.ask("POST", f"{BASE}/purge", **sent)
    assert problem(client, got, 400) == "the body has more than 2000 parts"


async def test_compressed_body_that_is_none(client: Client) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    got = await client.ask("POST", f"{BASE}/purge", data=b"not gzip at all", headers=headers)
    problem(client, got, 415)
    assert got.headers["Accept-Encoding"] == "identity"


async def test_body_that_does_not_come(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "BODY_SECONDS", 0.05)
    async with Wire(client.url) as wire:
        wire.ask(
            f"{BASE}/purge",
            f"Authorization: Bearer {TOKEN}",
            "Content-Type: application/json",
            "Content-Length: 2",
            method="POST",
        )
        assert (await wire.answer()).status == 408


# Trouble


@pytest.mark.parametrize(("error", "seconds"), [(NoRoom("the disk is full"), 30), (Overloaded("busy"), 5)])
async def test_no_room(client: Client, error: NoRoom | Overloaded, seconds: int) -> None:
    client.operations.failure = error
    got = await client.ask("POST", f"{BASE}/snapshots", {})
    assert problem(client, got, 503) == error.sentence
    assert got.headers["Retry-After"] == str(seconds)


@pytest.mark.parametrize("purge", [False, True])
async def test_a_rule_is_in_force_whatever_becomes_of_the_rest(client: Client, *, purge: bool) -> None:
    client.operations.failure = Unavailable("this host cannot use its index now")
    body = {"kind": "block", "rule": "example.com/a@v1.0.0", "reason": "r", "purge": purge}
    got = await client.ask("POST", f"{BASE}/gate/rules", body)
    said = problem(client, got, 503)
    assert (
        said
        == "rule 1 is in force, but what is stored of it is not known: this host cannot use its index now"
    )
    rules = (await client.ask("GET", f"{BASE}/gate/rules")).json["items"]
    assert [each["id"] for each in rules] == [1, None]


@pytest.mark.parametrize("error", [RuntimeError("inside"), ValueError("inside"), OSError(5, "inside")])
async def test_trouble_inside(client: Client, error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    client.operations.failure = error
    for method, path, body in (("GET", f"{BASE}/modules", None), ("POST", f"{BASE}/evict", {})):
        detail = problem(client, await client.ask(method, path, body), 500)
        assert "inside" not in detail
        assert detail.rpartition(" ")[2] in logged(caplog)
    assert [line["status"] for line in audited(caplog)] == [500]


async def test_client_that_left_is_audited(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """The change goes on, whoever waits for it, and the log has what came of it."""
    client.operations.hold = asyncio.Event()
    with pytest.raises(TimeoutError):
        await client.ask("DELETE", A1, timeout=aiohttp.ClientTimeout(total=0.1))
    client.operations.hold.set()
    for _ in range(500):
        if audited(caplog):
            break
        await asyncio.sleep(0.01)
    assert [line["status"] for line in audited(caplog)] == [200]
    assert ("example.com/a", "v1.0.0") not in client.operations.stored
