"""What the store tells operators: values without behaviour, the same for the API, the command line and tests.

Sizes: ``bytes`` are allocated (``st_blocks`` times 512), ``length`` is the file's own. Times are epoch
seconds, ages and durations seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from goproxy_vm.protocol.artifact import KINDS
from goproxy_vm.protocol.report import VmReport

T = TypeVar("T")

PassReason = Literal["size", "idle", "min_free", "evict", "scrub", "recovery"]
PassState = Literal["waiting", "running", "done", "failed", "cancelled"]
Sort = Literal["name", "size", "idle", "hits"]


@dataclass(frozen=True, slots=True)
class FileFacts:
    """One stored file; ``h1`` of mod and zip."""

    bytes: int
    length: int
    sha256: str
    fetched: float
    last_used: float
    hits: int
    h1: str | None


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """A version of which at least one file is stored; ``files`` by kind, absent ones left out."""

    module: str
    version: str
    bytes: int
    hits: int
    fetched: float
    last_used: float
    idle_seconds: float
    pinned: bool
    files: dict[str, FileFacts]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list: where the next one begins (None at the end), and how many there are in all."""

    items: list[T]
    next_cursor: str | None
    total: int


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM, or several behind one ``address``: what it told last, when (``seen``), and the ``release`` of Go
    in that. ``number`` grows with each report of any of them: clocks jump."""

    address: str
    seen: float
    report: VmReport
    release: str
    number: int


@dataclass(frozen=True, slots=True)
class VmPage(Page[Vm]):
    """VMs, those that reported last first; ``vm_go`` is the Go version they are to have, empty for any."""

    vm_go: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Which page of the stored versions an operator asks for.

    ``match``: globs over ``module@version``, any of which; ``prefix``: what modules begin with; ``limit``:
    versions at most; ``cursor``: where the last page ended.
    """

    match: tuple[str, ...] | None = None
    prefix: str = ""
    sort: Sort = "name"
    limit: int = 100
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """Which stored files an operator means: all conditions hold, None ones not counted.

    ``match``: globs over ``module@version``, any of which; ``idle_for``: version not requested for that
    many seconds; ``older_than``: fetched more than that many seconds ago; ``larger_than``: the version's
    bytes; ``kinds``: of the selected versions, the files to take.
    """

    match: tuple[str, ...] | None = None
    idle_for: float | None = None
    older_than: float | None = None
    larger_than: int | None = None
    kinds: tuple[str, ...] = KINDS


@dataclass(frozen=True, slots=True)
class RemovedVersion:
    """Files of one version that went, or would go."""

    module: str
    version: str
    kinds: tuple[str, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Removal:
    """What went, or would go: versions touched, files, bytes, cached answers; items sorted by name."""

    dry_run: bool
    versions: int
    files: int
    bytes: int
    answers: int
    items: list[RemovedVersion]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Totals:
    """The store at one moment; ``oldest_idle_seconds`` of the zip that was not requested for longest."""

    entries: int
    bytes: int
    oldest_idle_seconds: float


@dataclass(slots=True)
class Pass:
    """One run of the janitor, the scrub or the recovery; ``scrubbed`` are entries, bytes, corrupt.

    ``waiting``: for another one to end; ``cancelled``: ended before it was done, by an operator or with the
    server.
    """

    id: int
    reason: PassReason
    started: float
    before: Totals
    target_bytes: int | None = None
    finished: float | None = None
    reached: bool | None = None
    after: Totals | None = None
    evicted_entries: int = 0
    evicted_bytes: int = 0
    scrubbed: tuple[int, int, int] | None = None
    waiting: bool = False
    cancelled: bool = False

    @property
    def state(self) -> PassState:
        """How it stands. An eviction that missed its target is done; a scrub has no target and has failed."""
        if self.finished is None:
            return "waiting" if self.waiting else "running"
        if self.cancelled:
            return "cancelled"
        return "failed" if self.reason == "scrub" and self.reached is False else "done"


@dataclass(frozen=True, slots=True)
class Eviction:
    """What evicting to a target did, or would do; ``pass_id`` is None for a dry run."""

    removal: Removal
    target_bytes: int
    before_bytes: int
    after_bytes: int
    reached: bool
    pass_id: int | None


@dataclass(frozen=True, slots=True)
class Pin:
    """A pattern whose versions are not evicted; ``source`` is ``config`` or ``api``."""

    pattern: str
    source: Literal["config", "api"]
    versions: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pins:
    """All pins by pattern; bytes pinned, and how many of them are protected at most."""

    items: list[Pin]
    pinned_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was stored at one time, kept for comparison."""

    id: int
    name: str
    created: float
    versions: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Went:
    """Files of a version that a later snapshot lacks, and why the last of them went."""

    module: str
    version: str
    kinds: tuple[str, ...]
    bytes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Difference:
    """From snapshot ``a`` to ``b`` (names; ``now`` for the present)."""

    a: str
    b: str
    came: list[RemovedVersion]
    went: list[Went]
    bytes_came: int
    bytes_freed: int
    freed_by_reason: dict[str, int]
    truncated: bool


@dataclass(slots=True)
class Recovery:
    """What the start has put right so far: temporary files deleted, evictions finished, rows without a file.

    Of files without a row: ``adopted`` were proven, ``first_seen`` count as first seen here, for nobody could
    say what their hash has to be; ``refused`` failed their check and are in quarantine, ``withheld`` stay
    unserved; ``discarded`` were no module files, and are deleted.
    """

    done: bool = False
    temporary: int = 0
    dying: int = 0
    ghosts: int = 0
    adopted: int = 0
    first_seen: int = 0
    refused: int = 0
    withheld: int = 0
    discarded: int = 0
    index_rebuilt: bool = False


@dataclass(frozen=True, slots=True)
class CacheStatus:
    """The store's state; limits and sizes in bytes."""

    dir: str
    policy: str
    limit_bytes: int
    used_bytes: int
    reserved_bytes: int
    pinned_bytes: int
    pinned_limit_bytes: int
    min_free_bytes: int
    disk_free_bytes: int
    max_idle_seconds: float | None
    oldest_idle_seconds: float
    versions: int
    entries: dict[str, int]
    sizes: dict[str, int]
    answers: int
    answers_bytes: int
    answers_limit_bytes: int
    sumdb: int
    sumdb_bytes: int
    sumdb_limit_bytes: int
    quarantine_bytes: int
    quarantine_entries: int
