"""Which version this is, and of which commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

from goproxy_vm import __version__

COMMIT_NAME = "commit"
"""The file beside the modules of a release that names its commit."""


def described() -> str:
    """The version, and the commit where that is known (blocking)."""
    commit = commit_of(Path(__file__).parent)
    return f"{__version__} (commit {commit})" if commit else __version__


def commit_of(package: Path) -> str:
    """The commit that a package's directory was made of, or is checked out from (blocking).

    "" if nobody knows.
    """
    try:
        return (package / COMMIT_NAME).read_text("ascii").strip()
    except FileNotFoundError:
        pass
    if not (package.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(package.parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return ""
