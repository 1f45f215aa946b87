"""The command line of the commands that ask a running server."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from goproxy_vm.config import values
from goproxy_vm.config.text import quoted
from goproxy_vm.console.hints import SIZE, left_out
from goproxy_vm.errors import MalformedPath
from goproxy_vm.protocol import names, selector
from goproxy_vm.protocol.artifact import KINDS
from goproxy_vm.protocol.policy import Rule, Versions

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

SORTS = ("name", "size", "idle", "hits")
LISTED = 100
"""Items that a list has unless asked for more."""
MOST_FETCHES = 10_000
"""The same of fetches: a list of who has something bad is whole, or says so."""
SHARED = ("admin_url", "token_file", "json")
"""What may stand before the command and after it."""
CONFIG_HELP = (
    "the TOML file of settings (default: $GOPROXY_VM_CONFIG, /etc/goproxy-vm.toml, ~/.config/goproxy-vm.toml)"
)
_NO_MODULE = re.compile(r"[0-9]+(\.[0-9]+)?[A-Za-z]{0,3}")
_GLOB = "a glob over module@version: * any characters, ? one, [...] one of a set; without @ every version"


_RULE = (
    "MODULE (a pattern like GOPRIVATE's) or MODULE@VERSIONS: a version, a glob, v1.2.*, or bounds, "
    "'>=v1.2.0 <v1.2.7', with || between alternatives"
)


def add_shared(parser: argparse.ArgumentParser, *, default: object, names: tuple[str, ...] = SHARED) -> None:
    """The flags of ``SHARED``, or those of ``names`` only."""
    parser.add_argument(
        "--admin-url",
        metavar="URL",
        default=default,
        help="where the server is asked: http(s)://HOST:PORT or unix:PATH (default: admin.sock in "
        "cache_dir, else admin_listen)",
    )
    if "token_file" in names:
        parser.add_argument(
            "--token-file",
            type=Path,
            metavar="FILE",
            default=default,
            help="a file that holds the admin token (default: $GOPROXY_VM_ADMIN_TOKEN, admin_token_file, or "
            "admin.token in cache_dir)",
        )
    if "json" in names:
        parser.add_argument(
            "--json", action="store_true", default=default, help="print the API's answer instead of a table"
        )


class Commands:
    """Adds the commands to ``parsers``, each with ``run`` as its ``command`` and its name as ``asked``."""

    def __init__(
        self,
        parsers: argparse._SubParsersAction[Any],
        run: Callable[[argparse.Namespace], int],
    ) -> None:
        self._parsers = parsers
        self._run = run

    def add(self) -> None:
        """All of them."""
        self._command("status", "the server's state, the cache's sizes and limits")
        self._probe("health", "whether the server answers; for probes, needs no token")
        listing = self._command("ls", "list stored versions")
        _patterns(listing)
        listing.add_argument("--prefix", metavar="TEXT", help="what the module path begins with")
        listing.add_argument(
            "--sort", choices=SORTS, help="by name, largest first, longest idle first, most hits first"
        )
        _limit(listing, 1_000_000)
        show = self._command("show", "one stored version and its files")
        show.add_argument("version", metavar="MODULE@VERSION", type=_version)
        self._add_removing()
        self._add_gate()
        _limit(self._command("vms", "VMs that have told of themselves, those seen last first"), 1_000_000)
        vulns = self._command("vulns", "stored versions that advisories are about (setting vulndb)")
        _limit(vulns, 1_000_000)
        vulns.add_argument("--who", action="store_true", help="and the clients that got them, by the ledger")
        refresh = self._command("refresh", "forget a module's cached list, @latest, queries and absences")
        refresh.add_argument("module", metavar="MODULE", type=_module)
        self._add_pins()
        self._add_scrub()
        _limit(self._command("passes", "the last runs of janitor, scrub and recovery"), 1000)
        self._add_fetches()
        snapshot = self._command("snapshot", "remember what is stored now, to compare later")
        snapshot.add_argument("name", metavar="NAME", nargs="?", help="default: the time")
        self._command("snapshots", "all snapshots").add_argument(
            "--delete", metavar="NAME", help="forget that one instead"
        )
        diff = self._command("diff", "what came and went between two snapshots")
        diff.add_argument("a", metavar="A", help="a snapshot's name")
        diff.add_argument("b", metavar="B", nargs="?", default="now", help="a snapshot's name; default: now")

    def _add_removing(self) -> None:
        purge = self._command("purge", "remove what meets all conditions, pinned or not")
        _patterns(purge)
        duration = _parsed(values.duration(positive=False))
        bytes_ = _parsed(SIZE)
        purge.add_argument(
            "--idle-for", type=duration, metavar="DURATION", help="not requested for that long"
        )
        purge.add_argument("--older-than", type=duration, metavar="DURATION", help="fetched longer ago")
        purge.add_argument("--larger-than", type=bytes_, metavar="SIZE", help="more bytes on disk")
        purge.add_argument(
            "--kind",
            type=_kinds,
            action="extend",
            metavar="KIND",
            help="only these files: info, mod, zip; repeatable",
        )
        purge.add_argument(
            "--forget-hash", action="store_true", help="also forget the hash seen first, so others may come"
        )
        purge.add_argument(
            "--yes", action="store_true", help="do not ask about a PATTERN that means everything"
        )
        evict = self._command("evict", "evict zips by policy until the cache is small enough")
        evict.add_argument(
            "--target", type=bytes_, metavar="SIZE", help="how large the cache may be (default: low_water)"
        )
        for each in (purge, evict):
            each.add_argument("--dry-run", action="store_true", help="only say what would go")

    def _add_gate(self) -> None:
        lasting = _parsed(values.duration(positive=True))
        for name, what in (
            ("block", "refuse a module, or versions of one, from the next request on"),
            ("exempt", "let versions pass that are too young"),
        ):
            giving = self._command(name, what)
            blocks = name == "block"
            giving.add_argument("rule", metavar="RULE", type=_rule, nargs="?" if blocks else None, help=_RULE)
            giving.add_argument(
                "--reason",
                required=not blocks,
                metavar="TEXT",
                help="what clients are told, and the list of rules",
            )
            giving.add_argument("--by", metavar="NAME", help="who gives it (default: the user who asks)")
            giving.add_argument(
                "--for",
                dest="lasting",
                type=lasting,
                metavar="DURATION",
                required=not blocks,
                help="until then alone",
            )
            giving.add_argument("--dry-run", action="store_true", help="only say what it would mean")
            if blocks:
                giving.add_argument(
                    "--from",
                    dest="advisory",
                    metavar="ID",
                    help="block what an advisory is about, GO-2026-1234; its summary is the reason",
                )
                giving.add_argument(
                    "--whole",
                    action="store_true",
                    help="refuse .mod and .info of the versions, too: every go.mod that names one breaks",
                )
                giving.add_argument("--purge", action="store_true", help="remove what is stored of it, too")
            else:
                giving.add_argument(
                    "--deep",
                    action="store_true",
                    help="and what MODULE@VERSION requires that is too young, each version by itself",
                )
        unblock = self._command("unblock", "take back a block or an exemption")
        unblock.add_argument("rule", metavar="ID|RULE", help="its number, or the rule as it was given")
        listed = self._command("blocks", "the gate's rules")
        listed.add_argument("--all", action="store_true", help="also those that ended in the last 90 days")
        check = self._command("check", "whether a module or a version passes the gate (exit 5: it does not)")
        check.add_argument("version", metavar="MODULE[@VERSION]", type=_module_or_version)

    def _add_pins(self) -> None:
        for name, what in (("pin", "keep what matches from eviction"), ("unpin", "take back a pin")):
            self._command(name, what).add_argument("pattern", metavar="PATTERN", type=_pattern, help=_GLOB)
        self._command("pins", "all pins")

    def _add_fetches(self) -> None:
        who = self._command("who", "which clients got a module's zips, the last ones first")
        who.add_argument("fetched", metavar="MODULE[@VERSIONS]", type=_module_and_versions)
        what = self._command("what", "which zips a client got, the last ones first")
        what.add_argument(
            "client", metavar="CLIENT", help="an address, or a name of the setting client_names"
        )
        since = _parsed(values.duration(positive=True))
        for each in (who, what):
            each.add_argument("--since", type=since, metavar="DURATION", help="only what was asked for since")
            _limit(each, 1_000_000, MOST_FETCHES)
        who.add_argument(
            "--dns", action="store_true", help="look up what the addresses without a name are called"
        )

    def _add_scrub(self) -> None:
        scrub = self._command("scrub", "hash stored files anew, in the background")
        _patterns(scrub)
        rate = _parsed(values.SCRUB_RATE)
        scrub.add_argument("--rate", type=rate, metavar="SIZE", help="bytes a second (default: scrub_rate)")
        scrub.add_argument("--wait", action="store_true", help="until it is done, and say what it found")
        scrub.add_argument(
            "--cancel",
            type=_parsed(values.count(1, (1 << 63) - 1)),
            metavar="PASS",
            help="begin none, but end the one that was ordered as that pass",
        )

    def _command(self, name: str, what: str) -> argparse.ArgumentParser:
        return self._parser(name, what, SHARED)

    def _probe(self, name: str, what: str) -> None:
        self._parser(name, what, ("admin_url", "json"))

    def _parser(self, name: str, what: str, takes: tuple[str, ...]) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = self._parsers.add_parser(
            name, help=what, description=what, allow_abbrev=False
        )
        parser.set_defaults(command=self._run, asked=name, takes=takes)
        # Absent here must not undo what stood before the command.
        add_shared(parser, default=argparse.SUPPRESS, names=takes)
        parser.add_argument("--config", type=Path, metavar="FILE", help=f"the server's: {CONFIG_HELP}")
        parser.add_argument(
            "--cache-dir", metavar="DIR", help="the server's cache_dir, for its admin.sock and admin.token"
        )
        return parser


def _limit(parser: argparse.ArgumentParser, most: int, default: int = LISTED) -> None:
    limit = _parsed(values.count(1, most))
    parser.add_argument(
        "--limit", type=limit, default=default, metavar="N", help=f"at most that many (default: {default})"
    )


def _patterns(parser: argparse.ArgumentParser) -> None:
    def parse(text: str) -> str:
        # A module's path begins with a domain: 30d names none, and would match nothing.
        if _NO_MODULE.fullmatch(text) and (hint := left_out(parser, text)):
            raise argparse.ArgumentTypeError(f"{quoted(text)} is no module{hint}")
        return _pattern(text)

    parser.add_argument("patterns", metavar="PATTERN", nargs="*", type=parse, help=_GLOB)


def _parsed(form: values.Form[_T]) -> Callable[[str], _T]:
    def parse(text: str) -> _T:
        try:
            return form.parse(text)
        except (ValueError, OverflowError) as error:
            reason = f"{error}; " if str(error) else ""
            raise argparse.ArgumentTypeError(f"{quoted(text)}: {reason}expected {form.allowed}") from None

    return parse


def _pattern(text: str) -> str:
    try:
        selector.normalize(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: {error}") from None
    return text


def _kinds(text: str) -> list[str]:
    kinds = values.items(text)
    if not kinds or not set(kinds) <= set(KINDS):
        raise argparse.ArgumentTypeError(f"{quoted(text)}: expected {', '.join(KINDS)}")
    return kinds


def _module(text: str) -> str:
    try:
        names.check_path(text)
    except MalformedPath as error:
        raise argparse.ArgumentTypeError(error.sentence) from None
    return text


def _module_or_version(text: str) -> tuple[str, str]:
    return _version(text) if "@" in text else (_module(text), "")


def _module_and_versions(text: str) -> tuple[str, str | None]:
    module, at, versions = text.partition("@")
    try:
        return _module(module), Versions.parse(versions).text if at else None
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: {error}") from None


def _rule(text: str) -> str:
    try:
        return Rule.parse(text).text
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: {error}") from None


def _version(text: str) -> tuple[str, str]:
    module, at, version = text.partition("@")
    if not at or not version:
        raise argparse.ArgumentTypeError(f"{quoted(text)}: expected MODULE@VERSION")
    try:
        names.check_version(version)
    except MalformedPath as error:
        raise argparse.ArgumentTypeError(error.sentence) from None
    return _module(module), version
