"""Whether the bytes of a version are the right ones: h1 in, verdict out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from goproxy_vm.errors import ContentError
from goproxy_vm.observe.logs import get_logger

if TYPE_CHECKING:
    from goproxy_vm.cache.store import Store

Kind = Literal["mod", "zip"]
log = get_logger("proof")


class Proof(Protocol):
    """The evidence about one version, gathered while its file is downloaded."""

    async def verdict(self, kind: Kind, h1: str) -> None:
        """Return if ``h1`` is right for this version's file; raise ContentError if it is not."""
        ...

    def cancel(self) -> None:
        """Give up gathering: the download failed."""
        ...


class Proofs(Protocol):
    """Where proofs come from. ``begin`` does no waiting: it starts what can run beside the download."""

    def begin(self, module: str, version: str) -> Proof:
        """Start to gather the evidence about a version."""
        ...


class HeldToKnown:
    """Holds each file to the h1 that this server saw first, for as long as it lives (CACHE: ``known``).

    A version whose bytes change later is refused and logged, never overwritten: so Go itself treats
    a module version that differs from go.sum.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self, module: str, version: str) -> Proof:
        """Nothing has to be fetched for this proof."""
        return _Held(self._store, module, version)


class _Held:
    def __init__(self, store: Store, module: str, version: str) -> None:
        self._store = store
        self._module = module
        self._version = version

    async def verdict(self, kind: Kind, h1: str) -> None:
        known = await self._store.known(self._module, self._version)
        held = known.mod if kind == "mod" else known.zip
        if held is not None and held != h1:
            log.error(
                "content changed", module=self._module, version=self._version, kind=kind, known=held, got=h1
            )
            raise ContentError(f"its {kind} has {h1} but was {held} when first seen; refused")

    def cancel(self) -> None:
        pass
