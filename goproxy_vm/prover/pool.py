"""Where a zip is checked: in a thread if that is cheap, in the worker process if it is not.

Measured (docs/decisions/0001-one-process-proves-and-serves.md): a thread that inflates and hashes takes the
interpreter from the loop and multiplies the p99 of hits; a niced process does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from goproxy_vm.errors import ContentError, Unavailable
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.archive import Expensive
from goproxy_vm.protocol.modzip import Work, ZipReport, check_zip
from goproxy_vm.prover.turns import Turns

INLINE = Work(directory=128 << 10, content=8 << 20)
"""What a check in the thread may cost: tens of milliseconds at most. Some thousand files, and eight times the
archive: hardly any module that is small has more."""
ALIVE = b"+\n"
"""The line by which the worker says that it works."""
BEAT = 1.0
"""Seconds between two of them."""
SILENCE = 20.0
"""Seconds without one after which it counts as hanging; many, for it works at the lowest priority."""
PARTING = 2.0
"""Seconds that the worker has to end by itself."""

log = get_logger("prover")

_PACKAGE_ROOT = Path(__file__).parent.parent.parent


class ZipProver:
    """Checks zips, never on the event loop.

    ``inline_limit``: bytes up to which a zip is checked in a thread, unless it is costly all the same;
    ``memory_limit``: bytes of address space that the worker process may have; ``begin`` starts that process,
    as asyncio does.
    """

    def __init__(
        self,
        *,
        inline_limit: int = 1 << 20,
        memory_limit: int = 1 << 30,
        begin: Callable[..., Awaitable[asyncio.subprocess.Process]] = asyncio.create_subprocess_exec,
    ) -> None:
        self._inline_limit = inline_limit
        self._memory_limit = memory_limit
        self._begin = begin
        self._thread = ThreadPoolExecutor(1, "zip-prover")
        self._worker: asyncio.subprocess.Process | None = None
        self._inline, self._turn = Turns(), Turns()
        self._jobs: dict[asyncio.Task[ZipReport], bool] = {}
        """Those for the worker, and whether it has them."""

    async def start(self) -> None:
        """Start the worker process now, if it can be: the first large zip then need not wait for it."""
        async with self._turn.take(""):
            with contextlib.suppress(Unavailable):
                await self._running()

    async def close(self) -> None:
        """End the worker process; jobs under way are cancelled."""
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        async with self._turn.take(""):
            await self._end(kill=False)
        self._thread.shutdown(cancel_futures=True)

    async def prove(self, path: Path, module: str, version: str, client: str = "") -> ZipReport:
        """Check the zip at ``path``, on behalf of a client (its address): they take turns.

        ContentError: it is bad, costs more time or memory than any good one, or killed the worker twice.
        Unavailable: this host cannot read it back, or has no worker that works. A caller that is cancelled
        stops nothing but its own wait, and what has not begun.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(Expensive):
            async with self._inline.take(client):
                return await loop.run_in_executor(
                    self._thread, _check, path, module, version, self._inline_limit
                )
        # Shielded: a waiter that leaves must not break the pairing of jobs and answers.
        job = asyncio.create_task(
            self._prove_large({"path": str(path), "module": module, "version": version}, client)
        )
        self._jobs[job] = False
        job.add_done_callback(self._done)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            if not self._jobs.get(job, True):
                job.cancel()
            raise

    def _done(self, job: asyncio.Task[ZipReport]) -> None:
        del self._jobs[job]
        if not job.cancelled():
            job.exception()  # now it counts as seen, though nobody may be waiting any more

    async def _prove_large(self, job: dict[str, str], client: str) -> ZipReport:
        async with self._turn.take(client):
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 (made by prove)
            self._jobs[task] = True
            hung = 0
            for _ in range(2):
                try:
                    answer = await self._ask(job)
                except TimeoutError:
                    hung += 1
                    continue
                if answer is not None:
                    return _report(answer)
        if hung:
            raise Unavailable("the process that checks zips hangs on this host")
        raise ContentError("zip: the process that checks it died twice; it may be a zip bomb")

    async def _ask(self, job: dict[str, str]) -> dict[str, Any] | None:
        """The worker's answer, or None if it died over the job; TimeoutError if it fell silent.

        Whatever else it says, it is ended: one answer too many or too few would give every later zip the h1
        of another.
        """
        worker = await self._running()
        assert worker.stdin is not None  # noqa: S101 (it was started with pipes)
        assert worker.stdout is not None  # noqa: S101
        try:
            worker.stdin.write(json.dumps(job).encode() + b"\n")
            line = ALIVE
            while line == ALIVE:
                async with asyncio.timeout(SILENCE):
                    await worker.stdin.drain()
                    line = await worker.stdout.readline()
            answer = json.loads(line)
            if answer["path"] == job["path"]:
                return dict(answer)
        except TimeoutError:
            await self._end()
            log.warning("worker hung", seconds=SILENCE)
            raise
        except (OSError, ValueError, LookupError, TypeError):
            pass  # a broken pipe; no line, half a line, too long a line; a line of something else
        except asyncio.CancelledError:
            await self._end()  # its answer would be taken for the next job's
            raise
        await self._end()
        log.warning("worker died", status=worker.returncode)
        return None

    async def _running(self) -> asyncio.subprocess.Process:
        if self._worker is not None and self._worker.returncode is not None:
            await self._end()  # it died between two jobs: that is not held against the next one
        if self._worker is None:
            try:
                self._worker = await self._begin(
                    sys.executable,
                    "-m",
                    "goproxy_vm.prover.worker",
                    str(self._memory_limit),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    cwd=_PACKAGE_ROOT,  # so that the package is found, wherever the server was started
                )
            except OSError as error:
                log.warning("worker cannot be started", reason=error.strerror)
                raise Unavailable(
                    f"this host cannot start the process that checks zips: {error.strerror}"
                ) from error
        return self._worker

    async def _end(self, *, kill: bool = True) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        assert worker.stdin is not None  # noqa: S101 (it was started with pipes)
        worker.stdin.close()  # at the end of its input it ends
        if not kill:
            try:
                async with asyncio.timeout(PARTING):
                    await worker.communicate()
            except TimeoutError:
                log.info("worker hung", seconds=PARTING)  # it has no job: a stop on a busy host is no trouble
        if worker.returncode is None:
            worker.kill()
        await worker.communicate()


def _check(path: Path, module: str, version: str, limit: int) -> ZipReport:
    """In the thread. Expensive: it is over ``limit`` bytes, or costs too much."""
    try:
        if path.stat().st_size > limit:
            raise Expensive
        with path.open("rb") as file:
            return check_zip(file, module, version, most=INLINE)
    except OSError as error:
        raise _unreadable(error.strerror) from error


def _report(answer: dict[str, Any]) -> ZipReport:
    if "error" in answer:
        raise ContentError(answer["error"])
    if "unreadable" in answer:
        raise _unreadable(answer["unreadable"])
    return ZipReport(answer["h1"], answer["files"], answer["uncompressed"])


def _unreadable(reason: str | None) -> Unavailable:
    return Unavailable(f"this host cannot read the zip back: {reason}")
