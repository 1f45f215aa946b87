"""What go, git and ssh say, and what it is taken for."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from goproxy_vm import errors
from goproxy_vm.errors import (
    Absent,
    ContentError,
    Denied,
    GoproxyError,
    NoRoom,
    Refused,
    Unavailable,
    UpstreamError,
    UpstreamTimeout,
)
from goproxy_vm.upstream.direct.judge import (
    SAID_MOST,
    UNKNOWN,
    directory_of,
    is_ours,
    judge,
    loggable,
    of_disk,
)

RECORDED = json.loads((Path(__file__).parents[1] / "direct_texts.json").read_text())["texts"]
LS_REMOTE = "git ls-remote -q --end-of-options https://git.corp.test/x.git in $VCS: exit status 128:\n\t"
OTHERS: list[tuple[str, type[GoproxyError], str]] = [
    (
        "Host key verification failed.\n\tfatal: Could not read from remote repository.",
        UpstreamError,
        "host key",
    ),
    ("create zip: write /x/v1.0.0.zip123.tmp: no space left on device", NoRoom, "disk"),
    ("fatal: sha1 file '/x/tmp_obj' write error: No space left on device", NoRoom, "disk"),
    ("remote: fatal: write error: No space left on device", UpstreamError, "log of the proxy"),
    ("git@git.corp.test: Permission denied (publickey).", Refused, "credentials"),
    ("fatal: Authentication failed for 'https://git.corp.test/x.git/'", Refused, "credentials"),
    (
        "fatal: could not read Password for 'https://u@git.corp.test': terminal prompts disabled",
        Refused,
        "cred",
    ),
    ('x: https://git.corp.test/x?go-get=1: unknown vcs "bzr"', Denied, "kept in bzr"),
    ("ERROR: Repository not found.\n\tfatal: Could not read from remote repository.", Absent, "repository"),
    ("fatal: '/srv/x.git' does not appear to be a git repository", Absent, "no such repository"),
    (
        "remote: The project you were looking for could not be found or you don't have permission",
        Absent,
        "repo",
    ),
    ("remote: Cannot find repository with given path", Absent, "no such repository"),
    (
        "fatal: unable to access 'https://g/': server certificate verification failed. CAfile: none",
        UpstreamError,
        "certificate",
    ),
    (
        "fatal: unable to access 'https://g/': SSL certificate problem: self-signed certificate",
        UpstreamError,
        "certificate",
    ),
    ('Get "https://g/x?go-get=1": tls: failed to verify certificate: x509: …', UpstreamError, "certificate"),
    ('x: https fetch: Get "https://evil/x?go-get=1": Forbidden', Denied, "may not contact"),
    ("fatal: unable to access 'https://e/': CONNECT tunnel failed, response 403", Denied, "may not contact"),
    ('Get "https://g/x?go-get=1": net/http: TLS handshake timeout', UpstreamTimeout, "does not answer"),
    ("dial tcp 192.0.2.1:443: i/o timeout", UpstreamTimeout, "does not answer"),
    ("ssh: connect to host g port 22: Connection timed out", UpstreamTimeout, "does not answer"),
    (
        "error: RPC failed; curl 28 Operation too slow. Less than 1 bytes/sec",
        UpstreamTimeout,
        "does not answer",
    ),
    ("fatal error: runtime: out of memory", NoRoom, "direct_max_memory"),
    ("fatal: Out of memory, malloc failed (tried to allocate 157286400 bytes)", NoRoom, "direct_max_memory"),
    ("module source tree too large (max size is 524288000 bytes)", ContentError, "too large"),
    (
        "x@v1.0.0: invalid version: missing git.corp.test/x/go.mod at revision v1.0.0",
        Absent,
        "no such version",
    ),
    (
        'x@v1.0.0: invalid version: go.mod has non-.../v2 module path "x" (and .../v2/go.mod does not exist)',
        Absent,
        "no such version",
    ),
    ("The requested URL returned error: 451", Refused, "answered 451"),
    ("The requested URL returned error: 418", UpstreamError, "answered 418"),
    ("reading https://g/x?go-get=1: 410 Gone", Absent, "no such module"),
    ("something that nobody has seen yet: 404", UpstreamError, "the log of the proxy"),
    ("", UpstreamError, "the log of the proxy"),
]


@pytest.mark.parametrize("row", RECORDED, ids=[f"{row['go'][-1]} {row['asked']}" for row in RECORDED])
def test_recorded_texts(row: dict[str, Any]) -> None:
    ruling = judge(row["text"], [], connected=True, private=True)
    assert ruling.family is getattr(errors, row["error"])
    assert row["words"] in ruling.phrase
    assert not is_ours(row["text"])


@pytest.mark.parametrize(("text", "family", "words"), OTHERS)
def test_other_texts(text: str, family: type[GoproxyError], words: str) -> None:
    for whole in (text, f"x@v1: invalid version: {LS_REMOTE}{text}\n"):
        ruling = judge(whole, [], connected=True, private=True)
        assert ruling.family is family
        assert words in ruling.phrase


def test_what_our_sockets_saw_counts_first() -> None:
    absent = "fatal: repository 'https://git.corp.test/x.git/' not found"
    seen: list[tuple[Any, type[GoproxyError], str]] = [
        (("refused", "git.corp.test:443"), UpstreamError, "its host takes no connection"),
        (("dns", "git.corp.test:443"), UpstreamError, "name of its host cannot"),
        (("timeout", "git.corp.test:22"), UpstreamTimeout, "in time"),
        (("denied", "10.0.0.1:443"), Denied, "private_hosts"),
    ]
    events = []
    for event, family, words in seen:
        assert words in judge(absent, [event], connected=False, private=True).phrase
        events.append(event)
        if event[0] != "timeout":
            assert judge(absent, events, connected=False, private=True).family is family
    assert "10.0.0.1" not in judge(absent, events, connected=False, private=True).phrase
    assert judge(absent, [], connected=False, private=True).family is Absent


def test_of_a_path_with_git_go_hides_what_happened() -> None:
    """It tries https, then ssh: that ssh is not there tells nothing of what https said."""
    text = "git.corp.test/x.git@latest: no secure protocol found for repository"
    refused: list[Any] = [("refused", "git.corp.test:22")]
    assert judge(text, refused, connected=True, private=True).family is Refused
    assert judge(text, refused, connected=False, private=True).family is UpstreamError


def test_only_of_private_modules_credentials_are_told() -> None:
    text = "unknown revision v9.9.9"
    assert "credentials" in judge(text, [], connected=True, private=True).phrase
    assert "credentials" not in judge(text, [], connected=True, private=False).phrase


def test_what_clients_are_told_has_nothing_of_the_text() -> None:
    ruling = judge(
        "requires go >= 1.99 (running go 1.21; GOTOOLCHAIN=local)", [], connected=True, private=True
    )
    failure = ruling.failure("git.corp.test/x@v1.0.0")
    assert failure.error.sentence == "git.corp.test/x@v1.0.0: needs go 1.99 or newer on the proxy's host"
    assert (failure.outcome, failure.counts, failure.passing) == ("unavailable", False, False)
    said = judge("/secret/path failed: https://u:p@host/", [], connected=True, private=True)
    assert said is UNKNOWN


@pytest.mark.parametrize(
    ("family", "outcome"),
    [
        (Absent, "not_found"),
        (Refused, "refused"),
        (Denied, "refused"),
        (UpstreamTimeout, "timeout"),
        (ContentError, "content"),
        (UpstreamError, "unavailable"),
        (NoRoom, "unavailable"),
    ],
)
def test_outcomes(family: type[GoproxyError], outcome: str) -> None:
    found = [judge(text, [], connected=True, private=True) for text, each, _ in OTHERS if each is family]
    assert {ruling.outcome for ruling in found} == {outcome}


@pytest.mark.parametrize(
    "text",
    [
        "x@v1.1.0: invalid version: unknown revision refs/tags/v1.1.0",
        "git fetch …: exit status 128:\n\tfatal: not a git repository: '/c/vcs/ab'",
        "git remote add origin: error: remote origin already exists.",
        "fatal: Unable to create '/c/vcs/ab/shallow.lock': File exists.",
        "fatal: shallow file has changed since we read it",
        "fatal: bad object HEAD",
        "error: object file /c/vcs/ab/objects/12/34 is corrupt",
        "git fetch …: exit status 128:\n\tfatal: 'origin' does not appear to be a git repository",
        "fatal: bad config line 1 in file config",
        "git -c core.eol=lf archive --format=zip 1234 in /run/cache/vcs/"
        + "ab" * 32
        + ": exit status 255:\n\terror",
        "error: file /c/vcs/ab/objects/pack/p.pack is too short to be a packfile",
    ],
)
def test_damages_of_our_own_clone(text: str) -> None:
    assert is_ours(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("git ls-remote -q origin in /run/cache/vcs/" + "ab" * 32 + ": exit status 128:\n\tfatal", ()),
        ("git -c protocol.version=2 fetch -f in /c/vcs/" + "ab" * 32 + ": exit status 128:\n\tfatal", ()),
        ("git archive 12 in /c/vcs/" + "ab" * 32 + ": exit status 128:\n\tfatal: Out of memory", ()),
        ("git.corp.test/corrupt@v9.9.9: unknown revision v9.9.9", ("git.corp.test/corrupt", "v9.9.9")),
        (
            "git.corp.test/x@corrupt: invalid version: unknown revision corrupt",
            ("git.corp.test/x", "corrupt"),
        ),
        ("git fetch: exit status 1:\n\tremote: fatal: packed object is corrupt\n\tfatal: early EOF", ()),
        ("git ls-remote: exit status 128:\n\tfatal: remote error: bad object\nshallow file has changed", ()),
    ],
)
def test_what_others_can_have_said_is_no_damage(text: str, names: tuple[str, ...]) -> None:
    """A VM chooses names, and a server what it says: neither is to make us fetch everything again."""
    assert not is_ours(text, *names)


def test_which_clone_a_run_used() -> None:
    """go says it before what git has printed, and that may be a server's words."""
    ours, others = "ab" * 32, "cd" * 32
    lies = f"fatal: remote error: git x in /r/cache/vcs/{others}: exit status 1\n{others} https://git.corp.test/y"
    text = f"git.corp.test/x@v1: git fetch -f origin in /r/1/cache/vcs/{ours}: exit status 128:\n\t{lies}"
    assert directory_of(text) == ours
    assert directory_of(f"git.corp.test/vcs/{others}@v1: unknown revision v1") == ""


def test_the_log_has_no_secret_and_no_length() -> None:
    said = loggable("fatal: 'https://oauth2:s3cret@git.corp.test/x.git'\n\n\tnot found")
    assert said == "fatal: 'https://***@git.corp.test/x.git' not found"
    long = loggable("begin " + "x" * 10_000 + " end")
    assert len(long) <= SAID_MOST
    assert long.startswith("begin")
    assert long.endswith("end")


def test_what_fails_of_the_disk() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        assert of_disk(OSError(number, "full")).family is NoRoom
    assert of_disk(PermissionError(errno.EACCES, "no")).family is Unavailable
