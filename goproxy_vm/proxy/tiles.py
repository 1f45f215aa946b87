"""Authenticated tiles in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

from goproxy_vm.protocol.tlog import Tile


class Tiles(Mapping[Tile, bytes]):
    """The ``most`` tiles used last, by their place: each lookup needs those at the top of the tree."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tiles: OrderedDict[Tile, bytes] = OrderedDict()

    def __getitem__(self, place: Tile) -> bytes:
        data = self._tiles[place]
        self._tiles.move_to_end(place)
        return data

    def __iter__(self) -> Iterator[Tile]:
        return iter(self._tiles)

    def __len__(self) -> int:
        return len(self._tiles)

    def keep(self, place: Tile, data: bytes) -> None:
        """Remember a tile; the one that was used least recently goes."""
        self._tiles[place] = data
        self._tiles.move_to_end(place)
        if len(self._tiles) > self._most:
            self._tiles.popitem(last=False)

    def forget(self, place: Tile) -> None:
        """It is not what is stored."""
        self._tiles.pop(place, None)
