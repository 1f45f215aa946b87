"""The worker process: paired answers, contained bombs, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm.errors import ContentError, Unavailable
from goproxy_vm.prover import ZipProver, pool, worker
from tests.fakes.modules import build_zip, raw_zip

M, V = "example.com/m", "v1.0.0"

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what another process does")


class Workers:
    """Starts processes as asyncio does, and knows them; ``instead``: the program that is run."""

    def __init__(self, instead: str = sys.executable) -> None:
        self.all: list[asyncio.subprocess.Process] = []
        self.instead = instead

    async def __call__(self, _: str, *args: str, **how: Any) -> asyncio.subprocess.Process:
        self.all.append(await asyncio.create_subprocess_exec(self.instead, *args, **how))
        return self.all[-1]

    @property
    def newest(self) -> asyncio.subprocess.Process:
        return self.all[-1]


@pytest.fixture
def workers() -> Workers:
    """Those of the prover that the test has by a fixture."""
    return Workers()


@pytest.fixture
async def prover(workers: Workers) -> AsyncIterator[ZipProver]:
    made = ZipProver(inline_limit=2000, begin=workers)
    yield made
    await made.close()


def small(path: Path, name: str = "small") -> Path:
    file = path / name
    file.write_bytes(build_zip(M, V, {"a": name.encode()}))
    return file


def large(path: Path, name: str = "large", size: int = 200_000) -> Path:
    file = path / name
    file.write_bytes(build_zip(M, V, {"a": name.encode() * size}, stored=True))
    return file


async def test_small_and_large_zips_agree(prover: ZipProver, tmp_path: Path) -> None:
    file = large(tmp_path)
    report = await prover.prove(file, M, V)
    inline = ZipProver(inline_limit=1 << 30)
    assert await inline.prove(file, M, V) == report
    await inline.close()
    assert (await prover.prove(small(tmp_path), M, V)).files == 1


async def test_worker_is_niced_and_ends_with_the_prover(
    prover: ZipProver, workers: Workers, tmp_path: Path
) -> None:
    await prover.start()
    pid = workers.newest.pid
    await prover.prove(large(tmp_path), M, V)
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    await prover.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("make", [small, large])
async def test_bad_zip(prover: ZipProver, tmp_path: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(ContentError, match="prefix"):
        await prover.prove(make(tmp_path), "example.com/other", V)


async def test_answers_stay_paired_when_waiters_leave(prover: ZipProver, tmp_path: Path) -> None:
    files = [large(tmp_path, f"large-{i}") for i in range(4)]
    expected = [await prover.prove(file, M, V) for file in files]
    waiters = [asyncio.create_task(prover.prove(file, M, V)) for file in files]
    await asyncio.sleep(0)
    waiters[0].cancel()
    waiters[2].cancel()
    done = await asyncio.gather(*waiters, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in done] == [True, False, True, False]
    assert [done[1], done[3]] == [expected[1], expected[3]]
    assert len({report.h1 for report in expected}) == 4


async def test_killed_worker_is_restarted_and_the_job_done(
    prover: ZipProver, workers: Workers, tmp_path: Path
) -> None:
    await prover.start()
    pid = workers.newest.pid
    os.kill(pid, signal.SIGKILL)
    assert (await prover.prove(large(tmp_path), M, V)).files == 1
    assert workers.newest.pid != pid


@pytest.fixture
async def worker_only(workers: Workers) -> AsyncIterator[ZipProver]:
    made = ZipProver(inline_limit=-1, begin=workers)
    yield made
    await made.close()


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A zip of a hole of 200 MB: it takes no room, and long enough to be met in the middle."""
    path = tmp_path / "slow"
    name, size = f"{M}@{V}/hole".encode(), 200_000_000
    with path.open("wb") as file:
        file.write(struct.pack("<4s22xHH", b"PK\x03\x04", len(name), 0) + name)
        start = file.seek(size, os.SEEK_CUR)
        sizes = struct.pack("<LLH", size, size, len(name))  # no checksum: Go does not miss it
        file.write(struct.pack("<4s16x", b"PK\x01\x02") + sizes + bytes(16) + name)
        file.write(struct.pack("<4s4xHHLLH", b"PK\x05\x06", 1, 1, 46 + len(name), start, 0))
    return path


async def under_way(workers: Workers, path: Path) -> asyncio.subprocess.Process:
    """The worker, once it has the file open."""
    while True:
        for each in workers.all[-1:]:
            with contextlib.suppress(OSError):  # it has just ended, or closed one of them
                if path in [fd.readlink() for fd in Path(f"/proc/{each.pid}/fd").iterdir()]:
                    return each
        await asyncio.sleep(0.001)


@linux
async def test_job_during_which_the_worker_dies_is_done_again(
    worker_only: ZipProver, workers: Workers, slow: Path
) -> None:
    job = asyncio.create_task(worker_only.prove(slow, M, V))
    first = await under_way(workers, slow)
    first.kill()
    assert (await job).uncompressed == 200_000_000
    assert workers.newest.pid != first.pid


@linux
async def test_job_during_which_the_worker_dies_twice_is_refused(
    worker_only: ZipProver, workers: Workers, slow: Path
) -> None:
    job = asyncio.create_task(worker_only.prove(slow, M, V))
    for _ in range(2):
        worker = await under_way(workers, slow)
        worker.kill()
        await worker.wait()
    with pytest.raises(ContentError, match="died twice"):
        await job


@linux
async def test_worker_that_died_between_jobs_is_no_failure_of_the_next(
    worker_only: ZipProver, workers: Workers, slow: Path
) -> None:
    await worker_only.start()
    idle = workers.newest
    idle.kill()
    await idle.wait()
    job = asyncio.create_task(worker_only.prove(slow, M, V))
    (await under_way(workers, slow)).kill()
    assert (await job).files == 1


@linux
async def test_waiter_that_leaves_in_the_middle_takes_no_answer_with_it(
    worker_only: ZipProver, workers: Workers, slow: Path, tmp_path: Path
) -> None:
    gone = asyncio.create_task(worker_only.prove(slow, M, V))
    worker = await under_way(workers, slow)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert (await worker_only.prove(large(tmp_path), M, V)).uncompressed == 1_000_000
    assert workers.newest.pid == worker.pid


@linux
async def test_large_zips_are_answered_in_order(
    worker_only: ZipProver, workers: Workers, slow: Path, tmp_path: Path
) -> None:
    done: list[int] = []

    async def prove(i: int, path: Path) -> None:
        await worker_only.prove(path, M, V)
        done.append(i)

    jobs = [asyncio.create_task(prove(0, slow))]
    await under_way(workers, slow)
    files = [(i, large(tmp_path, f"large-{i}", size=9000 // i)) for i in range(1, 5)]
    jobs += [asyncio.create_task(prove(*each)) for each in files]
    await asyncio.gather(*jobs)
    assert done == [0, 1, 2, 3, 4]


@linux
async def test_interrupt_at_the_terminal_is_not_for_the_worker(
    worker_only: ZipProver, workers: Workers, slow: Path
) -> None:
    job = asyncio.create_task(worker_only.prove(slow, M, V))
    worker = await under_way(workers, slow)
    worker.send_signal(signal.SIGINT)
    assert (await job).files == 1
    assert workers.newest.pid == worker.pid


async def test_job_that_kills_the_worker_twice_is_refused(
    tmp_path: Path,
) -> None:
    prover = ZipProver(inline_limit=-1, begin=Workers("/bin/false"))
    try:
        with pytest.raises(ContentError, match="died twice"):
            await prover.prove(large(tmp_path), M, V)
    finally:
        await prover.close()


async def test_sentence_about_a_long_name_does_not_shift_the_answers(
    worker_only: ZipProver, workers: Workers, tmp_path: Path
) -> None:
    """It was over asyncio's bound for a line, and each later zip then got the h1 of the one before."""
    evil = tmp_path / "evil"
    evil.write_bytes(raw_zip({f"{M}@{V}/" + "\x01" * 60_000: b""}))
    files = [large(tmp_path, f"large-{i}") for i in range(3)]
    expected = [await worker_only.prove(file, M, V) for file in files]
    pid = workers.newest.pid
    with pytest.raises(ContentError, match="invalid char") as caught:
        await worker_only.prove(evil, M, V)
    assert len(caught.value.sentence) < 600
    assert [await worker_only.prove(file, M, V) for file in files] == expected
    assert workers.newest.pid == pid


@pytest.mark.parametrize(
    "says",
    [
        '{"path": "/elsewhere", "h1": "h1:x", "files": 1, "uncompressed": 1}',
        "{}",
        "nonsense",
        "x" * 100_000,
        "",
    ],
    ids=["another job's", "no path", "no JSON", "no end", "nothing"],
)
async def test_answer_to_something_else_is_not_taken(tmp_path: Path, says: str) -> None:
    (tmp_path / "says").write_text(says + "\n")
    impostor = tmp_path / "impostor"
    impostor.write_text(f"#!/bin/sh\nread line\ncat {tmp_path}/says\nread line\n")
    impostor.chmod(0o755)
    prover = ZipProver(inline_limit=-1, begin=Workers(str(impostor)))
    try:
        with pytest.raises(ContentError, match="died twice"):
            await prover.prove(large(tmp_path), M, V)
    finally:
        await prover.close()


async def test_worker_that_cannot_be_started_is_this_hosts_trouble(tmp_path: Path) -> None:
    workers = Workers("/nonexistent")
    prover = ZipProver(inline_limit=2000, begin=workers)
    await prover.start()  # small zips can be served all the same
    with pytest.raises(Unavailable, match="cannot start"):
        await prover.prove(large(tmp_path), M, V)
    assert (await prover.prove(small(tmp_path), M, V)).files == 1
    workers.instead = sys.executable
    assert (await prover.prove(large(tmp_path), M, V)).files == 1
    await prover.close()


SERVER = """
import asyncio
from goproxy_vm.prover import ZipProver

async def main():
    async def begin(*args, **how):
        worker = await asyncio.create_subprocess_exec(*args, **how)
        print(worker.pid, flush=True)
        return worker

    prover = ZipProver(begin=begin)
    await prover.start()
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only Linux lets one wait for a process of others")
def test_worker_ends_when_the_server_is_killed() -> None:
    root = Path(__file__).parent.parent.parent
    server = subprocess.Popen([sys.executable, "-c", SERVER], cwd=root, stdout=subprocess.PIPE, text=True)
    with server:
        assert server.stdout is not None
        worker = os.pidfd_open(int(server.stdout.readline()))
        server.kill()
    try:
        assert select.select([worker], [], [], 30)[0] == [worker]
    finally:
        os.close(worker)


async def test_bomb_of_entries_is_contained(tmp_path: Path) -> None:
    """20 MB of directory, each record of which costs ten times its size once it is read."""
    name = f"{M}@{V}/".encode()
    record = struct.pack("<4s24xH16x", b"PK\x01\x02", len(name)) + name
    count = 300_000
    bomb = tmp_path / "bomb"
    end = struct.pack("<4s4xHHLLH", b"PK\x05\x06", count % 65536, count % 65536, count * len(record), 0, 0)
    bomb.write_bytes(record * count + end)
    prover = ZipProver(inline_limit=0, memory_limit=60 << 20)
    try:
        with pytest.raises(ContentError, match="more memory"):
            await prover.prove(bomb, M, V)
        assert (await prover.prove(large(tmp_path), M, V)).files == 1
    finally:
        await prover.close()


async def test_bomb_of_content_is_refused_unread(worker_only: ZipProver, tmp_path: Path) -> None:
    data = bytearray(build_zip(M, V, {f"{i}": b"x" for i in range(3)}))
    at = -1
    while (at := data.find(b"PK\x01\x02", at + 1)) >= 0:
        data[at + 24 : at + 28] = (200_000_000).to_bytes(4, "little")
    bomb = tmp_path / "bomb"
    bomb.write_bytes(data)
    with pytest.raises(ContentError, match="add up to more"):
        await worker_only.prove(bomb, M, V)


async def test_close_cancels_what_is_under_way(prover: ZipProver, workers: Workers, tmp_path: Path) -> None:
    job = asyncio.create_task(prover.prove(large(tmp_path, size=5_000_000), M, V))
    while not workers.all:
        await asyncio.sleep(0.001)
    await prover.close()
    with pytest.raises(asyncio.CancelledError):
        await job


@linux
async def test_close_in_the_middle_of_a_job_ends_the_worker_at_once(
    worker_only: ZipProver, workers: Workers, slow: Path
) -> None:
    job = asyncio.create_task(worker_only.prove(slow, M, V))
    worker = await under_way(workers, slow)
    await worker_only.close()
    assert worker.returncode == -signal.SIGKILL
    with pytest.raises(asyncio.CancelledError):
        await job


def costly(path: Path, name: str = "costly") -> Path:
    """A small zip that takes long: 40 MB of zeros in 40 kB."""
    file = path / name
    file.write_bytes(build_zip(M, V, {name: bytes(40 << 20)}))
    return file


async def test_a_small_zip_that_costs_much_is_the_workers(tmp_path: Path) -> None:
    workers = Workers()
    prover = ZipProver(begin=workers)
    try:
        for file in (costly(tmp_path), many_files(tmp_path)):
            assert file.stat().st_size < 1 << 20
            assert (await prover.prove(file, M, V)).files > 0
            assert len(workers.all) == 1
    finally:
        await prover.close()


def many_files(path: Path) -> Path:
    file = path / "many"
    file.write_bytes(build_zip(M, V, {f"f{i}": b"" for i in range(3000)}))
    return file


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seconds without a word are silence."""
    monkeypatch.setattr(pool, "SILENCE", 3.0)


@linux
async def test_a_worker_that_hangs_is_replaced(
    worker_only: ZipProver, workers: Workers, slow: Path, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    job = asyncio.create_task(worker_only.prove(slow, M, V))
    first = await under_way(workers, slow)
    first.send_signal(signal.SIGSTOP)
    assert (await job).uncompressed == 200_000_000
    assert first.returncode == -signal.SIGKILL
    assert workers.newest.pid != first.pid
    assert "worker hung" in caplog.text


@linux
async def test_a_worker_that_hangs_twice_is_this_hosts_trouble(
    worker_only: ZipProver, workers: Workers, slow: Path, tmp_path: Path, impatient: None
) -> None:
    job = asyncio.create_task(worker_only.prove(slow, M, V))
    other = asyncio.create_task(worker_only.prove(large(tmp_path), M, V))
    for _ in range(2):
        hanging = await under_way(workers, slow)
        hanging.send_signal(signal.SIGSTOP)
        await hanging.wait()
    with pytest.raises(Unavailable, match="hangs"):
        await job
    assert (await other).files == 1  # others are served


async def test_a_worker_that_says_that_it_works_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it takes."""
    monkeypatch.setattr(pool, "SILENCE", 1.0)
    file = large(tmp_path)
    slowly = tmp_path / "slowly"
    report = json.dumps({"path": str(file), "h1": "h1:x", "files": 1, "uncompressed": 1})
    work = "for i in 1 2 3 4 5 6; do sleep 0.3; echo +; done"
    slowly.write_text(f"#!/bin/sh\nread line\n{work}\necho '{report}'\nread line\n")
    slowly.chmod(0o755)
    prover = ZipProver(inline_limit=-1, begin=Workers(str(slowly)))
    try:
        assert (await prover.prove(file, M, V)).h1 == "h1:x"
    finally:
        await prover.close()


async def test_a_worker_that_is_stopped_does_not_keep_the_server_from_its_end(
    worker_only: ZipProver, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PARTING", 0.1)
    await worker_only.start()
    stopped = workers.newest
    stopped.send_signal(signal.SIGSTOP)
    await worker_only.close()
    assert stopped.returncode == -signal.SIGKILL


def test_a_zip_that_takes_too_long_is_refused(slow: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the time of the processor that it takes, so that a busy host is no reason."""
    read, write = os.pipe()
    monkeypatch.setattr(worker, "LEAST_SECONDS", -100.0)
    monkeypatch.setattr(worker, "BEAT", 0.01)
    with os.fdopen(write, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        said = worker.answer({"path": str(slow), "module": M, "version": V})
    with os.fdopen(read, "rb") as heard:
        assert heard.read() == pool.ALIVE
    assert "more time" in str(said["error"])


async def test_clients_take_turns(worker_only: ZipProver, tmp_path: Path) -> None:
    """One with many zips costs another the time of two of them at most."""
    files = [large(tmp_path, f"large-{i}") for i in range(8)]
    done: list[str] = []

    async def prove(client: str, file: Path) -> None:
        await worker_only.prove(file, M, V, client)
        done.append(client)

    clients = ["greedy"] * 6 + ["modest", "other"]
    await asyncio.gather(*(prove(*each) for each in zip(clients, files, strict=True)))
    assert done[2:4] == ["modest", "other"]
    assert done[4:] == ["greedy"] * 4


async def test_small_zips_take_turns(tmp_path: Path) -> None:
    prover = ZipProver()
    done: list[str] = []

    async def prove(client: str, file: Path) -> None:
        await prover.prove(file, M, V, client)
        done.append(client)

    clients = ["greedy"] * 6 + ["modest"]
    try:
        await asyncio.gather(*(prove(client, small(tmp_path, f"{i}")) for i, client in enumerate(clients)))
    finally:
        await prover.close()
    assert done.index("modest") <= 2


async def test_who_leaves_the_queue_is_passed_over(worker_only: ZipProver, tmp_path: Path) -> None:
    files = [large(tmp_path, f"large-{i}") for i in range(5)]
    jobs = [asyncio.create_task(worker_only.prove(file, M, V, "one")) for file in files]
    while len(worker_only._jobs) < 5:
        await asyncio.sleep(0)
    for job in jobs[1:4]:
        job.cancel()
    await asyncio.gather(*jobs[1:4], return_exceptions=True)
    await asyncio.sleep(0)
    assert len(worker_only._jobs) == 2  # what has not begun is not done in vain
    assert [(await job).files for job in (jobs[0], jobs[4])] == [1, 1]


@linux
async def test_a_verdict_that_nobody_waits_for_is_no_complaint(
    worker_only: ZipProver, workers: Workers, slow: Path, tmp_path: Path
) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await worker_only.start()
    worker = workers.newest
    worker.send_signal(signal.SIGSTOP)  # its answer, a refusal, would come at once
    job = asyncio.create_task(worker_only.prove(slow, "example.com/another", V))
    assert worker.stdin is not None
    pipe = worker.stdin.get_extra_info("pipe")
    while not int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder):
        await asyncio.sleep(0)  # until the job waits for it
    job.cancel()
    await asyncio.gather(job, return_exceptions=True)
    del job
    worker.send_signal(signal.SIGCONT)
    assert (await worker_only.prove(large(tmp_path), M, V)).files == 1
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("limit", [-1, 1 << 30])
async def test_file_that_cannot_be_read_back(tmp_path: Path, limit: int) -> None:
    prover = ZipProver(inline_limit=limit)
    try:
        for path in (tmp_path, tmp_path / "absent"):
            with pytest.raises(Unavailable, match="read the zip back"):
                await prover.prove(path, M, V)
    finally:
        await prover.close()
