"""The admin API and the commands on a whole server: its token, its listener, its store."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from goproxy_vm import cli
from goproxy_vm.config.address import Address
from goproxy_vm.errors import ConfigError
from tests.fakes.lines import logged
from tests.fakes.upstream import FakeUpstream
from tests.fakes.wire import Wire
from tests.integration.conftest import Host, Serve

M = "example.com/m"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("GOPROXY_VM_", "XDG_", "CACHE_DIRECTORY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))


def valid(schema: str, value: object) -> None:
    """Hold a real answer to the document."""
    document = yaml.safe_load((resources.files("goproxy_vm.admin") / "openapi.yaml").read_bytes())
    reference = {"$ref": f"#/components/schemas/{schema}", "components": document["components"]}
    Draft202012Validator(reference).validate(value)


async def ask(host: Host, method: str, path: str, token: str, body: object = None) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    async with host.session.request(
        method, f"{host.server.admin_url}/api/v1/{path}", headers=headers, json=body
    ) as got:
        return got.status, json.loads(await got.read())


async def settled(host: Host, token: str) -> None:
    """Wait until what was served is in the store too."""
    for _ in range(1000):
        if (await ask(host, "GET", "status", token))[1]["fetches_in_flight"] == 0:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("fetches go on")


async def command(host: Host, capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, Any]:
    """A command's status and its JSON."""
    status = await asyncio.to_thread(cli.main, ["--json", "--admin-url", host.server.admin_url, *argv])
    out, _ = capsys.readouterr()
    return status, json.loads(out)


async def test_token_and_operations_of_a_real_server(
    serve: Serve,
    upstream: FakeUpstream,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "goproxy_vm")
    host = await serve(upstream)
    file = tmp_path / "cache" / "admin.token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    token = file.read_text().strip()
    for version in ("v0.9.0", "v1.0.0"):
        for kind in ("info", "mod", "zip"):
            assert (await host.get(f"/{M}/@v/{version}.{kind}")).status == 200
    assert (await ask(host, "GET", "status", "wrong"))[0] == 401
    await settled(host, token)
    status, told = await ask(host, "GET", "status", token)
    valid("Status", told)
    assert told["upstreams"] == [
        {"name": upstream.name, "state": "ok", "since": None, "retry_seconds": None, "reason": None}
    ]
    assert told["clients"]["addresses"] == 1
    before = told["traffic"]["since_start"]
    assert before["requests"] == told["traffic"]["last_day"]["requests"] == 6
    again = await host.get(f"/{M}/@v/v1.0.0.zip")
    after = (await ask(host, "GET", "status", token))[1]["traffic"]["since_start"]
    assert after["saved_bytes"] == before["saved_bytes"] + len(again.body)
    assert (after["found"], after["hits"]) == (before["found"] + 1, before["hits"] + 1)
    assert 1.0 > after["hit_ratio"] == after["hits"] / after["found"] > before["hit_ratio"]
    status, listed = await ask(host, "GET", f"modules?prefix={M}&limit=1", token)
    valid("VersionPage", listed)
    assert (status, listed["total"]) == (200, 2)
    assert sorted(listed["items"][0]["files"]) == ["info", "mod", "zip"]
    status, rest = await ask(host, "GET", f"modules?limit=1&cursor={listed['next_cursor']}", token)
    assert [each["version"] for each in (*listed["items"], *rest["items"])] == ["v0.9.0", "v1.0.0"]
    nested, huge = b"[" * 3000, b'["name", 1%s, "", ""]' % (b"0" * 400)
    hostile = [base64.urlsafe_b64encode(text).decode() for text in (nested, huge)]
    for cursor in ("x", "%C3%A9", *hostile):
        assert (await ask(host, "GET", f"modules?cursor={cursor}", token))[0] == 400

    assert (await command(host, capsys, "snapshot", "before"))[0] == 0
    status, dry = await command(host, capsys, "purge", f"{M}@v0.9.0", "--dry-run")
    valid("Removal", dry)
    assert (status, dry["removed"]["files"]) == (0, 3)
    status, real = await command(host, capsys, "purge", f"{M}@v0.9.0")
    assert (status, real) == (0, {**dry, "dry_run": False})
    assert (await command(host, capsys, "show", f"{M}@v0.9.0"))[0] == 4
    status, difference = await command(host, capsys, "diff", "before")
    valid("Difference", difference)
    assert [each["version"] for each in difference["went"]] == ["v0.9.0"]
    assert (await command(host, capsys, "pin", f"{M}"))[1]["versions"] == 1
    _, evicted = await command(host, capsys, "evict", "--target", "1TiB")
    valid("Eviction", evicted)
    assert evicted["reached"] is True
    valid("Pins", (await command(host, capsys, "pins"))[1])
    valid("Snapshots", (await command(host, capsys, "snapshots"))[1])
    assert (await command(host, capsys, "scrub", "--wait"))[1]["scrubbed"]["corrupt"] == 0
    assert (await command(host, capsys, "refresh", M))[0] == 0
    _, passes = await command(host, capsys, "passes")
    valid("Passes", passes)
    assert {"evict", "scrub"} <= {each["reason"] for each in passes["items"]}
    _, state = await command(host, capsys, "status")
    valid("Status", state)
    assert state["cache"]["entries"] == {"info": 1, "mod": 1, "zip": 1}
    assert token not in logged(caplog)


async def test_main_listener_and_probes(serve: Serve, upstream: FakeUpstream) -> None:
    host = await serve(upstream, admin_token="x" * 16)
    assert (await host.get("/api/v1/status", Authorization="Bearer x")).status == 404
    for path in ("/healthz", "/readyz", "/metrics"):
        assert (await host.admin(path)).status == 200
    assert (await host.admin("/api/v1/status")).status == 401
    assert (await ask(host, "GET", "status", "x" * 16))[0] == 200
    assert not (host.settings.cache_dir / "admin.token").exists()


@pytest.mark.parametrize("path", ["/", "/dashboard", "/metrics/", "/%2e"])
async def test_what_is_not_there_names_what_is(serve: Serve, upstream: FakeUpstream, path: str) -> None:
    host = await serve(upstream)
    got = await host.admin(path)
    assert (got.status, got.headers["Content-Type"]) == (404, "application/problem+json")
    told = json.loads(got.body)
    assert told == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "detail": "nothing is here; modules are served at the addresses of the setting listen",
        "paths": ["/healthz", "/metrics", "/readyz", "/api/v1/openapi.yaml"],
    }
    for each in told["paths"][:-1]:
        assert (await host.admin(each)).status == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/api", "/api/v1/status"])
async def test_the_admin_listener_names_no_versions_of_what_it_is_made_of(
    serve: Serve, upstream: FakeUpstream, path: str
) -> None:
    host = await serve(upstream)
    assert (await host.admin(path)).headers["Server"] == "goproxy-vm"
    async with Wire(host.server.admin_url) as wire:
        wire.writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        heard = await wire.answer()
    assert heard.status in (401, 404, 405)
    assert heard.headers["Server"] == "goproxy-vm"
    assert heard.headers["Content-Type"] == "application/problem+json"


async def test_no_start_without_a_token(serve: Serve, upstream: FakeUpstream, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^admin_token_file: .*No such file"):
        await serve(upstream, admin_token_file=tmp_path / "none")


async def test_audit_of_a_unix_socket_names_the_user(
    serve: Serve,
    upstream: FakeUpstream,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "goproxy_vm")
    host = await serve(upstream, admin_listen=Address("", 0, str(tmp_path / "admin")))
    assert (await command(host, capsys, "evict"))[0] == 0
    (line,) = [record.goproxy_vm_fields for record in caplog.records if record.getMessage() == "audit"]  # type: ignore[attr-defined]  # set by observe.logs
    assert line == {
        "who": f"unix:uid={os.getuid()}",
        "action": "evict",
        "what": "to low water",
        "status": 200,
    }
