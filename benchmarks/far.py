"""A stretch of road: an HTTP proxy on loopback that delays what passes, to put an upstream further away.

``python -m benchmarks.far PORT MILLISECONDS``: CONNECT only; a round trip takes so much longer. A connection
costs what it costs on a long road, too: TCP's own round trip, then TLS's.
"""

from __future__ import annotations

import asyncio
import sys

LIMIT = 1 << 18


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Pass bytes on, each so many seconds after it came, as many at once as there are."""
    clock = asyncio.get_running_loop().time
    road: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=256)

    async def deliver() -> None:
        while True:
            due, data = await road.get()
            await asyncio.sleep(max(0.0, due - clock()))
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    delivering = asyncio.create_task(deliver())
    try:
        while data := await reader.read(LIMIT):
            await road.put((clock() + delay, data))
        await road.put((clock() + delay, b""))
        await delivering
    except OSError:
        delivering.cancel()
        writer.close()


async def main(port: int, milliseconds: float) -> None:
    """Serve until it is ended."""
    way = milliseconds / 2000

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            host, _, number = head.split()[1].decode().rpartition(":")
            await asyncio.sleep(2 * way)
            theirs = await asyncio.open_connection(host, int(number), limit=LIMIT)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(pump(reader, theirs[1], way), pump(theirs[0], writer, way))

    server = await asyncio.start_server(handle, "127.0.0.1", port, limit=LIMIT)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2])))
