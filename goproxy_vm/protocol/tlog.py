"""The transparent log: a Merkle tree over records, its hashes kept in tiles (PROTOCOL §4, *Tree*).

A tree of N records is written as the complete subtrees that cover it, largest first; each is a
:class:`Node`. A tile of height H packs the 2**H nodes of one level that share an ancestor H levels up,
so that tile (L, K) holds the nodes of level H·L from K·2**H on. Tiles only ever grow at the right edge:
a narrower tile is always a prefix of a wider one at the same place, and a full tile never changes.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from goproxy_vm.errors import ContentError, InconsistentTile, MalformedSumdb

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
HEIGHT: Final = 8
"""The height of the tiles that every released client asks for."""
DATA_LEVEL: Final = -1
"""The level of a tile that holds record texts, written ``data`` in its path."""

_MOST_HEIGHT: Final = 30
_MOST: Final = 1 << 63
_HEAD_TITLE: Final = "go.sum database tree"
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_TILE: Final = re.compile(
    r"tile/(?P<height>[1-9][0-9]?)/(?P<level>0|[1-9][0-9]{0,2}|data)/"
    r"(?P<index>(?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/(?P<width>[1-9][0-9]{0,9}))?"
)


def leaf_hash(text: bytes) -> bytes:
    """The hash of one record's text."""
    return hashlib.sha256(b"\x00" + text).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of two neighbouring subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Head:
    """A tree: how many records it has, and the root hash that stands for all of them."""

    size: int
    root: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a signed head's text; lines after the third are ignored. Raises ContentError."""
        lines = text.split("\n", 3)
        if len(lines) != 4 or lines[0] != _HEAD_TITLE or not _SIZE.fullmatch(lines[1]):
            raise ContentError(f"the tree head is malformed; expected {_HEAD_TITLE!r}, a size and a hash")
        try:
            root = base64.b64decode(lines[2], validate=True)
        except ValueError:
            root = b""
        size = int(lines[1])
        if len(root) != HASH_BYTES or size >= _MOST:
            raise ContentError("the tree head is malformed; its size or its hash is out of range")
        if size == 0 and root != EMPTY_ROOT:
            raise ContentError("the tree head gives an empty tree a hash that it cannot have")
        return cls(size, root)


class Node(NamedTuple):
    """A complete subtree: ``2**level`` records from record ``place * 2**level`` on."""

    level: int
    place: int


def subtrees(start: int, stop: int) -> Iterator[Node]:
    """The complete subtrees that cover records ``start`` to ``stop - 1``, from left to right.

    ``start`` must be a multiple of the power of two at or above ``stop - start``, as it is for every
    range that a tree splits into.
    """
    while start < stop:
        level = (stop - start).bit_length() - 1
        yield Node(level, start >> level)
        start += 1 << level


def join(hashes: Sequence[bytes]) -> bytes:
    """The hash of the range whose subtrees, from left to right, have these hashes."""
    if not hashes:
        return EMPTY_ROOT
    joined = hashes[-1]
    for left in hashes[-2::-1]:
        joined = node_hash(left, joined)
    return joined


def consistency_ranges(older: int, newer: int) -> list[tuple[int, int]]:
    """The record ranges whose hashes prove that a tree begins with an older one (RFC 6962, 2.1.2)."""
    start, stop, whole = 0, newer, True
    ranges: list[tuple[int, int]] = []
    while older < stop:
        middle = start + (1 << ((stop - start - 1).bit_length() - 1))
        if older <= middle:
            ranges.append((middle, stop))
            stop = middle
        else:
            ranges.append((start, middle))
            start, whole = middle, False
    if not whole:
        ranges.append((start, stop))
    return ranges[::-1]


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """A place in the log and how much of it: ``width`` hashes, or records at level ``DATA_LEVEL``."""

    height: int
    level: int
    index: int
    width: int

    @classmethod
    def parse(cls, path: str) -> Self:
        """Parse ``tile/H/L/K[.p/W]``; raises MalformedSumdb unless writing it again gives the same path."""
        match = _TILE.fullmatch(path)
        if match:
            height = int(match["height"])
            level = DATA_LEVEL if match["level"] == "data" else int(match["level"])
            index = int(match["index"].replace("x", "").replace("/", ""))
            width = int(match["width"] or 1 << height)
            tile = cls(height, level, index, width)
            if height <= _MOST_HEIGHT and index < _MOST and width <= 1 << height and tile.path == path:
                return tile
        raise MalformedSumdb("malformed tile; expected tile/H/L/K or tile/H/L/K.p/W, as in tile/8/0/x001/234")

    @property
    def path(self) -> str:
        """The tile's path under its database's name."""
        level = "data" if self.level == DATA_LEVEL else str(self.level)
        index, groups = self.index, [f"{self.index % 1000:03}"]
        while index := index // 1000:
            groups.append(f"x{index % 1000:03}")
        partial = "" if self.width == 1 << self.height else f".p/{self.width}"
        return f"tile/{self.height}/{level}/{'/'.join(reversed(groups))}{partial}"

    @property
    def full(self) -> Tile:
        """The complete tile at the same place: a partial tile is its prefix, and may be taken from it."""
        return Tile(self.height, self.level, self.index, 1 << self.height)

    @property
    def length(self) -> int:
        """Bytes of a hash tile."""
        return self.width * HASH_BYTES


def width_at(height: int, level: int, index: int, size: int) -> int:
    """How many hashes tile (``level``, ``index``) has in a tree of ``size`` records: 0 if it is not there."""
    return max(0, min(1 << height, (size >> height * max(level, 0)) - (index << height)))


def tile_of(node: Node, size: int, height: int = HEIGHT) -> Tile:
    """The tile that gives a node's hash, as wide as it is in a tree of ``size`` records."""
    level, rest = divmod(node.level, height)
    index = node.place >> (height - rest)
    return Tile(height, level, index, width_at(height, level, index, size))


def tiles_for(size: int, nodes: Iterable[Node], height: int = HEIGHT) -> frozenset[Tile]:
    """The tiles that authenticate ``nodes`` in a tree of ``size`` records: what a client asks for.

    They are the tiles of the tree's own subtrees, which recombine to its root, and for each node its
    tile with the tiles above it, as far as one of the former.
    """
    wanted = {tile_of(node, size, height) for node in subtrees(0, size)}
    for node in nodes:
        tile = tile_of(node, size, height)
        while tile not in wanted:
            wanted.add(tile)
            tile = _parent(tile, size)
    return frozenset(wanted)


class AuthenticTree:
    """The hashes of a tree, read from tiles that were checked against its root.

    ``tiles`` must be those of :func:`tiles_for` with their bytes, or none at all: then there is nothing to
    check and nothing to read. ``sound`` is the :attr:`edge` of an earlier proof of the same head, if there
    was one: with the same bytes the root need not be made again. Raises InconsistentTile, naming each tile
    that may be wrong.
    """

    def __init__(
        self, head: Head, tiles: Mapping[Tile, bytes], sound: Mapping[Tile, bytes] | None = None
    ) -> None:
        self._head = head
        self._tiles = tiles
        self._height = next((tile.height for tile in tiles), HEIGHT)
        edge = {tile_of(node, head.size, self._height) for node in subtrees(0, head.size)}
        self.edge = {tile: data for tile, data in tiles.items() if tile in edge}
        """The tiles of which the root itself is made."""
        if tiles and self.edge != sound and self.root(head.size) != head.root:
            raise _inconsistent(edge, f"the signed root of the tree of {head.size} records")
        wrong: set[Tile] = set()
        unproven: set[Tile] = set()  # the wrong ones and all below them, which may well be right
        for tile in sorted(tiles.keys() - edge, key=lambda tile: tile.level, reverse=True):
            parent = _parent(tile, head.size)
            if parent in unproven:
                unproven.add(tile)
            elif self._whole(tile) != self.hash(Node(parent.level * tile.height, tile.index)):
                wrong.add(tile)
                unproven.add(tile)
        if wrong:
            raise _inconsistent(wrong, f"the tile above in the tree of {head.size} records")

    def hash(self, node: Node) -> bytes:
        """The hash of a complete subtree whose tile was given."""
        tile = tile_of(node, self._head.size, self._height)
        rest = node.level - tile.level * self._height
        first = (node.place << rest) - (tile.index << self._height)
        return _range_hash(self._tiles[tile], first, 1 << rest)

    def root(self, size: int) -> bytes:
        """The root that the tree had when it had ``size`` records."""
        return self._range(0, size)

    def consistency_proof(self, older: int) -> list[bytes]:
        """The hashes that prove, with both roots, what the tree of ``older`` records was."""
        return [self._range(start, stop) for start, stop in consistency_ranges(older, self._head.size)]

    def _range(self, start: int, stop: int) -> bytes:
        return join([self.hash(node) for node in subtrees(start, stop)])

    def _whole(self, tile: Tile) -> bytes:
        return _range_hash(self._tiles[tile], 0, tile.width)


def data_hashes(data: bytes, width: int) -> bytes:
    """The hash tile that belongs to a data tile of ``width`` records; raises ContentError."""
    texts = data.split(b"\n\n")
    if texts.pop() != b"" or len(texts) != width:
        raise ContentError(f"a data tile is malformed; expected {width} records, each ended by a blank line")
    return b"".join(leaf_hash(text + b"\n") for text in texts)


def _parent(tile: Tile, size: int) -> Tile:
    """The tile that holds the hash of a full tile."""
    level, index = tile.level + 1, tile.index >> tile.height
    return Tile(tile.height, level, index, width_at(tile.height, level, index, size))


def _range_hash(data: bytes, first: int, count: int) -> bytes:
    """The hash over ``count`` of a tile's hashes, a power of two."""
    sha256, pair = hashlib.sha256, 2 * HASH_BYTES
    row = data[first * HASH_BYTES : (first + count) * HASH_BYTES]
    while len(row) > HASH_BYTES:  # node_hash in line: a proof takes some five hundred
        row = b"".join([sha256(b"\x01" + row[at : at + pair]).digest() for at in range(0, len(row), pair)])
    return row


def _inconsistent(tiles: Iterable[Tile], what: str) -> InconsistentTile:
    paths = tuple(tile.path for tile in sorted(tiles))
    return InconsistentTile(f"inconsistent tile: {', '.join(paths)} does not match {what}", paths)
