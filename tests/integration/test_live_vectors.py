"""What real ``go`` commands of nine releases asked for, asked of the proxy: the vectors' group ``live``.

Behind the proxy stands the server that the commands spoke to, under the same GOPROXY list. Their recorded
requests are sent as they were; how the clients fared must follow from what the proxy answers, and what the
proxy asks of the server must be what they asked.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import pytest

from goproxy_vm.config.sumdb import SumdbSpec
from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.verifier import Verifier
from goproxy_vm.upstream import upstream as one_upstream
from tests.fakes.live import (
    INFO,
    LATEST,
    LIVE,
    LOOKUP,
    MODULE,
    RELEASES,
    SCENARIOS,
    SCRIPTS,
    SUMDB,
    VERSION,
    ZIP,
    Script,
    database,
)
from tests.fakes.sumdb import NAME
from tests.fakes.upstream import FakeUpstream, Reply
from tests.integration.conftest import Got, Host, Serve

Start = Callable[[str], Awaitable[tuple[Script, Host]]]
CASES = [
    pytest.param(name, outcome, id=f"{name}, go {outcome['go'][0]}")
    for name, case in SCENARIOS.items()
    for outcome in case["outcomes"]
]
REDIRECTED = "/blob"
OURS_ALONE = {"list empty, latest 404, 2nd proxy has it": (LATEST,), "refused comma": (INFO,)}
"""What the proxy asks for and clients do not, or the other way round."""
NEVER_SENT = ("/example.com/c++/", "/example.com/x~1/", "/example.com/m/@v/feat/")
"""Malformed paths: old clients sent them, the proxy sends none on."""
HTTP_ERROR = re.compile(r"reading U(/\S+): (\d+) ([^\n]+)(?:\n\tserver response:(.*))?", re.DOTALL)


def raw(head: bytes) -> str:
    """The path of a request as it was sent."""
    return head.split(b" ")[1].decode()


def plain(path: str) -> str:
    """A path without the GOPROXY entry that stands before it in the vectors."""
    return re.sub(r"^/[12](?=/)", "", path)


def decoded(path: str) -> str:
    return path.replace("%21", "!")


def shown(reply: Reply) -> str:
    """What clients show of an error's text, behind "server response:" (PROTOCOL §2)."""
    if "text/plain" not in reply.headers.get("Content-Type", ""):
        return ""
    lines = reply.body.decode().strip("\n").split("\n")
    if not all(line.isprintable() for line in lines) or lines == [""]:
        return ""
    if len(lines[0]) > 648:
        return " [Truncated: too long.]"
    if len(lines) > 8:
        lines = [*lines[:8], "[Truncated: too many lines.]"]
    return f" {lines[0]}" if len(lines) == 1 else "".join(f"\n\t{line}" for line in lines)


@pytest.fixture
async def scripted() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as fake:
        yield fake


@pytest.fixture
def start(serve: Serve, scripted: FakeUpstream, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start the proxy with a scenario's GOPROXY list before the scripted server."""
    monkeypatch.setattr(one_upstream, "TRIES", 1)  # clients do not try again
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")  # the database's own host is out of reach

    async def start(name: str) -> tuple[Script, Host]:
        script, case = SCRIPTS[name], SCENARIOS[name]
        script.on(scripted)
        sumdb = None if script.sumdb is None else SumdbSpec(NAME, str(database().key))
        listed = case["goproxy"].replace("{u}", scripted.url)
        return script, await serve(listed, sumdb=sumdb, nosumdb=script.nosumdb)

    return start


def test_scripts_and_scenarios_match() -> None:
    assert list(SCRIPTS) == list(SCENARIOS)
    assert len(SCENARIOS) == len(LIVE["scenarios"]) == 81


def test_every_release_has_one_outcome() -> None:
    (listed,) = re.findall(r"release lines: ([0-9. ]+);", LIVE["note"])
    assert tuple(line.rsplit(".", 1)[0] for line in listed.split()) == RELEASES
    for case in SCENARIOS.values():
        releases = [release for outcome in case["outcomes"] for release in outcome["go"]]
        assert tuple(releases) == RELEASES
        assert set(case) == {"scenario", "args", "goproxy", "env", "outcomes"}


@pytest.mark.parametrize(("name", "outcome"), CASES)
async def test_replay(start: Start, scripted: FakeUpstream, name: str, outcome: dict[str, Any]) -> None:
    script, host = await start(name)
    recorded: list[str] = outcome["requests"]
    paths = dict.fromkeys(plain(path) for path in recorded or script.asks if path != REDIRECTED)
    answers = {decoded(path): await host.get(path) for path in paths}
    got = {path: answer.status for path, answer in answers.items()}
    assert got == {path: script.ours.get(path, 200) for path in got}
    assert all(answer.status == 200 or readable(answer) for answer in answers.values())
    if recorded:  # else the release refuses to ask at all
        well = all(status == 200 or path in script.goes_on for path, status in got.items())
        differs = set(outcome["go"]) & set(script.differing)
        assert well is (outcome["ok"] is not bool(differs)), script.differs
    # Each upstream is asked as the clients asked it, and in the same order of entries.
    seen = [decoded(raw(head)) for head in scripted.heads]
    for path, status in got.items():
        if path in OURS_ALONE.get(name, ()) or path.startswith(("/sumdb/", *NEVER_SENT)):
            continue
        theirs = [decoded(request) for request in recorded if decoded(plain(request)) == path]
        asked = [request for request in seen if plain(request) == path]
        if path != ZIP:  # redirects back to it count; a failed .mod is tried again with the zip
            theirs = list(dict.fromkeys(theirs))
        assert (list(dict.fromkeys(asked)) if status == 502 and path != ZIP else asked) == theirs
    assert seen.count(REDIRECTED) == recorded.count(REDIRECTED)


@pytest.mark.parametrize(("name", "outcome"), CASES)
async def test_errors_of_clients_are_the_servers(
    scripted: FakeUpstream, name: str, outcome: dict[str, Any]
) -> None:
    """An error that quotes an answer quotes the answer that the script gives to the last request."""
    assert bool(outcome["error"]) is not outcome["ok"]
    quoted = HTTP_ERROR.search(outcome["error"])
    if quoted is None:
        assert "reading U" not in outcome["error"]
        return
    SCRIPTS[name].on(scripted)
    path, status, reason, said = quoted.groups()
    assert path in outcome["requests"]
    reply = await scripted.reply(decoded(path))
    assert (int(status), reason, said or "") == (reply.status, HTTPStatus(reply.status).phrase, shown(reply))


@pytest.mark.parametrize(
    "name", ["ok", "supported 200", "supported 500 on first pipe", "tile full 404", "wrong zip hash"]
)
async def test_verifier_asks_for_the_tiles_that_clients_ask_for(scripted: FakeUpstream, name: str) -> None:
    script = SCRIPTS[name]
    script.on(scripted)
    base = f"{script.sumdb}{SUMDB}"
    client = Verifier(database().key, None)
    session = client.lookup(MODULE, VERSION, (await scripted.reply(f"{script.sumdb}{LOOKUP}")).body)
    asked = []
    while wanted := session.wanted():
        for tile in wanted:
            asked.append(f"{base}/{tile.path}")
            session.feed(tile, (await scripted.reply(asked[-1])).body)
    assert session.finish().number == 299
    for outcome in SCENARIOS[name]["outcomes"]:
        assert sorted(asked) == [path for path in outcome["requests"] if "/tile/" in path]


async def test_verifier_refuses_the_record_that_old_clients_took(scripted: FakeUpstream) -> None:
    script = SCRIPTS["lookup other record (zero lines)"]
    script.on(scripted)
    client = Verifier(database().key, None)
    with pytest.raises(ContentError):
        client.lookup(MODULE, VERSION, (await scripted.reply(LOOKUP)).body)


def readable(answer: Got) -> bool:
    """Whether every client shows the whole text (case 80)."""
    reply = Reply(answer.body, headers=dict(answer.headers))
    return shown(reply) == f" {answer.text.strip()}"
