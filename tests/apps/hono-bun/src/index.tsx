// Hono on Bun, with its own JSX on the server and a WebSocket.

import { Hono } from "hono";
import { upgradeWebSocket, websocket } from "hono/bun";

const EDITION = "first edition";

const app = new Hono();

const Page = ({ children }: { children?: unknown }) => (
  <html lang="en">
    <head>
      <title>Hono</title>
      <link rel="icon" href="/logo.svg" />
    </head>
    <body>
      <p>{children}</p>
    </body>
  </html>
);

app.get("/", (c) => c.html(<Page>{`${EDITION}, ${process.env.GREETING}`}</Page>));

app.get("/hello/:name", (c) => c.html(<Page>{`Hello, ${c.req.param("name")}`}</Page>));

app.post("/api/echo", async (c) => {
  const { text } = await c.req.json<{ text: string }>();
  return c.json({ said: text, length: text.length });
});

app.get(
  "/ws",
  upgradeWebSocket(() => ({
    onMessage: (event, ws) => ws.send(String(event.data)),
  })),
);

export default { fetch: app.fetch, websocket };
