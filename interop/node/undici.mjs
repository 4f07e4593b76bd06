// A WebSocket of undici over HTTP/2: node undici.mjs wss://addr PACKAGE prints
// what it saw.
import { once } from "node:events";

const { Agent, WebSocket } = await import(process.argv[3]);
const dispatcher = new Agent({ allowH2: true, connect: { rejectUnauthorized: false } });
const ws = new WebSocket(process.argv[2] + "/echo/undici", { protocols: ["chat.v2"], dispatcher });
ws.binaryType = "arraybuffer";
await once(ws, "open");
const echo = async message => {
  ws.send(message);
  const [event] = await once(ws, "message");
  return event.data;
};
const text = await echo("hello");
const large = await echo(new Uint8Array(1 << 20).fill(7));
ws.close(4002, "my turn");
const [closed] = await once(ws, "close");
console.log(JSON.stringify({
  protocol: ws.protocol, text, large: large.byteLength,
  code: closed.code, reason: closed.reason, wasClean: closed.wasClean,
}));
await dispatcher.close();
