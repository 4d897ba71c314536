// What only Node has: the adapter for fetch handlers, CommonJS, and the usual frameworks.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";

import { FIXTURES, TOKEN, connect, installed, missing, probe, request, start, within } from "../fixtures/harness.mjs";

const skip = missing("node");

test("node adapter", { skip }, async (t) => {
  const app = start(t, "node", "adapter.mjs");
  const port = await app.ready();

  await t.test("keeps status, headers and every cookie apart", async () => {
    const { status, headers, text } = await request(port, "/cookies");
    assert.deepEqual([status, text, headers["x-one"]], [201, "cookies", "1"]);
    assert.deepEqual(headers["set-cookie"], ["a=1; Expires=Wed, 21 Oct 2026 07:28:00 GMT", "b=2"]);
    assert.equal(headers["content-length"], "7", "a body that is there at once has its length");
  });

  await t.test("answers HEAD without a body", async () => {
    const { status, text, headers } = await request(port, "/cookies", { method: "HEAD" });
    assert.deepEqual([status, text, headers["set-cookie"].length], [201, "", 2]);
  });

  await t.test("answers 204 without a body", async () => {
    const { status, text } = await request(port, "/empty");
    assert.deepEqual([status, text], [204, ""]);
  });

  await t.test("streams a body in and out", async () => {
    const body = Buffer.alloc(5_000_000, "0123456789");
    const echoed = await request(port, "/echo", { method: "POST", body });
    assert.equal(Buffer.compare(echoed.bytes, body), 0);
    const headers = { "content-length": "3" };
    assert.equal((await request(port, "/echo", { method: "PUT", body: "abc", headers })).headers["x-length"], "3");
    assert.equal((await request(port, "/echo", { method: "POST", headers: { "content-length": "0" } })).text, "");
  });

  await t.test("serves the next request after a body that nobody read", async () => {
    const big = Buffer.alloc(2_000_000, "x");
    for (const target of ["/ignore", "/first"]) {
      const socket = await connect(port, `POST ${target} HTTP/1.1\r\nHost: a\r\nContent-Length: ${big.length}\r\n\r\n`);
      socket.write(big);
      socket.write("GET /cookies HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
      let text = "";
      socket.on("data", (data) => (text += data));
      await within(`two answers for ${target}`, app, (resolve) => socket.once("close", resolve));
      assert.match(text, /^HTTP\/1\.1 200[^]*HTTP\/1\.1 201[^]*cookies$/, target);
    }
  });

  await t.test("answers 500 and logs a line when the handler throws or returns nothing", async () => {
    assert.equal((await request(port, "/throw?secret=1")).status, 500);
    await app.said(/^tako: GET \/throw failed: Error: thrown by the page/m, "err");
    assert.equal((await request(port, "/nothing")).status, 500);
    await app.said(/^tako: GET \/nothing failed: TypeError: the fetch handler did not return a Response/m, "err");
    assert.doesNotMatch(app.err, /secret=1/);
  });

  await t.test("cuts a response that breaks in the middle", async () => {
    await assert.rejects(request(port, "/breaks"), /aborted|hang up|terminated/);
    await app.said(/^tako: GET \/breaks failed: Error: broken in the middle/m, "err");
  });

  await t.test("sends the head before the first byte of the body is there", async () => {
    const socket = await connect(port, "GET /late-head HTTP/1.1\r\nHost: a\r\n\r\n");
    const head = await within("the head", app, (resolve) => socket.once("data", resolve));
    assert.match(String(head), /^HTTP\/1\.1 200 OK\r\ncontent-type: text\/event-stream\r\n/);
    socket.destroy();
  });

  await t.test("asks a stream for no more than the client takes, and cancels it when the client leaves", async () => {
    const socket = await connect(port, "GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");
    await within("the first bytes", app, (resolve) => socket.once("data", resolve));
    socket.pause();
    // The loop of the app turns often enough in between to fill any buffer.
    for (let i = 0; i < 50; i++) await request(port, "/empty");
    socket.destroy();
    const [, count] = await app.said(/cancelled after (\d+)/);
    await app.said(/signal aborted/);
    assert.ok(Number(count) < 400, `made ${count} chunks of 64 KiB`);
  });

  await t.test("refuses a host that would move the path", async () => {
    for (const host of ["a/b", "user@a", "a b", "a?b", "[::1"]) {
      const { status } = await request(port, "/url", { headers: { host } });
      assert.equal(status, 400, host);
    }
    assert.equal((await request(port, "//other/url", { headers: { host: "a:1" } })).status, 404);
    assert.equal((await request(port, "/url", { headers: { host: "shop.localhost" } })).text, "http://shop.localhost/url");
  });

  await t.test("keeps idle connections longer than a proxy does", async () => {
    const socket = await connect(port, "GET /cookies HTTP/1.1\r\nHost: a\r\n\r\n");
    const head = await within("an answer", app, (resolve) => socket.once("data", resolve));
    assert.match(String(head), /keep-alive: timeout=65\r\n/i);
    socket.destroy();
  });
});

test("node: a CommonJS app that listens only as the main module", { skip }, async (t) => {
  const app = start(t, "node", "main.cjs");
  assert.equal((await request(await app.ready())).text, "argv 0");
  app.signal();
  assert.equal((await app.end()).code, 0);
});

test("node: an app that says it has no socket path listens on TCP", { skip }, async (t) => {
  const app = start(t, "node", "no-path.mjs");
  assert.equal((await request(await app.ready())).text, "app page");
  app.signal();
  assert.equal((await app.end()).code, 0);
});

const FRAMEWORKS = {
  express: {
    packages: ["express"],
    source: `import express from "express";
      const app = express();
      app.use(express.json());
      app.get("/slow", (request, response) => { console.log("slow begins"); setTimeout(() => response.send("slow page"), 300); });
      app.post("/json", (request, response) => response.json(request.body));
      app.use((request, response) => response.send("app page"));
      app.listen(3000);
      export default app;`,
  },
  fastify: {
    packages: ["fastify"],
    source: `import Fastify from "fastify";
      const app = Fastify();
      app.get("/slow", async () => { console.log("slow begins"); await new Promise((done) => setTimeout(done, 300)); return "slow page"; });
      app.post("/json", async (request) => request.body);
      app.setNotFoundHandler(async (request, reply) => reply.code(200).send("app page"));
      await app.listen({ port: 3000 });`,
  },
  "hono with its node server": {
    packages: ["hono", "@hono/node-server"],
    source: `import { serve } from "@hono/node-server";
      import { Hono } from "hono";
      const app = new Hono();
      app.get("/slow", async (c) => { console.log("slow begins"); await new Promise((done) => setTimeout(done, 300)); return c.text("slow page"); });
      app.post("/json", async (c) => c.json(await c.req.json()));
      app.all("*", (c) => c.text("app page"));
      serve({ fetch: app.fetch, port: 3000 });`,
  },
  "hono as an export": {
    packages: ["hono", "@hono/node-server"],
    source: `import { Hono } from "hono";
      const app = new Hono();
      app.get("/slow", async (c) => { console.log("slow begins"); await new Promise((done) => setTimeout(done, 300)); return c.text("slow page"); });
      app.post("/json", async (c) => c.json(await c.req.json()));
      app.all("*", (c) => c.text("app page"));
      export default app;`,
  },
};

for (const [name, { packages, source }] of Object.entries(FRAMEWORKS)) {
  test(`node: ${name}`, { skip }, async (t) => {
    const { folder, skip: why } = installed(...packages);
    if (why) return t.skip(why);
    const main = `${name.replaceAll(" ", "-")}.mjs`;
    fs.writeFileSync(path.join(folder, main), source);
    const app = start(t, "node", main, { cwd: folder });
    const port = await app.ready();
    assert.equal((await request(port)).text, "app page");
    assert.equal((await probe(port, TOKEN)).status, 200);
    assert.equal((await probe(port, "wrong")).text, "app page");
    const headers = { "content-type": "application/json" };
    assert.equal((await request(port, "/json", { method: "POST", body: '{"a":[1]}', headers })).text, '{"a":[1]}');
    const slow = request(port, "/slow");
    await app.said(/slow begins/);
    app.signal();
    assert.equal((await slow).text, "slow page");
    assert.deepEqual(await app.end(), { code: 0, signal: null });
  });
}

test("node: without a main module it says how to call it", { skip }, async (t) => {
  const app = start(t, "node", "", { command: ["node", path.join(FIXTURES, "../src/node.mjs")] });
  assert.equal((await app.end()).code, 1);
  assert.match(app.err, /^usage: /);
});
