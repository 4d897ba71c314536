"""An ASGI application for uvicorn, with nothing in between."""

import json
import os

EDITION = "first edition"


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    method, path = scope["method"], scope["path"]
    if path == "/":
        await page(send, f"{EDITION}, {os.environ['GREETING']}")
    elif path.startswith("/hello/"):
        await page(send, f"Hello, {path.removeprefix('/hello/')}")
    elif (method, path) == ("POST", "/api/echo"):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message.get("more_body", False)
        text = json.loads(body)["text"]
        await answer(send, 200, "application/json", json.dumps({"said": text, "length": len(text)}))
    else:
        await answer(send, 404, "text/plain", "no such page\n")


async def page(send, words):
    title = '<!doctype html><html lang="en"><title>uvicorn</title><link rel="icon" href="/logo.svg">'
    await answer(send, 200, "text/html; charset=utf-8", f"{title}<p>{words}</p></html>")


async def answer(send, status, kind, text):
    body = text.encode()
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
