// A ws client. node client.mjs URL [PATH...] runs the conversations of the paths,
// or all of them, and prints the result of each.
import assert from "node:assert/strict";
import { once } from "node:events";
import WebSocket from "ws";

const [url, ...paths] = process.argv.slice(2);

// open returns a socket with next(), pong and closed, which wait for a message, a
// Pong and the end.
async function open(path, protocols = [], options = {}) {
  const ws = new WebSocket(url + path, protocols, { perMessageDeflate: false, maxPayload: 64 << 20, origin: process.env.ORIGIN, ...options });
  const came = [];
  let wanted;
  ws.on("message", (data, isBinary) => {
    const message = isBinary ? data : String(data);
    if (wanted) wanted = void wanted(message);
    else came.push(message);
  });
  ws.next = () => came.length ? came.shift() : new Promise(resolve => { wanted = resolve; });
  ws.closed = new Promise(resolve => ws.on("close", (code, reason) => resolve({ code, reason: String(reason) })));
  await once(ws, "open");
  ws.on("error", () => {}); // "close" follows
  return ws;
}

async function end(ws, code = 1000, reason = "done") {
  ws.close(code, reason);
  const closed = await ws.closed;
  assert.equal(closed.code, code);
}

async function echo(ws, message) {
  ws.send(message);
  assert.ok(same(message, await ws.next()), `a message of ${message.length} comes back changed`);
}

function same(a, b) {
  return typeof a === typeof b && (typeof a === "string" ? a === b : Buffer.compare(a, b) === 0);
}

function noise(n) {
  const words = new Uint32Array(Math.ceil(n / 4));
  for (let i = 0, x = 1; i < words.length; i++) words[i] = x = Math.imul(x, 1664525) + 1013904223;
  return Buffer.from(words.buffer, 0, n);
}

const conversations = {
  async "/echo/text"() {
    const ws = await open("/echo/text");
    const texts = ["", "hello", "grüße 🎉", "ö".repeat(50_000)];
    for (const text of texts) await echo(ws, text);
    for (let i = 0; i < 300; i++) ws.send(`message ${i}`);
    for (let i = 0; i < 300; i++) assert.equal(await ws.next(), `message ${i}`);
    await end(ws);
    return { messages: texts.length + 300 };
  },
  async "/echo/binary"() {
    const ws = await open("/echo/binary");
    const sizes = [0, 125, 126, 65535, 65536, 1 << 20, 16 << 20];
    for (const n of sizes) await echo(ws, noise(n));
    await end(ws);
    return { bytes: sizes.reduce((a, b) => a + b) };
  },
  async "/echo/deflate"() {
    const ws = await open("/echo/deflate", [], { perMessageDeflate: { threshold: 0 } });
    await echo(ws, "so it goes ".repeat(100_000));
    await end(ws);
    return { extension: ws.extensions };
  },
  async "/echo/subprotocol"() {
    const ws = await open("/echo/subprotocol", ["chat.v1", "chat.v2"]);
    await end(ws);
    return { protocol: ws.protocol };
  },
  async "/echo/fragments"() {
    const ws = await open("/echo/fragments");
    ws.send("one", { fin: false });
    ws.send("two", { fin: false });
    ws.send("three", { fin: true });
    const text = await ws.next();
    await end(ws);
    return { text };
  },
  async "/echo/ping"() {
    const ws = await open("/echo/ping");
    const pong = once(ws, "pong");
    ws.ping("anyone?");
    const [data] = await pong;
    await end(ws);
    return { pong: String(data) === "anyone?" };
  },
  async "/ping"() {
    const ws = await open("/ping");
    const text = await ws.next();
    await end(ws);
    return { text };
  },
  async "/close"() {
    return (await open("/close")).closed;
  },
  async "/echo/close"() {
    await end(await open("/echo/close"), 4002, "my turn");
    return {};
  },
  async "/drop"() {
    const { code } = await (await open("/drop")).closed;
    return { code };
  },
  async "/echo/abort"() {
    const ws = await open("/echo/abort");
    ws.terminate();
    await ws.closed;
    return {};
  },
  async "/headers"() {
    const ws = await open("/headers");
    const said = JSON.parse(await ws.next());
    await end(ws);
    return { ...said, host: said.host === new URL(url).host };
  },
  async "/refuse"() {
    const ws = new WebSocket(url + "/refuse", { origin: process.env.ORIGIN });
    const [, res] = await once(ws, "unexpected-response");
    let body = "";
    for await (const part of res) body += part;
    if (res.statusCode === 401) assert.equal(body, "who are you?\n");
    return { status: res.statusCode, challenge: res.headers["www-authenticate"] };
  },
  async "/echo/wait"() {
    const ws = await open("/echo/wait");
    await echo(ws, "open");
    say("/echo/wait", { open: true });
    return ws.closed;
  },
  async "/echo/large"() {
    const ws = await open("/echo/large");
    ws.send("x".repeat(100_000));
    return ws.closed;
  },
};
const special = ["/echo/wait", "/echo/large"];

function say(path, result) {
  console.log(JSON.stringify({ path, result }));
}

for (const path of paths.length ? paths : Object.keys(conversations).filter(path => !special.includes(path))) {
  try {
    say(path, await conversations[path]());
  } catch (err) {
    console.log(JSON.stringify({ path, error: String(err.stack) }));
  }
}
