"""What each command asks of the server, and prints."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from goproxy_vm.config.text import printable, size
from goproxy_vm.console import fetches, gate_tables, tables
from goproxy_vm.console.meant import Meant
from goproxy_vm.console.progress import Progress
from goproxy_vm.console.reverse import Reverse
from goproxy_vm.errors import ConfigError, NotDone, NotFound, NotPassing
from goproxy_vm.protocol.policy import Rule

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence

    from goproxy_vm.console.client import Client

PAGE = 1000
"""Items that the server lists at a time."""
POLL_SECONDS = 0.5

Json = dict[str, Any]


class Console:
    """Runs one command against a server. ``printed`` takes the text for stdout."""

    def __init__(
        self,
        client: Client,
        *,
        as_json: bool,
        printed: Callable[[str], None],
        reverse: Reverse | None = None,
    ) -> None:
        """``reverse`` looks up the names of addresses, by default as this host does."""
        self._client = client
        self._as_json = as_json
        self._print = printed
        self._progress = Progress(sys.stderr)
        self._meant = Meant(self._listed)
        self._reverse = reverse or Reverse()

    def run(self, command: str, arguments: argparse.Namespace) -> None:
        """Run a command by its name. NotDone and NoServer as the client; a refusal is printed as JSON too.

        NoServer also for an answer that has not what a server's has.
        """
        try:
            getattr(self, command)(arguments)
        except NotDone as error:
            if self._as_json and error.answer:
                self._print(json.dumps(error.answer, indent=2))
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise self._client.strange() from error

    def status(self, _: argparse.Namespace) -> None:
        """The server's state."""
        self._show(self._client.get("status"), tables.status)

    def health(self, _: argparse.Namespace) -> None:
        """Whether the server answers."""
        self._client.check_health()
        self._show({"status": "ok"}, lambda answer: [answer["status"]])

    def ls(self, given: argparse.Namespace) -> None:
        """Stored versions, as many as are wanted, in one list."""
        answer = self._listed(
            given.limit, given.prefix, match=",".join(given.patterns) or None, sort=given.sort
        )
        asked = given.patterns or ([given.prefix.rstrip("/")] if given.prefix else [])
        self._show(answer, tables.versions, () if answer["total"] else asked)

    def _listed(self, most: int, prefix: str | None, **query: str | None) -> Json:
        """So many stored versions, asked for by pages, in one list."""
        return self._paged("modules", most, prefix=prefix, **query)

    def _paged(self, path: str, most: int, **query: str | float | None) -> Json:
        answer: Json | None = None
        cursor: str | None = None
        while answer is None or (cursor is not None and most > 0):
            page = self._client.get(path, limit=min(most, PAGE), cursor=cursor, **query)
            cursor, most = page["next_cursor"], most - len(page["items"])
            if answer is not None:
                page["items"] = answer["items"] + page["items"]
            answer = page
        return answer

    def vms(self, given: argparse.Namespace) -> None:
        """What VMs have told of themselves."""
        self._show(self._paged("vms", given.limit), tables.vms)

    def vulns(self, given: argparse.Namespace) -> None:
        """Stored versions that advisories are about; with ``--who`` also the clients that got them."""
        answer = self._paged("vulnerabilities", given.limit)
        for each in answer["items"] if given.who else ():
            got = self._client.get("fetches", module=each["module"], version=each["version"], limit=PAGE)
            each["clients"] = [one["name"] or one["client"] for one in got["items"] if one["count"]]
        self._show(answer, tables.vulns)

    def who(self, given: argparse.Namespace) -> None:
        """Which clients got a module."""
        module, version = given.fetched
        answer = self._paged("fetches", given.limit, module=module, version=version, since=given.since)
        if given.dns:
            with self._progress.ticking("looking up names"):
                self._reverse.add(answer["items"])
        missed = () if answer["total"] else ["@".join(filter(None, given.fetched))]
        self._show(answer, fetches.who, missed)

    def what(self, given: argparse.Namespace) -> None:
        """What a client got."""
        answer = self._paged("fetches", given.limit, client=given.client, since=given.since)
        self._show(answer, fetches.what)

    def show(self, given: argparse.Namespace) -> None:
        """One version."""
        module, version = given.version
        try:
            answer = self._client.get("modules", module, "@v", version)
        except NotFound as error:
            said = self._meant.added(error.sentence, [f"{module}@{version}"])
            raise NotFound(said, error.answer) from None
        self._show(answer, tables.version)

    def purge(self, given: argparse.Namespace) -> None:
        """Remove what is selected."""
        conditions = {
            "match": given.patterns or None,
            "idle_for": given.idle_for,
            "older_than": given.older_than,
            "larger_than": given.larger_than,
        }
        if all(each is None for each in conditions.values()):
            raise ConfigError(
                'purge needs a PATTERN, --idle-for, --older-than or --larger-than; "*" means everything'
            )
        if not (given.yes or given.dry_run):
            self._confirm(given.patterns)
        with self._progress.ticking("purging"):
            answer = self._client.post(
                "purge",
                **conditions,
                kinds=given.kind,
                forget_hash=given.forget_hash or None,
                dry_run=given.dry_run or None,
            )
        removed = answer["removed"]
        if not (removed["versions"] or removed["files"] or removed["answers"]):
            raise NotFound(self._meant.added("nothing matched", given.patterns), answer)
        self._show(answer, tables.removal)

    def _confirm(self, patterns: Sequence[str]) -> None:
        """Ask whoever types whether everything is meant. NotDone: it is not."""
        everything = {"*", "*@*"} & set(patterns)
        if not everything or not (sys.stdin.isatty() and sys.stderr.isatty()):
            return
        count = self._client.get("status")["cache"]["versions"]
        print(f"{everything.pop()} removes all {tables.plural(count, 'version')}.", file=sys.stderr)
        print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise NotDone("nothing was removed; with --yes nobody is asked", {})

    def evict(self, given: argparse.Namespace) -> None:
        """Evict down to a size."""
        with self._progress.ticking("evicting"):
            answer = self._client.post("evict", target_bytes=given.target, dry_run=given.dry_run or None)
        self._show(answer, tables.eviction)
        if not answer["reached"] and not answer["dry_run"]:
            raise NotDone("the target was not reached: what is left is pinned, or no zip", {})

    def refresh(self, given: argparse.Namespace) -> None:
        """Forget a module's cached answers."""
        answer = self._client.post("refresh", module=given.module)
        self._show(answer, tables.refreshed, () if answer["forgotten"] else [given.module])

    def block(self, given: argparse.Namespace) -> None:
        """Refuse what a rule means, or what an advisory is about."""
        if (given.rule is None) == (given.advisory is None):
            raise ConfigError("block needs a RULE, or --from ID of an advisory, and not both")
        rules, reason = [given.rule], given.reason
        if given.advisory is not None:
            advisory = self._client.get("advisories", given.advisory)
            rules, reason = advisory["rules"], reason or f"{advisory['id']} {advisory['summary']}"[:200]
            if not rules:
                raise NotDone(f"{given.advisory} is about nothing that a rule could mean", {})
        elif not reason:
            raise ConfigError("block needs --reason TEXT: clients are told why")
        more = {"whole": given.whole or None, "purge": given.purge or None}
        self._show_given([self._give("block", rule, reason, given, **more) for rule in rules])

    def exempt(self, given: argparse.Namespace) -> None:
        """Let what a rule means pass whatever its age; with ``--deep`` also what it requires."""
        needs: Json = {"items": [], "truncated": False}
        if given.deep:
            module, _, version = given.rule.partition("@")
            needs = self._client.get("gate", "needs", module=module, version=version)
        rules = [given.rule, *(f"{each['module']}@{each['version']}" for each in needs["items"])]
        self._show_given([self._give("exempt", rule, given.reason, given) for rule in rules])
        if needs["truncated"]:
            raise NotDone("it requires more that may be too young: give the same again", {})

    def _give(self, kind: str, rule: str, reason: str, given: argparse.Namespace, **more: object) -> Json:
        return self._client.post(
            "gate/rules",
            kind=kind,
            rule=rule,
            reason=reason,
            by=given.by,
            **{"for": given.lasting},
            dry_run=given.dry_run or None,
            **more,
        )

    def _show_given(self, answers: list[Json]) -> None:
        """One rule as the API's answer, several as a list of them."""
        if self._as_json and len(answers) > 1:
            self._print(json.dumps(answers, indent=2))
            return
        for answer in answers:
            self._show(answer, gate_tables.given)

    def unblock(self, given: argparse.Namespace) -> None:
        """Take back a rule, by its number or as it was given."""
        number = given.rule
        if not number.isdecimal():
            number = str(self._number_of(number))
        self._show(self._client.ask("DELETE", ("gate", "rules", number)), gate_tables.ended)

    def _number_of(self, rule: str) -> int:
        """The number of a rule in force. NotFound; NotDone: the settings have it."""
        with contextlib.suppress(ValueError):  # one that is none is not there
            rule = Rule.parse(rule).text
        same = [each for each in self._client.get("gate", "rules")["items"] if each["rule"] == rule]
        numbers = [each["id"] for each in same if each["id"] is not None]
        if len(numbers) == 1:
            return int(numbers[0])
        if numbers:
            listed = ", ".join(map(str, numbers))
            raise NotDone(f"{rule} was given more than once: name one of {listed}", {})
        if same:
            raise NotDone(f"{rule} is a rule of the setting deny, and is taken back there", {})
        raise NotFound(f"there is no rule {rule} (see blocks)", {})

    def blocks(self, given: argparse.Namespace) -> None:
        """The gate's rules."""
        self._show(self._client.get("gate", "rules", all="true" if given.all else None), gate_tables.rules)

    def check(self, given: argparse.Namespace) -> None:
        """Whether something passes. Barred by exit status 5 where it does not."""
        module, version = given.version
        answer = self._client.get("gate", "check", module=module, version=version or None)
        self._show(answer, gate_tables.passing)
        if answer["verdict"] != "passes":
            raise NotPassing(f"{module}{version and '@'}{version} does not pass the gate", {})

    def pins(self, _: argparse.Namespace) -> None:
        """All pins."""
        self._show(self._client.get("pins"), tables.pins)

    def pin(self, given: argparse.Namespace) -> None:
        """Keep from eviction."""
        answer = self._client.ask("PUT", ("pins", given.pattern))
        self._show(answer, tables.pin, () if answer["versions"] else [given.pattern])

    def unpin(self, given: argparse.Namespace) -> None:
        """Take back a pin."""
        self._show(self._client.ask("DELETE", ("pins", given.pattern)), tables.pin)

    def scrub(self, given: argparse.Namespace) -> None:
        """Hash stored files anew; with ``--wait`` until that is done. Or ``--cancel`` one."""
        if given.cancel is not None:
            if given.patterns or given.rate is not None or given.wait:
                raise ConfigError("--cancel PASS stands alone")
            self._show(self._client.ask("DELETE", ("passes", str(given.cancel))), tables.scrub)
            return
        answer = self._client.post("scrub", match=given.patterns or None, rate=given.rate)
        if not given.wait:
            self._show(answer, lambda begun: [f"pass {begun['pass']} has begun"])
            return
        try:
            done = self._finished(answer["pass"])
        finally:
            self._progress.clear()
        if done["state"] != "done":
            raise NotDone("; ".join(tables.scrub(done)), done)
        self._show(done, tables.scrub, () if done["scrubbed"]["entries"] else given.patterns)

    def _finished(self, number: int) -> Json:
        while True:
            one: Json = self._client.get("passes", str(number))
            if one["finished"] is not None:
                return one
            done = one["scrubbed"]
            self._progress.show(
                f"scrubbing: {done['entries']:,} of {one['before']['entries']:,} files, "
                f"{size(done['bytes'])} of {size(one['before']['bytes'])}"
                if one["state"] == "running"
                else "waiting for another scrub to end"
            )
            time.sleep(POLL_SECONDS)

    def passes(self, given: argparse.Namespace) -> None:
        """The last passes."""
        self._show(self._client.get("passes", limit=given.limit), tables.passes)

    def snapshot(self, given: argparse.Namespace) -> None:
        """Remember what is stored now."""
        answer = self._client.post("snapshots", name=given.name)
        self._show(
            answer,
            lambda made: [
                f"{made['name']}: {tables.plural(made['versions'], 'version')}, {size(made['bytes'])}"
            ],
        )

    def snapshots(self, given: argparse.Namespace) -> None:
        """All snapshots; with ``--delete`` forget one."""
        if given.delete is not None:
            answer = self._client.ask("DELETE", ("snapshots", given.delete))
            self._show(answer, lambda gone: [f"{gone['name']} is forgotten"])
            return
        self._show(self._client.get("snapshots"), tables.snapshots)

    def diff(self, given: argparse.Namespace) -> None:
        """What came and went."""
        self._show(self._client.get("snapshots", given.a, "diff", given.b), tables.difference)

    def _show(self, answer: Json, table: Callable[[Json], Iterable[str]], missed: Sequence[str] = ()) -> None:
        """Print the answer; behind its last line, what those ``missed`` may have been meant for, which
        matched nothing."""
        if self._as_json:
            self._print(json.dumps(answer, indent=2))
            return
        *lines, last = table(answer)
        self._print("\n".join(map(printable, [*lines, self._meant.added(last, missed)])))
