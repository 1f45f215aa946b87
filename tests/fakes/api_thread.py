"""The admin API with fake operations behind it, in a thread: commands block."""

from __future__ import annotations

import asyncio
import threading
from typing import Self

from aiohttp import web

from goproxy_vm.admin.api import Api
from goproxy_vm.admin.app import api_app
from goproxy_vm.admin.auth import Guard
from tests.fakes.gatekeeping import every_route
from tests.fakes.operations import FakeOperations


class ApiThread:
    """``with ApiThread(token) as api``: ``url`` is the admin URL, ``operations`` what is behind it."""

    def __init__(self, token: str, *, path: str | None = None) -> None:
        self.operations = FakeOperations()
        self.url = ""
        self._token = token
        self._path = path
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = api_app(Api(every_route(self.operations), Guard(self._token)))
        runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(self._start(runner))
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _start(self, runner: web.AppRunner) -> None:
        await runner.setup()
        site = web.UnixSite(runner, self._path) if self._path else web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"unix:{self._path}" if self._path else f"http://127.0.0.1:{runner.addresses[0][1]}"
