"""How the hosts of modules do."""

from __future__ import annotations

from goproxy_vm.errors import UpstreamError
from goproxy_vm.upstream.direct.hosts import Hosts
from goproxy_vm.upstream.direct.judge import Ruling

DOWN = Ruling(UpstreamError, "its host takes no connection")


def test_a_host_that_fails_is_left_alone_for_a_while() -> None:
    now = [100.0]
    hosts = Hosts(lambda: now[0], 30.0)
    assert hosts.trouble("git.corp") is None
    hosts.failed("git.corp", DOWN)
    assert hosts.trouble("git.corp") is DOWN
    assert hosts.trouble("other.corp") is None
    now[0] += 1.5
    assert hosts.trouble("git.corp") is None  # who is told so tries it
    assert hosts.trouble("git.corp") is DOWN
    hosts.succeeded("git.corp")
    assert hosts.trouble("git.corp") is None


def test_what_operators_are_told() -> None:
    hosts = Hosts(lambda: 100.0, 30.0)
    hosts.failed("git.corp:443", DOWN)
    hosts.succeeded("git.corp:2222")
    told = dict(hosts.conditions(["untried.corp:443", "git.corp:443"]))
    assert list(told) == ["untried.corp", "git.corp", "git.corp:2222"]
    assert [each.state for each in told.values()] == ["untried", "backed_off", "ok"]
    assert told["git.corp"].reason == "git.corp: its host takes no connection"
