"""Who got which zip, as it is noted in memory."""

from __future__ import annotations

from goproxy_vm.ledger.facts import Noted
from goproxy_vm.ledger.notes import FULL, LONGEST, MOST, Notes

ZIP = "example.com/m/@v/v1.0.0.zip"
OTHER = "example.com/m/@v/v1.1.0.zip"


class Full:
    """Counts how often somebody was told that it is time to write."""

    def __init__(self) -> None:
        self.told = 0

    def __call__(self) -> None:
        self.told += 1


def notes(full: Full | None = None) -> Notes:
    """On, ten seconds after the monotonic clock began, in the year 2001."""
    made = Notes(full or Full(), monotonic=lambda: 10.0, wall=lambda: 1_000_000_010.5)
    made.switch(on=True)
    return made


def test_pairs_of_client_and_zip() -> None:
    taken = notes()
    taken.fetched("10.0.0.1", ZIP, 1.0)
    taken.fetched("10.0.0.2", ZIP, 2.0)
    taken.refused("10.0.0.1", ZIP, 3.0)
    taken.fetched("10.0.0.1", ZIP, 4.0)
    taken.refused("10.0.0.1", OTHER, 5.0)
    taken.refused("10.0.0.1", OTHER, 6.0)
    assert len(taken) == 3
    assert taken.take() == [
        Noted("10.0.0.1", ZIP, 1_000_000_001, 1_000_000_004, 2, 1),
        Noted("10.0.0.2", ZIP, 1_000_000_002, 1_000_000_002, 1, 0),
        Noted("10.0.0.1", OTHER, 1_000_000_005, 1_000_000_006, 0, 2),
    ]
    assert taken.take() == []
    assert taken.dropped == 0


def test_it_is_off_at_first_and_may_be_again() -> None:
    taken = Notes(Full())
    taken.fetched("c", ZIP, 1.0)
    taken.refused("c", ZIP, 1.0)
    taken.switch(on=True)
    taken.fetched("c", ZIP, 1.0)
    assert len(taken.take()) == 1
    taken.switch(on=False)
    taken.fetched("c", ZIP, 1.0)
    taken.refused("c", ZIP, 1.0)
    assert (taken.take(), taken.dropped) == ([], 0)


def test_they_are_bounded() -> None:
    full = Full()
    taken = notes(full)
    for n in range(FULL - 1):
        taken.fetched(str(n), ZIP, 1.0)
    assert full.told == 0
    taken.fetched("x", ZIP, 1.0)
    assert full.told == 1
    for n in range(MOST - FULL):
        taken.refused(str(n), OTHER, 1.0)
    assert (len(taken), taken.dropped) == (MOST, 0)
    taken.fetched("y", ZIP, 1.0)
    taken.refused("y", ZIP, 1.0)
    taken.fetched("x", ZIP, 2.0)
    assert (len(taken), taken.dropped, full.told) == (MOST, 2, 1)
    noted = taken.take()
    assert len(noted) == MOST
    assert next(each.count for each in noted if each.client == "x") == 2
    for n in range(FULL):
        taken.fetched(str(n), ZIP, 1.0)
    assert (len(taken), full.told) == (FULL, 2)


def test_a_path_that_no_zip_has() -> None:
    """Whoever is refused says what it is called."""
    taken = notes()
    taken.refused("c", "x" * LONGEST, 1.0)
    taken.refused("c", "y" * (LONGEST + 1), 1.0)
    assert [each.path[0] for each in taken.take()] == ["x"]
