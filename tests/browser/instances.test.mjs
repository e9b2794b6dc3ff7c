// Two instances and a nats-server: what an administrator sees through one of them of both, what happens when one goes away,
// and that the chat loses nothing over it.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Nats } from "../../clients/js/tests/real/nats.mjs";
import { Server } from "./server.mjs";
import { publishRaw, stream } from "./traffic.mjs";
import { launch, openWindow } from "./window.mjs";

const CHAT = "fechatter.realtime.chat.2"; // of which users 1 and 2 are members
const FORGOTTEN_MS = 20_000; // instances forget each other sooner
const BACK_MS = 40_000; // so long after the failures until then, a client is back: it waits 15 s at most between two tries
const STREAM = "ping_interval: 3s, outbox_events: 16, write_timeout: 2s";

let nats;
let here;
let there;
let browser;

before(async () => {
  nats = await Nats.start();
  [here, there] = await Promise.all([1, 2].map(() => Server.start({ nats: nats.url, stream: STREAM })));
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await Promise.all([here, there].map((server) => server?.remove()));
  await nats?.remove();
});

test("connections of both instances are shown, with rates, and a connection of the other one is ended", async () => {
  const [near, far] = await Promise.all([chatting(here, 1), chatting(there, 2)]);
  const window = await overview();
  await Promise.all([1, 2].map((user) => row(window, user).waitFor()));
  const names = await Promise.all([here, there].map(nameOf));
  assert.notEqual(names[0], names[1]);
  assert.ok((await row(window, 1).innerText()).includes(names[0]));
  assert.ok((await row(window, 2).innerText()).includes(names[1]));
  for (const name of names) await window.get("instance").filter({ hasText: name }).getByText("1 connection,").waitFor();
  await window.get("chart-connections").getByText("on 2 instances").waitFor();
  await window.get("channels").getByText("chat:2").waitFor();
  // Those of users 1 and 2 together, each once, although both instances have listeners on chat:1 and chat:2.
  await window.get("resources").getByText("3 × chat").waitFor();
  await window.get("resources").getByText("2 × user").waitFor();
  await here.publishAll(CHAT, [1, 2, 3].map((number) => message(`rate-${number}`)));
  await far.message("rate-3");
  await window.get("chart-latency").getByText(/half within .*99 % within/).waitFor();
  await window.page.waitForFunction(() => Number(document.querySelector("[data-testid=chart-events] .figure").textContent) > 0);
  await row(window, 2).getByTestId("disconnect").click();
  await window.get("confirm-yes").click();
  await row(window, 2).waitFor({ state: "detached" });
  await far.get("sign-in-error").getByText("ended this stream").waitFor();
  await near.connection("open");
  await Promise.all([window, near, far].map((each) => each.close()));
});

test("what the bus brought and is no event is listed, as text", async () => {
  const window = await overview();
  await publishRaw(nats, CHAT, "<img src=x onerror=alert(1)> is no JSON");
  await publishRaw(nats, CHAT, '{"MessageReceived":{"chat_id":2}}');
  await window.get("rejection").filter({ hasText: "not_json" }).getByText("onerror").waitFor();
  await window.get("rejection").filter({ hasText: "MessageReceived" }).waitFor();
  assert.equal(await window.page.locator("main img").count(), 0);
  await window.close();
});

test("a client that reads too slowly is counted, on whichever instance it was", async () => {
  const window = await overview();
  await window.get("chart-slow").locator(".figure").getByText("0").waitFor();
  const client = await stream(there, 3);
  await row(window, 3).waitFor();
  const words = "x".repeat(200_000);
  const payload = { type: "large", channel: "user:3", data: { words } };
  await here.publishAll("fechatter.realtime.user.3", Array(80).fill(payload));
  await window.get("chart-slow").locator(".figure").getByText("1").waitFor();
  await window.get("instance").filter({ hasText: await nameOf(there) }).getByText("slow ends: 1").waitFor();
  client.destroy();
  await window.close();
});

test("an instance that goes away is told, and so is one that comes", async () => {
  const [near, far] = await Promise.all([chatting(here, 1), chatting(there, 2)]);
  const window = await overview();
  await row(window, 2).waitFor();
  const name = await nameOf(there);
  await there.kill();
  const down = window.get("instance-down").filter({ hasText: name });
  await down.getByText("does not answer").waitFor();
  await row(window, 2).waitFor({ state: "detached" });
  await window.connection("live");
  await row(window, 1).waitFor();
  await down.getByText("gone since").waitFor({ timeout: FORGOTTEN_MS });
  await window.accessible();
  await window.picture("admin-instance-gone", { fullPage: true });
  await there.startAgain();
  await row(window, 2).waitFor({ timeout: BACK_MS });
  await window.get("chart-connections").getByText("on 2 instances").waitFor();
  await window.close();
  await far.close(/net::ERR_/);
  await near.close();
});

test("what is published while the server is down follows, in order and once", async () => {
  const window = await chatting(there, 2);
  const publish = (id) => publishRaw(nats, CHAT, JSON.stringify(message(id)));
  await publish("up-0");
  await window.message("up-0");
  for (let round = 1; round <= 2; round += 1) {
    await there.kill();
    await window.connection("reconnecting");
    for (let number = 0; number < 5; number += 1) await publish(`down-${round}-${number}`);
    await there.startAgain();
    await window.connection("open");
    await publish(`up-${round}`);
    await window.message(`up-${round}`);
  }
  const ids = await window.get("message").evaluateAll((lines) => lines.map(({ dataset }) => dataset.messageId));
  const expected = [1, 2].flatMap((round) => [...[0, 1, 2, 3, 4].map((number) => `down-${round}-${number}`), `up-${round}`]);
  assert.deepEqual(ids.slice(ids.indexOf("up-0")), ["up-0", ...expected]);
  assert.equal(await window.logged("gap"), 0);
  await window.close(/net::ERR_/);
});

async function chatting(server, user) {
  const window = await openWindow(browser, `${server.url}/#user=${user}`);
  await window.connection("open");
  await window.get("chat-2").click();
  return window;
}

async function overview() {
  const window = await openWindow(browser, `${here.url}/admin#user=1`);
  await window.connection("live");
  return window;
}

function row(window, user) {
  return window.page.locator(`[data-testid=connection-row][data-user="${user}"]`);
}

async function nameOf(server) {
  return (await (await fetch(`${server.url}/health`)).json()).instance;
}

function message(id) {
  return { MessageReceived: { chat_id: 2, message: { id, chat_id: 2, sender_id: 1, content: "count me", files: [] } } };
}
