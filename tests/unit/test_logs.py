"""Log lines: their form, what they refuse to be, and a loop that never waits for their reader."""

import asyncio
import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime

import pytest

from goproxy_vm.observe import logs
from goproxy_vm.observe.logs import get_logger, setup


class Pipe:
    """A pipe of which a test is the reader."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self._open = {self.reading, self.writing}

    def close(self, end: int) -> None:
        self._open.discard(end)
        os.close(end)

    def lines(self) -> list[str]:
        """All lines until now; ends the writing side."""
        self.close(self.writing)
        with open(self.reading, "rb", closefd=False) as file:
            return file.read().decode("ascii").splitlines()

    def clean(self) -> None:
        for end in list(self._open):
            self.close(end)


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
    os.set_blocking(pipe.writing, True)
    written = []

    def read() -> None:
        with open(pipe.reading, "rb", closefd=False) as file:
            written.extend(file.read().decode().splitlines())

    reader = threading.Thread(target=read)
    with setup("json", "info", fd=pipe.writing, most=10) as writer:
        log = get_logger("x")
        while not writer.dropped:  # fills the pipe, then the queue
            log.info("e", filler="x" * 2000)
        for _ in range(99):
            log.info("e", filler="x" * 2000)
        await asyncio.sleep(0)
        dropped = writer.dropped
        assert dropped >= 99 - 10
        reader.start()
    pipe.close(pipe.writing)
    reader.join()
    told = [line for line in map(json.loads, written) if line["event"] == "log lines dropped"]
    assert sum(line["lines"] for line in told) == dropped
    assert told[-1]["in_all"] == dropped


def test_reader_that_never_reads_does_not_stop_the_end(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "DRAIN_SECONDS", 0.01)
    with setup("json", "info", fd=pipe.writing, most=2) as writer:
        while not writer.dropped:
            get_logger("x").info("e", filler="x" * 2000)
    assert writer._thread.is_alive()  # it waits for the pipe, and nobody waits for it
    threading.Thread(target=writer.stop).start()
    while os.read(pipe.reading, 1 << 20).count(b"\n") and writer._thread.is_alive():
        writer._lines.put(None)


def test_nonblocking_descriptor(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    got = bytearray()

    def read() -> None:
        while len(got) < 100 * 2000:
            got.extend(os.read(pipe.reading, 1 << 16))

    reader = threading.Thread(target=read)
    with setup("text", "info", fd=pipe.writing) as writer:
        for _ in range(100):
            get_logger("x").info("e", filler="x" * 2000)
        reader.start()
    reader.join()
    assert writer.dropped == 0


def test_nobody_reads_any_more(pipe: Pipe) -> None:
    pipe.close(pipe.reading)
    with setup("text", "info", fd=pipe.writing) as writer:
        get_logger("x").info("e")
    assert not writer._thread.is_alive()
