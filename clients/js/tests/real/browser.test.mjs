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
  browser = await launch();
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

async function hasAll(page) {
  const found = await eventually("all events", () => counts(page), (counts) => counts.length >= counter.last);
  assert.deepEqual(found, upTo(counter.last));
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
