"""``/vm/install.sh`` and a real toolchain, through the proxy from the machine's own Go module proxy."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cleaning import make_writable
from tests.e2e.gocommand import serving
from tests.fakes.bare import Bare

pytestmark = [pytest.mark.live, pytest.mark.e2e, pytest.mark.timeout(900)]

FILE = Path(__file__).parents[2] / "goproxy_vm" / "web" / "install.sh"
VERSION = "1.26.8"
H1 = "h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM="
"""What sum.golang.org has of it, for linux-amd64."""
PAGE = Path(__file__).parents[2] / "docs" / "vms.md"
PROJECT = {
    "go.mod": "module example.com/m\n\ngo 1.21\n\nrequire golang.org/x/mod v0.12.0\n",
    "go.sum": """\
golang.org/x/mod v0.12.0 h1:rmsUpXtvNzj340zd98LZ4KntptpfRHwpFOHG188oHXc=
golang.org/x/mod v0.12.0/go.mod h1:iBbtSCu2XBx23ZKBPSOrRkjjQPZFPuis4dIYUhu/chs=
""",
    "m_test.go": """\
package m

import (
	"testing"

	"golang.org/x/mod/semver"
)

func TestOrder(t *testing.T) {
	if semver.Compare("v1.10.0", "v1.9.0") != 1 {
		t.Fatal("in the wrong order")
	}
}
""",
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, real_upstream: str) -> Iterator[str]:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("its hash is known for linux-amd64")
    env = {"GOPROXY_VM_UPSTREAM": real_upstream, "GOPROXY_VM_VM_GO": VERSION} | {
        key: os.environ[key] for key in ("SSL_CERT_FILE",) if key in os.environ
    }
    with serving(tmp_path_factory.mktemp("cache"), env=env) as server:
        yield server.url


def script(url: str) -> str:
    return FILE.read_text().replace("\nproxy=''\n", f"\nproxy={url}\n")


def test_a_real_toolchain(url: str, tmp_path: Path) -> None:
    arguments = ["--version", VERSION, "--h1", H1, "--dir", str(tmp_path / "go"), "--no-setup"]
    sh = shutil.which("sh")
    assert sh is not None
    for said in (f"is what it should be by --h1: {H1}", f"go{VERSION} is installed in"):
        done = subprocess.run(
            [sh, "-s", "--", *arguments],
            input=script(url),
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert said in done.stderr
        assert f"go version go{VERSION} linux/amd64" in done.stderr


def one_line(url: str) -> str:
    """What the page has for a machine that has nothing but busybox, to be run here."""
    (line,) = re.findall(r"^# (wget .*/go test .*)$", PAGE.read_text(), re.MULTILINE)
    return line.replace("http://HOST:8080", url).replace("go test", "go test -v")


@pytest.mark.soak
def test_from_busybox_to_go_test_in_one_line(url: str, tmp_path: Path) -> None:
    """The script is the one that the host serves, and the version its own: the line says nothing of it."""
    bare = Bare(tmp_path / "root")
    project = bare.root / "root" / "m"
    project.mkdir()
    for name, text in PROJECT.items():
        (project / name).write_text(text)
    done = bare.run(f"cd /root/m; {one_line(url)}", timeout=600)
    assert "--- PASS: TestOrder" in done.stdout
    go = "/usr/local/go/bin/go"
    told = bare.run(f"{go} env GOVERSION GOPROXY GOSUMDB GOTOOLCHAIN; {go} vet -C /root/m .").stdout
    assert told.splitlines() == [f"go{VERSION}", url, "sum.golang.org", f"go{VERSION}"]
    caches = bare.root / "root/.cache/go-vm"
    assert len(list(caches.rglob("x/mod/@v/*.zip"))) == 1
    environment = "export PATH=/usr/local/go/bin:$PATH; cd /root/m"
    cleaned = bare.run(f"{environment}; wget -qO- {url}/vm/clean.sh | sh -s -- --zips --build-age 1")
    assert "  - zip " in cleaned.stdout
    assert not list(caches.rglob("x/mod/@v/*.zip"))
    assert bare.run(f"{environment}; GOPROXY=off go test .").stdout.startswith("ok ")
    bare.run(f"wget -qO- {url}/vm/install.sh | sh -s -- --uninstall")
    assert not (bare.root / "usr/local/go").is_symlink()
    assert not (bare.root / "usr/local/lib/goproxy-vm").exists()


@pytest.mark.soak
def test_every_go_is_the_one_of_all(url: str, tmp_path: Path, other_go: str) -> None:
    """Older or newer, by ``setup.sh`` of a host with ``vm_go``; it reports as that, and takes no other."""
    work = tmp_path / "work"
    work.mkdir()
    env = {"PATH": f"{Path(other_go).parent}:/usr/bin:/bin", "HOME": str(tmp_path), "GOTELEMETRY": "off"}

    def run(*command: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, input=given, cwd=work, env=env, capture_output=True, text=True)

    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{url}/vm/setup.sh") as response:
        done = run("sh", given=response.read().decode())
    assert done.returncode == 0, done.stderr
    assert run("go", "version").stdout == f"go version go{VERSION} linux/amd64\n"
    assert f"/go-vm/go{VERSION}/mod" in run("go", "env", "GOMODCACHE").stdout
    (work / "go.mod").write_text("module example.com/m\n\ngo 1.27\n")
    refused = run("go", "list", "-m")
    assert refused.returncode != 0
    assert f"requires go >= 1.27 (running go {VERSION}; GOTOOLCHAIN=go{VERSION})" in refused.stderr
    make_writable(tmp_path / ".cache")
