"""``/vm/install.sh`` in a home of its own, against a host that serves a small made-up toolchain."""

from __future__ import annotations

import functools
import http.server
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from goproxy_vm.protocol.modzip import check_zip
from goproxy_vm.protocol.report import VmReport, parse_report
from goproxy_vm.protocol.tarball import Tarball
from tests.fakes.bare import Bare
from tests.fakes.modules import build_zip

FILE = Path(__file__).parents[2] / "goproxy_vm" / "web" / "install.sh"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
SHELLS = [shell for shell in ("dash", "bash", "busybox", "mksh", "yash") if shutil.which(shell)]
MODULE = "golang.org/toolchain"
LIST = f"/{MODULE}/@v/list"
WRONG = f"h1:{'A' * 43}="


def program(version: str) -> bytes:
    """A go that knows its version."""
    return f"#!/bin/sh\necho go version go{version} linux/{ARCH}\n".encode()


def files(version: str) -> dict[str, bytes]:
    return {
        "VERSION": f"go{version}\n".encode(),
        "bin/go": program(version),
        "bin/gofmt": b"#!/bin/sh\n",
        "pkg/tool/linux_amd64/compile": os.urandom(20_000),
        "src/_go.mod": b"module std\n",
        "src/cmd/_go.mod": b"module cmd\n",
        "src/a-b/c d.go": b"package c\n",
        "src/a/b.go": b"package a\n",
        f"test/{'x' * 120}.go": b"package x\n",
        "empty": b"",
    }


@dataclass
class Toolchain:
    """What a host serves of one version."""

    tarball: bytes
    h1: str

    @classmethod
    @functools.cache
    def of(cls, version: str) -> Toolchain:
        name = f"v0.0.1-go{version}.linux-{ARCH}"
        zipped = build_zip(MODULE, name, files(version))
        plan = Tarball.plan(io.BytesIO(zipped), MODULE, name)
        tarball = plan.read(lambda at, n: zipped[at : at + n], 0, plan.length)
        return cls(tarball, check_zip(io.BytesIO(zipped), MODULE, name).h1)


class FakeHost:
    """Serves the paths in ``answers``; ``cut`` bytes of an archive, under its whole length."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.cut: int | None = None
        self.asked: list[str] = []
        self.reports: list[VmReport] = []
        host = self

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                path, _, query = self.path.partition("?")
                if path == "/vm/seen":
                    host.reports.append(parse_report(query))
                body = b"" if path == "/vm/seen" else host.answers.get(self.path)
                self.send_response(404 if body is None else 200)
                body = b"goproxy-vm: there is no such thing\n" if body is None else body
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                archive = self.path.endswith(".tar.gz")
                self.wfile.write(body[: host.cut] if archive else body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add(self, version: str) -> str:
        """Serve a version, and name it in the list; its h1."""
        toolchain = Toolchain.of(version)
        path = f"/vm/toolchain/go{version}.linux-{ARCH}"
        self.answers |= {f"{path}.tar.gz": toolchain.tarball, f"{path}.h1": f"{toolchain.h1}\n".encode()}
        self.list(version)
        return toolchain.h1

    def list(self, *versions: str) -> None:
        lines = "".join(f"v0.0.1-go{version}.linux-{ARCH}\n" for version in versions)
        self.answers[LIST] = self.answers.get(LIST, b"") + lines.encode()


@pytest.fixture
def host() -> Iterator[FakeHost]:
    host = FakeHost()
    host.add("1.98.1")
    host.answers["/vm/setup.sh"] = b'echo "setup $* $(go version) $PATH" >>"$HOME/setup.log"\n'
    yield host
    host.close()


@dataclass
class Home:
    """A user's home, and what is run there."""

    path: Path
    host: FakeHost
    blanks: Mapping[str, str] = field(default_factory=dict)
    shell: str = "sh"
    programs: str = "/usr/bin:/bin"
    most: int | None = None
    """Bytes that an archive may unpack to, where they are fewer than the script says."""

    @property
    def base(self) -> Path:
        return self.path / ".local" / "share" / "goproxy-vm"

    def script(self) -> str:
        text = FILE.read_text()
        for name, value in {"proxy": self.host.url, **self.blanks}.items():
            assert f"\n{name}=''\n" in text
            text = text.replace(f"\n{name}=''\n", f"\n{name}='{value}'\n")
        if self.most is not None:
            text, changed = re.subn(r"^most=[0-9]+", f"most={self.most}", text, flags=re.MULTILINE)
            assert changed == 1
        return text

    def run(self, *arguments: str, code: int = 0) -> tuple[list[str], str]:
        """Run it as no root, as ``curl … | sh -s -- …`` does: the commands, and what was said."""
        command = [shutil.which(self.shell) or self.shell]
        command += {"busybox": ["sh"], "bash": ["--posix"]}.get(self.shell, [])
        env = {"PATH": self.programs, "HOME": str(self.path)}
        if os.geteuid() == 0:
            id_of = self.path.parent / "id"
            if not id_of.exists():
                id_of.mkdir()
                (id_of / "id").write_text("#!/bin/sh\necho 1000\n")
                (id_of / "id").chmod(0o755)
            env["PATH"] = f"{id_of}:{self.programs}"
        done = subprocess.run(
            [*command, "-s", "--", *arguments],
            input=self.script(),
            env=env,
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout.splitlines(), done.stderr

    def replace(self, directory: Path, **programs: str) -> None:
        """Have commands in place of programs, in a directory of their own."""
        directory.mkdir()
        for name, text in programs.items():
            (directory / name).write_text(f"#!/bin/sh\n{text}\n")
            (directory / name).chmod(0o755)
        self.programs = f"{directory}:{self.programs}"

    def tree(self) -> dict[str, tuple[bytes | str, int]]:
        """All that is there: content or where it leads, and mode."""
        found: dict[str, tuple[bytes | str, int]] = {}
        for path in sorted(self.path.rglob("*")):
            name, mode = str(path.relative_to(self.path)), path.lstat().st_mode
            if path.is_symlink():
                found[name] = str(path.readlink()), mode
            elif path.is_file():
                found[name] = path.read_bytes(), mode
            else:
                found[name] = "", mode
        return found

    def version(self) -> str:
        command = [self.base / "go" / "bin" / "go", "version"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[2]


@pytest.fixture
def home(tmp_path: Path, host: FakeHost) -> Home:
    path = tmp_path / "it's a home"
    path.mkdir()
    return Home(path, host)


def test_shellcheck() -> None:
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, "--norc", "--shell=sh", FILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert FILE.read_text().isascii(), "yash reads nothing else in every locale"


@pytest.mark.parametrize("shell", SHELLS)
def test_from_nothing(shell: str, home: Home) -> None:
    home.shell = shell
    _, said = home.run()
    tree = home.base / "go1.98.1"
    found = {str(p.relative_to(tree)): p.read_bytes() for p in tree.rglob("*") if p.is_file()}
    expected = {name: data for name, data in files("1.98.1").items() if not name.startswith("pkg/")}
    copies = {"src/go.mod": b"module std\n", "src/cmd/go.mod": b"module cmd\n"}
    assert {name: data for name, data in found.items() if not name.startswith("pkg/")} == expected | copies
    executable = {name for name in found if (tree / name).stat().st_mode & 0o111}
    assert executable == {"bin/go", "bin/gofmt", "pkg/tool/linux_amd64/compile"}
    assert (home.base / "go").readlink() == tree
    assert home.version() == "go1.98.1"
    assert f"is what it should be: {Toolchain.of('1.98.1').h1}" in said
    assert f"go version go1.98.1 linux/{ARCH}; in new login shells" in said
    log = (home.path / "setup.log").read_text().splitlines()
    assert len(log) == 1
    assert log[0].startswith(f"setup  go version go1.98.1 linux/{ARCH} {home.base}/go/bin:")
    in_login = subprocess.run(
        ["sh", "-c", '. "$HOME/.profile"; go version'],
        env={"HOME": str(home.path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert in_login.stdout.split()[2] == "go1.98.1"
    assert home.host.reports == [], "setup.sh reports"
    assert not list(home.base.glob(".new*"))
    home.run("--uninstall")
    assert sorted(home.tree()) == [".local", ".local/share", "setup.log"]


REPORT = VmReport("install", "go1.98.1", "go1.98.1", "linux", ARCH)


def test_it_reports_what_setup_does_not(home: Home) -> None:
    """In words that a host takes, where setup.sh was not run; else that is told whether to."""
    home.run("--no-setup")
    assert home.host.reports == [REPORT]
    home.run("--h1", Toolchain.of("1.98.1").h1)
    assert home.host.reports == [REPORT] * 2
    home.run("--no-setup", "--no-report")
    home.run()
    home.run("--no-report")
    commands, _ = home.run("--no-report", "--print")
    assert commands[-1].endswith("/vm/setup.sh | sh -s -- --no-report")
    assert home.host.reports == [REPORT] * 2
    log = (home.path / "setup.log").read_text().splitlines()
    assert [line.split(" go version")[0] for line in log] == ["setup ", "setup --no-report"]


def test_a_setup_that_fails(home: Home) -> None:
    home.host.answers["/vm/setup.sh"] = b"exit 3\n"
    _, said = home.run(code=1)
    assert f"go1.98.1 is installed, but setup.sh failed: run {home.host.url}/vm/setup.sh later" in said
    assert home.version() == "go1.98.1"


def test_it_reports_by_a_wget_that_crashes(home: Home, tmp_path: Path) -> None:
    """Some of busybox do, where they are to mind the time themselves."""
    home.programs = wget_alone(tmp_path)
    home.shell = f"{home.programs}/sh"
    crash = 'case " $* " in *" -T "*) kill -SEGV $$ ;; esac'
    home.replace(tmp_path / "programs", wget=f'{crash}; exec {home.programs}/wget "$@"')
    home.run("--no-setup")
    assert home.host.reports == [REPORT]


def wget_alone(tmp_path: Path) -> str:
    """A PATH that has busybox and nothing else."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed")
    directory = tmp_path / "bin"
    directory.mkdir()
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout
    for name in listed.split():
        (directory / name).symlink_to(busybox)
    return str(directory)


def test_by_busybox_alone(home: Home, tmp_path: Path) -> None:
    home.programs = wget_alone(tmp_path)
    home.shell = f"{home.programs}/sh"
    home.run()
    assert home.version() == "go1.98.1"
    home.run("--version", "1.97.9", code=1)
    home.host.cut = 1000
    home.host.add("1.98.2")
    before = home.tree()
    _, said = home.run("--version", "1.98.2", code=1)
    assert "failed, was cut off" in said
    assert home.tree() == before


def test_again(home: Home) -> None:
    home.run()
    before = home.tree()
    home.host.asked.clear()
    commands, said = home.run("--version", "go1.98.1", "--no-setup", "--no-report")
    assert commands == []
    assert f"go1.98.1 is installed in {home.base}" in said
    assert home.tree() == before
    assert home.host.asked == []
    home.run("--h1", Toolchain.of("1.98.1").h1, "--no-setup")
    _, said = home.run("--h1", WRONG, "--no-setup", code=1)
    assert "is installed with h1:" in said
    assert home.tree() == before


def test_other_versions(home: Home) -> None:
    """The one before stays beside it, and none before that."""
    home.host.add("1.99.0")
    home.host.add("1.99.1")
    home.run("--version", "1.98.1")
    home.run("--version", "1.99.0")
    assert home.version() == "go1.99.0"
    assert (home.base / "go1.98.1" / "bin" / "go").exists()
    commands, _ = home.run("--version", "1.99.1")
    assert any(command.startswith("rm -rf ") and "go1.98.1" in command for command in commands)
    assert sorted(path.name for path in home.base.glob("go*[0-9]")) == ["go1.99.0", "go1.99.1"]
    home.run("--version", "1.99.0")
    assert home.version() == "go1.99.0"
    assert len((home.path / ".profile").read_text().splitlines()) == 1
    home.run("--uninstall")
    assert sorted(home.tree()) == [".local", ".local/share", "setup.log"]


def test_the_newest_release_that_can_be_proven(home: Home) -> None:
    home.host.list("1.99.3rc1", "1.98.10", "1.99.1", "1.98.9")
    home.host.add("1.98.2")
    home.host.answers[LIST] += b"v0.0.1-go1.99.9.plan9-mips\n"
    _, said = home.run(code=1)
    assert "the host can prove no Go for linux" in said, "the last three alone are asked for"
    assert home.tree() == {}
    home.host.add("1.98.10")
    home.run()
    assert home.version() == "go1.98.10"


@pytest.mark.parametrize("vm_go", ["1.98.1", "1.98.1+auto", "go1.98.1"])
def test_the_version_of_the_host(home: Home, vm_go: str) -> None:
    home.host.add("1.99.1")
    home.blanks = {"vm_go": vm_go}
    home.run("--no-setup")
    assert home.version() == "go1.98.1"


def test_print_changes_nothing(home: Home) -> None:
    (home.path / ".profile").write_text("# mine")
    before = home.tree()
    commands, said = home.run("--print")
    assert home.tree() == before
    fetched = f"{home.host.url}/vm/toolchain/go1.98.1.linux-{ARCH}.tar.gz"
    assert f"curl -fsS {fetched} | gzip -dc | head -c 1073741824 | tar -xof - -C " in commands[1]
    assert [command.split()[0] for command in commands] == ["mkdir", "curl", "#", "mv", "ln", "echo", "curl"]
    assert "nothing was changed" in said
    assert not [path for path in home.host.asked if path.endswith(".tar.gz") or "seen" in path]
    home.run()
    installed = home.tree()
    home.run("--uninstall", "--print")
    assert home.tree() == installed
    home.run("--uninstall")
    assert (home.path / ".profile").read_text() == "# mine\n"
    _, said = home.run("--uninstall")
    assert "nothing is installed in" in said


def test_why_the_host_refuses(home: Home) -> None:
    """What it says where it cannot make the archive is shown."""
    home.host.answers.pop(f"/vm/toolchain/go1.98.1.linux-{ARCH}.tar.gz")
    _, said = home.run("--no-setup", code=1)
    assert "goproxy-vm: there is no such thing\n" in said
    assert "the download of go1.98.1 failed" in said
    assert home.tree() == {}


def cuts() -> list[int]:
    length = len(Toolchain.of("1.98.1").tarball)
    return [0, 1, 9, 10, 600, *range(1000, length, length // 10), length - 1024, length - 8, length - 1]


def test_a_cut_archive_leaves_nothing(home: Home) -> None:
    for cut in cuts():
        home.host.cut = cut
        _, said = home.run("--no-setup", code=1)
        assert "nothing was changed" in said, cut
        assert home.tree() == {}, cut


@pytest.mark.parametrize("cut", [20, 40])
def test_an_archive_that_ends_early_and_says_so(home: Home, cut: int) -> None:
    """All of its members are whole: nothing but the hash tells."""
    path = f"/vm/toolchain/go1.98.1.linux-{ARCH}.tar.gz"
    whole = home.host.answers[path]
    starts = [i for i in range(len(whole)) if whole.startswith(b"\x1f\x8b\x08\0\0\0\0\0\0\xff", i)]
    home.host.answers[path] = whole[: starts[-cut % len(starts)]]
    _, said = home.run("--no-setup", code=1)
    assert "nothing was changed" in said
    assert home.tree() == {}


def test_a_hash_that_is_another(home: Home) -> None:
    _, said = home.run("--h1", WRONG, code=1)
    assert f"go1.98.1 of this host has {Toolchain.of('1.98.1').h1}, and not {WRONG}" in said
    assert home.tree() == {}
    assert not [path for path in home.host.asked if path.endswith(".tar.gz")]
    home.host.answers[f"/vm/toolchain/go1.98.1.linux-{ARCH}.h1"] = f"{WRONG}\n".encode()
    _, said = home.run("--h1", WRONG, code=1)
    assert f"what came of go1.98.1 has {Toolchain.of('1.98.1').h1}, and not {WRONG}" in said
    assert home.tree() == {}


def test_with_a_hash_nothing_from_the_host_is_run(home: Home) -> None:
    """Nor kept to be run later: nothing proves setup.sh."""
    arguments = ("--version", "1.98.1", "--h1", Toolchain.of("1.98.1").h1)
    for more in ("--print",), (), ():
        commands, said = home.run(*arguments, *more)
        assert f"points go at the host by: go env -w GOPROXY={home.host.url}" in said
        assert "setup.sh" not in " ".join(commands)
    assert home.version() == "go1.98.1"
    assert "/vm/setup.sh" not in home.host.asked
    assert not list(home.path.rglob("setup*"))
    _, said = home.run(*arguments, "--no-setup")
    assert "setup.sh" not in said


def forged(change: Callable[[Path], object], tmp_path: Path) -> bytes:
    """The archive with something else in it."""
    tree = tmp_path / "forged"
    tree.mkdir()
    original = Toolchain.of("1.98.1").tarball
    subprocess.run(["tar", "-xzf", "-", "-C", tree], input=original, check=True)
    change(tree)
    return subprocess.run(
        ["tar", "-cSzf", "-", "-C", tree, *(path.name for path in tree.iterdir())],
        capture_output=True,
        check=True,
    ).stdout


FORGERIES: dict[str, Callable[[Path], object]] = {
    "a link": lambda tree: (tree / "go" / "src" / "etc").symlink_to("/etc"),
    "a pipe": lambda tree: os.mkfifo(tree / "go" / "src" / "pipe"),
    "beside it": lambda tree: (tree / "other").write_text("x"),
    "hidden beside it": lambda tree: (tree / ".other").write_text("x"),
    "one file more": lambda tree: (tree / "go" / "src" / "more.go").write_text("x"),
    "one file less": lambda tree: (tree / "go" / "empty").unlink(),
    "a name in two lines": lambda tree: (tree / "go" / "src" / "a\nb.go").write_text("x"),
    "a name with a backslash": lambda tree: (tree / "go" / "src" / "a\\nb.go").write_text("x"),
    "another byte": lambda tree: (tree / "go" / "VERSION").write_text("go1.98.2\n"),
    "a name that is an option": lambda tree: (tree / "go" / "--tag").write_text("x"),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_what_does_not_belong_there(home: Home, change: Callable[[Path], object], tmp_path: Path) -> None:
    home.host.answers[f"/vm/toolchain/go1.98.1.linux-{ARCH}.tar.gz"] = forged(change, tmp_path)
    _, said = home.run("--h1", Toolchain.of("1.98.1").h1, code=1)
    assert "nothing was changed" in said
    assert home.tree() == {}


@pytest.mark.parametrize("programs", ["/usr/bin:/bin", "busybox"])
def test_nothing_outside_is_touched_before_the_hash(home: Home, tmp_path: Path, programs: str) -> None:
    """A member that is another link to a file of the machine's: its mode stays."""
    if programs == "busybox":
        home.programs = wget_alone(tmp_path)
        home.shell = f"{home.programs}/sh"
    secret = home.path / "secret"
    secret.write_text("x")
    secret.chmod(0o600)
    before = home.tree()
    # Where this tar refuses to make it, another would: a link to what is there already.
    tar = shutil.which("tar", path=home.programs)
    links = 'while [ "$1" != -C ]; do shift; done; rm "$2/go/empty"; ln "$HOME/secret" "$2/go/empty"'
    home.replace(tmp_path / "programs", tar=f'{tar} "$@" || exit; {links}')
    _, said = home.run("--no-setup", code=1)
    assert "has what does not belong there; nothing was changed" in said
    assert home.tree() == before


def test_modes_are_no_matter_of_what_is_unproven(home: Home, tmp_path: Path) -> None:
    """chmod is run once it is what it should be, and by what is refused nobody is kept from removing it."""

    def change(tree: Path) -> None:
        (tree / "go" / "VERSION").write_text("go1.98.2\n")
        (tree / "go" / "src" / "a").chmod(0o555)

    home.host.answers[f"/vm/toolchain/go1.98.1.linux-{ARCH}.tar.gz"] = forged(change, tmp_path)
    log = tmp_path / "log"
    log.touch()
    home.replace(tmp_path / "programs", chmod=f'echo "$@" >>{log}; exec {shutil.which("chmod")} "$@"')
    _, said = home.run("--no-setup", code=1)
    assert "what came of go1.98.1 has h1:" in said
    assert "-R" not in log.read_text()
    assert home.tree() == {}


BOMBS: dict[str, Callable[[Path], object]] = {
    "many files": lambda tree: [(tree / "go" / f"zeros{i}").write_bytes(bytes(1_000_000)) for i in range(5)],
    "one with holes": lambda tree: os.truncate(tree / "go" / "empty", 1 << 40),
}


@pytest.mark.parametrize("change", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("shell", SHELLS)
def test_an_archive_that_is_too_large(
    home: Home, change: Callable[[Path], object], tmp_path: Path, shell: str
) -> None:
    home.shell, home.most = shell, 4_000_000
    home.host.answers[f"/vm/toolchain/go1.98.1.linux-{ARCH}.tar.gz"] = forged(change, tmp_path)
    _, said = home.run("--no-setup", code=1)
    assert "was cut off or is too large; nothing was changed" in said
    assert home.tree() == {}


def test_modes_are_not_believed(home: Home, tmp_path: Path) -> None:
    def change(tree: Path) -> None:
        (tree / "go" / "bin" / "go").chmod(0o6777)
        (tree / "go" / "VERSION").chmod(0o666)
        (tree / "go" / "src").chmod(0o3777)

    home.host.answers[f"/vm/toolchain/go1.98.1.linux-{ARCH}.tar.gz"] = forged(change, tmp_path)
    home.run("--no-setup")
    tree = home.base / "go1.98.1"
    for name, mode in {"bin/go": 0o755, "VERSION": 0o644}.items():
        assert (tree / name).stat().st_mode & 0o7777 == mode
    assert (tree / "src").stat().st_mode & 0o6777 == 0o755


def test_somebody_elses_go(home: Home) -> None:
    directory = home.path / "opt"
    (directory / "go").mkdir(parents=True)
    before = home.tree()
    _, said = home.run("--dir", str(directory), code=1)
    assert f"{directory}/go is another Go installation" in said
    (directory / "go").rmdir()
    (directory / "go").symlink_to("/usr/lib/go-1.19")
    _, said = home.run("--dir", str(directory), code=1)
    assert "leads to another Go installation, /usr/lib/go-1.19" in said
    (directory / "go").unlink()
    (directory / "go1.98.1" / "bin").mkdir(parents=True)
    _, said = home.run("--dir", str(directory), code=1)
    assert f"{directory}/go1.98.1 is not from here" in said
    assert before.keys() - home.tree().keys() == {"opt/go"}
    _, said = home.run("--dir", str(directory), "--uninstall")
    assert (directory / "go1.98.1" / "bin").exists()


def test_another_place(home: Home) -> None:
    directory = home.path / "a place"
    directory.mkdir()
    (directory / "mine").write_text("x")
    home.run("--dir", str(directory), "--no-setup")
    assert (directory / "go" / "bin" / "go").exists()
    assert not (home.path / ".profile").exists()
    _, said = home.run("--dir", str(directory), "--uninstall")
    assert f"{directory} has other files, and stays" in said
    assert sorted(home.tree()) == ["a place", "a place/mine"]


STRANGE = ["mine", "go1.97/../../..", "../precious", "go1.97.1/../mine", ".", "..", "", "*", "go", "goo", "/"]


def test_its_record_names_nothing_else_to_remove(home: Home) -> None:
    home.host.add("1.99.0")
    home.host.add("1.99.1")
    for version in ("1.98.1", "1.99.0"):
        home.run("--version", version, "--no-setup")
    (home.base / "mine").mkdir()
    (home.base.parent / "precious").mkdir()
    record = home.base / "goproxy-vm.installed"
    lines = "".join(f"{name} linux-{ARCH} {WRONG}\n" for name in STRANGE) + "\n"
    record.write_text(lines + record.read_text())
    commands, said = home.run("--version", "1.99.1", "--no-setup")
    assert [c for c in commands if c.startswith("rm ")] == [
        f"rm -rf '{home.base}/go1.98.1'".replace("it's", "it'\\''s")
    ]
    assert "names ../precious, which is no version of Go: left alone" in said
    assert {line.split()[0] for line in record.read_text().splitlines()} == {"go1.99.0", "go1.99.1"}
    record.write_text(lines + record.read_text())
    home.run("--uninstall", "--no-setup")
    assert [path.name for path in home.base.iterdir()] == ["mine"]
    assert (home.base.parent / "precious").exists()


def test_its_record_is_never_half(home: Home, tmp_path: Path) -> None:
    """Killed while it is written anew it is what it was."""
    for version in ("1.99.0", "1.99.1"):
        home.host.add(version)
    for version in ("1.98.1", "1.99.0"):
        home.run("--version", version, "--no-setup")
    before = (home.base / "goproxy-vm.installed").read_text()
    grep = shutil.which("grep")
    home.replace(
        tmp_path / "programs", grep=f'case "$*" in *"-e "*) kill -9 $PPID ;; *) exec {grep} "$@" ;; esac'
    )
    home.run("--version", "1.99.1", "--no-setup", code=-9)
    assert (home.base / "goproxy-vm.installed").read_text().startswith(before)


@pytest.mark.parametrize("target", ["go1.98.1/..", "go1.98.1/../../precious", "go1.98.1/bin"])
def test_a_link_to_elsewhere(home: Home, target: str) -> None:
    home.run("--no-setup")
    link = home.base / "go"
    link.unlink()
    link.symlink_to(f"{home.base}/{target}")
    _, said = home.run("--no-setup", code=1)
    assert f"leads to another Go installation, {home.base}/{target}" in said
    home.run("--uninstall", "--no-setup")
    assert link.is_symlink()


def test_left_overs_go(home: Home) -> None:
    """Of a run that was killed: when it is long over; that of another run that goes on stays."""
    old, new = home.base / ".new.killed", home.base / ".new.running"
    for each in (old, new):
        (each / "go").mkdir(parents=True)
    os.utime(old, (1e9, 1e9))
    home.run("--no-setup")
    assert (old.exists(), new.exists()) == (False, True)
    home.run("--uninstall")
    assert sorted(home.tree()) == [".local", ".local/share"]


def test_several_at_once(home: Home) -> None:
    """Each comes to its end, and nothing goes into what another has put there."""
    with ThreadPoolExecutor(4) as pool:
        for each in [pool.submit(home.run) for _ in range(4)]:
            each.result()
    assert home.version() == "go1.98.1"
    found = {str(path.relative_to(home.base)) for path in home.base.glob("*/*")} - {"go/bin"}
    roots = {name.partition("/")[0] for name in files("1.98.1")}
    assert found == {f"{top}/{root}" for top in ("go", "go1.98.1") for root in roots} - {"go/bin"}
    assert not list(home.base.glob(".new*"))
    home.run("--uninstall")
    assert sorted(home.tree()) == [".local", ".local/share", "setup.log"]


def test_one_that_does_not_run_is_replaced(home: Home) -> None:
    home.run("--no-setup")
    (home.base / "go1.98.1" / "bin" / "go").unlink()
    (home.base / "go1.98.1" / "more").touch()
    home.run("--no-setup")
    assert home.version() == "go1.98.1"
    assert not (home.base / "go1.98.1" / "more").exists()


def test_kills(home: Home, tmp_path: Path) -> None:
    """Killed at any of the commands that it runs: the next run does what is left, and all can be removed."""
    directory, count = tmp_path / "killing", tmp_path / "count"
    directory.mkdir()
    for name in ("mkdir", "mktemp", "tar", "chmod", "find", "sed", "cp", "mv", "rm", "ln", "readlink", "cat"):
        program = directory / name
        program.write_text(
            f'#!/bin/sh\necho >>{count}\n[ "$(/usr/bin/wc -l <{count})" -ne "$KILL" ] || kill -9 $PPID\n'
            f'exec {shutil.which(name)} "$@"\n'
        )
        program.chmod(0o755)
    killed = 0
    for n in range(1, 100, 3):
        count.unlink(missing_ok=True)
        done = subprocess.run(
            ["sh", "-s", "--", "--dir", str(home.path / "there"), "--no-setup"],
            input=home.script(),
            env={"PATH": f"{directory}:/usr/bin:/bin", "KILL": str(n)},
            capture_output=True,
            text=True,
        )
        if count.read_text().count("\n") < n:
            break
        killed += done.returncode != 0
        home.run("--dir", str(home.path / "there"), "--no-setup")
        assert (home.path / "there" / "go" / "bin" / "go").exists(), n
        home.run("--dir", str(home.path / "there"), "--uninstall")
        assert home.tree() == {}, n
    assert killed > 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--vresion"], "unknown option --vresion"),
        (["1.26.8"], "unknown option 1.26.8"),
        (["--version"], "--version: a version as"),
        (["--version", "latest"], "--version: a version as"),
        (["--version", "1.2/3"], "is no version of Go"),
        (["--h1"], "--h1: a hash as"),
        (["--h1", "sha256:00"], "--h1: a hash as"),
        (["--h1", "h1:a b="], "is no h1"),
        (["--dir"], "--dir: an absolute path"),
        (["--dir", "here"], "--dir: an absolute path"),
        (["--dir", "//"], "--dir: an absolute path"),
        (["--dir", "/a\nb"], "--dir: one line"),
    ],
)
def test_misuse(home: Home, arguments: list[str], said: str) -> None:
    commands, told = home.run(*arguments, code=2)
    assert commands == []
    assert said in told.splitlines()[0]
    assert "usage: install.sh" in told
    assert home.host.asked == []


def test_a_cut_script_runs_nothing(home: Home) -> None:
    text = home.script()
    last = text.rindex("{ main")
    for cut in [*range(0, last, 400), *range(last - 5, len(text) - 1)]:
        done = subprocess.run(
            ["sh"], input=text[:cut], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True
        )
        assert done.stdout == ""
    assert home.host.asked == []


def test_what_is_missing_is_said(home: Home) -> None:
    home.host.answers.pop(LIST)
    _, said = home.run(code=1)
    assert said.splitlines() == [
        "goproxy-vm: there is no such thing",
        "goproxy-vm: the host does not say which versions there are: name one with --version",
    ]
    _, said = home.run("--version", "1.97.1", code=1)
    assert "the host has no go1.97.1 for linux" in said
    home.host.answers.pop("/vm/setup.sh")
    _, said = home.run("--version", "1.98.1", code=1)
    assert "go1.98.1 is installed, but setup.sh did not come from the host" in said


# A whole machine

ONE_LINE = "wget -qO- {}/vm/install.sh | sh"


@pytest.fixture
def bare(tmp_path: Path, host: FakeHost) -> Bare:
    """A machine without anything, of a host that serves the script."""
    host.answers["/vm/install.sh"] = Home(tmp_path, host).script().encode()
    host.answers["/vm/setup.sh"] = b'[ "$1" ] || go version >"$HOME/setup"; [ -z "$1" ] || rm "$HOME/setup"\n'
    return Bare(tmp_path / "root")


def test_a_bare_machine(bare: Bare, host: FakeHost) -> None:
    before = bare.files()
    bare.run(ONE_LINE.format(host.url))
    links = bare.root / "usr" / "local"
    assert str((links / "go").readlink()) == "/usr/local/lib/goproxy-vm/go1.98.1"
    assert bare.run(". /etc/profile.d/goproxy-vm.sh; go version").stdout.split()[2] == "go1.98.1"
    assert (bare.root / "root" / "setup").read_text().split()[2] == "go1.98.1"
    assert bare.run(". /etc/profile.d/goproxy-vm.sh; go version", user=65534).stdout.split()[2] == "go1.98.1"
    owners = {path.lstat().st_uid for path in links.rglob("*")}
    assert owners == {0}
    bare.run(f"{ONE_LINE.format(host.url)} -s -- --uninstall")
    assert bare.files() == before


def test_a_bare_machine_as_another_user(bare: Bare, host: FakeHost) -> None:
    before = bare.files()
    bare.run(ONE_LINE.format(host.url), user=65534)
    assert bare.run(". $HOME/.profile; go version", user=65534).stdout.split()[2] == "go1.98.1"
    bare.run(f"{ONE_LINE.format(host.url)} -s -- --uninstall", user=65534)
    assert bare.files() == before


def test_a_bare_machine_with_somebody_elses_go(bare: Bare, host: FakeHost) -> None:
    (bare.root / "usr" / "local" / "go").mkdir(parents=True)
    before = bare.files()
    said = bare.run(ONE_LINE.format(host.url), code=1).stderr
    assert (
        "/usr/local/go is another Go installation: remove it (rm -r /usr/local/go), or choose another" in said
    )
    assert bare.files() == before


def test_without_home(bare: Bare, host: FakeHost) -> None:
    """As cloud-init runs commands."""
    said = bare.run(f"unset HOME; {ONE_LINE.format(host.url)}").stderr
    assert "HOME is not set, so nobody's go is pointed at the host" in said
    assert (bare.root / "usr/local/lib/goproxy-vm/go1.98.1/bin/go").exists()
    said = bare.run(f"unset HOME; {ONE_LINE.format(host.url)}", user=65534, code=1).stderr
    assert "HOME is not set: run this as the user who builds" in said
