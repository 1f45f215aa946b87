"""The store as a whole: what was put comes back, whatever happens to the disk, the process or the index."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import files, memory
from goproxy_vm.cache.hashes import Hashes
from goproxy_vm.cache.recency import begin_clock
from goproxy_vm.cache.reports.figures import Statistics
from goproxy_vm.cache.rows import Known
from goproxy_vm.cache.store import Store
from goproxy_vm.errors import ContentError, MalformedPath, StartError, Unavailable
from goproxy_vm.protocol.artifact import Artifact, Kind
from tests.fakes.lines import logged
from tests.fakes.stores import Time, artifact
from tests.integration.stores import drained, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from goproxy_vm.cache.files import StoredFile

M, V = "example.com/m", "v1.0.0"
MOD, ZIP, INFO = (f"{M}/@v/{V}.{kind}" for kind in ("mod", "zip", "info"))
STEPS = ("write", "sync", "rename", "sync-directory", "index", "done")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


async def put_mod(into: Store, data: bytes = b"module example.com/m\n", *, version: str = V) -> bytes:
    stored = await into.put(artifact(f"{M}/@v/{version}.mod"), data, h1="h1:mod")
    assert stored.data == data
    return data


async def adopt_zip(into: Store, data: bytes = b"zip bytes", *, h1: str = "h1:zip") -> StoredFile:
    download = into.download()
    try:
        await download.begin(len(data))
        await download.write(data)
        return await into.adopt(artifact(ZIP), download, h1=h1)
    finally:
        await download.discard()


async def content(of: Store, path: str) -> bytes | None:
    stored = await of.get(artifact(path))
    if stored is None:
        return None
    with stored:
        return stored.pread(0, stored.length + 1)


async def recovered(of: Store) -> None:
    async def refuse(_: str) -> bool:
        return False

    of.recover(refuse)
    while not of.recovery.done:
        await asyncio.sleep(0)


def sql(root: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(root / "index.db")) as database, database:
        return database.execute(statement).fetchall()


def on_disk(root: Path) -> dict[str, int]:
    modules = root / "modules"
    return {
        str(path.relative_to(modules)): path.stat().st_blocks * 512
        for path in modules.rglob("*")
        if path.is_file()
    }


# Ordinary life


async def test_put_and_adopt_come_back_before_and_after_the_commit(root: Path) -> None:
    async with opened(root) as s:
        assert await s.get(artifact(MOD)) is None
        mod = await put_mod(s)
        pending = await s.get(artifact(MOD))
        assert pending is not None
        assert pending.data == mod
        answer = await adopt_zip(s)
        with answer:
            assert answer.pread(0, 100) == b"zip bytes"
            assert answer.etag == f'"{hashlib.sha256(b"zip bytes").hexdigest()[:32]}"'
        assert await content(s, ZIP) == b"zip bytes"
        await drained(s)
        stored = await s.get(artifact(MOD))
        assert stored is not None
        with stored:
            assert stored.fd is not None
            assert stored.etag == pending.etag
        assert await content(s, MOD) == mod
        assert await content(s, ZIP) == b"zip bytes"
        assert s.admission.reserved == 0
    assert not list((root / "tmp").iterdir())
    async with opened(root) as s:
        assert await content(s, MOD) == mod
        assert await content(s, ZIP) == b"zip bytes"
        assert await s.known(M, V) == Known("h1:mod", "h1:zip")
        statistics = await s.figures.statistics()
    assert (statistics.versions, statistics.files) == (1, 2)
    assert statistics.bytes == sum(on_disk(root).values())


async def test_close_drains_the_queue(root: Path) -> None:
    async with opened(root) as s:
        for i in range(100):
            await put_mod(s, b"%d" % i, version=f"v1.0.{i}")
    async with opened(root) as s:
        for i in range(100):
            assert await content(s, f"{M}/@v/v1.0.{i}.mod") == b"%d" % i
    await s.close()


async def test_the_tree_is_a_file_proxy(root: Path) -> None:
    async with opened(root) as s:
        await s.put(artifact(INFO), b'{"Version":"v1.0.0"}', h1=None)
        await put_mod(s)
        (await adopt_zip(s)).close()
    directory = root / "modules" / M / "@v"
    assert sorted(path.name for path in directory.iterdir()) == ["v1.0.0.info", "v1.0.0.mod", "v1.0.0.zip"]
    assert (directory / "v1.0.0.info").read_bytes() == b'{"Version":"v1.0.0"}'


async def test_versions_with(root: Path) -> None:
    async with opened(root) as s:
        await s.put(artifact(INFO), b"{}", h1=None)
        await put_mod(s)
        await put_mod(s, version="v1.1.0")
        assert await s.versions_with(M, Kind.MOD, Kind.ZIP) == []
        await drained(s)
        (await adopt_zip(s)).close()
        assert await s.versions_with(M, Kind.MOD, Kind.ZIP) == [V], "the queue counts"
        await drained(s)
        assert await s.versions_with(M, Kind.MOD, Kind.ZIP) == [V]
        assert await s.versions_with("example.com/other", Kind.MOD, Kind.ZIP) == []


async def test_readers_and_writers_at_once(root: Path) -> None:
    async with opened(root) as s:

        async def write(i: int) -> None:
            await put_mod(s, b"module %d" % i, version=f"v1.0.{i}")

        async def read(i: int) -> None:
            path, seen = f"{M}/@v/v1.0.{i}.mod", 0
            while seen < 20:
                got = await content(s, path)
                assert got in {None, b"module %d" % i} if seen == 0 else got == b"module %d" % i
                seen += got is not None

        await asyncio.gather(*(work(i) for i in range(60) for work in (read, write)))
        await drained(s)
        assert (await s.figures.statistics()).files == 60


async def test_a_file_handed_out_outlives_the_store(root: Path) -> None:
    async with opened(root) as s:
        await put_mod(s)
        await drained(s)
        stored = await s.get(artifact(MOD))
    assert stored is not None
    (root / "modules" / MOD).unlink()
    with stored:
        assert stored.pread(0, 6) == b"module"


async def test_paths_stay_inside(root: Path) -> None:
    async with opened(root) as s:
        with pytest.raises(MalformedPath):
            await s.put(artifact("../../etc/@v/v1.0.0.mod"), b"x", h1="h1:x")
        assert await s.get(Artifact("m", "v1.0.0", Kind.MOD, "../../etc/passwd")) is None


def remembered(store: Store) -> list[int]:
    """The patches of which the index need not be asked."""
    return [patch for patch in range(6) if store.remembers(f"{M}/@v/v1.0.{patch}.mod")]


async def test_memory_of_entries_is_bounded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ENTRIES", 3)
    async with opened(root) as s:
        for i in range(6):
            await put_mod(s, version=f"v1.0.{i}")
        await drained(s)
        assert remembered(s) == [3, 4, 5]
        assert await content(s, f"{M}/@v/v1.0.3.mod") is not None
        assert await content(s, f"{M}/@v/v1.0.0.mod") is not None
        assert remembered(s) == [0, 3, 5]


async def test_versions_are_counted_once_a_second(root: Path) -> None:
    clock = Time()
    async with opened(root, begin=partial(begin_clock, monotonic=clock)) as s:
        clock.stop()
        assert await s.figures.statistics() == Statistics(versions=0, files=0, bytes=0)
        await put_mod(s)
        await drained(s)
        size = sum(on_disk(root).values())
        assert await s.figures.statistics() == Statistics(versions=0, files=1, bytes=size), (
            "counting reads all"
        )
        clock.offset += 1
        assert await s.figures.statistics() == Statistics(versions=1, files=1, bytes=size)


# Hits and their recency


async def test_hits_are_on_record_after_close(root: Path) -> None:
    async with opened(root) as s:
        await put_mod(s)
        await content(s, MOD)
        await drained(s)
        await content(s, MOD)
        await content(s, MOD)
        assert sql(root, "SELECT hits FROM files") == [(0,)], "a hit writes nothing"
    assert sql(root, "SELECT hits, last_used >= fetched FROM files") == [(3, 1)]


async def test_hits_are_flushed_regularly(root: Path) -> None:
    async with opened(root, recency_flush=0.001) as s:
        await put_mod(s)
        await drained(s)
        await content(s, MOD)
        async with asyncio.timeout(30):
            while sql(root, "SELECT hits FROM files") != [(1,)]:
                await asyncio.sleep(0)


# The hash seen first


async def test_a_later_difference_is_refused(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(root) as s:
        hashes = Hashes(s.core)
        assert await hashes.remember(artifact(f"{M}/@v/{V}.zip"), "h1:first") == "h1:first"
        assert await hashes.remember(artifact(f"{M}/@v/{V}.zip"), "h1:later") == "h1:first"
        with pytest.raises(ContentError):
            await adopt_zip(s, h1="h1:later")
        assert await s.get(artifact(ZIP)) is None
        assert s.admission.reserved == 0
        (await adopt_zip(s, h1="h1:first")).close()
        await put_mod(s)
        with pytest.raises(ContentError):
            await s.put(artifact(MOD), b"x", h1="h1:later")
        assert await s.known(M, V) == Known("h1:mod", "h1:first")
    assert (
        f"content changed {{'module': '{M}', 'version': '{V}', 'kind': 'zip', 'known': 'h1:first'"
        in logged(caplog)
    )
    assert not list((root / "tmp").iterdir())


# What the disk may do


async def test_a_file_without_a_row_is_not_served(root: Path) -> None:
    async with opened(root) as s:
        file = root / "modules" / MOD
        file.parent.mkdir(parents=True)
        file.write_bytes(b"planted")
        assert await s.get(artifact(MOD)) is None
        data = await put_mod(s)
    assert file.read_bytes() == data


@pytest.mark.parametrize("damage", ["cut", "longer", "gone", "directory", "symlink"])
@pytest.mark.parametrize("reopened", [False, True])
async def test_a_file_that_is_not_the_one_on_record_is_dropped(
    root: Path, damage: str, caplog: pytest.LogCaptureFixture, *, reopened: bool
) -> None:
    file = root / "modules" / MOD

    def do() -> None:
        data = file.read_bytes()
        file.unlink()
        if damage == "cut":
            file.write_bytes(data[:-1])
        elif damage == "longer":
            file.write_bytes(data + b"x")
        elif damage == "directory":
            file.mkdir()
        elif damage == "symlink":
            file.symlink_to("elsewhere")

    async with opened(root) as s:
        data = await put_mod(s)
        await drained(s)
        if not reopened:
            do()
            assert await s.get(artifact(MOD)) is None
    if reopened:
        do()
    async with opened(root) as s:
        assert await s.get(artifact(MOD)) is None
        assert (await s.figures.statistics()).files == 0
        assert not file.is_file()
        if damage != "directory":
            await put_mod(s)
            await drained(s)
            assert await content(s, MOD) == data
    assert "dropped" in logged(caplog)


async def test_a_drop_spares_what_was_stored_meanwhile(root: Path) -> None:
    async with opened(root) as s:
        await put_mod(s, b"first")
        await drained(s)
        file = root / "modules" / MOD
        file.write_bytes(b"damaged!")
        async with s.core.queue.disk:
            reading = asyncio.create_task(content(s, MOD))
            while not s.core.queue.disk._waiters:
                await asyncio.sleep(0)
            await put_mod(s, b"second")
        assert await reading == b"second"
        await drained(s)
        assert await content(s, MOD) == b"second"


async def test_out_of_descriptors_is_no_absence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    async with opened(root) as s:
        data = await put_mod(s)
        await drained(s)
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "open", exhausted)
            patch.setattr("goproxy_vm.cache.reading.open_beneath", exhausted)
            with pytest.raises(Unavailable):
                await s.get(artifact(MOD))
        with monkeypatch.context() as patch:
            patch.setattr("goproxy_vm.cache.store.open_stored", exhausted)
            with pytest.raises(Unavailable):
                await adopt_zip(s)
        assert await content(s, MOD) == data
        assert s.admission.reserved == 0


async def test_a_full_disk_after_the_proof(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    full = True

    def checkpoint(step: str, path: str) -> None:
        if full and step == "sync":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with opened(root, checkpoint=checkpoint) as s:
        await put_mod(s)
        with await adopt_zip(s) as answer:
            await drained(s)
            assert answer.pread(0, 100) == b"zip bytes", "the client has its answer"
        assert not s.writable
        assert await s.get(artifact(ZIP)) is None
        assert s.admission.reserved == 0
        assert not list((root / "tmp").iterdir())
        full = False
        await put_mod(s)
        await drained(s)
        assert s.writable
    assert "No space left on device" in logged(caplog)


async def test_an_index_that_breaks_while_running(root: Path) -> None:
    async with opened(root) as s:
        await put_mod(s)
        await drained(s)
        s.core.memory.forget_all()
        sql(root, "DROP TABLE files")
        assert await s.get(artifact(MOD)) is None
        assert not s.writable
        assert (await s.figures.statistics()).versions == 0
        sql(root, "DROP TABLE known")
        with pytest.raises(Unavailable):
            await s.known(M, V)
        with pytest.raises(Unavailable):
            await adopt_zip(s)
        assert s.admission.reserved == 0
    assert not list((root / "tmp").iterdir())


async def test_an_index_that_cannot_be_written_only_forgets(root: Path) -> None:
    async with opened(root) as s:
        trigger = "CREATE TRIGGER full BEFORE INSERT ON known BEGIN SELECT raise(ABORT, 'full'); END"
        sql(root, trigger)
        assert await Hashes(s.core).remember(artifact(f"{M}/@v/{V}.mod"), "h1:x") == "h1:x"
        assert await s.known(M, V) == Known(None, None)
        assert not s.writable


# Opening


async def test_a_second_server_is_refused(root: Path) -> None:
    async with opened(root):
        script = """
            import asyncio, sys
            from pathlib import Path
            from goproxy_vm.cache.store import Store
            from goproxy_vm.errors import StartError
            try:
                asyncio.run(Store.open(Path(sys.argv[1]), lock_wait=0.1))
            except StartError as error:
                sys.exit(error.sentence)
        """
        done = await asyncio.to_thread(run, script, str(root))
    assert done.returncode == 1
    assert done.stderr == f"cache directory {root}: in use by process {os.getpid()}\n"


@pytest.mark.parametrize("broken", ["file", "newer", "directory", "index directory", "answers", "tmp"])
async def test_what_cannot_be_opened_is_one_line_and_leaves_nothing(root: Path, broken: str) -> None:
    if broken == "file":
        root.write_bytes(b"")
    else:
        async with opened(root):
            pass
    if broken == "newer":
        sql(root, "PRAGMA user_version = 7")
    elif broken == "directory":
        (root / "lock").unlink()
        (root / "lock").mkdir()
    elif broken == "index directory":
        (root / "index.db").unlink()
        (root / "index.db").mkdir()
    elif broken in {"answers", "tmp"}:
        for path in (root / broken).iterdir():
            path.unlink()
        (root / broken).rmdir()
        (root / broken).touch()
    with pytest.raises(StartError) as caught:
        await Store.open(root, lock_wait=0)
    assert "\n" not in caught.value.sentence
    assert str(root) in caught.value.sentence
    assert caught.value.exit_status == 1


async def test_leftovers_go_at_the_start(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(root):
        pass
    (root / "tmp" / "half").write_bytes(b"half")
    caplog.set_level("INFO")
    async with opened(root) as s:
        await recovered(s)
        assert not list((root / "tmp").iterdir())
        assert s.recovery.temporary == 1
    assert "recovered {'temporary': 1" in logged(caplog)


async def cannot_tell(_: str) -> None:
    """Nobody is there to prove a file."""


async def test_a_broken_index_is_begun_anew(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with opened(root) as s:
        await put_mod(s)
    (root / "index.db").write_bytes(b"no database\n" * 1000)
    async with opened(root) as s:
        assert await s.get(artifact(MOD)) is None
        s.recover(cannot_tell)
        data = await put_mod(s)
        await drained(s)
        assert await content(s, MOD) == data
    assert "index moved aside" in logged(caplog)


async def test_a_planted_pickle_is_not_run(root: Path, tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    class Payload:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (proof,)

    async with opened(root) as s:
        await s.answers.set("k", b"x", keep=None)
    with closing(sqlite3.connect(root / "answers" / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET mode = 4, value = ?", (pickle.dumps(Payload()),))
    async with opened(root) as s:
        assert await s.answers.get("k") is None
    assert not proof.exists()


# Killed

KILLED = """
    import asyncio, os, signal, sys
    from pathlib import Path
    from goproxy_vm.cache.store import Store
    from goproxy_vm.protocol.artifact import Artifact, Kind

    root, kill_at, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    M, V = "example.com/m", "v1.0.0"

    def checkpoint(step, path):
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    async def main():
        store = await Store.open(root, checkpoint=checkpoint)
        data = kind.encode() * (20_000 if kind == "mod" else 500_000)
        if kind == "mod":
            await store.put(Artifact.of(M, V, Kind.MOD), data, h1="h1:mod")
        else:
            download = store.download()
            await download.begin(len(data))
            for i in range(0, len(data), 65536):
                await download.write(data[i : i + 65536])
            if kill_at == "download":
                os.kill(os.getpid(), signal.SIGKILL)
            (await store.adopt(Artifact.of(M, V, Kind.ZIP), download, h1="h1:zip")).close()
        await store.close()

    asyncio.run(main())
"""


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *args], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("kind", "step"),
    [("mod", step) for step in STEPS] + [("zip", step) for step in ("download", *STEPS[1:])],
)
async def test_killed_at(root: Path, kind: str, step: str) -> None:
    async with opened(root) as s:
        kept = await put_mod(s, version="v0.9.0")
    done = await asyncio.to_thread(run, KILLED, str(root), step, kind)
    assert done.returncode == -signal.SIGKILL, done.stderr
    data = kind.encode() * (20_000 if kind == "mod" else 500_000)  # a larger one goes the way of a zip
    path = f"{M}/@v/{V}.{kind}"
    async with opened(root) as s:
        assert await content(s, f"{M}/@v/v0.9.0.mod") == kept
        assert await content(s, path) == (data if step == "done" else None)
        await recovered(s)
        assert not list((root / "tmp").iterdir())
        assert await content(s, f"{M}/@v/v0.9.0.mod") == kept
        assert await content(s, path) == (data if step == "done" else None)
        files_on_disk = on_disk(root)
        assert (path in files_on_disk) == (step == "done"), "what could not be proven is gone"
        rows = {f"{M}/@v/v0.9.0.mod"} | ({path} if step == "done" else set())
        statistics = await s.figures.statistics()
        assert statistics.files == len(rows)
        assert statistics.bytes == sum(files_on_disk[row] for row in rows)
        if kind == "mod":
            await s.put(artifact(path), data, h1="h1:mod")
        else:
            (await adopt_zip(s, data)).close()
        await drained(s)
        assert await content(s, path) == data
        assert (await s.figures.statistics()).bytes == sum(on_disk(root).values())


LIMITED = """
    import asyncio, os, resource, sys
    from pathlib import Path
    from goproxy_vm.cache.store import Store
    from goproxy_vm.protocol.artifact import Artifact, Kind
    from goproxy_vm.errors import Unavailable

    async def main():
        store = await Store.open(Path(sys.argv[1]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, resource.RLIM_INFINITY))
        download = store.download()
        await download.begin(8 << 20)
        try:
            for _ in range(8):
                await download.write(b"x" * (1 << 20))
        except Unavailable as error:
            print(error.sentence, store.writable)
        finally:
            await download.discard()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(store.admission.reserved, os.listdir(sys.argv[1] + "/tmp"))
        await store.close()

    asyncio.run(main())
"""


async def test_a_write_that_the_kernel_refuses(root: Path) -> None:
    done = await asyncio.to_thread(run, LIMITED, str(root))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["this host cannot store the file: File too large False", "0 []"]
