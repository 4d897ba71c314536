// Hono on Node, as its starter has it: `@hono/node-server` listens, and `tsc` compiles.

import { serve } from "@hono/node-server";
import { Hono } from "hono";

const EDITION = "first edition";

const app = new Hono();

const page = (words: string) =>
  `<!doctype html><html lang="en"><title>Hono</title><link rel="icon" href="/logo.svg"><p>${words}</p></html>`;

app.get("/", (c) => c.html(page(`${EDITION}, ${process.env.GREETING}`)));

app.get("/hello/:name", (c) => c.html(page(`Hello, ${c.req.param("name")}`)));

app.post("/api/echo", async (c) => {
  const { text } = await c.req.json<{ text: string }>();
  return c.json({ said: text, length: text.length });
});

serve({ fetch: app.fetch, port: 3000 }, (info) => {
  console.log(`Server is running on http://localhost:${info.port}`);
});
