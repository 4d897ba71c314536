// A fetch handler and nothing else, in TypeScript: the entry point brings the server.
export default {
  fetch(request: Request): Response {
    return new Response(`deno ${Deno.version.deno} says hello to ${new URL(request.url).pathname}\n`);
  },
};
