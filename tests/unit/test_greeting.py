"""console/greeting.py: what a person reads who starts a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from goproxy_vm.config import load
from goproxy_vm.config.load import file_of_settings
from goproxy_vm.console.greeting import Serving, greeting, said, status_command
from goproxy_vm.upstream.probe import ProbeResult
from goproxy_vm.web import listener


def test_greeting() -> None:
    serving = Serving(
        version="1.2.3",
        url="http://192.168.1.5:8080",
        admin_url="http://127.0.0.1:8081",
        directory="/var/cache/goproxy-vm",
        used_bytes=450_000,
        limit_bytes=50_000_000_000,
        upstreams=[
            ("goproxy.cn", said(ProbeResult("goproxy.cn", 0.0123))),
            ("proxy.golang.org", said(ProbeResult("x", 3.0, "Name or service not known"))),
            ("files", said(None)),
        ],
        database="sum.golang.org",
        command="/srv/.venv/bin/goproxy-vm status",
    )
    assert greeting(serving).splitlines() == [
        "goproxy_vm 1.2.3 serves; Ctrl-C ends it",
        "",
        "  on each VM  go env -w GOPROXY=http://192.168.1.5:8080",
        "  upstreams   goproxy.cn        ok, 12 ms",
        "              proxy.golang.org  trouble: Name or service not known",
        "              files             not tried: a directory, or behind a proxy",
        "  checksums   proven by sum.golang.org",
        "  cache       /var/cache/goproxy-vm: 439 KiB of 46.6 GiB (50.0 GB) used",
        "  admin       /srv/.venv/bin/goproxy-vm status (at http://127.0.0.1:8081)",
    ]


def test_alone() -> None:
    text = greeting(Serving("1", "", "unix:/x", "/c", 0, 1 << 20, [], "", "goproxy-vm status"))
    assert "on each VM  none reaches it (setting listen)" in text
    assert "upstreams   none  only what is stored is served" in text
    assert "checksums   not proven (sumdb = off)" in text


@pytest.mark.parametrize(
    ("urls", "outward", "found"),
    [
        (["http://0.0.0.0:8080"], "192.0.2.5", "http://192.0.2.5:8080"),
        (["http://[::]:8080"], "192.0.2.5", "http://192.0.2.5:8080"),
        (["http://0.0.0.0:8080"], "", "http://a-host:8080"),
        (["http://127.0.0.1:1", "unix:/x", "http://[::1]:2"], "192.0.2.5", ""),
        (["http://127.0.0.1:1", "http://10.0.0.1:2"], "192.0.2.5", "http://10.0.0.1:2"),
        (["http://[fd00::1]:2"], "192.0.2.5", "http://[fd00::1]:2"),
        ([], "192.0.2.5", ""),
    ],
)
def test_reachable(monkeypatch: pytest.MonkeyPatch, urls: list[str], outward: str, found: str) -> None:
    monkeypatch.setattr(listener, "outward_address", lambda: outward)
    monkeypatch.setattr("socket.gethostname", lambda: "a-host")
    assert listener.reachable(urls) == found


URL = "http://127.0.0.1:8081"


def command(home: Path, program: str = "/srv/goproxy-vm", *, socket: bool = True, **given: str) -> str:
    """What the greeting names, where ``given`` are this server's flags, or variables in capitals."""
    variables = {"HOME": str(home), **{name: value for name, value in given.items() if name.isupper()}}
    flags = {name: value for name, value in given.items() if name.islower() and name != "config"}
    file = file_of_settings(Path(given["config"]) if "config" in given else None, variables)
    return status_command(load(flags, variables, file), variables, program, URL, socket=socket)


def test_the_command_says_what_it_would_not_find_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command(tmp_path) == "/srv/goproxy-vm status"
    assert command(tmp_path, cache_dir="/a b") == "/srv/goproxy-vm status --cache-dir '/a b'"
    assert command(tmp_path, GOPROXY_VM_CACHE_DIR="/c") == "/srv/goproxy-vm status --cache-dir /c"
    assert command(tmp_path, CACHE_DIRECTORY="/c") == "/srv/goproxy-vm status --cache-dir /c"
    file = tmp_path / "x.toml"
    file.write_text('cache_dir = "/c"\n')
    assert command(tmp_path, config=str(file)) == f"/srv/goproxy-vm status --config {file}"
    assert command(tmp_path, GOPROXY_VM_CONFIG=str(file)) == f"/srv/goproxy-vm status --config {file}"
    both = command(tmp_path, config=str(file), cache_dir="/d")
    assert both == f"/srv/goproxy-vm status --config {file} --cache-dir /d"
    file.write_text('fresh = "x"\n')
    overridden = command(tmp_path, config=str(file), fresh="5s", cache_dir="/d")
    assert overridden == "/srv/goproxy-vm status --config /dev/null --cache-dir /d"


def test_the_command_where_the_socket_is_not_served(tmp_path: Path) -> None:
    assert command(tmp_path, socket=False) == "/srv/goproxy-vm status"
    elsewhere = tmp_path / "x.toml"
    elsewhere.write_text('admin_listen = "127.0.0.1:9"\n')
    said = command(tmp_path, socket=False, config=str(elsewhere))
    assert said == f"/srv/goproxy-vm status --config {elsewhere} --admin-url {URL}"


def test_the_program_as_it_was_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "goproxy-vm"
    program.touch(0o700)
    monkeypatch.chdir(tmp_path)
    assert command(tmp_path, "./goproxy-vm") == f"{program} status"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command(tmp_path, str(program)) == "goproxy-vm status"
    assert command(tmp_path, "/x/goproxy_vm/__main__.py") == f"{sys.executable} -m goproxy_vm status"
