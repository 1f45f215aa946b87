"""Runs of the go command: few for many, and none that outlives what it was for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from goproxy_vm.errors import GoproxyError, UpstreamError, UpstreamTimeout
from goproxy_vm.upstream.failure import Failure
from tests.fakes.githttps import Fault
from tests.fakes.gitnames import deaf_port, mute_port
from tests.fakes.gitplain import go_command
from tests.integration.direct import (
    Bed,
    bed,
    failure,
    fetch,
    h1,
    info,
    listed,
    members,
    mod,
    processes,
    reap,
    until,
    zipped,
    zombies,
)

__all__ = ["bed"]  # fixture

BASE = "git.corp.test/team/root"
REFS = f"{BASE}.git/info/refs*"
PACK = f"{BASE}.git/git-upload-pack#fetch"
SHORT = 0.5
"""Seconds without a byte that a stall is here."""


# Few for many.


async def test_twenty_who_want_a_version_share_one_run(bed: Bed) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source()
    gate = bed.server.hold(PACK)
    asked = [asyncio.create_task(fetch(source, zipped(module, "v1.0.0"))) for _ in range(20)]
    await gate.arrived.wait()
    gate.open()
    assert len(set(await asyncio.gather(*asked))) == 1
    assert bed.server.count("*go-get=1") == 1
    assert bed.server.count(PACK) <= 2  # the version, and the latest one for what it retracts
    assert source.received > 0
    assert source.answered >= 1


async def test_info_and_mod_share_one_run(bed: Bed) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source()
    gate = bed.server.hold(REFS)
    told = asyncio.create_task(fetch(source, info(module, "v1.0.0")))
    await gate.arrived.wait()
    read = asyncio.create_task(fetch(source, mod(module, "v1.0.0")))
    gate.open()
    assert json.loads(await told)["Version"] == "v1.0.0"
    assert b"module" in await read
    assert bed.server.count("*go-get=1") == 1


async def test_what_a_zip_brought_along_is_not_fetched_again(bed: Bed) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source()
    await h1(source, module, "v1.0.0")
    before = len(bed.server.requests)
    await fetch(source, info(module, "v1.0.0"))
    await fetch(source, mod(module, "v1.0.0"))
    assert len(bed.server.requests) == before


async def test_twenty_versions_share_one_clone(bed: Bed) -> None:
    made = bed.repositories.versions("team/many", 20)
    source = await bed.source()
    found = await asyncio.gather(*(h1(source, module, version) for module, version in made.versions))
    assert len(set(found)) == 20
    assert len(bed.clones()) == 1
    assert bed.locks() == []
    assert processes(bed.root) == []


async def test_one_who_leaves_does_not_end_what_others_wait_for(bed: Bed) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source()
    gate = bed.server.hold(PACK)
    first = asyncio.create_task(fetch(source, zipped(module, "v1.0.0")))
    await gate.arrived.wait()
    second = asyncio.create_task(fetch(source, zipped(module, "v1.0.0")))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    gate.open()
    assert await second
    assert bed.server.count("*go-get=1") == 1


async def test_no_more_runs_at_a_time_than_allowed(bed: Bed) -> None:
    modules = [bed.repositories.versions(f"team/m{n}", 1).module for n in range(5)]
    source = await bed.source(processes=2)
    gate = bed.server.hold("*go-get=1")
    asked = [asyncio.create_task(fetch(source, info(module, "v1.0.0"))) for module in modules]
    await until(lambda: bed.server.count("*go-get=1") == 2)
    gate.open()
    await asyncio.gather(*asked)


# The ends.


STALLS = {
    "page": ("*go-get=1", Fault(silent=True)),
    "half a page": ("*go-get=1", Fault(after=10, then="stall")),
    "refs": (REFS, Fault(silent=True)),
    "half of refs": (REFS, Fault(after=20, then="stall")),
    "ls-refs": (f"{BASE}.git/git-upload-pack#ls-refs", Fault(silent=True)),
    "pack": (PACK, Fault(silent=True)),
    "half a pack": (PACK, Fault(after=60, then="stall")),
}


@pytest.mark.parametrize("step", STALLS)
async def test_a_server_that_falls_silent(bed: Bed, step: str) -> None:
    module = bed.repositories.shape("root").module
    glob, fault = STALLS[step]
    bed.server.on(glob, fault)
    source = await bed.source(stall=SHORT)
    error = await failure(source, zipped(module, "v1.0.0"))
    assert type(error) is UpstreamTimeout, error.sentence
    assert module in error.sentence or "git.corp.test" in error.sentence
    assert bed.server.count(glob) >= 1
    await bed.nothing_runs()
    assert bed.locks() == []
    bed.server.forget_rules()
    assert await h1(source, module, "v1.1.0")


async def test_a_server_that_takes_no_connection(bed: Bed) -> None:
    async with deaf_port() as port:
        bed.names.lead("deaf.corp.test", 443, port)
        source = await bed.source(private="deaf.corp.test", connect=SHORT)
        error = await failure(source, info("deaf.corp.test/x", "v1.0.0"))
        assert type(error) is UpstreamTimeout
        assert "deaf.corp.test" in error.sentence


@pytest.mark.parametrize("where", ["page", "repository"])
async def test_a_server_that_never_shakes_hands(bed: Bed, where: str) -> None:
    async with mute_port() as port:
        bed.names.lead("mute.corp.test", 443, port)
        module = "mute.corp.test/x"
        if where == "repository":
            module = "git.corp.test/team/led"
            bed.server.pages[module] = f"{module} git https://mute.corp.test/x.git"
        hosts = frozenset({"mute.corp.test:443"})
        source = await bed.source(private="*.corp.test", hosts=hosts, stall=SHORT)
        error = await failure(source, info(module, "v1.0.0"))
        assert type(error) is UpstreamTimeout
        await bed.nothing_runs()


async def test_a_deadline(bed: Bed) -> None:
    """Bytes come all the time, but never the last one."""
    module = bed.repositories.huge("team/root", 400_000).module
    bed.server.on(PACK, Fault(rate=40_000))
    source = await bed.source(timeout=3.0)
    error = await failure(source, zipped(module, "v1.0.0"))
    assert type(error) is UpstreamTimeout
    await bed.nothing_runs()
    assert bed.locks() == []
    bed.server.forget_rules()
    again = await bed.start()
    assert await h1(again.source(private=True), module, "v1.0.0")


def leader(bed: Bed) -> int:
    """The go command of the one run that there is."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"/go") and str(bed.root).encode() in (process / "environ").read_bytes():
                return int(process.name)
    raise AssertionError(processes(bed.root))


async def test_a_go_command_that_is_killed(bed: Bed) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source()
    gate = bed.server.hold(PACK)
    asked = asyncio.create_task(failure(source, zipped(module, "v1.0.0")))
    await gate.arrived.wait()
    os.kill(leader(bed), signal.SIGKILL)
    error: GoproxyError = await asked
    assert isinstance(error, UpstreamError), error.sentence
    await bed.nothing_runs()
    gate.open()
    bed.server.forget_rules()
    assert await h1(source, module, "v1.0.0")
    assert bed.locks() == []


@pytest.mark.parametrize("step", ["*go-get=1", REFS, PACK])
async def test_nobody_waits_any_more(bed: Bed, step: str) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source()
    gate = bed.server.hold(step)
    asked = asyncio.create_task(fetch(source, zipped(module, "v1.0.0")))
    await gate.arrived.wait()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await until(lambda: not processes(bed.root))
    gate.open()
    bed.server.forget_rules()
    assert await h1(source, module, "v1.0.0")
    assert bed.locks() == []


@pytest.mark.parametrize("step", ["*go-get=1", REFS, PACK])
async def test_a_stop_in_the_middle(bed: Bed, step: str) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start()
    gate = bed.server.hold(step)
    asked = [
        asyncio.create_task(fetch(direct.source(private=True), path))
        for path in (zipped(made.module, "v1.0.0"), info(made.module, "v1.1.0"), listed(made.module))
    ]
    await gate.arrived.wait()
    await direct.close()
    for task in asked:
        with pytest.raises((asyncio.CancelledError, Failure)):
            await task
    await bed.nothing_runs()
    gate.open()
    bed.server.forget_rules()
    again = await bed.start()
    assert await h1(again.source(private=True), made.module, "v1.0.0")
    assert bed.locks() == []


async def test_what_a_dead_server_left_is_swept_at_the_start(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start()
    assert await h1(direct.source(private=True), made.module, "v1.0.0")
    await direct.close()
    (clone,) = bed.clones()
    (clone / "shallow.lock").write_text("")
    (clone / "objects" / "pack" / "tmp_pack_abcdef").write_bytes(b"PACK")
    (bed.root / "runs" / "old" / "mod").mkdir(parents=True)
    (bed.root / "runs" / "old" / "mod" / "file").write_text("x")
    again = await bed.start()
    assert list((bed.root / "runs").iterdir()) == []
    assert bed.locks() == []
    assert await h1(again.source(private=True), made.module, "v1.1.0")


SERVER = """
import asyncio, sys
from pathlib import Path
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.direct.direct import Direct
from goproxy_vm.upstream.direct.options import Options
from goproxy_vm.upstream.sink import Buffer
from tests.fakes.gitnames import Names

root, go, ca, port, path = sys.argv[1:]
names = Names()
names.lead("git.corp.test", 443, int(port))

async def main():
    options = Options(root=Path(root), go=Path(go), private="git.corp.test", ca_file=Path(ca))
    direct = Direct(options, FairSlots(16), roads=names.roads)
    await direct.start()
    await direct.source(private=True).fetch(path, Buffer(), 1 << 30)

asyncio.run(main())
"""


@pytest.mark.parametrize("step", ["*go-get=1", REFS, PACK])
async def test_a_server_that_is_killed(bed: Bed, step: str) -> None:
    """Nobody is left to end its runs: they end all the same, and leave nothing in the way."""
    module = bed.repositories.shape("root").module
    port = bed.names._ports[bed.names.name("git.corp.test"), 443]
    words = (bed.root, go_command(), bed.authority.certificate, port, zipped(module, "v1.0.0"))
    gate = bed.server.hold(step)
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, *map(str, words), cwd=Path(__file__).parents[2]
    )
    await gate.arrived.wait()
    orphans = members(bed.root)
    assert orphans
    server.kill()
    await server.wait()
    await until(lambda: not processes(bed.root))
    # Those that were begun between the look and the kill, too.
    reap({*orphans, *(int(each.split()[0]) for each in set(zombies()) - bed.earlier)})
    gate.open()
    bed.server.forget_rules()
    source = await bed.source()
    assert list((bed.root / "runs").iterdir()) == []
    assert await h1(source, module, "v1.0.0")
    assert bed.locks() == []
