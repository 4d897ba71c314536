// The server half of the WebSocket matrix, by `ws`; `server.py` is its twin. The path says what it does:
//   /echo             repeats each message          /fragments        the same in three fragments
//   /first            speaks in the packet of its 101, then repeats
//   /ping             pings, and tells of the pong  /protocol         tells what was agreed on
//   /close/CODE       closes; 0 is without a code   /seen/TOKEN       remembers how the client closes
//   /report/TOKEN     tells that

import { createServer } from "node:http";

const { WebSocketServer } = await import(`${process.argv[2]}/node_modules/ws/wrapper.mjs`);

const PROTOCOLS = ["two", "three"];
/** How clients closed, by token; a promise, since the report may be asked for first. */
const closes = new Map();

const sockets = new WebSocketServer({
  noServer: true,
  maxPayload: 32 << 20,
  // Only when the client offers it.
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (offered) => PROTOCOLS.find((protocol) => offered.has(protocol)) ?? false,
});

createServer((request, response) => response.end("ok\n"))
  .on("upgrade", (request, socket, head) => {
    const [, what, argument] = request.url.split("/");
    // Corked, so that what is said at once goes out in one piece with the 101.
    socket.cork();
    sockets.handleUpgrade(request, socket, head, (peer) => {
      serve(peer, what, argument);
      socket.uncork();
    });
  })
  .listen(Number(process.env.PORT), "127.0.0.1");

function serve(peer, what, argument) {
  if (what === "first") peer.send("first");
  if (what === "echo" || what === "first") peer.on("message", (data, binary) => peer.send(data, { binary }));
  if (what === "fragments") peer.on("message", (data, binary) => inFragments(peer, data, binary));
  if (what === "protocol") peer.send(peer.protocol);
  if (what === "ping") {
    peer.on("pong", (payload) => peer.send(`pong ${payload}`));
    peer.ping("tako");
  }
  if (what === "close") argument === "0" ? peer.close() : peer.close(Number(argument), "tschüß");
  if (what === "seen") peer.on("close", (code, reason) => close(argument).resolve(`${code} ${reason}`));
  if (what === "report") close(argument).promise.then((told) => peer.send(told));
}

function inFragments(peer, data, binary) {
  const third = Math.ceil(data.length / 3);
  for (const n of [0, 1, 2]) peer.send(data.subarray(n * third, (n + 1) * third), { binary, fin: n === 2 });
}

function close(token) {
  if (!closes.has(token)) {
    const told = {};
    told.promise = new Promise((resolve) => (told.resolve = resolve));
    closes.set(token, told);
  }
  return closes.get(token);
}
