"""What ``min_age`` refuses, and what is said about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from goproxy_vm.proxy.gate import Refusal

if TYPE_CHECKING:
    from goproxy_vm.proxy.ages import Age, Ages
    from goproxy_vm.proxy.gate import Gate

Fixed = Callable[[str, str], Awaitable[bool]]

_SPANS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


class AgeLimit:
    """Versions that are too young. Neither exempted ones nor those that an advisory names as ``fixed`` are:
    a fix is what nobody should wait for."""

    def __init__(self, gate: Gate, ages: Ages | None = None, fixed: Fixed | None = None) -> None:
        """Without ``ages`` none is."""
        self._gate = gate
        self._ages = ages
        self._fixed = fixed

    @property
    def on(self) -> bool:
        """Whether any version may be too young."""
        return self._ages is not None and self._ages.on

    async def age(self, module: str, version: str) -> Age | None:
        """How old a version is; None where that is not asked. NoRecord, Unproven, Unavailable: nobody can
        tell now."""
        if self._ages is None or not self._ages.on:
            return None
        return await self._ages.judge(module, version, bring=True)

    async def refusal(self, module: str, version: str) -> Refusal | None:
        """Why a version's code may not be given, if it is too young. Raises as :meth:`age`."""
        if self._gate.old_enough(module, version):
            return None
        age = await self.age(module, version)
        if age is None or age.passes or await self._is_fix(module, version):
            return None
        return _refused(module, version, age, self._least)

    async def hidden(self, module: str, versions: Sequence[str]) -> frozenset[str]:
        """Versions of a list, which is in order, that are not to be offered: too young, or of unknown age."""
        young = await self._ages.young(module, versions) if self._ages is not None else ()
        return frozenset(
            [
                version
                for version in young
                if not self._gate.old_enough(module, version) and not await self._is_fix(module, version)
            ]
        )

    def younger(self) -> str:
        """What all of them are, in words."""
        return f"younger than {span(self._least)} (setting min_age)"

    @property
    def _least(self) -> float:
        return 0.0 if self._ages is None else self._ages.aging.min_age

    async def _is_fix(self, module: str, version: str) -> bool:
        return self._fixed is not None and await self._fixed(module, version)


def _refused(module: str, version: str, age: Age, least: float) -> Refusal:
    limit = f"and this host offers nothing younger than {span(least)} (setting min_age)"
    if age.seconds is None:
        why = f"not provably {span(least)} old, and this host offers nothing younger (setting min_age)"
    elif age.evidence == "unlogged" and age.committed is not None:
        committed = f"{datetime.fromtimestamp(age.committed, UTC):%Y-%m-%d}"
        why = f"in the checksum database for {span(age.seconds)} only, though committed {committed}, {limit}"
    else:
        unproven = " by its commit's time, unproven" if age.evidence == "time" else ""
        why = f"published {span(age.seconds)} ago{unproven}, {limit}"
    then = ""
    if age.passes_after is not None:
        then = f"; passes after {datetime.fromtimestamp(age.passes_after, UTC):%Y-%m-%d %H:%M} UTC"
        then += f", or: goproxy-vm exempt {module}@{version}"
    return Refusal("age", why, whole=False, then=then)


def span(seconds: float) -> str:
    """A duration by its largest two units, as in ``2 d 3 h``."""
    left, words = round(seconds), list[str]()
    for unit, length in _SPANS:
        count, left = divmod(left, length)
        if words or count:
            words += [f"{count} {unit}"] if count else []
            if not count or len(words) == 2:
                break
    return " ".join(words) or "0 s"
