"""What may pass, and to whom."""

from __future__ import annotations

import base64
from ipaddress import ip_network
from pathlib import Path

import pytest

from goproxy_vm.config import Settings
from goproxy_vm.config.token import MOST_TOKENS, Tokens, private_tokens
from goproxy_vm.config.values import RULES
from goproxy_vm.errors import ConfigError, Denied
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.proxy.asker import Asker
from goproxy_vm.proxy.gate import Gate

TOKEN = "a-token-of-sixteen"
PRIVATE, PUBLIC = "git.corp/team/m", "example.com/m"
NETWORK = (ip_network("10.0.0.0/8"),)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def gate(**settings: object) -> Gate:
    tokens = settings.pop("tokens", None)
    assert tokens is None or isinstance(tokens, Tokens)
    return Gate(Settings(cache_dir=Path("/c"), private="git.corp", **settings), tokens)  # type: ignore[arg-type]


def zipped(module: str) -> Artifact:
    return Artifact.of(module, "v1.0.0", Kind.ZIP)


def admitted(rules: Gate, client: str = "192.0.2.1", authorization: str = "", module: str = PRIVATE) -> bool:
    try:
        rules.admit(module, Asker(client, authorization=authorization))
    except Denied:
        return False
    return True


def test_everyone_where_nothing_is_said() -> None:
    rules = gate()
    assert rules.open
    assert admitted(rules)
    assert not rules.reserved(PRIVATE)
    assert rules.passes(zipped(PRIVATE))


def test_by_network() -> None:
    rules = gate(private_clients=NETWORK)
    assert not rules.open
    assert admitted(rules, "10.1.2.3")
    assert not admitted(rules, "unix"), "whoever connects there has no address"
    assert not admitted(rules)
    assert not admitted(rules, authorization=f"Bearer {TOKEN}")
    assert admitted(rules, module=PUBLIC)
    assert rules.reserved(PRIVATE)
    assert not rules.reserved(PUBLIC)
    assert not rules.passes(zipped(PRIVATE)), "what asks for nobody in particular gets none of it"
    assert rules.passes(zipped(PUBLIC))


@pytest.mark.parametrize(
    ("authorization", "good"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer   {TOKEN}", True),
        (basic("vm", TOKEN), True),
        (basic("", TOKEN), True),
        (basic("vm", f"{TOKEN}x"), False),
        (basic(TOKEN, ""), False),
        ("Basic !!!", False),
        ("Basic é", False),
        (f"Digest {TOKEN}", False),
        (TOKEN, False),
        ("Bearer", False),
        ("", False),
    ],
)
def test_by_token(authorization: str, good: bool) -> None:
    rules = gate(tokens=Tokens([TOKEN, "another-of-sixteen"]))
    assert admitted(rules, authorization=authorization) is good
    assert admitted(rules, module=PUBLIC)


def test_by_either() -> None:
    rules = gate(private_clients=NETWORK, tokens=Tokens([TOKEN]))
    assert admitted(rules, "10.0.0.1")
    assert admitted(rules, authorization=f"Bearer {TOKEN}")
    assert not admitted(rules)


def test_changes() -> None:
    rules = gate(private_clients=NETWORK)
    rules.change(Settings(cache_dir=Path("/c"), private="other", deny=RULES.parse("git.corp/team")), None)
    assert not rules.passes(zipped(PRIVATE))
    with pytest.raises(Denied, match="deny"):
        rules.check(Artifact.of(PRIVATE, "v1.0.0", Kind.MOD))
    rules.change(Settings(cache_dir=Path("/c")), None)
    assert rules.private(PRIVATE), "which modules are private needs a restart"
    assert admitted(rules)


def test_a_file_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"# of the VMs\n\n  {TOKEN}  \nanother-of-sixteen\n")
    path.chmod(0o640)
    tokens = private_tokens(path)
    assert tokens is not None
    assert tokens.admit(f"Bearer {TOKEN}")
    assert tokens.admit("Bearer another-of-sixteen")
    assert not tokens.admit("Bearer # of the VMs")
    assert private_tokens(None) is None


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (None, 0, "cannot be read: No such file"),
        ("short\n", 0o600, "line 1: no token: it is shorter"),
        (f"{TOKEN}\nnot a token, this one\n", 0o600, "line 2: no token"),
        ("# none\n", 0o600, "holds no token"),
        (f"{TOKEN}\n", 0o604, "everyone can read"),
        ("#" * (MOST_TOKENS + 1), 0o600, f"more than {MOST_TOKENS} bytes"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, content: str | None, mode: int, reason: str) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(ConfigError, match="private_tokens_file: ") as caught:
        private_tokens(path)
    assert reason in caught.value.sentence
    assert TOKEN not in caught.value.sentence
