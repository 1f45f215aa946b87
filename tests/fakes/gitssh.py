"""OpenSSH's own server, as the user who runs the tests, for the repositories of a test.

Each connection has an ``sshd -i`` of its own: nothing listens but the test, and nothing outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shlex
import shutil
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.fakes.githttps import end_group
from tests.fakes.gitrepos import git_command

if TYPE_CHECKING:
    from tests.fakes.gitnames import Names
    from tests.fakes.gitrepos import Repositories

SEPARATION = Path("/run/sshd")
"""Where sshd of root has its unprivileged half; packages make it at the start of the service."""

SERVE = """\
import os, sys
word, _, name = os.environ.get("SSH_ORIGINAL_COMMAND", "").partition(" ")
path = os.path.normpath(os.path.join({root!r}, name.strip("'").lstrip("/")))
with open({log!r}, "a") as log:
    log.write(name.strip("'") + "\\n")
if word != "git-upload-pack" or not path.startswith({root!r}):
    sys.exit("only git-upload-pack")
environment = dict(GIT_CONFIG_NOSYSTEM="1", GIT_CONFIG_GLOBAL=os.devnull, PATH={path!r})
environment |= dict(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0="*")
if "GIT_PROTOCOL" in os.environ:
    environment["GIT_PROTOCOL"] = os.environ["GIT_PROTOCOL"]
os.execve({git!r}, ["git", "upload-pack", "--strict", path], environment)
"""


class Key:
    """An Ed25519 key."""

    def __init__(self) -> None:
        private = Ed25519PrivateKey.generate()
        self.private = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        self.public = (
            private.public_key()
            .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
            .decode()
        )

    def write(self, file: Path, mode: int = 0o600) -> Path:
        """The private key as a file."""
        file.write_bytes(self.private)
        file.chmod(mode)
        return file


class SshServer:
    """``async with SshServer(repositories, names, directory)``: serves ``url("GROUP/NAME")`` on port 22.

    ``key`` is the one that may read; ``opened`` counts connections, ``asked`` are the repositories wanted.
    Skips the test where there is no sshd, or none that this user may log in to.
    """

    def __init__(
        self,
        repositories: Repositories,
        names: Names,
        directory: Path,
        host: str = "git.corp.test",
        port: int = 22,
    ) -> None:
        self._repositories = repositories
        self._names = names
        self._directory = directory
        self.host = host
        self.port = port
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.key = Key()
        self.host_key = Key()
        self.opened = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def asked(self) -> list[str]:
        log = self._directory / "asked"
        return log.read_text().splitlines() if log.exists() else []

    def url(self, name: str) -> str:
        """The repository's address."""
        at = "" if self.port == 22 else f":{self.port}"
        return f"ssh://{self.user}@{self.host}{at}/{name}.git"

    def known(self, key: Key | None = None) -> str:
        """The line of known_hosts for this host: with its key, or with another."""
        name = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        return f"{name} {(key or self.host_key).public}\n"

    def home(
        self,
        directory: Path,
        *,
        key: Key | None = None,
        mode: int = 0o600,
        host: Literal["known", "changed", "unknown"] = "known",
    ) -> Path:
        """A home with what ssh needs. ``key``: another than the right one; ``mode``: of the key's file."""
        ssh = directory / ".ssh"
        ssh.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        ssh.chmod(0o700)
        (key or self.key).write(ssh / "id_ed25519", mode)
        if host != "unknown":
            (ssh / "known_hosts").write_text(self.known(None if host == "known" else Key()))
        return directory

    async def __aenter__(self) -> Self:
        self._command = self._prepare()
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self._listener = listener
        self._names.lead(self.host, self.port, listener.getsockname()[1])
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._accepting.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._accepting, *self._tasks, return_exceptions=True)
        self._listener.close()

    def log(self) -> str:
        """What sshd said."""
        return (self._directory / "sshd.log").read_text()

    def _prepare(self) -> list[str]:
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
        if sshd is None:
            pytest.skip("sshd is not installed")
        if pwd.getpwuid(os.getuid()).pw_shell.endswith(("nologin", "false")):
            pytest.skip("who runs the tests may not log in")
        if os.getuid() == 0 and not SEPARATION.is_dir():
            try:
                SEPARATION.mkdir(mode=0o755)
            except OSError as error:
                pytest.skip(f"sshd of root needs {SEPARATION}: {error.strerror}")
        self._directory.mkdir(parents=True, exist_ok=True)
        command = shlex.join(self._forced()).replace('"', '\\"')
        keys = self._directory / "authorized_keys"
        keys.write_text(f'restrict,command="{command}" {self.key.public}\n')
        keys.chmod(0o600)
        options = {
            "HostKey": self.host_key.write(self._directory / "host_key"),
            "AuthorizedKeysFile": keys,
            "StrictModes": "no",  # the directories above belong to whoever runs the tests, or to root
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "AcceptEnv": "GIT_PROTOCOL",
            "PidFile": "none",
            "UseDNS": "no",
            "LogLevel": "VERBOSE",
        }
        configuration = self._directory / "sshd_config"
        configuration.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        (self._directory / "sshd.log").touch()
        return [sshd, "-i", "-e", "-f", str(configuration)]

    def _forced(self) -> list[str]:
        """What runs for whoever has the key, whatever they ask for."""
        serve = self._directory / "serve.py"
        serve.write_text(
            SERVE.format(
                root=str(self._repositories.root),
                log=str(self._directory / "asked"),
                path=os.environ["PATH"],
                git=git_command(),
            )
        )
        return [sys.executable, "-I", "-S", str(serve)]

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            self.opened += 1
            task = asyncio.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with contextlib.closing(connection), (self._directory / "sshd.log").open("ab") as log:
            connection.setblocking(True)
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=connection, stdout=connection, stderr=log, start_new_session=True
            )
            connection.close()
            try:
                await process.wait()
            finally:
                await end_group(process)
