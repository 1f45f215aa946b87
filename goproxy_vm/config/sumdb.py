"""GOSUMDB's forms: which checksum database, with which key, and where (PROTOCOL §4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from goproxy_vm.protocol.note import VerifierKey

GOOGLE_NAME = "sum.golang.org"
GOOGLE_KEY = "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
"""The key of sum.golang.org, as every ``go`` command carries it."""
GOOGLE_MIRROR = "sum.golang.google.cn"

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?(?:/[A-Za-z0-9_~.-]+)*")


@dataclass(frozen=True, slots=True)
class SumdbSpec:
    """One checksum database: its ``name`` (host[/path]), its verifier key ``vkey``
    (``NAME+hash8hex+base64``), and the explicit ``url`` that bypasses the upstreams, or None.
    """

    name: str
    vkey: str
    url: str | None = None


def parse_sumdb(text: str) -> SumdbSpec | None:
    """The database that a GOSUMDB value names; None for ``off``. Raises ValueError with a reason."""
    words = text.split()
    if words == ["off"]:
        return None
    if len(words) not in (1, 2):
        raise ValueError("one word or two are needed")
    url = _check_url(words[1]) if len(words) == 2 else None
    if words[0] == GOOGLE_MIRROR and url is None:
        return SumdbSpec(GOOGLE_NAME, GOOGLE_KEY, f"https://{GOOGLE_MIRROR}")
    if words[0] == GOOGLE_NAME:
        return SumdbSpec(GOOGLE_NAME, GOOGLE_KEY, url)
    if "+" not in words[0]:
        raise ValueError(
            f"of all keys only that of {GOOGLE_NAME} is known here; another database needs its own"
        )
    name = VerifierKey.parse(words[0]).name
    # As in the go command: the name becomes part of a URL, here and on every VM.
    if not _NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
        raise ValueError("the key's name is not host[/path]")
    return SumdbSpec(name, words[0], url)


def _check_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("the URL is not http(s)://host[/path]")
    return text.rstrip("/")
