"""The systemd units: what systemd thinks of them, that they fit the server, and the server under them."""

from __future__ import annotations

import fcntl
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from goproxy_vm import cli
from goproxy_vm.config import environment_name, keys, load
from goproxy_vm.config.address import Address
from goproxy_vm.console.client import admin_url

DIRECT = "goproxy-vm-direct.conf"
UNITS = Path(__file__).parents[2] / "config" / "systemd"
NAMES = ("goproxy-vm.service", "goproxy-vm.socket", "goproxy-vm-admin.socket")
SOCKETS = NAMES[1:]
INSTALLED = "/opt/goproxy-vm/bin/goproxy-vm"
MOST_EXPOSED = 20
"""Tenths of what ``systemd-analyze security`` may say; 100 is a service without a sandbox."""


def directives(name: str) -> dict[str, list[str]]:
    """The values of each directive of a unit, in their order."""
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def installed(directory: Path, *, with_token: bool = False) -> list[str]:
    """Copies of the units whose program exists, for systemd looks for it."""
    directory.mkdir()
    for name in NAMES:
        text = (UNITS / name).read_text().replace(INSTALLED, f"{Path(sys.executable).parent}/goproxy-vm")
        if with_token:
            text = re.sub(r"^#(?=\w+=)", "", text, flags=re.MULTILINE)
        (directory / name).write_text(text)
    return [str(directory / name) for name in NAMES]


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("with_token", [False, True])
def test_systemd_takes_the_units(tmp_path: Path, with_token: bool) -> None:
    done = analyze("verify", "--man=no", *installed(tmp_path / "units", with_token=with_token))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_takes_what_version_control_needs(tmp_path: Path) -> None:
    units = installed(tmp_path / "units")
    (tmp_path / "units" / "goproxy-vm.service.d").mkdir()
    shutil.copy(UNITS / DIRECT, tmp_path / "units" / "goproxy-vm.service.d" / "direct.conf")
    done = analyze("verify", "--man=no", *units)
    assert (done.returncode, done.stderr) == (0, "")
    given = directives(DIRECT)
    assert all(call.startswith("landlock_") for call in given["SystemCallFilter"][0].split())
    assert int(given["TasksMax"][0]) > int(directives("goproxy-vm.service")["TasksMax"][0])


def test_the_sandbox_is_tight(tmp_path: Path) -> None:
    service = installed(tmp_path / "units")[0]
    done = analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", service)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze judges running services only")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_exists() -> None:
    (line,) = directives("goproxy-vm.service")["ExecStart"]
    program, *arguments = line.split()
    assert program == INSTALLED
    parsed = cli.command_line().parse_args(arguments)
    assert parsed.command is cli.command_line().parse_args(["serve"]).command
    assert parsed.config == Path("/etc/goproxy-vm.toml")


def test_times_fit_the_settings() -> None:
    service = directives("goproxy-vm.service")
    defaults = load({}, {"CACHE_DIRECTORY": "/var/cache/goproxy-vm"}, None).settings
    assert int(service["TimeoutStopSec"][0]) > defaults.shutdown_timeout + 10
    assert int(service["WatchdogSec"][0]) >= 30
    assert service["Type"] == ["notify"]
    assert int(service["LimitNOFILE"][0]) > 10 * defaults.max_client_connections


def test_no_restart_after_a_wrong_setting() -> None:
    assert directives("goproxy-vm.service")["RestartPreventExitStatus"] == ["2"]


def test_the_cache_directory_is_the_default() -> None:
    service = directives("goproxy-vm.service")
    found = load({}, {"CACHE_DIRECTORY": f"/var/cache/{service['CacheDirectory'][0]}"}, None).settings
    users = (UNITS / "goproxy-vm.sysusers.conf").read_text().splitlines()
    user = shlex.split(users[-1])
    assert (user[1], user[4]) == (service["User"][0], str(found.cache_dir))


def test_a_cache_on_another_disk_is_made_and_named(tmp_path: Path) -> None:
    """By the commands of the page, in their order, in a directory of the test."""
    page = (UNITS.parents[1] / "docs" / "install.md").read_text()
    (path,) = re.findall(r"^ReadWritePaths=(.+)$", page, re.MULTILINE)
    before = page.partition(f"ReadWritePaths={path}")[0]
    file = tmp_path / "goproxy-vm.toml"
    shutil.copy(UNITS.parent / "goproxy-vm.toml", file)
    commands = re.findall(r"^# (sed -i .*cache_dir.*|install -d .*)$", before, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["sed", "install", "sed"]
    for command in commands:
        words = [word.replace("/etc/", f"{tmp_path}/") for word in shlex.split(command)]
        if words[0] == "install":
            assert [words.pop(2), words.pop(2)] == ["-o", "goproxy-vm"]
            assert [words.pop(2), words.pop(2)] == ["-g", "goproxy-vm"]
            assert words[-1] == path
            words[-1] = str(tmp_path / "disk")
        subprocess.run(words, check=True)
    assert (tmp_path / "disk").stat().st_mode & 0o777 == 0o700
    assert tomllib.loads(file.read_text())["cache_dir"] == path


def test_variables_are_settings() -> None:
    names = set(re.findall(r"GOPROXY_VM_[A-Z_]+", (UNITS / "goproxy-vm.service").read_text()))
    assert "GOPROXY_VM_ADMIN_TOKEN_FILE" in names
    assert names - {"GOPROXY_VM_"} <= {environment_name(name) for name in keys()}


def test_the_sockets_are_the_defaults() -> None:
    """Whoever moves from ``make serve`` to systemd, or back, meets the same addresses."""
    defaults = load({}, {"CACHE_DIRECTORY": "/c"}, None).settings
    main, admin = (directives(name) for name in SOCKETS)
    assert main["ListenStream"] == [str(address) for address in defaults.listen]
    assert admin["ListenStream"] == [str(defaults.admin_listen)]
    assert (main["FileDescriptorName"], admin["FileDescriptorName"]) == (["main"], ["admin"])
    for each in (main, admin):
        assert each["Service"] == ["goproxy-vm.service"]
    assert directives("goproxy-vm.service")["Sockets"] == [" ".join(SOCKETS)]
    assert admin_url(Address("127.0.0.1", 8081)) == f"http://{admin['ListenStream'][0]}"


HANDS_OVER = """
import os, sys
for at, fd in enumerate(map(int, sys.argv[1:3]), 3):
    os.dup2(fd, at, inheritable=True)
os.environ["LISTEN_PID"] = os.environ["WATCHDOG_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "goproxy_vm", *sys.argv[3:]])
"""
"""What systemd does between fork and exec: sockets at descriptors 3 and 4, our process id."""


def test_the_server_tells_of_its_life(tmp_path: Path) -> None:
    """READY once it serves, a ping more often than asked for, STOPPING at SIGTERM; on sockets handed over."""
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
        socket.create_server(("127.0.0.1", 0)) as main,
        socket.create_server(("127.0.0.1", 0)) as admin,
    ):
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(30)
        # High ones, which dup2 does not step on.
        high = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD_CLOEXEC, 500) for sock in (main, admin)]
        outside = {name: value for name, value in os.environ.items() if not name.startswith("GOPROXY_VM_")}
        environ = outside | {
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "WATCHDOG_USEC": "200000",
            "LISTEN_FDS": "2",
            "LISTEN_FDNAMES": "main:admin",
            "CACHE_DIRECTORY": str(tmp_path / "cache"),
        }
        process = subprocess.Popen(
            [sys.executable, "-c", HANDS_OVER, *map(str, high), "serve", "--offline", "--sumdb", "off"],
            env=environ,
            pass_fds=high,
            stderr=subprocess.DEVNULL,
        )
        try:
            assert notified.recv(100) == b"READY=1"
            for sock in (main, admin):
                assert healthy(sock)
            begun = time.monotonic()
            pings = [notified.recv(100) for _ in range(4)]
            assert pings == [b"WATCHDOG=1"] * 4
            assert time.monotonic() - begun < 30
            process.send_signal(signal.SIGTERM)
            while (state := notified.recv(100)) == b"WATCHDOG=1":
                pass
            assert state == b"STOPPING=1"
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
            for each in high:
                os.close(each)


def healthy(listening: socket.socket) -> bool:
    with socket.create_connection(listening.getsockname(), timeout=30) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        answer = b""
        while got := client.recv(1000):
            answer += got
    return answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok\n")
