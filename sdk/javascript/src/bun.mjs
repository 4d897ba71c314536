// Entry point for Bun: `bun bun.mjs <main>`, in the app's folder.
//
// `Bun.serve` is wrapped: the first server is moved and answers the probe before the app's routes; each is stopped
// in order. Bun builds `node:http` upon `Bun.serve`, so that an app of either style ends here.

import * as fs from "node:fs";
import http from "node:http";
import path from "node:path";

import { KEEP_ALIVE_MS, begin, fdWriter, patchHttp, pipeReader } from "./core.mjs";

const MAIN = process.argv[2];

/** Bun's own default, and more than the 4 s for which a proxy keeps an idle connection. */
const LEAST_IDLE_S = 10;

/** Where a page moves that stood in the way of the probe. */
const MOVED_PAGE = "/.tako-page-at-status";

const writeErr = fdWriter(fs, 2);

function fail(line) {
  writeErr(`${line}\n`);
  process.exit(1);
}

if (!MAIN) fail("usage: bun bun.mjs <main>");

const tako = begin({
  name: "bun",
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

const serveNatively = Bun.serve;
let underHttp = false;

Bun.serve = function (options, ...rest) {
  const plain = !underHttp && !options?.unix && !options?.tls;
  const spot = plain ? tako.claim() : null;
  let server;
  try {
    server = serveNatively.call(Bun, spot ? moved(options, spot) : options, ...rest);
  } catch (error) {
    if (spot) tako.unclaim();
    throw error;
  }
  tako.onStop(() => drain(server));
  if (spot) {
    const { reload } = server;
    server.reload = (next) => reload.call(server, guarded(next));
    tako.ready(server.port);
  }
  return server;
};

patchHttp(http, tako, (listen) => {
  underHttp = true;
  try {
    return listen();
  } finally {
    underHttp = false;
  }
});

const file = Bun.resolveSync(path.resolve(MAIN), process.cwd());
process.argv.splice(1, 2, file);
// With this, `import.meta.main` and `require.main` are what they would be without us.
Bun.main = file;
tako.loaded(await import(file), MAIN, ({ fetch, options }) => {
  const { hostname, port } = tako.address;
  const server = Bun.serve({ ...options, ...(fetch && { fetch }), hostname, port });
  if (!tako.managed) writeErr(`listening on http://${hostname}:${server.port}\n`);
});

function moved(options, { hostname, port }) {
  const idle = options.idleTimeout;
  const idleTimeout = idle === undefined ? KEEP_ALIVE_MS / 1000 : idle && Math.max(idle, LEAST_IDLE_S);
  return { ...guarded(options), hostname, port, idleTimeout };
}

/** The same options, with the probe answered first. Bun asks `routes` before `fetch`. */
function guarded(options) {
  // `fetch` and the like may be methods of a class, which a spread does not copy.
  const copy = { ...options };
  for (const name of ["fetch", "websocket", "error", "routes"]) {
    if (options[name] !== undefined) copy[name] = options[name];
  }
  const { fetch } = copy;
  copy.fetch = function (request, server) {
    if (tako.isStatusRequest(request)) return tako.statusResponse();
    return fetch ? fetch.call(this, request, server) : new Response("Not Found", { status: 404 });
  };
  if (copy.routes) copy.routes = guardedRoutes(copy.routes);
  return copy;
}

/** Every route that can match `/status` answers the probe first; the others stay as they are. */
function guardedRoutes(routes) {
  const copy = { ...routes };
  const candidates = Object.keys(routes).filter((pattern) => pattern === "/status" || /^\/(:[^/]+|\*)$/.test(pattern));
  for (const pattern of candidates) copy[pattern] = guardedRoute(routes[pattern]);

  // A page (an imported HTML file) cannot be wrapped. Where one would win, it moves aside and is fetched from there.
  const rank = (pattern) => (pattern === "/status" ? 0 : pattern === "/*" ? 2 : 1);
  const winner = candidates.sort((a, b) => rank(a) - rank(b))[0];
  if (winner && !isWrappable(routes[winner])) {
    copy[MOVED_PAGE] = routes[winner];
    const page = (server) => globalThis.fetch(new URL(MOVED_PAGE, server.url));
    copy["/status"] = { GET: (request, server) => statusOr(request, () => page(server)) };
  }
  return copy;
}

function isWrappable(route) {
  return typeof route === "function" || route instanceof Response || isMethods(route);
}

function isMethods(route) {
  return typeof route?.GET === "function" || route?.GET instanceof Response;
}

function guardedRoute(route) {
  if (typeof route === "function") {
    return function (request, server) {
      return statusOr(request, () => route.call(this, request, server));
    };
  }
  if (route instanceof Response) return (request) => statusOr(request, () => route.clone());
  if (isMethods(route)) return { ...route, GET: guardedRoute(route.GET) };
  return route;
}

function statusOr(request, app) {
  return tako.isStatusRequest(request) ? tako.statusResponse() : app();
}

/** Stops accepting; when the last response has left, WebSockets are closed too. */
async function drain(server) {
  const closed = server.stop();
  // Bun tells of the end of everything, WebSockets included, but not of the last response.
  while (server.pendingRequests > 0) await Bun.sleep(10);
  // Under `node:http`, idle connections outlive the stop.
  server.closeIdleConnections();
  if (server.pendingWebSockets > 0) server.stop(true);
  else await closed;
}
