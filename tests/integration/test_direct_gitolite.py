"""Private modules from gitolite, which has ssh alone, no go-import page, and rules of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from goproxy_vm.config.mapped import Mapped
from goproxy_vm.errors import Absent
from tests.fakes.gitplain import plain_direct
from tests.fakes.gitssh import SshServer
from tests.integration.direct import HOST, Bed, bed, failure, h1, listed, resolved

__all__ = ["bed"]
pytestmark = pytest.mark.direct
SHELL = Path("/usr/share/gitolite3/gitolite-shell")
"""Where Debian has it."""


class Gitolite(SshServer):
    """sshd with gitolite behind it: its user ``vm`` may read what ``readable`` names."""

    readable = ("team/root",)

    def _forced(self) -> list[str]:
        command = shutil.which("gitolite")
        if command is None or not SHELL.exists():
            pytest.skip("gitolite is not installed")
        home = self._directory / "home"
        home.mkdir()
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(home), "USER": self.user, "LC_ALL": "C"}
        admin = home / "vm.pub"
        admin.write_text(f"{self.key.public}\n")
        self._run(command, "setup", "-pk", str(admin))
        rules = (
            "".join(f"repo {name}\n    R = vm\n" for name in self.readable)
            + "repo team/hidden\n    R = other\n"
        )
        (home / ".gitolite" / "conf" / "gitolite.conf").write_text(rules)
        for path in self._repositories.root.rglob("*.git"):
            shutil.copytree(path, home / "repositories" / path.relative_to(self._repositories.root))
        self._run(command, "compile")
        self._run(command, "setup")
        return ["env", f"HOME={home}", f"PATH={os.environ['PATH']}", str(SHELL), "vm"]

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, env=self.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


async def test_what_one_may_read_and_what_not(bed: Bed) -> None:
    shape = bed.repositories.shape("root")
    bed.repositories.shape("root", "team/hidden")
    plain = await plain_direct(bed.names, bed.authority, bed.home("plain"), [(shape.module, "v1.0.0")])
    async with Gitolite(bed.repositories, bed.names, bed.directory / "ssh", HOST) as server:
        source = await bed.source(
            git_home=server.home(bed.directory / "home"),
            repos=(Mapped(f"{HOST}/*/*", f"ssh://{server.user}@{HOST}/{{1}}/{{2}}"),),
        )
        before = len(bed.server.requests)
        assert await h1(source, shape.module, "v1.0.0") == plain[shape.module, "v1.0.0"].zip
        assert await resolved(source, shape.module, "main")
        for name in ("hidden", "none"):
            error = await failure(source, listed(f"{HOST}/team/{name}"))
            assert (error.status, name in error.sentence) == (403, True), error.sentence
        assert isinstance(await failure(source, listed(f"{HOST}/team")), Absent)
        assert len(bed.server.requests) == before, "no page is asked for"
