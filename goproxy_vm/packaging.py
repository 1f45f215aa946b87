"""How a release is built: with the files that belong beside a server, and the commit it was made of.

setuptools finds the two commands by ``[tool.setuptools.cmdclass]`` in pyproject.toml; no server uses them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # setuptools loads this file alone

from goproxy_vm.version import COMMIT_NAME, commit_of  # noqa: E402

PACKAGE = Path(__file__).parent.name


class BuildPy(build_py):
    """Writes the commit beside the modules of a wheel."""

    def run(self) -> None:
        """Build, then add the commit where it is known."""
        super().run()
        if not self.editable_mode:
            _note_commit(Path(self.build_lib))


class Sdist(sdist):
    """Has every file of the checkout, and the commit."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Lay the files out, then add the commit. CalledProcessError: this is no checkout."""
        known = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607
        there = [line for line in known.stdout.splitlines() if (ROOT / line).is_file()]
        super().make_release_tree(base_dir, sorted({*files, *there}))
        _note_commit(Path(base_dir))


def _note_commit(base: Path) -> None:
    commit = commit_of(ROOT / PACKAGE)
    if commit:
        path = base / PACKAGE / COMMIT_NAME
        path.unlink(missing_ok=True)  # an sdist's files are links to the checkout's
        path.write_text(f"{commit}\n")
