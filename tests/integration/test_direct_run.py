"""One run: nothing of it is left, however it ends, and nothing of anybody else's is touched."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from goproxy_vm.upstream.direct.run import OUTPUT_MOST, Job, Said, adopt_orphans, run
from goproxy_vm.waiting import to_the_end

STUBBORN = "trap '' TERM; "


class Ended(Exception):
    """What a watch says."""


def job(script: str, tmp_path: Path) -> Job:
    """A shell script below the launcher, whose processes can be told by their environment."""
    jail = {
        "argv": ["/bin/sh", "-c", script],
        "cwd": str(tmp_path),
        "read": [],
        "write": [],
        "port": 0,
        "limits": {},
        "landlock": False,
    }
    return Job(jail, {"PATH": "/usr/bin:/bin", "RUN": str(tmp_path)})


def left(tmp_path: Path) -> list[str]:
    """Processes of the run that there are still, zombies too, for they have no environment any more."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, parent, _ = (process / "stat").read_text().rpartition(") ")[2].split()[:3]
            if f"RUN={tmp_path}".encode() in (process / "environ").read_bytes() or (
                state == "Z" and int(parent) == os.getpid()
            ):
                found.append(process.name)
    return found


async def there(file: Path) -> None:
    """Wait until a run has made a file."""
    async with asyncio.timeout(30):
        while not file.exists():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _subreaper() -> None:
    adopt_orphans()


def nothing() -> None:
    """Watches, and minds nothing."""


async def test_what_it_says(tmp_path: Path) -> None:
    said = await run(job("echo out; echo err >&2; exit 3", tmp_path), nothing)
    assert said == Said(b"out\n", b"err\n", 3, False)
    assert left(tmp_path) == []


async def test_it_has_no_environment_but_its_own(tmp_path: Path) -> None:
    said = await run(job("env | sort", tmp_path), nothing)
    names = {line.partition(b"=")[0] for line in said.out.splitlines()}
    assert names - {b"_", b"SHLVL", b"PWD", b"OLDPWD", b"LC_CTYPE"} == {b"PATH", b"RUN"}


async def test_output_is_bounded(tmp_path: Path) -> None:
    said = await run(job(f"head -c {OUTPUT_MOST * 3} /dev/zero; echo end >&2", tmp_path), nothing)
    assert len(said.out) == OUTPUT_MOST
    assert said.err == b"end\n"


@pytest.mark.parametrize("traps", ["", STUBBORN])
async def test_who_stays_behind_is_ended(tmp_path: Path, traps: str) -> None:
    """As git does when go is gone."""
    script = f"({traps}sleep 60; true) & ({traps}sleep 60) >/dev/null 2>&1 & echo done"
    said = await run(job(script, tmp_path), nothing)
    assert (said.out, said.killed) == (b"done\n", True)
    assert left(tmp_path) == []


@pytest.mark.parametrize("traps", ["", STUBBORN])
async def test_a_watch_ends_it(tmp_path: Path, traps: str) -> None:
    started = tmp_path / "started"

    def watch() -> None:
        if started.exists():
            raise Ended

    with pytest.raises(Ended):
        await run(job(f"{traps}touch started; sleep 60 & sleep 60; true", tmp_path), watch)
    assert left(tmp_path) == []


async def test_it_is_asked_to_end_before_it_is_killed(tmp_path: Path) -> None:
    """For git then takes its locks along."""
    started = tmp_path / "started"

    def watch() -> None:
        if started.exists():
            raise Ended

    script = "trap 'rm started; exit' TERM; touch started; while :; do sleep 0.01; done"
    with pytest.raises(Ended):
        await run(job(script, tmp_path), watch)
    assert not started.exists()


async def cancelled(tmp_path: Path, script: str, when: Callable[[], bool]) -> None:
    task = asyncio.create_task(run(job(script, tmp_path), nothing))
    while not when():
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # whoever is impatient cancels twice
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left(tmp_path) == []


async def test_who_waits_is_cancelled(tmp_path: Path) -> None:
    started = tmp_path / "started"
    await cancelled(tmp_path, "touch started; sleep 60 & sleep 60", started.exists)


@pytest.mark.parametrize("turns", range(12))
async def test_who_waits_is_cancelled_while_it_starts(tmp_path: Path, turns: int) -> None:
    left_over = iter(range(turns))
    await cancelled(tmp_path, "sleep 60 & sleep 60", lambda: next(left_over, None) is None)


async def test_a_leader_that_is_killed(tmp_path: Path) -> None:
    task = asyncio.create_task(
        run(job("sleep 60 & echo $$ > pid; mv pid leader; sleep 60", tmp_path), nothing)
    )
    await there(tmp_path / "leader")
    os.kill(int((tmp_path / "leader").read_text()), signal.SIGKILL)
    said = await task
    assert said.status == -signal.SIGKILL
    assert said.killed
    assert left(tmp_path) == []


async def test_other_children_are_left_alone(tmp_path: Path) -> None:
    """Whoever has started them learns how they ended: such as the process that checks zips."""
    other = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", "read x; exit 7", stdin=asyncio.subprocess.PIPE
    )
    assert other.stdin is not None
    runs = [run(job("(sleep 60) & exit 1", tmp_path), nothing) for _ in range(3)]
    await asyncio.gather(*runs)
    other.stdin.close()
    assert await other.wait() == 7


async def test_what_cannot_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(OSError, match="No such file"):
        await run(job("true", tmp_path), nothing)


async def test_uninterrupted_work_comes_to_its_end() -> None:
    steps: list[str] = []
    go_on = asyncio.Event()

    async def work() -> str:
        await go_on.wait()
        steps.append("done")
        return "result"

    waits = asyncio.create_task(to_the_end(work()))
    await asyncio.sleep(0)
    for _ in range(3):
        waits.cancel()
        await asyncio.sleep(0)
    assert not waits.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert steps == ["done"]
    assert await to_the_end(work()) == "result"

    async def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 (it is the one that was raised)
        await to_the_end(fails())
