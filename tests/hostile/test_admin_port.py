"""Other users of the host: who takes the admin port while the server is down, who finds its socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from goproxy_vm import cli
from goproxy_vm.admin.app import ADMIN_CONNECTIONS, LOCAL_CONNECTIONS
from goproxy_vm.config.address import UNIX_PATH_MAX, Address
from goproxy_vm.config.token import SOCKET_NAME, TOKEN_NAME
from tests.e2e.gocommand import start
from tests.fakes.lines import logged
from tests.fakes.wire import Wire
from tests.integration.conftest import Serve

NOBODY = 65534
TOKEN = "t0ken-that-nobody-else-may-see"
OFFLINE = "http://127.0.0.1:9"

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be another user")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("GOPROXY_VM_", "XDG_", "CACHE_DIRECTORY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))


async def command(*argv: str) -> int:
    return await asyncio.to_thread(cli.main, argv)


LISTEN = """
import os, socket, sys
family, where, user = sys.argv[1:]
where = (where, 0) if family != "unix" else where
sock = socket.socket({"4": socket.AF_INET, "6": socket.AF_INET6, "unix": socket.AF_UNIX}[family])
if family == "6":
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
os.setgroups([]); os.setgid(int(user)); os.setuid(int(user))
sock.bind(where); sock.listen()
print(sock.getsockname()[1], flush=True)
answer = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 2\\r\\n\\r\\n{}"
while True:
    connection, _ = sock.accept()
    heard = b""
    while not heard.endswith(b"\\r\\n\\r\\n") and (some := connection.recv(65536)):
        heard += some
    if heard:
        connection.sendall(answer)
    connection.close()
    print(heard, flush=True)
"""


class Impostor:
    """Another user's process that listens."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._stdout = process.stdout
        self.port = int(self._stdout.readline())

    def heard(self) -> str:
        """What it was sent."""
        return self._stdout.readline()


@contextmanager
def impostor(family: str, where: str) -> Iterator[Impostor]:
    argv = [sys.executable, "-c", LISTEN, family, where, str(NOBODY)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Impostor(process)
        finally:
            process.kill()


@as_root
@pytest.mark.parametrize(("family", "where"), [("4", "127.0.0.1"), ("4", "0.0.0.0"), ("6", "::")])
@pytest.mark.parametrize("given", ["settings", "url", "file", "owner"])
def test_the_token_does_not_go_to_who_has_taken_the_port(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    family: str,
    where: str,
    given: str,
) -> None:
    """The server is down. Whoever owns the cache directory has the token anyway, and is told it."""
    file = tmp_path / "cache" / TOKEN_NAME
    file.parent.mkdir(mode=0o700)
    file.write_text(TOKEN)
    with impostor(family, where) as other:
        address = f"127.0.0.1:{other.port}"
        monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", address)
        argv = ["--admin-url", f"http://{address}"] if given == "url" else []
        argv += ["--token-file", str(file)] if given == "file" else []
        if given == "owner":
            os.chown(file.parent, NOBODY, NOBODY)
        assert cli.main(["status", *argv]) == 3
        said, heard = capsys.readouterr().err, other.heard()
    assert "Traceback" not in said
    if given == "owner":
        assert TOKEN in heard
        line = f"goproxy-vm: no server: http://{address} answers, but not as goproxy_vm's admin API"
        assert said.partition(";")[0].strip() == line
    else:
        assert heard == "b''\n"
        assert f"http://{address} is served by user {NOBODY}" in said


@as_root
def test_the_doctor_does_not_take_it_for_the_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with impostor("4", "127.0.0.1") as other:
        monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", f"127.0.0.1:{other.port}")
        monkeypatch.setenv("GOPROXY_VM_OFFLINE", "true")
        cli.main(["doctor", "--json"])
        assert [other.heard() for _ in range(3)] == ["b''\n"] * 3
    found = {each["id"]: each for each in json.loads(capsys.readouterr().out)["checks"]}
    assert "held by something other than goproxy-vm" in found["admin_listener"]["found"]


async def test_the_commands_need_no_token_over_the_socket(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    host = await serve(OFFLINE, offline=True)
    path = tmp_path / "cache" / SOCKET_NAME
    assert host.server.admin_socket == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (tmp_path / "cache" / TOKEN_NAME).unlink()
    monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", "127.0.0.1:1")
    assert await command("status") == 0
    assert await command("health") == 0
    assert await command("pin", "a.b/c") == 0
    monkeypatch.setenv("GOPROXY_VM_ADMIN_TOKEN", "another-t0ken-that-is-wrong")
    assert await command("status") == 0
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", host.server.admin_url.removeprefix("http://"))
    assert await command("status", "--admin-url", host.server.admin_url) == 1  # TCP asks for it
    assert capsys.readouterr().err == "goproxy-vm: the server has another admin token\n"
    await host.server.stop()
    assert not path.exists()
    assert await command("status") == 3


ASK = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX)
path, user, line = sys.argv[1:]
os.chdir(os.path.dirname(path))
os.setgroups([]); os.setgid(int(user)); os.setuid(int(user))
try:
    sock.connect(os.path.basename(path))
except OSError as error:
    sys.exit(error.strerror)
sock.sendall(f"GET /api/v1/status HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n{line}\\r\\n".encode())
print(sock.recv(12).decode())
"""


@as_root
async def test_other_users_cannot_use_the_socket(serve: Serve, tmp_path: Path) -> None:
    """Its mode keeps them out; and were it wider, they would need the token."""
    await serve(OFFLINE, offline=True, admin_token=TOKEN)
    path = tmp_path / "cache" / SOCKET_NAME

    async def ask(line: str = "", user: int = NOBODY) -> tuple[str, str]:
        argv = (sys.executable, "-c", ASK, str(path), str(user), line)
        # Coverage could not write what it saw as another user.
        environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ
        )
        out, err = await process.communicate()
        return out.decode().strip(), err.decode().strip()

    assert await ask(user=0) == ("HTTP/1.1 200", "")
    for each in (path.parent, *path.parent.parents):  # the way there is open
        if each.stat().st_uid == os.geteuid():
            each.chmod(each.stat().st_mode | 0o011)
    assert await ask() == ("", "Permission denied")
    path.chmod(0o666)
    assert await ask() == ("HTTP/1.1 401", "")
    assert await ask(f"Authorization: Bearer {TOKEN}\r\n") == ("HTTP/1.1 200", "")


def test_the_socket_after_kill_9(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = tmp_path / "cache"
    flags = ("--sumdb", "off", "--offline")
    first = start(cache, *flags)
    first.process.kill()
    first.process.communicate()
    assert stat.S_ISSOCK((cache / SOCKET_NAME).lstat().st_mode)
    assert cli.main(["health"]) == 3
    second = start(cache, *flags)
    try:
        assert second.log[-1]["admin_socket"] == str(cache / SOCKET_NAME)
        assert cli.main(["health"]) == 0
    finally:
        assert second.stop() == 0
    assert not (cache / SOCKET_NAME).exists()
    capsys.readouterr()


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling", "linked socket"])
async def test_what_is_in_its_place_stays(
    serve: Serve, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes on without it, and says so; the commands take the admin listener."""
    cache, aim = tmp_path / "cache", tmp_path / "aim"
    (cache / "modules").mkdir(parents=True, mode=0o700)
    path = cache / SOCKET_NAME
    with ExitStack() as stack:
        if kind == "linked socket":
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(aim))
            sock.listen()
        elif kind == "link":
            aim.write_text("mine")
        if kind == "file":
            path.write_text("mine")
        elif kind == "directory":
            path.mkdir()
        else:
            path.symlink_to(aim)
        before = path.lstat().st_ino
        host = await serve(OFFLINE, offline=True)
        assert host.server.admin_socket is None
        assert "admin socket not served" in logged(caplog)
        if kind != "linked socket":
            monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", host.server.admin_url.removeprefix("http://"))
            assert await command("status") == 0
        await host.server.stop()
    assert path.lstat().st_ino == before
    assert kind != "link" or aim.read_text() == "mine"


async def test_a_cache_directory_with_a_long_path(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / ("x" * UNIX_PATH_MAX)
    host = await serve(OFFLINE, offline=True, cache_dir=cache)
    assert host.server.admin_socket is None
    length = len(f"{cache}/{SOCKET_NAME}")
    assert f"the path has {length} bytes, and that of a socket 107 at most" in logged(caplog)
    monkeypatch.setenv("GOPROXY_VM_ADMIN_LISTEN", host.server.admin_url.removeprefix("http://"))
    assert await command("status", "--cache-dir", str(cache)) == 0


async def test_the_admin_listener_may_be_that_socket(serve: Serve, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "modules").mkdir(mode=0o700, parents=True)
    host = await serve(OFFLINE, offline=True, admin_listen=Address("", 0, str(cache / SOCKET_NAME)))
    assert host.server.admin_socket is None
    assert await command("status") == 0
    await host.server.stop()
    assert not (cache / SOCKET_NAME).exists()


async def test_a_full_admin_listener_does_not_fill_the_socket(serve: Serve) -> None:
    host = await serve(OFFLINE, offline=True)
    with ExitStack() as stack:
        where = host.server.admin_url.removeprefix("http://").split(":")
        for number in range(ADMIN_CONNECTIONS):
            sock = stack.enter_context(socket.socket())
            sock.bind((f"127.0.0.{2 + number % 4}", 0))
            sock.connect((where[0], int(where[1])))
        async with Wire(host.server.admin_url) as wire:
            assert (await wire.answer()).status == 503
        assert await command("status") == 0


async def test_the_socket_has_a_bound_of_its_own(serve: Serve) -> None:
    host = await serve(OFFLINE, offline=True)
    with ExitStack() as stack:
        for _ in range(LOCAL_CONNECTIONS):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(host.server.admin_socket))
        async with Wire(f"unix:{host.server.admin_socket}") as wire:
            assert (await wire.answer()).status == 503
