"""Pages for people and probes: the landing page, ``robots.txt``, health."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from goproxy_vm import __version__
from goproxy_vm.cache.health import readiness
from goproxy_vm.config.text import percent, size

if TYPE_CHECKING:
    from goproxy_vm.cache.store import Store
    from goproxy_vm.config import Settings
    from goproxy_vm.observe.traffic import Served

ROBOTS = b"User-agent: *\nDisallow: /\n"

_LANDING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>goproxy_vm on {host}</title>
<style>
body{{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#222}}
pre{{background:#f3f4f6;padding:.8rem 1rem;border-radius:.4rem;overflow-x:auto}}
td{{padding:.1rem 1rem .1rem 0}}
@media(prefers-color-scheme:dark){{body{{background:#111;color:#ddd}}pre{{background:#222}}}}</style></head>
<body><h1>goproxy_vm</h1>
<p>On a VM, run</p>
<pre>{commands}</pre>
<p>or, for its caches and toolchains too, <code>curl -fsS {url}/vm/setup.sh | sh</code>
(<a href="{url}/vm/setup.sh">read it first</a>)</p>
<p>A Go module proxy for every VM on this host: each module is fetched once, checked, and kept here.</p>
<table>
<tr><td>Module versions stored</td><td>{versions} in {files} files, {size}</td></tr>
<tr><td>Served from here</td><td>{served}</td></tr>
<tr><td>Upstreams</td><td>{upstreams}</td></tr>
<tr><td>Checksum database</td><td>{sumdb}</td></tr>
<tr><td>State</td><td>{state}</td></tr>
</table>
<p>goproxy_vm {version}</p></body></html>
"""


async def landing(store: Store, settings: Settings, upstreams: list[str], served: Served, url: str) -> bytes:
    """The landing page for a validated ``url`` of this server; ``served`` since its start."""
    statistics = await store.figures.statistics()
    commands = [f"go env -w GOPROXY={url}"]
    if settings.exempt:
        # Not GOPRIVATE: that would have the VM go around this proxy.
        commands.append(f"go env -w GONOSUMDB={settings.exempt}")
    values = {
        "host": url.partition("://")[2],
        "url": url,
        "commands": "\n".join(commands),
        "versions": f"{statistics.versions:,}",
        "files": f"{statistics.files:,}",
        "size": size(statistics.bytes),
        "served": _ratio(served),
        "upstreams": "none (offline)" if settings.offline else ", ".join(upstreams),
        "sumdb": settings.sumdb.name if settings.sumdb else "off",
        "state": readiness(store),
        "version": __version__,
    }
    return _LANDING.format_map({key: html.escape(value) for key, value in values.items()}).encode()


def _ratio(served: Served) -> str:
    hits, found = served.hits, served.decided
    if not found:
        return "nothing yet"
    return f"{hits:,} of {found:,} requests ({percent(hits, found)}), {size(served.saved_bytes)}"
