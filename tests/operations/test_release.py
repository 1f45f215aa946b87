"""A release works outside the checkout: ``python -m build``, and ``pip install`` into an environment."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import urllib.request
import venv
from pathlib import Path

import pytest

from goproxy_vm import __version__
from tests.e2e.gocommand import start

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="releases are made from a checkout")


def run(*command: str, cwd: Path) -> str:
    """What a command prints. Not measured: the sources that a build reads are gone when coverage reports."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an sdist and of the wheel that was made of it."""
    folder = tmp_path_factory.mktemp("dist")
    checkout = folder / "checkout"
    run("git", "clone", "--quiet", str(ROOT), str(checkout), cwd=folder)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(checkout), cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, and the dependencies that the tests have."""
    prefix = tmp_path_factory.mktemp("prefix") / "venv"
    venv.EnvBuilder(with_pip=False).create(prefix)
    (wheel,) = built.glob("*.whl")
    python = prefix / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=prefix)
    (packages,) = prefix.glob("lib/python*/site-packages")
    others = next(path for path in sys.path if path.endswith("site-packages"))
    # Only looked at, not processed: the checkout, which is installed there in place, is not on the path.
    (packages / "dependencies.pth").write_text(f"{others}\n")
    return prefix


def test_sdist(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    known = set(run("git", "ls-files", cwd=built / "checkout").splitlines())
    assert known <= names
    assert "goproxy_vm/commit" in names


def test_the_wheel_serves_outside_the_checkout(built: Path, installed: Path, tmp_path: Path) -> None:
    command = str(installed / "bin" / "goproxy-vm")
    commit = run("git", "rev-parse", "--short=12", "HEAD", cwd=built / "checkout").strip()
    assert run(command, "version", cwd=tmp_path) == f"goproxy-vm {__version__} (commit {commit})\n"
    share = installed / "share"
    for name in ("config/goproxy-vm.toml", "config/systemd/goproxy-vm.service", "docker/compose.yaml",
                 "config/vm/goproxy-vm-clean@.timer",
                 "config/grafana/dashboards/goproxy-vm.json", "config/prometheus/rules.yml"):  # fmt: skip
        assert (share / "goproxy-vm" / name).read_bytes() == (ROOT / name).read_bytes()
    assert (share / "doc" / "goproxy-vm" / "docs" / "operating.md").exists()
    file = share / "goproxy-vm" / "config" / "goproxy-vm.toml"
    assert "configuration is valid" in run(command, "config", "check", "--config", str(file), cwd=tmp_path)
    running = start(tmp_path / "cache", "--sumdb", "off", "--offline", command=(command,))
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(running.url) as page:
            assert "go env -w GOPROXY=" in page.read().decode()
        assert running.log[-1]["version"] == __version__
    finally:
        assert running.stop() == 0


def test_documentation_of_the_unit_is_where_it_is_installed() -> None:
    unit = (ROOT / "config" / "systemd" / "goproxy-vm.service").read_text()
    assert "Documentation=file:///opt/goproxy-vm/share/doc/goproxy-vm/docs/operating.md" in unit
