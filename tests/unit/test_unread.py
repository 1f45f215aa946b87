"""web/unread.py: who is cut off where documents that nobody reads are too many."""

from __future__ import annotations

import pytest

from goproxy_vm.web import unread
from goproxy_vm.web.unread import Unread


class Fake:
    """As much of a connection as matters."""

    def __init__(self, client: str) -> None:
        self.client = client
        self.cut = False

    def abort(self) -> None:
        self.cut = True


@pytest.fixture(autouse=True)
def most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "MOST", 100)


def sending(kept: Unread, client: str, body: bytes) -> Fake:
    connection = Fake(client)
    kept.add(connection, body)
    return connection


def test_whoever_keeps_most_is_cut_off_where_it_waited_longest() -> None:
    kept = Unread()
    other = sending(kept, "b", bytes(30))
    greedy = [sending(kept, "a", bytes(20)) for _ in range(3)]
    kept.taken(greedy[0])
    newest = sending(kept, "c", bytes(30))
    assert [each.cut for each in (other, *greedy, newest)] == [False, False, True, False, False]
    assert kept.bytes == 100
    kept.remove(greedy[1])
    assert kept.bytes == 100


def test_what_several_send_counts_once() -> None:
    kept, body = Unread(), bytes(90)
    many = [sending(kept, client, body) for client in "aabc"]
    assert kept.bytes == 90
    for each in many[1:]:
        kept.remove(each)
    assert kept.bytes == 90
    kept.remove(many[0])
    assert (kept.bytes, kept._bodies, kept._senders) == (0, {}, {})
    assert not any(each.cut for each in many)


def test_what_many_send_is_cut_off_last() -> None:
    """To cut off one of them frees nothing: all were, others' too, one after the other, in seconds."""
    kept, popular = Unread(), bytes(40)
    many = [sending(kept, client, popular) for client in "ab" * 1000]
    alone = [sending(kept, "a", bytes(30)) for _ in range(2)]
    newest = sending(kept, "c", bytes(30))
    assert [each.cut for each in (*alone, newest)] == [True, False, False]
    assert not any(each.cut for each in many)
    assert kept.bytes == 100


def test_what_all_of_its_connections_send_is_cut_off_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = 0
    cut = Unread._cut

    def counted(self: Unread) -> None:
        nonlocal searched
        searched += 1
        cut(self)

    monkeypatch.setattr(Unread, "_cut", counted)
    kept, popular = Unread(), bytes(60)
    many = [sending(kept, "a", popular) for _ in range(100)]
    newest = sending(kept, "b", bytes(50))
    assert all(each.cut for each in many)
    assert (newest.cut, kept.bytes, searched) == (False, 50, 1)


def test_who_shares_is_not_who_keeps_most() -> None:
    kept, popular = Unread(), bytes(50)
    sharing = [sending(kept, client, popular) for client in "abcde"]
    alone = sending(kept, "f", bytes(40))
    newest = sending(kept, "g", bytes(30))
    assert [each.cut for each in (*sharing, alone, newest)] == [False] * 5 + [True, False]


def test_one_client_alone_is_served_its_newest() -> None:
    kept = Unread()
    found = [sending(kept, "a", bytes(60)) for _ in range(4)]
    assert [each.cut for each in found] == [True, True, True, False]
    assert kept.bytes == 60
