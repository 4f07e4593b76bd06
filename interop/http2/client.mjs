// A client of node:http2: node client.mjs https://addr opens an extended CONNECT
// and sends a masked text frame and a Close frame. It prints what comes back.
import { once } from "node:events";
import http2 from "node:http2";

const session = http2.connect(process.argv[2], { rejectUnauthorized: false });
const [settings] = await once(session, "remoteSettings");
const stream = session.request({
  ":method": "CONNECT", ":protocol": "websocket", ":scheme": "https", ":path": "/echo/node",
  "sec-websocket-version": "13", "sec-websocket-protocol": "chat.v2",
});
const [headers] = await once(stream, "response");
const got = [];
stream.on("data", data => got.push(data));
const frame = (first, payload) => {
  const key = [1, 2, 3, 4];
  return Buffer.from([first, 0x80 | payload.length, ...key, ...payload.map((b, i) => b ^ key[i % 4])]);
};
stream.write(frame(0x81, [...Buffer.from("hello")]));
stream.write(frame(0x88, [0x03, 0xe8]));
await once(stream, "end");
stream.end();
await once(stream, "close");
console.log(JSON.stringify({
  announced: settings.enableConnectProtocol, status: headers[":status"], protocol: headers["sec-websocket-protocol"] ?? "",
  got: Buffer.concat(got).toString("hex"), reset: stream.rstCode,
}));
session.close();
