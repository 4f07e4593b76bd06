// A socket.io server: node socketio-server.mjs NAME. The ids of its
// sessions begin with its address, for those who want to see whose they are.
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { Server } from "socket.io";

const name = process.argv[2];
const server = createServer();
const io = new Server(server);
io.on("connection", socket => {
  socket.on("echo", (message, ack) => ack({ ...message, server: name }));
});
server.listen(0, "127.0.0.1", () => {
  const addr = `127.0.0.1:${server.address().port}`;
  io.engine.generateId = () => `${addr}/${randomUUID()}`;
  console.log(JSON.stringify({ path: name, result: addr }));
});
