"""Modules from version control through the whole server, and for the real go command of a VM."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from goproxy_vm.protocol.modzip import check_zip
from tests.e2e.gocommand import Vm
from tests.fakes.githttps import GitServer
from tests.fakes.gitplain import plain_direct
from tests.fakes.gitrepos import Repositories, gomod
from tests.fakes.upstream import FakeUpstream
from tests.integration.conftest import Host, Serve
from tests.integration.direct import HOST, Bed, bed, processes
from tests.integration.test_database import World

__all__ = ["bed"]
NETRC = f"machine {HOST} login goproxy password s3cret-of-the-host\n"
USER = "goproxy:s3cret-of-the-host"


async def private(serve: Serve, bed: Bed, upstream: FakeUpstream, **settings: object) -> Host:
    """A server that has the bed's host as private."""
    given = {
        "cache_dir": bed.directory / "cache",
        "private": HOST,
        "upstream_ca_file": bed.authority.certificate,
        "stall_timeout": 5.0,
    }
    return await serve(upstream, roads=bed.names.roads, **(given | settings))


async def go(vm: Vm, *arguments: str, ok: bool = True) -> str:
    """What the go command of a VM prints, while the server goes on."""
    done = await asyncio.to_thread(vm.go, *arguments, ok=ok)
    return done.stdout + done.stderr


async def settled(host: Host) -> None:
    """Until nothing is under way."""
    while host.server.operations.fetches_in_flight:
        await asyncio.sleep(0.01)


async def test_a_vm_builds_and_nobody_else_hears_of_it(
    serve: Serve, bed: Bed, upstream: FakeUpstream, tmp_path: Path
) -> None:
    """No git, no key, no GOPRIVATE on the VM; the host has a password, which is nowhere to be seen."""
    repository = bed.repositories.add("team/lib")
    repository.commit(
        {"go.mod": gomod(f"{HOST}/team/lib"), "sub/sub.go": "package sub\n\nconst Word = `p`\n"},
        "v1.2.0",
    )
    bed.server.users["team/lib"] = USER
    world = World(upstream, tmp_path)
    host = await private(serve, bed, upstream, git_home=bed.home(netrc=NETRC), sumdb=world.spec)
    vm = Vm(
        tmp_path / "vm",
        host.server.url,
        tmp_path / "gocache",
        {"GOSUMDB": str(world.database.key), "GONOSUMDB": HOST, "GOFLAGS": "-mod=mod -modcacherw"},
    )
    vm.env["PATH"] = "/nonexistent"
    vm.write(
        {
            "go.mod": "module example.com/work\n\ngo 1.21\n",
            "main.go": f'package main\n\nimport "{HOST}/team/lib/sub"\n\nfunc main() {{ print(sub.Word) }}\n',
        }
    )
    await go(vm, "get", f"{HOST}/team/lib/sub@latest")
    assert await go(vm, "run", ".") == "p"
    assert f"{HOST}/team/lib v1.2.0" in await go(vm, "list", "-m", "-versions", f"{HOST}/team/lib")
    asked = list(vm.work.joinpath("go.sum").read_text().split())[2]
    (plain,) = (
        await plain_direct(
            bed.names, bed.authority, bed.home("plain", netrc=NETRC), [(f"{HOST}/team/lib", "v1.2.0")]
        )
    ).values()
    assert asked == plain.zip

    assert {seen.user for seen in bed.server.requests if "#fetch" in seen.key} == {USER}
    assert not [path for path in upstream.requests if HOST in path]
    assert not [path for path in world.database.requests if HOST in path]
    assert not [name for name in bed.names.looked if name != HOST]
    page = (await host.admin("/metrics")).text
    assert 'upstream="private"' in page
    for text in (page, (await host.get("/")).text):
        assert "s3cret" not in text
    for path in (bed.directory / "cache").rglob("*"):
        if path.is_file():
            assert b"s3cret" not in path.read_bytes(), path


async def test_twenty_vms_and_one_cold_version(serve: Serve, bed: Bed, upstream: FakeUpstream) -> None:
    shape = bed.repositories.shape("root")
    host = await private(serve, bed, upstream)
    gate = bed.server.hold("*#fetch")
    kinds = ("info", "mod", "zip")
    asking = [
        asyncio.create_task(host.get(f"/{shape.module}/@v/v1.0.0.{kinds[each % 3]}")) for each in range(60)
    ]
    await asyncio.wait_for(gate.arrived.wait(), 20)
    assert len(processes(bed.directory / "cache" / "direct")) > 0
    gate.open()
    answers = await asyncio.gather(*asking)
    assert {got.status for got in answers} == {200}
    for kind in range(3):
        assert len({got.body for got in answers[kind::3]}) == 1
    await settled(host)
    assert bed.server.count("*#fetch") <= 2, "one for info and mod, one for the zip"
    again = await host.get(f"/{shape.module}/@v/v1.0.0.zip")
    assert again.headers["Cache-Status"] == "goproxy-vm; hit"


async def test_a_moved_tag(serve: Serve, bed: Bed, upstream: FakeUpstream) -> None:
    module = f"{HOST}/team/moving"
    repository = bed.repositories.add("team/moving")
    repository.commit({"go.mod": gomod(module), "a.go": "package a\n"}, "v1.0.0")
    host = await private(serve, bed, upstream)
    paths = [f"/{module}/@v/v1.0.0.{kind}" for kind in ("info", "mod", "zip")]
    first = {path: await host.get(path) for path in paths}
    assert {got.status for got in first.values()} == {200}
    await settled(host)

    repository.retag("v1.0.0", {"go.mod": gomod(module, go="1.22"), "a.go": "package a\n\nconst B = 1\n"})
    await host.server.operations.purge_version(module, "v1.0.0")
    for path in paths[1:]:
        got = await host.get(path)
        assert got.status == 502, "what was seen first is what it is, until an operator says otherwise"
        assert "first" in got.text or "moved" in got.text, got.text

    await host.server.operations.purge_version(module, "v1.0.0", forget_hash=True)
    for path in paths:
        got = await host.get(path)
        assert got.status == 200, got.text
        if path != paths[0]:
            assert got.body != first[path].body


async def test_what_go_is_told(serve: Serve, bed: Bed, upstream: FakeUpstream, tmp_path: Path) -> None:
    """One sentence, with the module and what to do, and nothing of what git says."""
    bed.repositories.shape("root", "team/hidden")
    bed.server.users["team/hidden"] = USER
    host = await private(serve, bed, upstream, private_hosts=frozenset({"nowhere.corp.test:443"}))
    bed.server.pages[f"{HOST}/team/away"] = f"{HOST}/team/away git https://elsewhere.test/team/away.git"
    vm = Vm(tmp_path / "vm", host.server.url, tmp_path / "gocache", {"GONOSUMDB": HOST})
    for module, words in {
        f"{HOST}/team/none@v1.0.0": "404 Not Found",
        f"{HOST}/team/hidden@v1.0.0": "403 Forbidden",
        f"{HOST}/team/away@v1.0.0": "403 Forbidden",
    }.items():
        said = await go(vm, "mod", "download", module, ok=False)
        assert words in said
        assert f"goproxy-vm: {module} " in said
        for secret in ("https://git", "fatal:", str(bed.directory), "exit status"):
            assert secret not in said.partition("server response:")[2], said


async def test_direct_for_public_ones(serve: Serve, bed: Bed, upstream: FakeUpstream, tmp_path: Path) -> None:
    """After the proxies, without credentials, proven by the database; others are absent as ever."""
    names, public = bed.names, Repositories(tmp_path / "public", "code.example.test")
    async with GitServer(public, bed.authority, names, public=True) as server:
        shape = public.shape("root")
        world = World(upstream, tmp_path)
        host = await private(
            serve,
            bed,
            f"{upstream.url},direct",  # type: ignore[arg-type]
            direct_modules="code.example.test",
            git_home=bed.home(netrc="machine code.example.test login me password s3cret\n"),
            nosumdb="code.example.test",
            sumdb=world.spec,
        )
        got = await host.get(f"/{shape.module}/@v/v1.0.0.zip")
        assert got.status == 200, got.text
        plain = await plain_direct(names, bed.authority, bed.home("plain"), [(shape.module, "v1.0.0")])
        archive = tmp_path / "got.zip"
        archive.write_bytes(got.body)
        with archive.open("rb") as file:
            assert check_zip(file, shape.module, "v1.0.0").h1 == plain[shape.module, "v1.0.0"].zip
        assert upstream.count(f"/{shape.module}/*") > 0
        assert {seen.user for seen in server.requests} == {""}
        asked = len(bed.names.looked)
        for path in ("/other.example.test/m/@v/list", "/example.com/none/@v/list"):
            assert (await host.get(path)).status == 404
        assert (await host.get("/example.com/m/@v/list")).status == 200
        assert len(bed.names.looked) == asked


@pytest.mark.parametrize("missing", ["go", "git_home"])
async def test_what_is_missing_ends_the_start(
    serve: Serve, bed: Bed, upstream: FakeUpstream, missing: str
) -> None:
    from goproxy_vm.errors import StartError

    with pytest.raises(StartError, match=f"^{missing}: /nonexistent"):
        await private(serve, bed, upstream, **{missing: Path("/nonexistent")})
    assert (await private(serve, bed, upstream, **{missing: Path("/nonexistent"), "offline": True})).server
