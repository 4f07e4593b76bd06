// Clients of socket.io. node socketio-client.mjs URL COUNT [IDENTITY] runs COUNT
// clients. Each begins with polling, upgrades, sends messages before and after,
// and prints the result. IDENTITY is what distinguishes the clients: "address" (a
// different loopback address each), "query" (a parameter) or "cookie" (the proxy's).
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { Agent } from "node:http";
import { io } from "socket.io-client";

const [url, count, identity] = process.argv.slice(2);

async function talk(socket, servers) {
  for (let n = 0; n < 5; n++) {
    const data = randomBytes(1000 * n);
    const answer = await socket.timeout(10_000).emitWithAck("echo", { n, text: "grüße", data });
    assert.deepEqual([answer.n, answer.text], [n, "grüße"]);
    assert.equal(Buffer.compare(answer.data, data), 0);
    servers.add(answer.server);
  }
}

async function client(i) {
  const options = { forceNew: true, reconnection: false, autoConnect: false };
  if (identity === "address") options.agent = new Agent({ keepAlive: true, localAddress: `127.0.0.${i + 2}` });
  if (identity === "query") options.query = { client: `client ${i}` };
  if (identity === "cookie") options.withCredentials = true;
  const socket = io(url, options);
  try {
    const upgraded = new Promise(resolve => socket.io.once("open", () => {
      assert.equal(socket.io.engine.transport.name, "polling");
      socket.io.engine.once("upgrade", resolve);
    }));
    const failed = new Promise((_, reject) => {
      socket.on("connect_error", reject);
      socket.on("disconnect", reason => reject(new Error(reason)));
    });
    const servers = new Set();
    socket.connect();
    await Promise.race([failed, once(socket, "connect").then(async () => {
      await talk(socket, servers);
      await upgraded;
      await talk(socket, servers);
    })]);
    return { servers: [...servers], transport: socket.io.engine.transport.name };
  } finally {
    socket.removeAllListeners();
    socket.disconnect();
  }
}

await Promise.all(Array.from({ length: Number(count) }, async (_, i) => {
  const path = `client ${i}`;
  try {
    console.log(JSON.stringify({ path, result: await client(i) }));
  } catch (err) {
    console.log(JSON.stringify({ path, error: String(err.stack) }));
  }
}));
