// Listens and serves, but says that it is ill: its deploy has to fail by its health.

import { createServer } from "node:http";

const server = createServer((request, response) => {
  const ill = request.url.split("?", 1)[0] === "/healthz";
  response.writeHead(ill ? 500 : 200, { "content-type": "text/plain" });
  response.end(ill ? "the queue is unreachable\n" : "a page\n");
});
server.listen(Number(process.env.PORT ?? 3000), process.env.HOST ?? "127.0.0.1", () => {
  console.log(`TAKO:READY:${server.address().port}`);
});
