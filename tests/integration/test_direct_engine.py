"""What a Direct keeps, and what it does not believe."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from goproxy_vm.config.mapped import Mapped
from goproxy_vm.errors import ChecksumMismatch, StartError, UpstreamError
from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.direct.direct import Direct
from goproxy_vm.upstream.direct.options import Options
from tests.fakes.gitplain import go_command
from tests.fakes.gitrepos import gomod
from tests.integration.direct import (
    HOST,
    Bed,
    bed,
    failure,
    fetch,
    h1,
    info,
    listed,
    mod,
    processes,
    until,
    zipped,
    zombies,
)

__all__ = ["bed"]  # fixture


async def test_a_zip_of_another_commit_than_the_mod_is_refused(bed: Bed) -> None:
    """The clone that had the first one is gone, and the tag has moved."""
    made = bed.repositories.shape("root")
    source = await bed.source()
    before = await fetch(source, mod(made.module, "v1.0.0"))
    for directory in (bed.root / "vcs").iterdir():
        shutil.rmtree(directory) if directory.is_dir() else directory.unlink()
    made.repository.retag("v1.0.0", {"m.go": "package m\n\nconst Moved = 1\n"})
    error = await failure(source, zipped(made.module, "v1.0.0"))
    assert isinstance(error, ChecksumMismatch)
    assert made.module in error.sentence
    assert await h1(source, made.module, "v1.0.0")  # nobody knows the other one any more
    assert await fetch(source, mod(made.module, "v1.0.0")) == before


@pytest.mark.parametrize(
    "path", ["github.com/acme", "bitbucket.org/acme", f"{HOST}/acme", f"{HOST}/acme.git"]
)
async def test_a_setting_names_the_repository_whatever_go_knows(bed: Bed, path: str) -> None:
    """Of some hosts, and of paths that say .git, go asks for no page."""
    module, tail = (f"{path}/x", "x") if "." not in path.partition("/")[2] else (path, "acme.git")
    prefix, _, _ = module.rpartition("/")
    bed.repositories.add(f"team/{tail}").commit({"go.mod": gomod(module), "m.go": "package m\n"}, "v1.0.0")
    repos = (Mapped(f"{prefix}/*", f"https://{HOST}/team/{{1}}.git"),)
    source = await bed.source(private=prefix, repos=repos)
    assert await h1(source, module, "v1.0.0")
    assert await fetch(source, listed(module)) == b"v1.0.0\n"
    assert set(bed.names.looked) == {HOST}
    assert not [seen.key for seen in bed.server.requests if "go-get" in seen.key]


@pytest.mark.parametrize("tail", ["x.git", "x-mirror.git", "x"])
async def test_a_setting_names_a_repository_whose_url_begins_with_the_modules_path(
    bed: Bed, tail: str
) -> None:
    """As those of GitLab and Gitea do: git asks for that URL, not for one with a part of it twice."""
    module = f"{HOST}/acme/x"
    repository = bed.repositories.add(f"acme/{tail.removesuffix('.git')}")
    repository.commit({"go.mod": gomod(module), "m.go": "package m\n"}, "v1.0.0")
    source = await bed.source(private=HOST, repos=(Mapped(f"{HOST}/acme/x", f"https://{HOST}/acme/{tail}"),))
    assert await h1(source, module, "v1.0.0")
    asked = {seen.key.partition("#")[0] for seen in bed.server.requests}
    assert {each.partition("/info/")[0] for each in asked if "info/refs" in each} == {f"{HOST}/acme/{tail}"}


@pytest.mark.parametrize("known", ["same", "other"])
async def test_a_zip_has_to_agree_with_the_mod_that_is_stored(bed: Bed, known: str) -> None:
    made = bed.repositories.shape("root")
    first = await bed.source()
    stored = h1_mod(await fetch(first, mod(made.module, "v1.0.0")) if known == "same" else b"module other\n")
    asked = []

    async def known_mod(module: str, version: str) -> str:
        asked.append((module, version))
        return stored

    second = (await bed.start(known_mod=known_mod)).source(private=True)
    if known == "same":
        assert await h1(second, made.module, "v1.0.0")
    else:
        error = await failure(second, zipped(made.module, "v1.0.0"))
        assert isinstance(error, ChecksumMismatch)
        assert error.recorded == stored
    assert asked == [(made.module, "v1.0.0")]


async def test_what_is_forgotten_is_asked_for_anew(bed: Bed) -> None:
    """A clone keeps a tag as it was seen first: whoever purges a module wants it as it is now."""
    made = bed.repositories.shape("root")
    direct = await bed.start()
    source = direct.source(private=True)
    before = await h1(source, made.module, "v1.0.0")
    made.repository.retag("v1.0.0", {"m.go": "package m\n\nconst Moved = 1\n"})
    assert await h1(source, made.module, "v1.0.0") == before
    await direct.forget({made.module})
    after = await h1(source, made.module, "v1.0.0")
    assert after != before
    assert await h1(source, made.module, "v1.0.0") == after
    assert len(bed.clones()) == 1
    assert bed.locks() == []


async def test_what_a_run_brought_besides_is_good_for_a_minute(bed: Bed) -> None:
    now = [1000.0]
    made = bed.repositories.shape("root")
    direct = await bed.start(now=lambda: now[0])
    source = direct.source(private=True)
    assert await fetch(source, listed(made.module))
    latest = json.loads(await fetch(source, f"{made.module}/@latest"))["Version"]
    asked = len(bed.server.requests)
    for path in (info(made.module, latest), mod(made.module, latest)):
        assert await fetch(source, path)
    assert len(bed.server.requests) == asked
    now[0] += 61
    assert await fetch(source, info(made.module, latest))
    assert len(bed.server.requests) > asked


async def test_a_host_that_is_down_is_not_asked_by_everybody(bed: Bed) -> None:
    now = [1000.0]
    bed.names.name("down.corp.test")
    direct = await bed.start(private="down.corp.test", now=lambda: now[0])
    source = direct.source(private=True)
    first = await failure(source, info("down.corp.test/a", "v1.0.0"))
    tried = len(bed.names.connected)
    second = await failure(source, info("down.corp.test/b", "v1.0.0"))
    assert type(first) is type(second) is UpstreamError
    assert "down.corp.test/b" in second.sentence
    assert "down.corp.test/a" not in second.sentence  # which others may not know of
    assert len(bed.names.connected) == tried
    assert [(name, each.state) for name, each in direct.condition()] == [("down.corp.test", "backed_off")]
    now[0] += 5
    await failure(source, info("down.corp.test/b", "v1.0.0"))
    assert len(bed.names.connected) > tried


async def test_the_origin_tells_no_user(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    bed.server.pages[made.module] = f"{made.module} git https://reader@{HOST}/team/root.git"
    source = await bed.source()
    told = json.loads(await fetch(source, info(made.module, "v1.0.0")))
    assert told["Origin"]["URL"] == f"https://{HOST}/team/root.git"


async def test_a_go_mod_above_the_cache_is_not_read(bed: Bed) -> None:
    """An operator's own project, perhaps."""
    made = bed.repositories.shape("root")
    (bed.directory / "go.mod").write_text(f"module own\n\nreplace {made.module} => /nonexistent\n\nbroken(\n")
    direct = await bed.start(confined=False)
    assert await h1(direct.source(private=True), made.module, "v1.0.0")


async def test_without_landlock(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start(confined=False)
    assert await h1(direct.source(private=True), made.module, "v1.0.0")


@pytest.mark.parametrize(
    ("mode", "words"), [(0o750, "open to others"), (0o701, "open to others"), (None, "No such file")]
)
async def test_a_home_that_others_can_read(bed: Bed, mode: int | None, words: str) -> None:
    home = bed.directory / "home"
    if mode is not None:
        home.mkdir()
        home.chmod(mode)
    with pytest.raises(StartError, match=f"git_home: .*{words}"):
        await bed.start(git_home=home)


async def test_nothing_is_begun_after_the_end(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    direct = await bed.start()
    source = direct.source(private=True)
    await direct.close()
    error = await failure(source, info(made.module, "v1.0.0"))
    assert error.status == 503
    assert bed.server.requests == []


SERVER = """
import asyncio, sys
from pathlib import Path
from goproxy_vm.traffic.slots import FairSlots
from goproxy_vm.upstream.direct.dial import Roads
from goproxy_vm.upstream.direct.direct import Direct
from goproxy_vm.upstream.direct.options import Options
from goproxy_vm.upstream.sink import Buffer

root, go, certificates, port, path = sys.argv[1:]

async def look_up(host, port):
    return ["10.99.0.1"]

async def connect(address, _):
    return await asyncio.open_connection("127.0.0.1", int(port))

async def main():
    options = Options(Path(root), Path(go), private="git.corp.test", ca_file=Path(certificates))
    direct = Direct(options, FairSlots(64), roads=Roads(look_up, connect))
    await direct.start()
    await direct.source(private=True).fetch(path, Buffer(), 1 << 30)

asyncio.run(main())
"""


@pytest.mark.parametrize("step", ["*go-get=1", "*/info/refs*", "*/git-upload-pack#fetch"])
async def test_a_server_that_is_killed_leaves_nothing_running(bed: Bed, step: str) -> None:
    """It can end nothing itself: go goes with it, and git with its tunnel."""
    made = bed.repositories.shape("root")
    gate = bed.server.hold(step)
    port = bed.names._ports[bed.names.name(HOST), 443]
    arguments = [bed.root, go_command(), bed.authority.certificate, port, zipped(made.module, "v1.0.0")]
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, *map(str, arguments))
    await gate.arrived.wait()
    assert processes(bed.root)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    await until(lambda: not processes(bed.root))
    bed.earlier |= set(
        zombies()
    )  # given to us, who started that server, in place of the system's first process
    gate.open()
    bed.server.forget_rules()
    again = await bed.start()
    assert await h1(again.source(private=True), made.module, "v1.0.0")
    assert bed.locks() == []


def test_the_face_is_a_source(tmp_path: Path) -> None:
    direct = Direct(Options(tmp_path, tmp_path / "go"), FairSlots(4))
    source = direct.source(private=False)
    assert (source.received, source.answered) == (0, 0)
    assert direct.condition() == []
