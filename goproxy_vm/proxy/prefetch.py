"""What VMs are about to ask for, or will want when upstreams are gone, fetched before they do.

``go mod download`` reads the ``.mod`` files of the graph, then asks for the ``.info`` of each version that
it chose, and at last for their zips, a few at a time; ``go get`` and ``go mod tidy`` ask for zip, ``.mod``
and ``.info`` in that order. So whatever is fetched of a version announces its ``.info``: without it a
version is stored in part only. The first request for an ``.info`` whose ``.mod`` was there before it
announces the zip. Looking for newer versions (``go list -m -u``) begins with the ``.info`` and announces
nothing.

What another server like this one asks for announces nothing either: that one fetches ahead by itself, and
two that are upstreams of each other would each wait for what the other is about to ask it for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from goproxy_vm.lru import Lru
from goproxy_vm.protocol.artifact import Artifact, Kind
from goproxy_vm.traffic import backlog
from goproxy_vm.traffic.backlog import Backlog
from goproxy_vm.upstream import trail


class Prefetch:
    """Fetches announced files in the background, those of each kind in the order of their announcement."""

    def __init__(self, fetch: Callable[[Artifact], Awaitable[bool]], *, zips: bool) -> None:
        """``fetch`` brings a file if there is reason to; whether it did. It raises nothing that is to be
        expected. Without ``zips`` only ``.info`` files are fetched (setting prefetch)."""
        self._infos = Backlog(self._bring_info)
        self._zips = Backlog(fetch)
        self._fetch = fetch
        self._ahead = zips
        self._unasked: Lru[str, Artifact] = Lru(backlog.MOST)

    def complete(self, module: str, version: str) -> None:
        """A VM asked for a ``.mod`` or a zip that was missing, or which version is the latest."""
        self._announce(self._infos, Artifact.of(module, version, Kind.INFO))

    def after_info(self, module: str, version: str) -> None:
        """A VM asked for an ``.info`` that was missing where the ``.mod`` is stored."""
        if self._ahead:
            self._announce(self._zips, Artifact.of(module, version, Kind.ZIP))

    def _announce(self, files: Backlog[Artifact], artifact: Artifact) -> None:
        if not any(trail.current()):
            files.announce(artifact)

    def hit(self, path: str) -> None:
        """A VM asked for a stored file, and may have others fetched: it is news if this was fetched ahead."""
        unasked = self._unasked.get(path)
        if unasked is not None:
            self._unasked.forget(path)
            self.after_info(unasked.module, unasked.version)

    def forget(self, matches: Callable[[str, str], bool]) -> None:
        """Begin none of these: they were purged."""
        self._infos.forget(matches)
        self._zips.forget(matches)
        for path, each in self._unasked.items():
            if matches(each.module, each.version):
                self._unasked.forget(path)

    async def close(self) -> None:
        """Begin no more, and cancel what is under way."""
        await self._infos.close()
        await self._zips.close()

    async def _bring_info(self, artifact: Artifact) -> None:
        known = artifact.path in self._unasked  # it was announced twice, and may be under way
        self._unasked.keep(artifact.path, artifact)  # from before it is stored: it may be asked for at once
        if not await self._fetch(artifact) and not known:
            self._unasked.forget(artifact.path)
