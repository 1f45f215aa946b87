"""Which modules may be fetched from version control, and from where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from goproxy_vm.config.mapped import Mapped
from goproxy_vm.errors import Absent, Denied
from goproxy_vm.upstream.direct.addresses import is_public
from goproxy_vm.upstream.direct.options import Options
from goproxy_vm.upstream.direct.policy import Rules, Target


def rules(**options: Any) -> Rules:
    return Rules(Options(Path("/r"), Path("/go"), **options))


def private(path: str, **options: Any) -> Target:
    return rules(**{"private": "*.corp,git.example.com/team", **options}).target(path, private=True)


@pytest.mark.parametrize(
    "path",
    [
        "10.0.0.5/x",
        "169.254.169.254/latest",
        "127.1/x",
        "0x7f.1/x",
        "localhost/x",
        "1.2.3.4x5.6/x",
        "git.corp:8443/x",
        "[::1]/x",
        "user@git.corp/x",
        "-o.corp-/x",
        ".corp/x",
        "git.corp\n/x",
    ],
)
def test_hosts_without_a_name(path: str) -> None:
    """Even where the patterns allow everything."""
    for each in (True, False):
        with pytest.raises(Denied):
            rules(private="*,*/*", modules="*").target(path, private=each)


def test_only_what_a_pattern_names() -> None:
    assert private("git.corp/x").module == "git.corp/x"
    assert private("git.example.com/team/x").private
    for path in ("git.example.com/other", "corp.example.com/x", "github.com/x/y"):
        with pytest.raises(Denied, match=r"setting private\)"):
            private(path)
    with pytest.raises(Absent, match="setting direct_modules"):
        rules(modules="github.com").target("gitlab.com/x/y", private=False)


def test_what_a_private_module_may_reach() -> None:
    target = private("git.corp/x", hosts=frozenset({"LFS.corp:8443"}))
    for host in ("git.corp:443", "git.corp:22", "lfs.corp:8443"):
        assert target.allows(host)
    for host in ("git.corp:80", "git.corp:8443", "other.corp:443", "sub.git.corp:443", "git.corp.:443", ""):
        assert not target.allows(host)


def test_what_a_public_module_may_reach() -> None:
    target = rules(modules="github.com,gopkg.in/*,git.*.org").target("gopkg.in/yaml.v3", private=False)
    assert target.allows("gopkg.in:443")
    assert target.allows("github.com:443")
    for host in ("gopkg.in:22", "github.com:22", "git.*.org:443", "gitlab.com:443"):
        assert not target.allows(host)
    anywhere = rules(modules="*").target("go.example.org/x", private=False)
    assert anywhere.allows("code.example.net:443")
    for host in ("code.example.net:22", "10.0.0.1:443", "[::1]:443", "localhost:443", "a b.example:443"):
        assert not anywhere.allows(host)


def test_public_modules_do_not_lead_to_hosts_of_private_ones() -> None:
    """By its address alone this host may be told there what others are not to see."""
    options: dict[str, Any] = {
        "private": "git.corp.example,*.lab.example,github.com/acme",
        "hosts": frozenset({"code.corp.example:443", "gitlab.com:443"}),
        "repos": (Mapped("go.corp.example/x", "https://files.corp.example/x.git"),),
    }
    target = rules(**options, modules="*,gitlab.com").target("example.org/x", private=False)
    for host in ("git.corp.example", "a.lab.example", "code.corp.example", "files.corp.example"):
        assert not target.allows(f"{host}:443")
    for host in ("github.com", "gitlab.com", "example.org", "go.example.net"):
        assert target.allows(f"{host}:443")
    own = rules(**options, modules="*").target("code.corp.example/team/secret.git", private=False)
    assert not own.allows("code.corp.example:443")


def test_repositories_that_a_setting_names() -> None:
    repos = (
        Mapped("git.corp/group/*/*", "ssh://git@ssh.corp:2222/{1}/{2}.git"),
        Mapped("git.corp/one", "https://code.corp/one.git"),
    )
    target = private("git.corp/group/a/b/v2", repos=repos)
    assert target.page == ("git.corp/group/a/b", "ssh://git@ssh.corp:2222/a/b.git")
    assert target.first == "ssh.corp:2222"
    assert target.allows("ssh.corp:2222")
    assert target.allows("code.corp:443")
    assert not target.allows("git.corp:443")
    assert private("git.corp/one/sub", repos=repos).page == ("git.corp/one", "https://code.corp/one.git")
    assert private("git.corp/elsewhere", repos=repos).page is None
    for beginning in ("git.corp", "git.corp/group", "git.corp/group/a"):
        with pytest.raises(Absent, match="private_repos"):
            private(beginning, repos=repos)


@pytest.mark.parametrize(
    ("prefix", "url"),
    [
        ("", "https://g.corp/x"),
        ("*/x", "https://g.corp/x"),
        ("g.corp//x", "https://g.corp/x"),
        ("g.corp/*", "https://g.corp/{2}"),
        ("g.corp/*", "https://g.corp/{0}"),
        ("g.corp/*", "https://g.corp/{}"),
        ("g.corp/x", "http://g.corp/x"),
        ("g.corp/x", "git://g.corp/x"),
        ("g.corp/x", "ext::sh -c true"),
        ("g.corp/x", "git@g.corp:x.git"),
        ("g.corp/x", "file:///x"),
        ("g.corp/*", "https://{1}/x"),
        ("g.corp/x", "ssh://-oProxyCommand=x/y"),
        ("g.corp/x", "ssh://-oX@g.corp/y"),
        ("g.corp/x", "https://u:p@g.corp/y"),
        ("g.corp/x", "https://g.corp:0/y"),
        ("g.corp/x", "https://g.corp:port/y"),
        ("g.corp/x", 'https://g.corp/"y'),
        ("g.corp/x", "https://g.corp/y?z"),
    ],
)
def test_mappings_that_cannot_be(prefix: str, url: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Mapped(prefix, url)


def test_hosts_that_patterns_name() -> None:
    assert rules(private="git.corp/a,git.corp/b,*.lab,code.corp").private_hosts == ["git.corp", "code.corp"]


PUBLIC = [
    "93.184.216.34",
    "8.8.8.8",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
    "2002:808:808::1",
]
OTHERS = [
    "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "192.88.99.1",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fd00::1", "fec0::1", "ff02::1", "2001:db8::1", "2001::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::8.8.8.8%lo",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808", "2002:7f00:1::1", "2002:a00:1::",
    "2002:e000:1::", "4000::1", "", "localhost", "8.8.8.8:443", "0x8.8.8.8", "[::1]",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", OTHERS)
def test_addresses_of_nobody_or_of_this_network(address: str) -> None:
    assert not is_public(address)
