"""A machine that has busybox and nothing more, as Alpine or an image that was just unpacked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_IN = """
set -e
mount --rbind /proc "$1/proc"
mount --bind /dev/null "$1/dev/null"
exec chroot --userspec="$2:$2" "$1" /bin/env -i PATH=/bin HOME="$3" /bin/sh -c "$4"
"""


class Bare:
    """A directory that commands have for their root, in a mount namespace of their own; the network is the
    host's. Skips where that cannot be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        busybox = shutil.which("busybox")
        if busybox is None:
            pytest.skip("busybox is not installed")
        if (
            os.geteuid() != 0
            or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0
        ):
            pytest.skip("needs root, and mount namespaces")
        for name in ("bin", "proc", "dev", "tmp", "root", "home", "etc/profile.d"):
            (root / name).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        (root / "home").chmod(0o777)
        (root / "dev" / "null").touch()
        shutil.copy(busybox, root / "bin" / "busybox")
        linked = subprocess.run(["ldd", busybox], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+) \(0x", linked):
            target = root / library[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
        for name in subprocess.run([busybox, "--list"], capture_output=True, text=True).stdout.split():
            if name != "busybox":
                (root / "bin" / name).symlink_to("busybox")

    def run(
        self, command: str, *, user: int = 0, code: int = 0, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Have its shell run a command."""
        home = "/root" if user == 0 else "/home"
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", _IN, "sh", str(self.root), str(user), home, command],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd="/",
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def files(self) -> dict[str, float]:
        """Whatever lies there, with its time of change."""
        return {
            str(path.relative_to(self.root)): path.lstat().st_ctime
            for path in self.root.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }
