// Entry point for Node: `node node.mjs <main>`, in the app's folder.
//
// The main module runs as if Node had been started with it (`require.main`, `process.argv`), after the bootstrap
// message was read and `node:http` prepared. A fetch handler that it exports is served by the adapter below.

import * as fs from "node:fs";
import http from "node:http";
import Module from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

import { begin, fdWriter, patchHttp, pipeReader } from "./core.mjs";

const MAIN = process.argv[2];

const writeErr = fdWriter(fs, 2);

function fail(line) {
  writeErr(`${line}\n`);
  process.exit(1);
}

if (!MAIN) fail("usage: node node.mjs <main>");

const tako = begin({
  name: "node",
  pid: process.pid,
  env: process.env,
  readPipe: pipeReader(fs),
  writeOut: fdWriter(fs, 1),
  writeErr,
  fail,
  exit: (code) => process.exit(code),
  onSignal: (signal, run) => process.on(signal, run),
  hasOtherHandlers: (signal) => process.listenerCount(signal) > 1,
  onIdle: (run) => process.once("beforeExit", run),
});
patchHttp(http, tako);

const file = path.resolve(MAIN);
process.argv.splice(1, 2, file);
// What Node does with its first argument; an error in the module is reported and ends the process as ever.
Module.runMain(file);
const namespace = await import(pathToFileURL(mainFile())).catch(() => new Promise(() => {}));
tako.loaded(namespace, MAIN, serve);

/** The file that was meant: `runMain` also takes a folder or a name without its ending. */
function mainFile() {
  try {
    return Module.createRequire(file).resolve(file);
  } catch {
    return file;
  }
}

function serve({ fetch }) {
  if (!fetch) return;
  const server = http.createServer((request, response) => answer(fetch, request, response));
  const { hostname, port } = tako.address;
  server.listen(port, hostname, () => {
    if (!tako.managed) writeErr(`listening on http://${hostname}:${server.address().port}\n`);
  });
}

// -- The adapter: a fetch handler behind `node:http`.

/** Ours to say, not the app's: how the message is framed on this connection (RFC 9110, 7.6.1). */
const HOP_BY_HOP = new Set(["connection", "keep-alive", "transfer-encoding", "upgrade"]);

async function answer(fetch, incoming, outgoing) {
  const gone = new AbortController();
  outgoing.once("close", () => {
    if (!outgoing.writableFinished) gone.abort(new DOMException("the client has gone", "AbortError"));
  });

  let request;
  try {
    request = toRequest(incoming, outgoing, gone.signal);
  } catch {
    return plain(outgoing, 400, "Bad Request");
  }
  try {
    const response = await fetch(request, { remoteAddr: remoteAddr(incoming) });
    await send(response, outgoing, incoming.method === "HEAD");
  } catch (error) {
    if (gone.signal.aborted) return;
    writeErr(`tako: ${incoming.method} ${incoming.url.split("?", 1)[0]} failed: ${error?.stack ?? error}\n`);
    // Half a response must not look like a whole one.
    if (outgoing.headersSent) outgoing.destroy();
    else plain(outgoing, 500, "Internal Server Error");
  }
}

function remoteAddr({ socket }) {
  return { transport: "tcp", hostname: socket.remoteAddress, port: socket.remotePort };
}

function plain(outgoing, status, text) {
  for (const name of outgoing.getHeaderNames()) outgoing.removeHeader(name);
  outgoing.writeHead(status, { "content-type": "text/plain; charset=utf-8" });
  outgoing.end(`${text}\n`);
}

function toRequest(incoming, outgoing, signal) {
  const { method, rawHeaders } = incoming;
  const headers = new Headers();
  for (let i = 0; i < rawHeaders.length; i += 2) headers.append(rawHeaders[i], rawHeaders[i + 1]);
  const init = { method, headers, signal };
  if (method !== "GET" && method !== "HEAD" && hasBody(incoming)) {
    init.body = bodyOf(incoming, outgoing);
    init.duplex = "half";
  }
  return new Request(urlOf(incoming), init);
}

function hasBody({ headers }) {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"]) > 0;
}

function urlOf({ url, headers }) {
  const host = headers.host || "localhost";
  // A host with a path or a user in it would move the line between host and path.
  if (/[\s/?#@\\]/.test(host)) throw new TypeError("bad host");
  // RFC 9112, 3.2.2: the absolute form replaces the host.
  return /^https?:\/\//i.test(url) ? url : `http://${host}${url.startsWith("/") ? "" : "/"}${url}`;
}

/** The request's body, read from the socket only as fast as the app asks. */
function bodyOf(incoming, outgoing) {
  let started = false;
  let ended = false;
  const end = (act) => {
    if (ended) return;
    ended = true;
    act();
  };
  return new ReadableStream({
    pull(controller) {
      if (!started) {
        started = true;
        const onData = (chunk) => {
          incoming.pause();
          if (!ended) controller.enqueue(chunk);
        };
        incoming.on("data", onData);
        incoming.once("end", () => end(() => controller.close()));
        incoming.once("error", (error) => end(() => controller.error(error)));
        incoming.once("close", () => end(() => controller.error(new Error("the client has gone"))));
        // What the app did not read has to leave the connection before the next request can come.
        outgoing.once("finish", () => {
          incoming.off("data", onData);
          incoming.resume();
        });
      }
      incoming.resume();
    },
    cancel() {
      ended = true;
    },
  }, { highWaterMark: 0 });
}

async function send(response, outgoing, isHead) {
  if (typeof response?.status !== "number" || typeof response.headers?.get !== "function") {
    throw new TypeError("the fetch handler did not return a Response");
  }
  const { status, body } = response;
  const headers = headersOf(response);
  const writeHead = () => {
    if (response.statusText) outgoing.writeHead(status, response.statusText, headers);
    else outgoing.writeHead(status, headers);
  };
  if (!body || isHead || status === 204 || status === 304) {
    body?.cancel().catch(() => {});
    writeHead();
    outgoing.end();
    return;
  }

  const reader = body.getReader();
  outgoing.once("close", () => reader.cancel().catch(() => {}));
  // A body that is there at once goes out in one piece with its length; one that is not lets the head go ahead.
  let read = reader.read();
  const first = await soon(read);
  if (first && !first.done) read = reader.read();
  const second = first && !first.done ? await soon(read) : null;
  const whole = first?.done || second?.done;
  if (whole && headers["content-length"] === undefined) headers["content-length"] = first.value?.byteLength ?? 0;
  writeHead();
  if (!first) outgoing.flushHeaders();
  if (first?.value !== undefined) await write(outgoing, first.value);
  for (let chunk = await read; !chunk.done; chunk = await reader.read()) await write(outgoing, chunk.value);
  outgoing.end();
}

function headersOf(response) {
  const headers = {};
  for (const [name, value] of response.headers) {
    if (HOP_BY_HOP.has(name)) continue;
    if (name === "set-cookie") (headers[name] ??= []).push(value);
    else headers[name] = value;
  }
  return headers;
}

/** What a promise gives within one turn of the event loop, else null. */
function soon(promise) {
  return Promise.race([promise, new Promise((resolve) => setImmediate(resolve, null))]);
}

/** Resolves when the next chunk may come: at once, or when the client has taken enough. */
function write(outgoing, chunk) {
  if (outgoing.destroyed || outgoing.write(chunk)) return;
  return new Promise((resolve) => {
    const done = () => {
      outgoing.off("drain", done);
      outgoing.off("close", done);
      resolve();
    };
    outgoing.on("drain", done);
    outgoing.on("close", done);
  });
}
