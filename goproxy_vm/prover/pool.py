"""Where a zip is checked: in a thread if it is small, in the worker process if it is not.

Measured (docs/decisions/0001-one-process-proves-and-serves.md): a thread that inflates and hashes takes the
interpreter from the loop and multiplies the p99 of hits; a niced process does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from goproxy_vm.errors import ContentError, NoRoom
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.modzip import ZipReport, check_zip

log = get_logger("prover")

_PACKAGE_ROOT = Path(__file__).parent.parent.parent


class ZipProver:
    """Checks zips, never on the event loop.

    ``inline_limit``: bytes up to which a zip is checked in a thread; ``memory_limit``: bytes of address
    space that the worker process may have.
    """

    def __init__(self, *, inline_limit: int = 1 << 20, memory_limit: int = 1 << 30) -> None:
        self._inline_limit = inline_limit
        self._memory_limit = memory_limit
        self._thread = ThreadPoolExecutor(1, "zip-prover")
        self._worker: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._jobs: set[asyncio.Task[ZipReport]] = set()

    async def start(self) -> None:
        """Start the worker process now, if it can be: the first large zip then need not wait for it."""
        async with self._turn:
            with contextlib.suppress(NoRoom):
                await self._running()

    async def close(self) -> None:
        """End the worker process; jobs under way are cancelled."""
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        async with self._turn:
            await self._end(kill=False)
        self._thread.shutdown()

    async def prove(self, path: Path, module: str, version: str) -> ZipReport:
        """Check the zip at ``path``. ContentError: it is bad, or checking it killed the worker twice.

        NoRoom: this host cannot read it back, or cannot start the worker. Large zips are checked one at a
        time, in the order of the calls. A caller that is cancelled stops nothing but its own wait.
        """
        loop = asyncio.get_running_loop()
        if await loop.run_in_executor(self._thread, _size, path) <= self._inline_limit:
            return await loop.run_in_executor(self._thread, _check, path, module, version)
        # Shielded: a waiter that leaves must not break the pairing of jobs and answers.
        job = asyncio.create_task(
            self._prove_large({"path": str(path), "module": module, "version": version})
        )
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return await asyncio.shield(job)

    async def _prove_large(self, job: dict[str, str]) -> ZipReport:
        async with self._turn:
            for _ in range(2):
                answer = await self._ask(job)
                if answer is not None:
                    return _report(answer)
        raise ContentError("zip: the process that checks it died twice; it may be a zip bomb")

    async def _ask(self, job: dict[str, str]) -> dict[str, Any] | None:
        """The worker's answer, or None if it died over the job.

        Whatever else it says, it is ended: one answer too many or too few would give every later zip the h1
        of another.
        """
        worker = await self._running()
        assert worker.stdin is not None  # noqa: S101 (it was started with pipes)
        assert worker.stdout is not None  # noqa: S101
        try:
            worker.stdin.write(json.dumps(job).encode() + b"\n")
            await worker.stdin.drain()
            answer = json.loads(await worker.stdout.readline())
            if answer["path"] == job["path"]:
                return dict(answer)
        except (OSError, ValueError, LookupError):
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
                self._worker = await asyncio.create_subprocess_exec(
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
                raise NoRoom(
                    f"this host cannot start the process that checks zips: {error.strerror}"
                ) from error
        return self._worker

    async def _end(self, *, kill: bool = True) -> None:
        worker, self._worker = self._worker, None
        if worker is None:
            return
        if kill and worker.returncode is None:
            worker.kill()
        assert worker.stdin is not None  # noqa: S101 (it was started with pipes)
        worker.stdin.close()  # at the end of its input it ends
        await worker.communicate()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(error.strerror) from error


def _check(path: Path, module: str, version: str) -> ZipReport:
    try:
        with path.open("rb") as file:
            return check_zip(file, module, version)
    except OSError as error:
        raise _unreadable(error.strerror) from error


def _report(answer: dict[str, Any]) -> ZipReport:
    if "error" in answer:
        raise ContentError(answer["error"])
    if "unreadable" in answer:
        raise _unreadable(answer["unreadable"])
    return ZipReport(answer["h1"], answer["files"], answer["uncompressed"])


def _unreadable(reason: str | None) -> NoRoom:
    return NoRoom(f"this host cannot read the zip back: {reason}")
