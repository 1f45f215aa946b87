"""What the loop has under way, by the names that the package gives its tasks."""

from __future__ import annotations

import asyncio


def under_way(name: str) -> bool:
    """Whether a task of that name has not ended."""
    return any(task.get_name() == name for task in asyncio.all_tasks())


async def ended(name: str) -> None:
    """Wait until no task of that name is under way, and who is told of its end has been."""
    while under_way(name):
        await asyncio.sleep(0)
    await asyncio.sleep(0)
