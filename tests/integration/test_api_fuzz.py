"""Requests made up from the OpenAPI document, and beside it: never a 500, and both agree on what is wrong."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Self
from urllib.parse import quote

import yaml
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from yarl import URL

from goproxy_vm.admin.actions import Actions
from goproxy_vm.admin.api import Api
from goproxy_vm.admin.app import api_app
from goproxy_vm.admin.auth import Guard
from tests.fakes.gatekeeping import every_route
from tests.fakes.operations import FakeOperations

ACTIONS = Actions(FakeOperations())
DOCUMENT: dict[str, Any] = yaml.safe_load(ACTIONS.document)
HEADERS = {"Authorization": "Bearer t", "Content-Type": "application/json"}

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
LIKELY = {
    "match": st.sampled_from(["*", "example.com/a", "a[b", "x@v1*", "", ["a", "b?"], [], [1]]),
    "idle_for": st.sampled_from([0, 5, 1.5, "30d", " 7 h ", "1w", -1, 315360001, "1e3", True]),
    "older_than": st.integers(-5, 1 << 70) | st.floats(allow_nan=False),
    "larger_than": st.sampled_from([0, 9.0, 9.5, "1.5GB", "1.5", "5K", "7B", (1 << 63) - 1, 1 << 63, -1]),
    "kinds": st.lists(st.sampled_from(["info", "mod", "zip", "lock"]), max_size=3),
    "forget_hash": st.booleans(),
    "dry_run": st.booleans(),
    "target_bytes": st.integers(-5, 1 << 70) | st.sampled_from(["2MiB", "80%"]),
    "module": st.sampled_from(["example.com/a", "github.com/Azure/x", "nodots", "", "!a.b/c", 7]),
    "kind": st.sampled_from(["block", "exempt", "deny", 1]),
    "rule": st.sampled_from(["example.com/a@v1.*", "example.com/*", "a@", "a b", "x.y@>=v1.0.0 <v2", "", 3]),
    "reason": st.sampled_from(["INC-1", "", " ", "a\nb", "x" * 201]),
    "by": st.text(max_size=5),
    "until": st.sampled_from(["2099-01-01T00:00:00Z", "2001-01-01", "soon", "9999-12-31T23:59:59-23:00"]),
    "for": st.sampled_from(["14d", 60, 0, "1w", -1]),
    "whole": st.booleans(),
    "purge": st.booleans(),
    "rate": st.sampled_from([0, 1, "20MB", "0", -1]),
    "name": st.from_regex(r"\A[a-z.:+-]{0,4}\Z") | st.just("now"),
}
PARAMETERS = st.dictionaries(
    st.sampled_from(
        ["prefix", "sort", "limit", "cursor", "dry_run", "forget_hash", "all", "module", "version", "x"]
    )
    | st.text(max_size=3),
    st.sampled_from(["", "true", "false", "1", "1000", "1001", "size", "example.com/a", "v1.0.0"])
    | st.text(max_size=5),
    max_size=2,
)
PARTS = {
    "module": st.sampled_from(["example.com/a", "github.com/Azure/sdk/v2", "a..b", "x"])
    | st.text(min_size=1),
    "version": st.sampled_from(["v1.0.0", "v1.1.0", "v2.0.0+incompatible", "v1!"]) | st.text(min_size=1),
    "pattern": st.sampled_from(["example.com/*", "example.com/kept/*", "a[b"]) | st.text(min_size=1),
    "a": st.sampled_from(["x", "now"]) | st.text(min_size=1),
    "b": st.sampled_from(["x", "now"]) | st.text(min_size=1),
    "pass": st.sampled_from(["1", "2", "0", "-1", "9223372036854775808", "x"]) | st.text(min_size=1),
    "name": st.sampled_from(["x", "now"]) | st.text(min_size=1),
    "id": st.sampled_from(["GO-2026-0001", "CVE-1"]) | st.text(min_size=1),
    "number": st.sampled_from(["1", "2", "0", "-1", "9223372036854775808", "x"]) | st.text(min_size=1),
}
OPERATIONS = [
    (path, method, item[method])
    for path, item in DOCUMENT["paths"].items()
    for method in item.keys() - {"parameters"}
]


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def request_schema(operation: dict[str, Any]) -> dict[str, Any] | None:
    if "requestBody" not in operation:
        return None
    schema: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"]
    return schema


def properties(schema: dict[str, Any]) -> list[str]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return list(DOCUMENT["components"]["schemas"].get(name, schema).get("properties", {}))


def bodies(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    likely: dict[str, st.SearchStrategy[Any]] = {name: LIKELY[name] for name in properties(schema)}
    odd = dict.fromkeys(likely, JUNK)
    return (
        st.fixed_dictionaries({}, optional=likely)
        | st.fixed_dictionaries({}, optional={**likely, "surplus": JUNK})
        | st.fixed_dictionaries({}, optional=odd)
        | JUNK
    )


def answer_schema(operation: dict[str, Any], status: int) -> tuple[str, dict[str, Any]]:
    """The media type and the schema that the document has for an answer."""
    found = operation["responses"].get(str(status)) or operation["responses"]["default"]
    if "$ref" in found:
        found = DOCUMENT["components"]["responses"][found["$ref"].rpartition("/")[2]]
    ((kind, media),) = found["content"].items()
    return kind, media["schema"]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, URL, dict[str, Any], Any]:
    """Method, URL, the document's operation, body."""
    template, method, operation = draw(st.sampled_from(OPERATIONS))
    parts = {name: quote(draw(part), safe="/") for name, part in PARTS.items()}
    url = template.format(**parts)
    if draw(st.booleans()):
        pairs = draw(PARAMETERS).items()
        url += "?" + "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs)
    schema = request_schema(operation)
    body = draw(bodies(schema)) if schema is not None else None
    return method.upper(), URL(url, encoded=True), operation, body


class Served:
    """A server and its client in a loop of their own, for hypothesis calls functions, not coroutines."""

    def __init__(self) -> None:
        self.operations = FakeOperations()
        self.kept = dict(self.operations.stored)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._client = self._runner.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    async def _start(self) -> TestClient[web.Request, web.Application]:
        client = TestClient(TestServer(api_app(Api(every_route(self.operations), Guard("t")))))
        await client.start_server()
        return client

    def ask(self, method: str, url: URL, data: bytes | None) -> tuple[int, str, bytes]:
        """Status, media type, body; what earlier requests removed is there again."""
        self.operations.stored = dict(self.kept)
        return self._runner.run(self._ask(method, url, data))

    async def _ask(self, method: str, url: URL, data: bytes | None) -> tuple[int, str, bytes]:
        async with self._client.request(method, url, data=data, headers=HEADERS) as got:
            return got.status, got.content_type, await got.read()


def test_document_and_server_agree() -> None:
    with Served() as served:

        @settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
        @given(requests())
        def agree(request: tuple[str, URL, dict[str, Any], Any]) -> None:
            method, url, operation, body = request
            schema = request_schema(operation)
            data = None if schema is None else json.dumps(body).encode()
            status, kind, text = served.ask(method, url, data)
            assert status < 500, text
            documented, answer = answer_schema(operation, status)
            assert kind == documented
            if kind != "application/yaml":
                validator(answer).validate(json.loads(text))
            if schema is not None and not validator(schema).is_valid(body):
                assert status in (400, 404)

        agree()
