"""What listens where a server of ours is asked may be anything: each answer ends in one line, and soon."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from goproxy_vm import cli
from goproxy_vm.console import client

JSON = b"Content-Type: application/json\r\n"
ELSE = "answers, but not as goproxy_vm's admin API"
COMMANDS = [
    *(["status"], ["ls"], ["show", "a.b/c@v1"], ["purge", "x"], ["evict"], ["refresh", "a.b/c"], ["pins"]),
    *(["pin", "x"], ["unpin", "x"], ["scrub"], ["scrub", "--wait"], ["passes"], ["snapshot"], ["snapshots"]),
    *(["vms"], ["who", "a.b/c"], ["what", "10.0.0.1"]),
    ["diff", "a"],
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("GOPROXY_VM_", "XDG_", "CACHE_DIRECTORY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))


@contextmanager
def answering(first: bytes, then: bytes = b"") -> Iterator[str]:
    """Whatever is asked is answered so, ``then`` for ever; the URL."""
    over = threading.Event()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection = listening.accept()[0]
                with connection, suppress(OSError):
                    connection.settimeout(0.2)
                    connection.recv(65536)
                    connection.sendall(first)
                    while then and not over.is_set():
                        connection.sendall(then)
                        over.wait(0 if len(then) > 1000 else 0.01)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            over.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            assert not thread.is_alive()


def said(capsys: pytest.CaptureFixture[str], url: str, *argv: str) -> str:
    """The one line of a command that finds no server there."""
    assert cli.main([*argv, "--admin-url", url]) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err.strip().removeprefix(f"goproxy-vm: no server: {url} ")


def whole(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, JSON, len(body), body)


@pytest.mark.parametrize("body", [b"{}", b'{"items": 1, "next_cursor": null}', b'{"items": [{}]}'])
@pytest.mark.parametrize("argv", COMMANDS, ids=" ".join)
def test_members_that_a_server_has_are_not_there(
    capsys: pytest.CaptureFixture[str], argv: list[str], body: bytes
) -> None:
    with answering(whole(body)) as url:
        assert said(capsys, url, *argv) == ELSE


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (whole(b"[" * 100_000), ELSE),
        (whole(b'{"a":' * 100_000), ELSE),
        (whole(b"9" * 10_000), ELSE),
        (whole(b"\xff\xfe{}"), ELSE),
        (whole(b"{}", b"299 OK"), ELSE),
        (whole(b"", b"204 No"), ELSE),
        (whole(b'{"x": 1}')[:-3], ELSE),
        (b"HTTP/1.1 200 OK\r\n" + JSON + b"Content-Length: x\r\n\r\n", ELSE),
        (
            b"HTTP/1.1 200 OK\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n{}",
            "does not answer in HTTP",
        ),
        (
            b"HTTP/1.1 200 OK\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}",
            "does not answer in HTTP",
        ),
        (b"HTTP/1.1 999999 OK\r\n\r\n", "does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 1000 + b"\r\n", "does not answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 100_000, "does not answer in HTTP"),
        (b"\x16\x03\x01\x02\x00", "does not answer in HTTP"),
    ],
)
def test_answers_that_no_server_gives(
    capsys: pytest.CaptureFixture[str], answer: bytes, sentence: str
) -> None:
    with answering(answer) as url:
        assert said(capsys, url, "status") == sentence


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nA: ", b"b"),
        (b"HTTP/1.1 200 OK\r\n" + JSON + b"Content-Length: 999999\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n" + JSON + b"\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\n" + JSON + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
    ],
)
@pytest.mark.parametrize("argv", [["status"], ["health"]])
def test_answers_that_trickle_without_an_end(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    first: bytes,
    then: bytes,
    argv: list[str],
) -> None:
    monkeypatch.setattr(client, "REST_SECONDS", 0.3)
    with answering(first, then) as url:
        assert said(capsys, url, *argv) == "does not answer"


@pytest.mark.parametrize("head", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_answers_that_pour_without_an_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, head: bytes
) -> None:
    monkeypatch.setattr(client, "MOST", 1 << 20)
    some = b" " * 65536
    chunk = b"10000\r\n%b\r\n" % some if head else some
    with answering(b"HTTP/1.1 200 OK\r\n" + JSON + head + b"\r\n", chunk) as url:
        assert said(capsys, url, "status") == "answers with more than 1048576 bytes"
        assert said(capsys, url, "health") == "answers with more than 1024 bytes"


def test_an_answer_does_not_write_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(whole(b'{"module": "\\u001b[2J", "forgotten": 1}')) as url:
        assert cli.main(["refresh", "a.b/c", "--admin-url", url]) == 0
    assert capsys.readouterr().out == '"\\u001b[2J: 1 cached answer forgotten"\n'
