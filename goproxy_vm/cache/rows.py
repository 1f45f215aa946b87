"""The rows of the index as the program knows them; those that cannot be are told apart from the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from goproxy_vm.cache.database import Impossible
from goproxy_vm.errors import MalformedPath
from goproxy_vm.protocol.artifact import KINDS, Artifact, Kind, kind_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Iterator, Sequence

BLOCK = 512
"""Bytes in one of ``st_blocks``."""
MOST_BLOCKS = 1 << 50
"""No disk has as many."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored file: its path under ``modules/``, its length in bytes, the SHA-256 of its bytes in hex;
    ``unsure`` where a power loss may have damaged it, so that it is hashed before it is used."""

    path: str
    length: int
    sha256: str
    unsure: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A file that has just been published."""

    artifact: Artifact
    length: int
    blocks: int
    sha256: str
    h1: str | None
    pinned: bool = False

    @property
    def kind(self) -> Kind:
        """Which file of its version."""
        return self.artifact.kind

    @property
    def bytes(self) -> int:
        """Allocated."""
        return self.blocks * BLOCK


@dataclass(frozen=True, slots=True)
class Known:
    """The h1 hashes a version's ``.mod`` and ``.zip`` had when first seen, or None.

    Beside each, the name of the checksum database whose log has proven it; empty if none has.
    """

    mod: str | None
    zip: str | None
    mod_database: str = ""
    zip_database: str = ""
    on_record: bool = field(default=False, compare=False)
    """Whether anything is on record of the version: a hash, or a file."""
    numbers: dict[str, int] = field(default_factory=dict, compare=False)
    """Those of the version's record in the logs of checksum databases, as far as they are on record."""
    zip_seen: float | None = field(default=None, compare=False)
    """When the zip's hash was first on record here, in epoch seconds of this host's clock."""

    def h1(self, kind: Kind) -> str | None:
        """The one of that kind."""
        return self.mod if kind is Kind.MOD else self.zip


@dataclass(frozen=True, slots=True)
class Standing:
    """How a path stands in the index: its entry; where that is None, whether there is something else under it
    (``other``: a file without a row, or one that is about to go), and what is known of its version, if it
    can be read."""

    entry: Entry | None
    other: bool = False
    known: Known | None = None


@dataclass(frozen=True, slots=True)
class Proven:
    """The h1 hashes of a version, by kind (mod, zip), that the log of a checksum database holds, in record
    ``number``."""

    hashes: dict[str, str]
    database: str
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """When a version was first seen, and since when such sights are noted, in epoch seconds."""

    seen: float
    since: float


class Touch(NamedTuple):
    """Hits on one file since the last flush, and the time of the newest by the logical clock."""

    last_used: float
    hits: int


@dataclass(frozen=True, slots=True)
class Victim:
    """A file that is to go: ``last_used`` by the logical clock, ``id`` its row; a stray has none."""

    id: int | None
    path: str
    module: str
    version: str
    kind: Kind
    length: int
    bytes: int
    pinned: bool
    last_used: float


@dataclass(frozen=True, slots=True)
class Held:
    """What became of a hash that was to be kept: ``h1`` is the one on record now; ``doubted`` are the rows of
    files that have others than were proven, and are strays now; ``failure`` says why some of it could not be
    written."""

    h1: str
    doubted: list[Victim]
    failure: sqlite3.Error | None


VICTIM = "id, path, module, version, kind, length, blocks, pinned, last_used"


def victim(row: Sequence[Any]) -> Victim:
    """The victim of a row with the columns VICTIM. Impossible: such a row cannot be."""
    id_, path, module, version, kind, length, blocks, pinned, last_used = row
    try:
        if kind_of(path).value != kind or length < 0 or blocks < 0 or not (module + version).isprintable():
            raise Impossible(f"files {id_!r}")
        return Victim(
            int(id_),
            path,
            module,
            version,
            Kind(kind),
            length,
            blocks * BLOCK,
            bool(pinned),
            float(last_used),
        )
    except (MalformedPath, ValueError, TypeError, AttributeError) as error:
        raise Impossible(f"files {id_!r}") from error


def stray(path: str, kind: str, blocks: int) -> Victim:
    """A file without a row. Impossible: there can be none of that name."""
    try:
        if kind_of(path).value != kind or blocks < 0:
            raise Impossible(f"strays {path!r}")
        return Victim(None, path, "", "", Kind(kind), 0, blocks * BLOCK, pinned=False, last_used=0.0)
    except (MalformedPath, ValueError, TypeError, AttributeError) as error:
        raise Impossible(f"strays {path!r}") from error


def possible(
    make: Callable[..., T], rows: Iterable[Sequence[Any]], notice: Callable[[Exception], None]
) -> Iterator[T]:
    """What ``make`` makes of rows; those that cannot be are skipped, and ``notice`` is told."""
    for row in rows:
        try:
            made = make(row)
        except Impossible as error:
            notice(error)
        else:
            yield made


@dataclass(frozen=True, slots=True)
class Sum:
    """Files and the bytes allocated for them, of one kind, pinned or not."""

    kind: Kind
    pinned: bool
    entries: int
    bytes: int


def total(row: Sequence[Any]) -> Sum:
    kind, pinned, count, blocks = row
    if kind not in KINDS or not isinstance(blocks, int) or not 0 <= blocks < MOST_BLOCKS:
        raise Impossible(f"sums {kind!r}")
    return Sum(Kind(kind), bool(pinned), count, blocks * BLOCK)
