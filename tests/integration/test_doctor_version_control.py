"""What doctor says of modules from version control."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from goproxy_vm.config import Settings
from goproxy_vm.config.mapped import Mapped
from goproxy_vm.doctor.check import Finding
from goproxy_vm.doctor.version_control import MOST_ASKED, check_version_control
from tests.integration.direct import HOST, Bed, bed

__all__ = ["bed"]


async def look(bed: Bed, **settings: object) -> Finding:
    cache = bed.directory / "cache"
    cache.mkdir(exist_ok=True)
    given: dict[str, object] = {
        "private": HOST,
        "upstream_ca_file": bed.authority.certificate,
        "connect_timeout": 2.0,
    }
    return await check_version_control(
        Settings(cache_dir=cache, **(given | settings)),  # type: ignore[arg-type]
        {},
        bed.names.roads,
    )


async def test_nothing_to_look_at(bed: Bed) -> None:
    found = await look(bed, private="")
    assert (found.status, found.found[:9]) == ("ok", "not used:")
    assert "not used" not in (await look(bed, private="", upstream="https://a.test,direct")).found


async def test_healthy(bed: Bed) -> None:
    bed.repositories.shape("root")
    bed.server.users["team/root"] = "me:s3cret"
    home = bed.home(netrc=f"machine {HOST} login me password s3cret\n")
    repos = (Mapped(f"{HOST}/team/root", f"https://{HOST}/team/root.git"),)
    found = await look(bed, git_home=home, private_repos=repos)
    assert found.status in ("ok", "warning"), found
    assert f"{HOST}/team/root can be read" in found.found
    assert f"{HOST}:443 takes connections" in found.found
    assert f"{home} is closed to others" in found.found
    assert "s3cret" not in found.found


async def test_each_thing_that_is_missing(bed: Bed, tmp_path: Path) -> None:
    repos = (Mapped(f"{HOST}/team/none", f"https://{HOST}/team/none.git"),)
    found = await look(bed, private_repos=repos)
    assert found.status == "failed"
    assert f"{HOST}/team/none" in found.found
    assert "private_repos" in found.remedy

    found = await look(bed, private="nowhere.corp.test")
    assert (found.status, "its name cannot be resolved" in found.found) == ("failed", True)
    found = await look(bed, private_hosts=frozenset({f"{HOST}:22"}))
    assert (found.status, f"{HOST}:22: it takes no connection" in found.found) == ("failed", True)
    found = await look(bed, go=tmp_path / "none")
    assert (found.status, "go: " in found.found) == ("failed", True)


@pytest.mark.parametrize(
    ("mode", "file", "words"),
    [
        (0o755, None, "is open to others"),
        (0o700, ".netrc", "can be read by others"),
        (0o700, "", "known_hosts"),
    ],
)
async def test_what_is_wrong_with_a_home(bed: Bed, mode: int, file: str | None, words: str) -> None:
    home = bed.home(netrc="machine a login b password c\n")
    home.chmod(mode)
    if file:
        (home / file).chmod(0o644)
    repos = (Mapped(f"{HOST}/*", f"ssh://git@{HOST}/{{1}}"),)
    bed.names.lead(HOST, 22, 1)
    found = await look(bed, git_home=home, private_repos=repos)
    assert found.status == "failed"
    assert words in found.found


async def test_a_certificate_that_is_not_trusted(bed: Bed) -> None:
    found = await look(bed, upstream_ca_file=None)
    assert (found.status, f"{HOST}:443: its certificate is not trusted" in found.found) == ("failed", True)
    assert "upstream_ca_file" in found.remedy


async def test_a_server_that_speaks_no_tls(bed: Bed) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-none\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        bed.names.lead("ssh.corp.test", 443, server.sockets[0].getsockname()[1])
        found = await look(bed, private="ssh.corp.test")
        repos = (Mapped("ssh.corp.test/*", "ssh://git@ssh.corp.test:443/{1}"),)
        by_ssh = await look(bed, private="ssh.corp.test", private_repos=repos)
    assert (found.status, "ssh.corp.test:443: it does not speak TLS" in found.found) == ("failed", True)
    assert "ssh.corp.test:443 takes connections" in by_ssh.found


@pytest.mark.parametrize("private", ["", HOST])
async def test_a_file_of_tokens_with_which_no_server_starts(bed: Bed, tmp_path: Path, private: str) -> None:
    file = tmp_path / "tokens"
    file.write_text("short\n")
    file.chmod(0o600)
    found = await look(bed, private=private, private_tokens_file=file)
    assert (found.status, "line 1: no token" in found.found) == ("failed", True)


async def test_more_hosts_than_are_asked(bed: Bed) -> None:
    hosts = [f"h{number}.corp.test" for number in range(MOST_ASKED + 2)]
    found = await look(bed, private=",".join(hosts))
    assert "2 more hosts are not asked" in found.found
