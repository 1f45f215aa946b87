"""``/vm/setup.sh`` and the real ``go``, in an environment that has nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.gocommand import go_binary, serving
from tests.e2e.test_verified import M, V, World
from tests.e2e.upstream_thread import UpstreamThread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SH = shutil.which("sh")
KEYS = ("GOPROXY", "GOSUMDB", "GONOSUMDB", "GOMODCACHE", "GOCACHE", "GOTOOLCHAIN")
LIB = "example.com/lib"
PATH = "/vm/setup.sh"


@dataclass
class Bare:
    """A VM with a home, a PATH and nothing more."""

    home: Path
    url: str
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work = self.home / "work"
        self.work.mkdir(parents=True)

    def run(self, *command: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        env = {"HOME": str(self.home), "PATH": f"{Path(go_binary()).parent}:/usr/bin:/bin", **self.env}
        return subprocess.run(
            command, cwd=self.work, env=env, input=given, capture_output=True, text=True, timeout=200
        )

    def go(self, *arguments: str) -> str:
        done = self.run(go_binary(), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def setup(self, *arguments: str, code: int = 0) -> tuple[list[str], str]:
        """Ask for the script and run it: the commands, and what was said."""
        assert SH is not None
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self.url + PATH) as response:
            script = response.read().decode()
        done = self.run(SH, "-s", "--", *arguments, given=script)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout.splitlines(), done.stderr

    def settings(self) -> dict[str, str]:
        return dict(zip(KEYS, self.go("env", *KEYS).splitlines(), strict=True))

    @property
    def goenv(self) -> Path:
        return self.home / ".config" / "go" / "env"

    @property
    def state(self) -> Path:
        return self.goenv.with_name("env.goproxy-vm")

    def files(self) -> dict[Path, tuple[bytes, int]]:
        """All that go env and the script write, with times."""
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in self.goenv.parent.glob("env*")}


@pytest.fixture(scope="module")
def upstream() -> Iterator[UpstreamThread]:
    with UpstreamThread() as thread:
        thread.fake.add_module(
            LIB, "v1.0.0", {"p.go": b'package p\n\nfunc Name() string { return "through the host" }\n'}
        )
        thread.fake.add_module("golang.org/x/text", "v0.3.0")
        yield thread


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, upstream: UpstreamThread) -> Iterator[str]:
    """A host that proves nothing: the made-up module is in no database."""
    arguments = ("--sumdb", "off", "--upstream", upstream.url, "--nosumdb", "*.corp.example,example.com/it's")
    with serving(tmp_path_factory.mktemp("cache"), *arguments) as server:
        yield server.url


@pytest.fixture
def vm(tmp_path: Path, url: str) -> Bare:
    return Bare(tmp_path / "vm", url)


@pytest.fixture
def google(tmp_path: Path) -> Iterator[Bare]:
    """A VM of a host with the default database."""
    with serving(tmp_path / "cache", "--offline") as server:
        yield Bare(tmp_path / "vm", server.url)


def version(vm: Bare) -> str:
    return vm.go("env", "GOVERSION").strip()


def test_set_up_and_build(vm: Bare, gocache: Path) -> None:
    commands, said = vm.setup()
    caches = vm.home / ".cache" / "go-vm" / version(vm)
    assert commands == [
        f"go env -w GOPROXY={vm.url}",
        "go env -w 'GONOSUMDB=*.corp.example,example.com/it'\\''s'",
        f"go env -w GOMODCACHE={caches}/mod",
        f"go env -w GOCACHE={caches}/build",
        "go env -w GOTOOLCHAIN=local",
    ]
    assert vm.settings() == {
        "GOPROXY": vm.url,
        "GOSUMDB": "sum.golang.org",
        "GONOSUMDB": "*.corp.example,example.com/it's",
        "GOMODCACHE": f"{caches}/mod",
        "GOCACHE": f"{caches}/build",
        "GOTOOLCHAIN": "local",
    }
    assert "this host mirrors no checksum database, so go asks sum.golang.org directly; if this VM" in said
    assert f"done, in {vm.goenv}" in said

    (vm.work / "main.go").write_text(
        f'package main\n\nimport p "{LIB}"\n\nfunc main() {{ println(p.Name()) }}\n'
    )
    (vm.work / "go.mod").write_text("module example.com/program\n\ngo 1.21\n")
    vm.env = {"GOSUMDB": "off", "GOCACHE": str(gocache), "CGO_ENABLED": "0"}  # the cache of all tests: quick
    vm.go("get", f"{LIB}@v1.0.0")
    done = vm.run(go_binary(), "run", ".")
    assert done.stderr == "through the host\n"
    assert (caches / "mod" / "cache" / "download" / LIB / "@v" / "v1.0.0.zip").exists()


def test_second_run_changes_nothing(vm: Bare) -> None:
    vm.setup()
    before = vm.files()
    commands, said = vm.setup()
    assert commands == []
    assert f"nothing to do: {vm.goenv} stays as it is" in said
    assert vm.files() == before


def test_print_changes_nothing_and_says_what_would_run(vm: Bare) -> None:
    printed, said = vm.setup("--print")
    assert printed
    assert "nothing was changed" in said
    assert vm.files() == {}
    ran, _ = vm.setup()
    assert ran == printed
    wanted, before = vm.settings(), vm.files()
    printed, _ = vm.setup("--undo", "--print")
    assert vm.files() == before
    assert vm.setup("--undo")[0] == printed
    assert SH is not None
    assert vm.run(SH, given="\n".join(ran)).returncode == 0
    assert vm.settings() == wanted


def test_undo_restores_what_was_there(vm: Bare) -> None:
    vm.go(
        "env",
        "-w",
        "GOPROXY=https://u:p@proxy.example|direct",
        "GOFLAGS=-mod=mod",
        "GONOSUMDB=mine.example/*",
    )
    before = vm.goenv.read_bytes(), vm.settings()
    vm.setup()
    assert vm.settings()["GONOSUMDB"] == "mine.example/*,*.corp.example,example.com/it's"
    vm.setup("--cache", "/var/tmp/x y", "--toolchain", "auto")  # a later run does not forget the first
    assert vm.settings()["GOMODCACHE"] == f"/var/tmp/x y/{version(vm)}/mod"
    assert vm.settings()["GOTOOLCHAIN"] == "auto"
    commands, said = vm.setup("--undo")
    assert "go env -w 'GOPROXY=https://u:p@proxy.example|direct'" in commands
    assert "go env -u GOMODCACHE" in commands
    assert (vm.goenv.read_bytes(), vm.settings()) == before
    assert not vm.state.exists()
    commands, said = vm.setup("--undo")
    assert commands == []
    assert "nothing to do" in said


def test_empty_values(vm: Bare) -> None:
    """go env -w KEY= is not the default, nor a variable that go does not know."""
    vm.go("env", "-w", *(f"{key}=" for key in KEYS))
    before = vm.goenv.read_bytes(), vm.settings()
    assert b"GOPROXY=\n" in before[0]
    _, said = vm.setup()
    assert "does not know" not in said
    assert vm.settings()["GOPROXY"] == vm.url
    assert vm.setup()[0] == []
    vm.setup("--undo")
    assert (vm.goenv.read_bytes(), vm.settings()) == before


def test_values_to_their_last_blank(google: Bare) -> None:
    google.goenv.parent.mkdir(parents=True)
    google.goenv.write_text("GOSUMDB=sum.golang.org https://sums.example \n")
    assert "go env -w GOSUMDB=sum.golang.org" in google.setup()[0]
    google.setup("--undo")
    assert google.goenv.read_text() == "GOSUMDB=sum.golang.org https://sums.example \n"


def test_undo_leaves_what_was_changed_since(vm: Bare) -> None:
    vm.setup()
    vm.go("env", "-w", "GOPROXY=https://mine.example")
    vm.go("env", "-u", "GOCACHE")
    commands, said = vm.setup("--undo")
    assert "GOPROXY was changed since the last run, and stays as it is" in said
    assert "GOCACHE was changed since" in said
    assert sorted(command.split()[-1] for command in commands) == ["GOMODCACHE", "GONOSUMDB", "GOTOOLCHAIN"]
    assert vm.settings()["GOPROXY"] == "https://mine.example"
    assert not vm.state.exists()


def test_a_host_that_changed(tmp_path: Path) -> None:
    """A new address replaces the old one, and what the new host does not want goes back."""
    vm = Bare(tmp_path / "vm", "")
    vm.go("env", "-w", "GOPROXY=direct")
    for number, exempt in enumerate(("a.example,b.example", "b.example", "")):
        arguments = ("--offline", "--nosumdb", exempt)
        with serving(tmp_path / f"cache{number}", *arguments) as server:
            vm.url = server.url
            vm.setup()
            assert (vm.settings()["GOPROXY"], vm.settings()["GONOSUMDB"]) == (server.url, exempt)
            if not exempt:
                vm.setup("--undo")
    assert vm.goenv.read_text() == "GOPROXY=direct\n"


def test_database_and_toolchain(google: Bare) -> None:
    """Verification is switched on where somebody had switched it off; a pinned toolchain is no trap."""
    google.go("env", "-w", "GOSUMDB=off", "GOTOOLCHAIN=go1.99.9")
    commands, said = google.setup()
    assert "go env -w GOSUMDB=sum.golang.org" in commands
    assert "go env -w GOTOOLCHAIN=auto" in commands
    assert "warning" not in said
    assert "note: GOSUMDB changes from off to sum.golang.org: " in said
    assert "note: GOTOOLCHAIN changes from go1.99.9 to auto: where a go.mod needs a newer Go, " in said
    assert said.count("note: ") == 2
    assert said.index("note: GOTOOLCHAIN") < said.index("done, in")
    commands, said = google.setup()
    assert commands == []
    assert "note" not in said, "nothing changes any more"
    google.setup("--undo")
    assert google.goenv.read_text() == "GOSUMDB=off\nGOTOOLCHAIN=go1.99.9\n"


def test_a_toolchain_that_is_so_already_is_not_set(google: Bare) -> None:
    """The default of a go from go.dev is auto; that of a distribution may be local, and is told."""
    default = google.go("env", "GOTOOLCHAIN").strip()
    commands, said = google.setup("--print", "--toolchain", default)
    assert not [command for command in commands if "GOTOOLCHAIN" in command]
    assert "GOTOOLCHAIN" not in said
    commands, said = google.setup("--print", "--toolchain", "go1.99.1")
    assert commands[-1] == "go env -w GOTOOLCHAIN=go1.99.1"
    assert f"note: GOTOOLCHAIN changes from {default} to go1.99.1\n" in said
    google.go("env", "-w", "GOTOOLCHAIN=auto")
    assert "note: GOTOOLCHAIN changes from auto to local: " in google.setup("--toolchain", "local")[1]


def test_another_database(tmp_path: Path) -> None:
    """The VM verifies by the server's database, and asks it through the mirror."""
    with UpstreamThread() as upstream:
        world = World(upstream)
        with serving(tmp_path / "cache", *world.arguments) as server:
            vm = Bare(tmp_path / "vm", server.url)
            commands, _ = vm.setup()
            assert f"go env -w GOSUMDB={world.database.key}" in commands
            assert "go env -w GOTOOLCHAIN=local" in commands
            vm.go("mod", "download", f"{M}@{V}")
            (latest,) = (vm.home / "go" / "pkg" / "sumdb").rglob("latest")
            assert latest.read_text().startswith("go.sum database tree\n")


def test_go_before_1_21(vm: Bare) -> None:
    """Such a go prints nothing for GOTOOLCHAIN, and refuses to write it."""
    go = vm.home / "bin" / "go"
    go.parent.mkdir()
    go.write_text(
        f"""#!/bin/sh
        case $* in
            "env GOTOOLCHAIN") exit ;;
            env) {go_binary()} env | grep -v ^GOTOOLCHAIN=; exit ;;
            *GOTOOLCHAIN*) echo unknown go command variable >&2; exit 1 ;;
        esac
        exec {go_binary()} "$@"
        """
    )
    go.chmod(0o755)
    vm.env = {"PATH": f"{go.parent}:/usr/bin:/bin"}
    commands, said = vm.setup()
    assert f"{version(vm)} does not know GOTOOLCHAIN, so it is not set" in said
    assert len(commands) == 4
    assert vm.setup()[0] == []


def test_private_patterns_of_the_user(vm: Bare) -> None:
    vm.go("env", "-w", "GOPRIVATE=mine.example,*.corp.example")
    _, said = vm.setup()
    assert vm.settings()["GONOSUMDB"] == "mine.example,*.corp.example,example.com/it's"
    assert "GOPRIVATE without this host: mine.example,*.corp.example" in said


def test_environment_that_overrides(vm: Bare) -> None:
    vm.env = {
        "GOPROXY": "direct",
        "GOMODCACHE": "/mnt/shared",
        "GOTOOLCHAIN": "local",
        "XDG_CACHE_HOME": "/x",
    }
    commands, said = vm.setup()
    for key in ("GOPROXY", "GOMODCACHE"):
        assert f"warning: the environment variable {key} overrides what is set here: unset it" in said
    assert "variable GOTOOLCHAIN" not in said, "it says the same"
    assert "does not override conflicting" not in said, "go's own words are less clear"
    assert f"go env -w GOMODCACHE=/x/go-vm/{version(vm)}/mod" in commands
    assert "overrides" in vm.setup()[1], "also when there is nothing to do"
    vm.env = {}
    assert vm.settings()["GOPROXY"] == vm.url


def test_the_report_has_the_version_that_runs(vm: Bare, tmp_path: Path) -> None:
    """Not the one that was meant to, where the environment has another GOTOOLCHAIN."""
    asked = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "curl").write_text(f'#!/bin/sh\necho "$*" >>{asked}\n')
    (tmp_path / "bin" / "curl").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{Path(go_binary()).parent}:/usr/bin:/bin"
    installed = version(vm)
    for environment, runs in (
        ({}, "go1.99.1"),
        ({"GOTOOLCHAIN": "go1.98.2+auto"}, "go1.98.2"),
        ({"GOTOOLCHAIN": "local"}, installed),
    ):
        vm.env = {"PATH": path, **environment}
        vm.setup("--toolchain", "go1.99.1")
        assert f"/vm/seen?script=setup&go={runs}&bootstrap={installed}&" in asked.read_text().splitlines()[-1]


def test_go_env_that_is_off_or_elsewhere(vm: Bare) -> None:
    vm.env = {"GOENV": "off"}
    assert "GOENV=off" in vm.setup(code=1)[1]
    vm.env = {"GOENV": str(vm.home / "elsewhere" / "go.env")}
    vm.setup()
    assert (vm.home / "elsewhere" / "go.env.goproxy-vm").exists()
    vm.setup("--undo")
    assert [path.name for path in (vm.home / "elsewhere").iterdir()] == ["go.env"]


@pytest.mark.parametrize(
    ("line", "shared"),
    [
        ("10.0.0.1:/home nfs4 1000 100 900 10% /home", True),
        ("//nas/my share cifs 1000 100 900 10% /mnt/my share", True),
        ("hostshare 9p 0 0 0 - /mnt", True),
        ("vagrant vboxsf 1000 100 900 10% /vagrant", True),
        ("tmp virtiofs 1000 100 900 10% /tmp", True),
        ("/dev/vda1 ext4 1000 100 900 10% /", False),
        ("overlay overlay 1000 100 900 10% /", False),
        ("nfs ext4 1000 100 900 10% /nfs", False),
        ("nothing that df says", False),
    ],
)
def test_caches_on_a_shared_file_system(vm: Bare, line: str, shared: bool) -> None:
    df = vm.home / "bin" / "df"
    df.parent.mkdir()
    df.write_text(
        f"#!/bin/sh\necho 'Filesystem Type 1024-blocks Used Available Capacity Mounted on'\necho '{line}'\n"
    )
    df.chmod(0o755)
    vm.env = {"PATH": f"{df.parent}:{Path(go_binary()).parent}:/usr/bin:/bin"}
    _, said = vm.setup("--print", "--cache", str(vm.home / "not" / "yet"))
    assert ("is on a shared file system" in said) == shared, said


def test_go_env_that_cannot_be_written(vm: Bare) -> None:
    (vm.home / ".config").write_text("in the way")
    commands, said = vm.setup(code=1)
    assert commands == []
    assert f"{vm.home}/.config" in said


def test_as_it_is_documented(vm: Bare) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl here")
    vm.env = {"no_proxy": "*"}
    done = vm.run("sh", "-c", f"curl -fsS {vm.url}{PATH} | sh -s -- --toolchain local")
    assert done.returncode == 0, done.stderr
    assert vm.settings()["GOPROXY"] == vm.url
    done = vm.run("sh", "-c", f"curl -fsS {vm.url}{PATH} | sh -s -- --undo")
    assert vm.goenv.read_text() == ""


def test_the_end_is_a_download_through_the_host(vm: Bare, upstream: UpstreamThread) -> None:
    vm.go("env", "-w", "GOPRIVATE=golang.org")  # goes around the host, but not for the test
    _, said = vm.setup()
    assert re.search(r"test: golang\.org/x/text@v0\.3\.0 came through the host in \d+ s\n", said)
    assert upstream.fake.count("/golang.org/x/text/@v/v0.3.0.info") == 1
    assert "test:" not in vm.setup("--print")[1]
    assert "test:" not in vm.setup("--undo")[1]


def test_a_download_that_fails_undoes_nothing(google: Bare) -> None:
    commands, said = google.setup()
    assert "GOPROXY=" in commands[0]
    assert google.settings()["GOPROXY"] == google.url
    failed = "golang.org/x/text@v0.3.0 did not come through the host; the settings stay as they are now. "
    assert f"test: {failed}go says:\n" in said
    assert "goproxy-vm: golang.org/x/text@v0.3.0 info: " in said, said
    assert f"curl -fsS {google.url}/readyz" in said
    assert "goproxy-vm doctor" in said


def test_fallback(vm: Bare) -> None:
    commands, said = vm.setup("--fallback", "https://proxy.golang.org")
    assert commands[0] == f"go env -w 'GOPROXY={vm.url}|https://proxy.golang.org'"
    assert vm.settings()["GOPROXY"] == f"{vm.url}|https://proxy.golang.org"
    assert "go asks https://proxy.golang.org for whatever this host refuses or does not have" in said
    assert vm.setup("--fallback", "https://proxy.golang.org")[0] == []
    assert vm.setup("--fallback", "direct")[0] == [f"go env -w 'GOPROXY={vm.url}|direct'"]
    assert vm.setup()[0] == [f"go env -w GOPROXY={vm.url}"]
    vm.setup("--undo")
    assert vm.goenv.read_text() == ""


def test_what_is_left_behind(vm: Bare) -> None:
    old = vm.home / "go" / "pkg" / "mod"
    (old / "example.com").mkdir(parents=True)
    (old / "example.com" / "big").write_bytes(b"x" * (3 << 20))
    (old / "example.com").chmod(0o555)
    for _ in range(2):
        _, said = vm.setup()
        assert re.search(rf"{old} \(3\.[01]M\) is not used any more", said)
    command = said.partition("to remove it: ")[2].splitlines()[0]
    assert "go-vm" not in command
    assert vm.run("sh", "-c", command).returncode == 0
    assert not old.exists()
    assert "not used any more" not in vm.setup()[1]
    caches = vm.home / ".cache" / "go-vm" / version(vm)
    (caches / "mod").mkdir(parents=True, exist_ok=True)
    assert f"{caches} (" in vm.setup("--undo")[1]


def test_none_is_no_pattern(vm: Bare) -> None:
    vm.go("env", "-w", "GONOPROXY=none", "GOPRIVATE=mine.example")
    assert "without this host" not in vm.setup()[1]
