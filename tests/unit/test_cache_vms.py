"""What is known of VMs: how many, in which order, on disk."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from goproxy_vm.cache.facts import Vm
from goproxy_vm.cache.health import Health
from goproxy_vm.cache.layout import Layout
from goproxy_vm.cache.threads import Threads
from goproxy_vm.cache.vms import HEAD, INTERVAL, MOST, NAMED, OTHER, RECENT, KnownVms
from goproxy_vm.protocol.report import VmReport
from tests.fakes.lines import logged

REPORT = VmReport("setup", "go1.26.8", "go1.24.11", "linux", "amd64", 409, 920)


class Pause:
    """Waits until it is told to go on; which waits were asked for."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.paused = asyncio.Event()
        self._on = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        self.paused.set()
        await self._on.wait()
        self._on.clear()

    async def go_on(self) -> None:
        """Let it end, and wait for the next one."""
        self.paused.clear()
        self._on.set()
        await self.paused.wait()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout.at(tmp_path / "cache")
    made.prepare()
    return made


Begin = Callable[[], KnownVms]


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def pause() -> Pause:
    return Pause()


@pytest.fixture
async def begin(layout: Layout, health: Health, pause: Pause) -> AsyncIterator[Begin]:
    """Begin a run of the server."""
    threads = Threads("test", 2)
    yield lambda: KnownVms(layout, threads, health, pause)
    threads.close()


def addresses(vms: KnownVms, limit: int = 1000, cursor: str | None = None) -> list[str]:
    return [vm.address for vm in vms.page(limit, cursor).items]


async def again(begin: Begin) -> KnownVms:
    vms = begin()
    await vms.open()
    return vms


def told(vm: Vm) -> tuple[str, VmReport, float]:
    return vm.address, vm.report, round(vm.seen, 3)


def test_the_latest_report_counts(begin: Begin) -> None:
    vms = begin()
    for n, address in enumerate(["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]):
        vms.seen(address, replace(REPORT, gocache_mib=n))
    assert addresses(vms) == ["10.0.0.1", "10.0.0.3", "10.0.0.2"]
    first = vms.page(1, None).items[0]
    assert first.report.gocache_mib == 3
    assert abs(first.seen - time.time()) < 60


def test_so_many_are_known_and_the_one_seen_least_recently_goes(begin: Begin) -> None:
    vms = begin()
    for n in range(MOST):
        vms.seen(f"10.0.{n >> 8}.{n & 255}", REPORT)
    vms.seen("10.0.0.0", REPORT)
    vms.seen("fd00::1", REPORT)
    page = vms.page(2, None)
    assert ([vm.address for vm in page.items], page.total) == (["fd00::1", "10.0.0.0"], MOST)
    everybody = addresses(vms, MOST)
    assert "10.0.0.1" not in everybody
    assert everybody[-1] == "10.0.0.2"


def test_pages_have_each_vm_once(begin: Begin) -> None:
    vms = begin()
    for n in range(10):
        vms.seen(f"10.0.0.{n}", REPORT)
    found, cursor = [], None
    while True:
        page = vms.page(3, cursor)
        found += [vm.address for vm in page.items]
        assert page.total == 10 + (cursor is not None)
        if page.next_cursor is None:
            break
        if cursor is None:
            vms.seen("10.0.0.99", REPORT)  # before all pages that are still to come
        cursor = page.next_cursor
    assert found == [f"10.0.0.{n}" for n in reversed(range(10))]
    for bad in ("", "x", "-1", "1.0", "٣", "1" * 19, "1\n"):
        with pytest.raises(ValueError, match="none that this server gave"):
            vms.page(3, bad)


def test_what_cannot_be_a_release_has_no_name(begin: Begin) -> None:
    vms = begin()
    for n, go in enumerate(
        ["go1.100", "go1.26.100", "go1.026", "go1.26.08", "go1.26rc0", "go2.1", "go1.26-x"]
    ):
        vms.seen(f"10.0.0.{n}", replace(REPORT, go=go))
    assert vms.releases() == {OTHER: 7}
    for n, go in enumerate(["go1.99", "go1.26.99", "go1.27rc1", "go1.21.0", "go1.20", "go1.9beta2"]):
        vms.seen(f"10.0.1.{n}", replace(REPORT, go=go))
    names = {"1.99", "1.26.99", "1.27rc1", "1.21.0", "1.20", "1.9beta2"}
    assert vms.releases() == {**dict.fromkeys(names, 1), OTHER: 7}


def test_releases_are_bounded(begin: Begin) -> None:
    vms = begin()
    assert vms.releases() == {OTHER: 0}
    for n in range(NAMED + 5):
        vms.seen(f"10.0.0.{n}", replace(REPORT, go=f"go1.26.{n}"))
    for n in range(3):
        vms.seen(f"10.0.1.{n}", replace(REPORT, go="go1.99"))
    vms.seen("10.0.2.1", replace(REPORT, go="devel"))
    vms.seen("10.0.2.2", replace(REPORT, go="other"))
    counted = vms.releases()
    assert len(counted) == NAMED + 1
    assert counted["1.99"] == 3, "those that most VMs have are named"
    assert counted[OTHER] == 6 + 2
    assert sum(counted.values()) == NAMED + 5 + 3 + 2


async def test_who_was_not_seen_lately_does_not_count(begin: Begin, layout: Layout) -> None:
    now = time.time()
    rows = [f"10.0.0.{n} {now - RECENT + late:.3f} {REPORT.query}" for n, late in enumerate([-60, 60])]
    layout.vms.mkdir()
    layout.seen.write_text("\n".join([HEAD, *rows, ""]))
    vms = await again(begin)
    assert vms.page(9, None).total == 2
    assert vms.releases() == {"1.26.8": 1, OTHER: 0}


async def test_a_restart_knows_them_in_their_order(begin: Begin) -> None:
    vms = begin()
    await vms.open()
    for address in ("10.0.0.2", "fd00::7", "unix", "10.0.0.1"):
        vms.seen(address, replace(REPORT, gocache_mib=None))
    await vms.close()
    later = await again(begin)
    assert [told(vm) for vm in later.page(9, None).items] == [told(vm) for vm in vms.page(9, None).items]
    later.seen("fd00::7", REPORT)
    assert addresses(later) == ["fd00::7", "10.0.0.1", "unix", "10.0.0.2"]


async def test_it_is_written_once_an_interval_and_at_the_end(
    begin: Begin, layout: Layout, pause: Pause
) -> None:
    def written() -> list[str]:
        return [row.split()[0] for row in layout.seen.read_text().splitlines()[1:]]

    vms = begin()
    running = asyncio.create_task(vms.run())
    vms.seen("10.0.0.1", REPORT)
    await pause.paused.wait()
    assert written() == ["10.0.0.1"], "the first at once"
    vms.seen("10.0.0.2", REPORT)
    vms.seen("10.0.0.3", REPORT)
    await asyncio.sleep(0)
    assert written() == ["10.0.0.1"]
    await pause.go_on()
    assert written() == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert pause.asked == [INTERVAL] * 2
    vms.seen("10.0.0.1", REPORT)
    running.cancel()
    await asyncio.wait([running])
    assert written()[-1] == "10.0.0.3"
    await vms.close()
    assert written() == ["10.0.0.2", "10.0.0.3", "10.0.0.1"]
    assert not list(layout.tmp.iterdir())
    layout.seen.unlink()
    await vms.close()
    assert not layout.seen.exists(), "nothing new, nothing written"


ROW = f"10.0.0.1 1750000000.000 {REPORT.query}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\xff\xfe",
        HEAD.encode()[:-1],
        b"goproxy-vm vms 2\n",
        f"{ROW}\n".encode(),
        f"{HEAD}\n{ROW} é\n".encode(),
        f"{HEAD}\n".encode() + bytes(5 << 20),
    ],
    ids=range(8),
)
async def test_a_file_that_is_none_is_told_of(
    begin: Begin, layout: Layout, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    layout.vms.mkdir()
    layout.seen.write_bytes(content)
    vms = await again(begin)
    assert addresses(vms) == []
    assert "VMs begun anew" in logged(caplog)
    vms.seen("10.0.0.9", REPORT)
    await vms.close()
    assert addresses(await again(begin)) == ["10.0.0.9"]


@pytest.mark.parametrize(
    "row",
    [
        "x",
        "10.0.0.1 1",
        ROW.replace("10.0.0.1", "vm7.example"),
        ROW.replace("10.0.0.1", "10.0.0.1/8"),
        *(ROW.replace("1750000000.000", bad) for bad in ("nan", "inf", "-1", "1e12", "x", "")),
        ROW.replace("linux", "<b>"),
        f"{ROW} ",
        f"{ROW}\r",
        f"{ROW}&host=x",
    ],
)
async def test_a_row_that_is_none_is_told_of(
    begin: Begin, layout: Layout, row: str, caplog: pytest.LogCaptureFixture
) -> None:
    layout.vms.mkdir()
    layout.seen.write_text("\n".join([HEAD, row, ROW.replace("10.0.0.1", "10.0.0.2"), ""]), newline="")
    assert addresses(await again(begin)) == ["10.0.0.2"]
    assert "rows of VMs passed over" in logged(caplog)


async def test_too_many_rows(begin: Begin, layout: Layout) -> None:
    layout.vms.mkdir()
    rows = [ROW.replace("10.0.0.1", f"10.1.{n >> 8}.{n & 255}") for n in range(MOST + 3)]
    layout.seen.write_text("\n".join([HEAD, *rows, ""]))
    vms = await again(begin)
    assert vms.page(1, None).total == MOST
    assert addresses(vms, MOST)[-1] == "10.1.0.3"


@pytest.mark.parametrize("there", ["directory", "link", "pipe"])
async def test_what_else_stands_there_ends_no_start(
    begin: Begin, layout: Layout, there: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout.vms.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(f"{HEAD}\n{ROW}\n")
    if there == "directory":
        layout.seen.mkdir()
    elif there == "link":
        layout.seen.symlink_to(elsewhere)
    else:
        os.mkfifo(layout.seen)
    vms = await again(begin)
    assert addresses(vms) == []
    assert "VMs begun anew" in logged(caplog)
    vms.seen("10.0.0.9", REPORT)
    await vms.close()
    assert elsewhere.read_text() == f"{HEAD}\n{ROW}\n"


async def test_a_disk_that_fails_shows_and_nothing_is_lost(
    begin: Begin, layout: Layout, health: Health
) -> None:
    layout.vms.write_text("stands in the way")
    vms = await again(begin)
    vms.seen("10.0.0.1", REPORT)
    with pytest.raises(FileExistsError):
        await vms.write()
    assert health.failing("vms")
    with pytest.raises(FileExistsError):
        await vms.retry()
    await vms.close()
    assert not list(layout.tmp.iterdir()), "what was tried does not pile up"
    layout.vms.unlink()
    await vms.retry()
    assert health.writable
    layout.seen.unlink()
    await vms.retry()
    assert not layout.seen.exists(), "nothing has failed, nothing is tried"
    vms.seen("10.0.0.2", REPORT)
    await vms.close()
    assert addresses(await again(begin)) == ["10.0.0.2", "10.0.0.1"]
