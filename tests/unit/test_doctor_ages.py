"""The doctor's look at the heads that were noted."""

from __future__ import annotations

from pathlib import Path

import pytest

from goproxy_vm.cache.heads import growth_file
from goproxy_vm.cache.layout import Layout
from goproxy_vm.config import Settings
from goproxy_vm.config.sumdb import GOOGLE_NAME
from goproxy_vm.doctor.ages import check_ages
from goproxy_vm.doctor.check import Finding
from goproxy_vm.protocol.growth import DAY, HOUR, NotedHead, line

NOW = 1_800_000_000.0


def looked(tmp_path: Path, data: bytes | None, **given: object) -> Finding:
    settings = Settings(**{"cache_dir": tmp_path, "min_age": 7 * DAY, **given})  # type: ignore[arg-type]  # by name
    file = growth_file(Layout.at(tmp_path), GOOGLE_NAME)
    if data is not None:
        file.parent.mkdir(parents=True)
        file.write_bytes(data)
    return check_ages(settings, lambda: NOW)


def noted(*before: float) -> bytes:
    return b"".join(line(NotedHead(100 + at, NOW - each)) for at, each in enumerate(before))


def test_nothing_is_asked_for(tmp_path: Path) -> None:
    assert looked(tmp_path, b"x\n", min_age=0.0) == Finding("ok", "not asked for: min_age is 0")
    assert looked(tmp_path, None, sumdb=None).status == "ok"


def test_heads_were_noted_lately(tmp_path: Path) -> None:
    found = looked(tmp_path, noted(9 * DAY, 2 * HOUR))
    assert (found.status, found.remedy) == ("ok", "")
    assert found.found.startswith("2 heads of sum.golang.org noted, the last one 2")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "no head of sum.golang.org has been noted yet"),
        (noted(9 * DAY, 49 * HOUR), "what was published since then stays young"),
        (noted(9 * DAY, -HOUR), "the clock ran ahead, or is behind"),
        (b"x\n", "cannot be read: line 1 is damaged"),
    ],
)
def test_what_is_wrong_is_told_with_its_remedy(tmp_path: Path, data: bytes | None, says: str) -> None:
    found = looked(tmp_path, data)
    assert found.status == "warning"
    assert says in found.found
    assert found.remedy
