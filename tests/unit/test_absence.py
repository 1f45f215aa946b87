"""traffic/absence.py: what is absent is known from one walk along what is kept, and the oldest go."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest

from goproxy_vm.cache import walk
from goproxy_vm.cache.answers import ABSENT, Answers
from goproxy_vm.errors import Absent
from goproxy_vm.traffic import absence
from goproxy_vm.traffic.absence import Absences
from tests.fakes.answers import Walked, open_answers
from tests.fakes.stores import artifact

if TYPE_CHECKING:
    from pathlib import Path


def path(number: int) -> str:
    return f"example.com/m{number}/@v/v1.0.0.info"


def absences(answers: Answers) -> Absences:
    return Absences(60, 3600, answers, time.monotonic)


async def add(kept: Absences, *numbers: int) -> None:
    for number in numbers:
        await kept.add(artifact(path(number)), "not found")


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "MOST", 10)
    monkeypatch.setattr(absence, "TURN", 4)


async def test_the_oldest_go_without_another_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_answers(tmp_path / "x") as answers:
        await add(absences(answers), *range(10))
        walked = Walked(monkeypatch)
        kept = absences(answers)
        await add(kept, 0, *range(10, 100))
        assert walked.walks == 1
        left = await answers.keys(ABSENT)
        assert left is not None
        assert left[-10:] == [ABSENT + path(number) for number in range(90, 100)]
        assert 10 <= len(left) <= 14
        assert [await kept.keeps(path(number)) for number in (0, 50, 99)] == [False, False, True]


async def test_what_is_said_again_is_the_newest(tmp_path: Path) -> None:
    async with open_answers(tmp_path / "x") as answers:
        kept = absences(answers)
        await add(kept, *range(10), 0, *range(10, 15))
        assert await kept.keeps(path(0))
        assert not await kept.keeps(path(1))


async def test_all_who_ask_first_share_a_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_answers(tmp_path / "x") as answers:
        await add(absences(answers), 1)
        walked = Walked(monkeypatch)
        kept = absences(answers)
        assert all(await asyncio.gather(*(kept.keeps(path(1)) for _ in range(20))))
        assert walked.walks == 1


async def test_what_is_said_while_others_go_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it comes to the disk after all that."""
    async with open_answers(tmp_path / "x") as answers:
        kept = absences(answers)
        await add(kept, *range(14))
        waits, goes_on = asyncio.Event(), asyncio.Event()
        store = answers.set

        async def slow(key: str, data: bytes, *, keep: float | None) -> None:
            if key == ABSENT + path(100):
                waits.set()
                await goes_on.wait()
            await store(key, data, keep=keep)

        monkeypatch.setattr(answers, "set", slow)
        adding = asyncio.create_task(add(kept, 100))
        await waits.wait()
        await add(kept, 14)
        assert await kept.keeps(path(14))
        assert await kept.keeps(path(100))
        goes_on.set()
        await adding
        with pytest.raises(Absent):
            await kept.check(path(100))


async def test_a_walk_that_failed_has_not_seen_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    async with open_answers(tmp_path / "x") as answers:
        await add(absences(answers), 1)
        kept = absences(answers)
        with monkeypatch.context() as patch:
            patch.setattr(walk, "every", fail)
            assert not await kept.keeps(path(1))
        assert await kept.keeps(path(1))
