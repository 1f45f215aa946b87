"""The admin listener: metrics, health and readiness. No VM needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from goproxy_vm.web import pages

if TYPE_CHECKING:
    from goproxy_vm.cache.store import Store
    from goproxy_vm.observe.metrics import Metrics

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def admin_app(store: Store, metrics: Metrics) -> web.Application:
    """The application behind ``admin_listen``."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text=f"{pages.readiness(store)}\n")

    async def scrape(_: web.Request) -> web.Response:
        return web.Response(body=metrics.render(), headers={"Content-Type": EXPOSITION})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    return app
