// A fetch handler and nothing else, in TypeScript: the entry point brings the server.
export default {
  fetch(request: Request): Response {
    return new Response(`bun ${Bun.version} says hello to ${new URL(request.url).pathname}\n`);
  },
};
