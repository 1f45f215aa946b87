"""The first hit of a stored file waits for no thread, as far as the kernel need not wait for a disk."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from goproxy_vm.cache import memory, reading, recency
from goproxy_vm.cache.reader import Reader
from tests.fakes.modules import build_zip
from tests.fakes.wire import Wire, until
from tests.integration.test_budget import large_zip

if TYPE_CHECKING:
    from tests.fakes.upstream import FakeUpstream
    from tests.integration.conftest import Host, Serve

SIZES = (100, 60_000, 100_000, 3_000_000)
"""Bytes of zips: read at once, kept open, sent in several parts."""


def paths(upstream: FakeUpstream, count: int = 3) -> list[str]:
    """Files of every kind and size, all different."""
    found = []
    for number in range(count):
        for size in SIZES:
            name = f"example.com/Wide{size}/m{number}"
            upstream.add_module(name, "v1.0.0", zipped=large_zip(name, size))
            escaped = name.replace("W", "!w")
            found += [f"/{escaped}/@v/v1.0.0.{kind}" for kind in ("mod", "zip")]
    return found


async def again(serve: Serve, upstream: FakeUpstream, names: list[str]) -> Host:
    """A server that was started when these were stored, and remembers what is on record of them."""
    first = await serve(upstream, prefetch=False)
    for name in names:
        assert (await first.get(name)).body == upstream.files[name]
    await first.server.stop()
    host = await serve(upstream, prefetch=False)
    store = host.server.store
    await until(lambda: all(store.remembers(name[1:]) for name in names))
    return host


async def test_no_thread_is_asked(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = paths(upstream)
    host = await again(serve, upstream, names)
    asked: set[str] = set()
    submit = ThreadPoolExecutor.submit

    def counted(executor: ThreadPoolExecutor, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        def noting() -> Any:
            asked.add(threading.current_thread().name.removeprefix("goproxy-vm ").rpartition("_")[0])
            return function(*args, **kwargs)

        return submit(executor, noting)

    async with Wire(host.server.url) as wire:
        monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
        for name in names:
            wire.ask(name.replace("!", "%21") if "m1" in name else name)
            assert (await wire.answer()).body == upstream.files[name]
    assert not asked & {"hits", "lookups", "answer-reader", "answer-lookups"}


@pytest.mark.parametrize("cold", ["open_beneath", "preadv"])
async def test_a_cold_disk_is_waited_for_by_a_thread(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch, cold: str
) -> None:
    """Meanwhile another file is answered."""
    names = paths(upstream, 1)
    host = await again(serve, upstream, names)
    warm, *others = names
    assert (await host.get(warm)).status == 200
    waits, goes_on = threading.Event(), threading.Event()
    opened = reading.tree.opened

    def slowly(file: Path, top: Path) -> int:
        waits.set()
        assert goes_on.wait(30)
        return opened(file, top)

    def waiting(*_: object) -> int:
        raise BlockingIOError

    if cold == "open_beneath":
        monkeypatch.setattr(reading, "open_beneath", lambda *_, **__: None)
        monkeypatch.setattr(reading.tree, "opened", slowly)
    else:
        monkeypatch.setattr(os, "preadv", waiting)
        waits.set()
        goes_on.set()
    asking = [asyncio.create_task(host.get(name)) for name in others]
    await until(waits.is_set)
    assert (await host.get(warm)).status == 200
    goes_on.set()
    for name, got in zip(others, await asyncio.gather(*asking), strict=True):
        assert got.body == upstream.files[name]


@pytest.mark.parametrize("change", ["gone", "longer", "shorter", "a link", "a directory", "a pipe"])
async def test_a_file_that_is_not_as_on_record_is_fetched_again(
    serve: Serve, upstream: FakeUpstream, change: str, tmp_path: Path
) -> None:
    names = [name for name in paths(upstream, 1) if name.endswith("zip")]
    host = await again(serve, upstream, names)
    for name in names:
        file = host.settings.cache_dir / "modules" / name[1:]
        content = file.read_bytes()
        file.unlink()
        if change == "longer":
            file.write_bytes(content + b"x")
        elif change == "shorter":
            file.write_bytes(content[:-1])
        elif change == "a link":
            (tmp_path / "beside").write_bytes(content)
            file.symlink_to(tmp_path / "beside")
        elif change == "a directory":
            file.mkdir()
        elif change == "a pipe":
            os.mkfifo(file)
    for name in names:
        got = await host.get(name)
        assert (got.status, got.body) == (200, upstream.files[name])
    assert upstream.count("*.zip") == 2 * len(names)


async def test_what_waits_for_a_look_up_is_looked_up_together(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [name for name in paths(upstream, 5) if name.endswith("mod")]
    host = await again(serve, upstream, names)
    store = host.server.store
    store.core.memory.forget_all()
    jobs: list[int] = []
    look_all = Reader.look_all

    def counted(reader: Reader, questions: Any) -> Any:
        jobs.append(len(questions))
        return look_all(reader, questions)

    monkeypatch.setattr(Reader, "look_all", counted)
    wires = [await Wire(host.server.url).__aenter__() for _ in names]
    try:
        for wire, name in zip(wires, names, strict=True):
            wire.ask(name)
        for wire, name in zip(wires, names, strict=True):
            assert (await wire.answer()).body == upstream.files[name]
    finally:
        for wire in wires:
            await wire.__aexit__(None, None, None)
    assert sum(jobs) == len(names)
    assert len(jobs) < len(names)


async def test_hits_of_very_many_files_are_written_down_before_their_time(
    serve: Serve, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "TOUCHES", 4)
    monkeypatch.setattr(recency, "TOGETHER", 2)
    names = paths(upstream, 1)
    host = await again(serve, upstream, names)
    before = {name: _hits(host, name) for name in names}
    for name in names:
        assert (await host.get(name)).status == 200
    for name in names[:4]:
        async with asyncio.timeout(30):
            while _hits(host, name) == before[name]:
                await asyncio.sleep(0.01)


def _hits(host: Host, name: str) -> int:
    """As they are written down."""
    with closing(sqlite3.connect(host.settings.cache_dir / "index.db")) as index:
        return int(index.execute("SELECT hits FROM files WHERE path = ?", (name[1:],)).fetchone()[0])


def test_a_zip_is_as_large_as_it_says() -> None:
    assert len(build_zip("m", "v1.0.0", {"x": b"x"})) < SIZES[1] < 64 << 10 < SIZES[2]
