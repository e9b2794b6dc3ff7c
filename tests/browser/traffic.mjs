// What makes a server look used: streams of many users, and payloads that only NATS can bring. For tests and pictures.

import net from "node:net";

const JSON_TYPE = { "content-type": "application/json" };

/** A demo user's token; of development mode. */
export async function tokenOf(server, user, admin = false) {
  const answer = await fetch(`${server.url}/api/dev/token`, { method: "POST", headers: JSON_TYPE, body: JSON.stringify({ user_id: user, admin }) });
  return (await answer.json()).access_token;
}

/** A stream over a plain socket, of which nothing is read unless `reads`; ends with `destroy`. */
export async function stream(server, user, { reads = false, path = "/events", agent = "" } = {}) {
  const token = await tokenOf(server, user);
  const { hostname, port } = new URL(server.url);
  const socket = net.connect(Number(port), hostname);
  if (reads) socket.resume();
  else socket.pause();
  socket.on("error", () => {}); // It may be cut.
  const named = agent ? `user-agent: ${agent}\r\n` : "";
  socket.write(`GET ${path} HTTP/1.1\r\nhost: ${hostname}:${port}\r\nauthorization: Bearer ${token}\r\n${named}\r\n`);
  return socket;
}

/** Publishes whatever it is, as only NATS lets one. */
export async function publishRaw(nats, subject, text) {
  const { hostname, port } = new URL(nats.url);
  const socket = net.connect(Number(port), hostname);
  socket.write(`CONNECT {"verbose":false}\r\nPUB ${subject} ${Buffer.byteLength(text)}\r\n${text}\r\nPING\r\n`);
  for await (const piece of socket) if (String(piece).includes("PONG")) break;
  socket.destroy();
}
