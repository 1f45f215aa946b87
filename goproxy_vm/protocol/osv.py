"""Advisories in the OSV schema (ossf.github.io/osv-schema), as Go's database has them: whom each is about.

The rules are those of govulncheck: half-open ranges of SEMVER events in Go's order, versions without their v.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from goproxy_vm.errors import ContentError
from goproxy_vm.protocol import semver
from goproxy_vm.protocol.names import TOOLCHAIN
from goproxy_vm.protocol.vulndb import Listed, ModuleIndex, moment, parse_object

STANDARD = ("stdlib", "toolchain")
"""What a database calls Go's own packages, and its commands: both come with a toolchain."""
SUMMARY = 300
"""Characters of a summary that are kept."""
MOST_ALIASES = 20
FIRST = "0"
"""The bound that is before every version."""

_GO = re.compile(r"v0\.0\.1-go(1(?:\.[0-9]+){1,2})(?:(rc|beta)([0-9]+))?\.[a-z0-9]+-[a-z0-9]+")


class Event(NamedTuple):
    """From ``bound`` on versions are affected (``introduced``), or not any more; as ``v1.2.3`` or "0".
    ``place`` is where that is, by the order of :func:`place_of`."""

    introduced: bool
    bound: str
    place: str


Range = tuple[Event, ...]
"""The events of one range, in their order."""


@dataclass(frozen=True, slots=True)
class Affected:
    """What an advisory says of one module. No ranges: every version is affected."""

    module: str
    ranges: tuple[Range, ...]

    def holds(self, place: str) -> bool:
        """Whether the version of that place is affected."""
        return not self.ranges or any(_within(each, place) for each in self.ranges)

    @property
    def fixes(self) -> Iterator[Event]:
        """Where it is fixed."""
        return (each for events in self.ranges for each in events if not each.introduced)


@dataclass(frozen=True, slots=True)
class Advisory:
    """One advisory; ``aliases`` are its names elsewhere (CVE-…, GHSA-…), ``modified`` as it was written."""

    id: str
    summary: str
    aliases: tuple[str, ...]
    modified: str
    withdrawn: bool
    affected: tuple[Affected, ...]

    def about(self, module: str) -> Iterator[Affected]:
        """What it says of a module."""
        return (each for each in self.affected if each.module == module)

    def holds(self, module: str, version: str) -> bool:
        """Whether a version of a module is affected."""
        return self.holds_place(module, place_of(version))

    def holds_place(self, module: str, place: str) -> bool:
        """As :meth:`holds`, of the version of that place."""
        return not self.withdrawn and any(each.holds(place) for each in self.about(module))

    def fixed(self, module: str, version: str) -> bool:
        """Whether it names that version as one that fixes it."""
        place = place_of(version)
        named = any(fix.place == place for each in self.about(module) for fix in each.fixes)
        return named and not self.withdrawn and not self.holds_place(module, place)

    def next_fix(self, module: str, place: str) -> str:
        """The lowest version above a place that is named as fixed; empty where there is none."""
        above = {(fix.place, fix.bound) for each in self.about(module) for fix in each.fixes}
        fixed = [(at, fix) for at, fix in above if at > place and not self.holds_place(module, at)]
        return min(fixed, default=("", ""))[1]

    def rules(self) -> list[str]:
        """What is affected, as rules ``MODULE@VERSIONS``. Of toolchains there are none: their versions are in
        no order that a range could mean."""
        found = []
        for module in dict.fromkeys(each.module for each in self.affected):
            if module in STANDARD or self.withdrawn:
                continue
            spans = [span for each in self.about(module) for span in _spans(each)]
            found.append(f"{module}@{'*' if '*' in spans else ' || '.join(dict.fromkeys(spans))}")
        return [rule for rule in found if not rule.endswith("@")]


class Exposure(NamedTuple):
    """That an advisory is about a version; ``advisory`` is None where only the index is known."""

    id: str
    advisory: Advisory | None
    fixed: str
    """The lowest version above it that is named as fixed; empty where there is none."""


class Advisories:
    """What is known of a database: its index, and some of its advisories."""

    def __init__(self, index: ModuleIndex, entries: Iterable[Advisory] = ()) -> None:
        self.index = index
        self._entries: dict[str, Advisory] = {}
        self._places: dict[str, tuple[tuple[Listed, str], ...]] = {}
        """By module, what is listed, and the place from which on nothing is affected; empty for none."""
        for each in entries:
            self.learn(each)

    def learn(self, advisory: Advisory) -> None:
        """One more of its advisories. What the index does not name is passed over."""
        if advisory.id in self.index.modified:
            self._entries[advisory.id] = advisory

    def get(self, id_: str) -> Advisory | None:
        """An advisory, if it was learned."""
        return self._entries.get(id_)

    def concerning(self, module: str, version: str) -> set[str]:
        """The ids of advisories that may be about a version, by the index."""
        return {listed.id for _, _, listed in self._candidates(module, version)}

    def against(self, module: str, version: str) -> list[Exposure]:
        """The advisories that are about a version, by their ids. One that was not learned is taken to be: its
        ranges may have gaps, which the index does not tell."""
        found: dict[str, Exposure] = {}
        for name, place, listed in self._candidates(module, version):
            advisory = self._entries.get(listed.id)
            if advisory is None:
                found[listed.id] = Exposure(listed.id, None, _bound(listed.fixed) if listed.fixed else "")
            elif advisory.holds_place(name, place):
                found[listed.id] = Exposure(listed.id, advisory, advisory.next_fix(name, place))
        return [found[id_] for id_ in sorted(found)]

    def _candidates(self, module: str, version: str) -> Iterator[tuple[str, str, Listed]]:
        """Each with the module and the place of the version that it knows it by."""
        for name, known in subjects(module, version):
            place = place_of(known)
            for listed, end in self._listed(name):
                if not end or place < end:
                    yield name, place, listed

    def _listed(self, name: str) -> tuple[tuple[Listed, str], ...]:
        if name not in self.index.modules:
            return ()
        if name not in self._places:
            listed = self.index.modules[name]
            self._places[name] = tuple(
                (each, place_of(_bound(each.fixed)) if each.fixed else "") for each in listed
            )
        return self._places[name]

    def fixed(self, module: str, version: str) -> str | None:
        """The id of an advisory that names that version as fixed, and is not about it itself; None.

        Of one that was not learned, the index tells the highest such version only.
        """
        for name, known in subjects(module, version):
            place = place_of(known)
            for listed, end in self._listed(name):
                advisory = self._entries.get(listed.id)
                if advisory.fixed(name, known) if advisory is not None else end == place:
                    return listed.id
        return None

    def affected(self, id_: str) -> list[str]:
        """The rules ``MODULE@VERSIONS`` of an advisory that was learned; none of any other."""
        advisory = self._entries.get(id_)
        return [] if advisory is None else advisory.rules()


def place_of(version: str) -> str:
    """Text by which versions are compared: Go's order, by precedence alone. "0" comes before all."""
    return "" if version == FIRST else semver.order(version).rpartition("\0")[0]


def subjects(module: str, version: str) -> list[tuple[str, str]]:
    """By which modules and versions a database knows a version that a proxy serves."""
    if module != TOOLCHAIN:
        return [(module, version)]
    match = _GO.fullmatch(version)
    if match is None:
        return []
    numbers = match[1] if match[1].count(".") == 2 else f"{match[1]}.0"
    known = f"v{numbers}-{match[2]}.{match[3]}" if match[2] else f"v{numbers}"
    return [(name, known) for name in STANDARD]


def served_as(names: Iterable[str]) -> set[str]:
    """The modules of a proxy that those of a database are."""
    return {TOOLCHAIN if name in STANDARD else name for name in names}


def parse_advisory(data: bytes, id_: str) -> Advisory:
    """The advisory of that id. ContentError: it is another, or none."""
    found = parse_object(data, "advisory")
    if found.get("id") != id_:
        raise ContentError(f"the advisory {id_} calls itself {str(found.get('id'))[:40]!r}")
    moment(found.get("modified"), "advisory")
    affected = [_affected(each) for each in _objects(found, "affected")]
    aliases = [str(each)[:100] for each in found.get("aliases") or () if isinstance(each, str)]
    return Advisory(
        id_,
        " ".join(str(found.get("summary") or found.get("details") or "").split())[:SUMMARY],
        tuple(aliases[:MOST_ALIASES]),
        str(found["modified"]),
        bool(found.get("withdrawn")),
        tuple(affected),
    )


def _affected(each: Mapping[str, Any]) -> Affected:
    package = each.get("package")
    name = package.get("name") if isinstance(package, dict) else None
    if not isinstance(name, str) or not name:
        raise ContentError("the advisory does not say which module is affected")
    every = _objects(each, "ranges")
    ranges = tuple(_events(one) for one in every if one.get("type") == "SEMVER")
    # As govulncheck: a range without events means every version, and so does it where there is no such range.
    return Affected(name, () if not all(ranges) else ranges)


def _events(one: Mapping[str, Any]) -> Range:
    events = []
    for event in _objects(one, "events"):
        for key in ("introduced", "fixed"):
            value = event.get(key)
            if value is None or value == "":
                continue
            if not isinstance(value, str) or not (value == FIRST or semver.is_valid(_bound(value))):
                raise ContentError(f"the advisory has {str(value)[:40]!r} as a version")
            bound = FIRST if value == FIRST else _bound(value)
            events.append(Event(key == "introduced", bound, place_of(bound)))
    return tuple(sorted(events, key=lambda event: event.place))


def _objects(found: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    items = found.get(name)
    if items is None:
        return []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ContentError(f"the advisory's {name} is no list of objects")
    return items


def _within(events: Range, place: str) -> bool:
    affected = False
    for event in events:
        if event.introduced:
            affected = affected or place >= event.place
        elif affected:
            affected = place < event.place
    return affected


def _spans(affected: Affected) -> Iterator[str]:
    """What is affected as alternatives of a rule: ``*``, or bounds joined by a space."""
    if not affected.ranges:
        yield "*"
    for events in affected.ranges:
        since: str | None = None
        for event in events:
            if event.introduced:
                since = event.bound if since is None else since
            elif since is not None:
                below = f"<{_plain(event.bound)}"
                yield below if since == FIRST else f">={_plain(since)} {below}"
                since = None
        if since is not None:
            yield "*" if since == FIRST else f">={_plain(since)}"


def _bound(text: str) -> str:
    """A version of a database as ``go`` writes it."""
    return f"v{text.removeprefix('v')}"


def _plain(version: str) -> str:
    """Without build metadata, which no order knows."""
    return version.partition("+")[0]
