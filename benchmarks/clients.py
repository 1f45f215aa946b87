"""A client as a process of its own: many requests at once for the numbered versions of a module.

``python -m benchmarks.clients URL PATTERN COUNT AT_ONCE``: ``{}`` in the pattern stands for the number.
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp


async def main(url: str, pattern: str, count: int, at_once: int) -> None:
    """Ask for all of them once."""
    numbers = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=at_once)) as session:

        async def one() -> None:
            for number in numbers:
                async with session.get(url + pattern.format(number)) as response:
                    await response.read()

        await asyncio.gather(*(one() for _ in range(at_once)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
