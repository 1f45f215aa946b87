"""One tree of errors: each knows its HTTP status and the one sentence that the ``go`` command prints.

::

    GoproxyError
    ├── RequestError              the client asked for something it cannot have
    │   ├── MalformedPath  404    no valid module path, version or route (PROTOCOL §1)
    │   ├── MalformedSumdb 400    a malformed checksum-database lookup or tile (cases 86, 91)
    │   ├── MalformedReport 400   a VM's report has what no report has
    │   ├── Absent         404    definite absence, and nothing else (case 3)
    │   ├── Refused        403    an upstream's refusal (case 5a)
    │   └── Denied         403    this server's own policy (case 79)
    │       ├── Barred     403    a rule of its gate
    │       └── NoRecord   403    the checksum database knows no such version (case 60a)
    ├── UpstreamError      502    an upstream failed: connection, status, framing
    │   ├── UpstreamTimeout 504   it stalled or took too long
    │   ├── Looped         508    it leads back to a server that waits for it
    │   ├── Unproven       502    the checksum database cannot be asked (case 60)
    │   │   └── Unconfirmed       it cannot, and who carries it has no record (case 60a)
    │   └── ContentError   502    its bytes failed a check; never stored
    │       ├── ChecksumMismatch  the checksum database records another h1 (cases 57, 58)
    │       ├── InconsistentTile  tiles do not hash to the signed tree (PROTOCOL §4)
    │       └── ForkError         the database signed two logs: security error (case 96)
    ├── UnderWay           202    it is being fetched; for clients that would rather ask again
    ├── Unavailable        503    this host cannot open, read or start what it needs; carries Retry-After
    │   └── NoRoom         503    its disk or budget has no room
    ├── Overloaded         503    no miss slot came free in time; carries Retry-After
    └── OperatorError             what a command cannot do, one line on stderr
        ├── ConfigError  exit 2   a bad key, value, flag or argument
        ├── StartError   exit 1   port in use, directory unwritable, second server
        ├── NoServer     exit 3   no server answers there
        └── NotDone      exit 1   the running server refused
            ├── NotFound exit 4   it has no such thing
            └── NotPassing   5    its gate refuses what was asked about
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class GoproxyError(Exception):
    """Base of all errors this package raises on purpose.

    ``sentence`` is one line of plain text for people; ``status`` the HTTP status it becomes;
    ``result`` the value of the ``result`` label in ``goproxy_vm_requests_total``;
    ``retry_after`` seconds to send as Retry-After, or None.
    """

    status: int = 500
    result: str = "error"
    retry_after: int | None = None

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence)
        self.sentence = sentence


class RequestError(GoproxyError):
    """The client asked for something it cannot have."""

    status = 404
    result = "refused"


class MalformedPath(RequestError):
    """Not a valid route, module path or version: 404, never an upstream request (PROTOCOL §1)."""


class MalformedSumdb(RequestError):
    """A malformed lookup or tile under a known database name: 400 (PROTOCOL cases 86, 91)."""

    status = 400


class MalformedReport(RequestError):
    """A VM's report that has what no report has, or lacks what each has: 400."""

    status = 400


class Absent(RequestError):
    """Definite absence: every source that could know says 404 or 410.

    ``remembered``: that is what they said when they could be asked last, here or on a server before us.
    ``doubtful``: one of them could not be asked just now, and may have it.
    ``reserved``: it is about a module that not everyone may have, and nothing for caches on the way.
    ``upstreams``: the status that an upstream said it with.
    """

    result = "negative"
    remembered = False
    doubtful = False
    reserved = False
    upstreams = 404

    def as_said(self) -> Absent:
        """The same, to be answered with the upstream's own status."""
        self.status = self.upstreams
        return self


class Refused(RequestError):
    """An upstream answered 401, 403 or 451: neither absence nor trouble (PROTOCOL §2, case 5a)."""

    status = 403


class Denied(RequestError):
    """This server's own policy says no (PROTOCOL case 79)."""

    status = 403


class Barred(Denied):
    """A rule of the gate says no: ``rule`` is block, deny, allow or age."""

    def __init__(self, sentence: str, rule: str) -> None:
        super().__init__(sentence)
        self.rule = rule


class NoRecord(Denied):
    """Every source says that the checksum database has no record of the version (PROTOCOL case 60a)."""


class UpstreamError(GoproxyError):
    """An upstream failed to answer: connection, TLS, status or framing."""

    status = 502


class UpstreamTimeout(UpstreamError):
    """An upstream sent no byte for ``stall_timeout``, or the file's deadline passed."""

    status = 504


class Looped(UpstreamError):
    """The request came through this server before (CDN-Loop, RFC 8586): an upstream leads back to it."""

    status = 508


class ContentError(UpstreamError):
    """Bytes from an upstream failed a check. They are never stored and never served."""


class ChecksumMismatch(ContentError):
    """A file's h1 is not the one in its verified record (PROTOCOL cases 57, 58).

    ``recorded`` is the database's h1, ``got`` the downloaded file's.
    """

    def __init__(self, sentence: str, *, recorded: str, got: str) -> None:
        super().__init__(sentence)
        self.recorded = recorded
        self.got = got


class InconsistentTile(ContentError):
    """Tiles that do not hash to a signed root, or to the tile above them (PROTOCOL §4, rule 2).

    ``paths`` names every tile that may be the wrong one, as in ``tile/8/0/001.p/44``.
    """

    def __init__(self, sentence: str, paths: tuple[str, ...]) -> None:
        super().__init__(sentence)
        self.paths = paths


class ForkError(ContentError):
    """Two heads signed by the database that cannot be of one log (PROTOCOL §4, rule 3; case 96).

    ``older`` and ``newer`` are both signed notes, by tree size; ``report`` is the evidence as text,
    laid out as the ``go`` command's own security error.
    """

    def __init__(self, sentence: str, *, older: bytes, newer: bytes, report: str) -> None:
        super().__init__(sentence)
        self.older = older
        self.newer = newer
        self.report = report


class Unproven(UpstreamError):
    """The checksum database could not be asked, or its answer could not be proven (PROTOCOL case 60)."""


class Unconfirmed(Unproven):
    """A carrier says that the database has no record; another source cannot be asked (PROTOCOL case 60a)."""


class UnderWay(GoproxyError):
    """It is still being fetched, and the client wants to be told so rather than to wait (RFC 7240)."""

    status = 202
    result = "pending"
    retry_after = 0


class Unavailable(GoproxyError):
    """This host cannot open, read or start what it needs now."""

    status = 503
    retry_after = 30


class NoRoom(Unavailable):
    """This host has no room for the file, by budget or by disk."""


class Overloaded(GoproxyError):
    """No slot for a miss came free in time."""

    status = 503
    retry_after = 5


class OperatorError(GoproxyError):
    """A command cannot do what it was asked; ``exit_status`` is its exit status."""

    exit_status: int = 1


class ConfigError(OperatorError):
    """A bad key or value: the sentence names the key, the value as typed and what is allowed."""

    exit_status = 2


class StartError(OperatorError):
    """A port in use, an unwritable directory, a second server on the same directory."""


class NotDone(OperatorError):
    """The running server refused what a command asked of it.

    The sentence is the server's; ``answer`` is its whole problem (RFC 9457).
    """

    def __init__(self, sentence: str, answer: Mapping[str, object]) -> None:
        super().__init__(sentence)
        self.answer = answer


class NoServer(OperatorError):
    """Nothing answers at the admin URL, or something that is no goproxy_vm."""

    exit_status = 3


class NotFound(NotDone):
    """The running server has no such version, pin, pass or snapshot, or nothing that a purge would match."""

    exit_status = 4


class NotPassing(NotDone):
    """The running server's gate refuses what was asked about."""

    exit_status = 5
