"""How a log has grown, and what that says of a record's age; the heads that a release brings along."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goproxy_vm.protocol.anchors import PAIRS, shipped
from goproxy_vm.protocol.growth import ALL, DAY, EVERY, HOUR, HOURLY, Growth, NotedHead, line, parse

BEGAN = 1_800_000_000.0


def grown(*heads: tuple[int, float]) -> Growth:
    return Growth(NotedHead(size, BEGAN + at) for size, at in heads)


def test_a_record_is_as_old_as_the_first_head_that_has_it() -> None:
    growth = grown((100, 0), (200, DAY), (300, 2 * DAY), (400, 10 * DAY))
    assert growth.logged_before(99) == BEGAN
    assert growth.logged_before(100) == growth.logged_before(199) == BEGAN + DAY
    assert growth.logged_before(400) is None
    assert growth.absent_at(99) is None
    assert growth.absent_at(100) == BEGAN
    assert growth.absent_at(4000) == BEGAN + 10 * DAY
    assert (growth.size, growth.first, growth.last) == (400, BEGAN, BEGAN + 10 * DAY)
    then = BEGAN + 9 * DAY
    assert growth.old_enough(299, 7 * DAY, then)
    assert not growth.old_enough(300, 7 * DAY, then)
    assert not growth.old_enough(99, 7 * DAY, then - 3 * DAY)
    assert (growth.size_at(BEGAN - 1), growth.size_at(BEGAN), growth.size_at(then)) == (0, 100, 300)


def test_of_nothing_nothing_is_known() -> None:
    growth = Growth()
    assert (len(growth), growth.size, growth.first, growth.last) == (0, 0, None, None)
    assert growth.logged_before(0) is None
    assert not growth.old_enough(0, 0.0, BEGAN)


@pytest.mark.parametrize(
    ("size", "at"),
    [
        (100, EVERY),  # no larger
        (50, DAY),  # stale
        (200, -DAY),  # a clock set back
        (200, EVERY - 1),  # too soon
    ],
)
def test_what_tells_nothing_is_not_noted(size: int, at: float) -> None:
    growth = grown((100, 0))
    assert growth.note(size, BEGAN + at) is None
    assert growth.heads == [NotedHead(100, BEGAN)]


def test_a_head_is_noted_no_earlier_than_it_was_there() -> None:
    growth = grown((100, 0))
    assert growth.note(200, BEGAN + DAY + 0.25) == NotedHead(200, BEGAN + DAY + 1)
    assert growth.logged_before(150) == BEGAN + DAY + 1


@pytest.mark.parametrize("wrong", [(100, DAY), (99, DAY), (200, 0), (200, -1), (300, -BEGAN - 1)])
def test_heads_out_of_order_are_refused(wrong: tuple[int, float]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        grown((100, 0), wrong)


steps = st.lists(
    st.tuples(
        st.integers(-5_000, 5_000),  # how the size of the head that comes differs from the largest
        st.floats(-30 * DAY, 30 * DAY),  # how the clock goes on
    ),
    max_size=40,
)


@given(steps, st.integers(0, 60_000), st.floats(0, 30 * DAY), st.floats(-60 * DAY, 400 * DAY))
def test_whatever_is_old_was_in_a_head_noted_that_long_ago(
    steps: list[tuple[int, float]], number: int, least: float, later: float
) -> None:
    """However stale heads are and wherever the clock goes."""
    growth, offered, size, clock = Growth(), [], 20_000, BEGAN
    for more, passed in steps:
        clock = max(0.0, clock + passed)
        size = max(1, size + more)
        growth.note(size, clock)
        offered.append((size, clock))
    now = clock + later
    old = growth.old_enough(number, least, now)
    noted = growth.logged_before(number)
    assert old == (noted is not None and noted <= now - least)
    if old:
        assert any(size > number and at <= now - least for size, at in offered)
    assert all(a.size < b.size and a.at < b.at for a, b in pairwise(growth.heads))


@given(steps, st.integers(0, 60_000), st.floats(0, 30 * DAY))
def test_stale_heads_only_delay(steps: list[tuple[int, float]], number: int, least: float) -> None:
    """Who sees some of the heads, or smaller ones, takes nothing for older than who sees all of them."""
    truth: list[tuple[int, float]] = []
    size, clock = 20_000, BEGAN
    for more, passed in steps:
        clock += abs(passed) + 2 * EVERY
        size += abs(more) + 1
        truth.append((size, clock))
    stale = Growth()
    for size, at in truth:
        stale.note(size - size % 4_000, at)
    whole = Growth(NotedHead(size, at) for size, at in truth)
    for _, now in truth:
        assert whole.old_enough(number, least, now) or not stale.old_enough(number, least, now)


@given(st.lists(st.tuples(st.integers(1, 1_000), st.floats(EVERY, 20 * DAY)), max_size=60), st.data())
def test_thinning_makes_nothing_older(heads: list[tuple[int, float]], data: st.DataObject) -> None:
    whole, size, at = Growth(), 0, BEGAN
    for more, passed in heads:
        size, at = size + more, at + passed + 1
        whole.note(size, at)
    thin = whole.copy()
    thin.thin(data.draw(st.floats(BEGAN, at + 500 * DAY)))
    assert set(thin.heads) <= set(whole.heads)
    assert thin.first == whole.first
    number, least = data.draw(st.integers(0, size + 1)), data.draw(st.floats(0, 30 * DAY))
    assert whole.old_enough(number, least, at) or not thin.old_enough(number, least, at)


def test_years_of_heads_are_few() -> None:
    """What is recent is kept whole, what is old by the hour, and by the day."""
    every, years = HOUR / 6, 3
    count = int(years * 365 * DAY / every)
    growth = Growth(NotedHead(number + 1, BEGAN + number * every) for number in range(count))
    now = BEGAN + count * every
    growth.thin(now)
    assert len(growth) <= ALL / every + HOURLY / HOUR + (years * 365 - 400) + 3
    assert growth.size == count
    recent = [head for head in growth.heads if head.at >= now - ALL]
    assert len(recent) == ALL / every
    left = growth.heads
    growth.thin(now)
    assert growth.heads == left


def test_what_a_clock_noted_that_ran_ahead_can_be_forgotten() -> None:
    growth = grown((100, 0), (200, DAY), (300, 900 * DAY))
    assert growth.forget_after(BEGAN + 2 * DAY)
    assert growth.heads == [NotedHead(100, BEGAN), NotedHead(200, BEGAN + DAY)]
    assert not growth.forget_after(BEGAN + 2 * DAY)
    assert growth.note(300, BEGAN + 3 * DAY) is not None


def test_a_copy_grows_by_itself() -> None:
    growth = grown((100, 0))
    growth.copy().note(200, BEGAN + DAY)
    assert growth.size == 100


# The file


def written(growth: Growth) -> bytes:
    return b"".join(map(line, growth.heads))


def test_the_file_has_a_line_for_each_head() -> None:
    growth = grown((100, 0), (72_421_544, DAY))
    assert written(growth).startswith(b"100 1800000000 ")
    again, torn = parse(written(growth))
    assert (again.heads, torn) == (growth.heads, False)
    assert parse(b"")[0].heads == []


def test_a_torn_line_is_left_out_wherever_it_ends() -> None:
    growth = grown((100, 0), (200, DAY))
    data = written(growth)
    first = len(line(growth.heads[0]))
    for length in range(first + 1, len(data)):
        again, torn = parse(data[:length])
        assert (again.heads, torn) == (growth.heads[:1], True)


def test_no_flipped_bit_is_believed() -> None:
    growth = grown((100, 0), (200, DAY), (300, 2 * DAY))
    data = written(growth)
    last = data.rindex(b"\n")
    for at in range(last):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[at] ^= 1 << bit
            with pytest.raises(ValueError, match=r"damaged|out of order"):
                parse(bytes(flipped))


@pytest.mark.parametrize(
    "data",
    [b"\n", b"100 1800000000\n", b"100 1800000000 00000000\n", b"\xff\xfe\n", b"x\n", b"\0" * 40 + b"\n"],
)
def test_other_content_is_damage(data: bytes) -> None:
    with pytest.raises(ValueError, match="line 1 is damaged"):
        parse(data)


def test_lines_out_of_order_are_damage() -> None:
    data = written(grown((100, 0))) + written(grown((90, DAY)))
    with pytest.raises(ValueError, match="out of order"):
        parse(data)


# What a release brings along


def test_the_anchors_rise_in_both() -> None:
    assert len(PAIRS) >= 70
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(PAIRS))
    growth = shipped()
    assert [(head.size, head.at) for head in growth.heads] == [(n, float(at)) for n, at in PAIRS]


def test_the_anchors_bound_what_was_measured() -> None:
    """A version is no older by them than its commit, and two months younger at most."""
    growth = shipped()
    for number, committed in ((13_576_612, 1_666_193_321), (58_000_000, 1_784_738_409)):
        logged = growth.logged_before(number)
        assert logged is not None
        assert committed < logged < committed + 60 * DAY
    assert growth.logged_before(PAIRS[-1][0]) is None
