"""Bodies that come as gzip though nobody asked for it."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

import aiohttp

CHUNK = 256 << 10
"""Bytes that are inflated at once."""


class BadGzip(Exception):
    """What came is no gzip."""


async def gunzip(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Decode gzip, of one member or more, in bounded pieces, between which others have their turn.

    BadGzip: it is none. ClientPayloadError: it ends too early.
    """
    inflate = _inflater()
    async for chunk in chunks:
        left = chunk
        while left:
            if inflate.eof:
                inflate = _inflater()
            try:
                piece = inflate.decompress(left, CHUNK)
            except zlib.error:
                raise BadGzip from None
            left = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            if piece:
                yield piece
            await asyncio.sleep(0)
    while not inflate.eof:
        rest = inflate.decompress(b"", CHUNK)
        if not rest:
            raise aiohttp.ClientPayloadError("the gzip stream is cut off")
        yield rest


def _inflater() -> zlib._Decompress:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)
