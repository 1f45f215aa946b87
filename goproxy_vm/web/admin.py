"""The admin listener: metrics, health, readiness and the API. No VM needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from goproxy_vm.web import pages
from goproxy_vm.web.call import BODY_MOST
from goproxy_vm.web.gauges import gauges

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler, Middleware

    from goproxy_vm.cache.store import Store
    from goproxy_vm.observe.metrics import Metrics
    from goproxy_vm.web.api import Api

EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def api_app(api: Api) -> web.Application:
    """An application that answers the API's requests, and as yet nothing else."""
    # A middleware, not a route: the router would answer some paths before anyone asks for the token.
    return web.Application(middlewares=[_middleware(api)], client_max_size=BODY_MOST + 1)


def _middleware(api: Api) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await (api(request) if api.owns(request) else handler(request))

    return answer


def admin_app(store: Store, metrics: Metrics, in_flight: Callable[[], int], api: Api) -> web.Application:
    """The application behind ``admin_listen``; ``in_flight`` counts the fetches under way."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text=f"{pages.readiness(store)}\n")

    async def scrape(_: web.Request) -> web.Response:
        page = metrics.render(
            gauges(
                await store.figures.status(),
                in_flight(),
                reached=store.target_reached,
                writable=store.writable,
            )
        )
        return web.Response(body=page, headers={"Content-Type": EXPOSITION})

    app = api_app(api)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    return app
