// Elysia on Bun, which listens by itself.

import { Elysia, t } from "elysia";

const EDITION = "first edition";

const page = (words: string) =>
  new Response(`<!doctype html><html lang="en"><title>Elysia</title><link rel="icon" href="/logo.svg"><p>${words}</p></html>`, {
    headers: { "content-type": "text/html; charset=utf-8" },
  });

new Elysia()
  .get("/", () => page(`${EDITION}, ${process.env.GREETING}`))
  .get("/hello/:name", ({ params: { name } }) => page(`Hello, ${name}`))
  .post("/api/echo", ({ body: { text } }) => ({ said: text, length: text.length }), {
    body: t.Object({ text: t.String() }),
  })
  .ws("/ws", { message: (ws, message) => void ws.send(message) })
  .listen(3000);
