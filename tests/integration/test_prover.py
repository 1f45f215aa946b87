"""The worker process: paired answers, contained bombs, restarts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from goproxy_vm.errors import ContentError, NoRoom
from goproxy_vm.prover import ZipProver
from tests.fakes.modules import build_zip

M, V = "example.com/m", "v1.0.0"


@pytest.fixture
async def prover() -> AsyncIterator[ZipProver]:
    made = ZipProver(inline_limit=2000)
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


def worker_pid(prover: ZipProver) -> int:
    assert prover._worker is not None
    return prover._worker.pid


async def test_small_and_large_zips_agree(prover: ZipProver, tmp_path: Path) -> None:
    file = large(tmp_path)
    report = await prover.prove(file, M, V)
    inline = ZipProver(inline_limit=1 << 30)
    assert await inline.prove(file, M, V) == report
    await inline.close()
    assert (await prover.prove(small(tmp_path), M, V)).files == 1


async def test_worker_is_niced_and_ends_with_the_prover(prover: ZipProver, tmp_path: Path) -> None:
    await prover.start()
    pid = worker_pid(prover)
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


async def test_killed_worker_is_restarted_and_the_job_done(prover: ZipProver, tmp_path: Path) -> None:
    await prover.start()
    pid = worker_pid(prover)
    os.kill(pid, signal.SIGKILL)
    assert (await prover.prove(large(tmp_path), M, V)).files == 1
    assert worker_pid(prover) != pid


async def test_job_that_kills_the_worker_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    prover = ZipProver(inline_limit=0)
    try:
        with pytest.raises(ContentError, match="died twice"):
            await prover.prove(large(tmp_path), M, V)
    finally:
        await prover.close()


async def test_bomb_of_entries_is_contained(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(build_zip(M, V, {f"{i}": b"" for i in range(60_000)}))
    prover = ZipProver(inline_limit=0, memory_limit=60 << 20)
    try:
        with pytest.raises(ContentError, match="more memory"):
            await prover.prove(bomb, M, V)
    finally:
        await prover.close()


async def test_close_cancels_what_is_under_way(prover: ZipProver, tmp_path: Path) -> None:
    job = asyncio.create_task(prover.prove(large(tmp_path, size=5_000_000), M, V))
    while not prover._jobs:
        await asyncio.sleep(0.001)
    await prover.close()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_file_that_cannot_be_read_back(prover: ZipProver, tmp_path: Path) -> None:
    for size in (100, 5000):
        unreadable = tmp_path / f"{size}"
        unreadable.mkdir()
        (unreadable / "x").write_bytes(bytes(size))
        with pytest.raises((NoRoom, OSError)):
            await prover.prove(unreadable, M, V)
