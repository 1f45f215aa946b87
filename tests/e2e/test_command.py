"""The ``goproxy-vm`` command as an operator meets it: exit statuses, signals, sockets, probes."""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import pty
import random
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.e2e.gocommand import Running, serving, start
from tests.e2e.upstream_thread import UpstreamThread
from tests.fakes.modules import build_zip

MODULE = "example.com/m"
ZIP = f"{MODULE}/@v/v1.0.0.zip"
COMMAND = (sys.executable, "-m", "goproxy_vm")
ANY_PORT = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--sumdb", "off")

_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def upstream() -> Iterator[UpstreamThread]:
    with UpstreamThread() as thread:
        thread.fake.add_module(MODULE, "v1.0.0")
        yield thread


def get(url: str) -> bytes:
    with _open(url, timeout=60) as response:
        return bytes(response.read())


def complaint(*arguments: str, status: int) -> str:
    """The one line that a command which cannot go on leaves on stderr."""
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (status, ""), done
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("goproxy-vm: ")
    return lines[0].removeprefix("goproxy-vm: ")


def refusal(cache: Path, *arguments: str, status: int) -> str:
    """The complaint of a ``serve`` on free ports with these settings."""
    return complaint("serve", *ANY_PORT, "--cache-dir", str(cache), *arguments, status=status)


@contextmanager
def started(cache: Path, *arguments: str) -> Iterator[Running]:
    """A server that the block itself stops, one way or another."""
    running = start(cache, "--sumdb", "off", *arguments)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            running.process.kill()
        running.process.wait()
        assert running.process.stderr is not None
        running.process.stderr.close()


def wait_for_event(running: Running, event: str) -> None:
    """Read the log until it tells of ``event``."""
    assert running.process.stderr is not None
    for line in running.process.stderr:
        running.log.append(json.loads(line))
        if running.log[-1]["event"] == event:
            return
    raise AssertionError(f"no {event!r} in {running.log}")


# On a terminal


def test_a_person_is_greeted(cache: Path, upstream: UpstreamThread) -> None:
    """The line to copy first, and no log line of a good start."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "serve", *ANY_PORT, "--cache-dir", str(cache), "--upstream", upstream.url]
    process = subprocess.Popen(command, stderr=theirs, stdout=theirs)
    os.close(theirs)
    said = b""
    try:
        while b"  admin " not in said:
            said += os.read(ours, 65536)
        process.terminate()
        assert process.wait(30) == 0
        with suppress(OSError):  # EIO: the terminal's other side is closed
            while part := os.read(ours, 65536):
                said += part
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    lines = said.decode().replace("\r", "").splitlines()
    assert lines[0].endswith("serves; Ctrl-C ends it")
    name = upstream.url.removeprefix("http://")
    assert re.search(rf"^  upstreams   {name}  ok, \d+ ms$", "\n".join(lines), re.MULTILINE)
    assert not [line for line in lines if "WARNING" in line or " serving " in line or "temporary=0" in line]


# SIGHUP


def test_reload(cache: Path, tmp_path: Path, upstream: UpstreamThread) -> None:
    file, token = tmp_path / "x.toml", tmp_path / "token"
    token.write_text("first-of-all-tokens")
    file.write_text(f'admin_token_file = "{token}"\n')

    def reload(running: Running, event: str) -> dict[str, object]:
        running.process.send_signal(signal.SIGHUP)
        wait_for_event(running, event)
        return running.log[-1]

    def ask(running: Running, path: str) -> int:
        try:
            return len(get(f"{running.url}/{path}")) and 200
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def admitted(running: Running, text: str) -> bool:
        request = urllib.request.Request(
            f"{running.admin_url}/api/v1/pins", headers={"Authorization": f"Bearer {text}"}
        )
        try:
            with _open(request, timeout=60) as response:
                pins.append([pin["pattern"] for pin in json.load(response)["items"]])
                return True
        except urllib.error.HTTPError as error:
            with error:
                return error.code != 401

    pins: list[list[str]] = []
    with started(cache, "--upstream", upstream.url, "--config", str(file)) as running:
        assert ask(running, ZIP) == 200
        assert ask(running, ZIP) == 200
        assert admitted(running, "first-of-all-tokens")
        token.write_text("another-of-the-tokens")
        file.write_text(
            f'admin_token_file = "{token}"\ndeny = ["{MODULE}"]\npins = ["a.example/*"]\n'
            'log_level = "debug"\nfresh = "1h"\nlisten = ["127.0.0.1:1"]\n'
        )
        assert reload(running, "reloaded")["changed"] == ["deny", "log_level", "pins"]
        wait_for_event(running, "restart needed")
        assert running.log[-1]["changed"] == ["fresh"], "a flag overrides the file's listen"
        assert ask(running, ZIP) == 403, "a prepared answer is none any more"
        assert not admitted(running, "first-of-all-tokens")
        assert admitted(running, "another-of-the-tokens")
        assert pins == [[], ["a.example/*@*"]]
        file.write_text("frsh = 1\n")
        assert "frsh: no such key" in str(reload(running, "reload failed")["reason"])
        assert ask(running, ZIP) == 403
        file.write_text('allow_clients = ["192.0.2.0/24"]\nadmin_token = "a-token-from-the-file"\n')
        changed = ["admin_token", "admin_token_file", "allow_clients", "deny", "log_level", "pins"]
        assert sorted(reload(running, "reloaded")["changed"]) == changed  # type: ignore[call-overload]
        assert ask(running, ZIP) == 403
        file.write_text(f'admin_token_file = "{tmp_path}/none"\n')
        assert "none cannot be read" in str(reload(running, "reload failed")["reason"])
        file.write_text("")
        reload(running, "reloaded")
        assert ask(running, ZIP) == 200
        running.process.terminate()
        assert running.process.wait(30) == 0


# What an operator can put right: one line, and the status that says which kind it is.


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--listen", "nowhere"),
        ("--fresh", "soon"),
        ("--upstream", "ftp://example.com"),
        ("--sumdb", "sum.example.com"),
    ],
)
def test_bad_value_exits_2(cache: Path, flag: str, value: str) -> None:
    line = refusal(cache, flag, value, status=2)
    assert line.startswith(f"{flag.removeprefix('--')}: ")
    assert value in line
    assert not cache.exists()


def test_bad_value_in_the_environment_exits_2(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY_VM_MAX_MISSES", "many")
    line = refusal(cache, status=2)
    assert line.startswith('max_misses: "many" (environment variable GOPROXY_VM_MAX_MISSES): ')


def test_unknown_key_in_file_exits_2(cache: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('cache_dirs = "/nowhere"\n')
    line = refusal(cache, "--config", str(file), status=2)
    assert line == f"cache_dirs: no such key (file {file}); did you mean cache_dir?"


def test_no_such_command_exits_2() -> None:
    assert "sreve" in complaint("sreve", status=2)


@pytest.mark.parametrize("key", ["listen", "admin_listen"])
def test_port_in_use_exits_1(cache: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        other = "admin_listen" if key == "listen" else "listen"
        flags = {key: address, other: "127.0.0.1:0"}
        line = complaint(
            "serve",
            *(word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", value)),
            *("--cache-dir", str(cache)),
            status=1,
        )
        assert line == f"{key}: cannot listen on {address}: Address already in use"


def test_foreign_directory_exits_1(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("ten years of work\n")
    line = refusal(home, status=1)
    assert line.startswith(f"cache directory {home}: holds other files and no cache")
    assert [entry.name for entry in home.iterdir()] == ["thesis.tex"]


def test_directory_below_a_file_exits_1(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refusal(tmp_path / "file" / "cache", status=1)
    assert line.startswith(f"cache directory {tmp_path}/file/cache: ")
    assert line.endswith("Not a directory")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_directory_exits_1(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    line = refusal(tmp_path / "locked" / "cache", status=1)
    assert line.startswith(f"cache directory {tmp_path}/locked/cache: ")
    assert line.endswith("Permission denied")


def test_second_server_on_the_directory_exits_1(cache: Path) -> None:
    with serving(cache) as first:
        line = refusal(cache, status=1)
        assert line == f"cache directory {cache}: in use by process {first.process.pid}"
        assert get(f"{first.url}/healthz") == b"ok\n"


# Listening


def test_probes_and_metrics(cache: Path, upstream: UpstreamThread) -> None:
    with serving(cache, "--sumdb", "off", "--upstream", upstream.url) as server:
        # Port 0 became two real ones, and the first words of the log say which.
        assert server.url.startswith("http://127.0.0.1:")
        assert server.admin_url.startswith("http://127.0.0.1:")
        assert not server.url.endswith(":0")
        assert server.url != server.admin_url
        for url in (server.url, server.admin_url):
            assert get(f"{url}/healthz") == b"ok\n"
            assert get(f"{url}/readyz") == b"ready\n"
        get(f"{server.url}/{ZIP}")
        get(f"{server.url}/{ZIP}")
        name = upstream.url.removeprefix("http://")
        asked = f'goproxy_vm_upstream_requests_total{{outcome="ok",upstream="{name}"}} 3.0'
        metrics: list[str] = []
        while asked not in metrics:  # the zip brings its .mod and .info
            metrics = get(f"{server.admin_url}/metrics").decode().splitlines()
        assert 'goproxy_vm_requests_total{endpoint="zip",result="miss"} 1.0' in metrics
        assert 'goproxy_vm_requests_total{endpoint="zip",result="hit"} 1.0' in metrics
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(f"{server.url}/metrics")
        with refused.value as answer:
            assert answer.code == 404


def unix_get(path: Path, target: str) -> tuple[int, bytes]:
    """GET over a unix: socket; status and body."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: vm\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(sock)
        try:
            response.begin()
            return response.status, response.read()
        finally:
            response.close()


def test_unix_socket(cache: Path, tmp_path: Path, upstream: UpstreamThread) -> None:
    path, admin = tmp_path / "s", tmp_path / "a"
    flags = ("--listen", f"unix:{path}", "--upstream", upstream.url, "--sumdb", "off")
    with serving(cache, *flags, "--admin-listen", f"unix:{admin}") as server:
        assert server.log[-1]["urls"] == [server.url, f"unix:{path}"]
        assert server.admin_url == f"unix:{admin}"
        assert unix_get(path, f"/{MODULE}/@v/list") == (200, b"v1.0.0\n")
        assert unix_get(path, "/readyz") == (200, b"ready\n")
        assert unix_get(admin, "/readyz") == (200, b"ready\n")
        assert b"goproxy_vm_build_info" in unix_get(admin, "/metrics")[1]
        assert get(f"{server.url}/{MODULE}/@v/list") == b"v1.0.0\n"
    assert not path.exists()


# What the wrapper does is systemd's part: it puts the sockets at 3 and 4, says so and becomes the server.
HAND_OVER = """\
import os, sys
for target, fd in enumerate(sys.argv[1:3], 3):
    os.dup2(int(fd), target)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2", "LISTEN_FDNAMES": "main:admin"}
os.execv(sys.executable, [sys.executable, "-m", "goproxy_vm", *sys.argv[3:]])
"""


def test_sockets_handed_over(cache: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as main, socket.create_server(("127.0.0.1", 0)) as admin:
        urls = [f"http://127.0.0.1:{sock.getsockname()[1]}" for sock in (main, admin)]
        high = [fcntl.fcntl(sock, fcntl.F_DUPFD_CLOEXEC, 100) for sock in (main, admin)]
        process = subprocess.Popen(
            [
                *(sys.executable, "-c", HAND_OVER, *map(str, high)),
                *("serve", *ANY_PORT, "--cache-dir", str(cache), "--log-format", "json"),
            ],
            pass_fds=high,
            stderr=subprocess.PIPE,
            text=True,
        )
        for fd in high:
            os.close(fd)
    # Nobody but the server holds the sockets now; a connection waits in their queue until it is ready.
    with process:
        try:
            assert get(f"{urls[0]}/readyz") == b"ready\n"
            assert b"goproxy_vm_build_info" in get(f"{urls[1]}/metrics")
        finally:
            process.terminate()
            _, printed = process.communicate(timeout=40)
    assert process.returncode == 0, printed
    log = {event["event"]: event for event in map(json.loads, printed.splitlines())}
    assert [log["serving"]["url"], log["serving"]["admin_url"]] == urls


# Stopping

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)


def assert_clean_end(running: Running) -> None:
    wait_for_event(running, "stopped")
    assert running.process.wait(timeout=40) == 0
    assert not [event for event in running.log if event["level"] in ("error", "critical")], running.log


@SIGNALS
def test_stop_lets_a_fetch_finish(cache: Path, upstream: UpstreamThread, number: signal.Signals) -> None:
    gate = upstream.fake.hold(f"/{ZIP}")
    with started(cache, "--upstream", upstream.url) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(get, f"{server.url}/{ZIP}")
        upstream.wait(gate)
        server.process.send_signal(number)
        wait_for_event(server, "stopping")
        upstream.open(gate)
        assert answer.result(60) == upstream.fake.files[f"/{ZIP}"]
        assert_clean_end(server)
    with serving(cache, "--sumdb", "off", "--offline") as server:
        assert get(f"{server.url}/{ZIP}") == upstream.fake.files[f"/{ZIP}"], "and it is stored"


@SIGNALS
def test_stop_lets_a_slow_client_finish(
    cache: Path, upstream: UpstreamThread, number: signal.Signals
) -> None:
    # More than both ends' socket buffers hold: the server is still sending while the client dawdles.
    data = random.Random(1).randbytes(24 << 20)
    large = build_zip(MODULE, "v1.1.0", {"go.mod": f"module {MODULE}\n".encode(), "data": data}, stored=True)
    upstream.fake.add_module(MODULE, "v1.1.0", zipped=large)
    with started(cache, "--upstream", upstream.url) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        client.settimeout(60)
        host, port = server.url.removeprefix("http://").split(":")
        client.connect((host, int(port)))
        client.sendall(f"GET /{MODULE}/@v/v1.1.0.zip HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        response = http.client.HTTPResponse(client)
        response.begin()
        begun = response.read(1000)
        server.process.send_signal(number)
        wait_for_event(server, "stopping")
        assert begun + response.read() == large
        response.close()
        assert_clean_end(server)


def test_idle_connections_do_not_delay_the_stop(cache: Path) -> None:
    with started(cache, "--shutdown-timeout", "10m") as server, socket.socket() as client:
        host, port = server.url.removeprefix("http://").split(":")
        client.settimeout(60)
        client.connect((host, int(port)))
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: vm\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 ")
        server.process.send_signal(signal.SIGTERM)
        assert_clean_end(server)
        assert client.recv(4096) == b""


def test_answers_past_the_shutdown_timeout_are_cut(cache: Path, upstream: UpstreamThread) -> None:
    gate = upstream.fake.hold(f"/{ZIP}")
    arguments = ("--upstream", upstream.url, "--shutdown-timeout", "0")
    with started(cache, *arguments) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(get, f"{server.url}/{ZIP}")
        upstream.wait(gate)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionError):
            answer.result(60)
        assert_clean_end(server)


def test_killed_server_is_replaced_at_once(cache: Path, tmp_path: Path, upstream: UpstreamThread) -> None:
    path = tmp_path / "s"
    with serving(cache, "--sumdb", "off", "--upstream", upstream.url) as server:
        stored = get(f"{server.url}/{ZIP}")
    upstream.fake.add_module(MODULE, "v1.1.0")
    gate = upstream.fake.hold(f"/{MODULE}/@v/v1.1.0.zip")
    arguments = ("--listen", f"unix:{path}", "--upstream", upstream.url)
    with started(cache, *arguments) as server, ThreadPoolExecutor(1) as client:
        answer = client.submit(get, f"{server.url}/{MODULE}/@v/v1.1.0.zip")
        upstream.wait(gate)
        server.process.kill()
        assert server.process.wait() == -signal.SIGKILL
        with pytest.raises(ConnectionError):
            answer.result(60)
    assert path.exists(), "a killed server cleans up nothing"
    (cache / "tmp" / "half").write_bytes(b"half a zip")
    upstream.open(gate)
    with serving(cache, "--sumdb", "off", *arguments) as server:
        asked = len(upstream.fake.requests)
        assert unix_get(path, f"/{ZIP}") == (200, stored)
        assert len(upstream.fake.requests) == asked
        assert not list((cache / "tmp").iterdir())
        whole = upstream.fake.files[f"/{MODULE}/@v/v1.1.0.zip"]
        assert get(f"{server.url}/{MODULE}/@v/v1.1.0.zip") == whole
