"""The worker process: one JSON line in, one JSON line out, until its input ends; while it works, a line that
says so each second.

It is niced, so that hits go first, and its memory is limited: it also contains zip bombs. When the server
dies, even by SIGKILL, its input ends and so does it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from goproxy_vm.errors import ContentError
from goproxy_vm.hostos import limit_memory, lower_priority
from goproxy_vm.protocol.modzip import check_zip
from goproxy_vm.prover.pool import ALIVE, BEAT

LEAST_SECONDS = 10.0
"""Seconds of the processor's time that any zip may take,"""
BYTES_A_SECOND = 8 << 20
"""and one more for so many of its bytes. A good one takes a twentieth of it or less."""


class _TooLong(Exception):
    """The job has used up its time."""


def answer(job: dict[str, str]) -> dict[str, object]:
    """The answer to one job ``{path, module, version}``: ``{h1, files, uncompressed}``, ``{error}`` of the
    zip, or ``{unreadable}``, which is this host's.
    """
    try:
        with Path(job["path"]).open("rb") as file, _beating(os.fstat(file.fileno()).st_size):
            report = check_zip(file, job["module"], job["version"])
    except ContentError as error:
        return {"error": error.sentence}
    except _TooLong:
        return {"error": "zip: it takes more time to check than any good one; it may be a zip bomb"}
    except MemoryError:
        return {"error": "zip: it takes more memory to check than this server allows"}
    except OSError as error:
        return {"unreadable": error.strerror}
    return asdict(report)


@contextmanager
def _beating(size: int) -> Iterator[None]:
    """Say each second that work goes on; _TooLong once it has gone on for too long for so many bytes."""
    until = time.process_time() + LEAST_SECONDS + size / BYTES_A_SECOND

    def beat(_: int, __: FrameType | None) -> None:
        os.write(sys.stdout.fileno(), ALIVE)
        if time.process_time() > until:
            raise _TooLong

    before = signal.signal(signal.SIGALRM, beat)
    signal.setitimer(signal.ITIMER_REAL, BEAT, BEAT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def main(memory_limit: int) -> None:
    """Serve jobs from standard input; each answer repeats the job's path.

    ^C in a terminal reaches every process: the server decides, not we. When it is gone, an answer is of no
    use to anybody, and no reason for a traceback.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    lower_priority()
    limit_memory(memory_limit)
    for line in sys.stdin:
        job = json.loads(line)
        sys.stdout.write(json.dumps({"path": job["path"], **answer(job)}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))
