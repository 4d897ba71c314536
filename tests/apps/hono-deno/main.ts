// Hono on Deno, without a package.json.

import { Hono } from "hono";

const EDITION = "first edition";

const app = new Hono();

const page = (words: string) =>
  `<!doctype html><html lang="en"><title>Hono</title><link rel="icon" href="/logo.svg"><p>${words}</p></html>`;

app.get("/", (c) => c.html(page(`${EDITION}, ${Deno.env.get("GREETING")}`)));

app.get("/hello/:name", (c) => c.html(page(`Hello, ${c.req.param("name")}`)));

app.post("/api/echo", async (c) => {
  const { text } = await c.req.json<{ text: string }>();
  return c.json({ said: text, length: text.length });
});

Deno.serve(app.fetch);
