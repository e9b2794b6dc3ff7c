// Both languages on every page, and the keyboard.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import { Server } from "./server.mjs";
import { launch, openWindow } from "./window.mjs";

const WEB = path.join(import.meta.dirname, "../../web");
const PAGES = { "/": "聊天 · notify-server", "/sse-demo": "聊天 · notify-server", "/diagnostic": "诊断 · notify-server", "/admin": "管理 · notify-server" };

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

test("both languages have the same words, with the same gaps, and pages use no others", async () => {
  const used = new Set();
  for (const file of ["frame.html", "chat.html", "diagnostic.html", "admin.html"]) {
    for (const [, key] of (await readFile(path.join(WEB, file), "utf8")).matchAll(/data-t(?:-\w+)?="(\w+)"/g)) used.add(key);
  }
  const known = new Set();
  for (const file of ["words", "words-chat", "words-diagnostic", "words-admin"]) {
    const { words } = await import(path.join(WEB, `${file}.js`));
    assert.deepEqual(Object.keys(words.zh), Object.keys(words.en), file);
    const gaps = (text) => new Set(Object.values(typeof text === "object" ? text : { text }).flatMap((form) => form.match(/\{\w+\}/g) ?? []));
    for (const [key, text] of Object.entries(words.en)) {
      known.add(key);
      for (const gap of gaps(words.zh[key])) assert.ok(gaps(text).has(gap), `${gap} of ${key}`);
    }
  }
  assert.deepEqual([...used].filter((key) => !known.has(key)), []);
});

for (const [address, title] of Object.entries(PAGES)) {
  test(`${address} speaks the browser's language, and the one that is chosen`, async () => {
    const window = await openWindow(browser, `${server.url}${address}#user=2`, { locale: "zh-CN" });
    const html = window.page.locator("html");
    await window.page.locator("html[lang=zh-CN]").waitFor();
    await window.page.waitForFunction((expected) => document.title === expected, title);
    await window.page.locator(address === "/diagnostic" ? "[data-testid=step-idle][data-state=ok]" : "[data-testid=connection]:is([data-state=live], [data-state=open])").waitFor();
    await window.accessible();
    await window.picture(`${address.slice(1) || "chat"}-chinese`, { fullPage: true });
    // No English is left but names, addresses and what the server itself says.
    const text = await window.page.locator("body").innerText();
    for (const word of ["Connect", "Chats", "Members", "Send", "Sign", "Filter", "Details", "Copy", "Since"]) {
      assert.ok(!text.split(/\s+/).includes(word), `${word} in ${text}`);
    }
    await window.get("language").click();
    assert.equal(await html.getAttribute("lang"), "en");
    await window.page.getByRole("navigation").getByText("Diagnosis").waitFor();
    await window.page.reload();
    await window.page.locator("html[lang=en]").waitFor();
    await window.close();
  });
}

test("the chat can be used by keyboard alone", async () => {
  const window = await openWindow(browser, server.url);
  const { keyboard } = window.page;
  await window.get("user-1").focus();
  await keyboard.press("Tab");
  await keyboard.press("Enter");
  await window.connection("open");
  assert.match(await window.get("identity").innerText(), /Bashir/);
  await window.get("attach").locator("summary").focus();
  await keyboard.press("Enter");
  await window.get("own-picture").waitFor();
  await keyboard.press("Tab");
  await keyboard.press("Escape");
  await window.get("own-picture").waitFor({ state: "hidden" });
  assert.equal(await window.page.evaluate(() => document.activeElement.tagName), "SUMMARY");
  await keyboard.press("Tab");
  assert.equal(await window.page.evaluate(() => document.activeElement.id), "draft");
  await keyboard.type("by keyboard");
  await keyboard.press("Enter");
  await window.get("message").getByText("by keyboard").waitFor();
  await window.close();
});
