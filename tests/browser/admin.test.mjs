// The overview, as administrators use it: who is connected, how it goes, and ending a connection.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { setTimeout } from "node:timers/promises";
import { Server } from "./server.mjs";
import { launch, openWindow } from "./window.mjs";

const CHAT = "fechatter.realtime.chat.2"; // of which users 1 and 2 are members
const MARKUP = '"><img src="/nowhere" onerror="alert(1)"><script>alert(2)</script>';
const REFUSED = /status of (401|403|404|422)/;

let server;
let browser;

before(async () => {
  server = await Server.start();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await server?.remove();
});

// A test counts connections, and the server sees the end of those of the one before a moment later.
beforeEach(async () => {
  const connections = async () => (await (await fetch(`${server.url}/health`)).json()).connections;
  while ((await connections()) > 0) await setTimeout(20);
}, { timeout: 15_000 });

test("connections, channels, instances and rates are shown", async () => {
  const chatters = await Promise.all([1, 2].map(chatting));
  const window = await opened();
  for (const user of [1, 2]) await row(window, user).waitFor();
  assert.match(await row(window, 2).innerText(), /Bashir[\s\S]*chat:1[\s\S]*Chrome \d+[\s\S]*sse/);
  await window.get("instance").getByText("2 connections").waitFor();
  await window.get("channels").getByText("chat:2").waitFor();
  for (let number = 0; number < 5; number += 1) {
    await server.publish(CHAT, { MessageReceived: { chat_id: 2, message: { id: `m${number}`, chat_id: 2, sender_id: 1, content: "count me" } } });
  }
  // Each message to two, and whatever the server says of who comes.
  await window.get("chart-events").getByText(/^[1-9]\d+ since the start$/).waitFor();
  await window.get("chart-latency").getByText(/half within/).waitFor();
  assert.match(await window.get("chart-connections").locator("svg").getAttribute("aria-label"), /^Connections: 2$/);
  await window.close();
  await Promise.all(chatters.map((chatter) => chatter.close()));
});

test("a connection is ended after a question, and does not come back", async () => {
  const chatters = await Promise.all([1, 2].map(chatting));
  const window = await opened();
  await row(window, 2).getByTestId("disconnect").click();
  await window.get("confirm").getByText("Disconnect Bashir?").waitFor();
  await window.accessible();
  await window.page.keyboard.press("Escape");
  await window.get("confirm").waitFor({ state: "hidden" });
  await row(window, 2).getByTestId("disconnect").click();
  await window.get("confirm-yes").click();
  await row(window, 2).waitFor({ state: "detached" });
  await row(window, 1).waitFor();
  const [one, two] = chatters;
  await two.get("sign-in-error").getByText("The server ended this stream").waitFor();
  await one.connection("open");
  await window.close();
  await Promise.all(chatters.map((chatter) => chatter.close()));
});

test("connections are filtered by user and channel, and all of a user's ended", async () => {
  const chatters = await Promise.all([1, 2, 2, 5].map(chatting));
  const window = await opened();
  await row(window, 5).waitFor();
  await window.get("filter-text").fill("2");
  await row(window, 5).waitFor({ state: "detached" });
  assert.equal(await row(window, 2).count(), 2);
  await window.get("filter-text").fill("a:b");
  await window.get("connections-error").getByText("user_id").waitFor();
  await window.get("filter-by").selectOption("channel");
  await window.get("filter-text").fill("chat:2");
  await row(window, 1).waitFor();
  assert.equal(await row(window, 5).count(), 0);
  await window.get("filter-by").selectOption("user_id");
  await window.get("filter-text").fill("2");
  await window.get("end-user").click();
  await window.get("confirm-yes").click();
  await row(window, 2).first().waitFor({ state: "detached" });
  for (const chatter of chatters.slice(1, 3)) await chatter.get("sign-in-error").getByText("ended this stream").waitFor();
  await window.close(REFUSED);
  await Promise.all(chatters.map((chatter) => chatter.close()));
});

test("a token without the claim is refused with the reason", async () => {
  const window = await openWindow(browser, `${server.url}/admin`);
  await window.get("token-choice").locator("summary").click();
  await window.get("token").fill(await server.run("token", "--user", "2"));
  await window.get("token-connect").click();
  await window.get("sign-in-error").getByText("notify.admin").waitFor();
  assert.equal(await window.get("overview").isVisible(), false);
  await window.close(REFUSED);
});

test("a server that is gone is told, and asked again", async () => {
  const window = await opened();
  await server.kill();
  await window.connection("reconnecting");
  await server.startAgain();
  await window.connection("live");
  await window.close(/net::ERR_/);
});

test("what clients and publishers have written is shown as text", async () => {
  const window = await openWindow(browser, "about:blank");
  const connection = {
    connection_id: MARKUP, user_id: MARKUP, channels: [`job:${MARKUP}`], channel_count: 1, transport: "sse", instance: MARKUP, remote: MARKUP,
    user_agent: MARKUP, connected_at: new Date().toISOString(), sent: 1,
  };
  const rejection = { at: new Date().toISOString(), reason: "not_json", problem: MARKUP, subject: MARKUP, payload: MARKUP };
  await window.page.route(/\/api\/v1\/connections(\?|$)/, (route) => route.fulfill({ json: { connections: [connection], next: null, instances: {} } }));
  await window.page.route("**/api/v1/rejections", (route) => route.fulfill({ json: { rejections: [rejection], instance: MARKUP } }));
  await window.page.route("**/api/v1/channels*", (route) => route.fulfill({ json: { channels: [{ channel: MARKUP, listeners: 3 }], next: null, instances: {} } }));
  await window.page.goto(`${server.url}/admin#user=1`);
  await window.get("rejection").getByText("onerror").first().waitFor();
  await window.get("connection-row").getByText("onerror").first().waitFor();
  await window.get("connection-row").getByTestId("disconnect").click();
  await window.get("confirm").getByText("onerror").waitFor();
  assert.equal(await window.page.locator("main img, dialog img, main script").count(), 0);
  await window.close();
});

for (const [device, viewport] of [["desktop", { width: 1280, height: 800 }], ["phone", { width: 390, height: 844 }]]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`the page is accessible and fits, ${device}, ${colorScheme}`, async () => {
      const chatters = await Promise.all([1, 2, 5].map(chatting));
      const window = await opened({ viewport, colorScheme, isMobile: device === "phone", hasTouch: device === "phone" });
      await row(window, 5).waitFor();
      await server.publish(CHAT, { MessageReceived: { chat_id: 2, message: { id: "m", chat_id: 2, sender_id: 1, content: "count me" } } });
      await window.get("chart-latency").getByText(/half within/).waitFor();
      await window.accessible();
      await window.fits();
      if (device === "phone") await window.touchable();
      await window.picture(`admin-${device}-${colorScheme}`, { fullPage: true });
      await window.close();
      await Promise.all(chatters.map((chatter) => chatter.close()));
    });
  }
}

async function chatting(user) {
  const window = await openWindow(browser, `${server.url}/#user=${user}`);
  await window.connection("open");
  return window;
}

async function opened(options) {
  const window = await openWindow(browser, `${server.url}/admin#user=1`, options);
  await window.connection("live");
  return window;
}

function row(window, user) {
  return window.page.locator(`[data-testid=connection-row][data-user="${user}"]`);
}
