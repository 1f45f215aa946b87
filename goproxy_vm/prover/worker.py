"""The worker process: one JSON line in, one JSON line out, until its input ends.

It is niced, so that hits go first, and its memory is limited: it also contains zip bombs. When the server
dies, even by SIGKILL, its input ends and so does it.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from goproxy_vm.errors import ContentError
from goproxy_vm.hostos import limit_memory, lower_priority
from goproxy_vm.protocol.modzip import check_zip


def answer(job: dict[str, str]) -> dict[str, object]:
    """The answer to one job ``{path, module, version}``: ``{h1, files, uncompressed}``, ``{error}`` of the
    zip, or ``{unreadable}``, which is this host's.
    """
    try:
        with Path(job["path"]).open("rb") as file:
            report = check_zip(file, job["module"], job["version"])
    except ContentError as error:
        return {"error": error.sentence}
    except MemoryError:
        return {"error": "zip: it takes more memory to check than this server allows"}
    except OSError as error:
        return {"unreadable": error.strerror}
    return asdict(report)


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
