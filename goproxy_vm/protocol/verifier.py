"""The checksum database's client, without its IO: bytes in, verdicts out (PROTOCOL §4, *Verify*).

A :class:`Verifier` knows the database's key and the newest signed head. Each response of the database
opens a session, which is a dialogue with whoever does the fetching::

    session = verifier.lookup(module, version, data)
    while wanted := session.wanted():
        for tile in wanted:
            session.feed(tile, …)          # from a store or a source; or feed(tile.full, …)
    verdict = session.finish()             # store verdict.tiles, then verdict.head; serve data

Nothing counts before ``finish``; what fails raises a ContentError and leaves the verifier as it was, or
further along the same log. Sessions may run side by side: each is measured against the newest head known
when it finishes, so that its wants may grow while it waits. A store needs to keep only the widest tile of
each place (``tile.full`` is the place's name): narrower ones are its prefixes.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from goproxy_vm.errors import Absent, ChecksumMismatch, ContentError, ForkError, InconsistentTile
from goproxy_vm.protocol.artifact import Kind
from goproxy_vm.protocol.note import open_note
from goproxy_vm.protocol.record import parse_record
from goproxy_vm.protocol.timeline import SignedHead, Timeline
from goproxy_vm.protocol.tlog import (
    DATA_LEVEL,
    EMPTY_ROOT,
    HEIGHT,
    AuthenticTree,
    Head,
    Node,
    Tile,
    data_hashes,
    leaf_hash,
    subtrees,
    tile_of,
    tiles_for,
    width_at,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from goproxy_vm.protocol.note import VerifierKey
    from goproxy_vm.protocol.record import Record

_NO_TILES: Final[Mapping[Tile, bytes]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a session has proven."""

    head: bytes
    """The newest signed head now known. Persist it after the tiles: it promises that they are there."""
    tiles: Mapping[Tile, bytes]
    """The tiles that were fed and counted, each as wide as was authenticated."""


@dataclass(frozen=True, slots=True)
class LookupVerdict(Verdict):
    """A proven record."""

    name: str
    """The database's."""
    number: int
    """The record's number in the log."""
    size: int
    """The tree size of the lookup's own head, which may be older than ``head``."""
    mod: str | None
    zip: str | None

    @property
    def hashes(self) -> dict[str, str]:
        """The h1 hashes that it has, by kind."""
        found = {"mod": self.mod, "zip": self.zip}
        return {kind: h1 for kind, h1 in found.items() if h1 is not None}

    def check(self, kind: Kind, h1: str) -> None:
        """Hold a file to its record: raises ChecksumMismatch, or ContentError where it has no line."""
        recorded = self.mod if kind is Kind.MOD else self.zip
        if recorded is None:
            raise ContentError(f"its record in {self.name} has no h1 for the {kind}")
        if recorded != h1:
            raise ChecksumMismatch(
                f"its {kind} has {h1}, but {self.name} records {recorded}", recorded=recorded, got=h1
            )


@dataclass(frozen=True, slots=True)
class TileVerdict(Verdict):
    """A proven tile: ``data`` is what was asked for, which may be a prefix of what was authenticated."""

    data: bytes


class Verifier:
    """Holds one database to its signed log.

    ``key`` is the database's; ``head`` the signed note that was persisted last, None on first use: then
    the first good head is taken as it is, as clients do. ``tiles`` is asked for authenticated tiles by
    their place (``tile.full``) and may hold any width of them; it is never written. What it gives is
    authenticated again. Raises ContentError if ``head`` is not signed by ``key``.
    """

    def __init__(
        self,
        key: VerifierKey,
        head: bytes | None = None,
        *,
        tiles: Mapping[Tile, bytes] = _NO_TILES,
        height: int = HEIGHT,
    ) -> None:
        self.key = key
        self.tiles = tiles
        self.height = height
        known = SignedHead(Head(0, EMPTY_ROOT), b"") if head is None else self._open(head)
        self.timeline = Timeline(known)

    @property
    def head(self) -> bytes | None:
        """The newest signed head found so far, to be persisted; it never moves back."""
        return self.timeline.newest.note or None

    @property
    def size(self) -> int:
        """How many records the newest head covers."""
        return self.timeline.newest.head.size

    def lookup(self, module: str, version: str, data: bytes) -> LookupSession:
        """Open a lookup response about ``module`` at ``version``, both unescaped.

        Raises at once what needs no tile: ContentError (malformed, badly signed, of another module, its
        number outside the tree), ForkError.
        """
        record, note = parse_record(data)
        mod, zip_ = record.h1(module, f"{version}/go.mod"), record.h1(module, version)
        if mod is None and zip_ is None:
            raise ContentError(
                f"the record that {self.key.name} gives for it is not about {module}@{version}"
            )
        return LookupSession(self, self._open(note), record, mod, zip_)

    def latest(self, data: bytes) -> Session:
        """Open a signed head alone; raises ContentError, ForkError."""
        return Session(self, self._open(data))

    def covers(self, tile: Tile) -> bool:
        """Whether the newest head can prove a tile; if not, ask for ``latest`` first."""
        width = width_at(tile.height, tile.level, tile.index, self.size)
        return tile.height == self.height and tile.width <= width

    def tile(self, tile: Tile) -> TileSession:
        """Open a tile that a client asks for, of hashes or of records; raises Absent if not covered."""
        if not self.covers(tile):
            raise Absent(f"{tile.path} is not in the log of {self.size} records that is known here")
        return TileSession(self, tile)

    def _open(self, data: bytes) -> SignedHead:
        return SignedHead(Head.parse(open_note(data, [self.key]).text), data)


class Session:
    """The proof that one signed head belongs to the log; subclasses prove something in the log as well."""

    def __init__(self, verifier: Verifier, signed: SignedHead) -> None:
        self._verifier = verifier
        self._timeline = verifier.timeline
        self._signed = signed
        self._fed: dict[Tile, bytes] = {}
        self._distrusted: set[Tile] = set()
        self._needs: tuple[tuple[Head, Head, bool], frozenset[Tile]] | None = None
        self._heads()

    def wanted(self) -> list[Tile]:
        """The tiles still missing, each as wide as it is needed; none: ``finish`` may be called.

        Where a partial tile cannot be had, ``tile.full`` may be fed in its place (PROTOCOL case 90).
        Raises ForkError if the newest head has meanwhile shown the session's to be of another log.
        """
        return sorted(tile for tile in self._needed() if self._bytes(tile) is None)

    def feed(self, tile: Tile, data: bytes) -> None:
        """Take a tile's bytes, for ``finish`` to check; raises ContentError at a wrong length (case 92)."""
        if len(data) != tile.length:
            raise ContentError(f"{tile.path} has {len(data)} bytes; expected {tile.length}")
        if len(data) > len(self._fed.get(tile.full, b"")):
            self._fed[tile.full] = data

    def finish(self) -> Verdict:
        """Prove it all, and move the verifier's head on; no tile may be wanted any more.

        Raises ForkError; ContentError; InconsistentTile, after which the tiles that it names are wanted
        again, whatever is stored, for another source to give (the caller bounds the attempts).
        """
        _, tiles = self._prove()
        return Verdict(self._timeline.newest.note, self._new(tiles))

    def _nodes(self) -> list[Node]:
        """What the session reads in the newest tree, beside what joins the two heads."""
        return []

    def _heads(self) -> tuple[SignedHead, SignedHead]:
        """The session's head and the newest known, older first."""
        older, newer = self._timeline.order(self._signed)
        if older.head.size == newer.head.size and older.head.root != newer.head.root:
            raise self._fork(older, newer, newer.head.root, [])
        return older, newer

    def _needed(self) -> frozenset[Tile]:
        older, newer = self._heads()
        joined = self._timeline.knows(self._signed.head)
        key = (older.head, newer.head, joined)
        if self._needs is None or self._needs[0] != key:
            nodes = self._nodes()
            if not joined:
                nodes += subtrees(0, older.head.size)
            needs = tiles_for(newer.head.size, nodes, self._verifier.height) if nodes else frozenset()
            self._needs = key, needs
        return self._needs[1]

    def _bytes(self, tile: Tile) -> bytes | None:
        data = self._fed.get(tile.full, b"")
        if len(data) < tile.length and tile.full not in self._distrusted:
            data = self._verifier.tiles.get(tile.full, b"")
        return data[: tile.length] if len(data) >= tile.length else None

    def _prove(self) -> tuple[AuthenticTree, dict[Tile, bytes]]:
        """Authenticate the tiles and adopt the heads."""
        older, newer = self._heads()
        needed, edge = self._needed(), self._timeline.edge
        tiles = {tile: data for tile in needed if (data := self._bytes(tile)) is not None}
        if len(tiles) != len(needed):
            raise RuntimeError("finish was called while tiles were wanted")
        try:
            sound = edge[1] if edge is not None and edge[0] == newer.head else None
            tree = AuthenticTree(newer.head, tiles, sound)
        except InconsistentTile as error:
            for path in error.paths:
                place = Tile.parse(path).full
                self._fed.pop(place, None)
                self._distrusted.add(place)
            raise
        if not self._timeline.knows(self._signed.head):
            root = tree.root(older.head.size)
            if root != older.head.root:
                raise self._fork(older, newer, root, tree.consistency_proof(older.head.size))
        self._timeline.adopt(older, newer)
        if tree.edge:
            self._timeline.edge = newer.head, tree.edge
        return tree, tiles

    def _new(self, tiles: Mapping[Tile, bytes]) -> dict[Tile, bytes]:
        return {tile: data for tile, data in tiles.items() if tile.full in self._fed}

    def _fork(self, older: SignedHead, newer: SignedHead, root: bytes, proof: list[bytes]) -> ForkError:
        def lines(title: str, *parts: str) -> str:
            return f"{title}:\n" + "\n".join("\t" + part.replace("\n", "\n\t") for part in parts)

        report = "\n".join(
            [
                "SECURITY ERROR\ngo.sum database server misbehavior detected!\n",
                lines("old database", older.note.decode()),
                lines("new database", newer.note.decode()),
                lines("proof of misbehavior", *(base64.b64encode(part).decode() for part in [root, *proof])),
            ]
        )
        sizes = f"{older.head.size} and {newer.head.size}"
        return ForkError(
            f"SECURITY ERROR: {self._verifier.key.name} has signed two different logs, of {sizes} records",
            older=older.note,
            newer=newer.note,
            report=report,
        )


class LookupSession(Session):
    """The proof of a record: it is in the log at its number. ``finish`` raises ContentError if it is not."""

    def __init__(
        self, verifier: Verifier, signed: SignedHead, record: Record, mod: str | None, zip_: str | None
    ) -> None:
        super().__init__(verifier, signed)
        self._record = record
        self._mod = mod
        self._zip = zip_
        size = self._heads()[1].head.size
        if record.number >= size:
            raise ContentError(
                f"{verifier.key.name} gives record {record.number}, outside its tree of {size} records"
            )

    def finish(self) -> LookupVerdict:
        """As for every session; the record is measured against the newest head known (rule 4)."""
        tree, tiles = self._prove()
        if tree.hash(self._nodes()[0]) != leaf_hash(self._record.text):
            name, number = self._verifier.key.name, self._record.number
            raise ContentError(f"the record that came for it is not record {number} of {name}'s log")
        return LookupVerdict(
            self._timeline.newest.note,
            self._new(tiles),
            self._verifier.key.name,
            self._record.number,
            self._signed.head.size,
            self._mod,
            self._zip,
        )

    def _nodes(self) -> list[Node]:
        return [Node(0, self._record.number)]


class TileSession(Session):
    """The proof of a tile in the newest tree, where it may be wider than what was asked for."""

    def __init__(self, verifier: Verifier, tile: Tile) -> None:
        super().__init__(verifier, verifier.timeline.newest)
        self._tile = tile
        self._texts: bytes | None = None

    def wanted(self) -> list[Tile]:
        """As for every session; for a data tile it is wanted together with its hash tile."""
        asked = [self._tile] if self._tile.level == DATA_LEVEL and self._texts is None else []
        return asked + super().wanted()

    def feed(self, tile: Tile, data: bytes) -> None:
        """As for every session; a data tile has no length to check, and is taken only as it was asked for."""
        if tile.level != DATA_LEVEL:
            super().feed(tile, data)
        elif tile == self._tile:
            self._texts = data

    def finish(self) -> TileVerdict:
        """As for every session; a data tile's records must hash to the hash tile."""
        _, tiles = self._prove()
        newest = self._timeline.newest
        hashes = tiles[tile_of(self._nodes()[0], newest.head.size, self._verifier.height)]
        data = hashes[: self._tile.length]
        if self._tile.level == DATA_LEVEL:
            texts, self._texts = self._texts or b"", None
            if data_hashes(texts, self._tile.width) != data:
                path = self._tile.path
                raise InconsistentTile(f"inconsistent tile: {path} does not match its hashes", (path,))
            data = texts
        return TileVerdict(newest.note, self._new(tiles), data)

    def _nodes(self) -> list[Node]:
        height = self._verifier.height
        return [Node(max(self._tile.level, 0) * height, self._tile.index << height)]
