// <MessageStream> in a real Chromium, with the messages of a real server and its PostgreSQL.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import { SCREENSHOTS } from "../../../../tests/browser/server.mjs";
import { launch, openWindow } from "../../../../tests/browser/window.mjs";
import { Backend } from "./backend.mjs";
import { Front } from "./front.mjs";
import { pages } from "./pages.mjs";
import { literal } from "./postgres.mjs";
import { eventually } from "./wait.mjs";

const HOSTILE = JSON.parse(await readFile(path.join(import.meta.dirname, "../support/hostile.json"), "utf8"));
const TYPES = ["text", "image", "audio", "video", "file"];
const CLAIM = 'notify={"subscribe":["session:*"],"publish":["*"]}';
const GONE = /net::ERR_|502/; // what a browser says of a server that is down

let backend;
let postgres;
let server;
let front;
let browser;

before(async () => {
  await mkdir(SCREENSHOTS, { recursive: true });
  backend = await Backend.start();
  ({ postgres, server } = backend);
  front = await Front.start(server.url, () => server.run("token", "--user", "2", "--claim", CLAIM));
  front.pages = await pages();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await front?.remove();
  await backend?.remove();
});

/** Messages of a session, each test's own, as a backend would write them: the server makes a history and events of them. */
async function write(session, ...messages) {
  const rows = messages.map(({ id, content, messageType = "text", senderName = "Ada" }) =>
    `(${[id, session, content, messageType, senderName].map(literal).join()}, '2026-11-20T09:30:00Z')`);
  await postgres.query(`INSERT INTO messages (id, session_id, content, message_type, sender_name, created_at) VALUES ${rows.join()}`);
}

const said = (id, content, messageType, senderName) => ({ id, content, messageType, senderName });

const shown = (window) => window.page.locator("[data-message-id]").evaluateAll((lines) => lines.map((line) => line.dataset.messageId));
const open = (window) => window.page.locator(".notify-banner[data-state=open]").waitFor({ state: "attached" });

test("history and live messages are one conversation, also over a restart of the server", async () => {
  await write("restart", ...Array.from({ length: 30 }, (_, n) => said(`old-${n + 1}`, `number ${n + 1}`)));
  const window = await openWindow(browser, `${front.url}/messages?session=restart`);
  await open(window);
  await window.message("old-30");
  await write("restart", said("live-1", "just now"));
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
  await write("restart", said("live-2", "while you were away"));
  await server.startAgain();
  await open(window);
  await window.message("live-2");
  assert.deepEqual(await shown(window), [...Array.from({ length: 30 }, (_, n) => `old-${n + 1}`), "live-1", "live-2"]);
  await window.close(GONE);
});

test("attacks in every type of message, from the history and live, are text", async () => {
  const attacks = TYPES.flatMap((type) => HOSTILE.map((text, n) => said(`${type}-${n}`, text, type, text)));
  // As many as there are on a page.
  await write("attacks", ...attacks.slice(-20));
  const window = await openWindow(browser, `${front.url}/messages?session=attacks`);
  await open(window);
  await window.message("file-0");
  await write("attacks", ...attacks.map((attack) => ({ ...attack, id: `live-${attack.id}` })));
  await eventually("all attacks", () => shown(window), (ids) => ids.length === 20 + attacks.length);
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
      const session = `${device}-${colorScheme}`;
      await write(
        session,
        said(`${session}-1`, "Morning all. Version 2.4 goes out at ten."),
        said(`${session}-2`, "第二条消息：发布推迟到十点。\nA second line, and averyveryverylongwordthathasnoplacetobreakandmustnotmakethepagescroll".repeat(2), "text", "王芳"),
        said(`${session}-3`, `${front.url}/picture.png`, "image", "Lin"),
        said(`${session}-4`, `${front.url}/files/minutes%20of%20the%20meeting.pdf`, "file", "Lin"),
      );
      const window = await openWindow(browser, `${front.url}/messages?session=${session}`, { viewport, colorScheme });
      await open(window);
      await window.message(`${session}-4`);
      await window.page.waitForFunction(() => document.querySelector("img")?.complete);
      await window.accessible();
      await window.page.screenshot({ path: path.join(SCREENSHOTS, `client-${device}-${colorScheme}.png`) });
      await window.fits();
      await window.close();
    });
  }
}
