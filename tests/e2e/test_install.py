"""``/vm/install.sh`` and a real toolchain, through the proxy from the machine's own Go module proxy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.gocommand import serving
from tests.fakes.bare import Bare

pytestmark = [pytest.mark.live, pytest.mark.e2e, pytest.mark.timeout(900)]

FILE = Path(__file__).parents[2] / "goproxy_vm" / "web" / "install.sh"
VERSION = "1.26.8"
H1 = "h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM="
"""What sum.golang.org has of it, for linux-amd64."""
TEST = """
set -e
. /etc/profile.d/goproxy-vm.sh
mkdir /tmp/m
cd /tmp/m
cat >m_test.go <<'END'
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
END
go mod init example.com/m
go get golang.org/x/mod@v0.12.0
go vet ./...
go test -v ./...
go env GOPROXY GOSUMDB GOTOOLCHAIN
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, real_upstream: str) -> Iterator[str]:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("its hash is known for linux-amd64")
    env = {"GOPROXY_VM_UPSTREAM": real_upstream} | {
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


@pytest.mark.soak
def test_from_busybox_to_go_test(url: str, tmp_path: Path) -> None:
    bare = Bare(tmp_path / "root")
    (bare.root / "tmp" / "install.sh").write_text(script(url))
    bare.run(f"sh /tmp/install.sh --version {VERSION}", timeout=300)  # with --h1 it sets nothing up
    done = bare.run(TEST, timeout=600)
    assert "--- PASS: TestOrder" in done.stdout
    assert done.stdout.splitlines()[-3:] == [url, "sum.golang.org", "auto"]
    bare.run("sh /tmp/install.sh --uninstall")
    assert not (bare.root / "usr/local/go").is_symlink()
    assert not (bare.root / "usr/local/lib/goproxy-vm").exists()
