// The page that shows the interface's description, as its readers meet it.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import { Server } from "./server.mjs";
import { launch, openWindow } from "./window.mjs";

const SCREENSHOTS = process.env.SCREENSHOTS ?? path.join(import.meta.dirname, "../../target/screenshots");

let server;
let browser;
let api;

before(async () => {
  await mkdir(SCREENSHOTS, { recursive: true });
  server = await Server.start();
  api = await (await fetch(`${server.url}/openapi.json`)).json();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await server?.remove();
});

function operations() {
  return Object.values(api.paths).flatMap((item) => Object.values(item));
}

test("every operation and every schema is shown, with all that is said of them", async () => {
  const window = await openWindow(browser, `${server.url}/docs`);
  await window.page.locator("main:not([aria-busy])").waitFor();
  assert.equal(await window.get("version").innerText(), api.info.version);
  for (const { operationId, summary, parameters = [], responses } of operations()) {
    const shown = window.get(operationId);
    await shown.locator("summary").click();
    const text = await shown.innerText();
    for (const said of [summary, ...parameters.map(({ name }) => name), ...Object.keys(responses)]) {
      assert.ok(text.includes(said), `${operationId} says ${said}`);
    }
  }
  for (const name of Object.keys(api.components.schemas)) assert.equal(await window.page.locator(`#schema-${name}`).count(), 1);
  const all = await window.page.locator("body").innerText();
  assert.doesNotMatch(all, /undefined|\[object|NaN/);
  const broken = await window.page.evaluate(() => [...document.querySelectorAll("a[href^='#']")]
    .map((link) => link.getAttribute("href")).filter((href) => !document.getElementById(href.slice(1))));
  assert.deepEqual(broken, []);
  await window.close();
});

test("an address leads to an operation, a link to a schema, and the filter to what it names", async () => {
  const window = await openWindow(browser, `${server.url}/docs#send`);
  await window.page.locator("#send[open]").waitFor();
  await window.get("send").getByRole("link", { name: "Message", exact: true }).click();
  await window.page.locator("#schema-Message[open]").waitFor();
  await window.get("filter").fill("ticket");
  assert.deepEqual(await window.page.locator(".operation:visible").evaluateAll((all) => all.map(({ id }) => id)), ["ticket"]);
  await window.get("filter").fill("no such thing");
  await window.page.getByText("No endpoint of that name.").waitFor();
  await window.get("filter").fill("");
  assert.equal(await window.page.locator(".operation:visible").count(), operations().length);
  await window.close();
});

test("what a description says is text, never HTML", async () => {
  const window = await openWindow(browser, "about:blank");
  const hostile = structuredClone(api);
  hostile.info.description = "<img src=x onerror=alert(1)> **<b>bold</b>** [here](javascript:alert(1))";
  await window.page.route("**/openapi.json", (route) => route.fulfill({ json: hostile }));
  await window.page.goto(`${server.url}/docs`);
  await window.page.locator("main:not([aria-busy])").waitFor();
  assert.match(await window.get("reference").innerText(), /<img src=x/);
  assert.equal(await window.page.locator("main img, main b, main a[href^=javascript]").count(), 0);
  await window.close();
});

test("a document that can't be had is said so", async () => {
  const window = await openWindow(browser, "about:blank");
  await window.page.route("**/openapi.json", (route) => route.fulfill({ status: 503, body: "" }));
  await window.page.goto(`${server.url}/docs`);
  await window.get("failed").getByText("the server answers 503").waitFor();
  await window.close(/status of 503/);
});

for (const [device, viewport] of [["desktop", { width: 1280, height: 800 }], ["phone", { width: 390, height: 844 }]]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`the page is accessible and fits, ${device}, ${colorScheme}`, async () => {
      const window = await openWindow(browser, `${server.url}/docs`, { viewport, colorScheme, hasTouch: device === "phone" });
      await window.page.locator("main:not([aria-busy])").waitFor();
      await window.page.screenshot({ path: path.join(SCREENSHOTS, `${device}-${colorScheme}-docs.png`) });
      // All of it at once.
      await window.page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
      await window.accessible();
      const { scroll, client } = await window.page.evaluate(() =>
        ({ scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth }));
      assert.equal(scroll, client, "the page must not scroll sideways");
      await window.get("send").scrollIntoViewIfNeeded();
      await window.page.screenshot({ path: path.join(SCREENSHOTS, `${device}-${colorScheme}-docs-open.png`), fullPage: false });
      await window.close();
    });
  }
}

test("the page comes from this host alone", async () => {
  const answer = await fetch(`${server.url}/docs`);
  assert.match(answer.headers.get("content-security-policy") ?? "", /default-src 'none'.*script-src 'self'/);
  const html = await answer.text();
  for (const [, link] of html.matchAll(/(?:src|href)="([^"]+)"/g)) {
    assert.match(link, /^\//);
    assert.equal((await fetch(server.url + link)).status, 200, link);
  }
});
