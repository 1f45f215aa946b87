"""The command: exit statuses, one line for each mistake, and what ``config`` prints."""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from goproxy_vm import __version__, cli, process
from goproxy_vm.config import Loaded, Settings, keys
from goproxy_vm.errors import StartError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what a test sets."""
    for name in list(os.environ):
        if name.startswith(("GOPROXY_VM_", "XDG_", "CACHE_DIRECTORY")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/goproxy-vm")


class Served:
    """Stands in for ``process.run``: what it was given, and what becomes of it."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.warnings: Sequence[str] = ()
        self.outcome: int | BaseException = 0

    def run(self, again: Callable[[], Loaded], *, greets: bool) -> int:
        assert not greets, "no terminal"
        loaded = again()
        self.settings, self.warnings = loaded.settings, loaded.warnings
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    made = Served()
    monkeypatch.setattr(process, "run", made.run)
    return made


def complaint(capsys: pytest.CaptureFixture[str], *argv: str, status: int = 2) -> str:
    """The one line that a command ends with."""
    assert cli.main(argv) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("goproxy-vm: ")
    assert err.endswith("\n")
    line = err.removeprefix("goproxy-vm: ").removesuffix("\n")
    assert line.isprintable()
    return line


def test_serve_with_flags(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY_VM_PORT", "tcp://x")
    argv = ["serve", "--listen", "127.0.0.1:0", "--listen=unix:/x,[::1]:0", "--offline", "--fresh", "5s"]
    assert (
        cli.main(
            [*argv, "--upstream", "https://a|direct", "--deny", "a.b", "--deny", "b,c.d/e@>=v1.2.0 <v1.3.0"]
        )
        == 0
    )
    settings = served.settings
    assert settings is not None
    assert [str(address) for address in settings.listen] == ["127.0.0.1:0", "unix:/x", "[::1]:0"]
    assert (settings.offline, settings.fresh) == (True, 5)
    assert [rule.text for rule in settings.deny] == ["a.b", "b", "c.d/e@>=v1.2.0 <v1.3.0"]
    (ignored,) = served.warnings
    assert ignored == "environment variable GOPROXY_VM_PORT is no setting and is ignored"


def test_serve_exit_status(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    served.outcome = 3
    assert cli.main(["serve"]) == 3
    served.outcome = StartError("listen: cannot listen on 127.0.0.1:1: Permission denied")
    line = complaint(capsys, "serve", status=1)
    assert line == "listen: cannot listen on 127.0.0.1:1: Permission denied"
    served.outcome = KeyboardInterrupt()
    assert cli.main(["serve"]) == 130
    assert capsys.readouterr() == ("", "")


def test_no_offline_overrides(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY_VM_OFFLINE", "yes")
    assert cli.main(["serve"]) == 0
    assert served.settings is not None
    assert served.settings.offline
    assert cli.main(["serve", "--no-offline"]) == 0
    assert not served.settings.offline


@pytest.mark.parametrize("command", [["serve"], ["config", "check"], ["config", "show"]])
def test_bad_value(command: list[str], served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, *command, "--listen", "8080") == (
        'listen: "8080" (flag --listen): "8080" has no port from 0 to 65535; '
        "expected a list of HOST:PORT, [v6]:PORT or unix:PATH"
    )
    assert complaint(capsys, *command, "--upstream", "https://u:secret@").startswith(
        'upstream: "https://***@" (flag --upstream): '
    )
    assert complaint(capsys, *command, "--upstream", "directly").startswith(
        'upstream: "directly" (flag --upstream)'
    )
    assert served.settings is None


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "the following arguments are required: COMMAND (see goproxy-vm --help)"),
        (["config"], "the following arguments are required: COMMAND (see goproxy-vm config --help)"),
        (["serve", "--lisen", "x"], "--lisen: no such flag or argument; did you mean --listen?"),
        (["serve", "--lis=x"], "--lis: no such flag or argument"),
        (["serve", "x\ny"], '"x\\ny": no such flag or argument (see goproxy-vm serve --help)'),
        (["serve", "--json"], "--json: no such flag or argument"),
        (["purge", "--dryrun"], "--dryrun: no such flag or argument; did you mean --dry-run?"),
        (["purge", "--nothing"], "--nothing: no such flag or argument (see goproxy-vm purge --help)"),
        (["evict", "100MB"], "100MB: no such flag or argument; did you mean --target 100MB?"),
        (["passes", "10"], "10: no such flag or argument; did you mean --limit 10?"),
        (["status", "unix:/x"], "unix:/x: no such flag or argument; did you mean --admin-url unix:/x?"),
        (["health", "/srv/go"], "/srv/go: no such flag or argument; did you mean --cache-dir /srv/go?"),
        (["config", "check", "x.toml"], "x.toml: no such flag or argument; did you mean --config x.toml?"),
        (["serve", "0.0.0.0:80"], "0.0.0.0:80: no such flag or argument; did you mean --listen 0.0.0.0:80?"),
        (["serve", "https://a"], "https://a: no such flag or argument; did you mean --upstream https://a?"),
        (["status", "x" * 300], f"{'x' * 300}: no such flag or argument (see goproxy-vm status --help)"),
        (["pins", "x"], "x: no such flag or argument (see goproxy-vm pins --help)"),
        (["purge", "30d"], 'argument PATTERN: "30d" is no module; did you mean --idle-for 30d?'),
        (["purge", "1.5GB"], 'argument PATTERN: "1.5GB" is no module; did you mean --larger-than 1.5GB?'),
        (["scrub", "1MiB"], 'argument PATTERN: "1MiB" is no module; did you mean --rate 1MiB?'),
        (["ls", "5"], 'argument PATTERN: "5" is no module; did you mean --limit 5?'),
        (["config", "chekc"], "chekc: no such command; did you mean check?"),
        (["help", "purg"], "purg: no such command; did you mean purge?"),
        (["zzz"], "zzz: no such command (see goproxy-vm --help)"),
        (["serve", "--listen"], "argument --listen: expected one argument (see goproxy-vm serve --help)"),
        (["sreve"], "sreve: no such command; did you mean serve?"),
    ],
)
def test_bad_command_line(argv: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, *argv).startswith(expected)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("--cache-dir X status", "--cache-dir comes after the command: goproxy-vm status --cache-dir X"),
        ("--cache-dir=X status", "--cache-dir comes after the command: goproxy-vm status --cache-dir=X"),
        (
            "--json --config x.toml ls a.b/* --limit 5",
            "--config comes after the command: goproxy-vm ls --json --config x.toml 'a.b/*' --limit 5",
        ),
        ("--cache-dir= status", "--cache-dir comes after the command: goproxy-vm status --cache-dir="),
        (
            "--fresh 5s config show --json",
            "--fresh comes after the command: goproxy-vm config show --fresh 5s --json",
        ),
        ("--offline serve", "--offline comes after the command: goproxy-vm serve --offline"),
        ("--dry-run purge a.b/c", "--dry-run comes after the command: goproxy-vm purge --dry-run a.b/c"),
        (
            "--cache-dir status status",
            "--cache-dir comes after the command: goproxy-vm status --cache-dir status",
        ),
        (
            "--upstream https://u:secret@a.example serve",
            "--upstream comes after the command: goproxy-vm serve --upstream 'https://***@a.example'",
        ),
        ("--cache-dir X sttus", "--cache-dir comes after the command: goproxy-vm sttus --cache-dir X"),
        ("--cache-dir X", "--cache-dir comes after the command: goproxy-vm COMMAND --cache-dir X"),
        ("--cache-dir", "--cache-dir comes after the command: goproxy-vm COMMAND --cache-dir DIR"),
        ("--offline status", "--offline: no such flag of this command (see goproxy-vm status --help)"),
        ("--cach-dir X status", "--cach-dir: no such flag or argument; did you mean --cache-dir?"),
        ("--zzz status", "--zzz: no such flag or argument (see goproxy-vm --help)"),
    ],
)
def test_flags_in_front_of_the_command(
    argv: str, expected: str, capsys: pytest.CaptureFixture[str], served: Served
) -> None:
    assert complaint(capsys, *argv.split()) == expected
    assert served.settings is None


def test_config_check(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPROXY_VM_CONFIG", os.devnull)
    assert cli.main(["config", "check"]) == 0
    said = "configuration is valid (file /dev/null, environment variable GOPROXY_VM_CONFIG)\n"
    assert capsys.readouterr() == (said, "")
    monkeypatch.delenv("GOPROXY_VM_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "goproxy-vm.toml").touch()
    assert cli.main(["config", "check"]) == 0
    found = tmp_path / "goproxy-vm.toml"
    assert capsys.readouterr() == (f"configuration is valid (file {found}, default)\n", "")
    found.unlink()
    assert cli.main(["config", "check"]) == 0
    nowhere = f"no file: there is no /etc/goproxy-vm.toml and {found}; --config names another"
    assert capsys.readouterr() == (f"configuration is valid ({nowhere})\n", "")
    file = tmp_path / "x.toml"
    file.write_text('fresh = "5s"\n')
    monkeypatch.setenv("GOPROXY_VM_PORT", "x")
    warning = "environment variable GOPROXY_VM_PORT is no setting and is ignored"
    assert cli.main(["config", "check", "--config", str(file)]) == 0
    said = f"configuration is valid (file {file}, flag --config)\n"
    assert capsys.readouterr() == (said, f"goproxy-vm: warning: {warning}\n")
    assert cli.main(["config", "check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "warnings": [warning], "file": None}
    token = tmp_path / "token"
    flag = ("--admin-token-file", str(token))
    assert "token cannot be read: No such file" in complaint(capsys, "config", "check", *flag)
    token.write_text("short")
    assert "it is shorter than 16" in complaint(capsys, "config", "check", *flag)
    file.write_text("frsh = 5\n")
    line = complaint(capsys, "config", "check", "--config", str(file))
    assert line == f"frsh: no such key (file {file}); did you mean fresh?"


def test_config_show(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.toml"
    file.write_text('listen = ["a:1", "b:2"]\noffline = true\n')
    monkeypatch.setenv("GOPROXY_VM_UPSTREAM", "https://u:secret@a.example")
    monkeypatch.setenv("GOPROXY_VM_PORT", "x")
    argv = ["config", "show", "--config", str(file), "--max-misses", "5", "--fresh", "1.5"]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert err == "goproxy-vm: warning: environment variable GOPROXY_VM_PORT is no setting and is ignored\n"
    assert f'listen = ["a:1", "b:2"]  # file {file}\n' in out
    assert f"offline = true  # file {file}\n" in out
    assert 'upstream = "https://***@a.example"  # environment variable GOPROXY_VM_UPSTREAM\n' in out
    assert "max_misses = 5  # flag --max-misses\n" in out
    assert 'fresh = "1.5"  # flag --fresh\n' in out
    assert 'cache_dir = "/var/cache/goproxy-vm"  # default, from $CACHE_DIRECTORY\n' in out
    assert "secret" not in out
    again = tmp_path / "again.toml"
    again.write_text(out)
    assert list(tomllib.loads(out)) == list(keys())
    monkeypatch.delenv("GOPROXY_VM_UPSTREAM")
    assert cli.main(["config", "check", "--config", str(again)]) == 0


def test_config_show_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "show", "--json", "--allow-clients", "10.0.0.0/8,fd00::/8"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown) == list(keys())
    assert shown["allow_clients"] == {"value": ["10.0.0.0/8", "fd00::/8"], "origin": "flag --allow-clients"}
    assert shown["max_misses"] == {"value": 64, "origin": "default"}
    assert shown["offline"] == {"value": False, "origin": "default"}
    assert shown["max_zip_size"] == {"value": "500MiB", "origin": "default"}


@pytest.mark.parametrize("argv", [["--help"], ["serve", "--help"], ["config", "show", "--help"]])
def test_help(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert ended.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    if len(argv) > 1:
        for name, key in keys().items():
            assert (f"--{name.replace('_', '-')} " in out) is not key.hidden
            assert (f"$GOPROXY_VM_{name.upper()};" in out) is not key.hidden


def test_as_a_module() -> None:
    ran = subprocess.run([sys.executable, "-m", "goproxy_vm", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"goproxy-vm {__version__}\n", "")
    ran = subprocess.run(
        [sys.executable, "-m", "goproxy_vm", "config", "check", "--fresh", "x"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1


def test_reader_of_the_output_has_gone() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [sys.executable, "-m", "goproxy_vm", "config", "show"]
    ran = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_journal_takes_a_failed_start_for_an_error() -> None:
    reading, writing = os.pipe()
    facts = os.fstat(writing)
    environ = {**os.environ, "JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}"}
    command = [sys.executable, "-m", "goproxy_vm", "serve", "--listen", "x"]
    assert subprocess.run(command, env=environ, stderr=writing).returncode == 2
    os.close(writing)
    with os.fdopen(reading) as file:
        assert file.read().startswith('<3>goproxy-vm: listen: "x"')


def test_help_of_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, usage in (
        (["help"], "usage: goproxy-vm [-h]"),
        (["help", "config", "check"], "usage: goproxy-vm config check [-h]"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(argv)
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(usage)
