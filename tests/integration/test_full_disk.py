"""A disk that is full below the budget, or fails: evict and try once more, else say so; never lose count."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from goproxy_vm.cache import download, publish
from goproxy_vm.config.values import Amount
from tests.fakes.disk import allocated, under
from tests.fakes.modules import build_zip
from tests.fakes.stores import artifact
from tests.fakes.upstream import FakeUpstream

if TYPE_CHECKING:
    from tests.integration.conftest import Host, Serve

MIB = 1 << 20
V = "v1.0.0"
TMPFS = 8 * MIB
FAILURES = [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS]


def name(i: int, kind: str = "zip") -> str:
    return f"/example.com/f{i}/@v/{V}.{kind}"


def fill(upstream: FakeUpstream, count: int, size: int) -> None:
    """Modules whose zips do not compress."""
    for i in range(count):
        module = f"example.com/f{i}"
        files = {"go.mod": f"module {module}\n".encode(), "d": random.Random(i).randbytes(size)}
        upstream.add_module(module, V, zipped=build_zip(module, V, files, stored=True))


async def idle(host: Host) -> None:
    store = host.server.store
    while store.admission.reserved or store.uncommitted or host.server.proxy.fetches_in_flight:
        await asyncio.sleep(0)


def assert_tidy(host: Host, cache: Path) -> None:
    store = host.server.store
    assert store.admission.reserved == store.admission.admitted == store.admission.wanted == 0
    assert not list((cache / "tmp").iterdir())
    assert store.usage.used == allocated(cache / "modules")


def assert_503(got: Any) -> None:
    assert got.status == 503, got.text
    assert got.text.startswith("goproxy-vm: ")
    assert got.text.count("\n") == 1
    assert int(got.headers["Retry-After"]) > 0


class Quota:
    """Makes writes fail as a disk would: ``left`` bytes may be written below a directory, then ``number``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        self.times = 1 << 30
        self.failed = 0
        self._pwrite, self._fsync = os.pwrite, os.fsync
        monkeypatch.setattr(download.os, "pwrite", self._write)
        monkeypatch.setattr(publish.os, "fsync", self._sync)
        self.sync_number = 0

    def _write(self, fd: int, data: bytes, offset: int) -> int:
        if self.number and self.failed < self.times:
            self.failed += 1
            half = len(data) // 2
            if half and self.failed % 2:  # a disk that fills up in the middle of a write
                return self._pwrite(fd, data[:half], offset)
            raise OSError(self.number, os.strerror(self.number))
        return self._pwrite(fd, data, offset)

    def _sync(self, fd: int) -> None:
        if self.sync_number:
            raise OSError(self.sync_number, os.strerror(self.sync_number))
        self._fsync(fd)


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> Quota:
    return Quota(monkeypatch)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
async def test_evict_and_try_once_more(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, quota: Quota, number: int
) -> None:
    fill(upstream, 3, 300_000)
    host = await serve(upstream, min_free=Amount(0, None))
    for i in (0, 1):
        assert (await host.get(name(i))).status == 200
    await idle(host)
    quota.number, quota.times = number, 2  # half a write, then none
    got = await host.get(name(2))
    assert (got.status, got.body) == (200, upstream.files[name(2)])
    assert quota.failed == 2
    await idle(host)
    assert host.server.store.usage.entries["zip"] == 1, "what was stored made room"
    assert (await host.admin("/readyz")).text == "ready\n"
    assert_tidy(host, tmp_path / "cache")
    assert (await host.get(name(2))).body == upstream.files[name(2)]


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS], ids=errno.errorcode.get
)
async def test_else_503_and_degraded(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, quota: Quota, number: int
) -> None:
    fill(upstream, 2, 300_000)
    host = await serve(upstream, min_free=Amount(0, None))
    for path in (name(0), name(1, "mod")):  # else the .mod is stored meanwhile, and all seems well again
        assert (await host.get(path)).status == 200
    await idle(host)
    quota.number = number
    got = await host.get(name(1))
    assert_503(got)
    assert os.strerror(number) in got.text
    assert str(tmp_path) not in got.text
    ready = await host.admin("/readyz")
    assert ready.status == 200
    assert ready.text.startswith("degraded")
    await idle(host)
    assert_tidy(host, tmp_path / "cache")
    if number == errno.EIO:
        assert (await host.get(name(0))).headers["Cache-Status"].endswith("hit"), "EIO is no want of room"
    quota.number = 0
    got = await host.get(name(1))
    assert (got.status, got.body) == (200, upstream.files[name(1)])
    assert (await host.admin("/readyz")).text == "ready\n"
    await idle(host)
    assert_tidy(host, tmp_path / "cache")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO], ids=errno.errorcode.get)
async def test_after_the_proof_the_client_has_its_answer(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, quota: Quota, number: int
) -> None:
    fill(upstream, 1, 300_000)
    host = await serve(upstream, min_free=Amount(0, None))
    quota.sync_number = number
    for _ in range(2):
        for kind in ("info", "mod", "zip"):
            got = await host.get(name(0, kind))
            assert (got.status, got.body) == (200, upstream.files[name(0, kind)])
        await idle(host)
        assert (await host.admin("/readyz")).text.startswith("degraded")
        assert_tidy(host, tmp_path / "cache")
        assert under(tmp_path / "cache") == 0
    quota.sync_number = 0
    for kind in ("info", "mod", "zip"):
        assert (await host.get(name(0, kind))).body == upstream.files[name(0, kind)]
    await idle(host)
    assert (await host.admin("/readyz")).text == "ready\n"
    assert_tidy(host, tmp_path / "cache")


async def test_many_at_once_on_a_disk_that_comes_and_goes(
    serve: Serve, upstream: FakeUpstream, tmp_path: Path, quota: Quota
) -> None:
    fill(upstream, 24, 200_000)
    host = await serve(upstream, min_free=Amount(0, None), max_size=Amount(3 * MIB, None))
    chance = random.Random(5)
    ended = False

    async def weather() -> None:
        while not ended:
            quota.failed = 0
            quota.number = chance.choice((0, 0, errno.ENOSPC, errno.EIO))
            quota.sync_number = chance.choice((0, 0, 0, errno.ENOSPC))
            for _ in range(chance.randrange(50)):
                await asyncio.sleep(0)

    storm = asyncio.create_task(weather())
    answers = await asyncio.gather(*(host.get(name(i % 24)) for i in range(96)))
    ended = True
    await storm
    quota.number = quota.sync_number = 0
    for i, got in enumerate(answers):
        if got.status == 200:
            assert got.body == upstream.files[name(i % 24)]
        else:
            assert_503(got)
    await idle(host)
    assert_tidy(host, tmp_path / "cache")
    for i in range(24):
        assert (await host.get(name(i))).body == upstream.files[name(i)]
    await idle(host)
    assert_tidy(host, tmp_path / "cache")
    assert (await host.admin("/readyz")).text == "ready\n"


async def test_min_free_is_held(serve: Serve, upstream: FakeUpstream) -> None:
    """A file system on which others write too: what is free shrinks by more than what is stored here."""
    fill(upstream, 6, MIB)
    others = 0
    lowest = 1 << 60

    def free(directory: Path) -> int:
        nonlocal lowest
        left = 15 * MIB - under(directory) - others
        lowest = min(lowest, left)
        return left

    host = await serve(upstream, min_free=Amount(10 * MIB, None), store={"free": free})
    store, cache = host.store, host.settings.cache_dir
    for i in range(6):
        got = await host.get(name(i))
        assert (got.status, got.body) == (200, upstream.files[name(i)])
        await idle(host)
    assert store.usage.entries["zip"] < 6
    assert lowest >= 10 * MIB
    others = 3 * MIB
    await store.parts.janitor.once()
    assert free(cache) >= 10 * MIB
    assert store.usage.entries["zip"] > 0
    others = 6 * MIB
    got = await host.get(name(0))
    assert_503(got)
    assert "min_free" in got.text
    assert (await host.admin("/readyz")).text.startswith("degraded")
    others = 0
    assert (await host.get(name(0))).status == 200
    await idle(host)
    assert (await host.admin("/readyz")).text == "ready\n"
    assert_tidy(host, cache)


async def test_min_free_holds_for_many_at_once(serve: Serve, upstream: FakeUpstream) -> None:
    """Each fits alone."""
    fill(upstream, 6, 2 * MIB)
    lowest = 1 << 60

    def free(directory: Path) -> int:
        nonlocal lowest
        left = 15 * MIB - under(directory)
        lowest = min(lowest, left)
        return left

    host = await serve(upstream, min_free=Amount(10 * MIB, None), store={"free": free})
    cache = host.settings.cache_dir
    answers = await asyncio.gather(*(host.get(name(i)) for i in range(6)))
    await idle(host)
    free(cache)
    assert lowest >= 10 * MIB - 12 * 4096, "small files are not asked"
    assert {got.status for got in answers} <= {200, 503}
    assert 200 in {got.status for got in answers}
    assert_tidy(host, cache)


# A real one


def mount_refused() -> str:
    """Why a tmpfs cannot be mounted in a namespace of its own here; empty where it can."""
    script = "mount -t tmpfs -o size=1m none /tmp"
    try:
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60
        )
    except OSError as error:
        return str(error)
    return done.stderr.strip() if done.returncode else ""


@pytest.fixture(scope="module")
def mountable() -> None:
    if why := mount_refused():
        pytest.skip(f"no tmpfs can be mounted here: {why}")


@pytest.mark.parametrize("budget", [64 * MIB, 6 * MIB])
@pytest.mark.usefixtures("mountable")
def test_on_a_small_tmpfs(tmp_path: Path, budget: int) -> None:
    """The scenario below, in a mount namespace that ends with its process."""
    script = 'mount -t tmpfs -o size="$1" none "$2" && shift 2 && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", script, "sh", str(TMPFS), str(tmp_path)),
            *(sys.executable, "-W", "error", "-m", __name__, str(tmp_path), str(budget)),
        ],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "full" in done.stdout


async def scenario(directory: Path, budget: int) -> None:
    """Downloads of three times a small file system, whatever the budget says of it."""
    import aiohttp

    from goproxy_vm.config import Settings
    from goproxy_vm.server import Server
    from tests.integration.conftest import LOOPBACK, Host

    cache = directory / "cache"
    async with FakeUpstream() as upstream, aiohttp.ClientSession() as session:
        fill(upstream, 40, 600_000)
        fill_one(upstream, 99, 12 * MIB)
        settings = Settings(
            listen=(LOOPBACK,),
            admin_listen=LOOPBACK,
            cache_dir=cache,
            upstream=upstream.url,
            sumdb=None,
            max_size=Amount(budget, None),
            min_free=Amount(0, None),
        )
        server = Server(settings)
        await server.start()
        host = Host(server, session)
        try:
            answers = await asyncio.gather(*(host.get(name(i)) for i in range(40)))
            counts = {200: 0, 503: 0}
            for i, got in enumerate(answers):
                counts[got.status] += 1
                if got.status == 200:
                    assert got.body == upstream.files[name(i)]
                else:
                    assert_503(got)
            await idle(host)
            assert_tidy(host, cache)
            for i in range(40):  # one by one each finds room
                got = await host.get(name(i))
                assert (got.status, got.body) == (200, upstream.files[name(i)]), got.text
            await idle(host)
            assert_tidy(host, cache)
            assert (await host.admin("/readyz")).text == "ready\n"
            assert_503(await host.get(name(99)))
            ballast = directory / "ballast"
            with ballast.open("wb", buffering=0) as file:
                try:
                    while file.write(bytes(65536)):
                        pass
                except OSError as error:
                    print(error.strerror)
            stored = [i for i in range(40) if await _is_stored(host, i)]
            if stored:
                got = await host.get(name(stored[0]))
                assert got.body == upstream.files[name(stored[0])], "hits are served from a full disk"
            ballast.unlink()
            got = await host.get(name(1))
            assert (got.status, got.body) == (200, upstream.files[name(1)]), got.text
            await idle(host)
            assert_tidy(host, cache)
            assert (await host.admin("/readyz")).text == "ready\n"
            print("full", counts, upstream.count("*.zip"))
        finally:
            await server.stop()


async def _is_stored(host: Host, i: int) -> bool:
    stored = await host.server.store.get(artifact(name(i)[1:]))
    if stored is not None:
        stored.close()
    return stored is not None


def fill_one(upstream: FakeUpstream, i: int, size: int) -> None:
    module = f"example.com/f{i}"
    files = {"go.mod": f"module {module}\n".encode(), "d": random.Random(i).randbytes(size)}
    upstream.add_module(module, V, zipped=build_zip(module, V, files, stored=True))


if __name__ == "__main__":
    asyncio.run(scenario(Path(sys.argv[1]), int(sys.argv[2])))
