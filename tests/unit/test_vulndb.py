"""The files of a vulnerability database: names, packing, indexes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pytest

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.lines import Steps
from goproxy_vm.protocol.request import parse
from goproxy_vm.protocol.vulndb import (
    STEP,
    DatabaseFile,
    Listed,
    longest,
    pack,
    parse_database,
    parse_modules,
    parse_path,
    parse_vulns,
    unpack,
)
from tests.fakes.vulndb import DAY, documents, entry

ENTRY = entry("GO-2026-0001", {"example.com/m": [{"introduced": "0"}, {"fixed": "1.2.0"}]})


def run(steps: Steps[object]) -> tuple[object, int]:
    """What steps come to, and how many there were."""
    count = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value, count
        count += 1


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("index/db.json", "index/db"),
        ("index/modules.json", "index/modules"),
        ("index/vulns.json", "index/vulns"),
        ("ID/GO-2026-0001.json", "ID/GO-2026-0001"),
        ("ID/GO-2026-12345678.json", "ID/GO-2026-12345678"),
    ],
)
def test_names(path: str, name: str) -> None:
    assert parse_path(f"/vulndb/{path}") == DatabaseFile(name, zipped=False)
    assert parse_path(f"/vulndb/{path}.gz") == DatabaseFile(name, zipped=True)


@pytest.mark.parametrize(
    "path",
    [
        "/vulndb",
        "/vulndb/",
        "/vulndb/index.json",
        "/vulndb/index/db",
        "/vulndb/index/db.json.gz.gz",
        "/vulndb/index/db.json?x",
        "/vulndb/index/db.json\n",
        "/vulndb/index/../index/db.json",
        "/vulndb//index/db.json",
        "/vulndb/index%2Fdb.json",
        "/vulndb/ID/GO-2026-0001",
        "/vulndb/ID/GO-2026-001.json",
        "/vulndb/ID/GO-2026-123456789.json",
        "/vulndb/ID/GO-２０２６-0001.json",
        "/vulndb/ID/go-2026-0001.json",
        "/vulndb/ID/index.json",
        "/vulndb/ID/GHSA-xxxx-yyyy-zzzz.json",
        "/cached-only/vulndb/index/db.json",
        "/vulndb/@v/list",
    ],
)
def test_other_names(path: str) -> None:
    assert parse_path(path) is None


@pytest.mark.parametrize("path", ["/vulndb/@v/list", "/vulndb/x/@v/list", "/vulndb/index/@latest"])
def test_no_module_is_called_so(path: str) -> None:
    with pytest.raises(Exception, match=r"."):
        parse(path, None)


def test_packing() -> None:
    plain = b'{"modified":"x"}' * 100
    assert pack(plain) == pack(plain)
    assert unpack(pack(plain), len(plain)) == plain == gzip.decompress(pack(plain))
    assert unpack(plain, 10) == plain


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x1f\x8b<html>", "no valid gzip"),
        (gzip.compress(b"x" * 1000, mtime=0)[:-9], "cut off"),
        (gzip.compress(b"x", mtime=0) + b"y", "something follows"),
        (gzip.compress(b"x" * 1001, mtime=0), "unpacks to more than 1000 bytes"),
        (gzip.compress(bytes(50_000_000), mtime=0), "unpacks to more than 1000 bytes"),
    ],
)
def test_what_cannot_be_unpacked(data: bytes, said: str) -> None:
    with pytest.raises(ContentError, match=said):
        unpack(data, 1000)


def test_the_database() -> None:
    assert parse_database(documents([ENTRY])["index/db.json"]) == DAY
    for data in (b"", b"<html>", b"[]", b"{}", b'{"modified": 7}', b'{"modified": "now"}', b"\xff"):
        with pytest.raises(ContentError):
            parse_database(data)


def test_the_index_of_modules() -> None:
    (index, _) = run(parse_modules(documents([ENTRY])["index/modules.json"]))
    assert index.modules == {"example.com/m": (Listed("GO-2026-0001", "1.2.0"),)}  # type: ignore[attr-defined]
    assert run(parse_modules(b" [ ] \n"))[0].modules == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("parsed", [parse_modules, parse_vulns])
def test_a_long_index_is_read_in_steps(parsed: Callable[[bytes], Steps[object]]) -> None:
    entries = [
        entry(f"GO-2026-{n:05}", {f"example.com/m{n}": [{"introduced": "0"}]}) for n in range(10 * STEP)
    ]
    name = "modules" if parsed is parse_modules else "vulns"
    assert run(parsed(documents(entries)[f"index/{name}.json"]))[1] >= 10


def without(key: str, value: object = None) -> bytes:
    made = {"path": "example.com/m", "vulns": [{"id": "GO-2026-0001", "modified": DAY}]}
    if key in made:
        made[key] = value  # type: ignore[assignment]
    else:
        made["vulns"][0][key] = value  # type: ignore[index]
    return json.dumps([made]).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"{}",
        b"[1]",
        b"[{}]",
        b"[{} {}]",
        b"[{},]",
        b"[",
        b"[]x",
        b"\xff",
        b"[" * 100_000,
        without("path"),
        without("path", 7),
        without("vulns"),
        without("vulns", [1]),
        without("id"),
        without("id", "../../etc/passwd"),
        without("modified"),
        without("modified", "soon"),
        without("fixed", 7),
    ],
)
def test_what_is_no_index_of_modules(data: bytes) -> None:
    with pytest.raises(ContentError):
        run(parse_modules(data))


@pytest.mark.parametrize("data", [b"{}", b"[1]", b"[{}]", b'[{"id":"GO-2026-0001"}]', b'[{"id":"x"}]', b"["])
def test_what_is_no_index_of_advisories(data: bytes) -> None:
    with pytest.raises(ContentError):
        run(parse_vulns(data))


def test_how_long_each_may_be() -> None:
    assert (
        longest("index/db") < longest("ID/GO-2026-0001") < longest("index/modules") == longest("index/vulns")
    )
