"""A module path, a page, a redirect or a name decide whom this host contacts: only those that it may."""

from __future__ import annotations

from pathlib import Path

import pytest

from goproxy_vm.errors import Absent, Denied, GoproxyError, Refused, UpstreamError
from tests.fakes.githttps import Fault, GitServer
from tests.fakes.gitrepos import Repositories
from tests.integration.direct import Bed, bed, failure, fetch, h1, info, listed, zipped

__all__ = ["bed"]  # fixture
pytestmark = pytest.mark.direct

MODULE = "git.corp.test/team/led"
ALLOWED = {"git.corp.test:443", "git.corp.test:22"}


def stayed(bed: Bed) -> None:
    """Nothing but the git server was connected to, nor looked up; and nothing was started."""
    assert set(bed.names.connected) <= ALLOWED
    assert set(bed.names.looked) <= {"git.corp.test"}
    assert not (bed.directory / "pwned").exists()


@pytest.mark.parametrize(
    "path",
    [
        "169.254.169.254/latest",
        "127.0.0.1/x",
        "2130706433/x",
        "0x7f.1/x",
        "10.0.0.5/x.git",
        "localhost/x",
        "metadata/x",
        "git.corp.test:8443/team/root",
        "[::1]/x",
        "git.corp.test@evil.example/x",
        "-oProxyCommand=touch/x.git",
        "git.corp.test/../x",
        "git.corp.test/-x/.git",
    ],
)
@pytest.mark.parametrize("private", [True, False])
async def test_paths_that_name_no_host(bed: Bed, path: str, private: bool) -> None:
    """Whatever the patterns say: they are those of an operator who allows too much."""
    direct = await bed.start(private="*,*/*" if private else "", modules="*")
    error = await failure(direct.source(private=private), f"{path}/@v/list")
    assert error.status in (403, 404)
    assert error.status != 502
    stayed(bed)


PAGES = {
    "another host": "https://elsewhere.example/x.git",
    "another port": "https://git.corp.test:8443/x.git",
    "an address": "https://169.254.169.254/x.git",
    "this host": "https://127.0.0.1/x.git",
    "this host by name": "https://localhost/x.git",
    "plain http": "http://git.corp.test/team/root.git",
    "git's own protocol": "git://git.corp.test/team/root.git",
    "a command": "ext::sh%20-c%20touch%20{pwned}",
    "a command with a scheme": "ext::sh%20-c%20touch%20{pwned}://x",
    "a file": "file://{root}/team/root.git",
    "a path": "{root}/team/root.git",
    "an ssh option": "ssh://-oProxyCommand=touch${{IFS}}{pwned}/x",
    "an ssh option as a user": "ssh://-oProxyCommand=touch${{IFS}}{pwned}@git.corp.test/x",
    "ssh to another host": "ssh://git@elsewhere.example/x.git",
    "ssh to another port": "ssh://git@git.corp.test:2222/x.git",
    "an ssh option as a host": "git+ssh://-oProxyCommand=touch${{IFS}}{pwned}/x",
    "an option of git": "--upload-pack=touch${{IFS}}{pwned}",
    "a user of another host": "https://git.corp.test@elsewhere.example/x.git",
    "ftp": "ftp://git.corp.test/x.git",
}


@pytest.mark.parametrize("name", PAGES)
async def test_pages_that_lead_elsewhere(bed: Bed, name: str) -> None:
    bed.repositories.shape("root")
    url = PAGES[name].format(root=bed.repositories.root, pwned=bed.directory / "pwned")
    bed.server.pages[MODULE] = f"{MODULE} git {url}"
    for host in ("elsewhere.example", "localhost"):
        bed.names.lead(host, 443, 1)
        bed.names.lead(host, 22, 1)
    source = await bed.source()
    error = await failure(source, info(MODULE, "v1.0.0"))
    assert type(error) in (Denied, Refused, UpstreamError, Absent), error.sentence
    assert MODULE in error.sentence
    stayed(bed)
    if name in ("another host", "another port", "an address", "ssh to another host", "ssh to another port"):
        assert type(error) is Denied, error.sentence


@pytest.mark.parametrize(
    "to",
    [
        "https://elsewhere.example/x?go-get=1",
        "http://git.corp.test/team/root?go-get=1",
        "https://169.254.169.254/latest/meta-data",
        "https://127.0.0.1:{port}/",
        "http://127.0.0.1:{port}/",
        "https://localhost:{port}/",
    ],
)
@pytest.mark.parametrize("at", ["page", "repository"])
async def test_redirects_elsewhere(bed: Bed, to: str, at: str) -> None:
    made = bed.repositories.shape("root")
    port = bed.names._ports[bed.names.name("git.corp.test"), 443]
    glob = "*go-get=1" if at == "page" else "*/info/refs*"
    bed.server.on(glob, Fault(302, {"Location": to.format(port=port)}))
    source = await bed.source()
    error = await failure(source, info(made.module, "v1.0.0"))
    assert error.status in (403, 404, 502)
    stayed(bed)
    assert bed.server.count("localhost*") + bed.server.count("127.0.0.1*") == 0
    if "elsewhere" in to:
        assert type(error) is Denied, error.sentence


async def test_redirects_within_a_host_are_followed(bed: Bed) -> None:
    """As after a repository was renamed."""
    made = bed.repositories.shape("root")
    bed.server.pages["git.corp.test/team/root"] = f"{made.module} git https://git.corp.test/old/name.git"
    to = "https://git.corp.test/team/root.git/info/refs?service=git-upload-pack"
    bed.server.on("git.corp.test/old/name.git/info/refs*", Fault(301, {"Location": to}))
    source = await bed.source()
    assert await h1(source, made.module, "v1.0.0")


async def test_a_host_that_an_operator_allows(bed: Bed) -> None:
    bed.repositories.shape("root")
    bed.server.pages[MODULE] = f"{MODULE} git https://files.corp.test/team/root.git"
    await bed.server.listen("files.corp.test", context=bed.authority.server(["files.corp.test"]))
    source = await bed.source()
    assert type(await failure(source, info(MODULE, "v1.0.0"))) is Denied
    other = await bed.start(root=bed.directory / "other", hosts=frozenset({"files.corp.test:443"}))
    assert await fetch(other.source(private=True), info(MODULE, "v1.0.0"))
    await other.close()


@pytest.fixture
async def public(bed: Bed) -> Bed:
    """A bed whose server is one of the whole internet, as ``code.example.com``."""
    repositories = Repositories(bed.directory / "public", "code.example.com")
    server = GitServer(repositories, bed.authority, bed.names, public=True)
    bed.repositories, bed.server = repositories, await bed.stack.enter_async_context(server)
    return bed


async def test_public_modules(public: Bed) -> None:
    made = public.repositories.shape("root")
    direct = await public.start(private="", modules="code.example.com")
    assert await h1(direct.source(private=False), made.module, "v1.0.0")


NOT_GLOBAL = [
    "10.1.2.3",
    "127.0.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "::1",
    "fd00::1",
    "fe80::1",
    "::ffff:10.0.0.1",
    "64:ff9b::a00:1",
    "2002:a00:1::",
]


@pytest.mark.parametrize("address", NOT_GLOBAL)
async def test_public_modules_come_from_public_addresses(public: Bed, address: str) -> None:
    made = public.repositories.shape("root")
    public.names.answers("code.example.com", [address])
    direct = await public.start(private="", modules="*")
    error = await failure(direct.source(private=False), info(made.module, "v1.0.0"))
    assert type(error) is Denied, error.sentence
    assert public.names.connected == []


async def test_a_name_that_changes_its_address(public: Bed) -> None:
    """The address that was looked at is the one that is connected to, each time."""
    made = public.repositories.shape("root")
    good = public.names.name("code.example.com")
    public.names.answers("code.example.com", [good], ["10.1.2.3"], [good, "10.1.2.3"], ["169.254.169.254"])
    direct = await public.start(private="", modules="*")
    await failure(direct.source(private=False), zipped(made.module, "v1.0.0"))
    assert set(public.names.connected) <= {"code.example.com:443"}


async def test_public_modules_of_hosts_that_are_not_listed(public: Bed) -> None:
    made = public.repositories.shape("root")
    direct = await public.start(private="", modules="github.com,gitlab.com")
    error = await failure(direct.source(private=False), listed(made.module))
    assert isinstance(error, Denied | Absent)
    assert public.names.looked == []


async def test_public_modules_use_no_ssh(public: Bed) -> None:
    made = public.repositories.shape("root")
    public.server.pages["code.example.com/led"] = "code.example.com/led git ssh://git@code.example.com/x.git"
    direct = await public.start(private="", modules="code.example.com")
    error = await failure(direct.source(private=False), info("code.example.com/led", "v1.0.0"))
    assert isinstance(error, Denied), error.sentence
    assert "code.example.com:22" not in public.names.connected
    del made


@pytest.mark.parametrize("where", ["repository", "page"])
async def test_public_modules_use_no_credentials(public: Bed, where: str) -> None:
    """Otherwise every VM reads every repository that the host's token can."""
    made = public.repositories.shape("root")
    public.server.users["team/root"] = "me:secret"
    if where == "page":
        public.server.closed_pages.add("team/root")
    home = public.home(netrc="machine code.example.com login me password secret\n")
    (home / ".gitconfig").write_text('[http]\n\textraHeader = "Authorization: Basic bWU6c2VjcmV0"\n')
    direct = await public.start(private="git.corp.test", modules="code.example.com", git_home=home)
    error = await failure(direct.source(private=False), info(made.module, "v1.0.0"))
    assert type(error) is Refused, error.sentence
    assert public.server.requests
    assert {seen.user for seen in public.server.requests} == {""}


async def test_a_public_module_is_not_one_of_a_private_clone(bed: Bed) -> None:
    """A public path that leads to a private repository is not given what was fetched for those who may."""
    made = bed.repositories.shape("root")
    bed.server.users["team/root"] = "me:secret"
    home = bed.home(netrc="machine git.corp.test login me password secret\n")
    await bed.server.listen("code.example.com", context=bed.authority.server(["code.example.com"]))
    bed.names.answers("code.example.com", ["93.184.216.200"])
    bed.names._ports["93.184.216.200", 443] = bed.names._ports[bed.names.name("git.corp.test"), 443]
    bed.server.pages["code.example.com/x"] = "code.example.com/x git https://git.corp.test/team/root.git"
    direct = await bed.start(modules="*", git_home=home)
    assert await h1(direct.source(private=True), made.module, "v1.0.0")
    error: GoproxyError = await failure(direct.source(private=False), info("code.example.com/x", "v1.0.0"))
    assert error.status in (403, 404, 502)
    assert Path(bed.root).is_dir()
