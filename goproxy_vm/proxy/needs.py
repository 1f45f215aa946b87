"""What of a version's requirements is too young: who lets a version pass may have to let them pass, too."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.protocol.gomod import LOOKED_AT, requirements
from goproxy_vm.protocol.semver import agrees, is_canonical
from goproxy_vm.proxy.asker import Asker
from goproxy_vm.traffic.steps import in_turns

if TYPE_CHECKING:
    from goproxy_vm.proxy.answer import Answer
    from goproxy_vm.proxy.gate import Refusal

MOST = 200
"""Versions that are looked at for one answer."""


@dataclass(frozen=True, slots=True)
class Need:
    """A version that is required, and why its code is refused."""

    module: str
    version: str
    refusal: Refusal


class Needs:
    """Follows what go.mods require, as far as that is too young itself: what is old enough requires nothing
    younger that it was not published with."""

    def __init__(
        self,
        refusal: Callable[[str, str], Awaitable[Refusal | None]],
        file: Callable[[Artifact, Asker], Awaitable[Answer]],
    ) -> None:
        """``refusal`` says why a version's code may not be given; ``file`` answers the request for a file."""
        self._refusal = refusal
        self._file = file

    async def of(self, module: str, version: str) -> tuple[list[Need], bool]:
        """What a version requires that is refused for its age, and whether there may be more. Raises as both
        functions."""
        found: list[Need] = []
        seen = {(module, version)}
        left = deque([(module, version)])
        while left:
            for each in await self._required(*left.popleft()):
                if each in seen:
                    continue
                if len(seen) > MOST:
                    return found, True
                seen.add(each)
                refusal = await self._refusal(*each)
                if refusal is not None and refusal.rule == "age":
                    found.append(Need(*each, refusal))
                    left.append(each)
        return found, False

    async def _required(self, module: str, version: str) -> list[tuple[str, str]]:
        answer = await self._file(Artifact.of(module, version, Kind.MOD), Asker("gate"))
        required = await in_turns(requirements(await answer.read(LOOKED_AT)))
        return [each for each in required if is_canonical(each[1]) and agrees(*each)]
