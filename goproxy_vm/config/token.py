"""Tokens: where the admin API's lies, and its socket, for the server and the command line look in the same
places; and those of who may have private modules."""

from __future__ import annotations

import base64
import hashlib
import os
from typing import TYPE_CHECKING

from goproxy_vm.config import values
from goproxy_vm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TOKEN_NAME = "admin.token"  # noqa: S105 (the name of a file)
"""The file below the cache directory that holds the token which the server made itself."""
SOCKET_NAME = "admin.sock"
"""The Unix socket below the cache directory that the command line asks first."""
MOST = 4096
"""Bytes of a token's file that are read."""


def read_token(path: Path) -> str:
    """The token in a file, without white space around it (blocking). OSError; ConfigError if it is none."""
    with path.open("rb") as file:
        content = file.read(MOST)
    try:
        found = values.token(content.decode("ascii").strip())
    except UnicodeDecodeError:
        found = ""
    except ValueError as error:
        raise ConfigError(f"{path}: no token: {error}") from None
    if not found:
        raise ConfigError(f"{path}: it holds no token")
    return found


def named_token(path: Path) -> str:
    """The token in the file that ``admin_token_file`` names (blocking). ConfigError if there is none."""
    try:
        return read_token(path)
    except ConfigError as error:
        raise ConfigError(f"admin_token_file: {error.sentence}") from None
    except OSError as error:
        raise ConfigError(f"admin_token_file: {path} cannot be read: {error.strerror}") from None


MOST_TOKENS = 1 << 20
"""Bytes of a file of tokens."""


class Tokens:
    """Tokens of which a request brings one; only their hashes are kept."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._digests = frozenset(map(digest, tokens))

    def admit(self, authorization: str) -> bool:
        """Whether the value of an Authorization header has one of them: as Bearer (RFC 6750), or as the
        password of Basic (RFC 7617), whoever the user, which is what go sends from a .netrc."""
        scheme, _, rest = authorization.partition(" ")
        token = rest.strip(" ")
        if scheme.lower() == "basic":
            try:
                pair = base64.b64decode(token, validate=True).decode("utf-8", "surrogateescape")
            except ValueError:
                return False
            token = pair.partition(":")[2]
        elif scheme.lower() != "bearer":
            return False
        # What is looked up is a hash: how long that takes tells nothing of a token.
        return digest(token) in self._digests


def digest(token: str) -> bytes:
    """What is kept of a token, and compared: of equal length whatever is sent, so that not even the token's
    length shows."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def private_tokens(path: Path | None) -> Tokens | None:
    """The tokens in the file that ``private_tokens_file`` names (blocking): one a line, besides empty lines
    and those that begin with ``#``. ConfigError: it cannot be read, or by everyone, or a line is no token."""
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MOST_TOKENS + 1)
    except OSError as error:
        raise ConfigError(f"private_tokens_file: {path} cannot be read: {error.strerror}") from None
    if mode & 0o007:
        raise ConfigError(f"private_tokens_file: everyone can read {path}: chmod o= {path}")
    if len(content) > MOST_TOKENS:
        raise ConfigError(f"private_tokens_file: {path} has more than {MOST_TOKENS} bytes")
    found = set()
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        text = line.strip()
        if text and not text.startswith("#"):
            try:
                found.add(values.token(text))
            except ValueError as error:
                raise ConfigError(f"private_tokens_file: {path}, line {number}: no token: {error}") from None
    if not found:
        raise ConfigError(f"private_tokens_file: {path} holds no token")
    return Tokens(found)
