"""What becomes of each way in which a module from version control cannot be had, with the go of this host."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from goproxy_vm.errors import (
    Absent,
    ContentError,
    Denied,
    GoproxyError,
    Refused,
    UpstreamError,
    UpstreamTimeout,
)
from tests.fakes.authority import Authority
from tests.fakes.githttps import Fault
from tests.fakes.gitrepos import Shape
from tests.integration.direct import Bed, bed, failure, fetch, h1, info, listed, mod, zipped

__all__ = ["bed"]  # fixture
pytestmark = pytest.mark.direct

HONEST = Fault()
BASE = "git.corp.test/team/root"
PAGE = f"{BASE}?go-get=1"
REFS = f"{BASE}.git/info/refs*"
PACK = f"{BASE}.git/git-upload-pack#fetch"


def plainly(error: GoproxyError, module: str) -> None:
    """The sentence is one for people on another host: it names the module, and nothing of this host."""
    assert module in error.sentence
    for raw in ("exit status", "fatal", "/tmp", "/home", "ls-remote", "\n", "http.proxy", "127.0.0.1"):
        assert raw not in error.sentence


@dataclass(frozen=True)
class Row:
    """``at`` has matching requests go wrong by ``fault``; asked for is ``version`` of team/root."""

    error: type[GoproxyError]
    status: int
    at: str = ""
    fault: Fault = HONEST
    path: Callable[[str, str], str] = info
    version: str = "v1.0.0"
    words: str = ""


STATUSES = {
    401: (Refused, 403),
    403: (Refused, 403),
    451: (Refused, 403),
    418: (UpstreamError, 502),
    429: (UpstreamError, 502),
    500: (UpstreamError, 502),
    503: (UpstreamError, 502),
    404: (Absent, 404),
}
ROWS = {
    "a tag that is not there": Row(Absent, 404, version="v1.9.9"),
    "a tag of another major version": Row(Absent, 404, version="v9.9.9"),
    "its zip": Row(Absent, 404, version="v1.9.9", path=zipped),
    "a branch that is not there": Row(Absent, 404, version="nothing"),
    "a hash that is not there": Row(Absent, 404, version="deadbeefdead"),
    "a commit that is not there": Row(Absent, 404, version="v0.0.0-20240101000000-deadbeefdead"),
    "a repository that is not there": Row(Absent, 404, PAGE, Fault(404)),
    "a page that is gone": Row(Absent, 404, PAGE, Fault(410)),
    "a page without a tag": Row(Absent, 404, PAGE, Fault(200, {"Content-Type": "text/html"}, b"<p>hello")),
    "half a pack": Row(UpstreamError, 502, PACK, Fault(after=60)),
    "half a pack, reset": Row(UpstreamError, 502, PACK, Fault(after=60, then="reset")),
    "half an answer about refs": Row(UpstreamError, 502, REFS, Fault(after=20)),
    "an answer that is none": Row(UpstreamError, 502, REFS, Fault(200, {}, b"\0\1\2what?\n" * 9)),
    **{f"its page says {s}": Row(*error, PAGE, Fault(s)) for s, error in STATUSES.items()},
    **{f"it says {status}": Row(*error, REFS, Fault(status)) for status, error in STATUSES.items()},
    **{
        f"its pack says {status}": Row(*STATUSES[status], PACK, Fault(status))
        for status in (403, 429, 500)
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
async def test_each_failure(bed: Bed, name: str) -> None:
    row = ROWS[name]
    made = bed.repositories.shape("root")
    if row.at:
        bed.server.on(row.at, row.fault)
    source = await bed.source()
    error = await failure(source, row.path(made.module, row.version))
    assert type(error) is row.error, error.sentence
    assert error.status == row.status
    plainly(error, made.module)
    bed.server.forget_rules()
    assert bed.locks() == []
    again = await bed.source()  # which does not know what went wrong
    assert await fetch(again, info(made.module, "v1.1.0"))


@dataclass(frozen=True)
class Faulty:
    """What is wrong with a repository's own content, and which of a version's files cannot be had for it."""

    error: type[GoproxyError]
    status: int
    path: Callable[[str, str], str] = zipped
    version: str = "v1.0.0"
    words: str = ""


CONTENT = {
    "newer": Faulty(UpstreamError, 502, words="1.99"),
    "collision": Faulty(ContentError, 502),
    "bad-name": Faulty(ContentError, 502),
    "bad-gomod": Faulty(ContentError, 502),
}


@pytest.mark.parametrize("shape", CONTENT)
async def test_what_is_no_module(bed: Bed, shape: str) -> None:
    row = CONTENT[shape]
    made = bed.repositories.shape(shape)
    source = await bed.source()
    error = await failure(source, row.path(made.module, row.version))
    assert type(error) is row.error, error.sentence
    assert row.words in error.sentence
    plainly(error, made.module)


async def test_a_newer_go_is_needed_for_the_zip_alone(bed: Bed) -> None:
    module = bed.repositories.shape("newer").module
    source = await bed.source()
    assert b"go 1.99" in await fetch(source, mod(module, "v1.0.0"))
    assert b"v1.0.0" in await fetch(source, info(module, "v1.0.0"))


async def test_a_repository_without_a_commit(bed: Bed) -> None:
    module = bed.repositories.shape("empty").module
    source = await bed.source()
    error = await failure(source, listed(module))
    assert isinstance(error, Absent)
    plainly(error, module)


@pytest.mark.parametrize("version", ["v2.0.0", "v1.1.1-0.20230101000000-{}", "v1.2.3-0.20240102000000-{}"])
async def test_a_version_that_does_not_fit(bed: Bed, version: str) -> None:
    """A major version that the path does not say; a pseudo-version of another time, or after no tag."""
    made = bed.repositories.shape("major")
    tip = made.repository.commit({"m.go": "package m\n\nconst Z = 1\n"})
    source = await bed.source()
    error = await failure(source, info(made.module, version.format(tip.short)))
    assert isinstance(error, Absent), error.sentence
    plainly(error, made.module)


async def test_a_prefix_that_is_no_module(bed: Bed) -> None:
    """What the go command asks for on its way to a module."""
    module = bed.repositories.shape("root").module
    source = await bed.source()
    for path in (f"{module}/pkg/inner", "git.corp.test/team", "git.corp.test"):
        error = await failure(source, listed(path))
        assert isinstance(error, Absent | Denied), error.sentence
        plainly(error, path)


def lead(bed: Bed, to: str) -> str:
    """A module whose page leads elsewhere."""
    module = "git.corp.test/team/led"
    bed.server.pages[module] = f"{module} git {to}"
    return module


async def test_a_host_that_has_no_name(bed: Bed) -> None:
    module = lead(bed, "https://nowhere.corp.test/x.git")
    source = await bed.source(hosts=frozenset({"nowhere.corp.test:443"}))
    error = await failure(source, info(module, "v1.0.0"))
    assert type(error) is UpstreamError
    assert "resolved" in error.sentence
    assert "nowhere.corp.test" in bed.names.looked


async def test_a_host_that_takes_no_connection(bed: Bed) -> None:
    bed.names.name("closed.corp.test")
    module = lead(bed, "https://closed.corp.test/x.git")
    source = await bed.source(hosts=frozenset({"closed.corp.test:443"}))
    error = await failure(source, info(module, "v1.0.0"))
    assert type(error) is UpstreamError
    assert "connection" in error.sentence


async def test_the_modules_own_host_has_no_name(bed: Bed) -> None:
    source = await bed.source(private="nowhere.corp.test")
    error = await failure(source, info("nowhere.corp.test/x", "v1.0.0"))
    assert type(error) is UpstreamError
    assert "nowhere.corp.test" in error.sentence


@pytest.mark.parametrize("where", ["page", "repository"])
async def test_a_certificate_of_nobody(bed: Bed, where: str) -> None:
    stranger = Authority(bed.directory / "stranger")
    bed.repositories.shape("root")
    await bed.server.listen("odd.corp.test", context=stranger.server(["odd.corp.test"]))
    if where == "page":
        module = "odd.corp.test/team/root"
    else:
        module = lead(bed, "https://odd.corp.test/team/root.git")
    source = await bed.source(private="*.corp.test", hosts=frozenset({"odd.corp.test:443"}))
    error = await failure(source, info(module, "v1.0.0"))
    assert type(error) is UpstreamError
    assert "certificate" in error.sentence
    plainly(error, module)


async def test_a_certificate_of_another_host(bed: Bed) -> None:
    bed.repositories.shape("root")
    await bed.server.listen("odd.corp.test", context=bed.authority.server(["git.corp.test"]))
    source = await bed.source(private="odd.corp.test")
    error = await failure(source, info("odd.corp.test/team/root", "v1.0.0"))
    assert type(error) is UpstreamError
    assert "certificate" in error.sentence


async def test_a_module_of_another_version_control_system(bed: Bed) -> None:
    module = "git.corp.test/team/hg"
    for system in ("hg", "svn", "bzr", "fossil"):
        bed.server.pages[module] = f"{module} {system} https://git.corp.test/hg"
        source = await bed.source()
        error = await failure(source, info(module, f"v1.0.{len(system)}"))
        assert type(error) is Denied, error.sentence
        plainly(error, module)


async def test_a_failure_of_one_repository_does_not_stop_others_of_its_host(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    other: Shape = bed.repositories.shape("retracted")
    bed.server.on(REFS, Fault(500))
    source = await bed.source()
    assert isinstance(await failure(source, info(made.module, "v1.0.0")), UpstreamError)
    assert await h1(source, other.module, "v1.0.0")


async def test_what_no_pattern_names_is_not_asked_for(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    source = await bed.source(private="git.corp.test/other")
    error = await failure(source, info(made.module, "v1.0.0"))
    assert isinstance(error, Absent | Denied)
    assert bed.names.looked == []
    assert not isinstance(error, UpstreamTimeout)
