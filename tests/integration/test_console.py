"""The commands that ask a running server: what they ask, what they print, how they end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm import cli
from goproxy_vm.cache.facts import Pass, Selection, Totals
from goproxy_vm.console import commands
from goproxy_vm.console.progress import Progress
from goproxy_vm.errors import NoRoom
from tests.fakes.api_thread import ApiThread
from tests.fakes.operations import DAY, SIZE, STARTED, stored
from tests.fakes.upstream import FakeUpstream
from tests.integration.conftest import Serve

TOKEN = "t0ken-of-the-console"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing but what a test sets, and no time zone."""
    for name in list(os.environ):
        if name.startswith(("GOPROXY_VM_", "XDG_", "CACHE_DIRECTORY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiThread]:
    """A server that the environment names."""
    with ApiThread(TOKEN) as made:
        monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", made.url.removeprefix("http://"))
        monkeypatch.setenv("GOPROXY_VM_ADMIN_TOKEN", TOKEN)
        yield made


class Command:
    """Runs commands; what they printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *argv: str) -> list[str]:
        """The lines of a command that succeeds and complains about nothing."""
        status = cli.main(argv)
        out, err = self._capsys.readouterr()
        assert (status, err) == (0, "")
        return out.splitlines()

    def json(self, *argv: str) -> Any:
        """The answer, with ``--json`` before the command and after it."""
        before = self(*["--json", *argv])
        assert before
        return json.loads("\n".join(before))

    def fails(self, status: int, *argv: str) -> str:
        """The one line of a command that fails."""
        assert cli.main(argv) == status
        out, err = self._capsys.readouterr()
        assert out == ""
        assert err.startswith("goproxy-vm: ")
        assert err.count("\n") == 1
        return err.removeprefix("goproxy-vm: ").rstrip()


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def asked(api: ApiThread) -> list[tuple[object, ...]]:
    """What was asked since the last time."""
    found, api.operations.asked = api.operations.asked, []
    return found


def test_status(api: ApiThread, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    lines = command("status")
    assert lines[0] == "server       goproxy_vm 1.2.3, ready, up 1d 2h"
    assert [re.sub(r"\d{4}-\d\d-\d\d [\d:]{8} \+0000", "WHEN", line) for line in lines[1:13]] == [
        "served       1,300 requests since the start; 930 hits of 1,000 found (93.0%), 5.00 GiB saved",
        "             130 requests in the last 1d; 95 hits of 100 found (95.0%), 1.00 GiB saved",
        "requests     12.5/s",
        "clients      3 with 41 connections",
        "upstreams    one.example: ok",
        "             two.example: failing since WHEN, backed off for 42s: 503",
        "             three.example: failing since WHEN: timed out",
        "database     sum.golang.org: not asked yet",
        "gate         no rules",
        "directory    /var/cache/goproxy-vm",
        "used         448 KiB of 46.6 GiB (50.0 GB), 0.0%",
        "reserved     0 B",
    ]
    assert "  zip        3 files, 424 KiB" in lines
    assert "policy       slru, no idle limit" in lines
    assert "oldest idle  40d: the zip that goes first" in lines
    assert lines[-2] == "last scrub   none"
    assert "recovery     under way" in lines
    assert lines[-1] == "last pass    none"
    kept, api.operations.stored = api.operations.stored, {}
    assert "oldest idle  no zip" in command("status")
    api.operations.stored = kept
    assert cli.main(["evict", "--target", "1KiB"]) == 1
    capsys.readouterr()
    assert (
        command("status")[-1]
        == "last pass    1: evict, 2025-06-15 15:06:42 +0000, 424 KiB evicted, target missed"
    )
    assert command.json("status")["state"] == "ready"


def test_ls(api: ApiThread, command: Command) -> None:
    lines = command("ls")
    assert [" ".join(line.split()) for line in lines] == [
        "VERSION SIZE HITS IDLE FILES PIN",
        "example.com/a@v1.0.0 20.0 KiB 7 5s info,mod,zip",
        "example.com/a@v1.1.0 20.0 KiB 1 40d info,mod,zip",
        "github.com/Azure/sdk/v2@v2.0.0+incompatible 408 KiB 1 1h info,mod,zip",
        "3 of 3 versions",
    ]
    assert len({line.index("info,mod,zip") for line in lines[1:4]}) == 1
    asked(api)
    lines = command("ls", "--prefix", "example.com/", "--sort=idle", "--limit", "1")
    assert lines[1].startswith("example.com/a@v1.1.0")
    assert lines[2:] == ["1 of 2 versions"]
    assert asked(api) == [("versions", "example.com/", "idle", 1, None)]
    assert command("ls", "--prefix", "nothing") == ["0 of 0 versions"]
    assert command.json("ls", "--limit", "2")["next_cursor"] == "2"


def test_ls_of_patterns(api: ApiThread, command: Command) -> None:
    assert command("ls", "*@v1.1.0", "github.com/*", "--prefix", "git")[1:] == [
        "github.com/Azure/sdk/v2@v2.0.0+incompatible  408 KiB     1    1h  info,mod,zip",
        "1 of 1 version",
    ]
    assert asked(api) == [("versions", "git", "name", 100, None, "*@v1.1.0", "github.com/*@*")]


def test_ls_of_more_than_a_page(api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "PAGE", 2)
    for number in range(5):
        name = ("example.com/m", f"v1.0.{number}")
        api.operations.stored[name] = stored(*name, idle=1)
    assert command("ls")[-1] == "8 of 8 versions"
    assert [words[3:] for words in asked(api)] == [(2, None), (2, "2"), (2, "4"), (2, "6")]
    answer = command.json("ls", "--limit", "5")
    assert [words[3:] for words in asked(api)] == [(2, None), (2, "2"), (1, "4")]
    assert (len(answer["items"]), answer["next_cursor"], answer["total"]) == (5, "5", 8)


def test_vms(api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = command("vms")
    age = lines[1].split("clean")[1].partition("ago")[0].strip()
    assert age.endswith(("d", "h"))
    assert [" ".join(line.split()) for line in [*lines[:1], *lines[2:]]] == [
        "ADDRESS GO DIFFERS SCRIPT SEEN MODULES BUILDS",
        f"fd00::1 go1.24.11 differs setup {lines[2].split('setup')[1].strip()}",
        "2 of 2 VMs; 1 without the Go version of the setting vm_go, 1.26.8",
    ]
    assert re.fullmatch(r"10\.0\.0\.2 +go1\.26\.8 +no +clean +\d.* ago +409 MiB +920 MiB", lines[1])
    assert asked(api) == [("vms", 100, None)]
    api.operations.vm_go = ""
    lines = command("vms", "--limit", "1")
    assert lines[1].split()[:3] == ["10.0.0.2", "go1.26.8", "clean"]
    assert lines[2:] == ["1 of 2 VMs"]
    asked(api)
    monkeypatch.setattr(commands, "PAGE", 1)
    assert [each["address"] for each in command.json("vms")["items"]] == ["10.0.0.2", "fd00::1"]
    assert asked(api) == [("vms", 1, None), ("vms", 1, "7")]
    api.operations.known = []
    assert command("vms") == ["0 of 0 VMs"]


def test_who(api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = command("who", "example.com/a@v1.0.0", "--since", "7d")
    assert [" ".join(line.split()) for line in lines] == [
        "CLIENT NAME VERSION FIRST LAST COUNT REFUSED",
        "10.0.0.7 build-7 v1.0.0 2025-06-15 15:05:40 +0000 2025-06-15 15:06:40 +0000 12 3",
        "10.0.0.8 v1.0.0 2025-06-15 15:05:10 +0000 2025-06-15 15:05:10 +0000 1",
        "2 of 2 pairs of client and version, 2 clients",
    ]
    ((_, sought),) = asked(api)
    assert (sought.since, sought.limit, "v1.0.0" in sought.versions) == (7 * 86400, 1000, True)
    lines = command("who", "example.com/a")
    assert lines[-1] == "3 of 3 pairs of client and version, 2 clients"
    assert command("who", "example.com/a", "--limit", "1")[-1].startswith("1 of 3 pairs")
    asked(api)
    monkeypatch.setattr(commands, "PAGE", 2)
    answer = command.json("who", "example.com/a")
    assert [each["version"] for each in answer["items"]] == ["v1.0.0", "v1.0.0", "v1.1.0"]
    assert "dns" not in answer["items"][0]
    assert command("who", "example.com/c")[-1] == (
        "0 of 0 pairs of client and version; did you mean example.com/a?"
    )


def test_what(api: ApiThread, command: Command) -> None:
    lines = command("what", "build-7", "--since", "30d")
    assert [" ".join(line.split()) for line in lines] == [
        "VERSION CLIENT NAME FIRST LAST COUNT REFUSED",
        "example.com/a@v1.0.0 10.0.0.7 build-7 2025-06-15 15:05:40 +0000 2025-06-15 15:06:40 +0000 12 3",
        "example.com/a@v1.1.0 10.0.0.7 build-7 2025-06-15 15:05:01 +0000 2025-06-15 15:05:05 +0000 1,000",
        "2 of 2 pairs of client and version",
    ]
    assert command("what", "10.9.9.9") == ["0 of 0 pairs of client and version"]
    assert command.json("what", "10.0.0.8")["items"][0]["name"] is None


def test_what_the_ledger_does_not_say(api: ApiThread, command: Command) -> None:
    api.operations.fetched = api.operations.fetched[:1]
    assert command("who", "example.com/a")[-2] == (
        "behind a reverse proxy all VMs are one client, unless the setting trusted_proxies names it"
    )
    api.operations.proxies = True
    assert len(command("who", "example.com/a")) == 3
    api.operations.ledger = "hashed"
    assert command("who", "example.com/a")[-2].startswith("addresses are not noted (setting ledger)")
    api.operations.ledger, api.operations.fetched = "off", []
    assert command("who", "x.y/z")[0] == "nothing is noted: the setting ledger is off"
    assert command("what", "10.0.0.7")[0] == "nothing is noted: the setting ledger is off"


def test_who_with_names_of_the_dns(api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def name_of(address: str) -> tuple[str, list[str], list[str]]:
        return f"vm-{address.rpartition('.')[2]}.example", [], [address]

    monkeypatch.setattr(socket, "gethostbyaddr", name_of)
    lines = command("who", "example.com/a", "--dns")
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["10.0.0.7", "build-7"],
        ["10.0.0.8", "vm-8.example"],
        ["10.0.0.7", "build-7"],
    ]
    names = [each["dns"] for each in command.json("who", "example.com/a", "--dns")["items"]]
    assert names == [None, "vm-8.example", None]


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["who", "nodots"], "nodots"),
        (["who", "example.com/a@"], "no version follows the @"),
        (["who", "example.com/a@v1!"], "version"),
        (["who", "example.com/a", "--since", "0"], "it must be more than 0"),
        (["what"], "CLIENT"),
    ],
)
def test_who_and_what_of_nothing(api: ApiThread, command: Command, argv: list[str], why: str) -> None:
    assert why in command.fails(2, *argv)
    assert asked(api) == []


def test_show(api: ApiThread, command: Command) -> None:
    lines = command("show", "github.com/Azure/sdk/v2@v2.0.0+incompatible")
    assert lines[:3] == [
        "module     github.com/Azure/sdk/v2",
        "version    v2.0.0+incompatible",
        "size       408 KiB",
    ]
    assert lines[-1].split() == ["zip", "409,593", "400", "KiB", "1", f"h1:{'A' * 43}="]
    assert command.json("show", "example.com/a@v1.0.0")["hits"] == 7
    missing = command.fails(4, "show", "example.com/a@v9.0.0")
    assert missing.startswith("example.com/a@v9.0.0 is not stored; other versions of it are stored")


def test_purge(api: ApiThread, command: Command) -> None:
    dry = command("purge", "example.com/*", "--idle-for", "30d", "--dry-run")
    assert dry[1].split() == ["example.com/a@v1.1.0", "info,mod,zip", "20.0", "KiB"]
    assert dry[-1] == "would be removed: 1 version, 3 files, 20.0 KiB, 2 cached answers"
    real = command("purge", "example.com/*", "--idle-for", "30d")
    assert real[-1] == "removed: 1 version, 3 files, 20.0 KiB, 2 cached answers"
    assert command.fails(4, "purge", "example.com/*", "--idle-for", "30d") == "nothing matched"
    selection = Selection(("example.com/*@*",), 30 * DAY)
    wanted = [("purge", selection, False, True), *[("purge", selection, False, False)] * 2]
    assert asked(api) == wanted
    conditions = ("--older-than=12h", "--larger-than", "200MiB", "--kind", "zip,mod", "--kind=info")
    command.fails(4, "purge", "a*", "b*@v1", *conditions, "--forget-hash")
    every = Selection(("a*@*", "b*@v1"), None, 12 * 3600, 200 << 20)
    assert asked(api) == [("purge", every, True, False)]


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("example.com/a@1.1.0", "; versions begin with a v: example.com/a@v1.1.0"),
        ("Example.com/A@v1.1.0", "; did you mean example.com/a@v1.1.0?"),
        ("exmple.com/a@v1.1.0", "; did you mean example.com/a@v1.1.0?"),
        ("example.com/B@v1.1.0", "; did you mean example.com/a@v1.1.0?"),
        ("example.com", "; modules below it are stored (goproxy-vm ls 'example.com/*')"),
        ("example.com/a@v7.0.0", "; other versions of it are stored (goproxy-vm ls example.com/a)"),
        ("github.com/azure/sdk/v2", "; did you mean github.com/Azure/sdk/v2?"),
        ("nothing.like/it", ""),
        ("nothing*", ""),
    ],
)
def test_what_a_pattern_without_a_match_may_have_meant(
    api: ApiThread, command: Command, pattern: str, meant: str
) -> None:
    assert api.operations.stored
    for flags in ((), ("--dry-run",)):
        assert command.fails(4, "purge", pattern, *flags) == f"nothing matched{meant}"
    assert command("ls", pattern) == [f"0 of 0 versions{meant}"]
    normal = pattern if "@" in pattern else f"{pattern}@*"
    assert command("pin", pattern) == [f"{normal}: 0 versions, 0 B of zips{meant}"]
    if pattern.startswith("Example"):
        command.fails(2, "show", pattern)  # no path of a module
    elif "@" in pattern:
        assert command.fails(4, "show", pattern) == f"{pattern} is not stored{meant}"
    elif "*" not in pattern:
        api.operations.forgotten = 0
        assert command("refresh", pattern) == [f"{pattern}: 0 cached answers forgotten{meant}"]
    assert "meant" not in command.json("ls", pattern)


def test_what_is_stored_but_not_so_has_no_hint(api: ApiThread, command: Command) -> None:
    """The other conditions were not met: no name was mistyped."""
    for pattern in ("example.com/a", "example.com/a@v1.1.0", "example.com/a@v1*"):
        assert command.fails(4, "purge", pattern, "--idle-for", "90d") == "nothing matched"
    api.operations.forgotten = 0
    assert command("refresh", "example.com/a") == ["example.com/a: 0 cached answers forgotten"]


def test_a_prefix_and_a_scrub_of_nothing_are_guessed_at_too(
    api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("ls", "--prefix", "github.com/azure/sdk/") == [
        "0 of 0 versions; did you mean github.com/Azure/sdk/v2?"
    ]
    totals = Totals(3, 3 * SIZE, 0)

    async def one_pass(_: int) -> Pass:
        return Pass(1, "scrub", STARTED, totals, None, STARTED, True, totals, scrubbed=(0, 0, 0))

    monkeypatch.setattr(api.operations, "one_pass", one_pass)
    assert command("scrub", "--wait", "exampel.com/a") == [
        "pass 1: 0 files, 0 B, 0 corrupt; did you mean example.com/a?"
    ]


def test_a_name_is_looked_for_on_every_page(
    api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "PAGE", 1)
    (line,) = command("ls", "example.com/a@v7.0.0", "github.com/azure/sdk/v2")
    assert line == (
        "0 of 0 versions; other versions of it are stored (goproxy-vm ls example.com/a); "
        "did you mean github.com/Azure/sdk/v2?"
    )


def test_everything_is_asked_about(
    api: ApiThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for typed, status in (("\n", 1), ("n\n", 1), ("", 1), ("yes\n", 0)):
        answer = io.StringIO(typed)
        monkeypatch.setattr(answer, "isatty", lambda: True)
        monkeypatch.setattr("sys.stdin", answer)
        assert cli.main(["purge", "*"]) == status
        assert "* removes all 3 versions.\nGo on? [y/N] " in capsys.readouterr().err
    assert [words[0] for words in asked(api)] == ["status"] * 4 + ["purge"]
    for flag in ("--yes", "--dry-run"):
        assert cli.main(["purge", "*@*", flag]) == 4
        assert "Go on?" not in capsys.readouterr().err


def test_evict(api: ApiThread, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    dry = command("evict", "--target", "40KiB", "--dry-run")
    assert dry[-1] == "from 448 KiB to 36.0 KiB; the target of 40.0 KiB would be reached"
    assert command("evict", "--target", "40KiB")[-1].endswith("the target of 40.0 KiB was reached")
    assert cli.main(["evict", "--target", "0"]) == 1
    out, err = capsys.readouterr()
    assert out.endswith("the target of 0 B was not reached\n")
    assert err == "goproxy-vm: the target was not reached: what is left is pinned, or no zip\n"
    assert cli.main(["evict", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["pass"] == 3
    assert asked(api) == [
        ("evict", 40960, True),
        ("evict", 40960, False),
        ("evict", 0, False),
        ("evict", None, False),
    ]


def test_refresh(api: ApiThread, command: Command) -> None:
    assert command("refresh", "github.com/Azure/x") == ["github.com/Azure/x: 3 cached answers forgotten"]
    assert command.json("refresh", "a.b/c") == {"module": "a.b/c", "forgotten": 3}


def test_pins(api: ApiThread, command: Command) -> None:
    assert command("pin", "example.com/a*") == ["example.com/a*@*: 2 versions, 40.0 KiB of zips"]
    assert command("pin", "b[!x-z]?%41/é@v1*") == ["b[!x-z]?%41/é@v1*: 0 versions, 0 B of zips"]
    lines = command("pins")
    assert lines[0].split() == ["PATTERN", "SOURCE", "VERSIONS", "ZIPS"]
    assert "pinned       0 B of zips, 23.3 GiB protected at most" in command("status")
    assert lines[-1] == "pinned: 40.0 KiB of zips, 23.3 GiB protected at most"
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["b[!x-z]?%41/é@v1*", "api"],
        ["example.com/a*@*", "api"],
        ["example.com/kept/*@*", "config"],
    ]
    assert command.json("unpin", "example.com/a*@*")["versions"] == 2
    assert command.fails(4, "unpin", "example.com/a*") == "example.com/a*@* is not pinned"
    assert "setting pins" in command.fails(1, "unpin", "example.com/kept/*")


def test_scrub(api: ApiThread, command: Command) -> None:
    assert command("scrub", "a.b/*", "--rate", "20MB") == ["pass 1 has begun"]
    assert asked(api) == [("scrub", ("a.b/*@*",), 20_000_000)]
    assert command.json("scrub") == {"pass": 2}
    assert command("scrub", "--wait") == ["pass 3: 3 files, 448 KiB, 0 corrupt"]
    assert command.json("scrub", "--wait")["scrubbed"]["corrupt"] == 0


def test_scrub_waits(api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Pass(7, "scrub", STARTED, Totals(10, 10 * SIZE, 0), scrubbed=(4, 4 * SIZE, 0))
    over = Pass(
        7, "scrub", STARTED, begun.before, None, STARTED + 9, True, begun.before, scrubbed=(10, 10 * SIZE, 1)
    )
    waiting = replace(begun, scrubbed=(0, 0, 0), waiting=True)
    answers = iter([waiting, begun, begun, over])

    async def one_pass(_: int) -> Pass:
        return next(answers)

    async def scrub(*_: object) -> int:
        return 7

    shown: list[str] = []
    monkeypatch.setattr(api.operations, "one_pass", one_pass)
    monkeypatch.setattr(api.operations, "scrub", scrub)
    monkeypatch.setattr(commands, "POLL_SECONDS", 0)
    monkeypatch.setattr(Progress, "show", lambda _, text: shown.append(text))
    assert command("scrub", "--wait") == ["pass 7: 10 files, 40.0 KiB, 1 corrupt"]
    assert shown == [
        "waiting for another scrub to end",
        *["scrubbing: 4 of 10 files, 16.0 KiB of 40.0 KiB"] * 2,
        "",
    ]


@pytest.mark.parametrize(
    ("end", "state"), [({"cancelled": True}, "cancelled"), ({"reached": False}, "failed")]
)
def test_a_scrub_that_was_not_done_to_its_end(
    api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch, end: dict[str, bool], state: str
) -> None:
    totals = Totals(10, 10 * SIZE, 0)

    async def one_pass(_: int) -> Pass:
        ended = Pass(1, "scrub", STARTED, totals, None, STARTED + 9, None, totals, scrubbed=(4, SIZE, 0))
        return replace(ended, **end)

    monkeypatch.setattr(api.operations, "one_pass", one_pass)
    assert command.fails(1, "scrub", "--wait") == f"pass 1: {state}, 4 files, 4.00 KiB, 0 corrupt"


def test_a_scrub_is_cancelled(api: ApiThread, command: Command) -> None:
    command("scrub")
    assert command("scrub", "--cancel", "1") == ["pass 1: cancelled, 3 files, 448 KiB, 0 corrupt"]
    assert ("cancel_scrub", 1) in asked(api)
    command.fails(1, "scrub", "--cancel", "1")
    command.fails(4, "scrub", "--cancel", "2")
    assert command.fails(2, "scrub", "--cancel", "1", "--wait") == "--cancel PASS stands alone"


def test_scrub_whose_record_is_gone(
    api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def one_pass(_: int) -> None:
        return None

    monkeypatch.setattr(api.operations, "one_pass", one_pass)
    assert command.fails(4, "scrub", "--wait") == "there is no pass 1"


def test_passes(api: ApiThread, command: Command) -> None:
    assert command("passes") == ["no passes yet"]
    command("scrub")
    command("evict")
    unfinished = Pass(3, "recovery", STARTED, Totals(0, 0, 0))
    api.operations.run.append(unfinished)
    lines = command("passes")
    assert [line.split()[:2] for line in lines[1:]] == [["3", "recovery"], ["2", "evict"], ["1", "scrub"]]
    assert "running" in lines[1]
    assert lines[3].endswith("3 files, 448 KiB, 0 corrupt")
    assert len(command("passes", "--limit", "1")) == 2
    assert len(command.json("passes")["items"]) == 3


def test_a_snapshot_is_forgotten(api: ApiThread, command: Command) -> None:
    command("snapshot", "before")
    assert command("snapshots", "--delete", "before") == ["before is forgotten"]
    assert command("snapshots") == ["no snapshots"]
    command.fails(4, "snapshots", "--delete", "before")


def test_snapshots(api: ApiThread, command: Command) -> None:
    assert command("snapshots") == ["no snapshots"]
    assert command("snapshot", "before") == ["before: 3 versions, 448 KiB"]
    assert command.fails(1, "snapshot", "before") == "there is a snapshot before already"
    assert command.json("snapshot")["id"] == 2
    assert command("snapshots")[1].split()[0] == "before"
    lines = command("diff", "before")
    assert [line.split()[:2] for line in lines[1:3]] == [
        ["+", "example.com/new@v1.0.0"],
        ["-", "example.com/old@v0.1.0"],
    ]
    assert lines[-1] == "from before to now: 8.00 KiB came, 20.0 KiB freed: size 20.0 KiB"
    assert command.json("diff", "before", "before")["b"] == "before"
    assert command.fails(4, "diff", "none", "before") == "there is no snapshot none"


def test_refusals(api: ApiThread, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    api.operations.failure = NoRoom("the disk is full")
    assert command.fails(1, "snapshot") == "the disk is full"
    api.operations.failure = RuntimeError("inside")
    assert command.fails(1, "status").startswith("an internal error; the log has it as request ")
    api.operations.failure = None
    assert cli.main(["show", "--json", "a.b/c@v1"]) == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["detail"] == "a.b/c@v1 is not stored"
    assert err == "goproxy-vm: a.b/c@v1 is not stored\n"


# Where the server is, and the token


@pytest.mark.parametrize("place", [0, 1, 2])
def test_flags_before_and_after_the_command(
    api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: int
) -> None:
    monkeypatch.delenv("GOPROXY_VM_ADMIN_LISTEN")
    monkeypatch.setenv("GOPROXY_VM_ADMIN_TOKEN", "another-t0ken-that-is-wrong")
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    flags = ["--json", f"--admin-url={api.url}/", "--token-file", str(file)]
    before, after = (flags, []) if place == 0 else ([], flags) if place == 1 else (flags[:2], flags[2:])
    assert json.loads("\n".join(command(*before, "status", *after)))["version"] == "1.2.3"


def test_token_of_the_cache_directory(
    api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOPROXY_VM_ADMIN_TOKEN")
    where = tmp_path / "cache" / "admin.token"
    assert command.fails(1, "status") == (
        f"no admin token was found ({where}: No such file or directory); "
        "name the server's cache directory (--cache-dir) or the token's file (--token-file), "
        "or set GOPROXY_VM_ADMIN_TOKEN"
    )
    for directory, flags in (
        (tmp_path / "cache", []),
        (tmp_path / "b", ["--cache-dir", str(tmp_path / "b")]),
    ):
        directory.mkdir()
        (directory / "admin.token").write_text(f"{TOKEN}\n")
        assert command("status", *flags)
    (tmp_path / "cache" / "admin.token").write_text("wrong-but-long-enough\n")
    assert command.fails(1, "status") == "the server has another admin token"


def test_token_file_of_the_settings(
    api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GOPROXY_VM_ADMIN_TOKEN")
    file = tmp_path / "x.toml"
    file.write_text(f'admin_token_file = "{tmp_path}/secret"\n')
    argv = ["pins", "--config", str(file)]
    reason = f"the admin token cannot be read: {tmp_path}/secret: No such file or directory"
    assert command.fails(2, *argv) == reason
    (tmp_path / "secret").write_text("two words")
    assert command.fails(2, *argv).startswith(f"{tmp_path}/secret: no token: ")
    (tmp_path / "secret").write_text(TOKEN)
    assert command(*argv)
    assert command.fails(2, "pins", "--token-file", str(tmp_path / "none")).endswith(
        "/none: No such file or directory"
    )


def test_unix_socket(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    monkeypatch.setenv("GOPROXY_VM_ADMIN_TOKEN", TOKEN)
    monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", f"unix:{path}")
    assert command.fails(3, "status").startswith(f"no server: unix:{path}: No such file or directory; nor ")
    with ApiThread(TOKEN, path=path):
        assert command("status")
        assert command("ls", "--admin-url", f"unix:{path}")


def test_no_server(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The line names each place that was tried, and what says where the server is."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for argv in (["status"], ["purge", "x"], ["scrub", "--wait"], ["show", "a.b/c@v1", "--json"]):
            line = command.fails(3, *argv, "--admin-url", f"http://127.0.0.1:{port}")
            assert line == f"no server: http://127.0.0.1:{port}: Connection refused"
        monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", f"0.0.0.0:{port}")
        missed = (
            f"no server: http://127.0.0.1:{port}: Connection refused; "
            "nor is one at unix:{}/admin.sock: No such file or directory; "
            "if it runs, name its cache directory (--cache-dir), its configuration (--config) "
            "or its address (--admin-url)"
        )
        for argv in (["status"], ["pins"], ["health"]):
            cache = tmp_path / argv[0]
            cache.mkdir()
            assert command.fails(3, *argv, "--cache-dir", str(cache)) == missed.format(cache)
        monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", f"[::]:{port}")
        assert command.fails(3, "status").startswith(f"no server: http://[::1]:{port}: ")
    assert command.fails(3, "status", "--admin-url", f"http://{'a' * 64}.x:1").startswith("no server: ")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "does not answer in HTTP"),
        (b"SSH-2.0-x\r\n", "does not answer in HTTP"),
        (b"HTTP/1.1 404 x\r\nContent-Length: 2\r\n\r\n{}", "answers, but not as goproxy_vm's admin API"),
        (b"HTTP/1.1 200 x\r\nContent-Type: text/html\r\n\r\nx", "answers, but not as goproxy_vm's admin API"),
        (
            b"HTTP/1.1 200 x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
            "answers, but not as goproxy_vm's admin API",
        ),
        (
            b"HTTP/1.1 302 x\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            "answers, but not as goproxy_vm's admin API",
        ),
        (b"HTTP/1.1 200 x\r\nContent-Length: 9\r\n\r\n{}", "answers, but not as goproxy_vm's admin API"),
        (None, "does not answer"),
    ],
)
def test_something_else_answers(
    command: Command, answer: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goproxy_vm.console.client.ANSWER_SECONDS", 0.2 if answer is None else 10)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        over = threading.Event()

        def serve() -> None:
            with listening.accept()[0] as connection:
                connection.recv(65536)
                if answer is None:
                    over.wait(10)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        line = command.fails(3, "status", "--admin-url", f"http://127.0.0.1:{port}")
        over.set()
        thread.join()
    assert line == f"no server: http://127.0.0.1:{port} {reason}"


async def test_health(serve: Serve, upstream: FakeUpstream, command: Command) -> None:
    """It finds the server as all commands do."""
    host = await serve(upstream)
    for argv in (
        ["health", "--admin-url", host.server.admin_url],
        ["--admin-url", host.server.admin_url, "health"],
    ):
        assert await asyncio.to_thread(command, *argv) == ["ok"]


def test_health_needs_no_token(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY_VM_ADMIN_TOKEN_FILE", "/nowhere/token")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", f"0.0.0.0:{port}")
        line = command.fails(3, "health")
        assert line.startswith(f"no server: http://127.0.0.1:{port}: Connection refused; nor is one at unix:")
    assert "no such flag" in command.fails(2, "health", "--token-file=x")


@pytest.mark.parametrize(
    "answer", [b"200 OK\r\nContent-Length: 2\r\n\r\nno", b"404 No\r\nContent-Length: 2\r\n\r\nok"]
)
def test_health_of_something_else(command: Command, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve() -> None:
            with listening.accept()[0] as connection:
                assert b"Authorization" not in connection.recv(65536)
                connection.sendall(b"HTTP/1.1 " + answer)

        thread = threading.Thread(target=serve)
        thread.start()
        line = command.fails(3, "health", "--admin-url", f"http://127.0.0.1:{port}")
        thread.join()
    assert line == f"no server: http://127.0.0.1:{port} answers, but not as goproxy_vm's health check"


# Usage


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["purge"], "purge needs a PATTERN, --idle-for, --older-than or --larger-than"),
        (["purge", "--kind", "zip"], "purge needs a PATTERN"),
        (["purge", "x", "--kind", "lock"], 'argument --kind: "lock": expected info, mod, zip'),
        (["purge", "x", "--idle-for", "1w"], 'argument --idle-for: "1w": expected seconds, or a duration'),
        (["purge", "x", "--idle-for", "9999d"], 'argument --idle-for: "9999d": it is longer than ten years'),
        (["purge", "x", "--larger-than", "5K"], 'argument --larger-than: "5K": expected bytes, or a size'),
        (["purge", "a[b"], 'argument PATTERN: "a[b": a [ is not closed'),
        (["purge", "x", "--dryrun"], "--dryrun: no such flag or argument"),
        (["show", "a.b/c"], 'argument MODULE@VERSION: "a.b/c": expected MODULE@VERSION'),
        (["show", "a.b/c@"], 'argument MODULE@VERSION: "a.b/c@": expected MODULE@VERSION'),
        (["show", "nodots@v1"], "argument MODULE@VERSION: malformed module path"),
        (["show", "a.b/c@v1!"], "argument MODULE@VERSION: malformed version"),
        (["refresh", "a.b/!c"], "argument MODULE: malformed module path"),
        (["ls", "--limit", "0"], 'argument --limit: "0": expected a whole number'),
        (["ls", "--sort", "age"], "argument --sort: invalid choice: 'age'"),
        (["pin"], "the following arguments are required: PATTERN"),
        (["pin", "a b"], 'argument PATTERN: "a b": it holds a space'),
        (["scrub", "--rate", "0"], 'argument --rate: "0": expected bytes'),
        (
            ["scrub", "--rate", "1"],
            'argument --rate: "1": expected bytes, or a size like "200MiB", "1.5GB", from 64KiB to 16GiB',
        ),
        (["scrub", "--cancel", "x"], 'argument --cancel: "x": expected a whole number'),
        (["diff"], "the following arguments are required: A"),
        (["status", "x"], "x: no such flag or argument"),
        (["status", "--admin-url", "127.0.0.1:8081"], "--admin-url: 127.0.0.1:8081: expected http(s)://HOST"),
        (["status", "--admin-url", "http://h:99999"], "--admin-url: http://h:99999: expected"),
        (["status", "--admin-url", "http://h/api"], "--admin-url: http://h/api: expected"),
        (["status", "--admin-url", "http://u:p@h"], "--admin-url: http://u:p@h: expected"),
        (["status", "--admin-url", "http://h x"], "--admin-url: http://h x: expected"),
        (["status", "--admin-url", "unix:"], "--admin-url: unix:: expected"),
        (["--json", "serve"], "--json: no such flag of this command"),
        (["--admin-url", "http://h", "config", "check"], "--admin-url: no such flag of this command"),
        (["--token-file", "x", "serve"], "--token-file: no such flag of this command"),
    ],
)
def test_usage(api: ApiThread, command: Command, argv: list[str], reason: str) -> None:
    assert command.fails(2, *argv).startswith(reason)
    assert asked(api) == []


def test_bad_settings(api: ApiThread, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY_VM_FRESH", "x")
    assert command.fails(2, "status").startswith('fresh: "x" (environment variable GOPROXY_VM_FRESH)')


@pytest.mark.parametrize("name", ["status", "ls", "purge", "scrub", "diff"])
def test_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "--admin-url URL" in out
    assert out.isascii()


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxy_vm.console.progress.TICK", 0.01)
    file, terminal = io.StringIO(), Terminal()
    for stream in (file, terminal):
        progress = Progress(stream)
        with progress.ticking("evicting"):
            progress.show("x" * 1000)
            for _ in range(1000):
                if stream is file or "evicting" in terminal.getvalue():
                    break
                threading.Event().wait(0.01)
    assert file.getvalue() == ""
    assert "\r\x1b[Kevicting 0s" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert "x" * 500 not in terminal.getvalue()
    assert sys.stderr is not terminal
