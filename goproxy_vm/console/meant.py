"""What may have been meant by a name that matches nothing stored."""

from __future__ import annotations

import difflib
from shlex import quote
from typing import TYPE_CHECKING, Any

from goproxy_vm.protocol.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MOST = 10_000
"""Stored versions that are looked through."""

Json = dict[str, Any]


class Meant:
    """Compares what was typed with what is stored; ``listed`` has so many versions whose module path begins
    with some text."""

    def __init__(self, listed: Callable[[int, str], Json]) -> None:
        self._listed = listed

    def added(self, said: str, given: Iterable[str]) -> str:
        """``said`` of what matched nothing, with what each of ``given`` may have been meant for behind it.

        Each is a module, ``module@version`` or a glob; of those that nobody can guess nothing is said.
        """
        return "; ".join([said, *filter(None, map(self._hint, given))])

    def _hint(self, given: str) -> str:
        module, at, version = given.partition("@")
        if at and version[:1].isdigit():
            return f"versions begin with a v: {module}@v{version}"
        if any(sign in module for sign in "*?["):
            return ""
        stored = self._stored(module.partition("/")[0])
        meant = Selector([given])
        if any(meant(each["module"], each["version"]) for each in stored):
            return ""  # it is there, and something else was asked of it
        modules = {each["module"] for each in stored}
        if module in modules:
            return f"other versions of it are stored (goproxy-vm ls {quote(module)})"
        if any(each.startswith(f"{module}/") for each in modules):
            return f"modules below it are stored (goproxy-vm ls {quote(f'{module}/*')})"
        lowered = {each.lower(): each for each in sorted(modules)}
        close = difflib.get_close_matches(module.lower(), lowered, n=1, cutoff=0.8)
        return f"did you mean {lowered[close[0]]}{at}{version}?" if close else ""

    def _stored(self, first: str) -> list[Json]:
        """What is stored below a host, or everything: its name may be what was mistyped."""
        for prefix in (f"{first}/", ""):
            if found := self._listed(MOST, prefix)["items"]:
                return list(found)
        return []
