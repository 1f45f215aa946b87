"""ledger.db: what is on record, in which order, and what goes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from goproxy_vm.cache.database import Impossible
from goproxy_vm.config.clients import ClientNames, parse_client_names
from goproxy_vm.ledger.facts import Fetched, Noted, Sought
from goproxy_vm.ledger.table import REFUSED_SHARE, STEP, FetchTable

ALL = 1_000_000
NOW = 2_000_000_000
NOBODY = ClientNames()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def table(path: Path) -> Iterator[FetchTable]:
    with closing(FetchTable.open(path)) as opened:
        yield opened


def noted(client: str, name: str, at: int, count: int = 1, refused: int = 0) -> Noted:
    """``name`` is MODULE@VERSION."""
    module, _, version = name.partition("@")
    return Noted(client, f"{module}/@v/{version}.zip", at, at, count, refused)


def found(table: FetchTable, wanted: Sought, names: ClientNames = NOBODY) -> list[Fetched]:
    return table.find(wanted, names, NOW).items


def who(table: FetchTable, module: str, *versions: str) -> list[tuple[str, str]]:
    items = found(table, Sought(module, frozenset(versions) or None, limit=1000))
    return [(each.version, each.client) for each in items]


def test_who_and_what(table: FetchTable) -> None:
    table.write([noted("10.0.0.1", "a.b/!m@v1.0.0", 50), noted("10.0.0.2", "a.b/!m@v1.0.0", 70)], ALL)
    table.write([noted("10.0.0.1", "a.b/!m@v1.0.0", 60, 2, 1), noted("10.0.0.1", "a.b/!m@v1.1.0", 10)], ALL)
    table.write([noted("10.0.0.1", "a.b/!m@v1.0.0", 40), noted("10.0.0.1", "a.b/!m/v2@v2.0.0", 90)], ALL)
    assert table.rows == 4
    assert found(table, Sought("a.b/M", frozenset({"v1.0.0"}))) == [
        Fetched("a.b/M", "v1.0.0", "10.0.0.2", "", 70, 70, 1, 0),
        Fetched("a.b/M", "v1.0.0", "10.0.0.1", "", 40, 60, 4, 1),
    ]
    assert who(table, "a.b/M") == [("v1.0.0", "10.0.0.2"), ("v1.0.0", "10.0.0.1"), ("v1.1.0", "10.0.0.1")]
    assert who(table, "a.b/M", "v1.1.0", "v9.0.0") == [("v1.1.0", "10.0.0.1")]
    assert who(table, "a.b/m") == who(table, "a.b/M", "v2.0.0") == []
    items = found(table, Sought(client="10.0.0.1"))
    assert [(each.module, each.version) for each in items] == [
        ("a.b/M/v2", "v2.0.0"),
        ("a.b/M", "v1.0.0"),
        ("a.b/M", "v1.1.0"),
    ]
    assert found(table, Sought(client="10.0.0.3")) == found(table, Sought(client="")) == []
    assert len(found(table, Sought("a.b/M", since=NOW - 60.0))) == 2


class Newer:
    """A range of versions."""

    def __contains__(self, version: str) -> bool:
        return version >= "v1.1.0"


def test_versions_may_be_anything_that_knows_its_own(table: FetchTable) -> None:
    table.write([noted("c", f"a.b/m@v1.{n}.0", n) for n in range(4)], ALL)
    items = found(table, Sought("a.b/m", Newer()))
    assert [each.version for each in items] == ["v1.3.0", "v1.2.0", "v1.1.0"]


@pytest.mark.parametrize("wanted", [{"module": "a.b/m"}, {"client": "c1"}, {"client": "all"}])
def test_pages(table: FetchTable, wanted: dict[str, str]) -> None:
    """Many at the same second, and some that come meanwhile."""
    names = parse_client_names(["10.0.0.0/8=all"])
    clients = [f"10.0.0.{n}" for n in range(5)] if wanted.get("client") == "all" else ["c1", "c2"]
    table.write([noted(client, f"a.b/m@v1.{n}.0", n // 7) for n in range(23) for client in clients], ALL)
    whole = table.find(Sought(**wanted, limit=1000), names, NOW)
    assert (len(whole.items), whole.next_cursor) == (whole.total, None)
    assert [each.last for each in whole.items] == sorted((each.last for each in whole.items), reverse=True)
    items, cursor = [], None
    while True:
        page = table.find(Sought(**wanted, limit=4, cursor=cursor), names, NOW)
        assert len(page.items) <= 4
        items += page.items
        cursor = page.next_cursor
        if cursor is None:
            break
        table.write([noted(clients[0], f"a.b/m@v2.{len(items)}.0", NOW)], ALL)  # before all that still come
    assert items == whole.items
    for bad in ("x", "", "1.2", "1.2.3.4", "1.2.-3", "1" * 13 + ".1.1", "٣.1.1"):
        with pytest.raises(ValueError, match="the cursor is none"):
            table.find(Sought("a.b/m", cursor=bad), NOBODY, NOW)


def test_names(table: FetchTable) -> None:
    names = parse_client_names(["10.0.0.7=build-7", "10.0.0.0/8=ci", "fd00::/16=ci"])
    clients = ["10.0.0.7", "10.0.0.8", "fd00::1", "unix", "~00", "192.0.2.1"]
    table.write([noted(client, "a.b/m@v1.0.0", n) for n, client in enumerate(clients)], ALL)
    items = found(table, Sought("a.b/m"), names)
    assert [each.name for each in reversed(items)] == ["build-7", "ci", "ci", "", "", ""]
    assert [each.client for each in found(table, Sought(client="ci"), names)] == ["fd00::1", "10.0.0.8"]
    assert [each.client for each in found(table, Sought(client="build-7"), names)] == ["10.0.0.7"]
    assert [each.name for each in found(table, Sought(client="10.0.0.7"), names)] == ["build-7"]


def test_rows_are_bounded(table: FetchTable) -> None:
    for n in range(30):
        table.write([noted(f"c{n}", f"a.b/m@v1.{m}.0", n) for m in range(10)], 100)
        assert table.rows <= 100
    assert table.rows == 100
    assert {client for _, client in who(table, "a.b/m")} == {f"c{n}" for n in range(20, 30)}
    assert table.trim(0, 35) == 65
    assert table.trim(0, 35) == 0
    assert len(who(table, "a.b/m")) == table.rows == 35


def test_who_is_refused_pushes_nobody_out(table: FetchTable) -> None:
    """It may ask for anything, and never gets it."""
    table.write([noted(f"c{n}", "a.b/m@v1.0.0", n) for n in range(90)], 100)
    for n in range(20):
        made_up = [noted("evil", f"a.b/x{n}@v1.{m}.0", 1000 + n, 0, 1) for m in range(50)]
        table.write(made_up, 100)
        assert table.only_refused == 100 // REFUSED_SHARE
        assert table.rows == 100
    assert len(who(table, "a.b/m")) == 90
    assert len(found(table, Sought(client="evil"))) == 10
    table.write([noted("evil", "a.b/x19@v1.49.0", 2000)], 100)
    assert table.only_refused == 9, "it got it after all"


def test_what_is_too_old_goes(table: FetchTable, path: Path) -> None:
    table.write([noted(f"c{n % 3}", f"a.b/m{n}@v1.0.0", n) for n in range(STEP + 100)], ALL)
    assert table.trim(STEP + 50, ALL) == STEP
    assert table.trim(STEP + 50, ALL) == 50
    assert table.trim(STEP + 50, ALL) == 0
    assert table.rows == 50
    assert table.trim(NOW, ALL) == 50
    table.close()
    with closing(sqlite3.connect(path)) as database:
        for name in ("fetches", "versions", "clients"):
            assert database.execute(f"SELECT count(*) FROM {name}").fetchone() == (0,), name


def test_a_name_goes_with_the_last_that_it_is_for(table: FetchTable) -> None:
    table.write([noted("c1", "a.b/m@v1.0.0", 1), noted("c2", "a.b/m@v1.0.0", 2)], ALL)
    table.trim(2, ALL)
    assert who(table, "a.b/m") == [("v1.0.0", "c2")]
    assert found(table, Sought(client="c1")) == []


def test_it_is_there_when_it_is_opened_again(table: FetchTable, path: Path) -> None:
    table.write([noted("c1", "a.b/m@v1.0.0", 1), noted("c1", "a.b/n@v1.0.0", 1, 0, 1)], ALL)
    table.close()
    with closing(FetchTable.open(path)) as again:
        assert (again.rows, again.only_refused) == (2, 1)
        assert who(again, "a.b/m") == [("v1.0.0", "c1")]


def test_all_of_a_write_or_nothing(table: FetchTable) -> None:
    def some() -> Iterator[Noted]:
        yield noted("c1", "a.b/m@v1.0.0", 1)
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(sqlite3.OperationalError):
        table.write(some(), ALL)
    assert (table.rows, table.only_refused) == (0, 0)
    assert who(table, "a.b/m") == []
    table.write([noted("c1", "a.b/m@v1.0.0", 1)], ALL)
    assert table.rows == 1


def test_other_names(table: FetchTable) -> None:
    table.write([noted(client, "a.b/m@v1.0.0", 1) for client in ("a", "b", "~c")], ALL)
    table.rename(lambda name: name if name.startswith("~") else f"~{name}")
    assert {client for _, client in who(table, "a.b/m")} == {"~a", "~b", "~c"}


def test_of_another_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 7")
    with pytest.raises(Impossible, match="schema 7"):
        FetchTable.open(path)
