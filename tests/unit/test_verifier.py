"""The pure verifier: every vector of ``sumdb_client``, each attack, and properties over random logs."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goproxy_vm.errors import (
    Absent,
    ChecksumMismatch,
    ContentError,
    Denied,
    ForkError,
    InconsistentTile,
    NoRecord,
    UpstreamError,
)
from goproxy_vm.protocol import timeline
from goproxy_vm.protocol.artifact import Kind
from goproxy_vm.protocol.note import open_note
from goproxy_vm.protocol.tlog import HASH_BYTES, Head, Node, Tile, subtrees, tiles_for
from goproxy_vm.protocol.verifier import (
    LookupVerdict,
    Session,
    TileVerdict,
    Verdict,
    Verifier,
)
from tests.fakes.sumdb import FakeSumdb, Signer

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())["sumdb_client"]
SCENARIOS: dict[str, dict[str, Any]] = {case["id"]: case for case in VECTORS["scenarios"]}


@pytest.fixture(scope="module")
def thousand() -> FakeSumdb:
    return FakeSumdb.make(1000)


@dataclass
class Host:
    """What a fetching shell does: a tile store, a persisted head, and one source."""

    source: FakeSumdb
    height: int = 8
    tiles: dict[Tile, bytes] = field(default_factory=dict)
    verifier: Verifier = field(init=False)

    def __post_init__(self) -> None:
        self.restart(None)

    def restart(self, head: bytes | None) -> None:
        self.verifier = Verifier(self.source.key, head, tiles=self.tiles, height=self.height)

    def fetch(self, tile: Tile) -> tuple[Tile, bytes]:
        """A tile or, where it is not to be had, the full one."""
        for candidate in dict.fromkeys((tile, tile.full)):
            status, data = self.source.answer(candidate.path)
            if status == 200:
                return candidate, data
        raise UpstreamError(f"{tile.path} cannot be had")

    def run(self, session: Session) -> Verdict:
        while wanted := session.wanted():
            for tile in wanted:
                session.feed(*self.fetch(tile))
        verdict = session.finish()
        self.keep(verdict)
        return verdict

    def keep(self, verdict: Verdict) -> None:
        for tile, data in verdict.tiles.items():
            assert len(data) == tile.length
            if len(data) > len(self.tiles.get(tile.full, b"")):
                self.tiles[tile.full] = data

    def lookup(self, number: int) -> LookupVerdict:
        return self.look_up(f"example.com/m{number}", "v1.0.0")

    def look_up(self, module: str, version: str) -> LookupVerdict:
        data = self.source.body(f"lookup/{module}@{version}")
        verdict = self.run(self.verifier.lookup(module, version, data))
        assert isinstance(verdict, LookupVerdict)
        return verdict

    def latest(self) -> Verdict:
        return self.run(self.verifier.latest(self.source.body("latest")))

    def tile(self, path: str) -> TileVerdict:
        verdict = self.run(self.verifier.tile(Tile.parse(path)))
        assert isinstance(verdict, TileVerdict)
        return verdict

    @property
    def head(self) -> Head:
        note = open_note(self.verifier.head or b"", [self.source.key])
        return Head.parse(note.text)


def grown(source: FakeSumdb) -> Host:
    """A host in the vectors' state before ``older-head-500``: head 1000, and the tiles of the way."""
    host = Host(source.snapshot(300))
    host.lookup(7)
    host.source = source.snapshot(1000)
    host.lookup(900)
    host.source.requests.clear()
    return host


def check(host: Host, scenario: str) -> LookupVerdict:
    """Run a scenario that succeeds; compare the lines, the persisted head and the requests."""
    case = SCENARIOS[scenario]
    host.source.requests.clear()
    verdict = host.look_up(case["module"], case["version"])
    lines = [f"{case['module']} {case['version']} {verdict.zip}"]
    assert lines == case["lines"]
    assert verdict.head.decode() == case["persisted_latest"]
    assert host.verifier.head == verdict.head
    assert sorted(host.source.requests) == [request.removeprefix("/") for request in case["requests"]]
    return verdict


# The vectors.


def test_the_vectors_are_all_here() -> None:
    assert list(SCENARIOS) == [
        "fresh-300",
        "fresh-300-gomod-line",
        "older-head-500",
        "fork-same-size",
        "fork-older-size",
        "fork-newer-prepare",
        "fork-newer-size",
        "id-not-in-tree",
        "tile-tampered",
        "partial-missing-full-present",
        "redirected-lookup",
    ]


@pytest.mark.parametrize("scenario", ["fresh-300", "fork-newer-prepare"])
def test_fresh_300(thousand: FakeSumdb, scenario: str) -> None:
    source = thousand.snapshot(300)
    host = Host(source)
    verdict = check(host, scenario)
    stored = [f"{source.name}/{tile.path}" for tile in sorted(verdict.tiles)]
    assert [f"{source.name}/lookup/example.com/m7@v1.0.0", *stored] == VECTORS["cache_files_after_fresh_300"]
    for path, data in VECTORS["fresh_300_responses_b64"].items():
        assert source.body(path.removeprefix("/")) == base64.b64decode(data)
    assert (verdict.number, verdict.size, verdict.name) == (7, 300, source.name)


def test_fresh_300_gomod_line(thousand: FakeSumdb) -> None:
    """Both lines come with one verdict, so that there is nothing to ask for again."""
    case = SCENARIOS["fresh-300-gomod-line"]
    verdict = Host(thousand.snapshot(300)).lookup(7)
    assert case["requests"] == []
    assert [f"{case['module']} {case['version']} {verdict.mod}"] == case["lines"]
    assert verdict.head.decode() == case["persisted_latest"]


def test_case_97_older_head_500(thousand: FakeSumdb) -> None:
    host = grown(thousand)
    host.source.head_size = 500
    verdict = check(host, "older-head-500")
    assert verdict.size == 500


def fork_notes(scenario: str) -> list[bytes]:
    """The two signed notes that a security error shows."""
    report = SCENARIOS[scenario]["security_error"]
    shown = (
        report.replace("\n\t", "\n").partition("old database:\n")[2].partition("\nproof of misbehavior")[0]
    )
    return [note.encode() for note in shown.split("\nnew database:\n")]


@pytest.mark.parametrize(
    ("scenario", "requests"), [("fork-same-size", []), ("fork-older-size", ["tile/8/0/002"])]
)
def test_case_96_forks_of_the_same_and_of_an_older_size(
    thousand: FakeSumdb, scenario: str, requests: list[str]
) -> None:
    case = SCENARIOS[scenario]
    host = grown(thousand)
    forked, honest = fork_notes(scenario)
    data = thousand.lookup(3).replace(thousand.head(), forked)
    with pytest.raises(ForkError, match="SECURITY ERROR") as caught:
        host.run(host.verifier.lookup(case["module"], case["version"], data))
    assert caught.value.report == case["security_error"]
    assert (caught.value.older, caught.value.newer) == (forked, honest)
    assert [f"/{path}" for path in requests] == case["requests"][1:]
    assert host.source.requests == requests
    assert host.verifier.head == honest == case["persisted_latest"].encode()
    assert host.lookup(3).number == 3  # the next consistent answer is served


def test_case_96_fork_of_a_newer_size(thousand: FakeSumdb) -> None:
    """The fork's level-1 tile is rebuilt from the vector's own proof; its other tiles are the honest ones."""
    case = SCENARIOS["fork-newer-size"]
    honest, forked = fork_notes("fork-newer-size")
    host = Host(thousand.snapshot(300))
    host.lookup(7)
    assert host.verifier.head == honest
    host.source = source = thousand.snapshot(1000)
    first_of_level_8 = base64.b64decode(case["security_error"].split("\n\t")[-2])
    tile = source.body("tile/8/1/000.p/3")
    source.answers["tile/8/1/000.p/3"] = 200, first_of_level_8 + tile[HASH_BYTES:]
    source.change_head = lambda _: forked
    source.requests.clear()
    with pytest.raises(ForkError) as caught:
        host.look_up(case["module"], case["version"])
    assert caught.value.report == case["security_error"]
    assert (caught.value.older, caught.value.newer) == (honest, forked)
    # The host asks for the record's tiles in the same round; here they are among the others.
    assert sorted(source.requests) == [request.removeprefix("/") for request in case["requests"]]
    assert host.verifier.head == honest == case["persisted_latest"].encode()


def test_id_not_in_tree(thousand: FakeSumdb) -> None:
    case = SCENARIOS["id-not-in-tree"]
    host = Host(thousand.snapshot(300))
    host.lookup(7)
    host.source.requests.clear()
    host.source.answers["lookup/example.com/m300@v1.0.0"] = 200, host.source.lookup(300)
    with pytest.raises(ContentError, match="record 300, outside its tree of 300 records"):
        host.look_up(case["module"], case["version"])
    assert [f"/{path}" for path in host.source.requests] == case["requests"]
    assert host.verifier.head == case["persisted_latest"].encode()


def test_tile_tampered(thousand: FakeSumdb) -> None:
    """Unlike the vector's client, a first head is not kept before the tiles have borne it out."""
    case = SCENARIOS["tile-tampered"]
    host = Host(thousand.snapshot(300))
    host.source.tamper("tile/8/0/000")
    host.source.requests.clear()
    with pytest.raises(InconsistentTile, match="inconsistent tile") as caught:
        host.look_up(case["module"], case["version"])
    assert caught.value.paths == ("tile/8/0/000",)
    assert sorted(host.source.requests) == [request.removeprefix("/") for request in case["requests"]]
    assert len(host.tiles) == VECTORS["cache_files_after_tampered_tile"] == 0
    assert host.verifier.head is None


def test_case_90_partial_missing_full_present(thousand: FakeSumdb) -> None:
    source = thousand.snapshot(300)
    full = thousand.body("tile/8/0/001")
    source.lose("tile/8/0/001.p/44")
    source.answers["tile/8/0/001"] = 200, full
    host = Host(source)
    verdict = check(host, "partial-missing-full-present")
    session = host.verifier.lookup("example.com/m290", "v1.0.0", source.lookup(290))
    session.feed(Tile.parse("tile/8/0/001"), full)
    session.feed(Tile.parse("tile/8/0/001.p/44"), bytes(44 * HASH_BYTES))  # a narrower one adds nothing
    assert host.run(session).head == verdict.head
    # Only the prefix was authenticated.
    assert verdict.tiles[Tile.parse("tile/8/0/001.p/44")] == full[: 44 * HASH_BYTES]
    assert Tile.parse("tile/8/0/001") not in verdict.tiles


def test_case_59_redirected_lookup(thousand: FakeSumdb) -> None:
    """Refused before any tile is asked for, so that the next source can be tried at once."""
    case = SCENARIOS["redirected-lookup"]
    host = Host(thousand.snapshot(300))
    host.source.answers["lookup/example.com/other@v1.0.0"] = 200, host.source.lookup(7)
    with pytest.raises(ContentError, match=r"is not about example\.com/other@v1\.0\.0"):
        host.look_up(case["module"], case["version"])
    assert host.source.requests == [case["requests"][0].removeprefix("/")]


# The rules that no vector shows.


def test_a_verdict_holds_files_to_their_record(thousand: FakeSumdb) -> None:
    verdict = Host(thousand.snapshot(300)).lookup(7)
    assert verdict.mod is not None
    assert verdict.zip is not None
    verdict.check(Kind.MOD, verdict.mod)
    verdict.check(Kind.ZIP, verdict.zip)
    with pytest.raises(
        ChecksumMismatch, match=r"its zip has h1:x, but sumdb\.example\.com/log records"
    ) as caught:
        verdict.check(Kind.ZIP, "h1:x")
    assert (caught.value.got, caught.value.recorded) == ("h1:x", verdict.zip)
    assert caught.value.status == 502


def test_no_line_for_the_file_must_fail() -> None:
    source = FakeSumdb.make(0)
    source.log.append(b"example.com/A v1.0.0 h1:a\n")
    host = Host(source)
    verdict = host.run(
        host.verifier.lookup("example.com/A", "v1.0.0", source.body("lookup/example.com/!a@v1.0.0"))
    )
    assert isinstance(verdict, LookupVerdict)
    verdict.check(Kind.ZIP, "h1:a")
    with pytest.raises(ContentError, match="no h1 for the mod"):
        verdict.check(Kind.MOD, "h1:a")


def test_absence_is_a_denial() -> None:
    assert issubclass(NoRecord, Denied)
    assert NoRecord("x").status == 403


def test_case_98_the_persisted_head_is_used_again(thousand: FakeSumdb) -> None:
    host = grown(thousand)
    head = host.verifier.head
    host.restart(head)
    assert host.verifier.head == head
    assert host.verifier.size == 1000
    with pytest.raises(ForkError):
        host.verifier.latest(thousand.fork(3).head(1000))
    with pytest.raises(ContentError, match="no signature"):
        Verifier(Signer.make("other", bytes(32)).key, head)
    with pytest.raises(ContentError):
        Verifier(thousand.key, b"")  # an emptied file is no first use


def test_the_head_moves_on_and_never_back(thousand: FakeSumdb) -> None:
    host = Host(thousand.snapshot(300))
    assert host.verifier.size == 0
    host.latest()  # a first head costs nothing
    assert host.source.requests == ["latest"]
    for size, expected in ((600, 600), (0, 600), (1, 600), (600, 600), (601, 601), (300, 601)):
        host.source = thousand.snapshot(1000)
        host.source.head_size = size
        assert host.latest().head == thousand.head(expected)
        assert host.verifier.size == expected


def test_a_head_once_found_consistent_is_remembered(
    thousand: FakeSumdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "MOST_HEADS", 2)
    host = Host(thousand)
    host.latest()

    def asked(size: int) -> int:
        host.tiles.clear()
        session = host.verifier.latest(thousand.head(size))
        wanted = len(session.wanted())
        host.run(session)
        return wanted

    assert asked(300) == 3
    assert asked(300) == 0
    assert asked(301) == 3
    assert asked(300) == 0
    assert asked(302) == 3
    assert asked(301) == 3  # memory is bounded: the one not seen for longest went first
    assert asked(1000) == 0


def test_a_newer_head_is_never_taken_unproven(thousand: FakeSumdb) -> None:
    host = Host(thousand.snapshot(300))
    host.latest()
    session = host.verifier.latest(thousand.head(1000))
    assert [tile.path for tile in session.wanted()] == [
        "tile/8/0/001",
        "tile/8/0/003.p/232",
        "tile/8/1/000.p/3",
    ]
    with pytest.raises(RuntimeError, match="wanted"):
        session.finish()
    assert host.verifier.size == 300


def test_a_record_is_measured_against_the_newest_head(thousand: FakeSumdb) -> None:
    """A record beyond its own head, but in the newest, is accepted as clients accept it (rule 4)."""
    host = grown(thousand)
    data = thousand.lookup(400).replace(thousand.head(), thousand.head(300))
    verdict = host.run(host.verifier.lookup("example.com/m400", "v1.0.0", data))
    assert isinstance(verdict, LookupVerdict)
    assert (verdict.number, verdict.size) == (400, 300)


def test_sessions_side_by_side_meet_the_newest_head(thousand: FakeSumdb) -> None:
    host = Host(thousand.snapshot(300))
    early = host.verifier.lookup("example.com/m7", "v1.0.0", thousand.snapshot(300).lookup(7))
    for tile in early.wanted():
        early.feed(*host.fetch(tile))
    assert early.wanted() == []
    host.source = thousand
    host.lookup(900)
    # Its tiles are of the older tree now: what is missing is the way to the newest head.
    assert [tile.path for tile in early.wanted()] == ["tile/8/0/001"]
    host.run(early)
    assert host.verifier.size == 1000
    # And where the two are no longer of one log, it is a fork, whoever comes first.
    forked = thousand.fork(3)
    other = Verifier(thousand.key)
    late = other.latest(forked.head(500))
    host.verifier = other
    host.source = thousand.snapshot(500)
    host.latest()
    with pytest.raises(ForkError):
        late.wanted()
    with pytest.raises(ForkError):
        late.finish()


def test_a_wrong_tile_is_wanted_again_from_another_source(thousand: FakeSumdb) -> None:
    host = Host(thousand.snapshot(300))
    session = host.verifier.lookup("example.com/m7", "v1.0.0", host.source.lookup(7))
    wanted = session.wanted()
    host.source.tamper("tile/8/0/000")
    for tile in wanted:
        session.feed(*host.fetch(tile))
    with pytest.raises(InconsistentTile):
        session.finish()
    assert [tile.path for tile in session.wanted()] == ["tile/8/0/000"]
    host.source = thousand
    assert host.run(session).tiles.keys() == set(wanted)


def test_a_spoilt_store_is_not_believed_and_is_repaired(thousand: FakeSumdb) -> None:
    host = Host(thousand.snapshot(300))
    host.lookup(7)
    place = Tile.parse("tile/8/0/000")
    good = host.tiles[place]
    host.tiles[place] = bytes(len(good))
    session = host.verifier.lookup("example.com/m7", "v1.0.0", host.source.lookup(7))
    assert session.wanted() == []
    with pytest.raises(InconsistentTile):
        session.finish()
    assert session.wanted() == [place]
    verdict = host.run(session)
    assert verdict.tiles == {place: good}
    host.tiles[place] = good[:-1]  # too short to be it: just missing
    assert host.verifier.lookup("example.com/m7", "v1.0.0", host.source.lookup(7)).wanted() == [place]


@pytest.mark.parametrize(
    "path", ["tile/8/0/000", "tile/8/0/001.p/44", "tile/8/0/003.p/232", "tile/8/1/000.p/3"]
)
def test_a_tile_asked_for_by_a_client(thousand: FakeSumdb, path: str) -> None:
    host = Host(thousand)
    host.latest()
    assert host.tile(path).data == thousand.body(path)
    host.source.requests.clear()
    assert host.tile(path).data == thousand.snapshot(1000).body(path)
    assert host.source.requests == []


@pytest.mark.parametrize("path", ["tile/8/data/000", "tile/8/data/001.p/44", "tile/8/data/003.p/232"])
def test_case_94_data_tiles(thousand: FakeSumdb, path: str) -> None:
    source = thousand.snapshot(1000)
    host = Host(source)
    host.latest()
    verdict = host.tile(path)
    assert verdict.data == source.body(path)
    assert all(tile.level >= 0 for tile in verdict.tiles)
    source.answers[path] = 200, verdict.data.replace(b"h1:", b"h1:x", 1)
    with pytest.raises(InconsistentTile) as caught:
        host.tile(path)
    assert caught.value.paths == (path,)
    source.answers[path] = 200, verdict.data[:-1]
    with pytest.raises(ContentError, match="malformed"):
        host.tile(path)
    session = host.verifier.tile(Tile.parse(path))
    session.feed(Tile.parse("tile/8/data/002"), b"not asked for")
    assert session.wanted() == [Tile.parse(path)]


def test_tiles_outside_the_log_are_not_covered(thousand: FakeSumdb) -> None:
    host = Host(thousand.snapshot(300))
    paths = ["tile/8/0/000", "tile/8/0/001", "tile/8/0/001.p/45", "tile/8/1/000.p/2", "tile/8/data/002.p/1"]
    assert not host.verifier.covers(Tile.parse(paths[0]))
    host.latest()
    assert host.verifier.covers(Tile.parse(paths[0]))
    for path in [*paths[1:], "tile/2/0/000", "tile/8/64/000"]:
        with pytest.raises(Absent, match="is not in the log of 300 records"):
            host.verifier.tile(Tile.parse(path))


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        (lambda fake: fake.tamper("tile/8/0/000", 77), InconsistentTile),
        (lambda fake: fake.tamper("tile/8/0/001.p/44", 8 * 31), InconsistentTile),
        (lambda fake: fake.tamper("tile/8/1/000.p/1"), InconsistentTile),
        (lambda fake: fake.cut("tile/8/0/000", 8191), ContentError),
        (lambda fake: fake.cut("tile/8/0/001.p/44", 45 * 32), ContentError),
        (lambda fake: fake.lose("tile/8/0/000"), UpstreamError),
        (lambda fake: fake.redirect("lookup/example.com/m7@v1.0.0", 8), ContentError),
        (lambda fake: fake.renumber("lookup/example.com/m7@v1.0.0", 8), ContentError),
        (lambda fake: fake.renumber("lookup/example.com/m7@v1.0.0", 300), ContentError),
        (lambda fake: fake.forge("lookup/example.com/m7@v1.0.0", b"h1:F", b"h1:G"), ContentError),
        (lambda fake: fake.break_signature(), ContentError),
        (lambda fake: fake.sign_as(Signer.make("mallory.example.com", bytes(32))), ContentError),
        (lambda fake: fake.sign_as(Signer.make(fake.name, bytes(32))), ContentError),
    ],
    ids=[
        *("leaf tile", "edge tile", "upper tile", "short tile", "long tile", "lost tile", "another's record"),
        *(
            "wrong number",
            "outside the tree",
            "forged text",
            "bad signature",
            "unknown signer",
            "unknown key",
        ),
    ],
)
def test_attacks_are_refused(thousand: FakeSumdb, attack: Any, error: type[UpstreamError]) -> None:
    host = Host(thousand.snapshot(300))
    attack(host.source)
    with pytest.raises(error) as caught:
        host.lookup(7)
    assert caught.value.status == 502
    assert host.tiles == {}


def test_a_lost_record_and_a_stale_head(thousand: FakeSumdb) -> None:
    source = thousand.snapshot(1000)
    source.lose("lookup/example.com/m7@v1.0.0", 410)
    assert source.answer("lookup/example.com/m7@v1.0.0")[0] == 410
    assert source.answer("lookup/example.com/none@v1.0.0")[0] == 404
    assert source.answer("tile/8/0/0")[0] == 400
    assert source.answer("tile/8/0/004")[0] == 404
    assert source.answer("supported") == (200, b"")
    source.head_size = 8
    host = Host(source)
    assert host.lookup(6).size == 8
    number = source.add("example.com/!new", "v1.0.0", "h1:z", "h1:m")
    assert number == 1000
    assert len(source) == 1000  # a snapshot does not grow


# Properties.


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[str, int, int]]]:
    """A tile height, and steps: grow the log, look a record up under some head, take ``latest``, restart."""
    height = draw(st.integers(1, 3))
    size = draw(st.integers(1, 30))
    steps = [("grow", size, 0)]
    for _ in range(draw(st.integers(1, 10))):
        kind = draw(st.sampled_from(["lookup", "lookup", "lookup", "grow", "latest", "restart"]))
        if kind == "grow":
            by = draw(st.integers(1, 60))
            size += by
            steps.append((kind, by, 0))
        else:
            number = draw(st.integers(0, size - 1))
            head = draw(st.integers(number + 1, size))
            steps.append((kind, number, head))
    return height, steps


@given(histories(), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_honest_histories_are_accepted_and_mirrored(
    history: tuple[int, list[tuple[str, int, int]]], rng: random.Random
) -> None:
    """All honest answers pass; and what is stored is enough for fresh clients, in whatever order they ask."""
    height, steps = history
    source = FakeSumdb.make(0)
    host = Host(source, height)
    stored: list[tuple[int, bytes, LookupVerdict]] = []
    largest = 0
    for kind, number, size in steps:
        source.head_size = size
        if kind == "grow":
            source.grow(number)
        elif kind == "restart":
            host.restart(host.verifier.head)
        elif kind == "latest":
            host.latest()
            largest = max(largest, size)
        else:
            data = source.body(f"lookup/example.com/m{number}@v1.0.0")
            verdict = host.run(host.verifier.lookup(f"example.com/m{number}", "v1.0.0", data))
            assert isinstance(verdict, LookupVerdict)
            assert verdict.size == size
            stored.append((number, data, verdict))
            largest = max(largest, size)
        assert host.verifier.size == largest
        if largest:
            assert host.head == Head(largest, source.log.range_hash(0, largest))
    named: dict[Tile, int] = {}
    for number, _, verdict in stored:
        # What any fresh client asks for is a prefix of these, which are named in the tree of the newest head,
        # or of those that sessions add when that head moves on (they read the older head's edge in it).
        needed = [Node(0, number), *subtrees(0, verdict.size)]
        for tile in tiles_for(host.verifier.size, needed, height):
            named[tile.full] = tile.width
            assert len(host.tiles[tile.full]) >= tile.length
    for _ in range(3):
        rng.shuffle(stored)
        newest = 0
        client = Verifier(source.key, height=height)
        for number, data, verdict in stored:
            # Released clients ask for all of this each time; ours, for what it does not yet know.
            older, newest = min(newest, verdict.size), max(newest, verdict.size)
            asked = tiles_for(newest, [Node(0, number), *subtrees(0, older)], height)
            session = client.lookup(f"example.com/m{number}", "v1.0.0", data)
            assert asked.issuperset(session.wanted())
            for tile in asked:
                have = host.tiles.get(tile.full, b"")
                assert len(have) >= tile.length, f"{tile.path} is not stored"
                assert named[tile.full] >= tile.width
                session.feed(tile, have[: tile.length])
            assert session.finish().head == source.head(newest)


@given(
    height=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 60), st.integers(0, 60)),
    number=st.integers(0, 10**6),
    which=st.integers(0, 10**6),
    bit=st.integers(0, 10**6),
)
@settings(max_examples=400, deadline=None)
def test_any_single_changed_bit_is_refused_or_harmless(
    height: int, sizes: tuple[int, int], number: int, which: int, bit: int
) -> None:
    """One bit of one answer, of a lookup or a tile: an error of the family, or the very same verdict."""
    older, by = sizes
    source = FakeSumdb.make(older)
    head = source.head()
    source.grow(by)
    number %= len(source)

    def look_up() -> tuple[Any, ...]:
        host = Host(source, height)
        host.restart(head)
        verdict = host.lookup(number)
        return host.head, verdict.tiles, verdict.number, verdict.size, verdict.mod, verdict.zip

    honest = look_up()
    paths = list(dict.fromkeys(source.requests))
    source.tamper(paths[which % len(paths)], bit)
    try:
        changed = look_up()
    except UpstreamError:
        return
    assert changed == honest


@given(
    older=st.integers(1, 60),
    by=st.integers(0, 60),
    at=st.integers(0, 59),
    height=st.integers(1, 3),
    swap=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_forks_are_found_whichever_head_comes_first(
    older: int, by: int, at: int, height: int, swap: bool
) -> None:
    honest = FakeSumdb.make(older + by)
    forked = honest.fork(at % older)
    first, second = (honest.head(older), forked) if not swap else (honest.head(), forked)
    if swap:
        second.head_size = older
    host = Host(second, height)
    host.restart(first)
    if swap:
        session_data = second.head(older)
        host.source = honest  # tiles of the newest tree come from the log that its head is of
    else:
        session_data = second.head()
    with pytest.raises(ForkError) as caught:
        host.run(host.verifier.latest(session_data))
    assert {caught.value.older, caught.value.newer} == {first, session_data}
    assert host.verifier.head == first
    for note in (caught.value.older, caught.value.newer):
        shown = note.decode().replace("\n", "\n\t")
        assert shown in caught.value.report


@given(st.binary(max_size=120), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_fuzz_fails_within_the_family(data: bytes, position: int) -> None:
    source = FakeSumdb.make(20)
    good = source.lookup(7)
    cut = position % len(good)
    for lookup in (
        data,
        good[:cut] + data + good[cut:],
        good[:cut] + data,
        b"7\n" + data + b"\n" + source.head(),
    ):
        verifier = Verifier(source.key, source.head(5), height=2)
        try:
            session = verifier.lookup("example.com/m7", "v1.0.0", lookup)
            for tile in session.wanted():
                session.feed(tile, data.ljust(tile.length, b"\0")[: tile.length])
            session.finish()
        except UpstreamError:
            continue
        assert lookup == good
