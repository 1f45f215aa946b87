"""Private modules against a VM that may not have them, and servers that lie about others' repositories."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from goproxy_vm.errors import Denied
from tests.fakes.githttps import Fault, GitServer
from tests.fakes.gitrepos import Repositories
from tests.fakes.upstream import FakeUpstream
from tests.integration.conftest import Got, Host, Serve
from tests.integration.direct import HOST, Bed, bed, failure, h1, zipped
from tests.integration.test_private_modules import private

__all__ = ["bed"]  # fixture
TOKEN = "a-token-of-sixteen"
REAL, NONE = (f"{HOST}/team/{name}" for name in ("real", "none"))
FILES = ("@v/list", "@latest", "@v/v1.0.0.info", "@v/v1.0.0.mod", "@v/v1.0.0.zip")
SPELLINGS: list[Callable[[str], str]] = [
    lambda module: module,
    lambda module: module.replace("team", "%74eam"),
    lambda module: module.replace("/team", "%2fteam"),
    lambda module: re.sub("/(real|none)", r"/!\1", module),
    lambda module: re.sub("/(real|none)", r"/%21\1", module),
    lambda module: module.replace("/team", "//team"),
    lambda module: module.replace("git.", "GIT."),
    lambda module: f"{module}.git",
    lambda module: f"{module}/sub",
]
TAILS = (*FILES, "@v/main.info", "@v/v9.9.9.info", "@v/v1.0.0.mod?x=1", "@v/v1.0.0.lock")
WAYS: list[dict[str, str]] = [
    {},
    {"method": "HEAD"},
    {"Range": "bytes=0-3"},
    {"If_None_Match": "*"},
    {"Prefer": "respond-async"},
    {"Disable_Module_Fetch": "true"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"X_Forwarded_For": "192.0.2.4"},
]


def seen(got: Got) -> tuple[object, ...]:
    """All of an answer that could tell one module from another."""
    fields = {name: value for name, value in got.headers.items() if name != "Date"}
    text = re.sub(r"\[request \w+\]", "", got.text)
    return got.status, fields, re.sub("real|none", "NAME", text, flags=re.IGNORECASE)


async def guarded(serve: Serve, bed: Bed, upstream: FakeUpstream, directory: Path) -> Host:
    """A server whose private modules are for those who have the token, with one that is stored and prepared
    as far as it can be."""
    bed.repositories.shape("root", "team/real")
    tokens = directory / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    tokens.chmod(0o600)
    clients = (ip_network("192.0.2.0/24"),)
    host = await private(serve, bed, upstream, private_tokens_file=tokens, private_clients=clients)
    for path in FILES * 2:
        assert (await host.get(f"/{REAL}/{path}", Authorization=f"Bearer {TOKEN}")).status == 200
        assert (await host.get(f"/{NONE}/{path}", Authorization=f"Bearer {TOKEN}")).status == 404
    await host.quiet()
    return host


async def test_whether_there_is_a_module_shows_nowhere(
    serve: Serve, bed: Bed, upstream: FakeUpstream, tmp_path: Path
) -> None:
    host = await guarded(serve, bed, upstream, tmp_path)
    asked = len(bed.server.requests)
    for prefix in ("/", "/cached-only/", "/sumdb/sum.golang.org/lookup/", "//"):
        for spell in SPELLINGS:
            for tail in TAILS:
                for way in WAYS if spell is SPELLINGS[0] else WAYS[:2]:
                    real, none = [
                        await host.get(f"{prefix}{spell(each)}/{tail}", **way) for each in (REAL, NONE)
                    ]
                    assert seen(real) == seen(none)
                    assert real.status in (403, 404), (prefix, spell(REAL), tail)
    assert len(bed.server.requests) == asked
    assert not [path for path in upstream.requests if "real" in path.lower() and HOST in path.lower()]
    pages = [(await host.get(path)).text for path in ("/", "/vm/setup.sh", "/vm/install.sh", "/vm/clean.sh")]
    for text in (*pages, (await host.admin("/metrics")).text):
        assert "team" not in text


async def test_a_public_module_does_not_lead_to_a_private_host(bed: Bed) -> None:
    """The private server tells whoever comes from this host's address, and has a public address itself."""
    public = Repositories(bed.directory / "public", "code.example.com")
    theirs = await bed.stack.enter_async_context(GitServer(public, bed.authority, bed.names, public=True))
    secret = Repositories(bed.directory / "secret", "code.corp.example")
    ours = await bed.stack.enter_async_context(GitServer(secret, bed.authority, bed.names, public=True))
    secret.add("team/secret").commit({"m.go": "package m\n"}, "v1.0.0")  # without a go.mod it has any name
    module = "code.example.com/x"
    theirs.pages[module] = f"{module} git https://code.corp.example/team/secret.git"
    direct = await bed.start(private="code.corp.example", modules="*")
    assert type(await failure(direct.source(private=False), zipped(module, "v1.0.0"))) is Denied
    assert ours.requests == []


async def test_public_modules_that_never_come_keep_no_private_one_waiting(
    serve: Serve, bed: Bed, upstream: FakeUpstream
) -> None:
    """As many VMs as there are processes ask a server of theirs, which is in no hurry."""
    public = Repositories(bed.directory / "public", "code.example.test")
    slow = await bed.stack.enter_async_context(GitServer(public, bed.authority, bed.names, public=True))
    for number in range(3):
        public.shape("root", f"team/m{number}")
    module = bed.repositories.shape("root", "team/real").module
    host = await private(
        serve,
        bed,
        f"{upstream.url},direct",  # type: ignore[arg-type]
        direct_modules="code.example.test",
        direct_processes=2,
        stall_timeout=60.0,
        trusted_proxies=(ip_network("127.0.0.0/8"),),
    )
    gate = slow.hold("*go-get=1")
    asking = [
        asyncio.create_task(
            host.get(f"/code.example.test/team/m{each}/@v/list", X_Forwarded_For=f"192.0.2.{each}")
        )
        for each in range(3)
    ]
    await asyncio.wait_for(gate.arrived.wait(), 20)
    got = await asyncio.wait_for(host.get(f"/{module}/@v/list", X_Forwarded_For="192.0.2.9"), 20)
    assert got.status == 200
    assert not any(task.done() for task in asking)
    gate.open()
    assert {got.status for got in await asyncio.gather(*asking)} == {200}


@pytest.mark.parametrize("named", ["directory", "url"])
async def test_a_server_that_names_the_clone_of_another(bed: Bed, named: str) -> None:
    """What it says is damaged may be its own clone at most."""
    victim, evil = (bed.repositories.shape("root", f"team/{name}").module for name in ("victim", "evil"))
    source = await bed.source()
    await h1(source, victim, "v1.0.0")
    (clone,) = bed.clones()
    said = f"bad object {clone.name if named == 'directory' else f'https://{HOST}/team/victim.git'}"
    packet = f"{len(said) + 8:04x}ERR {said}".encode()
    kind = {"Content-Type": "application/x-git-upload-pack-advertisement"}
    bed.server.on(f"{HOST}/team/evil*/info/refs*", Fault(200, kind, packet))
    error = await failure(source, zipped(evil, "v1.0.0"))
    assert error.status == 502
    assert "damaged" not in error.sentence
    assert clone in bed.clones()
