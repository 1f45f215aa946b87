"""When a server counts as silent: while somebody waits for it, and not while this host works."""

from __future__ import annotations

from goproxy_vm.upstream.direct.policy import Target
from goproxy_vm.upstream.direct.ticket import PATIENT, Ticket

STALL = 30.0
HOST = "git.corp.test:443"


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def ticket(clock: Clock) -> Ticket:
    target = Target("git.corp.test/m", True, HOST, frozenset({HOST}))
    return Ticket(target, clock, 1 << 30)


def test_who_waits_for_an_answer_waits_so_long() -> None:
    clock = Clock()
    asking = ticket(clock)
    assert not asking.silent(STALL)
    asking.opened(HOST, git=False)
    clock.seconds += STALL - 1
    assert not asking.silent(STALL)
    clock.seconds += 1
    assert asking.silent(STALL)


def test_an_answer_that_breaks_off_is_waited_for_longer() -> None:
    clock = Clock()
    asking = ticket(clock)
    asking.opened(HOST, git=True)
    asking.got(1)
    clock.seconds += PATIENT * STALL - 1
    assert not asking.silent(STALL)
    clock.seconds += 1
    assert asking.silent(STALL)


def test_the_connection_of_the_page_is_idle_once_git_asks() -> None:
    """go keeps it; a large clone takes this host as long as it takes."""
    clock = Clock()
    asking = ticket(clock)
    asking.opened(HOST, git=False)
    asking.got(1)
    asking.opened(HOST, git=True)
    asking.got(1)
    asking.closed(git=True)
    clock.seconds += 100 * STALL
    assert not asking.silent(STALL)
    asking.opened(HOST, git=True)
    clock.seconds += STALL
    assert asking.silent(STALL)


def test_a_host_is_down_whose_first_port_takes_no_connection() -> None:
    asking = ticket(Clock())
    asking.note("denied", HOST)
    asking.note("refused", "git.corp.test:22")
    assert not asking.down
    asking.note("timeout", HOST)
    assert asking.down
    asking.opened(HOST, git=True)  # at another try
    assert not asking.down
