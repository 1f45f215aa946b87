"""Settings: parsing, precedence, origins, and one clear line for each mistake."""

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from goproxy_vm.config import (
    Address,
    File,
    Loaded,
    Settings,
    SumdbSpec,
    environment_name,
    file_of_settings,
    flag_name,
    keys,
    load,
)
from goproxy_vm.config.sumdb import GOOGLE_KEY
from goproxy_vm.config.text import printable, quoted, redacted
from goproxy_vm.errors import ConfigError

HOME = {"CACHE_DIRECTORY": "/var/cache/goproxy-vm"}
VKEY = "sumdb.example.com/log+c4f3b3ee+AXPfXGJwGxyIJC63K5r5U3iESbfgBiPTeQgXyZlJGUj+"
MIB = 1 << 20


def certificate() -> bytes:
    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    start = datetime(2024, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, start, start + timedelta(days=1))
        .sign(key, None)
    )  # fmt: skip
    return made.public_bytes(Encoding.PEM)


def setting(key: str, text: str) -> object:
    """One setting's value, given as a flag."""
    return getattr(load({key: text}, HOME, None).settings, key)


def complaint(**flags: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags, HOME, None)
    assert caught.value.exit_status == 2
    assert caught.value.sentence.isprintable()
    return caught.value.sentence


def from_file(tmp_path: Path, text: str, **flags: str) -> Loaded:
    file = tmp_path / "x.toml"
    file.write_text(text)
    return load(flags, HOME, File(file, "flag --config"))


def file_complaint(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        from_file(tmp_path, text)
    assert caught.value.sentence.isprintable()
    return caught.value.sentence.replace(str(tmp_path), "")


def test_defaults() -> None:
    loaded = load({}, HOME, None)
    assert loaded.settings == Settings(cache_dir=Path("/var/cache/goproxy-vm"))
    assert loaded.warnings == ()
    settings = loaded.settings
    assert settings.listen == (Address("0.0.0.0", 8080),)
    assert settings.admin_listen == Address("127.0.0.1", 8081)
    assert settings.upstream == "https://goproxy.cn|https://proxy.golang.org"
    assert settings.upstream_ca_file is None
    assert settings.offline is False
    assert settings.allow_clients == ()
    assert (settings.deny, settings.nosumdb) == ((), "")
    assert settings.sumdb == SumdbSpec("sum.golang.org", GOOGLE_KEY)
    assert (settings.log_format, settings.log_level) == ("text", "info")
    assert settings.shutdown_timeout == 30
    assert (settings.connect_timeout, settings.stall_timeout, settings.total_timeout) == (10, 30, 1800)
    assert (settings.fresh, settings.stale, settings.negative) == (60, 7 * 86400, 60)
    assert (settings.max_misses, settings.max_client_connections) == (64, 1024)
    assert (settings.send_timeout, settings.max_zip_size) == (60, 500 * MIB)


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text('fresh = "1s"\nstale = "2s"\nnegative = "3s"\n')
    environ = HOME | {"GOPROXY_VM_FRESH": "10", "GOPROXY_VM_STALE": "20s"}
    loaded = load({"fresh": "100s"}, environ, File(file, "flag --config"))
    settings = loaded.settings
    assert (settings.fresh, settings.stale, settings.negative, settings.send_timeout) == (100, 20, 3, 60)
    assert {name: loaded.origins[name].origin for name in ("fresh", "stale", "negative", "send_timeout")} == {
        "fresh": "flag --fresh",
        "stale": "environment variable GOPROXY_VM_STALE",
        "negative": f"file {file}",
        "send_timeout": "default",
    }


def test_empty_variable_is_not_set() -> None:
    loaded = load({}, HOME | {"GOPROXY_VM_UPSTREAM": "", "GOPROXY_VM_LISTEN": ""}, None)
    assert loaded.origins["upstream"].origin == "default"


def test_unknown_variables_are_warned_about() -> None:
    environ = HOME | {
        "GOPROXY_VM_PORT": "tcp://10.0.0.1:8080",
        "GOPROXY_VM_FRESHH": "x",
        "GOPROXY_VM_A\nB": "x",
    }
    assert load({}, environ, None).warnings == (
        'environment variable "GOPROXY_VM_A\\nB" is no setting and is ignored',
        "environment variable GOPROXY_VM_FRESHH is no setting and is ignored; did you mean GOPROXY_VM_FRESH?",
        "environment variable GOPROXY_VM_PORT is no setting and is ignored",
    )


def test_every_key_has_a_flag_and_a_variable() -> None:
    assert flag_name("max_zip_size") == "--max-zip-size"
    assert environment_name("max_zip_size") == "GOPROXY_VM_MAX_ZIP_SIZE"
    assert list(keys()) == list(load({}, HOME, None).origins)


# cache_dir


@pytest.mark.parametrize(
    ("environ", "expected", "origin"),
    [
        ({"CACHE_DIRECTORY": "/var/cache/a:/var/cache/b"}, "/var/cache/a", "default, from $CACHE_DIRECTORY"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/goproxy-vm", "default, from $XDG_CACHE_HOME"),
        ({"XDG_CACHE_HOME": "relative"}, "/home/x/.cache/goproxy-vm", "default"),
        ({}, "/home/x/.cache/goproxy-vm", "default"),
        ({"CACHE_DIRECTORY": "/a", "XDG_CACHE_HOME": "/xdg"}, "/a", "default, from $CACHE_DIRECTORY"),
    ],
)
def test_cache_dir_default(
    environ: dict[str, str], expected: str, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    loaded = load({}, environ, None)
    assert loaded.settings.cache_dir == Path(expected)
    assert loaded.origins["cache_dir"].value == expected
    assert loaded.origins["cache_dir"].origin == origin


def test_cache_dir_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert setting("cache_dir", "store") == tmp_path / "store"
    assert complaint(cache_dir="") == (
        'cache_dir: "" (flag --cache-dir): it is empty; expected a directory\'s path'
    )


def test_cache_dir_without_a_home() -> None:
    assert "no home directory" in complaint(cache_dir="~nobody-of-this-name/x")


# Addresses


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("localhost:0", Address("localhost", 0), "localhost:0"),
        ("10.1.2.3:65535", Address("10.1.2.3", 65535), "10.1.2.3:65535"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80), "[fe80::1%eth0]:80"),
        ("unix:/run/x.sock", Address("", 0, "/run/x.sock"), "unix:/run/x.sock"),
    ],
)
def test_address(text: str, address: Address, shown: str) -> None:
    assert setting("admin_listen", text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "text",
    ["", "8080", ":8080", "host", "host:", "host:65536", "host:http", "::1:80", "[::1]", "[x]:1", "[::1:80",
     "10.0.0.256:80", "10.0.0:80", "a b:80", "-a:80", "unix:", "unix:a\0b", f"unix:/{'x' * 107}",
     "host:８０"],
)  # fmt: skip
def test_address_refused(text: str) -> None:
    sentence = complaint(admin_listen=text)
    assert sentence.startswith(f"admin_listen: {quoted(text)} (flag --admin-listen): ")
    assert sentence.endswith("; expected HOST:PORT, [v6]:PORT or unix:PATH")


def test_listen_takes_a_list_in_any_form(tmp_path: Path) -> None:
    expected = (Address("a", 1), Address("b", 2))
    assert load({"listen": ["a:1", "b:2"]}, HOME, None).settings.listen == expected
    assert load({"listen": ["a:1, b:2,"]}, HOME, None).settings.listen == expected
    assert load({}, HOME | {"GOPROXY_VM_LISTEN": "a:1,b:2"}, None).settings.listen == expected
    loaded = from_file(tmp_path, 'listen = ["a:1", "b:2"]')
    assert loaded.settings.listen == expected
    assert loaded.origins["listen"].value == ["a:1", "b:2"]
    assert from_file(tmp_path, 'listen = "a:1,b:2"').settings.listen == expected
    assert "at least one address is needed" in complaint(listen="")
    assert '"b" has no port' in complaint(listen="a:1,b")


def test_allow_clients() -> None:
    assert setting("allow_clients", "10.0.0.0/8, 192.168.1.7,fd00::/8") == (
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("192.168.1.7/32"),
        ipaddress.ip_network("fd00::/8"),
    )
    assert "host bits set" in complaint(allow_clients="10.0.0.1/8")
    assert complaint(allow_clients="vm1").startswith('allow_clients: "vm1" (flag --allow-clients): ')


# Durations, sizes, numbers, words


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("12h", 43200), ("30d", 2592000), ("1.5h", 5400),
     (" 5 s ", 5)],
)  # fmt: skip
def test_duration(text: str, seconds: float) -> None:
    assert setting("fresh", text) == seconds


@pytest.mark.parametrize("text", ["", "x", "-1", "1ms", "1w", "s", "1.s", ".5", "1e3", "nan", "inf", "１s"])
def test_duration_refused(text: str) -> None:
    assert complaint(fresh=text) == (
        f"fresh: {quoted(text)} (flag --fresh): "
        'expected seconds, or a duration like "90s", "15m", "12h", "30d", 0 for none'
    )


def test_duration_bounds() -> None:
    assert "longer than ten years" in complaint(fresh="3651d")
    assert "it must be more than 0" in complaint(stall_timeout="0s")
    assert complaint(stall_timeout="0").endswith("more than 0")


def test_durations_may_be_numbers_in_the_file(tmp_path: Path) -> None:
    loaded = from_file(tmp_path, "fresh = 90\nstale = 1.5\n")
    assert (loaded.settings.fresh, loaded.settings.stale) == (90, 1.5)
    assert (loaded.origins["fresh"].value, loaded.origins["stale"].value) == (90, 1.5)
    assert "nan" in file_complaint(tmp_path, "fresh = nan")


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("1024B", 1024), ("200MiB", 200 * MIB), ("200 MB", 200_000_000), ("0.4GB", 400_000_000),
     ("1KB", 1000), ("1KiB", 1024), ("500MiB", 500 * MIB)],
)  # fmt: skip
def test_size(text: str, size: int) -> None:
    assert setting("max_zip_size", text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1.5B", "501MiB", "1TB", "1mb", "1M", "MiB", "x"])
def test_size_refused(text: str) -> None:
    assert complaint(max_zip_size=text) == (
        f"max_zip_size: {quoted(text)} (flag --max-zip-size): "
        'expected bytes, or a size like "200MiB", "1.5GB", from 1 to 500MiB'
    )


def test_count(tmp_path: Path) -> None:
    assert setting("max_misses", "7") == 7
    assert from_file(tmp_path, "max_misses = 8").settings.max_misses == 8
    for text in ("", "0", "-1", "1.0", "100001", "x", "９"):
        assert complaint(max_misses=text).endswith("expected a whole number from 1 to 100000")
    assert file_complaint(tmp_path, "max_misses = 8.0").startswith("max_misses: 8.0 (file /x.toml): expected")
    assert file_complaint(tmp_path, "max_misses = true").startswith(
        "max_misses: true (file /x.toml): expected"
    )


def test_boolean(tmp_path: Path) -> None:
    assert [setting("offline", text) for text in ("true", "YES", "1", "false", "no", "0")] == [
        True, True, True, False, False, False,
    ]  # fmt: skip
    loaded = from_file(tmp_path, "offline = true")
    assert loaded.settings.offline is True
    assert loaded.origins["offline"].value is True
    assert from_file(tmp_path, "offline = false").settings.offline is False
    assert complaint(offline="maybe") == 'offline: "maybe" (flag --offline): expected true or false'
    assert file_complaint(tmp_path, "offline = 1") == "offline: 1 (file /x.toml): expected true or false"


def test_choice() -> None:
    assert setting("log_format", "json") == "json"
    assert complaint(log_format="xml") == 'log_format: "xml" (flag --log-format): expected text or json'
    assert complaint(log_level="INFO").endswith("expected debug, info, warning or error")


# Patterns


def test_patterns_keep_gos_text(tmp_path: Path) -> None:
    text = "*.corp.example,github.com/[a-c]?/,,"
    assert setting("nosumdb", text) == text
    assert load({"nosumdb": ["a", "b"]}, HOME, None).settings.nosumdb == "a,b"
    loaded = from_file(tmp_path, 'nosumdb = ["a", "b/*"]')
    assert loaded.settings.nosumdb == "a,b/*"
    assert loaded.origins["nosumdb"].value == ["a", "b/*"]


@pytest.mark.parametrize("text", [r"a\*b", "[a]", "[^a]", "[a-b-]", r"[\]]", "[ab-c]", "a]"])
def test_pattern_well_formed(text: str) -> None:
    # "[a-b-]": the last "-" wants an upper end; all others are fine in path.Match.
    if text == "[a-b-]":
        assert "is malformed" in complaint(nosumdb=text)
    else:
        assert setting("nosumdb", text) == text


@pytest.mark.parametrize("text", ["[", "[]", "[a", "[^]", "[]a]", "[a-]", "[-a]", "a\\", "ok,[x", "[\\"])
def test_pattern_malformed(text: str) -> None:
    assert "is malformed, and would match nothing; expected a list" in complaint(nosumdb=text)


@pytest.mark.parametrize("text", ["a, b", "a\tb", "a\nb", "\x00"])
def test_pattern_with_space(text: str) -> None:
    assert "holds a space or control character" in complaint(nosumdb=text)


# The checksum database


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("off", None),
        ("sum.golang.org", SumdbSpec("sum.golang.org", GOOGLE_KEY)),
        ("sum.golang.google.cn", SumdbSpec("sum.golang.org", GOOGLE_KEY, "https://sum.golang.google.cn")),
        (
            "sum.golang.org https://m.example/x/",
            SumdbSpec("sum.golang.org", GOOGLE_KEY, "https://m.example/x"),
        ),
        (GOOGLE_KEY, SumdbSpec("sum.golang.org", GOOGLE_KEY)),
        (VKEY, SumdbSpec("sumdb.example.com/log", VKEY)),
        (f"{VKEY} http://localhost:1", SumdbSpec("sumdb.example.com/log", VKEY, "http://localhost:1")),
    ],
)
def test_sumdb(text: str, spec: SumdbSpec | None) -> None:
    assert setting("sumdb", text) == spec


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "one word or two are needed"),
        ("a b c", "one word or two are needed"),
        ("sum.example.com", "another database needs its own"),
        ("sum.golang.google.cn https://x.example", "another database needs its own"),
        ("sum.example.com https://x.example", "another database needs its own"),
        ("sum.golang.org ftp://x.example", "the URL is not"),
        ("sum.golang.org https://", "the URL is not"),
        ("sum.golang.org https://x?y", "the URL is not"),
        ("sum.golang.org http://[x", "Invalid IPv6 URL"),
        (VKEY.replace("c4", "c5"), "hash"),
        (VKEY[:-1], "not valid base64"),
        (VKEY.replace("AXPf", "AnPf"), "not an Ed25519 key"),
        (
            "bad/../name+f8e077db+AXPfXGJwGxyIJC63K5r5U3iESbfgBiPTeQgXyZlJGUj+",
            "the key's name is not host[/path]",
        ),
        (
            "bad?name+f7805d51+AXPfXGJwGxyIJC63K5r5U3iESbfgBiPTeQgXyZlJGUj+",
            "the key's name is not host[/path]",
        ),
    ],
)
def test_sumdb_refused(text: str, reason: str) -> None:
    sentence = complaint(sumdb=text)
    assert reason in sentence
    assert sentence.startswith(f"sumdb: {quoted(text)} (flag --sumdb): ")
    assert sentence.endswith("or off")


# upstream and its CA file


def test_check_of_a_part_above() -> None:
    asked = []

    def check(text: str) -> None:
        asked.append(text)
        if text == "bad":
            raise ValueError("a GOPROXY list is expected")

    assert load({}, HOME, None, {"upstream": check}).warnings == ()
    assert load({"upstream": "x,direct"}, HOME, None, {"upstream": check}).settings.upstream == "x,direct"
    with pytest.raises(ConfigError) as caught:
        load({"upstream": "bad"}, HOME, None, {"upstream": check})
    assert caught.value.sentence == 'upstream: "bad" (flag --upstream): a GOPROXY list is expected'
    assert asked == ["https://goproxy.cn|https://proxy.golang.org", "x,direct", "bad"]


def test_upstream_ca_file(tmp_path: Path) -> None:
    assert setting("upstream_ca_file", "") is None
    missing = tmp_path / "none.pem"
    assert "the file cannot be read: No such file" in complaint(upstream_ca_file=str(missing))
    missing.write_text("hello")
    assert "holds no PEM certificates" in complaint(upstream_ca_file=str(missing))
    missing.write_bytes(certificate())
    assert setting("upstream_ca_file", str(missing)) == missing


def test_passwords_are_never_shown(tmp_path: Path) -> None:
    loaded = from_file(tmp_path, 'upstream = "https://me:pw@a.example/x|https://b.example"')
    assert loaded.settings.upstream == "https://me:pw@a.example/x|https://b.example"
    assert loaded.origins["upstream"].value == "https://***@a.example/x|https://b.example"
    for text in ('upstream = ["https://me:pw@a"]', 'upstream = {a = "https://me:pw@a"}'):
        assert "pw" not in file_complaint(tmp_path, text)
    assert "pw" not in complaint(sumdb="sum.golang.org https://me:pw@x?y")
    with pytest.raises(ConfigError) as caught:
        load({"upstream": "https://me:pw@"}, HOME, None, {"upstream": int})
    assert caught.value.sentence.startswith('upstream: "https://***@" (flag --upstream): ')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://a/b|file:///c,off", "https://a/b|file:///c,off"),
        ("https://u:p@a,https://b|http://t@c/d", "https://***@a,https://b|http://***@c/d"),
        ("https://u:p/q?r#s,t|u@a", "https://***@a"),
        ("u:p@a", "***@a"),
    ],
)
def test_redacted(text: str, shown: str) -> None:
    assert redacted(text) == shown


# The file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("freshh = 1", "freshh: no such key (file /x.toml); did you mean fresh?"),
        ("cache-dir = 'x'", "cache-dir: no such key (file /x.toml); did you mean cache_dir?"),
        ("[server]\nlisten = 'x'", "server: no such key (file /x.toml); "),
        ('"a\\nb" = 1', '"a\\nb": no such key (file /x.toml); the keys are listen, '),
        ("fresh = ", "config: /x.toml (flag --config) is not TOML: "),
        ("fresh = 1\nfresh = 2", "config: /x.toml (flag --config) is not TOML: "),
        ("listen = [1]", "listen: [1] (file /x.toml): expected a list of HOST:PORT"),
        ("listen = 1", "listen: 1 (file /x.toml): expected a list of HOST:PORT"),
        ("upstream = ['a', true]", 'upstream: ["a", true] (file /x.toml): expected a GOPROXY list'),
        ("log_level = 2024-01-01", "log_level: 2024-01-01 (file /x.toml): expected debug"),
    ],
)
def test_file_mistakes(tmp_path: Path, text: str, expected: str) -> None:
    assert file_complaint(tmp_path, text).startswith(expected)


def test_file_unreadable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml \(flag --config\) cannot be read: No such file"):
        load({}, HOME, File(tmp_path / "none.toml", "flag --config"))
    file = tmp_path / "bytes.toml"
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load({}, HOME, File(file, "flag --config"))


def test_which_file_is_read(tmp_path: Path) -> None:
    system = tmp_path / "etc.toml"
    home = {"HOME": str(tmp_path)}
    assert file_of_settings(None, home, system) is None
    (tmp_path / ".config").mkdir()
    users = tmp_path / ".config" / "goproxy-vm.toml"
    users.touch()
    assert file_of_settings(None, home, system) == File(users, "default")
    other = tmp_path / "xdg" / "goproxy-vm.toml"
    other.parent.mkdir()
    other.touch()
    xdg = home | {"XDG_CONFIG_HOME": str(other.parent)}
    assert file_of_settings(None, xdg, system) == File(other, "default")
    assert file_of_settings(None, {"XDG_CONFIG_HOME": "relative"}, system) is None
    system.touch()
    assert file_of_settings(None, xdg, system) == File(system, "default", Path("/etc/goproxy-vm.env"))
    named = xdg | {"GOPROXY_VM_CONFIG": "none.toml"}
    found = file_of_settings(None, named, system)
    assert found == File(Path("none.toml"), "environment variable GOPROXY_VM_CONFIG")
    assert load({}, HOME | named, None).warnings == (), "it is no setting, and no mistake either"
    with pytest.raises(ConfigError, match=r"environment variable GOPROXY_VM_CONFIG\) cannot be read"):
        load({}, HOME, found)
    assert file_of_settings(Path("x"), named, system) == File(Path("x"), "flag --config")


def test_the_environment_of_the_service(tmp_path: Path) -> None:
    """What its unit's EnvironmentFile= sets is in force for the commands beside it, too (systemd.exec(5))."""
    system, service = tmp_path / "x.toml", tmp_path / "x.env"
    system.write_text("max_misses = 1\nnegative = 1\nfresh = 1\n")
    file = File(system, "default", service)
    assert load({}, HOME, file).warnings == ()
    service.write_text(
        "# GOPROXY_VM_NEGATIVE=5\n"
        "; GOPROXY_VM_NEGATIVE=5\n"
        "GOPROXY_VM_MAX_MISSES=2\n"
        "  GOPROXY_VM_UPSTREAM = 'https://u:p@corp.example' \n"
        'GOPROXY_VM_FRESH="3"\n'
        "GOPROXY_VM_STALE=\n"
        'GOPROXY_VM_DENY="a\n'
        "GOPROXY_VM_PINS=a, b\n"
        "OTHER=1\n"
        "nonsense\n"
    )
    loaded = load({}, HOME | {"GOPROXY_VM_FRESH": "4"}, file)
    settings = loaded.settings
    assert (settings.max_misses, settings.negative, settings.fresh) == (2, 1.0, 4.0)
    assert (settings.upstream, settings.deny) == ("https://u:p@corp.example", ())
    assert settings.pins == ("a", "b")
    assert loaded.origins["upstream"].origin == f"file {service}"
    assert loaded.warnings == (f"{service}: line 7 is ignored: No closing quotation",)
    service.write_bytes(b"\xff")
    assert "is not UTF-8 text, so what it sets is unknown" in load({}, HOME, file).warnings[0]
    service.unlink()
    service.mkdir()
    assert "cannot be read, so what it sets is unknown here: Is a dir" in load({}, HOME, file).warnings[0]


@pytest.mark.parametrize(
    ("listen", "admin", "clash"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("10.0.0.1:1,0.0.0.0:2", "127.0.0.1:2", True),
        ("10.0.0.1:1", "0.0.0.0:1", True),
        ("[::]:1", "127.0.0.1:1", True),
        ("0.0.0.0:1", "[::1]:1", False),
        ("10.0.0.1:1", "127.0.0.1:1", False),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("unix:/a", "unix:/a", True),
        ("unix:/a", "unix:/b", False),
        ("unix:/a", "127.0.0.1:1", False),
    ],
)
def test_both_listeners_at_one_address(listen: str, admin: str, *, clash: bool) -> None:
    flags = {"listen": listen, "admin_listen": admin}
    if clash:
        assert complaint(**flags).startswith(
            f"admin_listen: {admin} (flag --admin-listen): expected another address than listen, which has "
        )
    else:
        load(flags, HOME, None)


def test_a_pattern_with_a_version() -> None:
    said = complaint(nosumdb="a.example,b.example/c@v1.2.3")
    assert "names a version, but patterns name modules" in said


def test_one_line_whatever_is_typed() -> None:
    text = os.fsdecode(b"\xff\n\x7f\x1b[31m")
    assert complaint(fresh=text).startswith('fresh: "\\udcff\\n\\u007f\\u001b[31m" (flag --fresh): ')
    assert printable("plain é") == "plain é"
    assert printable("a\nb") == '"a\\nb"'


@pytest.mark.parametrize("key", ["deny", "nosumdb"])
@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("https://a.example/b", "has an empty part before a slash"),
        ("/a.example", "has an empty part before a slash"),
        ("a.example//b", "has an empty part before a slash"),
        ("GitHub.com/acme/*", "has a domain in capitals"),
    ],
)
def test_a_pattern_that_no_module_has(key: str, pattern: str, why: str) -> None:
    said = complaint(**{key: f"ok.example,{pattern}"})
    assert f'"{pattern}"{":" if key == "deny" else ""} {why}' in said
    allowed = "rules, each a pattern" if key == "deny" else "Go's module patterns like *.corp.example,"
    assert f"it can match nothing; expected a list of {allowed}" in said


@pytest.mark.parametrize("pattern", ["a.example/", "a.example/B", "[A-Za-z]*.example", r"\A.example", "*.x"])
def test_a_pattern_that_some_module_may_have(pattern: str) -> None:
    assert setting("nosumdb", pattern) == pattern


def test_names_of_clients_are_a_list_or_a_table(tmp_path: Path) -> None:
    expected = load({"client_names": ["10.0.0.7=build-7", "10.1.0.0/24=ci"]}, HOME, None)
    for text in (
        'client_names = {"10.0.0.7" = "build-7", "10.1.0.0/24" = "ci"}',
        '[client_names]\n"10.0.0.7" = "build-7"\n"10.1.0.0/24" = "ci"',
        'client_names = ["10.0.0.7=build-7", "10.1.0.0/24=ci"]',
    ):
        loaded = from_file(tmp_path, text)
        assert loaded.settings == expected.settings
        assert loaded.origins["client_names"].value == ["10.0.0.7=build-7", "10.1.0.0/24=ci"]
    assert from_file(tmp_path, "client_names = {}").settings.client_names.of("10.0.0.7") == ""
    for text, why in (
        ('client_names = {"10.0.0.7" = 7}', "expected a list of NETWORK=NAME"),
        ('client_names = {"10.0.0.7" = "a,b"}', '"b" has no ='),
        ('deny = {"a.b" = "c"}', "expected a list of rules"),
    ):
        with pytest.raises(ConfigError) as caught:
            from_file(tmp_path, text)
        assert why in caught.value.sentence
