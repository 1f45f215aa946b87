"""Upstreams for the benchmarks: one that counts what it is asked, and may take its time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aiohttp import web


@contextmanager
def counting(tree: Path, delay: float = 0.0) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """Serve a tree in a thread, 404s ``delay`` seconds late; its URL, and the paths asked for so far."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        file = tree / request.path.lstrip("/")
        if file.is_file():
            return web.FileResponse(file)
        await asyncio.sleep(delay)
        return web.Response(status=404)

    loop = asyncio.new_event_loop()
    ready: list[str] = []
    started = threading.Event()

    async def serve() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/{path:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        ready.append(f"http://{host}:{port}")
        started.set()
        return runner

    def work() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(serve())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    started.wait(10)
    try:
        yield ready[0], lambda: list(asked)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
