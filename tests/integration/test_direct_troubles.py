"""What goes wrong on this host, or with one part of a server, and what does not go wrong with it."""

from __future__ import annotations

import asyncio
import errno
import json
import shutil
from collections.abc import Callable

import pytest

from goproxy_vm.config.mapped import Mapped
from goproxy_vm.errors import NoRoom, Unavailable, UpstreamError, UpstreamTimeout
from goproxy_vm.traffic.slots import Claim, FairSlots
from goproxy_vm.upstream import trail
from goproxy_vm.upstream.source import Source
from tests.fakes.githttps import PACK, Fault
from tests.fakes.gitrepos import gomod
from tests.integration.direct import HOST, Bed, bed, failure, fetch, h1, info, listed, zipped

__all__ = ["bed"]  # fixture
pytestmark = pytest.mark.direct


def full(*_: object) -> bool:
    raise OSError(errno.ENOSPC, "No space left on device")


async def ask(source: Source, path: str, client: str) -> bytes:
    """What a client is given."""
    trail.begin((), client)
    return await fetch(source, path)


async def test_who_joins_a_run_lends_it_a_share(bed: Bed) -> None:
    """Else who is alone would wait behind all that another one asked for before."""
    made = [bed.repositories.shape("root", f"team/m{number}").module for number in range(2)]
    source = await bed.source(slots=FairSlots(2, parts=2))
    gate = bed.server.hold("*/m0*")
    greedy = asyncio.create_task(ask(source, info(made[0], "v1.0.0"), "10.0.0.1"))
    await gate.arrived.wait()
    waiting = asyncio.create_task(ask(source, info(made[1], "v1.0.0"), "10.0.0.1"))
    await asyncio.sleep(0)
    assert await ask(source, info(made[1], "v1.0.0"), "10.0.0.2")
    assert not greedy.done()
    gate.open()
    await asyncio.gather(greedy, waiting)


async def test_what_is_absent_leaves_nothing(bed: Bed) -> None:
    source = await bed.source()
    for number in range(2):
        bed.repositories.add(f"team/none{number}")
        await failure(source, info(f"{HOST}/team/none{number}", "v1.0.0"))
    assert list((bed.root / "vcs").iterdir()) == []


async def test_clones_of_failures_are_bounded(bed: Bed) -> None:
    """Each is fetched whole, and has no such commit."""
    made = [bed.repositories.huge(f"team/large{number}", 1 << 20) for number in range(4)]
    source = await bed.source(max_size=3 << 20)
    for each in made:
        await failure(source, info(each.module, "deadbeefdead"))
    assert 1 <= len(bed.clones()) < 4


async def test_a_clone_is_small(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    source = await bed.source()
    assert await h1(source, made.module, "v1.0.0")
    (clone,) = bed.clones()
    assert not (clone / "hooks").exists()


async def test_a_clone_that_cannot_be_put_in_its_place(bed: Bed) -> None:
    """The answer is there all the same, and the purge holds."""
    made = bed.repositories.shape("root")
    direct = await bed.start()
    source = direct.source(private=True)
    before = await h1(source, made.module, "v1.0.0")
    made.repository.retag("v1.0.0", {"m.go": "package m\n\nconst Moved = 1\n"})
    (clone,) = bed.clones()
    clone.with_suffix(".info").unlink()
    clone.with_suffix(".info").mkdir()
    await direct.forget({made.module})
    after = await h1(source, made.module, "v1.0.0")
    assert after != before
    clone.with_suffix(".info").rmdir()
    assert await h1(source, made.module, "v1.0.0") == after


async def test_a_disk_that_cannot_be_asked(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start(room=full)
    error = await failure(direct.source(private=True), info(made.module, "v1.0.0"))
    assert type(error) is NoRoom


@pytest.mark.parametrize(("number", "family"), [(errno.ENOSPC, NoRoom), (errno.EIO, Unavailable)])
async def test_a_store_that_cannot_be_read(bed: Bed, number: int, family: type[Exception]) -> None:
    async def known_mod(_module: str, _version: str) -> str:
        raise OSError(number, "what the system says")

    made = bed.repositories.shape("root")
    direct = await bed.start(known_mod=known_mod)
    error = await failure(direct.source(private=True), zipped(made.module, "v1.0.0"))
    assert type(error) is family


REMOVED: dict[str, Callable[[Bed], None]] = {
    "the clones": lambda bed: shutil.rmtree(bed.root / "vcs"),
    "everything": lambda bed: shutil.rmtree(bed.root),
}


@pytest.mark.parametrize("removed", REMOVED)
async def test_directories_that_somebody_removes(bed: Bed, removed: str) -> None:
    made = bed.repositories.shape("root")
    source = await bed.source()
    before = await h1(source, made.module, "v1.0.0")
    REMOVED[removed](bed)
    assert await h1(source, made.module, "v1.0.0") == before
    assert len(bed.clones()) == 1
    for directory in (bed.root, bed.root / "runs", bed.root / "vcs"):
        assert directory.stat().st_mode & 0o777 == 0o700


async def test_the_latest_is_none_that_was_taken_back(bed: Bed) -> None:
    """The list has all, for whoever needs one; who asks for the latest gets what go would take."""
    repository = bed.repositories.add("team/taken")
    module = f"{HOST}/team/taken"
    repository.commit({"go.mod": gomod(module), "m.go": "package m\n"}, "v1.0.0")
    repository.commit({"go.mod": gomod(module, more="\nretract v1.1.0\n")}, "v1.1.0")
    source = await bed.source()
    assert await fetch(source, listed(module)) == b"v1.0.0\nv1.1.0\n"
    assert json.loads(await fetch(source, f"{module}/@latest"))["Version"] == "v1.0.0"
    assert await h1(source, module, "v1.1.0")


async def test_a_list_of_versions_that_were_all_taken_back(bed: Bed) -> None:
    repository = bed.repositories.add("team/taken")
    module = f"{HOST}/team/taken"
    repository.commit({"go.mod": gomod(module, more="\nretract v1.0.0\n")}, "v1.0.0")
    source = await bed.source()
    assert await fetch(source, listed(module)) == b"v1.0.0\n"


async def test_a_closed_port_of_one_repository_is_not_its_host(bed: Bed) -> None:
    """The page is there, and leads to an sshd that is not."""
    made = bed.repositories.shape("root")
    bed.server.pages[f"{HOST}/team/ssh"] = f"{HOST}/team/ssh git ssh://git@{HOST}/team/ssh.git"
    direct = await bed.start()
    source = direct.source(private=True)
    for _ in range(3):
        error = await failure(source, info(f"{HOST}/team/ssh", "v1.0.0"))
        assert type(error) is UpstreamError
        assert "takes no connection" in error.sentence
    assert await h1(source, made.module, "v1.0.0")
    assert [(name, each.state) for name, each in direct.condition()] == [(HOST, "ok")]


async def test_ports_of_one_host_are_backed_off_from_one_by_one(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    repos = (Mapped(f"{HOST}/ssh/*", f"ssh://git@{HOST}:2222/{{1}}.git"),)
    direct = await bed.start(repos=repos, now=lambda: 1000.0)
    source = direct.source(private=True)
    await failure(source, info(f"{HOST}/ssh/m", "v1.0.0"))
    assert await h1(source, made.module, "v1.0.0")
    told = [(name, each.state) for name, each in direct.condition()]
    assert told == [(HOST, "ok"), (f"{HOST}:2222", "backed_off")]


DAMAGED_PACK = b"PACK\0\0\0\2\0\0\0\xc8 what no pack has"
"""Of so many objects that git keeps it whole, and says of what is in it that it is bad."""


async def test_a_repository_that_is_damaged_itself_is_not_cloned_again_and_again(bed: Bed) -> None:
    now = [1000.0]
    made = bed.repositories.shape("root")
    section = b"%04x\x01%s" % (5 + len(DAMAGED_PACK), DAMAGED_PACK)
    bed.server.on("*#fetch", Fault(200, PACK, b"000dpackfile\n" + section + b"0000"))
    source = await bed.source(now=lambda: now[0])

    async def cost() -> int:
        before = bed.server.count("*#fetch")
        error = await failure(source, info(made.module, "v1.0.0"))
        assert type(error) is UpstreamError
        return bed.server.count("*#fetch") - before

    first = await cost()
    assert 0 < await cost() <= first // 2
    now[0] += 301
    assert await cost() == first
    bed.server.forget_rules()
    assert await h1(source, made.module, "v1.0.0")


class _Late(Claim):
    """A turn that has come when there is no time left."""

    def hold(self, limit: float):  # type: ignore[no-untyped-def]  # as in Claim
        return super().hold(limit / 1e6)


class _LateSlots(FairSlots):
    def claim(self, client: str) -> Claim:
        return _Late(self, client)


async def test_a_run_that_comes_too_late_names_the_setting(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start(slots=_LateSlots(4))
    bed.server.on("*", Fault(silent=True))
    error = await failure(direct.source(private=True), info(made.module, "v1.0.0"))
    assert type(error) is UpstreamTimeout
    assert "setting direct_timeout" in error.sentence
