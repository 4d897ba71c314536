"""The client half of the WebSocket matrix, by Python's `websockets`; `client.mjs` is its twin.

    python client.py ws[s]://ADDRESS HOST
Says `ok NAME` for each check and ends with 0, or raises at the first that fails.

Not the client with threads: over TLS its reads time out now and then, with no proxy of ours in between too.
"""

import asyncio
import os
import secrets
import ssl
import sys

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

BASE, HOST = sys.argv[1:]
SIZES = [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20]
# RFC 6455, 7.4; 1005 is how "no code" is told.
CODES = [1000, 1001, 3000, 3999, 4000, 4999, 1005]
PATIENCE = 60
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
TLS.check_hostname = False  # self-signed, and not what is tested
TLS.verify_mode = ssl.CERT_NONE


async def dial(path, **options):
    scheme, address = BASE.split("://")
    name, port = address.split(":")
    if scheme == "wss":
        options["ssl"] = TLS
    options = {"compression": None, "ping_interval": None, "max_size": 32 << 20} | options
    patience = {"open_timeout": PATIENCE, "close_timeout": PATIENCE}
    return await connect(f"{scheme}://{HOST}:{port}{path}", host=name, port=port, **patience, **options)


async def receive(peer):
    return await asyncio.wait_for(peer.recv(), PATIENCE)


async def expect(peer, expected):
    got = await receive(peer)
    assert got == expected, f"{got[:100]!r} for {expected[:100]!r}"


async def end(peer):
    await peer.close(1000)
    assert peer.close_code == 1000, peer.close_code


async def sizes():
    peer = await dial("/echo")
    assert "Sec-WebSocket-Extensions" not in peer.response.headers
    for size in SIZES:
        sent = os.urandom(size)
        await peer.send(sent)
        assert await receive(peer) == sent, f"{size} bytes"
    await peer.send("größer")
    await expect(peer, "größer")
    await end(peer)


async def many_at_once():
    peer = await dial("/echo")
    words = [f"message {n}" for n in range(2_000)]

    async def send():
        for word in words:
            await peer.send(word)

    # Both at once: a peer that only writes would wait for itself.
    sending = asyncio.create_task(send())
    for word in words:
        await expect(peer, word)
    await sending
    await end(peer)


async def fragments_both_ways():
    peer = await dial("/fragments")
    for size in [3, 300, 200_000]:
        sent = os.urandom(size)
        await peer.send([sent[: size // 3], b"", sent[size // 3 :]])
        await expect(peer, sent)
    await end(peer)


async def pings_both_ways():
    peer = await dial("/ping")
    await expect(peer, "pong tako")
    for size in [0, 1, 125]:
        await asyncio.wait_for(await peer.ping(os.urandom(size)), PATIENCE)
    await end(peer)


async def the_server_closes():
    for code in CODES:
        peer = await dial(f"/close/{0 if code == 1005 else code}")
        try:
            raise AssertionError(await receive(peer))
        except ConnectionClosed:
            assert (peer.close_code, peer.close_reason) == (code, "" if code == 1005 else "tschüß")


async def the_client_closes():
    for code in CODES:
        token = secrets.token_hex(8)
        peer = await dial(f"/seen/{token}")
        if code == 1005:
            async with peer.send_context():
                peer.protocol.send_close()
        else:
            await peer.close(code, "adiós")
        report = await dial(f"/report/{token}")
        await expect(report, "1005 " if code == 1005 else f"{code} adiós")
        await end(report)


async def the_server_speaks_with_its_101():
    for _ in range(20):
        peer = await dial("/first")
        await expect(peer, "first")
        await peer.send("second")
        await expect(peer, "second")
        await end(peer)


class Early(ClientConnection):
    """Sends the head of the request and a frame in one piece: the frame is there before the answer is."""

    # A masked text frame (RFC 6455, 5.2); the mask is zero.
    frame = b"\x81\x85\0\0\0\0early"

    def send_data(self):
        if self.frame:
            self.protocol.writes[-1] += self.frame
            self.frame = b""
        super().send_data()


async def the_client_speaks_with_its_request():
    for path, words in [("/echo", ["early"]), ("/first", ["first", "early"])]:
        peer = await dial(path, create_connection=Early)
        for word in words:
            await expect(peer, word)
        await end(peer)


async def permessage_deflate():
    plain = ClientPerMessageDeflateFactory()
    bound = ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_max_window_bits=10)
    for offer, agreed in [(plain, "permessage-deflate"), (bound, "server_no_context_takeover")]:
        peer = await dial("/echo", extensions=[offer])
        assert agreed in peer.response.headers["Sec-WebSocket-Extensions"]
        assert [extension.name for extension in peer.protocol.extensions] == ["permessage-deflate"]
        for sent in ["tako " * 200_000, os.urandom(100_000).hex(), ""]:
            await peer.send(sent)
            await expect(peer, sent)
        await end(peer)


async def subprotocols():
    for offered, agreed in [(["one", "two"], ["two"]), (["three", "two"], ["two", "three"]), (None, [""])]:
        peer = await dial("/protocol", subprotocols=offered)
        told = await receive(peer)
        assert told in agreed and (peer.subprotocol or "") == told, f"{told!r} and {peer.subprotocol!r}"
        await end(peer)


async def main():
    for check in [
        sizes,
        many_at_once,
        fragments_both_ways,
        pings_both_ways,
        the_server_closes,
        the_client_closes,
        the_server_speaks_with_its_101,
        the_client_speaks_with_its_request,
        permessage_deflate,
        subprotocols,
    ]:
        await check()
        print("ok", check.__name__.replace("_", " "), flush=True)


asyncio.run(main())
