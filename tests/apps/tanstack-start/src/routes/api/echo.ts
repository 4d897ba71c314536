import { createFileRoute } from "@tanstack/react-router";

export const Route = createFileRoute("/api/echo")({
  server: {
    handlers: {
      POST: async ({ request }) => {
        const { text } = await request.json();
        return Response.json({ said: text, length: text.length });
      },
    },
  },
});
