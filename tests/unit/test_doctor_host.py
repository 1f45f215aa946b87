"""The doctor's look at listeners, descriptors, the token, and how findings are shown."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from goproxy_vm.config import Address, Settings
from goproxy_vm.config.token import TOKEN_NAME
from goproxy_vm.doctor import listeners
from goproxy_vm.doctor.check import TITLES, Check, Finding, as_text, healthy, merged
from goproxy_vm.doctor.descriptors import check_descriptors, judge_limit
from goproxy_vm.doctor.listeners import check_admin, check_listeners
from goproxy_vm.doctor.running import Running, check_server, look

NOBODY = Running(0, None, Finding("ok", ""), None, socket=True)


def admin(address: Address, running: Running = NOBODY) -> Finding:
    return check_admin(Settings(cache_dir=Path("/x"), admin_listen=address), running)


def unix(path: Path) -> Address:
    return Address("", 0, str(path))


def test_unix_listener(tmp_path: Path) -> None:
    path = tmp_path / "s"
    found = admin(unix(path))
    assert (found.status, found.found) == ("ok", f"unix:{path} is free; only this host reaches it")
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    assert admin(unix(path)).status == "ok"  # left behind by a server that was killed
    assert path.exists()


def test_unix_listener_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxy_vm.console.client.PROBE_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))
        sock.listen()
        found = admin(unix(tmp_path / "s"))
    assert found.status == "failed"
    assert "by something other than goproxy-vm" in found.found
    assert "ss -lxp" in found.remedy


def test_unix_listener_in_a_wrong_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is no socket" in admin(unix(tmp_path / "file")).found
    assert "is missing or cannot be written to" in admin(unix(tmp_path / "none" / "s")).found
    assert admin(unix(tmp_path / "file" / "s")).status == "failed"


def test_address_of_another_host() -> None:
    found = admin(Address("192.0.2.1", 8081))
    assert found.status == "failed"
    assert found.found.startswith("admin_listen: cannot listen on 192.0.2.1:8081: ")
    assert "admin_listen" in found.remedy


def test_unix_only_main_listener(tmp_path: Path) -> None:
    found = check_listeners(Settings(cache_dir=tmp_path, listen=(unix(tmp_path / "s"),)), NOBODY)
    assert (found.status, "no VM does" in found.found) == ("warning", True)


def test_one_of_two_main_listeners_fails(tmp_path: Path) -> None:
    where = (Address("0.0.0.0", 0), unix(tmp_path / "none" / "s"))
    found = check_listeners(Settings(cache_dir=tmp_path, listen=where), NOBODY)
    assert found.status == "failed"
    assert found.found.startswith("0.0.0.0:0 is free; ")


@pytest.mark.parametrize(
    ("host", "reachable"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("::", True), ("no.such.invalid", True)],
)
def test_who_can_reach_it(host: str, reachable: bool) -> None:
    assert listeners._reachable(Address(host, 80)) == reachable


@pytest.mark.parametrize(
    ("limit", "status", "shares"),
    [
        (511, "failed", "8 connections from one address, 16 in all; 512 files are needed beside them"),
        (512, "warning", "8 connections from one address, 16 in all; {less}"),
        (5972, "warning", "1,023 connections from one address, 2,047 in all; {less}"),
        (5973, "ok", "1,024 connections from one address, 2,048 in all"),
    ],
)
def test_descriptors(limit: int, status: str, shares: str) -> None:
    found = judge_limit(Settings(cache_dir=Path("/x")), limit, "process 1")
    assert found.status == status
    less = "max_client_connections is 1,024"
    assert found.found == f"process 1 may open {limit:,} files: {shares.format(less=less)}"
    assert ("LimitNOFILE" in found.remedy) == (status != "ok")


def test_descriptors_without_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goproxy_vm.doctor.descriptors.open_files_limit", lambda _: sys.maxsize)
    found = check_descriptors(Settings(cache_dir=Path("/x")), 7)
    assert found.found.startswith("process 7 may open any number of files")
    monkeypatch.setattr("goproxy_vm.doctor.descriptors.open_files_limit", lambda _: None)
    assert check_descriptors(Settings(cache_dir=Path("/x")), 7).status == "skipped"


def token(**settings: object) -> Finding:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        closed = Address("127.0.0.1", sock.getsockname()[1])
    return look(Settings(admin_listen=closed, **settings)).token


def test_token_of_the_directory(tmp_path: Path) -> None:
    path = tmp_path / TOKEN_NAME
    assert token(cache_dir=tmp_path).found == f"none yet; the first start makes one, in {path}"
    path.write_text("t0ken-of-the-directory")
    path.chmod(0o644)
    found = token(cache_dir=tmp_path)
    assert found == Finding(
        "warning", f"{path} has mode 0644: other users may read or change it", f"chmod 600 {path}"
    )
    path.chmod(0o600)
    assert token(cache_dir=tmp_path) == Finding("ok", f"from {path}; not tried, for no server answers")


def test_token_of_a_file_that_is_missing_or_empty(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for reason in ("No such file or directory", "it holds no token"):
        found = token(cache_dir=tmp_path, admin_token_file=path)
        assert (found.status, reason in found.found) == ("failed", True)
        assert "admin_token_file" in found.remedy
        path.write_text("\n")


def test_token_of_the_settings(tmp_path: Path) -> None:
    found = token(cache_dir=tmp_path, admin_token="s3cret-of-the-settings")
    assert found == Finding("ok", "from admin_token; not tried, for no server answers")


@pytest.mark.parametrize(
    ("running", "status"),
    [
        (NOBODY, "skipped"),
        (Running(None, None, Finding("ok", ""), None, socket=True), "skipped"),
        (Running(7, None, Finding("ok", ""), None, socket=True), "failed"),
        (Running(None, "ready", Finding("ok", ""), None, socket=True), "ok"),
        (Running(0, "ready", Finding("ok", ""), None, socket=True), "warning"),
        (Running(7, "degraded: x", Finding("ok", ""), None, socket=True), "warning"),
        (Running(7, "ready", Finding("ok", ""), None, socket=False), "warning"),
        (Running(7, "ready", Finding("ok", ""), "0.0.1", socket=True), "warning"),
    ],
)
def test_server(running: Running, status: str) -> None:
    assert check_server(Settings(cache_dir=Path("/x")), running).status == status


def test_merged_takes_the_worst() -> None:
    found = merged([Finding("ok", "a"), Finding("failed", "b", "do"), Finding("warning", "c", "other")])
    assert found == Finding("failed", "a; b; c", "do")


def test_text_is_one_line_a_check_whatever_is_found() -> None:
    checks = [Check(name, Finding("warning", "a\x1b[2J\nb", "c\nd")) for name in TITLES]
    assert healthy(checks)
    lines = as_text(checks).splitlines()
    assert len(lines) == 2 * len(TITLES) + 1
    assert all(line.isprintable() for line in lines)
    assert lines[-1] == f"healthy: {len(TITLES)} warnings"


def test_own_process_is_known() -> None:
    assert check_descriptors(Settings(cache_dir=Path("/x")), os.getpid()).status != "skipped"
