"""What doctor says of modules from version control."""

from __future__ import annotations

from pathlib import Path

import pytest

from goproxy_vm.config import Settings
from goproxy_vm.config.mapped import Mapped
from goproxy_vm.doctor.check import Finding
from goproxy_vm.doctor.version_control import check_version_control
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
