"""What may pass, and to whom: asked at the door, by whatever is given, and once more before something is
fetched.

A rule about whole modules refuses everything of them. One about versions refuses their code: the zip, what
resolves to them, their place in lists; ``.mod`` and ``.info`` pass, for a project whose graph mentions the
version needs them, and so does whoever goes back to an older one
(docs/decisions/0016-what-a-block-refuses.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from goproxy_vm.config.networks import within
from goproxy_vm.errors import Absent, Barred, Denied
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.protocol.names import match_prefix_patterns
from goproxy_vm.protocol.policy import GateRule, Rule, RuleSet

if TYPE_CHECKING:
    from goproxy_vm.config import Settings
    from goproxy_vm.config.token import Tokens
    from goproxy_vm.protocol.request import ModuleResource
    from goproxy_vm.proxy.ages import Ages
    from goproxy_vm.proxy.asker import Asker


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something may not pass: ``rule`` is block, deny, allow or age; ``whole`` where all of the module
    is refused."""

    rule: str
    why: str
    whole: bool
    then: str = ""

    def error(self, newest: str | None = None) -> Barred:
        """What a client is told; ``newest``: the version it might take."""
        instead = f"; newest version allowed: {newest}" if newest else ""
        return Barred(f"{self.why}{instead}{self.then}", self.rule)


class Gate:
    """This server's rules; :meth:`change` and :meth:`rule` put others into force while it serves."""

    def __init__(self, settings: Settings, tokens: Tokens | None = None, ages: Ages | None = None) -> None:
        """``ages`` are to have the new settings before :meth:`change` has them."""
        self._ages = ages
        self._private = settings.private
        self.offline = settings.offline
        """Whether nothing is fetched for anybody."""
        self.generation = 0
        """Raised by every change of the rules."""
        self._watchers: list[Callable[[], None]] = []
        self._rules: tuple[GateRule, ...] = ()
        self.change(settings, tokens)

    def change(self, settings: Settings, tokens: Tokens | None) -> None:
        """From now on ``deny``, ``allow`` and ``private_clients`` count as they are in ``settings``;
        ``tokens`` are those of ``private_tokens_file``."""
        self._deny = tuple(GateRule("deny", rule) for rule in settings.deny)
        self._allow = RuleSet(GateRule("allow", rule) for rule in settings.allow)
        self._allowed = len(settings.allow)
        # About a module, or one that it may be a package of: go get asks for longer paths first, and stops
        # where one of them is refused.
        self._leading = RuleSet(
            GateRule("allow", replace(rule, versions=None, whole=True)) for rule in settings.allow
        )
        self._clients = settings.private_clients
        self._tokens = tokens
        self.rule(self._rules)

    def rule(self, rules: Iterable[GateRule]) -> None:
        """From now on these are in force, given while the server runs, besides the settings'."""
        self._rules = tuple(rules)
        self._blocks = RuleSet([*(each for each in self._rules if each.kind == "block"), *self._deny])
        self._exempt = RuleSet(each for each in self._rules if each.kind == "exempt")
        self.generation += 1
        for changed in self._watchers:
            changed()

    def watch(self, changed: Callable[[], None]) -> None:
        """Have ``changed`` called when other rules are in force."""
        self._watchers.append(changed)

    def count(self, kind: str) -> int:
        """How many rules of a kind are in force: block, exempt, deny or allow."""
        if kind == "allow":
            return self._allowed
        return sum(each.kind == kind for each in (*self._rules, *self._deny))

    @property
    def denied(self) -> tuple[GateRule, ...]:
        """The rules of the setting deny."""
        return self._deny

    @property
    def refusing(self) -> list[Rule]:
        """The rules that refuse something: blocks, and those of the setting deny."""
        return [each.rule for each in (*self._rules, *self._deny) if each.kind != "exempt"]

    @property
    def open(self) -> bool:
        """Whether everything passes, to everyone: nothing need be known of what is asked for then."""
        return not (self._blocks or self._allow or self._restricted or self._aging)

    @property
    def _aging(self) -> bool:
        return self._ages is not None and self._ages.on

    @property
    def _restricted(self) -> bool:
        return bool(self._private) and bool(self._clients or self._tokens)

    def private(self, module: str) -> bool:
        """Whether a module comes from version control alone (setting private)."""
        return match_prefix_patterns(self._private, module)

    def reserved(self, module: str) -> bool:
        """Whether some may have a module, and others who may ask may not."""
        return self._restricted and self.private(module)

    def exempt(self, module: str, version: str) -> bool:
        """Whether a version passes whatever its age."""
        return self._exempt.find(module, version) is not None

    def old_enough(self, module: str, version: str) -> bool:
        """Whether a version is known to be, or need not be; False says nothing."""
        return self._ages is None or self._ages.passes(module, version) or self.exempt(module, version)

    def passes(self, artifact: Artifact) -> bool:
        """Whether a file is known to be for everyone who may ask; False says nothing."""
        return (
            self.refusal_of(artifact) is None
            and not self.reserved(artifact.module)
            and (artifact.kind is not Kind.ZIP or self.old_enough(artifact.module, artifact.version))
        )

    def selects(self, module: str) -> bool:
        """Whether some versions of a module may be refused where others pass: its lists are looked at."""
        return (
            bool(self._allow) or self._aging or any(each.rule.versions for each in self._blocks.about(module))
        )

    def refusal(self, module: str, version: str = "", *, code: bool = True) -> Refusal | None:
        """Why a version ("": all of the module) may not pass, if so; without ``code`` only what means more
        than its code counts."""
        given = self._blocks.find(module, version, code=code)
        if given is not None:
            return _refused(given)
        if not self._allow:
            return None
        named = bool(self._leading.about(module))
        if named and (not (version and code) or self._allow.find(module, version) is not None):
            return None
        return Refusal("allow", NOT_ALLOWED, whole=not named, then=ASK_TO_ADD)

    def blocked(self, module: str, version: str) -> bool:
        """Whether a rule refuses the version for what it is: nothing that it says of others counts then."""
        return self._blocks.find(module, version) is not None

    def refusal_of(self, artifact: Artifact) -> Refusal | None:
        """As :meth:`refusal`, of one file."""
        return self.refusal(artifact.module, artifact.version, code=artifact.kind is Kind.ZIP)

    def check(self, resource: ModuleResource | Artifact) -> None:
        """Barred: nobody may have it."""
        artifact = resource if isinstance(resource, Artifact) else resource.artifact
        refusal = self.refusal(resource.module) if artifact is None else self.refusal_of(artifact)
        if refusal is not None:
            raise refusal.error()

    def admit(self, module: str, asker: Asker) -> None:
        """Denied: nothing of that module may be given, or not to that one. Whether there is such a module
        does not show."""
        if self.reserved(module):  # before anything is said of it, a rule's reason too
            self._admit(module, asker)
        refusal = self.refusal(module)
        if refusal is not None:
            raise refusal.error()

    def _admit(self, module: str, asker: Asker) -> None:
        # Who comes by a Unix socket, a reverse proxy perhaps, has no address that says anything.
        if self._clients and asker.client != "unix" and within(self._clients, asker.client):
            return
        if self._tokens is None:
            raise Denied(f"module {module} is not for clients at {asker.client} (setting private_clients)")
        if not self._tokens.admit(asker.authorization):
            raise Denied(
                f"module {module} is for those who bring a token: put it into the VM's .netrc, as the "
                "password for this host, and ask by https (setting private_tokens_file)"
            )

    def may_fetch(self, asker: Asker) -> bool:
        """Whether what is not stored may be fetched for somebody."""
        return asker.fetch and not self.offline

    def not_here(self) -> Absent:
        """What to say of that which is not stored and may not be fetched."""
        if self.offline:
            return Absent(
                "not stored here, and this server asks no upstream (setting offline): "
                "have it fetched once by a server that may"
            )
        return Absent("not stored here, and this request may not fetch it")


NOT_ALLOWED = "not on this host's allow list (setting allow)"
ASK_TO_ADD = "; ask the host's operators to add it"


def _refused(given: GateRule) -> Refusal:
    rule, until = given.rule, ""
    if given.until is not None:
        until = f", until {datetime.fromtimestamp(given.until, UTC):%Y-%m-%d}"
    if rule.versions is None and given.kind == "deny":
        why = f"module denied on this host (setting deny: {rule.text}); ask the host's operators"
    elif rule.versions is None:
        why = (
            f"module blocked on this host: {given.reason} (block {given.number}{until}); "
            "ask the host's operators"
        )
    elif given.kind == "deny":
        why = f"denied on this host (setting deny: {rule.text})"
    else:
        why = f"blocked on this host: {given.reason} (block {given.number}{until})"
    if rule.versions is None:
        return Refusal(given.kind, why, whole=True)
    return Refusal(given.kind, why, whole=False, then="; if a VM has it already, see /vm/incident")
