// The built client in a real Chromium, against a real server and a real nats-server.

import assert from "node:assert/strict";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { Server } from "../../../../tests/browser/server.mjs";
import { launch } from "../../../../tests/browser/window.mjs";
import { Front } from "./front.mjs";
import { Nats } from "./nats.mjs";
import { connections, Counter, eventually, upTo } from "./wait.mjs";

let nats;
let server;
let front;
let browser;
let context;
let counter;
let flags;

before(async () => {
  nats = await Nats.start();
  server = await Server.start({
    nats: nats.url,
    stream: "expiry_warning: 3s, ping_interval: 1s",
    more: 'server: { allowed_origins: ["*"] }\n',
  });
  front = await Front.start(server.url, () => server.run("token", "--user", "2", ...flags));
  // Each tab has a process of its own, as in browsers of people, so that one can stand still alone.
  browser = await launch("--renderer-process-limit=40");
});

after(async () => {
  await browser?.close();
  await front?.remove();
  await server?.remove();
  await nats?.remove();
});

beforeEach(async () => {
  flags = [];
  front.asked = [];
  counter = new Counter(server, nats);
  context = await browser.newContext();
});

afterEach(async () => {
  await context.close();
  await eventually("no connection", () => connections(server), (count) => count === 0);
});

/** A tab with the client in it; complaints of the page fail the test, but for a server that is down. */
async function tab(options = {}) {
  const page = await context.newPage();
  page.on("pageerror", (error) => assert.fail(error));
  await page.goto(`${front.url}/page`);
  await page.waitForFunction(() => globalThis.loaded);
  await page.evaluate((options) => globalThis.begin(options), options);
  return page;
}

const state = (page) => page.evaluate(() => globalThis.client.state);
const counts = (page) => page.evaluate(() => globalThis.counts);
const becomes = (page, status) => eventually(status, () => state(page), (state) => state.status === status);

async function hasAll(page, ms) {
  const found = await eventually("all events", () => counts(page), (counts) => counts.length >= counter.last, ms);
  assert.deepEqual(found, upTo(counter.last));
}

/** What comes from now on it hears, and of what came before it knows that it has missed something, if it has. */
async function hasAllOrGap(page) {
  await counter.publish(1);
  await eventually("what came last", () => counts(page), (counts) => counts.at(-1) === counter.last);
  const heard = await counts(page);
  const gaps = await page.evaluate(() => globalThis.gaps.length);
  assert.deepEqual(heard, gaps ? upTo(counter.last).filter((n) => heard.includes(n)) : upTo(counter.last));
}

/** Stops everything in a tab, as when it is frozen or its computer is asleep, and returns what lets it go on. */
async function stopped(page) {
  const debug = await context.newCDPSession(page);
  await debug.send("Debugger.enable");
  const standing = new Promise((resolve) => debug.once("Debugger.paused", resolve));
  const running = page.evaluate("debugger");
  await standing;
  return async () => {
    await debug.send("Debugger.resume");
    await debug.detach();
    await running;
  };
}

for (const transport of ["fetch", "eventsource"]) {
  test(`${transport}: receives, and comes back after the server was killed, without loss`, async () => {
    const page = await tab({ transport });
    assert.equal((await becomes(page, "open")).transport, transport);
    await counter.publish(2);
    await hasAll(page);
    await server.kill();
    await becomes(page, "reconnecting");
    await counter.publish(3);
    await server.startAgain();
    await becomes(page, "open");
    await counter.publish(1);
    await hasAll(page);
    assert.deepEqual(await page.evaluate(() => globalThis.gaps), []);
  });

  test(`${transport}: the token is renewed unnoticed, and stands in no address`, async () => {
    flags = ["--ttl", "4s"];
    front.tokens = 0;
    const page = await tab({ transport });
    await becomes(page, "open");
    while (front.tokens < 3) await counter.publish();
    await hasAll(page);
    assert.deepEqual(await page.evaluate(() => globalThis.states), ["connecting", "open"]);
    assert.deepEqual(front.asked.filter((url) => /access_token|eyJ/.test(url)), []);
    assert.equal(front.asked.some((url) => url.includes("ticket=")), transport === "eventsource");
  });
}

test("from another origin", async () => {
  for (const transport of ["fetch", "eventsource", "poll"]) {
    const page = await tab({ url: server.url, transport });
    await becomes(page, transport === "poll" ? "polling" : "open");
    await page.close();
  }
});

test("ten tabs share one connection; the leading tab is closed, and then another, and nothing is lost", async () => {
  const tabs = [];
  for (let n = 0; n < 10; n++) tabs.push(await tab());
  for (const page of tabs) await becomes(page, "open");
  assert.equal(await connections(server), 1);
  await counter.publish(2);
  for (const page of tabs) await hasAll(page);
  for (let closed = 0; closed < 2; closed++) {
    // The tab that came first leads. Some events come while it goes, some after.
    const publishing = counter.publish(4);
    await tabs.shift().close();
    await publishing;
    await counter.publish(1);
    for (const page of tabs) await hasAll(page);
  }
  assert.equal(await connections(server), 1);
  for (const page of tabs) {
    assert.deepEqual(await page.evaluate(() => globalThis.states), ["connecting", "open"]);
    assert.deepEqual(await page.evaluate(() => globalThis.gaps), []);
  }
});

test("a leading tab that crashes loses nothing either", async () => {
  const [leader, follower] = [await tab(), await tab()];
  await becomes(follower, "open");
  await counter.publish(1);
  await leader.goto("chrome://crash").catch(() => {});
  await counter.publish(2);
  await hasAll(follower);
  await leader.close();
});

test("a leading tab that stands still is succeeded, and when it goes on it knows what it has missed", async () => {
  const timing = { leaderAnswer: 500 };
  const [leader, follower] = [await tab({ timing }), await tab({ timing })];
  for (const page of [leader, follower]) await becomes(page, "open");
  await counter.publish(1);
  for (const page of [leader, follower]) await hasAll(page);
  const goOn = await stopped(leader);
  await counter.publish(2);
  // It is looked after when the time of a usual ping is over.
  await hasAll(follower, 60_000);
  // Its own connection is still there, and nobody reads it.
  assert.equal(await connections(server), 2);
  await counter.publish(2);
  await hasAll(follower);
  await goOn();
  await hasAllOrGap(leader);
  await hasAll(follower);
  await eventually("one connection", () => connections(server), (count) => count === 1);
});

test("a following tab that stands still hears what came meanwhile, or that something did", async () => {
  const [leader, follower] = [await tab(), await tab()];
  for (const page of [leader, follower]) await becomes(page, "open");
  const goOn = await stopped(follower);
  await counter.publish(3);
  await hasAll(leader);
  await goOn();
  await hasAllOrGap(follower);
});

test("in a frame without an origin, which has no locks, it streams all the same", async () => {
  const page = await context.newPage();
  await page.goto(`${front.url}/page`);
  const token = await server.run("token", "--user", "2");
  await page.evaluate(([server, token]) => {
    const frame = document.createElement("iframe");
    frame.sandbox = "allow-scripts";
    frame.srcdoc = `<script type="module">
      import { connect } from "${location.origin}/client/src/index.js";
      connect({ url: "${server}", getToken: () => "${token}", onState: (state) => parent.postMessage(state.status, "*") });
    </script>`;
    globalThis.framed = [];
    addEventListener("message", ({ data }) => framed.push(data));
    document.body.append(frame);
  }, [server.url, token]);
  await eventually("open", () => page.evaluate(() => globalThis.framed), (states) => states.at(-1) === "open");
});

test("a page of another origin waits as long as the server asks it to", async () => {
  const full = await Server.start({ more: 'server: { allowed_origins: ["*"], max_connections_per_user: 1 }\n' });
  try {
    const token = await full.run("token", "--user", "2");
    const page = await tab({ url: full.url, share: false });
    await page.evaluate(([url, token]) => {
      globalThis.client.close();
      const options = { url, share: false, getToken: () => token, onError: (problem) => problems.push(problem) };
      globalThis.problems = [];
      globalThis.begin(options);
    }, [full.url, token]);
    await becomes(page, "open");
    await page.evaluate(() => (globalThis.first = globalThis.client));
    await page.evaluate(([url, token]) => globalThis.begin({ url, share: false, getToken: () => token, onError: (problem) => problems.push(problem) }), [full.url, token]);
    await becomes(page, "reconnecting");
    const [problem] = await page.evaluate(() => globalThis.problems);
    assert.equal(problem.status, 429);
    assert.ok(problem.retryAfterMs >= 1000, `it may read Retry-After: ${JSON.stringify(problem)}`);
    await page.evaluate(() => globalThis.first.close());
    await becomes(page, "open");
  } finally {
    await full.remove();
  }
});

test("tabs of different users do not share", async () => {
  await becomes(await tab(), "open");
  flags = ["--user", "3"];
  const token = await server.run("token", "--user", "3");
  const page = await context.newPage();
  await page.goto(`${front.url}/page`);
  await page.waitForFunction(() => globalThis.loaded);
  await page.evaluate((token) => globalThis.begin({ getToken: () => token }), token);
  await becomes(page, "open");
  assert.equal(await connections(server), 2);
  await counter.publish(1);
  await hasAll(context.pages()[0]);
  assert.deepEqual(await counts(page), []);
});

test("behind a proxy that holds streams back it polls, in all tabs, and streams again when it can", async () => {
  front.holdsBack = true;
  const timing = { firstData: 2000, probe: 500 };
  const tabs = [await tab({ timing }), await tab({ timing })];
  for (const page of tabs) await becomes(page, "polling");
  await counter.publish(3);
  for (const page of tabs) await hasAll(page);
  front.holdsBack = false;
  for (const page of tabs) await becomes(page, "open");
  await counter.publish(2);
  for (const page of tabs) await hasAll(page);
});

test("the network goes away and comes back", async () => {
  const page = await tab();
  await becomes(page, "open");
  // Chromium only pretends for what is new; what is open has to be cut.
  await context.setOffline(true);
  front.cut();
  await becomes(page, "reconnecting");
  await counter.publish(2);
  await context.setOffline(false);
  await becomes(page, "open");
  await hasAll(page);
});
