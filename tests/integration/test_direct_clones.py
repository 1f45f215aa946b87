"""Clones that are kept: damaged ones are made anew, and no damage looks like a version that is not there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from goproxy_vm.errors import UpstreamError
from tests.fakes.githttps import Fault
from tests.integration.direct import Bed, bed, failure, fetch, h1, listed, resolved, zipped

__all__ = ["bed"]  # fixture

MIB = 1 << 20


def _files(clone: Path) -> list[Path]:
    found = [path for path in (clone / "objects").rglob("*") if path.is_file()]
    assert found
    return found


def _delete(clone: Path) -> None:
    for path in _files(clone):
        path.unlink()


def _truncate(clone: Path) -> None:
    for path in _files(clone):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:40])


def _flip(clone: Path) -> None:
    for path in _files(clone):
        path.chmod(0o600)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)


def _empty(clone: Path) -> None:
    for path in _files(clone):
        path.chmod(0o600)
        path.write_bytes(b"")


def _clear(clone: Path) -> None:
    shutil.rmtree(clone)
    clone.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "its objects are gone": _delete,
    "its objects are cut": _truncate,
    "its objects are others": _flip,
    "its objects are empty": _empty,
    "its HEAD is empty": lambda clone: (clone / "HEAD").write_text(""),
    "its config is empty": lambda clone: (clone / "config").write_text(""),
    "its config is none": lambda clone: (clone / "config").write_text("[core\nwhat"),
    "its objects' directory is gone": lambda clone: shutil.rmtree(clone / "objects"),
    "it is locked": lambda clone: (clone / "shallow.lock").write_text("x"),
    "its shallow file is none": lambda clone: (clone / "shallow").write_text("what\n"),
    "its refs are none": lambda clone: (clone / "packed-refs").write_text("what\n"),
    "it is empty": _clear,
    "it is gone": shutil.rmtree,
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damaged_clones_heal(bed: Bed, damage: str) -> None:
    """Once for the version that was fetched before, and once for one that was not."""
    made = bed.repositories.shape("branches")
    (_, main), (_, feature) = made.versions
    source = await bed.source()
    known = await h1(source, made.module, main)
    DAMAGES[damage](*bed.clones())
    assert await h1(source, made.module, main) == known
    DAMAGES[damage](*bed.clones())
    assert await h1(source, made.module, feature)
    assert bed.locks() == []


@pytest.mark.parametrize("damage", ["its objects are gone", "its HEAD is empty", "it is locked"])
async def test_lists_and_queries_of_damaged_clones(bed: Bed, damage: str) -> None:
    made = bed.repositories.shape("branches")
    (_, _main), (_, feature) = made.versions
    source = await bed.source()
    assert await fetch(source, listed(made.module)) == b"v1.0.0\n"
    DAMAGES[damage](*bed.clones())
    assert await fetch(source, listed(made.module)) == b"v1.0.0\n"
    DAMAGES[damage](*bed.clones())
    assert await resolved(source, made.module, "feature") == feature
    assert bed.locks() == []


async def test_a_pack_that_breaks_off_leaves_nothing(bed: Bed) -> None:
    """git leaves what it has of it, killed or not: a server that fails often would fill the disk."""
    made = bed.repositories.huge("team/large", MIB, files=200)
    bed.server.on("*/git-upload-pack#fetch", Fault(after=MIB // 2))
    source = await bed.source()
    assert type(await failure(source, zipped(made.module, "v1.0.0"))) is UpstreamError
    assert bed.locks() == []
    assert sum(file.stat().st_size for file in bed.root.rglob("*") if file.is_file()) < MIB // 4


async def test_a_new_tag_is_seen(bed: Bed) -> None:
    made = bed.repositories.shape("root")
    source = await bed.source()
    assert b"v1.3.0" not in await fetch(source, listed(made.module))
    made.repository.commit({"m.go": "package m\n\nconst New = 1\n"}, "v1.3.0")
    assert await h1(source, made.module, "v1.3.0")


async def test_a_clone_without_what_a_retag_named(bed: Bed) -> None:
    """The clone keeps the commit that it saw; without the clone it is another."""
    made = bed.repositories.shape("root")
    direct = await bed.start()
    before = await h1(direct.source(private=True), made.module, "v1.0.0")
    made.repository.retag("v1.0.0", {"m.go": "package m\n\nconst Moved = 1\n"})
    again = (await bed.start()).source(private=True)
    assert await h1(again, made.module, "v1.0.0") == before
    await direct.close()
    shutil.rmtree(bed.root / "vcs")
    third = (await bed.start()).source(private=True)
    assert await h1(third, made.module, "v1.0.0") != before
