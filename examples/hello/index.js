// A small app without dependencies that runs on Node, Bun and Deno. On its own: `node index.js`, then
// http://localhost:3000.

import { createServer } from "node:http";

const version = process.env.TAKO_BUILD ?? "dev";
const port = Number(process.env.PORT ?? 3000);

const page = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>hello</title>
<style>body { font: 18px/1.5 system-ui, sans-serif; max-width: 32em; margin: 15vh auto; padding: 0 1em }</style>
<h1>Hello</h1>
<p>This is version <code>${version}</code>, served by process <code>${process.pid}</code>.
<p>Change it and deploy again.
</html>
`;

const server = createServer((request, response) => {
  const path = request.url.split("?", 1)[0];
  response.setHeader("x-version", version);
  if (request.method === "POST" && path === "/echo") {
    response.setHeader("content-type", request.headers["content-type"] ?? "text/plain");
    request.pipe(response);
    return;
  }
  if (request.method !== "GET" && request.method !== "HEAD") return send(response, 405, "text/plain", "no such method\n");
  if (path === "/") return send(response, 200, "text/html; charset=utf-8", page);
  if (path === "/health") return send(response, 200, "application/json", JSON.stringify({ ok: true, version }));
  send(response, 404, "text/plain", "no such page\n");
});

server.listen(port, () => console.log(`hello ${version} listens on port ${server.address().port}`));

function send(response, status, type, body) {
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body) });
  response.end(body);
}
