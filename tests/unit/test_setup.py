"""``/vm/setup.sh``: what is filled in, and that it is sound shell."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from goproxy_vm.config import Settings, load
from goproxy_vm.config.sumdb import GOOGLE_KEY
from goproxy_vm.config.values import PATTERNS, SUMDB
from goproxy_vm.errors import ConfigError
from goproxy_vm.web.forwarded import Forwarded
from goproxy_vm.web.scripts import Scripts, UnknownHost
from tests.fakes.sumdb import Signer

FILE = Path(__file__).parents[2] / "goproxy_vm" / "web" / "setup.sh"
PATH = "/vm/setup.sh"
VKEY = str(Signer.make("sums.example/log", bytes(32)).key)
SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox", "ksh", "mksh") if shutil.which(shell)]


def url_of(hosts: Sequence[str]) -> str:
    """The URL that a client with these Host fields used."""
    headers = CIMultiDictProxy(CIMultiDict([("Host", host) for host in hosts]))
    return Forwarded(()).requester("192.0.2.1", headers).url


def script(host: str = "10.0.2.2:8080", **settings: Any) -> str:
    """The script of a server with these settings."""
    body = Scripts(Settings(cache_dir=Path("/nowhere"), **settings)).answer(PATH, url_of([host])).body
    assert isinstance(body, bytes)
    return body.decode()


def filled(text: str) -> dict[str, str]:
    """What a shell takes the blanks for."""
    head = text.partition("usage()")[0]
    names = ("proxy", "sumdb", "nosumdb", "toolchain")
    shown = "".join(f'printf "%s\\\\n" "${name}"\n' for name in names)
    done = subprocess.run(["sh", "-u"], input=head + shown, capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def test_defaults() -> None:
    assert filled(script()) == {
        "proxy": "http://10.0.2.2:8080",
        "sumdb": "sum.golang.org",
        "nosumdb": "",
        "toolchain": "auto",
    }


@pytest.mark.parametrize(
    ("sumdb", "written", "toolchain"),
    [
        ("sum.golang.google.cn", "sum.golang.org", "auto"),
        (GOOGLE_KEY, "sum.golang.org", "auto"),
        (VKEY, VKEY, "local"),
        (f"{VKEY} https://sums.example/there", VKEY, "local"),
        ("off", "", "local"),
    ],
)
def test_sumdb(sumdb: str, written: str, toolchain: str) -> None:
    found = filled(script(sumdb=SUMDB.parse(sumdb)))
    assert (found["sumdb"], found["toolchain"]) == (written, toolchain)


@pytest.mark.parametrize(
    "patterns", ["*.corp.example,example.com/[a-c]?", "a'b;$(reboot)`reboot`", 'a"\\\\b', "sumdb=''", "ü/*"]
)
def test_patterns_stay_what_they_are(patterns: str) -> None:
    assert filled(script(nosumdb=PATTERNS.parse(patterns)))["nosumdb"] == patterns


def test_public_url() -> None:
    settings = Settings(cache_dir=Path("/nowhere"), public_url="https://proxy.example/go")
    for hosts in ([], ["elsewhere"], ["$(reboot)", "x"]):
        body = Scripts(settings).answer(PATH, url_of(hosts)).body
        assert isinstance(body, bytes)
        assert filled(body.decode())["proxy"] == "https://proxy.example/go"


@pytest.mark.parametrize(
    "hosts", [[], [""], ["a", "a"], ["$(reboot)"], ["a\nreboot"], ["[::1%25x]:80"], ["a:99999"]]
)
def test_hosts_that_are_refused(hosts: list[str]) -> None:
    with pytest.raises(UnknownHost, match="public_url"):
        Scripts(Settings(cache_dir=Path("/nowhere"))).answer(PATH, url_of(hosts))


@pytest.mark.parametrize("host", ["proxy", "[fd00::1]:8080", "my_host:80"])
def test_hosts_that_are_taken(host: str) -> None:
    assert filled(script(host))["proxy"] == f"http://{host}"


def test_only_the_blanks_differ() -> None:
    before, after = FILE.read_text().splitlines(), script(nosumdb="a.example").splitlines()
    assert len(before) == len(after)
    changed = {old: new for old, new in zip(before, after, strict=True) if old != new}
    assert sorted(changed) == ["nosumdb=''", "proxy=''", "sumdb=''", "toolchain=''"]


# The shell


@pytest.mark.parametrize(
    "text", [FILE.read_text(), script(nosumdb="*.corp.example")], ids=["blank", "filled"]
)
def test_shellcheck(text: str) -> None:
    program = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([program, "--norc", "--shell=sh", "-"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def run(shell: str, text: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script as ``curl … | sh -s -- …`` does."""
    program = shutil.which(shell) or shell  # not by the PATH of the environment below
    command = [program, "sh"] if shell == "busybox" else [program]
    given = {"PATH": "/usr/bin:/bin", **env}
    return subprocess.run(
        [*command, "-s", "--", *arguments], input=text, capture_output=True, text=True, env=given
    )


@pytest.fixture
def witness(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A ``go`` that leaves a mark, and the environment to find it in."""
    mark = tmp_path / "mark"
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(f'#!/bin/sh\necho "$@" >>{mark}\nexit 1\n')
    go.chmod(0o755)
    return mark, {"PATH": f"{go.parent}:/usr/bin:/bin", "HOME": str(tmp_path)}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_cut_download_runs_nothing(shell: str, witness: tuple[Path, dict[str, str]]) -> None:
    mark, env = witness
    text = script()
    last = text.rindex("{ main")
    lines = [i for i, c in enumerate(text[:last]) if c == "\n"]
    for cut in [*lines[::3], *range(last - 5, len(text) - 1)]:
        done = run(shell, text[:cut], **env)
        assert not done.stdout, text[cut - 20 : cut]
        assert not mark.exists(), text[cut - 20 : cut]
    run(shell, text, **env)
    assert mark.read_text() == "env GOENV\n"


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--unod"], "unknown option --unod"),
        (["undo"], "unknown option undo"),
        (["--cache"], "an absolute path"),
        (["--cache", "here"], "an absolute path"),
        (["--cache", "/a\nb"], "one line"),
        (["--toolchain"], "local, auto, path"),
        (["--toolchain", "1.25"], "local, auto, path"),
        (["--toolchain", "go1;x"], "is no GOTOOLCHAIN"),
        (["--fallback"], "the URL of a proxy, or direct"),
        (["--fallback", "off"], "the URL of a proxy, or direct"),
        (["--fallback", "https://a b"], "is no URL of a proxy"),
    ],
)
def test_misuse(shell: str, arguments: list[str], said: str, witness: tuple[Path, dict[str, str]]) -> None:
    mark, env = witness
    done = run(shell, script(), *arguments, **env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("goproxy-vm: ")
    assert said in done.stderr.splitlines()[0]
    assert "\nusage: setup.sh" in done.stderr
    assert not mark.exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_help(shell: str, witness: tuple[Path, dict[str, str]]) -> None:
    mark, env = witness
    done = run(shell, script(), "--help", **env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: setup.sh")
    assert not mark.exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_what_is_missing_is_said_in_one_sentence(shell: str, witness: tuple[Path, dict[str, str]]) -> None:
    _, env = witness
    for text, given, said in (
        (script(), {"HOME": "/", "PATH": _without_go()}, "there is no go command on PATH"),
        (script(), {"PATH": env["PATH"]}, "HOME is not set"),
        (FILE.read_text(), env, "this copy names no host"),
    ):
        done = run(shell, text, **given)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"goproxy-vm: {said}")
        assert done.stderr.count("\n") == 1


def _without_go() -> str:
    return ":".join(each for each in ("/usr/bin", "/bin") if not Path(each, "go").exists())


@pytest.mark.parametrize(
    ("vm_go", "written"), [("1.26.8", "go1.26.8"), ("1.26.8+auto", "go1.26.8+auto"), ("", "auto")]
)
def test_the_go_version_of_all(vm_go: str, written: str) -> None:
    assert filled(script(vm_go=vm_go))["toolchain"] == written


def test_the_go_version_is_one_that_can_be_proven() -> None:
    given = {"cache_dir": "/c", "vm_go": "1.26.8"}
    assert load(given, {}, None).settings.pinned == ("golang.org/toolchain@v0.0.1-go1.26.8.*",)
    with pytest.raises(ConfigError, match=r"^vm_go: 1.26.8 \(flag --vm-go\): expected nothing, unless sumdb"):
        load(given | {"sumdb": VKEY}, {}, None)
    for text in ("1", "go1.26", "1.26.8+path", "1.26.8; reboot", "v1.26.8"):
        with pytest.raises(ConfigError, match="expected a Go version like"):
            load(given | {"vm_go": text}, {}, None)
