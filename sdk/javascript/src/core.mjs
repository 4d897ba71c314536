// What the three entry points share: the bootstrap message, the claim on the first server, the ready line, the status
// answer and the orderly stop. It imports nothing and knows a runtime only through the small `runtime` object that an
// entry point hands in, so that a start on Deno does not pay for Node's modules.
//
// Invariants: the ready line is written once, and only when a socket listens; the token stays in this module; nothing
// here prints a secret or a token.

/** The server kills an instance 10 s after SIGTERM; we end by ourselves a little earlier, and say what was open. */
const HARD_STOP_MS = 8_000;

/** Longer than any proxy keeps an idle connection (4 s), so that we are never the one who closes first. */
export const KEEP_ALIVE_MS = 65_000;

/** An app that still connects to its database is not silent yet. */
const SILENT_AFTER_MS = 1_000;

/** As much as a pipe holds; a longer message is not from our server. */
const MAX_BOOTSTRAP_BYTES = 1 << 20;

/** A full stdout pipe is retried for this long; then the server's start-up timeout tells the story. */
const MAX_WRITE_TRIES = 400;

/** The one cell that all copies of this package in a process share; see `index.mjs`. */
const CELL = Symbol.for("tako.sh");

const JSON_TYPE = "application/json; charset=utf-8";

/**
 * Reads the bootstrap message, puts its secrets in the environment and returns what the entry points work with.
 * Secrets win over inherited variables: they are what the operator set for this app.
 */
export function begin(runtime) {
  const bootstrap = openBootstrap(runtime);
  return new Tako(runtime, bootstrap);
}

/** The message on the descriptor named by TAKO_BOOTSTRAP_FD, or null when nobody started us that way. */
export function openBootstrap({ env, readPipe, fail }) {
  const named = env.TAKO_BOOTSTRAP_FD;
  if (named === undefined) return null;
  delete env.TAKO_BOOTSTRAP_FD;
  let message = { token: "", secrets: {} };
  try {
    // A descriptor that is no pipe is a stray one of a CI or container: reading it could block for ever.
    const text = readPipe(Number(named), MAX_BOOTSTRAP_BYTES);
    if (text !== null) message = parseBootstrap(text);
  } catch (error) {
    fail(`tako: cannot read the bootstrap message on fd ${named}: ${error.message}`);
  }
  const secrets = new Map(Object.entries(message.secrets));
  for (const [name, value] of secrets) env[name] = value;
  Object.defineProperty(globalThis, CELL, { value: { secrets }, enumerable: false });
  return { token: message.token };
}

/** The secrets that came with the bootstrap message, for whichever copy of the package asks. */
export function sharedSecrets() {
  return globalThis[CELL]?.secrets;
}

function parseBootstrap(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    // The parser's own words would quote the text, and the text holds secrets.
    throw new Error("it is not JSON");
  }
  const { token, secrets = {} } = message ?? {};
  if (typeof token !== "string") throw new Error("it has no token");
  if (typeof secrets !== "object" || secrets === null) throw new Error("its secrets are not an object");
  for (const [name, value] of Object.entries(secrets)) {
    if (typeof value !== "string") throw new Error(`its secret ${name} is not text`);
  }
  return { token, secrets };
}

/** Reads a pipe to its end with Node's `fs` (Node, Bun); null when the descriptor is not a pipe. */
export function pipeReader(fs) {
  return (fd, limit) => {
    try {
      if (!fs.fstatSync(fd).isFIFO()) return null;
    } catch {
      return null;
    }
    const chunks = [];
    let size = 0;
    for (;;) {
      const chunk = Buffer.alloc(64 << 10);
      const count = readOrWait(fs, fd, chunk);
      if (count === 0) break;
      size += count;
      if (size > limit) throw new Error(`it is longer than ${limit} bytes`);
      chunks.push(chunk.subarray(0, count));
    }
    fs.closeSync(fd);
    return Buffer.concat(chunks).toString("utf8");
  };
}

function readOrWait(fs, fd, chunk) {
  for (;;) {
    try {
      return fs.readSync(fd, chunk, 0, chunk.length, null);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
      pause();
    }
  }
}

/** Writes to a descriptor itself, past any console that the app has patched. */
export function fdWriter(fs, fd) {
  return (text) => {
    let bytes = Buffer.from(text);
    for (let tries = 0; bytes.length > 0 && tries < MAX_WRITE_TRIES; tries++) {
      try {
        bytes = bytes.subarray(fs.writeSync(fd, bytes));
      } catch (error) {
        if (error.code !== "EAGAIN") return;
        pause();
      }
    }
  };
}

function pause() {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
}

/** A timer that does not keep the process alive. */
export function later(ms, run) {
  const timer = setTimeout(run, ms);
  if (typeof timer === "number") globalThis.Deno?.unrefTimer(timer);
  else timer.unref();
}

/**
 * One app process. `managed` is whether a Tako server started it; only then is the first server moved to HOST:PORT and
 * the ready line written.
 */
class Tako {
  #runtime;
  #token;
  #address;
  #claimed = false;
  #listened = false;
  #ready = false;
  #stopping = false;
  #stops = new Set();

  constructor(runtime, bootstrap) {
    const { env } = runtime;
    this.#runtime = runtime;
    this.#token = bootstrap?.token ?? "";
    this.managed = bootstrap !== null;
    this.#address = { hostname: env.HOST || "127.0.0.1", port: portOf(env.PORT, this.managed ? 0 : 3000) };
    for (const signal of ["SIGTERM", "SIGINT"]) runtime.onSignal(signal, () => this.#onSignal(signal));
  }

  /** Where the first server has to listen; null for every later one, and where no Tako server is involved. */
  claim() {
    this.#listened = true;
    if (!this.managed || this.#claimed) return null;
    this.#claimed = true;
    return this.#address;
  }

  /** The server that had claimed could not be made. */
  unclaim() {
    this.#claimed = false;
  }

  /** The claimed server listens. */
  ready(port) {
    if (this.#ready) return;
    this.#ready = true;
    this.#runtime.writeOut(`TAKO:READY:${port}\n`);
  }

  /** Where an exported handler is served. */
  get address() {
    return this.#address;
  }

  get stopping() {
    return this.#stopping;
  }

  /** Whether a request is our server's probe. Anything else with that path belongs to the app. */
  isStatus(method, target, host, token) {
    return (
      token != null && this.#token !== "" && method === "GET" && host === "tako.internal" &&
      (target === "/status" || target.startsWith("/status?")) && sameText(token, this.#token)
    );
  }

  /** The same for a `Request`; the header is looked at first, since almost no request has it. */
  isStatusRequest(request) {
    const token = request.headers.get("x-tako-internal-token");
    if (token === null) return false;
    const { pathname } = new URL(request.url);
    return this.isStatus(request.method, pathname, request.headers.get("host"), token);
  }

  statusBody() {
    const { env, name, pid } = this.#runtime;
    return JSON.stringify({ status: "ok", version: env.TAKO_BUILD ?? null, runtime: name, pid });
  }

  statusResponse() {
    return new Response(this.statusBody(), { headers: { "content-type": JSON_TYPE, "cache-control": "no-store" } });
  }

  /** `stop` closes one server in order and resolves when its last request has ended. */
  onStop(stop) {
    this.#stops.add(stop);
    return () => this.#stops.delete(stop);
  }

  /** Called when the main module has loaded: serves what it exports unless it serves by itself. */
  loaded(namespace, main, serve) {
    if (this.#listened) return;
    const app = appOf(namespace);
    if (app) {
      serve(app);
      return;
    }
    const tell = () => {
      if (this.#listened || this.#stopping) return;
      this.#listened = true;
      const cause = "no HTTP server listens (a TLS or unix-socket server does not count)";
      this.#runtime.writeErr(`tako: ${main} has loaded, but ${cause}: export a fetch handler or call listen()\n`);
    };
    later(SILENT_AFTER_MS, tell);
    this.#runtime.onIdle(tell);
  }

  #onSignal(signal) {
    if (this.#stopping) {
      // A second Ctrl-C is somebody who does not want to wait.
      if (signal === "SIGINT") this.#runtime.exit(130);
      return;
    }
    this.#stopping = true;
    const own = this.#runtime.hasOtherHandlers(signal);
    later(HARD_STOP_MS, () => {
      this.#runtime.writeErr(`tako: work was still open ${HARD_STOP_MS / 1000} s after ${signal}; ending now\n`);
      this.#runtime.exit(0);
    });
    // After the app's own handlers for this signal, which may close the same servers.
    setTimeout(() => this.#stop(own), 0);
  }

  async #stop(appDecides) {
    await Promise.allSettled([...this.#stops].map((stop) => stop()));
    // An app with a handler of its own may still be flushing something: it ends when its event loop is empty.
    if (!appDecides) this.#runtime.exit(0);
  }
}

function portOf(text, otherwise) {
  const port = Number(text || otherwise);
  return Number.isInteger(port) && port >= 0 && port < 65_536 ? port : otherwise;
}

/** Takes as long for a near miss as for a miss; only the length shows, which is no secret. */
function sameText(a, b) {
  if (a.length !== b.length) return false;
  let difference = 0;
  for (let i = 0; i < a.length; i++) difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
  return difference === 0;
}

/**
 * What a main module exports to be served: `{ fetch, options }`, or null. In order: a named `fetch`, a default export
 * with a `fetch` method (or Bun's `routes`), a default function of one argument. A function of `(req, res)` is Node's
 * kind of handler and a class is no handler, so both are left alone.
 */
export function appOf(namespace) {
  // CommonJS comes as `default`, and what a compiler made of ES modules as `default.default`.
  for (const exported of [namespace, namespace.default, namespace.default?.default]) {
    if (exported === null || exported === undefined) continue;
    if (typeof exported.fetch === "function") {
      // Two parameters, since Deno looks at the length of a handler before it passes anything.
      const options = exported === namespace ? {} : exported;
      return { fetch: (request, info) => exported.fetch(request, info), options };
    }
    if (exported !== namespace && isObject(exported.routes)) return { fetch: undefined, options: exported };
    if (isPlainHandler(exported)) return { fetch: exported, options: {} };
  }
  return null;
}

function isObject(value) {
  return typeof value === "object" && value !== null;
}

function isPlainHandler(value) {
  return (
    typeof value === "function" && value.length <= 1 && typeof value.listen !== "function" &&
    !Function.prototype.toString.call(value).startsWith("class")
  );
}

/**
 * Makes `node:http` servers claim, answer the probe and stop in order. `inner(run)`, where the runtime builds
 * `node:http` upon a server of its own, runs the real listen and takes over the stop.
 */
export function patchHttp(http, tako, inner) {
  const proto = http.Server.prototype;
  const { listen, close } = proto;
  const watched = new WeakMap();

  proto.listen = function (...args) {
    if (!watched.has(this)) watched.set(this, new HttpWatch(this, tako, Object.getPrototypeOf(proto).close));
    const really = (given) => (inner ? inner(() => listen.apply(this, given)) : listen.apply(this, given));
    if (!inner) watched.get(this).stopWithProcess();
    const tcp = tcpOptions(args);
    const spot = tcp && tako.claim();
    if (!spot) return really(args);
    raiseTimeouts(this);
    this.once("listening", () => tako.ready(this.address().port));
    const callback = args.findLast((arg) => typeof arg === "function");
    const moved = { ...tcp, host: spot.hostname, port: spot.port };
    return really(callback ? [moved, callback] : [moved]);
  };

  // An app that closes its server in its own SIGTERM handler, after we did, is not told that this was an error.
  proto.close = function (callback) {
    const watch = watched.get(this);
    if (!tako.stopping || !watch || inner) return close.call(this, callback);
    const closed = watch.stop();
    if (callback) closed.then(() => callback());
    return this;
  };
}

/** The options of a `listen` on TCP; null for a unix socket, a descriptor or a handle. */
function tcpOptions([first, ...rest]) {
  if (isObject(first)) {
    // As Node decides: `path: false` or `fd: null` is said by who may have a socket and has none.
    const elsewhere = first.path || typeof first.fd === "number" || first._handle || first.handle;
    if (elsewhere) return null;
    const { path, fd, ...tcp } = first;
    return tcp;
  }
  if (typeof first === "string" && first !== "" && !Number.isInteger(Number(first))) return null;
  const backlog = rest.find((arg) => typeof arg === "number");
  return backlog === undefined ? {} : { backlog };
}

function raiseTimeouts(server) {
  // Zero means no limit at all.
  if (server.keepAliveTimeout > 0 && server.keepAliveTimeout < KEEP_ALIVE_MS) server.keepAliveTimeout = KEEP_ALIVE_MS;
  if (server.headersTimeout > 0 && server.headersTimeout <= server.keepAliveTimeout) {
    server.headersTimeout = server.keepAliveTimeout + 1_000;
  }
}

/** Sees every request of one `node:http` server before the app does. */
class HttpWatch {
  #server;
  #tako;
  #netClose;
  #live = new Set();
  #tunnels = new Map();
  #stopped = null;

  constructor(server, tako, netClose) {
    this.#server = server;
    this.#tako = tako;
    this.#netClose = netClose;
    const watch = this;
    const { emit } = server;
    server.emit = function (event, request, second) {
      if (event === "request" && watch.#onRequest(request, second)) return true;
      if (event === "upgrade") watch.#onUpgrade(request, second);
      return emit.apply(this, arguments);
    };
  }

  stopWithProcess() {
    const forget = this.#tako.onStop(() => this.stop());
    this.#server.once("close", forget);
  }

  /** Whether the request was ours. */
  #onRequest(request, response) {
    const { headers } = request;
    this.#live.add(response);
    if (this.#stopped) this.#lastOnItsConnection(response);
    response.once("close", () => {
      this.#live.delete(response);
      if (this.#stopped) setImmediate(() => this.#sweep());
    });
    if (!this.#tako.isStatus(request.method, request.url, headers.host, headers["x-tako-internal-token"])) return false;
    const body = this.#tako.statusBody();
    response.writeHead(200, {
      "content-type": JSON_TYPE,
      "content-length": new TextEncoder().encode(body).length,
      "cache-control": "no-store",
    });
    response.end(body);
    return true;
  }

  #onUpgrade(request, socket) {
    this.#tunnels.set(socket, String(request.headers.upgrade).toLowerCase());
    socket.once("close", () => this.#tunnels.delete(socket));
  }

  /** Stops accepting, lets every response reach its client, then closes what is left. */
  stop() {
    this.#stopped ??= new Promise((resolve) => {
      // `http.Server.close` destroys connections whose response is ended but not yet flushed; `net`'s does not.
      this.#netClose.call(this.#server, () => resolve());
      for (const response of this.#live) this.#lastOnItsConnection(response);
    });
    this.#sweep();
    return this.#stopped;
  }

  /** `Connection: close` tells the other side not to send the next request here (RFC 9112, 9.6). */
  #lastOnItsConnection(response) {
    if (!response.headersSent) response.shouldKeepAlive = false;
  }

  #sweep() {
    for (const response of this.#live) {
      // Its own end sweeps again; until then its connection would count as idle.
      if (response.writableEnded && !response.writableFinished) return;
    }
    this.#server.closeIdleConnections();
    if (this.#live.size > 0) return;
    for (const [socket, protocol] of this.#tunnels) {
      // RFC 6455, 7.4.1: 1001, going away; browsers then connect anew without an error.
      if (protocol === "websocket" && socket.writable) socket.write(Uint8Array.of(0x88, 0x02, 0x03, 0xe9));
      socket.destroySoon();
    }
  }
}
