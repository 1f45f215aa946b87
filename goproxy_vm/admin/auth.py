"""Who may use the admin API: whoever brings the token, for VMs reach the host's loopback too.

Over the socket in the cache directory also the server's own user and root
(docs/decisions/0010-the-admin-socket.md).
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING

from goproxy_vm.cache import tree
from goproxy_vm.config.token import TOKEN_NAME, digest, named_token, read_token
from goproxy_vm.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from goproxy_vm.config import Settings

CHALLENGE = 'Bearer realm="goproxy-vm"'
"""What a 401 says in WWW-Authenticate (RFC 6750)."""
RANDOM_BYTES = 32


class Guard:
    """Compares tokens in constant time; keeps only the hash of the right one.

    ``users`` are let in without it.
    """

    def __init__(self, token: str, users: Collection[int] = ()) -> None:
        self._users = frozenset(users)
        self.change(token)

    def change(self, token: str) -> None:
        """Admit who brings another token from now on, and nobody by the old one. ValueError: it is empty."""
        if not token:
            raise ValueError("an empty token would let everyone in")
        self._digest = digest(token)

    def admits(self, headers: Sequence[str], user: int | None = None) -> bool:
        """Whether a request may go on: with these Authorization headers, exactly one, with the token; or from
        the other end of a Unix socket that ``user`` holds."""
        if user in self._users:
            return True
        if len(headers) != 1:
            return False
        scheme, _, token = headers[0].partition(" ")
        return hmac.compare_digest(digest(token.strip(" ")), self._digest) and scheme.lower() == "bearer"


def admin_token(settings: Settings) -> str:
    """The token in force (blocking): from the settings, their file, else ``admin.token``, made if missing.

    The cache directory must be there, and be ours. ConfigError or, where the cache directory is at fault,
    StartError, naming the file that cannot be used.
    """
    if settings.admin_token:
        return settings.admin_token
    if settings.admin_token_file is not None:
        return named_token(settings.admin_token_file)
    try:
        return _kept(settings.cache_dir / TOKEN_NAME)
    except OSError as error:
        raise StartError(f"{settings.cache_dir / TOKEN_NAME}: {error.strerror}") from None


def _kept(path: Path) -> str:
    try:
        token = read_token(path)
    except FileNotFoundError:
        return _made(path)
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    return token


def _made(path: Path) -> str:
    """A new token, on disk before it is used."""
    token = secrets.token_hex(RANDOM_BYTES)
    root = path.parent.resolve()  # the cache directory may well be a link
    tree.write(f"{token}\n".encode(), root / path.name, root, root / "tmp")
    return token
