// WebSockets pass the entry points untouched, and are closed when the process stops. The client is written by hand, so
// that the test needs nothing but Node.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";

import { TOKEN, connect, installed, missing, probe, start, within } from "../fixtures/harness.mjs";

const HANDSHAKE =
  "GET /ws HTTP/1.1\r\nHost: app\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/** A masked text frame of at most 125 bytes (RFC 6455, 5.2); the mask is zero. */
function textFrame(text) {
  const payload = Buffer.from(text);
  return Buffer.concat([Buffer.from([0x81, 0x80 | payload.length, 0, 0, 0, 0]), payload]);
}

async function echoes(app, { closeCode }) {
  const port = await app.ready();
  assert.equal((await probe(port, TOKEN)).status, 200);
  const socket = await connect(port, HANDSHAKE);
  let seen = Buffer.alloc(0);
  const until = (what, test) =>
    within(what, app, (resolve) => {
      const check = () => test(seen.toString("latin1")) && (socket.off("data", check), resolve());
      socket.on("data", (data) => (seen = Buffer.concat([seen, data])));
      socket.on("data", check);
    });
  await until("the upgrade", (text) => text.includes("\r\n\r\n"));
  // The accept value of the example in RFC 6455, 1.3.
  assert.match(seen.toString("latin1"), /^HTTP\/1\.1 101 [^]*s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=/i);
  socket.removeAllListeners("data");
  seen = Buffer.alloc(0);
  socket.write(textFrame("hi"));
  await until("the echo", (text) => text.includes("\x81\x07echo hi"));
  app.signal();
  await within("the connection's end", app, (resolve) => socket.once("close", resolve));
  assert.deepEqual(await app.end(), { code: 0, signal: null });
  assert.doesNotMatch(app.err, /still open/);
  if (closeCode) assert.ok(seen.includes(Buffer.from([0x88, 0x02, closeCode >> 8, closeCode & 0xff])), "a close frame");
}

for (const runtime of ["bun", "deno"]) {
  test(`${runtime}: its own WebSockets`, { skip: missing(runtime) }, async (t) => {
    await echoes(start(t, runtime, "websocket.mjs"), {});
  });
}

for (const runtime of ["node", "bun", "deno"]) {
  test(`${runtime}: ws`, { skip: missing(runtime) }, async (t) => {
    const { folder, skip } = installed("ws");
    if (skip) return t.skip(skip);
    fs.writeFileSync(
      path.join(folder, "ws.mjs"),
      `import { createServer } from "node:http";
       import { WebSocketServer } from "ws";
       const server = createServer((request, response) => response.end("app page"));
       new WebSocketServer({ server }).on("connection", (socket) => {
         socket.on("message", (data) => socket.send("echo " + data));
       });
       server.listen(3000);`,
    );
    await echoes(start(t, runtime, "ws.mjs", { cwd: folder }), { closeCode: runtime === "node" ? 1001 : undefined });
  });
}
