"""Which commit this is."""

from __future__ import annotations

import subprocess
from pathlib import Path

COMMIT_NAME = "commit"
"""The file beside the modules of a release that names its commit."""


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
