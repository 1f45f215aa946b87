"""Kinds of values: how a setting's text becomes a value, and the words for what is allowed.

Every parser takes the text as it stands in a flag, an environment variable or the file, and raises
ValueError. The error's words, if any, are a reason; what is allowed is said by the form itself.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from goproxy_vm.config.address import Address, parse_address, parse_url
from goproxy_vm.config.clients import ClientNames, parse_client_names
from goproxy_vm.config.goversion import parse_go_version
from goproxy_vm.config.mapped import Mapped, parse_hosts, parse_mapped
from goproxy_vm.config.sumdb import SumdbSpec, parse_sumdb
from goproxy_vm.config.text import MASKED, quoted
from goproxy_vm.config.vulndb import parse_vulndb
from goproxy_vm.protocol.names import check_pattern
from goproxy_vm.protocol.policy import Rule
from goproxy_vm.protocol.selector import normalize

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
"""A network of client addresses."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Form(Generic[_T]):
    """The form of one kind of value.

    ``parse`` turns text into the value or raises ValueError; ``allowed`` says what it takes, for error
    texts, help and docs; ``metavar`` stands for the value in the help; ``native`` are the types that
    the TOML file may use instead of text; a form of which there may be ``many`` is also a list in the
    file, a repeatable flag, and in text its items are separated by commas.
    """

    parse: Callable[[str], _T]
    allowed: str
    metavar: str
    native: tuple[type, ...] = ()
    many: bool = False


def items(text: str) -> list[str]:
    """The items of a comma-separated text, without spaces around them and without empty ones."""
    return [item for item in (part.strip() for part in text.split(",")) if item]


def _addresses(text: str) -> tuple[Address, ...]:
    found = tuple(parse_address(item) for item in items(text))
    if not found:
        raise ValueError("at least one address is needed")
    return found


def _networks(text: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(item) for item in items(text))


def _globs(text: str) -> tuple[str, ...]:
    globs = tuple(items(text))
    for glob in globs:
        try:
            normalize(glob)
        except ValueError as error:
            raise ValueError(f"{quoted(glob)} is malformed: {error}") from None
    return globs


def _patterns(text: str) -> str:
    for pattern in text.split(","):
        if "@" in pattern:
            raise ValueError(
                f"{quoted(pattern)} names a version, but patterns name modules: it can match nothing"
            )
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise ValueError(f"{quoted(pattern)} {error}") from None
    return text


def _rules(text: str) -> tuple[Rule, ...]:
    rules = []
    for item in items(text):
        try:
            rules.append(Rule.parse(item))
        except ValueError as error:
            raise ValueError(f"{quoted(item)}: {error}") from None
    return tuple(rules)


_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST = 3650 * 86400.0
"""Seconds in the longest duration: ten years."""


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > LONGEST:
        raise ValueError("it is longer than ten years")
    return seconds


_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(?:([KMGT])(i?)B|B?)")
_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}


def _bytes(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if not match or (match[2] is None and "." in match[1]):
        raise ValueError
    unit = (1024 if match[3] else 1000) ** _POWERS[match[2]] if match[2] else 1
    # Whole numbers stay exact: a float has no room for the last bytes of a large one.
    return int(match[1]) * unit if "." not in match[1] else round(float(match[1]) * unit)


@dataclass(frozen=True, slots=True)
class Amount:
    """Room on a file system: ``bytes``, ``percent`` of its size, or the smaller of both."""

    bytes: int | None
    percent: float | None

    def of(self, total: int) -> int:
        """Bytes, on a file system of ``total`` bytes."""
        share = total if self.percent is None else int(total * self.percent / 100)
        return share if self.bytes is None else min(self.bytes, share)


_PERCENT = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*%")


def _percent(text: str) -> float:
    match = _PERCENT.fullmatch(text)
    if not match or float(match[1]) > 100:
        raise ValueError(f"{quoted(text)} is neither a size nor a percentage")
    return float(match[1])


_WHOLE = re.compile(r"[0-9]{1,18}")


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
    except KeyError:
        raise ValueError from None


def _directory(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("it is empty")
    return _path(text)


def _ca_file(text: str) -> Path | None:
    if not text:
        return None
    path = _path(text)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        raise ValueError("the file holds no PEM certificates") from None
    except OSError as error:
        raise ValueError(f"the file cannot be read: {error.strerror}") from None
    return path


def _file(text: str) -> Path | None:
    if "\0" in text:
        raise ValueError("it holds a NUL")
    return _path(text) if text else None


_TOKEN = re.compile(r"[!-~]{1,1024}", re.ASCII)
SHORTEST_TOKEN = 16
"""Characters of the shortest token: one that is short can be found by trying."""


def token(text: str) -> str:
    """A token as a header can carry it; empty for none. Raises ValueError, which does not repeat it."""
    if text == MASKED:
        raise ValueError("it is what config show prints instead of it")
    if text and not _TOKEN.fullmatch(text):
        raise ValueError("it holds a space or another character that no header carries, or is too long")
    if 0 < len(text) < SHORTEST_TOKEN:
        raise ValueError(
            f"it is shorter than {SHORTEST_TOKEN} characters: openssl rand -hex 32 makes a good one"
        )
    return text


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError:
        raise ValueError("there is no home directory to put in place of ~") from None


def duration(*, positive: bool) -> Form[float]:
    """Seconds; zero only where the setting makes sense without waiting or keeping."""

    def parse(text: str) -> float:
        seconds = _seconds(text)
        if positive and not seconds:
            raise ValueError("it must be more than 0")
        return seconds

    least = ", more than 0" if positive else ", 0 for none"
    return Form(
        parse, f'seconds, or a duration like "90s", "15m", "12h", "30d"{least}', "DURATION", (int, float)
    )


def bounded_duration(least: float, most: float) -> Form[float]:
    """Seconds within bounds."""

    def parse(text: str) -> float:
        seconds = _seconds(text)
        if not least <= seconds <= most:
            raise ValueError
        return seconds

    return Form(
        parse, f'seconds, or a duration like "30s", from {least:g}s to {most:g}s', "DURATION", (int, float)
    )


def count(least: int, most: int) -> Form[int]:
    """A whole number within bounds."""

    def parse(text: str) -> int:
        if not _WHOLE.fullmatch(text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return Form(parse, f"a whole number from {least} to {most}", "N", (int,))


def size(least: int, most: int, most_text: str) -> Form[int]:
    """Bytes within bounds."""

    def parse(text: str) -> int:
        if not least <= _bytes(text) <= most:
            raise ValueError
        return _bytes(text)

    return Form(
        parse, f'bytes, or a size like "200MiB", "1.5GB", from {_plain(least)} to {most_text}', "SIZE", (int,)
    )


def _plain(count: int) -> str:
    """Bytes as somebody would write them: ``64KiB``, ``1``."""
    power = 0
    while count and count % 1024 == 0:
        count, power = count // 1024, power + 1
    return f"{count}{('', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


SCRUB_RATE = size(1 << 16, 1 << 34, "16GiB")
"""Bytes a second that a scrub may read, by the setting and by who orders one: fewer would take for ever."""


def amount(least: int, least_text: str) -> Form[Amount]:
    """Bytes or a share of the file system, or both, of which the smaller counts."""

    def parse(text: str) -> Amount:
        sizes: list[int] = []
        shares: list[float] = []
        for item in items(text):
            try:
                sizes.append(_bytes(item))
            except ValueError:
                shares.append(_percent(item))
        if len(sizes) > 1 or len(shares) > 1 or not sizes + shares:
            raise ValueError("one size, one percentage, or one of each are needed")
        if any(size < least for size in sizes) or (least and 0.0 in shares):
            raise ValueError(f"it is less than {least_text}")
        return Amount(next(iter(sizes), None), next(iter(shares), None))

    return Form(
        parse,
        f'a size like "200GB", "1.5TiB", a share of the file system like "80%", or both, as in "50GB,50%",'
        f" of which the smaller counts; at least {least_text}",
        "SIZE|%",
        (int,),
    )


def share(least: float, most: float) -> Form[float]:
    """A percentage within bounds, with or without its sign."""

    def parse(text: str) -> float:
        number = _percent(text.strip() if "%" in text else f"{text.strip()}%")
        if not least <= number <= most:
            raise ValueError
        return number

    return Form(parse, f"a percentage from {least:g} to {most:g}", "PERCENT", (int, float))


def choice(*texts: str) -> Form[str]:
    """One of a few words."""

    def parse(text: str) -> str:
        if text not in texts:
            raise ValueError
        return text

    return Form(parse, f"{', '.join(texts[:-1])} or {texts[-1]}", "|".join(texts))


def _text(text: str) -> str:
    return text


GO_VERSION: Form[str] = Form(
    parse_go_version, "a Go version like 1.26.8, or 1.26.8+auto for that or newer ones, or nothing", "VERSION"
)
UPSTREAMS: Form[str] = Form(
    _text,
    "a GOPROXY list of http(s):// and file:/// URLs, separated by comma or |, that may end in direct or off",
    "LIST",
)
"""Only text here: ``upstream`` is above this floor, and checks it (see ``load``'s checks)."""
BOOLEAN: Form[bool] = Form(_boolean, "true or false", "BOOL", (bool,))
ADDRESS: Form[Address] = Form(parse_address, "HOST:PORT, [v6]:PORT or unix:PATH", "ADDR")
ADDRESSES: Form[tuple[Address, ...]] = Form(
    _addresses, "a list of HOST:PORT, [v6]:PORT or unix:PATH", "ADDR", many=True
)
NETWORKS: Form[tuple[Network, ...]] = Form(
    _networks, "a list of networks like 10.0.0.0/8, 192.168.1.7 or fd00::/8", "CIDR", many=True
)
PATTERNS: Form[str] = Form(
    _patterns, "a list of Go's module patterns like *.corp.example,github.com/acme/*", "PATTERNS", many=True
)
RULES: Form[tuple[Rule, ...]] = Form(
    _rules,
    "a list of rules, each a pattern like GOPRIVATE's or MODULE@VERSIONS, like "
    "github.com/acme/*,github.com/x/y@v1.2.3,github.com/x/y@>=v1.2.0 <v1.2.7",
    "RULES",
    many=True,
)
GLOBS: Form[tuple[str, ...]] = Form(
    _globs,
    "a list of globs over module@version like github.com/acme/*,golang.org/toolchain@*",
    "GLOB",
    many=True,
)
REPOSITORIES: Form[tuple[Mapped, ...]] = Form(
    lambda text: parse_mapped(items(text)),
    "a list of PREFIX=URL like git.corp.example/*/*=ssh://git@git.corp.example/{1}/{2}.git",
    "PREFIX=URL",
    many=True,
)
CLIENT_NAMES: Form[ClientNames] = Form(
    lambda text: parse_client_names(items(text)),
    "a list of NETWORK=NAME like 10.0.0.7=build-7,10.1.0.0/24=ci, or a table of them in the file",
    "NETWORK=NAME",
    native=(dict,),
    many=True,
)
HOSTS: Form[frozenset[str]] = Form(
    lambda text: parse_hosts(items(text)), "a list of HOST:PORT", "HOST:PORT", many=True
)
DIRECTORY: Form[Path] = Form(_directory, "a directory's path", "DIR")
CA_FILE: Form[Path | None] = Form(_ca_file, "a readable file of PEM certificates, or nothing", "FILE")
URL: Form[str] = Form(parse_url, "http(s)://HOST[:PORT][/PATH], or nothing", "URL")
VULNDB: Form[str] = Form(
    lambda text: parse_vulndb(text, parse_url),
    "http(s)://HOST[:PORT][/PATH], file:///DIRECTORY or off",
    "URL",
)
FILE: Form[Path | None] = Form(_file, "a file's path, or nothing", "FILE")
HOME: Form[Path | None] = Form(_file, "a directory's path, or nothing", "DIR")
TOKEN: Form[str] = Form(token, "16 to 1024 visible ASCII characters, or nothing", "TOKEN")
SUMDB: Form[SumdbSpec | None] = Form(
    parse_sumdb,
    'GOSUMDB\'s forms: sum.golang.org, sum.golang.google.cn, VKEY, "VKEY URL", "NAME URL" or off',
    "VALUE",
)
