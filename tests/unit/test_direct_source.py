"""The files of runs, where this host does not let them be read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from goproxy_vm.errors import Unavailable
from goproxy_vm.upstream.direct.answer import Found, Kind
from goproxy_vm.upstream.direct.source import DirectSource
from goproxy_vm.upstream.failure import Failure
from goproxy_vm.upstream.sink import Buffer


class Brings:
    """A run that has brought a zip, so it says."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive

    def traffic(self, *, private: bool) -> tuple[int, int]:
        del private
        return 0, 0

    @asynccontextmanager
    async def found(
        self, module: str, query: str, kind: Kind, *, private: bool, client: str
    ) -> AsyncIterator[Found]:
        del module, kind, private, client
        yield Found(query, zip=self._archive)


@pytest.mark.parametrize("there", ["nothing", "a directory"])
async def test_a_zip_that_cannot_be_read(tmp_path: Path, there: str) -> None:
    archive = tmp_path / "m.zip"
    if there == "a directory":
        archive.mkdir()
    with pytest.raises(Failure) as caught:
        await DirectSource(Brings(archive), private=True).fetch("git.corp/m/@v/v1.0.0.zip", Buffer(), 1 << 20)
    assert type(caught.value.error) is Unavailable
    assert str(tmp_path) not in caught.value.error.sentence


async def test_what_a_sink_cannot_do_is_its_own(tmp_path: Path) -> None:
    class Broken(Buffer):
        async def write(self, _chunk: bytes) -> None:
            raise PermissionError

    archive = tmp_path / "m.zip"
    archive.write_bytes(b"x")
    with pytest.raises(PermissionError):
        await DirectSource(Brings(archive), private=True).fetch("git.corp/m/@v/v1.0.0.zip", Broken(), 1 << 20)
