"""The mirror of a vulnerability database, as its clients ask it, and what is stored held against it."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from goproxy_vm import cli
from goproxy_vm.config.token import TOKEN_NAME
from tests.fakes.upstream import FakeUpstream, Reply
from tests.fakes.vulndb import NEXT_DAY, documents, entry, write
from tests.integration.conftest import Got, Host, Serve

M = "example.com/m"
ID = "GO-2026-0001"
OLD = entry(ID, {M: [{"introduced": "0"}, {"fixed": "1.0.0"}]})
OTHER = entry("GO-2026-0002", {"example.com/other": [{"introduced": "0"}]})
FILES = documents([OLD, OTHER])
ENTRY = f"/vulndb/ID/{ID}.json.gz"
MODULES = "/vulndb/index/modules.json.gz"
DB = "/vulndb/index/db.json.gz"


@pytest.fixture
async def database() -> AsyncIterator[FakeUpstream]:
    """A database of two advisories, one of them about v0.9.0 of example.com/m."""
    async with FakeUpstream() as fake:
        fill(fake, FILES)
        yield fake


def fill(database: FakeUpstream, files: dict[str, bytes]) -> None:
    database.files = {f"/{path}": data for path, data in files.items()}


async def looked(host: Host) -> None:
    """Wait until the first look of the server is over, well or not."""
    watch = host.server.advisories
    assert watch is not None
    await watch.check()


async def listed(host: Host, query: str = "", *, status: int = 200) -> Any:
    token = (host.settings.cache_dir / TOKEN_NAME).read_text().strip()  # type: ignore[union-attr]
    url = f"{host.server.admin_url}/api/v1/vulnerabilities{query}"
    async with host.session.get(url, headers={"Authorization": f"Bearer {token}"}) as got:
        assert got.status == status, await got.read()
        return json.loads(await got.read())


def same(got: Got, path: str) -> None:
    assert got.status == 200, got.text
    assert "Content-Encoding" not in got.headers
    data = gzip.decompress(got.body) if path.endswith(".gz") else got.body
    assert data == FILES[path.removeprefix("/vulndb/").removesuffix(".gz")]


async def test_as_govulncheck_asks(serve: Serve, upstream: FakeUpstream, database: FakeUpstream) -> None:
    host = await serve(upstream, vulndb=database.url)
    got = await host.get(MODULES, method="HEAD")
    assert got.status == 200
    assert got.body == b""
    assert got.headers["Content-Type"] == "application/gzip"
    for path in (DB, MODULES, ENTRY, "/vulndb/index/vulns.json.gz"):
        # As Go's client asks, which would unpack what has a Content-Encoding.
        got = await host.get(path, Accept_Encoding="gzip")
        same(got, path)
        assert got.headers["Content-Type"] == "application/gzip"
        assert int(got.headers["Content-Length"]) == len(got.body)
        plain = await host.get(path.removesuffix(".gz"))
        same(plain, path.removesuffix(".gz"))
        assert plain.headers["Content-Type"] == "application/json"
    assert await host.metric('goproxy_vm_requests_total{endpoint="vulndb",result="hit"}') >= 4


async def test_nothing_else_is_asked_for(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream
) -> None:
    host = await serve(upstream, vulndb=database.url)
    await looked(host)
    before = list(database.requests)
    for path in ("/vulndb/", "/vulndb/index.json", "/vulndb/ID/../index/db.json", "/vulndb/ID/GO-1.json"):
        got = await host.get(path)
        assert got.status == 404
        assert "not a file of a Go vulnerability database" in got.text
    assert (await host.get("/cached-only/vulndb/index/db.json")).status == 404
    assert (await host.get("/vulndb", method="GET")).status == 404
    assert (await host.get(DB, method="POST")).status == 405
    assert database.requests == before
    assert not upstream.requests


async def test_without_one(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream)
    got = await host.get(DB)
    assert got.status == 404
    assert "no vulnerability database is mirrored here (setting vulndb)" in got.text
    assert "(setting vulndb)" in (await listed(host, status=404))["detail"]
    assert "\ngoproxy_vm_vulnerable_versions " not in (await host.admin("/metrics")).text


async def test_many_clients_and_one_request(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream
) -> None:
    host = await serve(upstream, vulndb=database.url)
    await looked(host)
    gate = database.hold("/ID/*")
    asked = [asyncio.create_task(host.get(ENTRY)) for _ in range(20)]
    await gate.arrived.wait()
    assert (await host.get("/example.com/m/@v/v1.0.0.mod")).status == 200
    assert (await host.get(MODULES)).status == 200
    gate.open()
    for got in await asyncio.gather(*asked):
        same(got, ENTRY)
    assert database.count("/ID/*") == 1


@pytest.mark.parametrize(
    ("reply", "status", "said"),
    [
        (Reply(b"no\n", 500, {"Content-Type": "text/plain"}), 502, "500 Whatever: no"),
        (Reply(b"no\n", 503), 502, "503"),
        (Reply(send=0, length=10, then="stall"), 504, "no byte for 0.2 s"),
        (Reply(FILES["index/db.json.gz"], send=20), 502, "cut off"),
        (Reply(b"<html>login</html>"), 502, "no JSON"),
        (Reply(b"\x1f\x8b<html>"), 502, "no valid gzip"),
        (Reply(FILES["index/db.json.gz"][:-5]), 502, "its gzip is cut off"),
        (Reply(gzip.compress(bytes(40 << 20), mtime=0)), 502, "unpacks to more than"),
        (Reply(b"x" * (2 << 20)), 502, "over the limit of"),
        (Reply(length=1 << 40, send=0), 502, "over the limit of"),
        (Reply(gzip.compress(bytes(2 << 20), mtime=0)), 502, "unpacks to more than"),
        (Reply(b"[]"), 502, "no JSON object"),
        (Reply(b"{}"), 502, "calls itself"),
        (Reply(FILES["ID/GO-2026-0002.json.gz"]), 502, "calls itself 'GO-2026-0002'"),
        (Reply(b'"' + b"[" * 500_000), 502, "no JSON"),
    ],
)
async def test_an_entry_that_cannot_be_had(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream, reply: Reply, status: int, said: str
) -> None:
    database.on("/ID/*", reply)
    host = await serve(upstream, vulndb=database.url, stall_timeout=0.2)
    got = await host.get(ENTRY)
    assert got.status == status
    assert said in got.text
    assert len(got.text.splitlines()) == 1
    assert (await host.get("/example.com/m/@v/v1.0.0.mod")).status == 200
    database.forget_rules()
    assert await host.server.store.answers.get(f"vulndb/ID/{ID}") is None


@pytest.mark.parametrize("body", [b"[]", b"<html>", gzip.compress(b"{}", mtime=0), b'{"modified":"x"}'])
async def test_a_database_that_is_none(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream, body: bytes
) -> None:
    database.on("/index/*", Reply(body))
    host = await serve(upstream, vulndb=database.url)
    for path in (DB, MODULES):
        assert (await host.get(path)).status == (200 if path == MODULES and body == b"[]" else 502)


async def test_definite_absence(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream, tmp_path: Path
) -> None:
    host = await serve(upstream, vulndb=database.url)
    unknown = "/vulndb/ID/GO-2026-9999.json.gz"
    for _ in range(5):
        assert (await host.get(unknown)).status == 404
    assert database.count("/ID/GO-2026-9999.*") == 2  # packed and plain, once
    database.files.clear()
    host = await serve(upstream, vulndb=f"{database.url}/elsewhere", cache_dir=tmp_path / "2")
    got = await host.get(DB)
    assert got.status == 502
    assert "no vulnerability database (setting vulndb)" in got.text


async def test_without_packed_files(serve: Serve, upstream: FakeUpstream, database: FakeUpstream) -> None:
    fill(database, {path: data for path, data in FILES.items() if not path.endswith(".gz")})
    host = await serve(upstream, vulndb=database.url)
    for path in (DB, MODULES, ENTRY):
        same(await host.get(path), path)


async def test_a_directory(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    write(tmp_path / "vulndb", FILES, packed=False)
    host = await serve(upstream, vulndb=f"file://{tmp_path}/vulndb")
    for path in (DB, MODULES, ENTRY):
        same(await host.get(path), path)
    assert (await host.get("/vulndb/ID/GO-2026-9999.json")).status == 404


async def test_when_it_is_down(serve: Serve, upstream: FakeUpstream, database: FakeUpstream) -> None:
    host = await serve(upstream, vulndb=database.url)
    await looked(host)
    for path in (DB, MODULES, ENTRY):
        same(await host.get(path), path)
    database.on("*", Reply(status=500))
    for path in (DB, MODULES, ENTRY):
        same(await host.get(path), path)
    assert (await host.get("/vulndb/ID/GO-2026-0002.json.gz")).status == 502
    await host.server.stop()
    # Started anew, by others and without internet.
    database.requests.clear()
    host = await serve(upstream, vulndb=database.url, offline=True)
    await looked(host)
    for path in (DB, MODULES, ENTRY, ENTRY.removesuffix(".gz")):
        same(await host.get(path), path)
    got = await host.get("/vulndb/ID/GO-2026-0002.json.gz")
    assert got.status == 404
    assert "setting offline" in got.text
    assert not database.requests


async def test_a_database_of_another_url_is_not_believed(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream
) -> None:
    host = await serve(upstream, vulndb=database.url)
    same(await host.get(DB), DB)
    await host.server.stop()
    host = await serve(upstream, vulndb="http://127.0.0.1:9", offline=True)
    assert (await host.get(DB)).status == 404


async def test_a_client_that_forbids_fetching(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream
) -> None:
    host = await serve(upstream, vulndb=database.url)
    await looked(host)
    assert (await host.get(ENTRY, Disable_Module_Fetch="true")).status == 404
    same(await host.get(MODULES, Disable_Module_Fetch="true"), MODULES)


async def test_a_server_behind_another(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream, tmp_path: Path
) -> None:
    first = await serve(upstream, vulndb=database.url)
    second = await serve(upstream, vulndb=f"{first.server.url}/vulndb", cache_dir=tmp_path / "2")
    for path in (DB, MODULES, ENTRY):
        same(await second.get(path), path)


async def stored(host: Host, *versions: str) -> None:
    for version in versions:
        assert (await host.get(f"/example.com/m/@v/{version}.zip")).status == 200
    await host.quiet()


async def test_what_is_stored_is_held_against_it(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream
) -> None:
    host = await serve(upstream, vulndb=database.url)
    await looked(host)
    assert await host.metric("goproxy_vm_vulnerable_versions ") == 0
    await stored(host, "v0.9.0", "v1.0.0")
    found = await listed(host)
    document = yaml.safe_load((resources.files("goproxy_vm.admin") / "openapi.yaml").read_bytes())
    reference = {"$ref": "#/components/schemas/VulnerabilityPage", "components": document["components"]}
    Draft202012Validator(reference).validate(found)
    assert found["total"] == 1
    assert found["unread"] == 1  # not read yet: the index is believed
    await looked(host)
    found = await listed(host)
    assert found["unread"] == 0
    (item,) = found["items"]
    assert item == {
        "module": M,
        "version": "v0.9.0",
        "advisories": [
            {"id": ID, "summary": f"Trouble {ID}", "aliases": ["CVE-2026-0001"], "fixed": "v1.0.0"}
        ],
    }
    assert found["database"] == {"url": database.url, "modified": "2026-01-02T03:04:05.000Z"}
    assert await host.metric("goproxy_vm_vulnerable_versions ") == 1
    watch = host.server.advisories
    assert watch is not None
    known = await watch.learn(M, "v1.0.0")
    assert known is not None
    assert known.fixed(M, "v1.0.0") == ID
    assert (await watch.advisory(ID)).rules() == [f"{M}@<v1.0.0"]


async def test_pages(serve: Serve, upstream: FakeUpstream, database: FakeUpstream) -> None:
    versions = [f"v0.{n}.0" for n in range(12)]
    for version in versions:
        upstream.add_module(M, version)
    host = await serve(upstream, vulndb=database.url)
    await stored(host, *versions)
    await looked(host)
    found: list[str] = []
    cursor = ""
    while True:
        page = await listed(host, f"?limit=5{cursor}")
        found += [each["version"] for each in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert found == versions
    for bad in ("x", "W10=", "WzEsMl0="):
        answer = await listed(host, f"?cursor={bad}", status=400 if bad != "WzEsMl0=" else 200)
        assert bad == "WzEsMl0=" or answer["field"] == "cursor"


async def test_before_it_was_read(serve: Serve, upstream: FakeUpstream, database: FakeUpstream) -> None:
    database.on("*", Reply(b"closed today\n", 500, {"Content-Type": "text/plain"}))
    host = await serve(upstream, vulndb=database.url)
    await looked(host)
    answer = await listed(host, status=503)
    assert "closed today" in answer["detail"]


async def test_an_advisory_that_cannot_be_read(
    serve: Serve, upstream: FakeUpstream, database: FakeUpstream
) -> None:
    database.on("/ID/*", Reply(status=500))
    host = await serve(upstream, vulndb=database.url)
    await stored(host, "v0.9.0")
    await looked(host)
    found = await listed(host)
    assert (found["total"], found["unread"]) == (1, 1)
    (one,) = found["items"][0]["advisories"]
    assert one == {"id": ID, "summary": "", "aliases": [], "fixed": "v1.0.0"}


async def test_withdrawn(serve: Serve, upstream: FakeUpstream, database: FakeUpstream) -> None:
    fill(database, documents([{**OLD, "withdrawn": NEXT_DAY}]))
    host = await serve(upstream, vulndb=database.url)
    await stored(host, "v0.9.0")
    await looked(host)
    assert (await listed(host))["total"] == 0


async def test_a_block_of_all_that_an_advisory_is_about(
    serve: Serve,
    upstream: FakeUpstream,
    database: FakeUpstream,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host = await serve(upstream, vulndb=database.url)
    await stored(host, "v0.9.0")
    await looked(host)
    monkeypatch.setenv("GOPROXY_VM_CACHE_DIR", str(host.settings.cache_dir))  # type: ignore[union-attr]

    async def command(*argv: str, status: int = 0) -> tuple[str, str]:
        given = ["--admin-url", host.server.admin_url, *argv]
        assert await asyncio.to_thread(cli.main, given) == status
        out, err = capsys.readouterr()
        return out, err

    out, _ = await command("vulns", "--who")
    assert f"{M}@v0.9.0 went to 127.0.0.1" in out
    out, _ = await command("block", "--from", ID)
    assert out.startswith(f"block {M}@<v1.0.0 as rule 1")
    assert "1 client got it: goproxy-vm who '" in out
    refused = await host.get(f"/{M}/@v/v0.9.0.zip")
    assert refused.status == 403
    assert f"blocked on this host: {ID} Trouble {ID} (block 1); if a VM has it" in refused.text
    assert (await host.get(f"/{M}/@v/v1.0.0.zip")).status == 200
    assert (
        "there is no advisory GO-2026-9999" in (await command("block", "--from", "GO-2026-9999", status=4))[1]
    )
    assert "expected one like" in (await command("block", "--from", "CVE-1", status=1))[1]
    assert "block needs a RULE, or --from" in (await command("block", "--reason", "r", status=2))[1]
    assert "not both" in (await command("block", M, "--from", ID, status=2))[1]
    assert "needs --reason" in (await command("block", M, status=2))[1]


async def test_the_command(
    serve: Serve,
    upstream: FakeUpstream,
    database: FakeUpstream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host = await serve(upstream, vulndb=database.url)
    await stored(host, "v0.9.0")
    await looked(host)
    monkeypatch.setenv("GOPROXY_VM_CACHE_DIR", str(host.settings.cache_dir))  # type: ignore[union-attr]
    ask = ["--admin-url", host.server.admin_url, "vulns"]
    assert await asyncio.to_thread(cli.main, ask) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:3] == [f"{M}@v0.9.0", ID, "v1.0.0"]
    assert lines[-1].startswith("advisories are about 1 stored version; ")
    assert await asyncio.to_thread(cli.main, [*ask, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 1
    without = await serve(upstream, cache_dir=tmp_path / "2")
    monkeypatch.setenv("GOPROXY_VM_CACHE_DIR", str(without.settings.cache_dir))  # type: ignore[union-attr]
    assert await asyncio.to_thread(cli.main, ["--admin-url", without.server.admin_url, "vulns"]) == 4
    assert "(setting vulndb)" in capsys.readouterr().err
