"""Names of addresses: each is asked for once, none holds the others up, and silence ends."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from goproxy_vm.console import reverse
from goproxy_vm.console.reverse import AT_ONCE, MOST, Reverse


def fetch(client: str, name: str | None = None) -> dict[str, Any]:
    return {"client": client, "name": name}


def test_each_address_is_asked_for_once() -> None:
    asked = []

    def name_of(address: str) -> str:
        asked.append(address)
        if address == "10.0.0.2":
            raise socket.herror(1, "Unknown host")
        if address == "10.0.0.3":
            raise UnicodeError
        return f"{address}.example"

    clients = ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.3", "fd00::1", "unix", "~0a"]
    items = [*map(fetch, clients), fetch("10.0.0.9", "known")]
    Reverse(name_of).add(items)
    assert sorted(asked) == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1"]
    assert [each["dns"] for each in items] == [
        *("10.0.0.1.example", None, "10.0.0.1.example", None, "fd00::1.example", None, None, None),
    ]


def test_so_many_are_asked_for_at_most() -> None:
    asked = []

    def name_of(address: str) -> str:
        asked.append(address)
        return "x"

    items = [fetch(f"10.0.{n >> 8}.{n & 255}") for n in range(MOST + 20)]
    Reverse(name_of).add(items)
    assert len(asked) == MOST
    assert [each["dns"] for each in items[-20:]] == [None] * 20


def test_who_does_not_answer_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reverse, "SECONDS", 0.05)
    over = threading.Event()

    def name_of(address: str) -> str:
        if address == "10.0.0.0":
            over.wait()
        return "x"

    items = [fetch(f"10.0.0.{n}") for n in range(AT_ONCE + 1)]
    Reverse(name_of).add(items)
    over.set()
    assert [each["dns"] for each in items] == [None, *["x"] * AT_ONCE]
