"""The application that the short cut is compared with: aiohttp as most would write it."""

from __future__ import annotations

import sys
from pathlib import Path

from aiohttp import web

SMALL = 64 << 10


def main(port: int, tree: Path) -> None:
    """Serve a tree: files up to 64 KiB from memory."""
    memory = {
        f"/{path.relative_to(tree)}": path.read_bytes()
        for path in tree.rglob("*")
        if path.is_file() and path.stat().st_size <= SMALL
    }

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        body = memory.get(request.path)
        if body is not None:
            return web.Response(body=body, content_type="application/octet-stream")
        return web.FileResponse(tree / request.path.lstrip("/"))

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)  # type: ignore[arg-type]  # a Request is a BaseRequest
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
