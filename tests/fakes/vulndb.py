"""A Go vulnerability database of our own, laid out as vuln.go.dev is."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DAY = "2026-01-02T03:04:05Z"
NEXT_DAY = "2026-01-03T03:04:05Z"


def entry(
    id_: str,
    affected: Mapping[str, Iterable[Mapping[str, str]] | None],
    *,
    modified: str = DAY,
    symbols: Mapping[str, list[str]] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """An advisory: ``affected`` has the events of each module, ``symbols`` those of each package."""
    imports = [{"path": path, "symbols": names} for path, names in (symbols or {}).items()]
    return {
        "schema_version": "1.3.1",
        "id": id_,
        "modified": modified,
        "published": DAY,
        "aliases": [f"CVE-{id_[3:]}"],
        "summary": f"Trouble {id_}",
        "details": "It is bad.",
        "affected": [
            {
                "package": {"name": module, "ecosystem": "Go"},
                "ranges": [{"type": "SEMVER", "events": list(events)}] if events is not None else [],
                "ecosystem_specific": {"imports": imports},
            }
            for module, events in affected.items()
        ],
        "database_specific": {"url": f"https://pkg.go.dev/vuln/{id_}", "review_status": "REVIEWED"},
        **more,
    }


def documents(entries: Iterable[Mapping[str, Any]], modified: str | None = None) -> dict[str, bytes]:
    """The database's files by their paths without a slash, each plain and packed."""
    entries = list(entries)
    newest = modified or max((each["modified"] for each in entries), default=DAY)
    modules: dict[str, list[dict[str, str]]] = {}
    for each in entries:
        for affected in each["affected"]:
            events = [event for range_ in affected["ranges"] for event in range_["events"]]
            listed = {"id": each["id"], "modified": each["modified"]}
            if events and "fixed" in events[-1]:
                listed["fixed"] = events[-1]["fixed"]
            modules.setdefault(affected["package"]["name"], []).append(listed)
    plain: dict[str, Any] = {
        "index/db.json": {"modified": newest},
        "index/modules.json": [{"path": path, "vulns": vulns} for path, vulns in sorted(modules.items())],
        "index/vulns.json": [{key: each[key] for key in ("id", "modified", "aliases")} for each in entries],
        **{f"ID/{each['id']}.json": each for each in entries},
    }
    found = {path: json.dumps(value).encode() for path, value in plain.items()}
    return found | {f"{path}.gz": gzip.compress(data, mtime=0) for path, data in found.items()}


def write(directory: Path, files: Mapping[str, bytes], *, packed: bool = True) -> None:
    """Lay the files out in a directory, with or without the packed ones."""
    for path, data in files.items():
        if packed or not path.endswith(".gz"):
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
