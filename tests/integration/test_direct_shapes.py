"""Modules from version control are what the go command makes of them, whatever shape a repository has."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pytest

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol.dirhash import h1_mod
from goproxy_vm.upstream.failure import Failure
from tests.fakes.gitplain import plain_direct
from tests.fakes.gitrepos import SHAPES, Submodule
from tests.integration.direct import Bed, bed, fetch, h1, info, listed, mod, resolved, zipped

__all__ = ["bed"]  # fixture
pytestmark = pytest.mark.direct


def hostile(home: Path) -> Path:
    """A home whose configuration changes what others get of a repository."""
    attributes = home / "attributes"
    attributes.write_text("* export-subst\n*.txt text eol=crlf\nm.go export-ignore\n*.bin filter=lfs\n")
    (home / ".config" / "git").mkdir(parents=True)
    (home / ".config" / "git" / "attributes").write_text(attributes.read_text())
    (home / ".gitconfig").write_text(
        f"[core]\n\tattributesFile = {attributes}\n"
        f"\tautocrlf = true\n\teol = crlf\n\thooksPath = {home}/hooks\n"
        f"\tfsmonitor = touch {home}/pwned\n\tsymlinks = false\n"
        f'[filter "lfs"]\n\tsmudge = touch {home}/pwned\n\tprocess = touch {home}/pwned\n\trequired = true\n'
        "[fetch]\n\trecurseSubmodules = true\n[tar]\n\tumask = 0777\n"
        '[url "https://elsewhere.example/"]\n\tpushInsteadOf = https://git.corp.test/\n'
    )
    (home / "hooks").mkdir()
    for name in ("post-checkout", "reference-transaction", "pre-auto-gc"):
        (home / "hooks" / name).write_text(f"#!/bin/sh\ntouch {home}/pwned\n")
        (home / "hooks" / name).chmod(0o755)
    return home


@pytest.mark.parametrize("shape", SHAPES)
async def test_each_is_what_a_plain_client_gets(bed: Bed, shape: str) -> None:
    made = bed.repositories.shape(shape)
    plain = await plain_direct(bed.names, bed.authority, bed.directory / "plain", made.versions)
    home = hostile(bed.home())
    source = await bed.source(git_home=home)
    assert made.versions
    for module, version in made.versions:
        known = plain[module, version]
        assert not known.error
        assert await h1(source, module, version) == known.zip
        assert h1_mod(await fetch(source, mod(module, version))) == known.mod
        told = json.loads(await fetch(source, info(module, version)))
        assert told["Version"] == version
        assert told["Time"].startswith("2024-01-")
    assert not (home / "pwned").exists()
    assert "elsewhere.example" not in bed.names.looked


async def test_tags_that_are_no_versions_are_not_listed(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    source = await bed.source()
    assert await fetch(source, listed(made.module)) == b"v1.0.0\nv1.1.0\nv1.2.0-rc.1\n"


async def test_retracted_versions_are_listed(bed: Bed) -> None:
    module = bed.repositories.shape("retracted").module
    source = await bed.source()
    assert (await fetch(source, listed(module))).split() == [b"v1.0.0", b"v1.1.0", b"v1.2.0"]
    assert json.loads(await fetch(source, f"{module}/@latest"))["Version"] == "v1.2.0"


async def test_without_tags_the_list_is_empty_and_the_latest_a_commit(bed: Bed) -> None:
    made = bed.repositories.shape("untagged")
    ((module, version),) = made.versions
    source = await bed.source()
    assert await fetch(source, listed(module)) == b""
    assert json.loads(await fetch(source, f"{module}/@latest"))["Version"] == version


async def test_branches_hashes_and_prefixes_are_resolved(bed: Bed) -> None:
    made = bed.repositories.shape("branches")
    (_, main), (_, feature) = made.versions
    source = await bed.source()
    assert await resolved(source, made.module, "main") == main
    assert await resolved(source, made.module, "feature") == feature
    assert await resolved(source, made.module, feature[-12:]) == feature
    assert await resolved(source, made.module, "v1") == "v1.0.0"


async def test_a_path_with_git_in_it(bed: Bed) -> None:
    """No page is asked for: the path says where the repository is."""
    made = bed.repositories.add("team/mod")
    module = "git.corp.test/team/mod.git"
    made.commit({"go.mod": f"module {module}\n", "m.go": "package m\n"}, "v1.0.0")
    source = await bed.source()
    plain = await plain_direct(bed.names, bed.authority, bed.directory / "plain", [(module, "v1.0.0")])
    assert await h1(source, module, "v1.0.0") == plain[module, "v1.0.0"].zip


async def test_a_page_that_leads_to_another_repository_of_an_allowed_host(bed: Bed) -> None:
    """As gopkg.in does."""
    made = bed.repositories.add("real/repository")
    made.commit({"go.mod": "module vanity.corp.test/mod\n", "m.go": "package m\n"}, "v1.0.0")
    await bed.server.listen("vanity.corp.test", context=bed.authority.server(["vanity.corp.test"]))
    bed.server.pages["vanity.corp.test/mod"] = (
        "vanity.corp.test/mod git https://git.corp.test/real/repository.git"
    )
    source = await bed.source(private="vanity.corp.test", hosts=frozenset({"git.corp.test:443"}))
    assert await h1(source, "vanity.corp.test/mod", "v1.0.0")


async def test_what_is_in_capitals(bed: Bed) -> None:
    made = bed.repositories.add("Team/Mod")
    module = "git.corp.test/Team/Mod"
    made.commit({"go.mod": f"module {module}\n", "m.go": "package m\n"}, "v1.0.0-RC1")
    source = await bed.source()
    assert "!team/!mod" in zipped(module, "v1.0.0-RC1")
    assert await h1(source, module, "v1.0.0-RC1")


async def test_all_of_a_version_is_of_one_commit(bed: Bed) -> None:
    """A tag that moves between two requests does not give the .mod of one commit with the zip of another."""
    made = bed.repositories.shape("root")
    source = await bed.source()
    before = await fetch(source, mod(made.module, "v1.0.0"))
    made.repository.retag("v1.0.0", {"go.mod": f"module {made.module}\n\ngo 1.22\n"})
    after = await fetch(source, mod(made.module, "v1.0.0"))
    assert after == before
    archive = await fetch(source, zipped(made.module, "v1.0.0"))
    with zipfile.ZipFile(io.BytesIO(archive)) as zipped_up:
        assert zipped_up.read(f"{made.module}@v1.0.0/go.mod") == before


async def test_submodules_are_not_asked_for(bed: Bed) -> None:
    deps = bed.repositories.add("team/deps")
    tip = deps.commit({"d.go": "package d\n"})
    made = bed.repositories.add("team/with")
    module = "git.corp.test/team/with"
    settings = '[submodule "deps"]\n\tpath = deps\n\turl = https://git.corp.test/team/deps.git\n'
    tree = {"go.mod": f"module {module}\n", "m.go": "package m\n", ".gitmodules": settings}
    made.commit({**tree, "deps": Submodule(tip.hash)}, "v1.0.0")
    source = await bed.source()
    assert await h1(source, module, "v1.0.0")
    assert bed.server.count("*/team/deps*") == 0


async def test_what_is_over_a_limit_is_not_brought(bed: Bed) -> None:
    made = bed.repositories.huge("team/large", 300_000)
    source = await bed.source()
    with pytest.raises(Failure, match="limit") as caught:
        await fetch(source, zipped(made.module, "v1.0.0"), limit=100_000)
    assert isinstance(caught.value.error, ContentError)
