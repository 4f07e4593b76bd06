// A socket.io server. node socketio-server.mjs NAME starts one. Its session ids
// begin with its address, so that a policy can find the server of a session.
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
