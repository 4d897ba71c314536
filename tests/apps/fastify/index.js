// Fastify with a plugin, a schema, and a package of native code.

import path from "node:path";
import Fastify from "fastify";
import statics from "@fastify/static";
import bcrypt from "bcrypt";

const EDITION = "first edition";

const app = Fastify({ logger: true });
app.register(statics, { root: path.join(import.meta.dirname, "public") });

const page = (words) => `<!doctype html><html lang="en"><title>Fastify</title><link rel="icon" href="/logo.svg"><p>${words}</p></html>`;

app.get("/", (request, reply) => reply.type("text/html").send(page(`${EDITION}, ${process.env.GREETING}`)));

app.get("/hello/:name", (request, reply) => reply.type("text/html").send(page(`Hello, ${request.params.name}`)));

const schema = { body: { type: "object", required: ["text"], properties: { text: { type: "string" } } } };
app.post("/api/echo", { schema }, async ({ body: { text } }) => {
  const hash = await bcrypt.hash(text, 4);
  return { said: (await bcrypt.compare(text, hash)) ? text : "", length: text.length };
});

await app.listen({ port: 3000 });
