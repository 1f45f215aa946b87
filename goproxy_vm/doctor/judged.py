"""The settings that are judged: the running server's own, whatever was read here."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from goproxy_vm.config import Shown, keys
from goproxy_vm.config.text import MASKED, printable
from goproxy_vm.upstream.environment import proxy_variables, with_proxies

if TYPE_CHECKING:
    from collections.abc import Mapping

    from goproxy_vm.config import Loaded, Settings
    from goproxy_vm.doctor.elsewhere import Told


@dataclass(frozen=True, slots=True)
class Judged:
    """``settings`` and ``environ`` (for its proxies) are those that count.

    ``differences`` are sentences, one for each that is not as it was read here; ``expected`` says that all of
    them come from flags or variables of the server, which nobody here can know. ``secret`` are those that the
    server has otherwise and does not tell, for they hold passwords.
    """

    settings: Settings
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    differences: tuple[str, ...] = ()
    expected: bool = True
    secret: tuple[str, ...] = ()


def judge(loaded: Loaded, told: Told, environ: Mapping[str, str] = os.environ) -> Judged:
    """What counts beside a server that says what it runs with.

    A flag of the command itself is kept: who gives one asks about its value. Neither the cache directory nor
    the token is looked at: the one is how the server was found, and another check tries the other.
    """
    if not told.settings:
        return Judged(loaded.settings)
    taken: dict[str, Any] = {
        name: value
        for name, value in (("listen", told.listen), ("admin_listen", told.admin_listen))
        if value and not loaded.origins[name].origin.startswith("flag")
    }
    differences: list[str] = []
    secret: list[str] = []
    expected = True
    table = keys()
    for name, there in told.settings.items():
        here = loaded.origins.get(name)
        if here is None or name == "cache_dir" or table[name].hidden or here.value == there.value:
            continue
        text = _text(there.value)
        mine = here.origin.startswith("flag")
        masked = table[name].secret and MASKED in text
        if not masked:
            try:
                value = table[name].form.parse(text)
            except ValueError:  # of another version, or it names what only the server can read
                masked = True
            else:
                if value == getattr(loaded.settings, name):
                    continue
                if not mine:
                    taken.setdefault(name, value)
        differences.append(_difference(name, there, here, mine=mine))
        expected = expected and _unknowable(there, here)
        if masked and not mine:
            secret.append(name)
    own = proxy_variables(environ)
    if own != told.proxies:
        for name in sorted({*own, *told.proxies}):
            theirs, ours = told.proxies.get(name, ""), own.get(name, "")
            if theirs != ours:
                differences.append(f"{name} is {theirs or 'not set'} there, {ours or 'not set'} here")
                secret += [name] if MASKED in theirs else []
        environ = with_proxies(environ, told.proxies)
    settings = replace(loaded.settings, **taken)
    return Judged(settings, environ, tuple(map(printable, differences)), expected, tuple(secret))


def _difference(name: str, there: Shown, here: Shown, *, mine: bool) -> str:
    return (
        f"{name} is {json.dumps(there.value)} there ({there.origin}), {json.dumps(here.value)} here "
        f"({here.origin}{', which the checks use' if mine else ''})"
    )


def _unknowable(there: Shown, here: Shown) -> bool:
    """Whether the server has it from where nobody else can look, and nobody says otherwise here."""
    flag = there.origin.startswith("flag")
    return flag or (there.origin.startswith("environment") and here.origin.startswith("default"))


def _text(value: str | float | bool | list[str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, list) else str(value)
