"""The log's tree and tiles: every vector of ``tlog``, and what the vectors leave out."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from goproxy_vm.errors import ContentError, InconsistentTile, MalformedSumdb
from goproxy_vm.protocol.record import parse_record
from goproxy_vm.protocol.tlog import (
    EMPTY_ROOT,
    AuthenticTree,
    Head,
    Node,
    Tile,
    consistency_ranges,
    data_hashes,
    join,
    leaf_hash,
    node_hash,
    subtrees,
    tile_of,
    tiles_for,
    width_at,
)
from tests.fakes.sumdb import Log, record_text, stored_index

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())["tlog"]


def decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def make_log(size: int) -> Log:
    log = Log()
    for number in range(size):
        log.append(record_text(number))
    return log


@pytest.fixture(scope="module")
def log() -> Log:
    return make_log(70_000)


@pytest.mark.parametrize("case", VECTORS["records"], ids=lambda case: str(case["id"]))
def test_records(log: Log, case: dict[str, Any]) -> None:
    text = case["text"].encode()
    assert record_text(case["id"]) == text
    assert leaf_hash(text) == decoded(case["hash"])
    assert stored_index(Node(0, case["id"])) == case["stored_index"]
    assert log.hashes[case["stored_index"]] == decoded(case["hash"])


def test_stored_hash_index() -> None:
    for case in VECTORS["stored_hash_index"]:
        assert stored_index(Node(case["level"], case["n"])) == case["index"]


@pytest.mark.parametrize("case", VECTORS["trees"], ids=lambda case: str(case["n"]))
def test_trees(case: dict[str, Any]) -> None:
    log = make_log(case["n"])
    assert len(log.hashes) == case["stored_hash_count"]
    assert Head.parse(case["tree_text"]) == Head(case["n"], decoded(case["root"]))
    assert log.range_hash(0, case["n"]) == decoded(case["root"])


def test_inclusion_proofs(log: Log) -> None:
    for case in VECTORS["inclusion_proofs"]:
        proof = log.inclusion_proof(case["record"], case["tree_size"])
        assert proof == [decoded(part) for part in case["proof"]]
        assert log.range_hash(0, case["tree_size"]) == decoded(case["root"])


def test_consistency_proofs(log: Log) -> None:
    for case in VECTORS["consistency_proofs"]:
        older, newer = case["old_size"], case["new_size"]
        proof = [log.range_hash(start, stop) for start, stop in consistency_ranges(older, newer)]
        assert proof == [decoded(part) for part in case["proof"]]
        tiles = {tile: log.tile(tile) for tile in tiles_for(newer, subtrees(0, older), 2)}
        tree = AuthenticTree(Head(newer, decoded(case["new_root"])), tiles)
        assert tree.root(older) == decoded(case["old_root"])
        assert tree.consistency_proof(older) == proof


@pytest.mark.parametrize("case", VECTORS["tile_path"], ids=lambda case: case["path"])
def test_tile_paths(case: dict[str, Any]) -> None:
    tile = Tile(case["H"], case["L"], case["N"], case["W"])
    assert tile.path == case["path"]
    assert Tile.parse(case["path"]) == tile


@pytest.mark.parametrize("case", VECTORS["parse_tile_path"], ids=lambda case: case["path"])
def test_parse_tile_path(case: dict[str, Any]) -> None:
    if case["ok"]:
        assert Tile.parse(case["path"]) == Tile(case["H"], case["L"], case["N"], case["W"])
    else:
        with pytest.raises(MalformedSumdb, match="malformed tile"):
            Tile.parse(case["path"])


@pytest.mark.parametrize(
    "path",
    [
        "tile/8/0/0",
        "tile/8/0/x000/x000/001",
        "tile/8/0/" + "x999/" * 6 + "999",
        "tile/8/0/" + "x999/" * 7 + "999",
        "tile/8/0/٠٠٠",
        "tile/8/0/000.p/" + "9" * 5000,
        "tile/8/" + "9" * 5000 + "/000",
        "tile/8/0/000\n",
        "tile/8/0/000.p/1/",
        "tile/8/0/000.p/257",
    ],
)
def test_case_91_malformed_tiles(path: str) -> None:
    with pytest.raises(MalformedSumdb):
        Tile.parse(path)


@pytest.mark.parametrize("case", VECTORS["tiles_height2_tree13"], ids=lambda case: case["path"])
def test_tiles_of_height_2(log: Log, case: dict[str, Any]) -> None:
    tile = Tile.parse(case["path"])
    assert log.tile(tile) == decoded(case["data_b64"])
    assert len(decoded(case["data_b64"])) == tile.length
    assert tile.width == width_at(tile.height, tile.level, tile.index, 13)
    assert tile in tiles_for(13, (Node(0, number) for number in range(13)), 2)


def test_big_log(log: Log) -> None:
    case = VECTORS["big_log"]
    assert len(log) == case["records"]
    assert log.range_hash(0, len(log)) == decoded(case["root"])
    assert sorted(tile.path for tile in tiles_for(len(log), ())) == case["partial_tiles_of_this_size"]
    for given_tile in case["tiles"]:
        data = log.tile(Tile.parse(given_tile["path"]))
        assert len(data) == given_tile["bytes"]
        assert hashlib.sha256(data).hexdigest() == given_tile["sha256"]


@pytest.mark.parametrize("case", VECTORS["parse_record"], ids=lambda case: case["input_b64"])
def test_parse_record(case: dict[str, Any]) -> None:
    data = decoded(case["input_b64"])
    if not case["ok"]:
        with pytest.raises(ContentError):
            parse_record(data)
        return
    record, head = parse_record(data)
    assert (record.number, record.text, head) == (case["id"], case["text"].encode(), case["rest"].encode())


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"5", b"5\n", b"5\n\n", b"5\n\n\nx", b"5\n\nx\n\n", b"-5\na\n\n", b"+5\na\n\n", b" 5\na\n\n"),
        *(b"9" * 20 + b"\na\n\n", b"9" * 5000 + b"\na\n\n", b"5\na\x7f\x01\n\n", b"\xd9\xa0\na\n\n"),
    ],
)
def test_malformed_records(data: bytes) -> None:
    with pytest.raises(ContentError):
        parse_record(data)


def test_a_record_answers_for_its_own_lines_alone() -> None:
    record, _ = parse_record(
        b"1\nm v1.0.0 h1:a\nm v1.0.0/go.mod h2:b\nm v1.0.0-x h1:c\nm v1.0.1 h1:d\nm v1.0.1 h1:e\n\n"
    )
    assert record.h1("m", "v1.0.0") == "h1:a"
    assert record.h1("m", "v1.0.0/go.mod") is None
    assert record.h1("m", "v1.0") is None
    assert record.h1("M", "v1.0.0") is None
    with pytest.raises(ContentError, match="several"):
        record.h1("m", "v1.0.1")


@pytest.mark.parametrize(
    "text",
    [
        "go.sum database tree\n1\n" + "A" * 43 + "=",
        "go.sum database tree\n01\n" + "A" * 43 + "=\n",
        "go.sum database tree\n+1\n" + "A" * 43 + "=\n",
        "go.sum database tree\n1 \n" + "A" * 43 + "=\n",
        "go.sum database tree\n9223372036854775808\n" + "A" * 43 + "=\n",
        "go.sum database tree\n" + "9" * 5000 + "\n" + "A" * 43 + "=\n",
        "go.sum database tree\n1\n!" + "A" * 42 + "=\n",
        "go.sum database tree\n1\n" + "A" * 44 + "\n",
        "go.sum database tree\n0\n" + "A" * 43 + "=\n",
        "",
    ],
)
def test_malformed_heads(text: str) -> None:
    with pytest.raises(ContentError, match="tree head"):
        Head.parse(text)


def test_the_example_of_the_protocol() -> None:
    assert sorted(tile.path for tile in tiles_for(300, ())) == ["tile/8/0/001.p/44", "tile/8/1/000.p/1"]
    tiles = tiles_for(300, [Node(0, 7)])
    assert sorted(tile.path for tile in tiles) == ["tile/8/0/000", "tile/8/0/001.p/44", "tile/8/1/000.p/1"]


def test_a_tile_knows_its_place() -> None:
    tile = Tile.parse("tile/8/0/001.p/44")
    assert tile.full == Tile.parse("tile/8/0/001")
    assert tile.length == 1408
    assert width_at(8, 0, 2, 300) == 0
    assert width_at(8, 64, 0, 300) == 0
    assert width_at(8, -1, 1, 300) == 44
    assert tile_of(Node(8, 0), 300) == Tile(8, 1, 0, 1)


def test_data_tiles(log: Log) -> None:
    data = log.tile(Tile.parse("tile/8/data/000"))
    assert data_hashes(data, 256) == log.tile(Tile.parse("tile/8/0/000"))
    for bad in (b"", data[:-1], data + b"\n", data + b"x\n\n"):
        with pytest.raises(ContentError, match="malformed"):
            data_hashes(bad, 256)
    with pytest.raises(ContentError, match="malformed"):
        data_hashes(data, 255)


def test_an_edge_that_was_proven_is_proven_once(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes need no second look; other bytes get one, whatever was proven before."""
    size = 100
    head = Head(size, log.range_hash(0, size))
    tiles = {tile: log.tile(tile) for tile in tiles_for(size, [Node(0, 0)], 2)}
    edge = AuthenticTree(head, tiles).edge
    assert edge.keys() == tiles_for(size, (), 2)
    for tile in edge:
        with pytest.raises(InconsistentTile):
            AuthenticTree(head, {**tiles, tile: bytes(tile.length)}, edge)
    monkeypatch.setattr(AuthenticTree, "root", None)
    tree = AuthenticTree(head, tiles, edge)
    assert tree.hash(Node(0, 0)) == log.range_hash(0, 1)


def test_only_the_wrong_tiles_are_blamed(log: Log) -> None:
    size = 100
    head = Head(size, log.range_hash(0, size))
    tiles = {tile: log.tile(tile) for tile in tiles_for(size, [Node(0, 0), Node(0, 40)], 2)}
    AuthenticTree(head, tiles)

    def blamed(*paths: str) -> set[str]:
        changed = dict(tiles)
        for path in paths:
            changed[Tile.parse(path)] = bytes(len(changed[Tile.parse(path)]))
        with pytest.raises(InconsistentTile) as caught:
            AuthenticTree(head, changed)
        return set(caught.value.paths)

    edge = {tile.path for tile in tiles_for(size, (), 2)}
    assert blamed("tile/2/0/000") == {"tile/2/0/000"}
    assert blamed("tile/2/0/000", "tile/2/0/010") == {"tile/2/0/000", "tile/2/0/010"}
    # What hangs under a wrong tile is not judged, neither its children nor theirs.
    assert blamed("tile/2/2/000") == {"tile/2/2/000"}
    assert blamed("tile/2/1/000", "tile/2/0/000") == {"tile/2/1/000"}
    assert blamed("tile/2/2/000", "tile/2/1/000") == {"tile/2/2/000"}
    # The tiles of the edge answer for the root together.
    for path in edge:
        assert blamed(path) == edge


def naive_root(texts: list[bytes]) -> bytes:
    """The tree's definition, word for word."""
    if not texts:
        return EMPTY_ROOT
    if len(texts) == 1:
        return leaf_hash(texts[0])
    split = 1
    while split * 2 < len(texts):
        split *= 2
    return node_hash(naive_root(texts[:split]), naive_root(texts[split:]))


@given(size=st.integers(0, 200))
@settings(max_examples=40, deadline=None)
def test_roots_follow_the_definition(log: Log, size: int) -> None:
    assert log.range_hash(0, size) == naive_root(log.texts[:size])
    assert join([log.hash(node) for node in subtrees(0, size)]) == naive_root(log.texts[:size])


@given(data=st.data(), height=st.integers(1, 8), size=st.integers(1, 70_000))
@settings(max_examples=80, deadline=None)
def test_tiles_give_every_root_and_every_record(
    log: Log, data: st.DataObject, height: int, size: int
) -> None:
    older, number = data.draw(st.integers(0, size)), data.draw(st.integers(0, size - 1))
    wanted = tiles_for(size, [*subtrees(0, older), Node(0, number)], height)
    tree = AuthenticTree(Head(size, log.range_hash(0, size)), {tile: log.tile(tile) for tile in wanted})
    assert tree.hash(Node(0, number)) == log.hash(Node(0, number))
    assert tree.root(older) == log.range_hash(0, older)
    ranges = consistency_ranges(older, size) if older else []
    assert (tree.consistency_proof(older) if older else []) == [log.range_hash(*part) for part in ranges]


@given(
    height=st.integers(1, 30), level=st.integers(-1, 999), index=st.integers(0, (1 << 63) - 1), data=st.data()
)
@settings(max_examples=100, deadline=None)
def test_tile_paths_round_trip(height: int, level: int, index: int, data: st.DataObject) -> None:
    tile = Tile(height, level, index, data.draw(st.integers(1, 1 << height)))
    assert Tile.parse(tile.path) == tile


@given(st.text(alphabet="tile/80123xp.data-", max_size=30))
@settings(max_examples=200, deadline=None)
def test_fuzzed_tile_paths(rest: str) -> None:
    for path in (rest, f"tile/{rest}", f"tile/8/0/{rest}"):
        try:
            tile = Tile.parse(path)
        except MalformedSumdb:
            continue
        assert tile.path == path


@given(st.binary(max_size=80))
@settings(max_examples=150, deadline=None)
def test_fuzzed_records_and_heads(data: bytes) -> None:
    for prefix in (b"", b"5\n", b"5\nm v1 h1:x\n"):
        try:
            record, head = parse_record(prefix + data)
        except ContentError:
            continue
        assert (prefix + data).endswith(record.text + b"\n" + head)
    with pytest.raises(ContentError):
        Head.parse("go.sum database tree\n1\n" + data.decode("utf-8", "replace"))
