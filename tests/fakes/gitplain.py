"""What the go command makes of a repository with ``GOPROXY=direct`` and nobody between."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fakes.gitnames import ConnectProxy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.fakes.authority import Authority
    from tests.fakes.gitnames import Names


@dataclass(frozen=True)
class Plain:
    """A version as a client without a proxy has it: the h1 of its zip and of its go.mod, and the error in
    place of them."""

    zip: str
    mod: str
    error: str = ""


def go_command() -> Path:
    """The go command; skips the test where there is none."""
    beside = Path(sys.executable).parent / "go"
    found = str(beside) if beside.exists() else shutil.which("go")
    if found is None:
        pytest.skip("go is not installed")
    return Path(found)


async def plain_direct(
    names: Names, authority: Authority, home: Path, asked: Iterable[tuple[str, str]]
) -> dict[tuple[str, str], Plain]:
    """What ``go mod download`` gets of module versions, straight from the servers of a test.

    ``home`` is where it keeps what it makes; it may have a ``.netrc``.
    """
    telemetry = home / ".config" / "go" / "telemetry"
    telemetry.mkdir(parents=True, exist_ok=True)
    (telemetry / "mode").write_text("off\n")  # else each go leaves a process behind for a while
    wanted = list(asked)
    async with ConnectProxy(names) as proxy:
        environment = {
            "PATH": f"{go_command().parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "GOENV": "off",
            "GOPATH": str(home / "go"),
            "GOCACHE": str(home / "cache"),
            "GOFLAGS": "-modcacherw",
            "GOTOOLCHAIN": "local",
            "GOPROXY": "direct",
            "GOSUMDB": "off",
            "GOVCS": "*:git",
            "HTTPS_PROXY": proxy.url,
            "SSL_CERT_FILE": str(authority.certificate),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_SSL_CAINFO": str(authority.certificate),
            "GIT_TERMINAL_PROMPT": "0",
            "LC_ALL": "C",
        }
        process = await asyncio.create_subprocess_exec(
            str(go_command()),
            *("mod", "download", "-json"),
            *(f"{module}@{version}" for module, version in wanted),
            cwd=home,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        printed, complaints = await process.communicate()
    found: dict[tuple[str, str], Plain] = {}
    decoder, text = json.JSONDecoder(), printed.decode()
    while text := text.lstrip():
        answer, end = decoder.raw_decode(text)
        text = text[end:]
        plain = Plain(answer.get("Sum", ""), answer.get("GoModSum", ""), answer.get("Error", ""))
        found[answer["Path"], answer.get("Version", answer.get("Query", ""))] = plain
    assert found or not wanted, complaints.decode()
    return found
