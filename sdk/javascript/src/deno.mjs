// Entry point for Deno: `deno run --allow-all deno.mjs <main>`, in the app's folder.
//
// `Deno.serve` and `node:http` are wrapped alike. Everything else goes through `Deno` itself: Node's modules cost tens
// of milliseconds of start-up each. Two things of the main module cannot be imitated: `import.meta.main` is false, and
// descriptor 3 stays open (it is at its end by then).

import { begin, patchHttp } from "./core.mjs";

const MAIN = Deno.args[0];

const writeErr = (text) => write(Deno.stderr, text);
const otherHandlers = new Map();

function fail(line) {
  writeErr(`${line}\n`);
  Deno.exit(1);
}

if (!MAIN) fail("usage: deno run --allow-all deno.mjs <main>");

const addSignalListener = Deno.addSignalListener;

const tako = begin({
  name: "deno",
  pid: Deno.pid,
  env: environment(),
  readPipe,
  writeOut: (text) => write(Deno.stdout, text),
  writeErr,
  fail,
  exit: (code) => Deno.exit(code),
  onSignal: (signal, run) => addSignalListener(signal, run),
  hasOtherHandlers: (signal) => otherHandlers.get(signal)?.size > 0 || process.listenerCount(signal) > 0,
  onIdle: (run) => addEventListener("beforeunload", run, { once: true }),
});

countSignalListeners();
patchServe();
// No way to do this later: an app that imports `node:http` listens before we could know.
patchHttp((await import("node:http")).default, tako);

const main = fileUrl(MAIN);
Object.defineProperty(Deno, "args", { value: Deno.args.slice(1), configurable: true, enumerable: true });
Object.defineProperty(Deno, "mainModule", { value: main, configurable: true, enumerable: true });
process.argv.splice(1, 2, decodeURIComponent(new URL(main).pathname));
tako.loaded(await import(main), MAIN, ({ fetch }) => {
  if (!fetch) return;
  const { hostname, port } = tako.address;
  const server = Deno.serve({ hostname, port, onListen() {} }, fetch);
  if (!tako.managed) writeErr(`listening on http://${hostname}:${server.addr.port}\n`);
});

function environment() {
  return new Proxy({}, {
    get: (_, name) => (typeof name === "string" ? Deno.env.get(name) : undefined),
    set: (_, name, value) => (Deno.env.set(name, value), true),
    deleteProperty: (_, name) => (Deno.env.delete(name), true),
  });
}

function readPipe(fd, limit) {
  // Deno has no call that reads a descriptor by number; opening the pipe anew reads the same bytes.
  const path = `/dev/fd/${fd}`;
  try {
    if (!Deno.statSync(path).isFifo) return null;
  } catch {
    return null;
  }
  const bytes = Deno.readFileSync(path);
  if (bytes.length > limit) throw new Error(`it is longer than ${limit} bytes`);
  return new TextDecoder().decode(bytes);
}

function write(stream, text) {
  try {
    let bytes = new TextEncoder().encode(text);
    while (bytes.length > 0) bytes = bytes.subarray(stream.writeSync(bytes));
  } catch {
    // Nobody reads; there is no one to tell.
  }
}

function fileUrl(relative) {
  const path = relative.startsWith("/") ? relative : `${Deno.cwd()}/${relative}`;
  return new URL(`file://${path.split("/").map(encodeURIComponent).join("/")}`).href;
}

/** An app's own handler for a signal decides when the process ends. */
function countSignalListeners() {
  const { removeSignalListener } = Deno;
  Deno.addSignalListener = (signal, run) => {
    addSignalListener(signal, run);
    if (!otherHandlers.has(signal)) otherHandlers.set(signal, new Set());
    otherHandlers.get(signal).add(run);
  };
  Deno.removeSignalListener = (signal, run) => {
    removeSignalListener(signal, run);
    otherHandlers.get(signal)?.delete(run);
  };
}

function patchServe() {
  const { serve } = Deno;
  Deno.serve = function (...args) {
    const [options, handler] = serveArguments(args);
    const plain = options.path === undefined && options.cert === undefined && options.transport !== "vsock";
    const spot = plain ? tako.claim() : null;
    let server;
    try {
      server = spot ? serve.call(Deno, { ...options, ...spot }, guarded(handler)) : serve.apply(Deno, args);
    } catch (error) {
      if (spot) tako.unclaim();
      throw error;
    }
    const forget = tako.onStop(() => server.shutdown());
    server.finished.then(forget, forget);
    if (spot) tako.ready(server.addr.port);
    return server;
  };
}

/** `serve(handler)`, `serve(options, handler)` and `serve({ handler, … })`. */
function serveArguments([first, second]) {
  if (typeof first === "function") return [second ?? {}, first];
  return [first ?? {}, second ?? first?.handler];
}

function guarded(handler) {
  return function (request, info) {
    if (tako.isStatusRequest(request)) return tako.statusResponse();
    return handler.call(this, request, info);
  };
}
