// What only Bun has: routes, pages and reload.

import assert from "node:assert/strict";
import { test } from "node:test";

import { TOKEN, missing, probe, request, start } from "../fixtures/harness.mjs";

const skip = missing("bun");

test("bun: routes that match /status answer everything but the probe", { skip }, async (t) => {
  const port = await start(t, "bun", "routes.mjs").ready();
  assert.equal(JSON.parse((await probe(port, TOKEN)).text).status, "ok");
  assert.equal((await probe(port, "wrong")).text, "page status");
  assert.equal((await request(port, "/status")).text, "page status");
  assert.equal((await request(port, "/a/b")).text, "wild");
  assert.equal((await request(port, "/fixed")).text, "fixed");
});

test("bun: a page for every path leaves room for the probe", { skip }, async (t) => {
  const port = await start(t, "bun", "single-page.mjs").ready();
  assert.equal(JSON.parse((await probe(port, TOKEN)).text).status, "ok");
  for (const target of ["/", "/status", "/anything"]) {
    const { status, text } = await request(port, target);
    assert.deepEqual([target, status, /single page/.test(text)], [target, 200, true]);
  }
  assert.match((await probe(port, "wrong")).text, /single page/);
  assert.equal((await request(port, "/api")).text, "api");
});

test("bun: the probe is still answered after a reload", { skip }, async (t) => {
  const port = await start(t, "bun", "reload.mjs").ready();
  assert.equal((await request(port)).text, "first");
  assert.equal((await request(port, "/reload")).text, "reloaded");
  assert.equal((await request(port)).text, "second");
  assert.equal(JSON.parse((await probe(port, TOKEN)).text).status, "ok");
});
