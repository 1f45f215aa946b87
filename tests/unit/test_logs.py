"""Log lines: their form, what they refuse to be, and a loop that never waits for their reader."""

import asyncio
import contextlib
import json
import logging
import os
import select
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from goproxy_vm.observe import allowance, logs
from goproxy_vm.observe.allowance import Allowance
from goproxy_vm.observe.logs import get_logger, setup


class Pipe:
    """A pipe of which a test is the reader."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._open = {self.reading, self.writing}

    def close(self, end: int) -> None:
        self._open.discard(end)
        os.close(end)

    def fill(self) -> None:
        """Empty lines until a writer has to wait."""
        os.set_blocking(self.writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(self.writing, b"\n" * select.PIPE_BUF)
        os.set_blocking(self.writing, True)

    def lines(self) -> list[str]:
        """All lines until now; ends the writing side."""
        self.close(self.writing)
        with open(self.reading, "rb", closefd=False) as file:
            return file.read().decode("ascii").splitlines()

    def clean(self) -> None:
        for end in list(self._open):
            self.close(end)


def drain(fd: int, into: bytearray) -> None:
    while data := os.read(fd, 1 << 16):
        into.extend(data)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.clean()


def test_json_is_one_object_a_line(pipe: Pipe) -> None:
    with setup("json", "info", fd=pipe.writing):
        get_logger("server").info(
            "serving", url="http://h:1", urls=["a", "b"], n=1, ok=True, none=None, s=0.5
        )
        get_logger("server").debug("not at this level")
    [line] = [json.loads(line) for line in pipe.lines()]
    time = line.pop("time")
    assert len(time) == len("2024-01-01T00:00:00.000Z")
    assert time.endswith("Z")
    assert datetime.fromisoformat(time).tzinfo is not None
    assert line == {
        "level": "info",
        "logger": "server",
        "event": "serving",
        "message": "serving",
        "url": "http://h:1",
        "urls": ["a", "b"],
        "n": 1,
        "ok": True,
        "none": None,
        "s": 0.5,
    }


def test_text_is_for_people(pipe: Pipe) -> None:
    with setup("text", "debug", fd=pipe.writing):
        log = get_logger("web")
        log.debug("a", path="/x@v1")
        log.warning("b c", reason='it "fails"', empty="", equal="a=b", n=3, many=["x", 1])
    first, second = pipe.lines()
    assert first[24:] == " DEBUG   web: a path=/x@v1"
    assert second[24:] == (' WARNING web: b c reason="it \\"fails\\"" empty="" equal="a=b" n=3 many=["x", 1]')


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize(
    "text",
    ["a\nb", "a\r\nb", "\x1b[2J", "\x7f", "\u2028", "\u202e", "é", "\udcff", "\x85", "\x00", '"\\', "="],
)
def test_untrusted_text_forges_nothing(pipe: Pipe, log_format: str, text: str) -> None:
    with setup(log_format, "info", fd=pipe.writing):
        get_logger("web").info("asked", path=text)
        logging.getLogger("aiohttp.server").error("bad %s", text)
    both = pipe.lines()
    assert len(both) == 2
    for line in both:
        assert line.isprintable()
    if log_format == "json":
        assert json.loads(both[0])["path"] == text
        assert json.loads(both[1])["message"] == f"bad {text}"
        assert json.loads(both[1])["event"] == "aiohttp.server"
    else:
        assert json.loads(both[0].partition("path=")[2]) == text


def test_fields_are_bounded_and_plain(pipe: Pipe) -> None:
    with setup("json", "info", fd=pipe.writing):
        get_logger("x").info(
            "e", long="x" * 5000, error=ValueError("why"), nan=float("nan"), raw=b"\n", level="no"
        )
    [line] = [json.loads(line) for line in pipe.lines()]
    assert line["long"] == "x" * logs.LONGEST + "..."
    assert (line["error"], line["nan"], line["raw"]) == ("why", "nan", "b'\\n'")
    assert line["level"] == "info"


def test_one_client_does_not_fill_the_log(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(logs, "Allowance", lambda: Allowance(lambda: clock[0]))
    monkeypatch.setattr(logs, "WARNINGS", 5)
    monkeypatch.setattr(logs, "REFUSALS", 10)
    with setup("json", "info", fd=pipe.writing):
        log = get_logger("web")
        for _ in range(50):
            log.warning("request failed", client="192.0.2.1", path="/x")
            log.info("request", client="192.0.2.1", status=404)
            log.info("request", client="192.0.2.1", status=200)
        log.warning("request failed", client="192.0.2.2", path="/x")
        log.warning("no client")
        clock[0] = 61.0
        log.warning("request failed", client="192.0.2.1", path="/y")
    lines = [json.loads(line) for line in pipe.lines()]
    assert sum(line["level"] == "warning" for line in lines) == 5 + 4
    assert sum(line.get("status") == 404 for line in lines) == 10
    assert sum(line.get("status") == 200 for line in lines) == 50
    told, last = lines[-2:]
    assert (told["event"], told["client"]) == ("lines left out", "192.0.2.1")
    assert told["lines"] == (50 - 5) + (50 - 10)
    assert last["path"] == "/y"


def test_lines_that_name_no_client_do_not_fill_the_log(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do those that name one and are neither warnings nor of the access log."""
    clock = [0.0]
    monkeypatch.setattr(logs, "Allowance", lambda: Allowance(lambda: clock[0]))
    monkeypatch.setattr(allowance, "MOST_CLIENTS", 5)
    monkeypatch.setattr(logs, "REFUSALS", 10)
    monkeypatch.setattr(logs, "EVENTS", 7)
    with setup("json", "debug", fd=pipe.writing):
        log = get_logger("proxy")
        for number in range(50):
            log.info("fetch not begun", client="192.0.2.1", path="/x")
            log.warning("serving stale", path=f"/{number}")
            log.error("checksum mismatch", module="m")
            log.info("retrying", path="/x")
            log.debug("client left", client="192.0.2.1")
            logging.getLogger("aiohttp").warning("why %d", number)
            log.warning("request failed", client=f"192.0.2.{number}")
        log.error("fork", path="/x")
        clock[0] = 61.0
        log.info("retrying", path="/y")
    lines = [json.loads(line) for line in pipe.lines()]
    count = {event: sum(line["event"] == event for line in lines) for event in {e["event"] for e in lines}}
    assert count["fetch not begun"] == 10
    assert count["serving stale"] == count["checksum mismatch"] == count["aiohttp"] == 7
    assert count["retrying"] == 7 + 1
    assert count["client left"] == 50
    assert count["fork"] == 1, "whatever else there is too much of"
    told = {line["left_out"]: line["lines"] for line in lines if "left_out" in line}
    assert told == dict.fromkeys(["serving stale", "checksum mismatch", "retrying", "aiohttp"], 43)
    assert ("192.0.2.1", 40) in [
        (line["client"], line["lines"])
        for line in lines
        if line["event"] == "lines left out" and "client" in line
    ]


def test_many_clients_share_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allowance, "MOST_CLIENTS", 5)
    clock = [0.0]
    lines = Allowance(lambda: clock[0])
    taken = [lines.take(f"2001:db8::{number}", 3) for number in range(1000)]
    assert sum(taken) == 10 + 3
    clock[0] = 60.0
    assert lines.left_out() == [("others", 1000 - 13)]
    assert lines.left_out() == []


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_traceback(pipe: Pipe, log_format: str) -> None:
    with setup(log_format, "info", fd=pipe.writing):
        try:
            raise ValueError("first\n2024-01-01T00:00:00.000Z INFO    web: forged\u2028x")
        except ValueError:
            get_logger("web").exception("request crashed", path="/x")
        get_logger("web").exception("no exception")
        get_logger("web").error("no trace")
    lines = pipe.lines()
    if log_format == "json":
        first, *others = [json.loads(line) for line in lines]
        assert first["traceback"].startswith("Traceback (most recent call last):\n")
        assert all("traceback" not in other for other in others)
    else:
        head, *below = lines[:-2]
        assert head[24:] == " ERROR   web: request crashed path=/x"
        assert below[0] == "    Traceback (most recent call last):"
        assert "    2024-01-01T00:00:00.000Z INFO    web: forged" in below
        assert all(line.startswith("    ") for line in below)


def test_libraries_come_through_from_info_on(pipe: Pipe) -> None:
    with setup("text", "debug", fd=pipe.writing):
        logging.getLogger("asyncio").debug("insides")
        logging.getLogger("asyncio").warning("slow %s", "task")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    first, second = pipe.lines()
    assert first[24:] == " WARNING asyncio: slow task"
    assert " WARNING py.warnings: " in second


@pytest.fixture
def journal(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> Pipe:
    """The pipe, as systemd would say that it leads to the journal."""
    facts = os.fstat(pipe.writing)
    monkeypatch.setenv("JOURNAL_STREAM", f"{facts.st_dev}:{facts.st_ino}")
    return pipe


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_each_line_of_the_journal_begins_with_its_priority(journal: Pipe, log_format: str) -> None:
    with setup(log_format, "debug", fd=journal.writing):
        log = get_logger("x")
        log.debug("a")
        log.info("b", text="<0>forged\n<0>forged")
        log.warning("c")
        log.error("d")
        logging.getLogger("library").critical("e")
        logging.getLogger("library").log(25, "f")
        try:
            raise ValueError("two\nlines")
        except ValueError:
            log.exception("g")
    lines = journal.lines()
    assert [line[:3] for line in lines[:7]] == ["<7>", "<6>", "<4>", "<3>", "<2>", "<6>", "<3>"]
    assert all(line.startswith("<3>    ") for line in lines[7:])
    if log_format == "json":
        assert [json.loads(line[3:])["event"] for line in lines] == [
            "a",
            "b",
            "c",
            "d",
            "library",
            "library",
            "g",
        ]
    else:
        assert lines[-2:] == ["<3>    ValueError: two", "<3>    lines"]


@pytest.mark.parametrize("value", ["", "1:1", "1", "x:y", None])
def test_whatever_is_not_the_journal_gets_no_priorities(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    else:
        monkeypatch.setenv("JOURNAL_STREAM", value)
    with setup("text", "info", fd=pipe.writing):
        get_logger("x").info("e")
    [line] = pipe.lines()
    assert line.endswith("Z INFO    x: e")
    assert not line.startswith("<")


def test_everything_is_as_before_afterwards(pipe: Pipe) -> None:
    root, ours = logging.getLogger(), logging.getLogger("goproxy_vm")
    before = root.handlers[:], root.level, ours.level, warnings.showwarning
    with setup("text", "error", fd=pipe.writing):
        assert len(root.handlers) == 1
        get_logger("x").warning("no")
        get_logger("x").error("yes")
    assert before == (root.handlers[:], root.level, ours.level, warnings.showwarning)
    assert len(pipe.lines()) == 1


def test_line_that_cannot_be_made_harms_nobody(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    class Bad:
        def __str__(self) -> str:
            raise RuntimeError

    with setup("text", "info", fd=pipe.writing):
        get_logger("x").info("bad", value=Bad())
        get_logger("x").info("good")
    assert [line.partition(": ")[2] for line in pipe.lines()] == ["good"]


async def test_full_pipe_never_stops_the_loop(pipe: Pipe) -> None:
    pipe.fill()
    got = bytearray()
    reader = threading.Thread(target=drain, args=(pipe.reading, got))
    with setup("json", "info", fd=pipe.writing, most=10) as writer:
        log = get_logger("x")
        for _ in range(100):
            log.info("e")
        await asyncio.sleep(0)
        dropped = writer.dropped
        assert dropped in (100 - 10, 100 - 11)  # the thread may hold one more
        reader.start()
    pipe.close(pipe.writing)
    reader.join()
    lines = [json.loads(line) for line in got.splitlines() if line]
    told = [line for line in lines if line["event"] == "log lines dropped"]
    assert sum(line["lines"] for line in told) == dropped
    assert told[-1]["in_all"] == dropped


def writers() -> list[threading.Thread]:
    """The threads that write lines now."""
    return [each for each in threading.enumerate() if each.name == "log-writer"]


def test_reader_that_never_reads_does_not_stop_the_end(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "DRAIN_SECONDS", 0.01)
    pipe.fill()
    with setup("json", "info", fd=pipe.writing, most=2) as writer:
        while not writer.dropped:
            get_logger("x").info("e")
    (thread,) = writers()  # it waits for the pipe, and nobody waits for it
    reader = threading.Thread(target=drain, args=(pipe.reading, bytearray()))
    reader.start()
    while thread.is_alive():
        writer.stop()
    pipe.close(pipe.writing)
    reader.join()


def test_nonblocking_descriptor(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe.fill()
    os.set_blocking(pipe.writing, False)
    waiting = threading.Event()
    wait = select.select

    def waits(*arguments: list[int]) -> None:
        waiting.set()
        wait(*arguments)

    monkeypatch.setattr(logs.select, "select", waits)
    got = bytearray()
    reader = threading.Thread(target=drain, args=(pipe.reading, got))
    with setup("text", "info", fd=pipe.writing):
        get_logger("x").info("e")
        assert waiting.wait(10)
        reader.start()
    pipe.close(pipe.writing)
    reader.join()
    assert got.endswith(b" INFO    x: e\n")


def test_nobody_reads_any_more(pipe: Pipe) -> None:
    pipe.close(pipe.reading)
    with setup("text", "info", fd=pipe.writing):
        get_logger("x").info("e")
    assert writers() == []
