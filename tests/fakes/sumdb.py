"""A checksum database in memory: an honest log of any size, and every way in which one may lie.

It answers paths under its name (``latest``, ``lookup/…``, ``tile/…``) through :meth:`FakeSumdb.answer`,
for whatever server a test puts in front of it. Hashes are kept, so that 70,000 records take a second.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from goproxy_vm.errors import MalformedSumdb
from goproxy_vm.protocol.note import VerifierKey, make_key_id
from goproxy_vm.protocol.tlog import (
    DATA_LEVEL,
    Node,
    Tile,
    join,
    leaf_hash,
    node_hash,
    subtrees,
    width_at,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "sumdb.example.com/log"
SEED = bytes.fromhex("71bbd29848d1a37e81097efcbb808d5181eed700d7e7a06b5887eb27bab59684")
"""The name and the key of ``vectors.json``, so that its notes come out byte for byte."""


@dataclass(frozen=True)
class Signer:
    """A named Ed25519 key that signs notes."""

    name: str
    private: Ed25519PrivateKey
    key: VerifierKey

    @classmethod
    def make(cls, name: str, seed: bytes) -> Signer:
        private = Ed25519PrivateKey.from_private_bytes(seed)
        public = private.public_key().public_bytes_raw()
        return cls(name, private, VerifierKey(name, make_key_id(name, public), public))

    def line(self, text: str) -> str:
        signature = self.key.key_id + self.private.sign(text.encode())
        return f"— {self.name} {base64.b64encode(signature).decode()}\n"

    def sign(self, text: str) -> bytes:
        return f"{text}\n{self.line(text)}".encode()


def record_text(number: int, tag: str = "") -> bytes:
    """The record that ``vectors.json`` gives a number (``tlog.record_rule``); a tag makes another one."""
    return version_text(
        f"example.com/m{number}", "v1.0.0", _h1(f"zip {number}{tag}"), _h1(f"mod {number}{tag}")
    )


def version_text(module: str, version: str, zip_h1: str, mod_h1: str) -> bytes:
    return f"{module} {version} {zip_h1}\n{module} {version}/go.mod {mod_h1}\n".encode()


def escape(name: str) -> str:
    return re.sub("[A-Z]", lambda match: "!" + match[0].lower(), name)


def stored_index(node: Node) -> int:
    """Where a log keeps a node's hash: each is written as soon as the records below it are complete."""
    last_leaf = ((node.place + 1) << node.level) - 1
    before = 2 * last_leaf - last_leaf.bit_count()  # the subtrees that n records complete: 2n - ones(n)
    return before + node.level


class Log:
    """An honest log: records in order, and the hash of every complete subtree."""

    def __init__(self) -> None:
        self.texts: list[bytes] = []
        self.hashes: list[bytes] = []
        self.numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def append(self, text: bytes) -> int:
        """Add a record; its first line names the version that lookups find it by."""
        number, level, joined = len(self.texts), 0, leaf_hash(text)
        self.texts.append(text)
        module, version, _ = text.decode().split(" ", 2)
        self.numbers.setdefault(f"{escape(module)}@{escape(version)}", number)
        self.hashes.append(joined)
        while number >> level & 1:
            joined = node_hash(self.hash(Node(level, (number >> level) - 1)), joined)
            self.hashes.append(joined)
            level += 1
        return number

    def hash(self, node: Node) -> bytes:
        return self.hashes[stored_index(node)]

    def range_hash(self, start: int, stop: int) -> bytes:
        return join([self.hash(node) for node in subtrees(start, stop)])

    def inclusion_proof(self, number: int, size: int) -> list[bytes]:
        """The hashes beside the way from a record up to the root (RFC 6962, 2.1.1)."""
        start, stop = 0, size
        proof: list[bytes] = []
        while stop - start > 1:
            middle = start + (1 << ((stop - start - 1).bit_length() - 1))
            if number < middle:
                proof.append(self.range_hash(middle, stop))
                stop = middle
            else:
                proof.append(self.range_hash(start, middle))
                start = middle
        return proof[::-1]

    def tile(self, tile: Tile) -> bytes:
        first = tile.index << tile.height
        if tile.level == DATA_LEVEL:
            return b"".join(text + b"\n" for text in self.texts[first : first + tile.width])
        level = tile.level * tile.height
        return b"".join(self.hash(Node(level, first + i)) for i in range(tile.width))


def _as_signed(note: bytes) -> bytes:
    return note


@dataclass
class FakeSumdb:
    """A database that signs its log's heads. ``size`` is what it shows of the log; None: all of it."""

    log: Log
    signer: Signer
    size: int | None = None
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Status and bytes to give for a path, whatever the log says."""
    head_size: int | None = None
    """Sign this size in lookups and ``latest``: a stale head, while the tiles are of the whole log."""
    change_head: Callable[[bytes], bytes] = _as_signed
    requests: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, size: int, *, name: str = NAME, seed: bytes = SEED) -> FakeSumdb:
        fake = cls(Log(), Signer.make(name, seed))
        fake.grow(size)
        return fake

    # What an honest database does.

    def __len__(self) -> int:
        return len(self.log) if self.size is None else self.size

    @property
    def name(self) -> str:
        return self.signer.name

    @property
    def key(self) -> VerifierKey:
        return self.signer.key

    def grow(self, count: int) -> None:
        """Add ``count`` of the vectors' records."""
        for number in range(len(self.log), len(self.log) + count):
            self.log.append(record_text(number))

    def add(self, module: str, version: str, zip_h1: str, mod_h1: str) -> int:
        """Add a version's record, and return its number."""
        return self.log.append(version_text(module, version, zip_h1, mod_h1))

    def head(self, size: int | None = None) -> bytes:
        """The signed head of the tree of ``size`` records."""
        if size is None:
            size = len(self) if self.head_size is None else self.head_size
        root = base64.b64encode(self.log.range_hash(0, size)).decode()
        return self.change_head(self.signer.sign(f"go.sum database tree\n{size}\n{root}\n"))

    def lookup(self, number: int) -> bytes:
        return f"{number}\n{self.log.texts[number].decode()}\n".encode() + self.head()

    def answer(self, path: str) -> tuple[int, bytes]:
        """Status and bytes for a path under the database's name, without a leading slash."""
        self.requests.append(path)
        if path in self.answers:
            return self.answers[path]
        kind, _, rest = path.partition("/")
        if kind == "supported":
            return 200, b""
        if kind == "latest":
            return 200, self.head()
        if kind == "lookup":
            number = self.log.numbers.get(rest)
            known = number is not None and number < len(self)
            return (
                (200, self.lookup(number))
                if known and number is not None
                else (404, b"not found: no record\n")
            )
        try:
            tile = Tile.parse(path)
        except MalformedSumdb as error:
            return 400, error.sentence.encode()
        if tile.width > width_at(tile.height, tile.level, tile.index, len(self)):
            return 404, b"not found: no such tile\n"
        return 200, self.log.tile(tile)

    def body(self, path: str) -> bytes:
        """The bytes of an answer that must be good."""
        status, data = self.answer(path)
        if status != 200:
            raise LookupError(path)
        return data

    def snapshot(self, size: int) -> FakeSumdb:
        """The same database as it was at ``size`` records."""
        return replace(self, size=size, answers={}, requests=[])

    # What a dishonest one, or whoever carries its answers, may do.

    def fork(self, at: int) -> FakeSumdb:
        """A database with the same key and another record ``at``; the rest is equal."""
        forked = FakeSumdb(Log(), self.signer, self.size)
        for number, text in enumerate(self.log.texts):
            forked.log.append(text.replace(b" h1:", b" h1:x") if number == at else text)
        return forked

    def tamper(self, path: str, bit: int = 0) -> None:
        """Flip one bit of an answer."""
        data = bytearray(self.body(path))
        data[bit // 8 % len(data)] ^= 1 << bit % 8
        self.answers[path] = 200, bytes(data)

    def lose(self, path: str, status: int = 404) -> None:
        """A record or a tile that is missing."""
        self.answers[path] = status, b"not found: gone\n"

    def cut(self, path: str, length: int) -> None:
        """A tile of the wrong width: shorter, or longer by zeros."""
        self.answers[path] = 200, self.body(path)[:length].ljust(length, b"\0")

    def redirect(self, path: str, number: int) -> None:
        """A genuine record of another version."""
        self.answers[path] = 200, self.lookup(number)

    def renumber(self, path: str, number: int) -> None:
        """The right record under another number: of another record, or outside the tree."""
        _, _, rest = self.body(path).partition(b"\n")
        self.answers[path] = 200, f"{number}\n".encode() + rest

    def forge(self, path: str, old: bytes, new: bytes) -> None:
        """A record with another text, under a genuine head."""
        self.answers[path] = 200, self.body(path).replace(old, new)

    def break_signature(self) -> None:
        """Heads whose signature is of another text."""
        self.change_head = lambda note: note.replace(b"go.sum database tree\n", b"go.sum database tree\n1", 1)

    def sign_as(self, signer: Signer) -> None:
        """Heads signed by somebody else alone."""
        self.change_head = lambda note: signer.sign(note.decode().rpartition("\n\n")[0] + "\n")


def _h1(text: str) -> str:
    return "h1:" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
