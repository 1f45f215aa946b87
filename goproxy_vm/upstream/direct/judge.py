"""What a run's failure means: first what our own sockets saw, then what go, git and ssh say.

The texts are those of go 1.21 to 1.27, git 2.39 and OpenSSH 9.2 with LC_ALL=C. A failure is absence (404)
only where a text says so for certain; whatever is not known is trouble (502). Of the text itself a client is
told a status or a version at most: it has URLs, paths and what servers say.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.config.text import MASKED
from goproxy_vm.errors import (
    Absent,
    ContentError,
    Denied,
    GoproxyError,
    NoRoom,
    Refused,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from goproxy_vm.upstream.failure import Failure

if TYPE_CHECKING:
    from goproxy_vm.upstream.direct.ticket import Trouble
    from goproxy_vm.upstream.failure import Outcome

SAID_MOST = 480
"""Characters of a text that are logged: less than the log keeps of a field."""
PRIVATE_HOSTS = " (setting private_hosts)"
"""Said of private modules that lead elsewhere."""
UNSEEN = " (or the proxy's credentials may not see it)"
"""Said of private modules: to whom it does not know, a server says that there is nothing."""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What a failure is, whatever module it is told of."""

    family: type[GoproxyError]
    phrase: str

    @property
    def outcome(self) -> Outcome:
        """The outcome that belongs to it."""
        return outcome_of(self.family)

    def failure(self, what: str) -> Failure:
        """The failure to bring ``what``, a module and perhaps its version."""
        return Failure(self.family(f"{what}: {self.phrase}"), self.outcome)


@dataclass(frozen=True, slots=True)
class _Row:
    pattern: re.Pattern[str]
    family: type[GoproxyError]
    phrase: str
    """In which {0} is the text's first group."""


def _row(pattern: str, family: type[GoproxyError], phrase: str) -> _Row:
    return _Row(re.compile(pattern), family, phrase)


_LEADS_ELSEWHERE = "it leads to a host that this proxy may not contact{settings}"
_SEEN: dict[Trouble, tuple[type[GoproxyError], str]] = {
    "denied": (Denied, _LEADS_ELSEWHERE),
    "dns": (UpstreamError, "the name of its host cannot be resolved"),
    "refused": (UpstreamError, "its host takes no connection"),
    "timeout": (UpstreamTimeout, "its host takes no connection in time"),
}
"""By what happened to a connection; what stands first counts first."""
_OUT_OF_MEMORY = r"[Oo]ut of memory"
_HIDDEN = "no secure protocol found for repository"
"""All that go says of a path with .git, whatever happened: each way that could be tried has failed."""
_TABLE = (
    _row(r"requires go >= (\d[\w.]*)", UpstreamError, "needs go {0} or newer on the proxy's host"),
    _row(
        r"unknown (?:vcs|version control system) \"(\w+)\"",
        Denied,
        "it is kept in {0}, and this proxy fetches from git alone",
    ),
    _row(r"GOVCS disallows using (\w+)", Denied, "it is kept in {0}, and this proxy fetches from git alone"),
    _row(
        r"transport '(\w+)' not allowed",
        Denied,
        "it is reached by {0}, and this proxy uses https and ssh alone",
    ),
    _row(
        r"CONNECT tunnel failed, response 403|\?go-get=1\": Forbidden",
        Denied,
        _LEADS_ELSEWHERE,
    ),
    _row(r"Host key verification failed", UpstreamError, "the host key of its server is not the known one"),
    _row(
        r"server certificate verification failed|certificate problem|failed to verify certificate"
        r"|certificate signed by unknown authority",
        UpstreamError,
        "the certificate of its server is not trusted",
    ),
    _row(
        r"could not read (?:Username|Password) for|Authentication failed for|Permission denied \(",
        Refused,
        "its server does not accept the proxy's credentials",
    ),
    # gitolite, of what it does not have as well.
    _row(r"FATAL: \S+ any \S+ \S+ DENIED by ", Refused, "its server refuses it{unseen}"),
    _row(r"(?:returned error: |go-get=1: )(401|403|451)\b", Refused, "its server answered {0}"),
    _row(r"(?:returned error: |go-get=1: )(429|5\d\d)\b", UpstreamError, "its server answered {0}"),
    _row(r"(?:returned error: |go-get=1: )(4(?!04|10)\d\d)\b", UpstreamError, "its server answered {0}"),
    _row(
        r"TLS handshake timeout|i/o timeout|[Tt]imed out|Operation too slow",
        UpstreamTimeout,
        "its server does not answer",
    ),
    _row(r"create zip: ", ContentError, "no valid module: its files cannot be put into a zip"),
    _row(
        r"go\.mod(?: file)? is missing module path|errors parsing go\.mod|too large",
        ContentError,
        "no valid module: its go.mod cannot be used, or it is too large",
    ),
    _row(
        _HIDDEN,
        Refused,
        "no such repository, or not with the proxy's credentials (setting private_repos names it)",
    ),
    _row(
        r"repository '[^'\n]*' not found|[Rr]epository not found|does not appear to be a git repository"
        r"|project you were looking for could not be found|Cannot find repository",
        Absent,
        "no such repository{unseen}",
    ),
    _row(
        r"unknown revision (?!refs/)|no matching versions for query|invalid pseudo-version: "
        r"|go\.mod has (?:post-v\d+|non-\S+) module path \"|missing \S*go\.mod",
        Absent,
        "no such version{unseen}",
    ),
    _row(
        r"go-get=1: 4(?:04|10)\b|no go-import meta tags|invalid github\.com import path",
        Absent,
        "no such module{unseen}",
    ),
    _row(
        r"[Oo]ut of memory",
        NoRoom,
        "it needs more memory than a process may have (setting direct_max_memory)",
    ),
)
_OUTCOMES: tuple[tuple[type[GoproxyError], Outcome], ...] = (
    (Absent, "not_found"),
    (Refused, "refused"),
    (Denied, "refused"),
    (UpstreamTimeout, "timeout"),
    (ContentError, "content"),
)
_OURS = re.compile(
    r"unknown revision refs/|not a git repository: '|'origin' does not appear|origin already exists"
    r"|\.lock': File exists|shallow file has changed|bad object|corrupt|too short to be"
    r"|transport 'file' not allowed|bad config|bad shallow|unexpected line in|invalid object \d"
    r"|cannot read '[0-9a-f]{40}"
)
_LOCALLY = re.compile(r"\bgit (?:-c \S+ )*(?!ls-remote|fetch|-c )[^\n]* in \S*/vcs/[0-9a-f]{64}: exit status")
"""A git that asks nobody has failed, and go knows what it may fail of."""
_NO_SPACE = re.compile(r"[Nn]o space left on device|[Dd]isk quota exceeded")
"""Of this host's disk, as long as it is not the server that says so."""
_USERINFO = re.compile(r"://[^\s'\"]*@")
_REMOTE = re.compile(r"^\s*remote: .*$|\bremote error: (?s:.*)", re.MULTILINE)
"""What a server says; by the latter git ends."""
_DIRECTORY = re.compile(r"\bgit [^\n]* in \S*/vcs/([0-9a-f]{64}): exit status")
_BLANK = re.compile(r"\s+")

UNKNOWN = Ruling(UpstreamError, "not fetched from version control; the log of the proxy says why")
SILENT = Ruling(UpstreamTimeout, "its server does not answer")
LATE = Ruling(UpstreamTimeout, "not fetched in time (setting direct_timeout)")
TOO_MUCH = Ruling(NoRoom, "its repository is larger than one may be (setting direct_max_size)")
FULL = Ruling(NoRoom, "there is no room for it on the proxy's disk (setting min_free)")
DAMAGED = Ruling(UpstreamError, "its clone on the proxy's host is damaged; the log of the proxy says more")
NOT_STARTED = Ruling(Unavailable, "this host cannot start the go command now")
OWN_FILES = Ruling(Unavailable, "this host cannot use its own files now; the log of the proxy says why")
STOPPING = Ruling(Unavailable, "the proxy is being stopped")


def judge(text: str, events: Iterable[tuple[Trouble, str]], *, connected: bool, private: bool) -> Ruling:
    """What it means that a run failed, with this text. ``events``, ``connected``: what became of connections,
    and whether there was one."""
    settings, unseen = (PRIVATE_HOSTS, UNSEEN) if private else ("", "")
    if not (connected and _HIDDEN in text):
        seen = {trouble for trouble, _ in events}
        for trouble, (family, phrase) in _SEEN.items():
            if trouble in seen:
                return Ruling(family, phrase.format(settings=settings))
    if _NO_SPACE.search(_REMOTE.sub("", text)):  # whatever else came of it
        return FULL
    for row in _TABLE:
        if match := row.pattern.search(text):
            word = match[1] if row.pattern.groups else ""
            return Ruling(row.family, row.phrase.format(word, settings=settings, unseen=unseen))
    return UNKNOWN


def of_disk(error: OSError) -> Ruling:
    """What it means that a file or directory of a run cannot be made or read."""
    return FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else OWN_FILES


def outcome_of(family: type[GoproxyError]) -> Outcome:
    """The outcome that belongs to an error."""
    return next((outcome for each, outcome in _OUTCOMES if issubclass(family, each)), "unavailable")


def is_ours(text: str, *names: str) -> bool:
    """Whether a text says that the clone on this host is damaged: it says nothing of the server's then, not
    even where it sounds like absence. ``names``: those that a client chose; what a server says is passed over
    as well."""
    ours = _REMOTE.sub("", text)
    for name in names:
        ours = ours.replace(name, "")
    if _OURS.search(ours) is not None:
        return True
    return _LOCALLY.search(ours) is not None and not any(
        re.search(each, ours) for each in (_OUT_OF_MEMORY, _NO_SPACE)
    )


def directory_of(text: str) -> str:
    """The directory of the clone in which a git failed, or "". go says so before what that git printed, which
    may be whatever a server likes; no module or version reads like that."""
    match = _DIRECTORY.search(text)
    return match[1] if match else ""


def loggable(text: str) -> str:
    """A text for the log of this host: on one line, bounded, without passwords."""
    line = _BLANK.sub(" ", _USERINFO.sub(f"://{MASKED}@", text)).strip()
    if len(line) <= SAID_MOST:
        return line
    half = SAID_MOST // 2 - 2  # what went wrong mostly stands at the end
    return f"{line[:half]} … {line[-half:]}"
