"""Where the admin API's token and socket lie: the server and the command line look in the same places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from goproxy_vm.config import values
from goproxy_vm.errors import ConfigError

if TYPE_CHECKING:
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
