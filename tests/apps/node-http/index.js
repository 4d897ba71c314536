// Node's own HTTP server: pages, a JSON route, and a stream of server-sent events.

import { createServer } from "node:http";

const EDITION = "first edition";

const page = (words) => `<!doctype html><html lang="en"><title>node:http</title><link rel="icon" href="/logo.svg"><p>${words}</p></html>`;

createServer(async (request, response) => {
  const url = new URL(request.url, "http://localhost");
  const name = url.pathname.match(/^\/hello\/([^/]+)$/)?.[1];
  if (url.pathname === "/") {
    response.setHeader("content-type", "text/html; charset=utf-8");
    response.end(page(`${EDITION}, ${process.env.GREETING}`));
  } else if (name) {
    response.setHeader("content-type", "text/html; charset=utf-8");
    response.end(page(`Hello, ${decodeURIComponent(name)}`));
  } else if (url.pathname === "/api/echo" && request.method === "POST") {
    let body = "";
    for await (const chunk of request) body += chunk;
    const { text } = JSON.parse(body);
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ said: text, length: text.length }));
  } else if (url.pathname === "/events") {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    let count = 0;
    const timer = setInterval(() => response.write(`data: ${++count}\n\n`), 50);
    response.on("close", () => clearInterval(timer));
  } else {
    response.writeHead(404, { "content-type": "text/plain" });
    response.end("no such page\n");
  }
}).listen(process.env.PORT ?? 3000);
