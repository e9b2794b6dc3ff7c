// <MessageStream> in a real Chromium, with live messages of a real server and the history of a stub.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { build } from "esbuild";
import { Server } from "../../../../tests/browser/server.mjs";
import { launch, openWindow } from "../../../../tests/browser/window.mjs";
import { Front } from "./front.mjs";
import { Nats } from "./nats.mjs";
import { eventually } from "./wait.mjs";

const SCREENSHOTS = process.env.SCREENSHOTS ?? path.join(import.meta.dirname, "../../../../target/screenshots");
const HOSTILE = JSON.parse(await readFile(path.join(import.meta.dirname, "../support/hostile.json"), "utf8"));
const TYPES = ["text", "image", "audio", "video", "file"];
const HTML = `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Messages</title><link rel="icon" href="/picture.png"><link rel="stylesheet" href="/page.css">
<main><h1>Room</h1><div id="page"></div></main><script type="module" src="/page.js"></script></html>`;
const CLAIM = 'notify={"subscribe":["session:*"],"publish":["*"]}';
const GONE = /net::ERR_|502/; // what a browser says of a server that is down

let nats;
let server;
let front;
let browser;

before(async () => {
  await mkdir(SCREENSHOTS, { recursive: true });
  nats = await Nats.start();
  server = await Server.start({ nats: nats.url, stream: "ping_interval: 1s" });
  front = await Front.start(server.url, () => server.run("token", "--user", "2", "--claim", CLAIM));
  for (const [name, page] of await pages()) front.pages.set(name, page);
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await front?.remove();
  await server?.remove();
  await nats?.remove();
});

beforeEach(() => {
  front.history = [];
});

/** The page, its script and styles, and a picture: 160 by 90 pixels. */
async function pages() {
  const { outputFiles } = await build({
    entryPoints: [path.join(import.meta.dirname, "page.jsx")],
    bundle: true,
    write: false,
    format: "esm",
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"production"' },
  });
  const styles = await Promise.all([path.join(import.meta.dirname, "page.css"), path.join(import.meta.dirname, "../../style.css")].map((file) => readFile(file)));
  const picture = await readFile(path.join(import.meta.dirname, "picture.png"));
  return [
    ["/messages", { type: "text/html", content: HTML }],
    ["/page.js", { type: "text/javascript", content: outputFiles[0].contents }],
    ["/page.css", { type: "text/css", content: styles.join("\n") }],
    ["/picture.png", { type: "image/png", content: picture }],
  ];
}

function said(id, content, messageType = "text", senderName = "Ada") {
  return { id, sessionId: "s", content, messageType, senderType: "user", senderId: "7", senderName, createdAt: "2026-11-20T09:30:00Z" };
}

function publish(message) {
  const event = { type: "new_message", channel: "session:s", data: message };
  return server.run("publish", "fechatter.realtime.session", JSON.stringify(event), "--nats", nats.url);
}

const shown = (window) => window.page.locator("[data-message-id]").evaluateAll((lines) => lines.map((line) => line.dataset.messageId));
const open = (window) => window.page.locator(".notify-banner[data-state=open]").waitFor({ state: "attached" });

test("history and live messages are one conversation, also over a restart of the server", async () => {
  front.history = Array.from({ length: 30 }, (_, n) => said(`old-${30 - n}`, `number ${30 - n}`));
  const window = await openWindow(browser, `${front.url}/messages`);
  await open(window);
  await window.message("old-30");
  await publish(said("live-1", "just now"));
  await window.message("live-1");
  const read = window.page.locator('[data-message-id="old-11"]');
  await window.page.getByText("Older messages").scrollIntoViewIfNeeded();
  const before = await read.boundingBox();
  await window.page.getByText("Older messages").click();
  await window.message("old-1");
  // What is read stays where it is, but for the button that is gone.
  const moved = Math.abs((await read.boundingBox()).y - before.y);
  assert.ok(moved < 60, `${moved} pixels`);
  await server.kill();
  await window.page.getByText(/reconnecting \d+\/10/).waitFor();
  await window.page.screenshot({ path: path.join(SCREENSHOTS, "client-reconnecting.png") });
  await publish(said("live-2", "while you were away"));
  await server.startAgain();
  await open(window);
  await window.message("live-2");
  assert.deepEqual(await shown(window), [...Array.from({ length: 30 }, (_, n) => `old-${n + 1}`), "live-1", "live-2"]);
  await window.close(GONE);
});

test("attacks in every type of message, from the history and live, are text", async () => {
  const attacks = TYPES.flatMap((type) => HOSTILE.map((text, n) => said(`${type}-${n}`, text, type, text)));
  front.history = attacks.slice(0, 20);
  const window = await openWindow(browser, `${front.url}/messages`);
  await open(window);
  await window.message("text-0");
  for (const attack of attacks.filter((_, n) => n % 5 === 0)) await publish({ ...attack, id: `live-${attack.id}` });
  await eventually("all attacks", () => shown(window), (ids) => ids.length === 20 + attacks.length / 5);
  const found = await window.page.locator("[data-message-id] *").evaluateAll((elements) =>
    elements.map((element) => [element.tagName, ...element.getAttributeNames()].join(" ")));
  const harmless = /^(ARTICLE|HEADER|SMALL|TIME datetime|B class dir|P class dir)$/;
  assert.deepEqual(found.filter((element) => !harmless.test(element)), []);
  // Dialogs, errors and what the policy has stopped would be complaints.
  await window.close();
});

for (const [device, viewport] of [["desktop", { width: 1280, height: 800 }], ["phone", { width: 390, height: 844 }]]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`it is accessible and fits, ${device}, ${colorScheme}`, async () => {
      front.history = [
        said("4", `${front.url}/files/minutes%20of%20the%20meeting.pdf`, "file", "Lin"),
        said("3", `${front.url}/picture.png`, "image", "Lin"),
        said("2", "第二条消息：发布推迟到十点。\nA second line, and averyveryverylongwordthathasnoplacetobreakandmustnotmakethepagescroll".repeat(2), "text", "王芳"),
        said("1", "Morning all. Version 2.4 goes out at ten."),
      ];
      const window = await openWindow(browser, `${front.url}/messages`, { viewport, colorScheme });
      await open(window);
      await window.message("4");
      await window.page.waitForFunction(() => document.querySelector("img")?.complete);
      await window.accessible();
      await window.page.screenshot({ path: path.join(SCREENSHOTS, `client-${device}-${colorScheme}.png`) });
      const { scroll, client } = await window.page.evaluate(() =>
        ({ scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth }));
      assert.equal(scroll, client, "the page must not scroll sideways");
      await window.close();
    });
  }
}
