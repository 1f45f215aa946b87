"""The API's answers as text for people: tables, sizes, ages."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from goproxy_vm.config.text import UNITS, percent, size
from goproxy_vm.protocol.artifact import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Json = dict[str, Any]

_SPANS = (("d", 86400), ("h", 3600), ("m", 60))


def bound(count: float) -> str:
    """Bytes of a limit, large ones also by powers of 1000, as many settings have them.

    As in ``46.6 GiB (50.0 GB)``.
    """
    if count < 1e9:
        return size(count)
    power = 3
    while count >= 999.5 * 1000**power and power < len(UNITS):
        power += 1
    return f"{size(count)} ({count / 1000**power:.1f} {UNITS[power - 1][0]}B)"


def age(seconds: float) -> str:
    """A duration by its largest two units: ``3d 4h``, ``5m 2s``."""
    left = max(0, round(seconds))
    parts = []
    for unit, length in _SPANS:
        count, left = divmod(left, length)
        parts.append((count, unit))
    parts.append((left, "s"))
    while parts[0][0] == 0 and len(parts) > 1:
        del parts[0]
    return " ".join(f"{count}{unit}" for count, unit in parts[:2] if count or unit == parts[0][1])


def moment(text: str) -> str:
    """A time of the API in local time, to the second, with its offset from UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")


def plural(count: int, word: str) -> str:
    """``1 file``, ``1,234 files``."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], right: str = "") -> list[str]:
    """Aligned lines; columns whose header is among the words of ``right`` are numbers."""
    every = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[n]) for row in every) for n in range(len(header))]
    numbers = right.split()
    lines = []
    for row in every:
        cells = [
            cell.rjust(width) if name in numbers else cell.ljust(width)
            for cell, width, name in zip(row, widths, header, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def facts(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Names and values, one a line."""
    return [line.rstrip() for line in table(("", ""), pairs)[1:]]


def status(answer: Json) -> list[str]:
    """The server's state."""
    cache, recovery = answer["cache"], answer["recovery"]
    limit = max(1, cache["limit_bytes"])
    idle = cache["max_idle_seconds"]
    put_right = [f"{name.replace('_', ' ')} {recovery[name]:,}" for name in _RECOVERED if recovery[name]]
    last, scrubbed = answer["last_pass"], answer["last_scrub"]
    traffic, clients = answer["traffic"], answer["clients"]
    return facts(
        [
            (
                "server",
                f"goproxy_vm {answer['version']}, {answer['state']}, up {age(answer['uptime_seconds'])}",
            ),
            ("served", _served(traffic["since_start"], "since the start")),
            ("", _served(traffic["last_day"], f"in the last {age(traffic['last_day']['seconds'])}")),
            ("requests", f"{traffic['requests_per_second']:.1f}/s"),
            (
                "clients",
                f"{clients['addresses']:,} with {plural(clients['connections'], 'connection')}",
            ),
            *_sources("upstreams", answer["upstreams"], "none is asked"),
            *_database(answer),
            ("gate", _gate(answer["gate"])),
            ("directory", cache["dir"]),
            ("used", f"{size(cache['used_bytes'])} of {bound(limit)}, {cache['used_bytes'] / limit:.1%}"),
            ("reserved", size(cache["reserved_bytes"])),
            ("pinned", _pinned(cache["pinned_bytes"], cache["pinned_limit_bytes"])),
            ("disk free", f"{size(cache['disk_free_bytes'])}, {size(cache['min_free_bytes'])} are left free"),
            ("versions", f"{cache['versions']:,}"),
            *(
                (f"  {kind}", f"{plural(cache['entries'][kind], 'file')}, {size(cache['sizes'][kind])}")
                for kind in KINDS
            ),
            (
                "policy",
                f"{cache['policy']}, {'no idle limit' if idle is None else f'idle {age(idle)} at most'}",
            ),
            ("oldest idle", _oldest(cache)),
            ("answers", f"{size(cache['answers_bytes'])} of {size(cache['answers_limit_bytes'])}"),
            ("sumdb", f"{size(cache['sumdb_bytes'])} of {size(cache['sumdb_limit_bytes'])}"),
            (
                "quarantine",
                f"{plural(cache['quarantine_entries'], 'file')}, {size(cache['quarantine_bytes'])}",
            ),
            ("fetches", f"{answer['fetches_in_flight']:,} in flight"),
            ("recovery", f"{'done' if recovery['done'] else 'under way'}{_listed(put_right)}"),
            ("last scrub", "none" if scrubbed is None else f"{scrubbed['id']}: {_ended(scrubbed)}"),
            ("last pass", "none" if last is None else f"{last['id']}: {_reached(last)}"),
        ]
    )


def _served(one: Json, when: str) -> str:
    told = f"{plural(one['requests'], 'request')} {when}"
    if found := one["found"]:
        told += (
            f"; {plural(one['hits'], 'hit')} of {found:,} found ({percent(one['hits'], found)}), "
            f"{size(one['saved_bytes'])} saved"
        )
    return told


def _sources(title: str, every: Sequence[Json], none: str) -> list[tuple[str, str]]:
    """A line for each upstream or database, the title beside the first."""
    told = [f"{each['name']}: {_condition(each)}" for each in every] or [none]
    return [(title if n == 0 else "", one) for n, one in enumerate(told)]


def _gate(gate: Json) -> str:
    rules = ", ".join(f"{count:,} {kind}" for kind, count in gate["rules"].items() if count)
    least = f"; nothing younger than {age(gate['min_age_seconds'])}" if gate["min_age_seconds"] else ""
    return f"{rules or 'no rules'}{least}"


def _database(answer: Json) -> list[tuple[str, str]]:
    database = answer["sumdb"]
    if (
        database and database["state"] == "untried" and not answer["upstreams"]
    ):  # none is, for nobody is asked
        return [("database", f"{database['name']}: none is asked")]
    return _sources("database", [database] if database else [], "off: nothing is proven")


def _condition(one: Json) -> str:
    words = {"untried": "not asked yet", "ok": "ok", "failing": "failing", "backed_off": "failing"}
    told = words[one["state"]]
    if one["since"] is not None:
        told += f" since {moment(one['since'])}"
    if one["retry_seconds"] is not None:
        told += f", backed off for {age(one['retry_seconds'])}"
    return told + (f": {one['reason'].removeprefix(one['name'] + ': ')}" if one["reason"] else "")


def _pinned(count: int, most: int) -> str:
    return f"{size(count)} of zips, {size(most)} protected at most"


def _oldest(cache: Json) -> str:
    """The age at which zips are evicted, should it come to that."""
    return (
        f"{age(cache['oldest_idle_seconds'])}: the zip that goes first"
        if cache["entries"]["zip"]
        else "no zip"
    )


def _ended(scrubbed: Json) -> str:
    ended = "running" if scrubbed["finished"] is None else moment(scrubbed["finished"])
    return f"{ended}, {_scrubbed(scrubbed)}"


_RECOVERED = (
    *("temporary", "dying", "ghosts"),
    *("adopted", "first_seen", "refused", "withheld", "discarded"),
)


def _listed(words: Sequence[str]) -> str:
    return f": {', '.join(words)}" if words else ""


def _reached(one: Json) -> str:
    ended = "running" if one["finished"] is None else moment(one["finished"])
    missed = ", target missed" if one["reached"] is False else ""
    return f"{one['reason']}, {ended}, {size(one['evicted']['bytes'])} evicted{missed}"


def versions(answer: Json) -> list[str]:
    """A list of versions."""
    rows = [
        (
            f"{each['module']}@{each['version']}",
            size(each["bytes"]),
            f"{each['hits']:,}",
            age(each["idle_seconds"]),
            ",".join(each["files"]),
            "pinned" if each["pinned"] else "",
        )
        for each in answer["items"]
    ]
    lines = table(("VERSION", "SIZE", "HITS", "IDLE", "FILES", "PIN"), rows, "SIZE HITS IDLE") if rows else []
    return [*lines, f"{len(rows):,} of {plural(answer['total'], 'version')}"]


def vms(answer: Json) -> list[str]:
    """VMs, and which of them have another Go than they are to have."""
    rows = [
        (
            each["address"],
            each["go"],
            {None: "", True: "differs", False: "no"}[each["differs"]],
            each["script"],
            f"{age(each['idle_seconds'])} ago",
            *("" if each[name] is None else size(each[name]) for name in ("modcache_bytes", "gocache_bytes")),
        )
        for each in answer["items"]
    ]
    header = ("ADDRESS", "GO", "DIFFERS", "SCRIPT", "SEEN", "MODULES", "BUILDS")
    lines = table(header, rows, "SEEN MODULES BUILDS") if rows else []
    told = f"{len(rows):,} of {plural(answer['total'], 'VM')}"
    if answer["vm_go"] is not None:
        others = sum(bool(each["differs"]) for each in answer["items"])
        told += f"; {others:,} without the Go version of the setting vm_go, {answer['vm_go']}"
    return [*lines, told]


def version(answer: Json) -> list[str]:
    """One version and its files."""
    head = facts(
        [
            ("module", answer["module"]),
            ("version", answer["version"]),
            ("size", size(answer["bytes"])),
            ("hits", f"{answer['hits']:,}"),
            ("fetched", moment(answer["fetched"])),
            ("last used", f"{moment(answer['last_used'])}, {age(answer['idle_seconds'])} ago"),
            ("pinned", "yes" if answer["pinned"] else "no"),
        ]
    )
    rows = [
        (kind, f"{each['length']:,}", size(each["bytes"]), f"{each['hits']:,}", each.get("h1") or "")
        for kind, each in answer["files"].items()
    ]
    return [*head, "", *table(("FILE", "LENGTH", "ON-DISK", "HITS", "H1"), rows, "LENGTH ON-DISK HITS")]


def removal(answer: Json) -> list[str]:
    """What went, or would go."""
    removed = answer["removed"]
    verb = "would be removed" if answer["dry_run"] else "removed"
    rows = [
        (f"{each['module']}@{each['version']}", ",".join(each["kinds"]), size(each["bytes"]))
        for each in answer["items"]
    ]
    lines = table(("VERSION", "FILES", "SIZE"), rows, "SIZE") if rows else []
    if answer["truncated"]:
        lines.append("...")
    total = (
        f"{verb}: {plural(removed['versions'], 'version')}, {plural(removed['files'], 'file')}, "
        f"{size(removed['bytes'])}, {plural(removed['answers'], 'cached answer')}"
    )
    return [*lines, total]


def eviction(answer: Json) -> list[str]:
    """What went, and whether the target was reached."""
    was = "would" if answer["dry_run"] else "was"
    reached = "be reached" if answer["dry_run"] else "reached"
    total = (
        f"from {size(answer['before_bytes'])} to {size(answer['after_bytes'])}; the target of "
        f"{bound(answer['target_bytes'])} {was}{'' if answer['reached'] else ' not'} {reached}"
    )
    return [*removal(answer), total]


def refreshed(answer: Json) -> list[str]:
    """How many answers were forgotten."""
    return [f"{answer['module']}: {plural(answer['forgotten'], 'cached answer')} forgotten"]


def vulns(answer: Json) -> list[str]:
    """Stored versions that advisories are about, an advisory a line."""
    rows = [
        (f"{each['module']}@{each['version']}", one["id"], one["fixed"] or "none", one["summary"][:60])
        for each in answer["items"]
        for one in each["advisories"]
    ]
    lines = table(("VERSION", "ADVISORY", "FIXED IN", "SUMMARY"), rows) if rows else []
    for each in answer["items"]:
        if each.get("clients"):
            lines.append(f"{each['module']}@{each['version']} went to {', '.join(each['clients'])}")
    shown, total = len(answer["items"]), answer["total"]
    listed = f"; {shown:,} of them listed" if shown < total else ""
    unread = f", of which {answer['unread']:,} could not be read," if answer["unread"] else ""
    database = f"{answer['database']['url']} as of {moment(answer['database']['modified'])}"
    return [*lines, f"advisories{unread} are about {plural(total, 'stored version')}{listed}; {database}"]


def pins(answer: Json) -> list[str]:
    """All pins. Their bytes are those of zips: nothing else would be evicted for room."""
    rows = [
        (each["pattern"], each["source"], f"{each['versions']:,}", size(each["bytes"]))
        for each in answer["items"]
    ]
    lines = table(("PATTERN", "SOURCE", "VERSIONS", "ZIPS"), rows, "VERSIONS ZIPS") if rows else []
    return [*lines, f"pinned: {_pinned(answer['pinned_bytes'], answer['limit_bytes'])}"]


def pin(answer: Json) -> list[str]:
    """One pin."""
    return [f"{answer['pattern']}: {plural(answer['versions'], 'version')}, {size(answer['bytes'])} of zips"]


def passes(answer: Json) -> list[str]:
    """The last passes."""
    rows = [
        (
            each["id"],
            each["reason"],
            each["state"],
            moment(each["started"]),
            "" if each["finished"] is None else moment(each["finished"]),
            {None: "", True: "yes", False: "no"}[each["reached"]],
            size(each["before"]["bytes"]),
            "" if each["after"] is None else size(each["after"]["bytes"]),
            f"{each['evicted']['entries']:,}",
            size(each["evicted"]["bytes"]),
            _scrubbed(each) if "scrubbed" in each else "",
        )
        for each in answer["items"]
    ]
    header = (
        *("ID", "REASON", "STATE", "STARTED", "FINISHED", "REACHED"),
        *("BEFORE", "AFTER", "EVICTED", "FREED", "SCRUBBED"),
    )
    return table(header, rows, "ID BEFORE AFTER EVICTED FREED") if rows else ["no passes yet"]


def scrub(one: Json) -> list[str]:
    """What a scrub found, whether it came to its end or not."""
    ended = "" if one["state"] == "done" else f"{one['state']}, "
    return [f"pass {one['id']}: {ended}{_scrubbed(one)}"]


def _scrubbed(one: Json) -> str:
    found = one.get("scrubbed") or {"entries": 0, "bytes": 0, "corrupt": 0}
    return f"{plural(found['entries'], 'file')}, {size(found['bytes'])}, {found['corrupt']:,} corrupt"


def snapshots(answer: Json) -> list[str]:
    """All snapshots."""
    rows = [
        (each["name"], moment(each["created"]), f"{each['versions']:,}", size(each["bytes"]))
        for each in answer["items"]
    ]
    return table(("NAME", "CREATED", "VERSIONS", "SIZE"), rows, "VERSIONS SIZE") if rows else ["no snapshots"]


def difference(answer: Json) -> list[str]:
    """What came and what went."""
    rows = [
        (sign, f"{each['module']}@{each['version']}", ",".join(each["kinds"]), size(each["bytes"]), why)
        for sign, each, why in [
            *(("+", each, "") for each in answer["came"]),
            *(("-", each, each["reason"]) for each in answer["went"]),
        ]
    ]
    lines = table(("", "VERSION", "FILES", "SIZE", "REASON"), rows, "SIZE") if rows else []
    if answer["truncated"]:
        lines.append("...")
    freed = _listed([f"{name} {size(count)}" for name, count in sorted(answer["freed_by_reason"].items())])
    total = (
        f"from {answer['a']} to {answer['b']}: {size(answer['bytes_came'])} came, "
        f"{size(answer['bytes_freed'])} freed{freed}"
    )
    return [*lines, total]
