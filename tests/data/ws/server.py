"""The server half of the WebSocket matrix, by Python's `websockets`. What the paths mean is told in server.mjs."""

import asyncio
import os
import socket

from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

closes: dict[str, asyncio.Future] = {}


def close(token):
    return closes.setdefault(token, asyncio.get_running_loop().create_future())


def cork(connection, on):
    stream = connection.transport.get_extra_info("socket")
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, on)


def first_known(connection, offered):
    # Its own way refuses a client that offers none.
    return next((protocol for protocol in offered if protocol in ["two", "three"]), None)


def before_101(connection, request, response):
    # So that what is said at once goes out in one piece with the 101.
    if request.path == "/first":
        cork(connection, 1)


async def echo(peer):
    async for message in peer:
        await peer.send(message)


async def in_fragments(peer):
    async for message in peer:
        third = (len(message) + 2) // 3
        await peer.send([message[n * third : (n + 1) * third] for n in range(3)])


async def end(peer, code):
    if code:
        return await peer.close(code, "tschüß")
    async with peer.send_context():
        peer.protocol.send_close()


async def serve_one(peer):
    _, what, *rest = peer.request.path.split("/")
    try:
        match what:
            case "echo":
                await echo(peer)
            case "first":
                await peer.send("first")
                cork(peer, 0)
                await echo(peer)
            case "fragments":
                await in_fragments(peer)
            case "protocol":
                await peer.send(peer.subprotocol or "")
                await peer.wait_closed()
            case "ping":
                await (await peer.ping("tako"))
                await peer.send("pong tako")
                await peer.wait_closed()
            case "close":
                await end(peer, int(rest[0]))
            case "seen":
                await peer.wait_closed()
                close(rest[0]).set_result(f"{peer.close_code} {peer.close_reason}")
            case "report":
                await peer.send(await close(rest[0]))
                await peer.wait_closed()
    except ConnectionClosed:
        pass  # which is what the client is asked about


async def main():
    # Deflate is agreed on only when the client offers it.
    async with serve(
        serve_one,
        "127.0.0.1",
        int(os.environ["PORT"]),
        max_size=32 << 20,
        select_subprotocol=first_known,
        process_response=before_101,
        ping_interval=None,
    ) as server:
        await server.serve_forever()


asyncio.run(main())
