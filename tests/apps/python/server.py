#!/usr/bin/env python3
"""The standard library's own server, threaded, with kept connections."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EDITION = "first edition"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/":
            self.page(f"{EDITION}, {os.environ['GREETING']}")
        elif self.path.startswith("/hello/"):
            self.page(f"Hello, {self.path.removeprefix('/hello/')}")
        else:
            self.answer(404, "text/plain", "no such page\n")

    def do_POST(self):
        text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"]
        self.answer(200, "application/json", json.dumps({"said": text, "length": len(text)}))

    def page(self, words):
        title = '<!doctype html><html lang="en"><title>Python</title><link rel="icon" href="/logo.svg">'
        self.answer(200, "text/html; charset=utf-8", f"{title}<p>{words}</p></html>")

    def answer(self, status, kind, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
