// What holds for every runtime and every style of app.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { SECRET, TOKEN, closed, connect, freePort, missing, probe, request, start, within } from "../fixtures/harness.mjs";

const STYLES = {
  node: { "default fetch": "fetch.mjs", "named fetch": "fetch-named.mjs", "default function": "fetch-function.mjs", "node:http": "http.mjs", "listen with options": "options.mjs" },
  bun: { "default fetch": "fetch.mjs", "named fetch": "fetch-named.mjs", "Bun.serve": "native.mjs", "node:http": "http.mjs", "listen with options": "options.mjs" },
  deno: { "default fetch": "fetch.mjs", "named fetch": "fetch-named.mjs", "Deno.serve": "native.mjs", "node:http": "http.mjs", "listen with options": "options.mjs" },
};
const hash = (text) => createHash("sha256").update(text).digest("hex");

for (const [runtime, styles] of Object.entries(STYLES)) {
  const skip = missing(runtime);
  const it = (name, run) => test(`${runtime}: ${name}`, { skip }, run);

  for (const [style, main] of Object.entries(styles)) {
    it(`${style}: says ready once and serves the app`, async (t) => {
      const app = start(t, runtime, main);
      const port = await app.ready();
      const { status, text } = await request(port);
      assert.deepEqual([status, text], [200, "app page"]);
      app.signal();
      assert.deepEqual(await app.end(), { code: 0, signal: null });
      assert.equal(app.out.match(/TAKO:READY/g).length, 1);
    });

    it(`${style}: answers the probe only with the right token`, async (t) => {
      const port = await start(t, runtime, main).ready();
      const answer = await probe(port, TOKEN);
      assert.equal(answer.status, 200);
      assert.equal(JSON.parse(answer.text).status, "ok");
      for (const token of [undefined, "", "wrong", `${TOKEN}x`, TOKEN.toUpperCase()]) {
        assert.equal((await probe(port, token)).text, "app page", `token ${token}`);
      }
      const headers = { "x-tako-internal-token": TOKEN };
      assert.equal((await request(port, "/status", { headers })).text, "app page", "another host");
      assert.equal((await request(port, "/statuses", { headers: { ...headers, host: "tako.internal" } })).text, "app page");
    });

    it(`${style}: finds its secrets in the environment and in the package`, async (t) => {
      const app = start(t, runtime, main);
      const seen = JSON.parse((await request(await app.ready(), "/secret")).text);
      assert.deepEqual(seen, {
        fromEnv: hash(SECRET),
        fromAccessor: hash(SECRET),
        names: ["DATABASE_URL"],
        shown: '[secrets] {"secrets":"[secrets]"}',
        bootstrapVariable: null,
      });
    });

    it(`${style}: lets a request in flight finish on SIGTERM and ends with 0`, async (t) => {
      const app = start(t, runtime, main);
      const port = await app.ready();
      // Kept open and idle: it must not hold the end back.
      const idle = await connect(port, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
      await new Promise((resolve) => idle.once("data", resolve));
      const slow = request(port, "/slow");
      await app.said(/slow begins/);
      app.signal();
      const { status, text } = await slow;
      assert.deepEqual([status, text], [200, "slow page"]);
      assert.deepEqual(await app.end(), { code: 0, signal: null });
      assert.doesNotMatch(app.err, /still open/);
      await closed(port);
    });
  }

  for (const style of Object.keys(styles).filter((style) => /serve|http/.test(style))) {
    it(`${style}: a second server keeps its port`, async (t) => {
      const wanted = await freePort();
      const app = start(t, runtime, styles[style], { env: { SECOND_PORT: String(wanted) } });
      const port = await app.ready();
      const [, second] = await app.said(/second on (\d+)/);
      assert.equal(Number(second), wanted);
      assert.notEqual(port, wanted);
      assert.equal((await request(wanted)).text, "second");
      assert.equal((await probe(wanted, TOKEN)).status, 200);
    });
  }

  it("an error at start ends it with 1 and is printed", async (t) => {
    for (const [main, words] of [["throws.mjs", /boom at start/], ["rejects.mjs", /boom unhandled/]]) {
      const app = start(t, runtime, main);
      assert.equal((await app.end()).code, 1, main);
      assert.match(app.err, words);
      assert.equal(app.out, "");
    }
  });

  it("an app that never listens is told so in one line", async (t) => {
    const app = start(t, runtime, "silent.mjs");
    await app.said(/^tako: silent\.mjs has loaded, but no HTTP server listens.*\n/m, "err");
    app.signal();
    assert.deepEqual(await app.end(), { code: 0, signal: null });
    assert.equal(app.err.trim().split("\n").length, 1);
  });

  it("an app that never listens and has nothing else to do is told so before it ends", async (t) => {
    const empty = start(t, runtime, "page.mjs");
    assert.equal((await empty.end()).code, 0);
    assert.match(empty.err, /no HTTP server listens/);
  });

  it("a bad bootstrap message ends it with 1 and is not quoted", async (t) => {
    for (const bootstrap of ["", '{"token":"hush"', '{"secrets":{"A":"hush"}}', '{"token":"t","secrets":{"A":["hush"]}}']) {
      const app = start(t, runtime, "fetch.mjs", { bootstrap });
      assert.equal((await app.end()).code, 1);
      assert.match(app.err, /^tako: cannot read the bootstrap message on fd 3: .+\n$/);
      assert.doesNotMatch(app.err, /hush/);
    }
  });

  it("runs without Tako on the port that PORT names", async (t) => {
    const port = await freePort();
    const app = start(t, runtime, "fetch.mjs", { tako: false, env: { PORT: String(port) } });
await app.said(/^listening on http:\/\/127\.0\.0\.1:/m, "err");
    assert.equal((await request(port)).text, "app page");
    const { fromAccessor, names } = JSON.parse((await request(port, "/secret")).text);
    assert.deepEqual([fromAccessor, names], [hash("inherited"), []]);
    assert.doesNotMatch(app.out, /TAKO:READY/);
    app.signal("SIGINT");
    assert.deepEqual(await app.end(), { code: 0, signal: null });
  });

  it("closes what never ends after 8 s", async (t) => {
    const app = start(t, runtime, "stubborn.mjs");
    const port = await app.ready();
    const socket = await connect(port, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    await new Promise((resolve) => socket.once("data", resolve));
    const from = Date.now();
    app.signal();
    assert.deepEqual(await app.end(), { code: 0, signal: null });
    assert.match(app.err, /still open 8 s after SIGTERM/);
    assert.ok(Date.now() - from < 10_000, "before the server would kill it");
  });

  it("an app with a handler of its own for SIGTERM decides when it ends", async (t) => {
    const app = start(t, runtime, "own-handler.mjs");
    await app.ready();
    app.signal();
    assert.deepEqual(await app.end(), { code: 7, signal: null });
    assert.match(app.out, /flushed/);
  });

  it("a response that is ended but not yet taken reaches its slow client", async (t) => {
    const app = start(t, runtime, "big.mjs");
    const port = await app.ready();
    const socket = await connect(port, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    socket.pause();
    await app.said(/ended/);
    app.signal();
    // Only now is the stop under way.
    await closed(port);
    let size = 0;
    socket.on("data", (data) => (size += data.length));
    socket.resume();
    await within("the slow client's end", app, (resolve) => socket.once("close", resolve));
    assert.ok(size > 30_000_000, `got ${size}`);
    assert.deepEqual(await app.end(), { code: 0, signal: null });
  });
}
