"""The admin listener: metrics, health, readiness and the API. No VM needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from goproxy_vm.admin.actions import DOCUMENT
from goproxy_vm.admin.call import BASE, BODY_MOST
from goproxy_vm.admin.details import Problem
from goproxy_vm.admin.gauges import gauges
from goproxy_vm.cache.health import readiness
from goproxy_vm.web.identity import SERVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler, Middleware

    from goproxy_vm.admin.api import Api
    from goproxy_vm.cache.store import Store
    from goproxy_vm.observe.metrics import Metrics
    from goproxy_vm.proxy.advisories import AdvisoryWatch
    from goproxy_vm.proxy.ages import Ages

ADMIN_CONNECTIONS = 64
"""Connections of the admin listener at a time."""
LOCAL_CONNECTIONS = 16
"""Connections of the socket in the cache directory: whoever fills the admin listener does not fill it."""
EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"


def api_app(api: Api) -> web.Application:
    """An application that answers the API's requests, and as yet names everything else as not there."""
    # A middleware, not a route: the router would answer some paths before anyone asks for the token.
    app = web.Application(middlewares=[_middleware(api)], client_max_size=BODY_MOST + 1)
    app.on_response_prepare.append(_name)
    return app


def _middleware(api: Api) -> Middleware:
    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api.owns(request):
            return await api(request)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return _nothing_here(request)
        except web.HTTPMethodNotAllowed as error:
            allow = ", ".join(sorted(error.allowed_methods))
            return Problem(405, f"only {allow} here", headers={"Allow": allow}).response()

    return answer


def _nothing_here(request: web.Request) -> web.Response:
    """404, with what there is; for people who have typed the address."""
    paths = sorted({resource.canonical for resource in request.app.router.resources()})
    detail = "nothing is here; modules are served at the addresses of the setting listen"
    return Problem(404, detail, more={"paths": [*paths, f"{BASE}/{DOCUMENT}"]}).response()


async def _name(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER


def admin_app(
    store: Store,
    metrics: Metrics,
    in_flight: Callable[[], int],
    api: Api,
    ages: Ages,
    advisories: AdvisoryWatch | None = None,
) -> web.Application:
    """The application behind ``admin_listen``; ``in_flight`` counts the fetches under way."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text=f"{readiness(store)}\n")

    async def scrape(_: web.Request) -> web.Response:
        report = None if advisories is None else advisories.report
        page = metrics.render(
            gauges(
                await store.figures.status(),
                in_flight(),
                store.vms.releases(),
                ages.aging,
                reached=store.target_reached,
                writable=store.writable,
                vulnerable=None if report is None else report.total,
            )
        )
        return web.Response(body=page, headers={"Content-Type": EXPOSITION})

    app = api_app(api)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    return app
