// The built client in Node.js, against a real server and a real nats-server.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { Server } from "../../../../tests/browser/server.mjs";
import { connect } from "../../dist/src/index.js";
import { Front } from "./front.mjs";
import { Nats } from "./nats.mjs";
import { connections, Counter, eventually, upTo } from "./wait.mjs";

let nats;
let server;
let counter;
const token = (...flags) => server.run("token", "--user", "2", ...flags);

before(async () => {
  nats = await Nats.start();
  server = await Server.start({ nats: nats.url, stream: "expiry_warning: 3s, ping_interval: 1s" });
  counter = new Counter(server, nats);
});

after(async () => {
  await server?.remove();
  await nats?.remove();
});

// A client or a front that a failed test has left would keep the process alive.
const left = [];
afterEach(async () => {
  for (const end of left.splice(0)) await end();
});

function listen(options) {
  const heard = { counts: [], states: [], problems: [], from: counter.last };
  heard.client = connect({
    url: server.url,
    getToken: () => token(),
    onState: (state) => heard.states.push(state.status),
    onError: (problem) => heard.problems.push(problem),
    ...options,
  });
  left.push(() => heard.client.close());
  heard.client.on("test.count", (event) => heard.counts.push(event.data.n));
  heard.open = () => eventually("open", () => heard.client.state.status, (status) => status === "open");
  heard.all = () =>
    eventually("all events", () => heard.counts, (counts) => counts.length >= counter.last - heard.from && counts.at(-1) === counter.last)
      .then((counts) => assert.deepEqual(counts, upTo(counter.last).slice(heard.from)));
  return heard;
}

test("it connects and receives; closed, it leaves the server", async () => {
  const heard = listen();
  await heard.open();
  await counter.publish(3);
  await heard.all();
  heard.client.close();
  await eventually("no connection", () => connections(server), (count) => count === 0);
  assert.deepEqual(heard.states, ["connecting", "open", "closed"]);
});

test("the server is killed and started again: nothing is lost, nothing is doubled", async () => {
  const heard = listen();
  await heard.open();
  await counter.publish(2);
  await server.kill();
  await eventually("reconnecting", () => heard.client.state.status, (status) => status === "reconnecting");
  await counter.publish(3);
  await server.startAgain();
  await heard.open();
  await counter.publish(2);
  await heard.all();
  heard.client.close();
});

test("the server is stopped: its closing is honoured and nothing is lost", async () => {
  const heard = listen();
  await heard.open();
  await server.stop();
  await counter.publish(2);
  await server.startAgain();
  await heard.open();
  await heard.all();
  heard.client.close();
});

test("tokens are renewed before they expire, without anybody noticing", async () => {
  let asked = 0;
  const heard = listen({
    getToken: () => {
      asked += 1;
      return token("--ttl", "4s");
    },
  });
  await heard.open();
  while (asked < 4) await counter.publish();
  await heard.all();
  assert.deepEqual(heard.states, ["connecting", "open"]);
  assert.deepEqual(heard.problems, []);
  heard.client.close();
});

test("who is sent away stays away", async () => {
  const heard = listen();
  let confirmed;
  heard.client.on("connection_confirmed", (event) => (confirmed = event.connection_id));
  await heard.open();
  const admin = await token("--claim", 'notify={"admin":true}');
  const ended = await fetch(`${server.url}/api/v1/connections/${confirmed}`, { method: "DELETE", headers: { authorization: `Bearer ${admin}` } });
  assert.equal(ended.ok, true);
  await eventually("closed", () => heard.client.state, (state) => state.status === "closed" && state.reason === "disconnected");
});

test("what the token does not allow is told in the server's words", async () => {
  const heard = listen({ channels: ["service:billing"] });
  const state = await eventually("closed", () => heard.client.state, (state) => state.status === "closed");
  assert.equal(state.reason, "refused");
  assert.equal(state.problem.status, 403);
  assert.match(state.problem.message, /service:billing/);
});

test("behind a proxy that holds streams back it polls, and streams again when it can", async () => {
  const front = await Front.start(server.url, token);
  left.push(() => front.remove());
  front.holdsBack = true;
  const heard = listen({ url: front.url, timing: { firstData: 2000, probe: 500 } });
  await eventually("polling", () => heard.client.state.status, (status) => status === "polling");
  await counter.publish(3);
  await heard.all();
  front.holdsBack = false;
  await heard.open();
  await counter.publish(2);
  await heard.all();
  assert.deepEqual(heard.states, ["connecting", "polling", "open"]);
});

test("channels are polled, too", async () => {
  const heard = listen({ channels: ["user:2"], transport: "poll" });
  await eventually("polling", () => heard.client.state.status, (status) => status === "polling");
  await counter.publish(2);
  await heard.all();
  heard.client.close();
});
