// A fetch handler and nothing else: the entry point brings the server.
export default {
  fetch(request) {
    return new Response(`node says hello to ${new URL(request.url).pathname} from ${process.env.TAKO_BUILD}\n`);
  },
};
