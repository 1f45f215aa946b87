"""The environment of the go command: all of it, and nothing of the server's."""

from __future__ import annotations

import os
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from goproxy_vm.errors import StartError
from goproxy_vm.upstream.direct.environ import Surroundings
from goproxy_vm.upstream.direct.find import find_git, find_go, find_goroot
from goproxy_vm.upstream.direct.place import make_bundle
from tests.fakes.gitrepos import git_command


def surroundings(tmp_path: Path, **changes: object) -> Surroundings:
    given: dict[str, object] = {
        "goroot": Path("/usr/local/go"),
        "run": tmp_path / "run",
        "home": tmp_path / "home",
        "private": True,
        "page": None,
        "certificates": None,
        "stall": 30.0,
        "port": 4711,
        "token": "t0ken",
        "go_proxy": "http://go:t0ken@127.0.0.1:4711",
        "git_proxy": "http://git:t0ken@127.0.0.1:4711",
        **changes,
    }
    return Surroundings(**given)  # type: ignore[arg-type]  # given by name


def ssh_options(command: str) -> dict[str, str]:
    words = shlex.split(command)
    return dict(word.split("=", 1) for flag, word in pairwise(words) if flag == "-o")


def test_private_ones_have_keys_and_ssh(tmp_path: Path) -> None:
    directory = tmp_path / "home" / ".ssh"
    directory.mkdir(parents=True)
    for name in ("id_ed25519", "id_ed25519.pub", "id_100%", "known_hosts", "other"):
        (directory / name).touch()
    found = surroundings(tmp_path).variables()
    assert found["GIT_ALLOW_PROTOCOL"] == "https:ssh"
    command = found["GIT_SSH_COMMAND"]
    words = shlex.split(command)
    assert words[:3] == ["ssh", "-F", "/dev/null"]
    keys = [word for word in words if word.startswith("IdentityFile=")]
    assert keys == [f'IdentityFile="{directory}/id_100%%"', f'IdentityFile="{directory}/id_ed25519"']
    options = ssh_options(command)
    assert options["UserKnownHostsFile"] == f'"{directory}/known_hosts"'
    assert options["ProxyCommand"].endswith("connect.py %h %p")
    assert "t0ken" not in command
    (directory / "config").touch()
    assert shlex.split(surroundings(tmp_path).variables()["GIT_SSH_COMMAND"])[2] == str(directory / "config")


def test_ssh_takes_it(tmp_path: Path) -> None:
    """As ssh itself reads it."""
    ssh = subprocess.run(["which", "ssh"], capture_output=True, text=True).stdout.strip()
    if not ssh:
        pytest.skip("ssh is not installed")
    home = tmp_path / "a home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_rsa").touch()
    command = surroundings(tmp_path, home=home).variables()["GIT_SSH_COMMAND"]
    told = subprocess.run(
        ["/bin/sh", "-c", f"{command} -G git.corp"],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert told.returncode == 0, told.stderr
    lines = set(told.stdout.splitlines())
    assert {"batchmode yes", "stricthostkeychecking true", "identitiesonly yes", "forwardagent no"} <= lines
    assert f"userknownhostsfile {home}/.ssh/known_hosts" in lines
    assert f"identityfile {home}/.ssh/id_rsa" in lines


def test_public_ones_have_neither(tmp_path: Path) -> None:
    found = surroundings(tmp_path, private=False).variables()
    assert found["GIT_ALLOW_PROTOCOL"] == "https"
    assert found["GIT_SSH_COMMAND"] == "/bin/false"
    assert config(found)["protocol.ssh.allow"] == "never"


def config(found: dict[str, str]) -> dict[str, str]:
    count = int(found["GIT_CONFIG_COUNT"])
    return {found[f"GIT_CONFIG_KEY_{n}"]: found[f"GIT_CONFIG_VALUE_{n}"] for n in range(count)}


def test_git_takes_the_configuration(tmp_path: Path) -> None:
    """And it outranks what a home says."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(
        "[core]\n\thooksPath = /evil\n\tattributesFile = /evil\n[http]\n\tproxy = x\n"
    )
    found = surroundings(tmp_path, home=home).variables()
    told = subprocess.run(
        [git_command(), "config", "--list"],
        capture_output=True,
        text=True,
        env=found,
        cwd=tmp_path,
        check=True,
    )
    last = dict(line.split("=", 1) for line in told.stdout.splitlines())
    for key, value in config(found).items():
        assert last[key.lower()] == value


def test_nothing_is_inherited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY", "https://evil.example")
    monkeypatch.setenv("GIT_SSH", "/evil")
    monkeypatch.setenv("SECRET", "x")
    found = surroundings(tmp_path).variables()
    assert found["GOPROXY"] == "direct"
    assert not {"GIT_SSH", "SECRET"} & found.keys()


def test_certificates(tmp_path: Path) -> None:
    assert make_bundle(None, {}, tmp_path / "made") is None
    ours = tmp_path / "ca.pem"
    ours.write_text("OURS\n")
    made = make_bundle(ours, {}, tmp_path / "made")
    assert made is not None
    assert made.read_text().endswith("OURS\n")
    assert made.read_text().count("BEGIN CERTIFICATE") > 10  # those of the system, too
    found = surroundings(tmp_path, certificates=made).variables()
    assert found["SSL_CERT_FILE"] == found["GIT_SSL_CAINFO"] == str(made)
    with pytest.raises(OSError, match="none"):
        make_bundle(tmp_path / "none", {}, tmp_path / "other")


def test_where_the_commands_are(tmp_path: Path) -> None:
    go = find_go(None)
    assert find_go(go) == go
    assert (find_goroot(go) / "bin" / "go").exists()
    assert find_git().name == "git"
    broken = tmp_path / "go"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(StartError, match="does not say"):
        find_goroot(broken)
