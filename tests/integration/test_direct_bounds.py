"""What one module from version control may cost this host: memory, bytes, room; and what is missing on it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from goproxy_vm.errors import ContentError, NoRoom, Refused, StartError, UpstreamError
from goproxy_vm.upstream.direct.find import find_git, find_go
from goproxy_vm.upstream.direct.jail import landlock_abi
from goproxy_vm.upstream.failure import Failure
from goproxy_vm.upstream.sink import Buffer
from tests.fakes.githttps import ENDLESS_PACK, Fault
from tests.fakes.gitplain import go_command
from tests.integration.direct import Bed, bed, failure, fetch, h1, info, listed, processes, until, zipped

__all__ = ["bed"]  # fixture
pytestmark = pytest.mark.direct

MIB = 1 << 20
PACK = "*/git-upload-pack#fetch"


async def test_more_memory_than_allowed(bed: Bed) -> None:
    """git and go hold an archive whole; below their bound that is 503, and the next one is served."""
    made = bed.repositories.huge("team/large", 24 * MIB)
    small = bed.repositories.shape("root")
    source = await bed.source(max_memory=96 * MIB, stall=30.0)
    error = await failure(source, zipped(made.module, "v1.0.0"))
    assert type(error) is NoRoom, error.sentence
    assert "direct_max_memory" in error.sentence
    await bed.nothing_runs()
    assert bed.locks() == []
    assert await h1(source, small.module, "v1.0.0")


async def test_more_than_a_module_may_have(bed: Bed) -> None:
    """Half a megabyte to fetch, half a gigabyte to unpack: more than go lets a module have."""
    made = bed.repositories.bomb("team/bomb", 8 * MIB, 66)
    source = await bed.source(stall=30.0)
    error = await failure(source, zipped(made.module, "v1.0.0"))
    assert type(error) is ContentError, error.sentence
    assert made.module in error.sentence
    assert source.received < 4 * MIB
    assert await fetch(source, info(made.module, "v1.0.0"))


async def test_a_repository_larger_than_allowed(bed: Bed) -> None:
    made = bed.repositories.huge("team/large", 6 * MIB, files=3)
    source = await bed.source(max_size=2 * MIB)
    error = await failure(source, zipped(made.module, "v1.0.0"))
    assert type(error) is NoRoom, error.sentence
    assert "direct_max_size" in error.sentence
    assert bed.server.sent < 5 * MIB
    await bed.nothing_runs()
    assert bed.locks() == []


ENDLESS = {
    "a page": ("*go-get=1", Fault(200, {"Content-Type": "text/html"}, b"<html>", after=6, then="endless")),
    "messages of progress": (PACK, ENDLESS_PACK),
    "refs": ("*/info/refs*", Fault(after=10, then="endless")),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_an_answer_without_end(bed: Bed, what: str) -> None:
    made = bed.repositories.shape("root")
    glob, fault = ENDLESS[what]
    bed.server.on(glob, fault)
    source = await bed.source(max_size=2 * MIB, timeout=20.0)
    error = await failure(source, zipped(made.module, "v1.0.0"))
    assert isinstance(error, NoRoom | UpstreamError), error.sentence
    assert bed.server.sent < 16 * MIB
    await bed.nothing_runs()


async def test_clones_beyond_their_size_go_again(bed: Bed) -> None:
    """Those that were not used for longest first; the one in use stays."""
    made = [bed.repositories.huge(f"team/large{n}", MIB) for n in range(4)]
    source = await bed.source(max_size=3 * MIB)
    for each in made:
        assert await fetch(source, info(each.module, "v1.0.0"))
    kept = [clone.with_suffix(".info").read_text() for clone in bed.clones()]
    assert 1 <= len(kept) < 4
    assert any("large3" in text for text in kept)
    assert not any("large0" in text for text in kept)
    assert await h1(source, made[0].module, "v1.0.0")


async def test_no_room_at_all(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start(room=lambda: False)
    error = await failure(direct.source(private=True), zipped(made.module, "v1.0.0"))
    assert type(error) is NoRoom, error.sentence
    assert bed.clones() == []


async def test_the_room_goes_while_a_run_goes_on(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    free = [True]
    direct = await bed.start(room=lambda: free[0])
    gate = bed.server.hold(PACK)
    asked = asyncio.create_task(failure(direct.source(private=True), zipped(made.module, "v1.0.0")))
    await gate.arrived.wait()
    free[0] = False
    error = await asked
    assert type(error) is NoRoom, error.sentence
    gate.open()
    free[0] = True
    bed.server.forget_rules()
    assert await h1(direct.source(private=True), made.module, "v1.0.0")


FETCH = """
import asyncio, sys
from pathlib import Path
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.direct.direct import Direct
from goproxy_vm.upstream.direct.options import Options
from goproxy_vm.upstream.failure import Failure
from goproxy_vm.upstream.sink import Buffer
from tests.fakes.gitnames import Names

root, go, ca, port, *paths = sys.argv[1:]
names = Names()
names.lead("git.corp.test", 443, int(port))

async def main():
    options = Options(root=Path(root), go=Path(go), private="git.corp.test", ca_file=Path(ca))
    direct = Direct(options, FairSlots(16), roads=names.roads)
    await direct.start()
    for path in paths:
        try:
            await direct.source(private=True).fetch(path, Buffer(), 1 << 30)
            print("ok")
        except Failure as failure:
            print(type(failure.error).__name__, failure.error.sentence)
    await direct.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("size", [4, 10])
async def test_a_disk_that_is_full(bed: Bed, size: int) -> None:
    """One on which there is no room for the clone, and one that has room for no more than that."""
    large = bed.repositories.huge("team/large", 6 * MIB)
    small = bed.repositories.shape("root")
    bed.root.mkdir()
    port = bed.names._ports[bed.names.name("git.corp.test"), 443]
    words = (bed.root, go_command(), bed.authority.certificate, port)
    paths = [zipped(made.module, "v1.0.0") for made in (large, small)]
    script = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-m", "sh", "-c", script, "sh", f"{size}m", str(bed.root)),
        *(sys.executable, "-c", FETCH, *map(str, words), *paths),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complaint = await process.communicate()
    if b"mount" in complaint or b"unshare" in complaint:
        pytest.skip(f"no tmpfs can be mounted here: {complaint.decode().strip()}")
    first, second = printed.decode().splitlines()
    assert first.startswith("NoRoom "), first
    assert "disk" in first
    assert second == "ok"


async def test_what_a_sink_refuses_passes_through(bed: Bed) -> None:
    class Full(Buffer):
        async def begin(self, _length: int | None) -> None:
            raise NoRoom("full")

    made = bed.repositories.shape("root")
    source = await bed.source()
    with pytest.raises(NoRoom, match="full"):
        await source.fetch(zipped(made.module, "v1.0.0"), Full(), MIB)
    assert processes(bed.root) == []


async def test_a_clone_with_a_long_history_is_shallow(bed: Bed) -> None:
    made = bed.repositories.wide("team/wide", 60, 100_000)
    source = await bed.source()
    assert await h1(source, made.module, "v1.2.0")
    assert source.received < 1_000_000
    assert (await fetch(source, listed(made.module))).count(b"\n") == 6


def test_no_go_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartError, match="no such file"):
        find_go(tmp_path / "go")
    for text in ("#!/bin/sh\nexit 1\n", "#!/bin/sh\necho go1.20.14\n", "not a program\n"):
        (tmp_path / "go").write_text(text)
        (tmp_path / "go").chmod(0o755)
        with pytest.raises(StartError):
            find_go(tmp_path / "go")


def test_no_git_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxy_vm.upstream.direct.find.PATH", str(tmp_path))
    with pytest.raises(StartError, match="git"):
        find_git()


async def test_a_failure_is_forgotten(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    bed.server.on("*/info/refs*", Fault(503), times=1)
    source = await bed.source()
    with pytest.raises(Failure):
        await fetch(source, info(made.module, "v1.0.0"))
    assert await fetch(source, info(made.module, "v1.0.0"))


# What git may do besides.


def helped(bed: Bed, command: str) -> Path:
    """A home whose credential helper says what a command prints as the password of ``found``."""
    home = bed.home()
    helper = home / "helper"
    helper.write_text(f'#!/bin/bash\necho username=found\necho "password=$({command})"\n')
    helper.chmod(0o700)
    (home / ".gitconfig").write_text(f'[credential]\n\thelper = "{helper}"\n')
    return home


@pytest.mark.parametrize("confined", [True, False])
async def test_files_that_git_has_no_business_with(bed: Bed, confined: bool) -> None:
    """Whatever a flaw of git's, or of a helper's, would read: what this server has is out of reach."""
    if confined and not landlock_abi():
        pytest.skip("this kernel has no Landlock")
    made = bed.repositories.shape("root")
    bed.server.users["team/root"] = "nobody:else"
    (bed.directory / "outside").write_text("what is outside")
    home = helped(bed, f"cat {bed.directory}/outside; touch {bed.directory}/touched {bed.root}/touched")
    direct = await bed.start(confined=confined, git_home=home)
    assert type(await failure(direct.source(private=True), info(made.module, "v1.0.0"))) is Refused
    users = {seen.user for seen in bed.server.requests}
    assert ("found:what is outside" in users) is not confined
    assert any(user.startswith("found:") for user in users)
    assert (bed.directory / "touched").exists() is not confined
    assert (bed.root / "touched").exists() is not confined


@pytest.mark.parametrize("confined", [True, False])
async def test_ports_that_git_has_no_business_with(bed: Bed, confined: bool) -> None:
    """The gate is the only way out."""
    if confined and landlock_abi() < 4:
        pytest.skip("this kernel has no Landlock that confines TCP")
    made = bed.repositories.shape("root")
    bed.server.users["team/root"] = "nobody:else"
    reached = asyncio.Event()

    async def reach(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    async with await asyncio.start_server(reach, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        home = helped(bed, f"exec 3<>/dev/tcp/127.0.0.1/{port}")
        direct = await bed.start(confined=confined, git_home=home)
        assert type(await failure(direct.source(private=True), info(made.module, "v1.0.0"))) is Refused
    assert any(seen.user.startswith("found:") for seen in bed.server.requests)
    assert reached.is_set() is not confined


async def test_without_landlock_all_else_is_the_same(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start(confined=False)
    source = direct.source(private=True)
    assert await h1(source, made.module, "v1.0.0")
    assert (await fetch(source, listed(made.module))).split()[0] == b"v1.0.0"
    before = bed.server.count(PACK)
    bed.server.on(PACK, Fault(silent=True))
    asked = asyncio.create_task(fetch(source, zipped(made.module, "v1.2.0-rc.1")))
    await until(lambda: bed.server.count(PACK) > before)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await until(lambda: not processes(bed.root))
