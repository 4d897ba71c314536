// Every kind of traffic in one app, for the end-to-end tests. No dependencies.

import { createHash } from "node:crypto";
import { createServer } from "node:http";

const VERSION = process.env.TAKO_BUILD ?? "dev";

/** Larger text frames are refused with 1009. */
const MAX_FRAME = 64 << 10;

const pages = {
  "GET /": (request, response) => json(response, { version: VERSION, pid: process.pid }),
  "POST /echo": (request, response) => {
    response.writeHead(200, { "content-type": "application/octet-stream", "x-version": VERSION });
    request.pipe(response);
  },
  "POST /length": (request, response) => {
    let length = 0;
    request.on("data", (bytes) => (length += bytes.length)).on("end", () => json(response, { length }));
  },
  "GET /big": big,
  "GET /slow": (request, response, query) => {
    setTimeout(() => json(response, { version: VERSION }), Number(query.get("ms") ?? 1_000));
  },
  "GET /sse": events,
  "GET /chunked": chunks,
  "GET /env": (request, response, query) => {
    const name = query.get("name") ?? "";
    const value = process.env[name];
    json(response, { present: value !== undefined, ...(name.startsWith("PUBLIC_") && { value }) });
  },
  "GET /secret-hash": (request, response, query) => {
    const value = process.env[query.get("name") ?? ""];
    if (value === undefined) return json(response, { error: "not set" }, 404);
    json(response, { sha256: createHash("sha256").update(value).digest("hex") });
  },
};

createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, "http://app");
  const page = pages[`${request.method} ${pathname}`];
  if (page) page(request, response, searchParams);
  else json(response, { error: "not found" }, 404);
})
  .on("upgrade", webSocket)
  .listen(Number(process.env.PORT ?? 3000));

function json(response, value, status = 200) {
  const body = JSON.stringify(value);
  response.writeHead(status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    "x-version": VERSION,
  });
  response.end(body);
}

/** `mb` megabytes, as fast as they are taken. */
function big(request, response, query) {
  const piece = Buffer.alloc(64 << 10, "x");
  let left = Math.min(Number(query.get("mb") ?? 1), 64) * 16;
  response.writeHead(200, { "content-type": "text/plain", "content-length": left * piece.length });
  const more = () => {
    while (left > 0) if ((left--, !response.write(piece))) return response.once("drain", more);
    response.end();
  };
  more();
}

/** One event every 100 ms until the client leaves. */
function events(request, response) {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store", "x-version": VERSION });
  let sequence = 0;
  const tick = () => response.write(`id: ${sequence}\ndata: {"sequence":${sequence++},"version":"${VERSION}"}\n\n`);
  tick();
  const timer = setInterval(tick, 100);
  response.once("close", () => clearInterval(timer));
}

/** `n` chunks of one line each, each written by itself. */
function chunks(request, response, query) {
  const count = Math.min(Number(query.get("n") ?? 3), 10_000);
  response.writeHead(200, { "content-type": "text/plain", "x-version": VERSION });
  let index = 0;
  const next = () => {
    if (response.destroyed) return;
    if (index === count) response.end();
    else response.write(`chunk ${index++}\n`, () => setImmediate(next));
  };
  next();
}

// -- RFC 6455, as much as an echo server needs: whole text frames, ping, close.

function webSocket(request, socket, head) {
  const { pathname } = new URL(request.url, "http://app");
  const key = request.headers["sec-websocket-key"];
  socket.on("error", () => socket.destroy());
  if (pathname !== "/ws" || !key || String(request.headers.upgrade).toLowerCase() !== "websocket") {
    socket.end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    return;
  }
  // RFC 6455, 4.2.2: the accept value proves that the handshake was understood.
  const accept = createHash("sha1").update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest("base64");
  socket.write(
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
      `Sec-WebSocket-Accept: ${accept}\r\nX-Version: ${VERSION}\r\n\r\n`,
  );
  socket.write(frame(TEXT, Buffer.from(VERSION)));

  let pending = head;
  const read = (bytes) => {
    pending = Buffer.concat([pending, bytes]);
    for (;;) {
      const next = parse(pending);
      if (next === null) return;
      if (next.close) return close(socket, next.close);
      pending = pending.subarray(next.size);
      if (next.opcode === CLOSE) return close(socket, next.payload.length >= 2 ? next.payload.readUInt16BE(0) : 1000);
      if (next.opcode === PING) socket.write(frame(PONG, next.payload));
      if (next.opcode === TEXT) socket.write(frame(TEXT, next.payload));
    }
  };
  socket.on("data", read);
  socket.on("end", () => socket.end());
  if (head.length > 0) read(Buffer.alloc(0));
}

const TEXT = 0x1;
const CLOSE = 0x8;
const PING = 0x9;
const PONG = 0xa;

/** The first frame of `bytes`; null while it is incomplete; `{ close }` when the peer broke the rules. */
function parse(bytes) {
  if (bytes.length < 2) return null;
  const opcode = bytes[0] & 0x0f;
  // RFC 6455, 5.1: a client masks every frame. Fragments and extensions were not agreed upon here.
  if (!(bytes[0] & 0x80) || bytes[0] & 0x70 || !(bytes[1] & 0x80)) return { close: 1002 };
  if (![TEXT, CLOSE, PING, PONG].includes(opcode)) return { close: 1003 };
  let length = bytes[1] & 0x7f;
  if (opcode >= CLOSE && length > 125) return { close: 1002 };
  let at = 2;
  if (length === 126) {
    if (bytes.length < 4) return null;
    length = bytes.readUInt16BE(2);
    at = 4;
  } else if (length === 127) {
    if (bytes.length < 10) return null;
    if (bytes.readBigUInt64BE(2) > BigInt(MAX_FRAME)) return { close: 1009 };
    length = Number(bytes.readBigUInt64BE(2));
    at = 10;
  }
  const size = at + 4 + length;
  if (bytes.length < size) return null;
  const mask = bytes.subarray(at, at + 4);
  const payload = Buffer.from(bytes.subarray(at + 4, size));
  for (let i = 0; i < payload.length; i++) payload[i] ^= mask[i & 3];
  return { opcode, payload, size };
}

function frame(opcode, payload) {
  const { length } = payload;
  const extended = length < 126 ? 0 : length < 65_536 ? 2 : 8;
  const head = Buffer.alloc(2 + extended);
  head[0] = 0x80 | opcode;
  head[1] = extended === 0 ? length : extended === 2 ? 126 : 127;
  if (extended === 2) head.writeUInt16BE(length, 2);
  if (extended === 8) head.writeBigUInt64BE(BigInt(length), 2);
  return Buffer.concat([head, payload]);
}

function close(socket, code) {
  const payload = Buffer.alloc(2);
  payload.writeUInt16BE(code);
  socket.removeAllListeners("data");
  socket.end(frame(CLOSE, payload));
}
