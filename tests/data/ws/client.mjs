// The client half of the WebSocket matrix, by `ws`; `client.py` is its twin.
//   node client.mjs TOOLS ws[s]://ADDRESS HOST
// Says `ok NAME` for each check and ends with 0, or throws at the first that fails.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import net from "node:net";
import tls from "node:tls";

const [tools, base, host] = process.argv.slice(2);
const { WebSocket } = await import(`${tools}/node_modules/ws/wrapper.mjs`);

const SIZES = [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20];
/** RFC 6455, 7.4; 1005 is how "no code" is told. */
const CODES = [1000, 1001, 3000, 3999, 4000, 4999, 1005];
const PATIENCE = 60_000;

/** A connection whose messages wait to be asked for. */
class Peer {
  #messages = [];
  #wake = () => {};

  constructor(path, { protocols = [], perMessageDeflate = false, ...options } = {}) {
    this.socket = new WebSocket(`${base}${path}`, protocols, {
      headers: { Host: host },
      servername: host,
      rejectUnauthorized: false, // self-signed, and not what is tested
      maxPayload: 32 << 20,
      perMessageDeflate,
      ...options,
    });
    this.socket.on("message", (data, binary) => {
      this.#messages.push({ data, binary });
      this.#wake();
    });
    this.socket.on("upgrade", ({ headers }) => (this.agreed = headers["sec-websocket-extensions"]));
    this.closed = new Promise((resolve) => this.socket.on("close", (code, reason) => resolve([code, String(reason)])));
    this.opened = new Promise((resolve, reject) => this.socket.on("open", resolve).on("error", reject));
  }

  static async open(path, options) {
    const peer = new Peer(path, options);
    await within(`open ${path}`, peer.opened);
    return peer;
  }

  async next() {
    while (this.#messages.length === 0) await within("a message", new Promise((resolve) => (this.#wake = resolve)));
    return this.#messages.shift();
  }

  async text() {
    const { data, binary } = await this.next();
    assert.equal(binary, false);
    return String(data);
  }

  async end() {
    this.socket.close(1000);
    assert.deepEqual(await within("the close", this.closed), [1000, ""]);
  }
}

function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`never: ${what}`)), PATIENCE)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Sends the head of the request and `frame` in one piece: the frame is there before the answer is. */
function early(frame) {
  return (options) => {
    const plain = { ...options, path: undefined };
    const stream = base.startsWith("wss") ? tls.connect(plain) : net.connect(plain);
    const write = stream.write;
    stream.write = (head, encoding, done) => {
      stream.write = write;
      return stream.write(Buffer.concat([Buffer.from(head, "latin1"), frame]), done);
    };
    return stream;
  };
}

const checks = {
  async "sizes"() {
    const peer = await Peer.open("/echo");
    assert.equal(peer.socket.extensions, "");
    for (const size of SIZES) {
      const sent = randomBytes(size);
      peer.socket.send(sent);
      const { data, binary } = await peer.next();
      assert.ok(binary && data.equals(sent), `${size} bytes`);
    }
    peer.socket.send("größer");
    assert.equal(await peer.text(), "größer");
    await peer.end();
  },

  async "many at once"() {
    const peer = await Peer.open("/echo");
    const count = 2_000;
    for (let n = 0; n < count; n++) peer.socket.send(`message ${n}`);
    for (let n = 0; n < count; n++) assert.equal(await peer.text(), `message ${n}`);
    await peer.end();
  },

  async "fragments both ways"() {
    const peer = await Peer.open("/fragments");
    for (const size of [3, 300, 200_000]) {
      const sent = randomBytes(size);
      const cut = Math.floor(size / 3);
      peer.socket.send(sent.subarray(0, cut), { fin: false });
      peer.socket.ping(); // a control frame may come between (RFC 6455, 5.4)
      peer.socket.send(sent.subarray(cut, cut), { fin: false });
      peer.socket.send(sent.subarray(cut));
      assert.ok((await peer.next()).data.equals(sent), `${size} bytes`);
    }
    await peer.end();
  },

  async "pings both ways"() {
    const peer = await Peer.open("/ping");
    assert.equal(await peer.text(), "pong tako");
    for (const size of [0, 1, 125]) {
      const sent = randomBytes(size);
      const pong = new Promise((resolve) => peer.socket.once("pong", resolve));
      peer.socket.ping(sent);
      assert.ok((await within("a pong", pong)).equals(sent));
    }
    await peer.end();
  },

  async "the server closes"() {
    for (const code of CODES) {
      const peer = await Peer.open(`/close/${code === 1005 ? 0 : code}`);
      assert.deepEqual(await within("the close", peer.closed), [code, code === 1005 ? "" : "tschüß"]);
    }
  },

  async "the client closes"() {
    for (const code of CODES) {
      const token = randomBytes(8).toString("hex");
      const peer = await Peer.open(`/seen/${token}`);
      code === 1005 ? peer.socket.close() : peer.socket.close(code, "adiós");
      await within("the close", peer.closed);
      const report = await Peer.open(`/report/${token}`);
      assert.equal(await report.text(), code === 1005 ? "1005 " : `${code} adiós`);
      await report.end();
    }
  },

  async "the server speaks with its 101"() {
    for (let n = 0; n < 20; n++) {
      const peer = await Peer.open("/first");
      assert.equal(await peer.text(), "first");
      peer.socket.send("second");
      assert.equal(await peer.text(), "second");
      await peer.end();
    }
  },

  async "the client speaks with its request"() {
    // A masked text frame (RFC 6455, 5.2); the mask is zero.
    const frame = Buffer.concat([Buffer.from([0x81, 0x85, 0, 0, 0, 0]), Buffer.from("early")]);
    for (const [path, words] of [["/echo", ["early"]], ["/first", ["first", "early"]]]) {
      const peer = await Peer.open(path, { createConnection: early(frame) });
      for (const word of words) assert.equal(await peer.text(), word);
      await peer.end();
    }
  },

  async "permessage-deflate"() {
    for (const [offer, agreed] of [
      [true, /^permessage-deflate/],
      [{ serverNoContextTakeover: true, clientMaxWindowBits: 10 }, /server_no_context_takeover/],
    ]) {
      const peer = await Peer.open("/echo", { perMessageDeflate: offer });
      assert.equal(peer.socket.extensions, "permessage-deflate");
      assert.match(peer.agreed, agreed);
      for (const sent of ["tako ".repeat(200_000), randomBytes(100_000).toString("hex"), ""]) {
        peer.socket.send(sent, { compress: true });
        assert.equal(await peer.text(), sent);
      }
      await peer.end();
    }
  },

  async "subprotocols"() {
    for (const [protocols, agreed] of [[["one", "two"], "two"], [["three", "two"], null], [[], ""]]) {
      const peer = await Peer.open("/protocol", { protocols });
      const told = await peer.text();
      assert.equal(peer.socket.protocol, told, "both sides mean the same");
      agreed === null ? assert.ok(protocols.includes(told)) : assert.equal(told, agreed);
      await peer.end();
    }
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(`ok ${name}`);
}
