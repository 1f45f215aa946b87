"""The one table of settings: each field of :class:`Settings` is a key, with all that is known about it.

Flags, environment variables, the file, ``config show`` and the docs all follow from it.
"""

# ruff: noqa: RUF009 (_key returns a field, which dataclass takes apart; nothing is shared)

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from goproxy_vm.config import values
from goproxy_vm.config.address import Address
from goproxy_vm.config.clients import ClientNames
from goproxy_vm.config.mapped import Mapped
from goproxy_vm.config.sumdb import SumdbSpec
from goproxy_vm.config.values import Amount, Form, Network
from goproxy_vm.protocol.policy import Rule

_T = TypeVar("_T")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Key:
    """What is known about one setting.

    ``default`` is text as one would type it; where ``computed``, it describes in words what ``load``
    finds in the environment. The text of a ``secret`` one may hold passwords: they are never shown. A
    ``hidden`` one is a password: nothing of it is shown, and it has no flag, for flags show in ``ps``.
    """

    form: Form[Any]
    default: str
    help: str
    secret: bool = False
    computed: bool = False
    hidden: bool = False


def _key(form: Form[_T], default: str, help_: str, *, secret: bool = False, hidden: bool = False) -> _T:
    key = Key(form, default, help_, secret, hidden=hidden)
    return field(default_factory=lambda: form.parse(default), metadata={"key": key})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, parsed. Durations are seconds, sizes bytes.

    ``Settings(cache_dir=…)`` has the defaults everywhere else.
    """

    listen: tuple[Address, ...] = _key(
        values.ADDRESSES,
        "0.0.0.0:8080",
        "where VMs connect; port 0 lets the system choose",
    )
    public_url: str = _key(
        values.URL,
        "",
        "the URL by which VMs reach this server, where it is another than http:// and the host they ask",
    )
    admin_listen: Address = _key(
        values.ADDRESS, "127.0.0.1:8081", "where metrics, health and the admin API are served; no VM needs it"
    )
    admin_token: str = _key(
        values.TOKEN, "", "what a request to the admin API must bring; empty for one from a file", hidden=True
    )
    admin_token_file: Path | None = _key(
        values.FILE,
        "",
        "a file that holds the admin API's token; empty for admin.token in the cache directory, made at the "
        "first start",
    )
    cache_dir: Path = field(
        metadata={
            "key": Key(
                values.DIRECTORY,
                "$CACHE_DIRECTORY, else $XDG_CACHE_HOME/goproxy-vm, else ~/.cache/goproxy-vm",
                "where everything is stored; one server owns it",
                computed=True,
            )
        }
    )
    upstream: str = _key(
        values.UPSTREAMS,
        "https://goproxy.cn|https://proxy.golang.org",
        "where modules come from: a GOPROXY list, where after a comma the next is asked on 404 and 410 only, "
        "after | on any failure",
        secret=True,
    )
    upstream_ca_file: Path | None = _key(
        values.CA_FILE, "", "certificates to trust for upstreams and version control, besides the system's"
    )
    offline: bool = _key(values.BOOLEAN, "false", "serve what is stored, never ask an upstream")
    allow_clients: tuple[Network, ...] = _key(
        values.NETWORKS, "", "networks whose clients may ask; empty for everyone"
    )
    trusted_proxies: tuple[Network, ...] = _key(
        values.NETWORKS,
        "",
        "reverse proxies whose X-Forwarded-For, -Proto and -Host are believed; empty for none",
    )
    deny: tuple[Rule, ...] = _key(
        values.RULES, "", "modules, and versions of modules, that are refused with 403"
    )
    allow: tuple[Rule, ...] = _key(
        values.RULES, "", "modules, and versions of modules, that alone are given; empty for all"
    )
    sumdb: SumdbSpec | None = _key(
        values.SUMDB, "sum.golang.org", "the checksum database, as in GOSUMDB", secret=True
    )
    nosumdb: str = _key(
        values.PATTERNS, "", "modules that the checksum database does not know, as in GONOSUMDB"
    )
    vulndb: str = _key(
        values.VULNDB,
        "off",
        "the Go vulnerability database that is mirrored under /vulndb/ and held against what is stored, such "
        "as https://vuln.go.dev",
    )
    min_age: float = _key(
        values.duration(positive=False),
        "0s",
        "how long ago a version must have been published, provably, before VMs may have it; 0 for any",
    )
    min_age_exempt: tuple[Rule, ...] = _key(
        values.RULES,
        "golang.org/toolchain",
        "modules, or versions of them, that VMs may have at any age",
    )
    min_age_unproven: str = _key(
        values.choice("time", "refuse"),
        "time",
        "what counts for versions published after this release and before the first start, whose age nothing "
        "proves: time, that of their commit; refuse, nothing",
    )
    min_age_private: bool = _key(
        values.BOOLEAN,
        "false",
        "have min_age count for modules that the checksum database is not asked about, from when they are "
        "first seen here",
    )
    private: str = _key(
        values.PATTERNS,
        "",
        "modules that are fetched from version control alone, with this host's credentials, as patterns like "
        "GOPRIVATE's; no proxy and no checksum database hears of them",
    )
    private_clients: tuple[Network, ...] = _key(
        values.NETWORKS, "", "networks whose clients may have private modules; empty for all that may ask"
    )
    private_tokens_file: Path | None = _key(
        values.FILE,
        "",
        "a file of tokens, one a line, of which a request for a private module must bring one",
    )
    private_repos: tuple[Mapped, ...] = _key(
        values.REPOSITORIES, "", "where modules are whose server tells nothing of their repositories"
    )
    private_hosts: frozenset[str] = _key(
        values.HOSTS,
        "",
        "what private modules may lead to, besides their own host and those of private_repos",
    )
    git_home: Path | None = _key(
        values.HOME,
        "",
        "a directory with .netrc, .gitconfig and .ssh for private modules; it must be ours alone",
    )
    go: Path | None = _key(
        values.FILE, "", "the go command that fetches from version control; empty for the one on PATH"
    )
    direct_modules: str = _key(
        values.PATTERNS,
        "github.com,gitlab.com,bitbucket.org",
        "public modules that direct in upstream may fetch from version control",
    )
    direct_processes: int = _key(values.count(1, 1000), "4", "fetches from version control at a time")
    direct_max_memory: int = _key(
        values.size(64 * _MIB, 1 << 40, "1TiB"),
        "2GiB",
        "how much memory each process of a fetch from version control may use",
    )
    direct_max_size: int = _key(
        values.size(_MIB, 1 << 40, "1TiB"),
        "2GiB",
        "how much disk repositories may use, and what one fetch may receive",
    )
    direct_timeout: float = _key(
        values.duration(positive=True), "10m", "how long one fetch from version control may take"
    )
    vm_go: str = _key(
        values.GO_VERSION,
        "",
        "the Go version of all VMs that setup.sh or install.sh sets up; empty for what each go.mod asks for",
    )
    ledger: str = _key(
        values.choice("off", "hashed", "on"),
        "on",
        "whether it is noted which client got which zip: hashed means without the addresses",
    )
    ledger_keep: float = _key(
        values.duration(positive=True), "90d", "how long it is known that a client got a version"
    )
    ledger_rows: int = _key(
        values.count(1000, 100_000_000),
        "2000000",
        "pairs of client and version that are known at most; those asked for least recently go first",
    )
    client_names: ClientNames = _key(
        values.CLIENT_NAMES, "", "what clients are called where the ledger is shown"
    )
    prefetch: bool = _key(values.BOOLEAN, "true", "fetch zips that VMs are about to ask for")
    fast_path: bool = _key(values.BOOLEAN, "true", "answer hits by a short cut in front of the HTTP library")
    access_log: str = _key(
        values.choice("off", "misses", "all"),
        "misses",
        "which requests to log, one line each: misses means all but plain hits",
    )
    log_format: str = _key(values.choice("text", "json"), "text", "how log lines look on stderr")
    log_level: str = _key(
        values.choice("debug", "info", "warning", "error"), "info", "the least important lines to log"
    )
    shutdown_timeout: float = _key(
        values.duration(positive=False), "30s", "how long answers under way may take to finish at a stop"
    )
    connect_timeout: float = _key(
        values.duration(positive=True), "10s", "how long connecting to an upstream may take"
    )
    stall_timeout: float = _key(
        values.duration(positive=True), "30s", "how long an upstream may send no byte"
    )
    total_timeout: float = _key(values.duration(positive=True), "30m", "how long one file may take in all")
    fresh: float = _key(
        values.duration(positive=False),
        "60s",
        "how long lists, @latest and queries are served before upstreams are asked again",
    )
    stale_while_revalidate: float = _key(
        values.duration(positive=False),
        "5m",
        "how much longer lists and @latest are served at once, and asked for again behind the answer",
    )
    stale: float = _key(
        values.duration(positive=False),
        "7d",
        "how long lists, @latest, queries and absence are served when upstreams fail",
    )
    negative: float = _key(values.duration(positive=False), "60s", "how long absence is remembered")
    max_misses: int = _key(values.count(1, 100_000), "64", "fetches from upstreams at a time")
    max_client_connections: int = _key(
        values.count(1, 1_000_000), "1024", "connections that one client address may hold"
    )
    send_timeout: float = _key(
        values.duration(positive=True), "60s", "how long a client may take no byte of its answer"
    )
    max_zip_size: int = _key(
        values.size(1, 500 * _MIB, "500MiB"), "500MiB", "the largest module zip to fetch; Go allows no larger"
    )
    max_size: Amount = _key(
        values.amount(_MIB, "1MiB"),
        "50GB,50%",
        "how much disk the modules may use, downloads under way included",
    )
    min_free: Amount = _key(
        values.amount(0, "0"), "1GiB,5%", "how much of the file system to leave free, whoever uses it"
    )
    max_idle: float = _key(
        values.duration(positive=False),
        "0",
        "how long a module zip may go unused before it is removed; 0 for as long as there is room",
    )
    policy: str = _key(
        values.choice("slru", "lru"),
        "slru",
        "which zips go first: lru, those unused for longest; slru, of those asked for once only",
    )
    high_water: float = _key(values.share(1, 100), "97", "the share of max_size at which removing starts")
    low_water: float = _key(values.share(1, 100), "95", "the share of max_size at which it ends")
    pins: tuple[str, ...] = _key(
        values.GLOBS, "", "versions that are kept whatever room they take, up to half of max_size"
    )
    answers_max_size: int = _key(
        values.size(_MIB, 1 << 40, "1TiB"),
        "1GiB",
        "how much disk lists and queries may use",
    )
    sumdb_max_size: int = _key(
        values.size(_MIB, 1 << 40, "1TiB"),
        "2GiB",
        "how much disk the checksum database's records and tiles may use, which VMs verify with",
    )
    quarantine_max_size: int = _key(
        values.size(0, 1 << 40, "1TiB"),
        "1GiB",
        "how much disk files that failed a check may use, ten at most",
    )
    janitor_interval: float = _key(
        values.duration(positive=True), "60s", "how often unused and excess files are looked for"
    )
    recency_flush: float = _key(
        values.bounded_duration(1.0, 60.0), "30s", "how often the use of files is written down"
    )
    scrub_interval: float = _key(
        values.duration(positive=False), "7d", "how often every stored file is read and checked; 0 for never"
    )
    scrub_rate: int = _key(values.SCRUB_RATE, "20MiB", "how many bytes a second checking may read")

    @property
    def pinned(self) -> tuple[str, ...]:
        """Globs of versions that are kept: ``pins``, and the toolchains of ``vm_go``."""
        if not self.vm_go:
            return self.pins
        return (*self.pins, f"golang.org/toolchain@v0.0.1-go{self.vm_go.removesuffix('+auto')}.*")

    @property
    def exempt(self) -> str:
        """Patterns of modules that are not looked up in the checksum database."""
        return ",".join(filter(None, (self.nosumdb, self.private)))


def keys() -> dict[str, Key]:
    """The table: every setting's name, in order, and what is known about it."""
    return {each.name: each.metadata["key"] for each in fields(Settings)}
