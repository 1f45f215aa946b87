"""Plans of tarballs, each made in a process of its own: all of the zip is inflated for one, which in a thread
would take the interpreter from the loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from goproxy_vm.errors import Unavailable
from goproxy_vm.observe.logs import get_logger
from goproxy_vm.protocol.tarball import Tarball
from goproxy_vm.prover.turns import TurnClaim, Turns

CPU_SECONDS = 60.0
"""Seconds of the processor's time that a plan may take; a good one takes two."""
DEADLINE = 1200.0
"""Seconds that it may take in all: at the lowest priority a busy host leaves it little of its processors."""

log = get_logger("prover")

_PACKAGE_ROOT = Path(__file__).parent.parent.parent


class Repacker:
    """Plans one tarball at a time; clients take turns. ``memory_limit``: bytes of address space that the
    process may have; ``cpu_limit``: seconds of the processor's time; ``deadline``: seconds in all."""

    def __init__(
        self, *, memory_limit: int = 1 << 30, cpu_limit: float = CPU_SECONDS, deadline: float = DEADLINE
    ) -> None:
        self._memory_limit = memory_limit
        self._cpu_limit = cpu_limit
        self._deadline = deadline
        self._turns = Turns()

    def claim(self, client: str) -> TurnClaim:
        """To the turn of one plan, on behalf of ``client``."""
        return self._turns.claim(client)

    async def plan(self, zipped: int | bytes, module: str, version: str, claim: TurnClaim) -> Tarball:
        """The plan of a proven zip's tarball: the zip is an open descriptor, whose position does not matter
        nor move, or bytes. Unavailable, and a line of the log: it cannot be planned on this host."""
        async with claim.hold():
            try:
                async with asyncio.timeout(self._deadline):
                    said = await self._said(zipped, module, version)
            except TimeoutError:
                said = f"it took more than {self._deadline:g} s".encode()
            except OSError as error:
                said = f"the process that does it cannot be started: {error.strerror}".encode()
        sentence, _, plan = said.partition(b"\n")
        if sentence or not plan:
            reason = sentence.decode("utf-8", "replace") or "the process that does it died"
            log.warning("toolchain not repacked", version=version, reason=reason)
            raise Unavailable(f"this host cannot make a tar.gz of the zip: {reason}")
        return Tarball.from_bytes(plan)

    async def _said(self, zipped: int | bytes, module: str, version: str) -> bytes:
        """All that the process says."""
        given = None if isinstance(zipped, int) else zipped
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "goproxy_vm.prover.packer", str(self._memory_limit), str(self._cpu_limit)),
            *(module, version),
            stdin=zipped if isinstance(zipped, int) else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=_PACKAGE_ROOT,
        )
        try:
            said, _ = await process.communicate(given)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return said if process.returncode == 0 else b""
