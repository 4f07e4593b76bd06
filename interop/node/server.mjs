// A ws server. The first part of the path selects what it does.
import { createServer } from "node:http";
import { WebSocketServer } from "ws";

const handlers = {
  echo(ws) {
    ws.on("message", (data, isBinary) => ws.send(data, { binary: isBinary }));
  },
  ping(ws) {
    ws.on("pong", data => ws.send(String(data) === "are you there?" ? "pong" : `a pong with ${data}`));
    ws.ping("are you there?");
  },
  close(ws) {
    ws.close(4001, "enough");
  },
  drop(ws) {
    ws.terminate();
  },
  headers(ws, { headers }) {
    const names = ["host", "x-real-ip", "x-forwarded-for", "x-forwarded-proto", "upgrade"];
    ws.send(JSON.stringify(Object.fromEntries(names.map(name => [name, headers[name]]))));
  },
};

const wss = new WebSocketServer({
  noServer: true,
  maxPayload: 64 << 20,
  perMessageDeflate: { threshold: 0 },
  handleProtocols: offered => offered.has("chat.v2") && "chat.v2",
});

const server = createServer((_, res) => res.writeHead(426).end());
server.on("upgrade", (req, socket, head) => {
  socket.on("error", () => socket.destroy());
  const what = req.url.split("/")[1];
  if (what === "refuse") {
    const body = "who are you?\n";
    socket.end(`HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    return;
  }
  for (const name of ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Upgrade", "Connection"]) {
    if (!req.rawHeaders.includes(name)) throw new Error(`no ${name}, as RFC 6455 writes it, in ${req.rawHeaders}`);
  }
  wss.handleUpgrade(req, socket, head, ws => {
    ws.on("error", () => ws.terminate());
    handlers[what](ws, req);
  });
});
server.listen(0, "127.0.0.1", () => {
  console.log(JSON.stringify({ path: "", result: `127.0.0.1:${server.address().port}` }));
});
