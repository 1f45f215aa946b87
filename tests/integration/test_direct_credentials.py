"""Credentials of the host: right, wrong, open to others or missing; and where they never show."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from goproxy_vm.config.mapped import Mapped
from goproxy_vm.errors import Absent, Refused, UpstreamError
from tests.fakes.githttps import Fault
from tests.fakes.gitssh import Key, SshServer
from tests.integration.direct import HOST, Bed, bed, failure, fetch, h1, info, listed, zipped

__all__ = ["bed"]  # fixture
pytestmark = pytest.mark.direct

SECRET = "s3cret-t0ken"
NETRC = f"machine {HOST} login oauth2 password {SECRET}\n"
RIGHT = f"oauth2:{SECRET}"


@pytest.fixture
async def ssh(bed: Bed) -> AsyncIterator[SshServer]:
    """OpenSSH's sshd for the bed's repositories, as git.corp.test:22."""
    async with SshServer(bed.repositories, bed.names, bed.directory / "sshd") as server:
        yield server


# By https.


async def test_a_netrc(bed: Bed) -> None:
    module = bed.repositories.shape("root").module
    bed.server.users["team/root"] = RIGHT
    source = await bed.source(git_home=bed.home(netrc=NETRC))
    assert await h1(source, module, "v1.0.0")
    assert RIGHT in {seen.user for seen in bed.server.requests}


async def test_a_netrc_for_the_page_too(bed: Bed) -> None:
    """As GitLab has it for modules in subgroups."""
    module = bed.repositories.shape("root", "team/sub/group/root").module
    bed.server.users["team/sub/group/root"] = RIGHT
    bed.server.closed_pages.add("team/sub/group/root")
    source = await bed.source(git_home=bed.home(netrc=NETRC))
    assert await h1(source, module, "v1.0.0")


@pytest.mark.parametrize("place", [".gitconfig", ".config/git/config"])
async def test_a_credential_helper(bed: Bed, place: str) -> None:
    module = bed.repositories.shape("root").module
    bed.server.users["team/root"] = RIGHT
    home = bed.home()
    (home / ".git-credentials").write_text(f"https://{RIGHT}@{HOST}\n")
    (home / place).parent.mkdir(parents=True, exist_ok=True)
    (home / place).write_text("[credential]\n\thelper = store\n")
    source = await bed.source(git_home=home)
    assert await h1(source, module, "v1.0.0")


@pytest.mark.parametrize("where", ["repository", "page"])
@pytest.mark.parametrize("netrc", ["", f"machine {HOST} login oauth2 password wrong\n"])
async def test_none_and_wrong_ones(bed: Bed, netrc: str, where: str) -> None:
    module = bed.repositories.shape("root").module
    bed.server.users["team/root"] = RIGHT
    if where == "page":
        bed.server.closed_pages.add("team/root")
    source = await bed.source(git_home=bed.home(netrc=netrc))
    for path in (info(module, "v1.0.0"), zipped(module, "v1.0.0"), listed(module)):
        error = await failure(source, path)
        assert type(error) is Refused, error.sentence
        assert module in error.sentence
        assert "oauth2" not in error.sentence
        assert "wrong" not in error.sentence


async def test_a_host_that_hides_what_one_may_not_see(bed: Bed) -> None:
    """As GitHub and GitLab do: it may be that the credentials do not reach it, and the sentence says so."""
    module = bed.repositories.shape("root").module
    bed.server.users["team/root"] = RIGHT
    bed.server.hidden.add("team/root")
    source = await bed.source(git_home=bed.home(netrc=f"machine {HOST} login me password other\n"))
    error = await failure(source, info(module, "v1.0.0"))
    assert type(error) is Absent
    assert "credentials" in error.sentence


async def test_credentials_go_to_their_own_host_alone(bed: Bed) -> None:
    bed.repositories.shape("root")
    bed.server.users["team/root"] = RIGHT
    await bed.server.listen("files.corp.test", context=bed.authority.server(["files.corp.test"]))
    module = f"{HOST}/team/led"
    bed.server.pages[module] = f"{module} git https://files.corp.test/team/root.git"
    hosts = frozenset({"files.corp.test:443"})
    source = await bed.source(git_home=bed.home(netrc=NETRC), hosts=hosts)
    assert type(await failure(source, info(module, "v1.0.0"))) is Refused
    bed.server.on("git.corp.test/team/root.git/*", Fault(302, {"Location": "https://files.corp.test/x"}))
    await failure(source, info(f"{HOST}/team/root", "v1.0.0"))
    assert {seen.user for seen in bed.server.requests if seen.key.startswith("files")} == {""}


async def test_secrets_are_in_no_command_line_and_no_log(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    """Not while a run goes on, for everybody on the host sees ``ps``; nor in what a failure leaves behind."""
    caplog.set_level(logging.DEBUG)
    module = bed.repositories.shape("root").module
    bed.server.users["team/root"] = RIGHT
    source = await bed.source(git_home=bed.home(netrc=NETRC))
    gate = bed.server.hold("*#fetch")
    asked = asyncio.create_task(fetch(source, info(module, "v1.0.0")))
    other = asyncio.create_task(fetch(source, zipped(module, "v1.1.0")))
    await gate.arrived.wait()
    lines = []
    tokens = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ = (process / "environ").read_bytes()
            if str(bed.root).encode() not in environ:
                continue
            lines.append((process / "cmdline").read_bytes())
            for word in environ.split(b"\0"):
                if word.startswith(b"HTTPS_PROXY="):
                    tokens.add(word.partition(b"://")[2].partition(b"@")[0].partition(b":")[2])
        except OSError:
            continue
    assert len(lines) >= 2
    assert tokens
    for secret in (SECRET.encode(), *tokens):
        assert secret
        assert not any(secret in line for line in lines)
    gate.open()
    told = await asked
    await other
    bed.server.users["team/root"] = "nobody:else"
    error = await failure(source, info(module, "main"))
    said = [str(value) for record in caplog.records for value in record.__dict__.values()]
    assert any(module in text for text in said)
    for text in (told.decode(), error.sentence, *said):
        assert SECRET not in text
        assert not any(token.decode() in text for token in tokens)
    for file in (bed.root / "vcs").rglob("*"):
        if file.is_file() and not file.name.endswith((".pack", ".idx")):
            content = file.read_bytes()
            assert not any(token in content for token in tokens)


async def test_a_user_in_a_page_is_told_nobody(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    """Some pages name a user and a token for the repository: neither logs nor files have them."""
    caplog.set_level(logging.DEBUG)
    module = bed.repositories.shape("root").module
    bed.server.users["team/root"] = RIGHT
    bed.server.pages[module] = f"{module} git https://{RIGHT}@{HOST}/team/root.git"
    source = await bed.source()
    assert SECRET not in (await fetch(source, info(module, "v1.0.0"))).decode()
    assert await h1(source, module, "v1.1.0")
    bed.server.users["team/root"] = "nobody:else"
    error = await failure(source, info(module, "main"))
    assert type(error) is Refused
    assert SECRET not in error.sentence
    said = [str(value) for record in caplog.records for value in record.__dict__.values()]
    assert any(module in text for text in said)
    assert not any(SECRET in text for text in said)


# By ssh.


def mapped(server: SshServer, bed: Bed, home: Path) -> dict[str, object]:
    """Options by which ``git.corp.test/team/*`` comes by ssh."""
    url = server.url("team/{1}")
    return {"repos": (Mapped(f"{HOST}/team/*", url),), "git_home": home, "private": HOST}


async def test_a_key_and_a_repository_that_a_setting_names(bed: Bed, ssh: SshServer) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source(**mapped(ssh, bed, ssh.home(bed.home())))
    assert await h1(source, module, "v1.0.0"), ssh.log()
    assert (await fetch(source, listed(module))).split()[0] == b"v1.0.0"
    assert bed.server.requests == []
    assert ssh.opened


async def test_a_page_that_leads_to_ssh(bed: Bed, ssh: SshServer) -> None:
    module = bed.repositories.shape("root").module
    bed.server.pages[module] = f"{module} git {ssh.url('team/root')}"
    source = await bed.source(git_home=ssh.home(bed.home()))
    assert await h1(source, module, "v1.0.0"), ssh.log()


async def test_another_port(bed: Bed) -> None:
    module = bed.repositories.shape("root").module
    async with SshServer(bed.repositories, bed.names, bed.directory / "sshd", "ssh.corp.test", 2222) as ssh:
        source = await bed.source(**mapped(ssh, bed, ssh.home(bed.home())))
        assert await h1(source, module, "v1.0.0"), ssh.log()


async def test_a_host_of_ones_own_ssh_configuration(bed: Bed, ssh: SshServer) -> None:
    """A key for this host alone, as deploy keys are."""
    module = bed.repositories.shape("root").module
    home = ssh.home(bed.home(), key=Key())
    ssh.key.write(home / ".ssh" / "deploy")
    (home / ".ssh" / "config").write_text(f"Host {HOST}\n\tIdentityFile {home}/.ssh/deploy\n")
    (home / ".ssh" / "config").chmod(0o600)
    source = await bed.source(**mapped(ssh, bed, home))
    assert await h1(source, module, "v1.0.0"), ssh.log()


async def test_a_wrong_key(bed: Bed, ssh: SshServer) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source(**mapped(ssh, bed, ssh.home(bed.home(), key=Key())))
    error = await failure(source, info(module, "v1.0.0"))
    assert type(error) is Refused, error.sentence
    assert module in error.sentence


async def test_a_key_that_others_may_read(bed: Bed, ssh: SshServer) -> None:
    """ssh does not use it."""
    module = bed.repositories.shape("root").module
    source = await bed.source(**mapped(ssh, bed, ssh.home(bed.home(), mode=0o644)))
    error = await failure(source, info(module, "v1.0.0"))
    assert type(error) is Refused, error.sentence


@pytest.mark.parametrize("host", ["changed", "unknown"])
async def test_a_host_key_that_is_not_the_known_one(bed: Bed, ssh: SshServer, host: str) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source(**mapped(ssh, bed, ssh.home(bed.home(), host=host)))
    error = await failure(source, info(module, "v1.0.0"))
    assert type(error) is UpstreamError, error.sentence
    assert "host key" in error.sentence
    assert ssh.asked == []


async def test_a_repository_that_ssh_does_not_have(bed: Bed, ssh: SshServer) -> None:
    source = await bed.source(**mapped(ssh, bed, ssh.home(bed.home())))
    error = await failure(source, info(f"{HOST}/team/nothing", "v1.0.0"))
    assert type(error) is Absent, error.sentence


async def test_what_only_begins_a_named_path_is_not_asked_for(bed: Bed, ssh: SshServer) -> None:
    source = await bed.source(**mapped(ssh, bed, ssh.home(bed.home())))
    for path in (HOST, f"{HOST}/team"):
        assert type(await failure(source, listed(path))) is Absent
    assert bed.names.looked == []
    assert ssh.opened == 0


async def test_the_token_of_a_run_by_ssh_is_in_no_command_line(bed: Bed, ssh: SshServer) -> None:
    module = bed.repositories.shape("root").module
    source = await bed.source(**mapped(ssh, bed, ssh.home(bed.home())))
    seen: list[bytes] = []
    tokens: set[bytes] = set()

    def look() -> None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environ = (process / "environ").read_bytes()
                if str(bed.root).encode() in environ:
                    seen.append((process / "cmdline").read_bytes())
                    for word in environ.split(b"\0"):
                        if word.startswith(b"HTTPS_PROXY="):
                            tokens.add(word.partition(b"://")[2].partition(b"@")[0].partition(b":")[2])
            except OSError:
                continue

    asked = asyncio.create_task(h1(source, module, "v1.0.0"))
    while not asked.done():
        look()
        await asyncio.sleep(0.005)
    await asked
    assert any(line.startswith(b"ssh\0") or b"/ssh\0" in line for line in seen)
    assert tokens
    assert not any(token in line for token in tokens for line in seen)
