// A real Chromium, and windows in it that note everything which must not happen on the page.

import assert from "node:assert/strict";
import { accessSync, constants, mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { chromium } from "playwright-core";
import { SCREENSHOTS } from "./server.mjs";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const WAIT_MS = 15_000;

// What a server may have or not, or not for this chat; a page finds out by asking, of which browsers complain.
const OPTIONAL = /\/(api\/messages|online-users)(\?|$)/;

// As root there is no sandbox, and without the rest Chromium calls its maker at every start.
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

/** Starts the browser, with more flags where a test needs them. */
export async function launch(...more) {
  return chromium.launch({ executablePath: chromiumPath(), args: [...FLAGS, ...more] });
}

function chromiumPath() {
  const folders = (process.env.PATH ?? "").split(path.delimiter);
  const candidates = [process.env.CHROMIUM, ...folders.map((folder) => path.join(folder, "chromium"))].filter(Boolean);
  const found = candidates.find((file) => {
    try {
      accessSync(file, constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
  if (!found) throw new Error("the browser tests need Chromium in PATH, or CHROMIUM set to it: install your system's package");
  return found;
}

/** Opens a window with cookies, storage and connections of its own. */
export async function openWindow(browser, url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light", locale: "en-GB", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT_MS);
  const window = new Window(context, page);
  await window.watch();
  await page.goto(url);
  return window;
}

class Window {
  #context;
  #complaints = [];

  constructor(context, page) {
    this.#context = context;
    this.page = page;
  }

  async watch() {
    this.page.on("console", (message) => {
      if (OPTIONAL.test(message.location().url) && /status of (403|404|501)/.test(message.text())) return;
      if (["error", "warning"].includes(message.type())) this.#complaints.push(`console: ${message.text()}`);
    });
    this.page.on("pageerror", (error) => this.#complaints.push(`error: ${error.message}`));
    this.page.on("dialog", (dialog) => {
      this.#complaints.push(`dialog: ${dialog.message()}`);
      dialog.dismiss();
    });
    await this.page.exposeFunction("reportViolation", (text) => this.#complaints.push(`policy: ${text}`));
    await this.page.addInitScript(() => {
      addEventListener("securitypolicyviolation", (event) =>
        globalThis.reportViolation(`${event.violatedDirective} ${event.blockedURI}`));
    });
  }

  /** Another tab of the same browser: with the same cookies, storage and, where pages share one, connection. */
  async tab(url) {
    const page = await this.#context.newPage();
    page.setDefaultTimeout(WAIT_MS);
    const tab = new Window(this.#context, page);
    await tab.watch();
    await page.goto(url);
    return tab;
  }

  get(testId) {
    return this.page.getByTestId(testId);
  }

  /** Waits for the connection to be in a state. */
  async connection(state) {
    await this.page.locator(`[data-testid=connection][data-state=${state}]`).waitFor();
  }

  /** The chat line with a message, once it is there. */
  async message(id) {
    const line = this.page.locator(`[data-message-id="${id}"]`);
    await line.waitFor();
    return line;
  }

  /** How many events of a type have arrived. */
  logged(type) {
    return this.page.locator(`[data-testid=log-entry][data-type=${type}]`).count();
  }

  /** Keeps a picture of the page, all of it where it is longer than the window. */
  async picture(name, options) {
    mkdirSync(SCREENSHOTS, { recursive: true });
    await this.page.screenshot({ path: path.join(SCREENSHOTS, `${name}.png`), ...options });
  }

  /** Fails where the page scrolls sideways. */
  async fits() {
    const { scroll, client } = await this.page.evaluate(() =>
      ({ scroll: document.documentElement.scrollWidth, client: document.documentElement.clientWidth }));
    assert.equal(scroll, client, "the page must not scroll sideways");
  }

  /** Fails where something to touch is too small for a finger. */
  async touchable(least = 40) {
    const small = await this.page.evaluate((size) => [...document.querySelectorAll("button, select, input:not([type=checkbox]), summary, nav a, .open-as")]
      .filter((element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest("[hidden]"))
      .map((element) => [element, element.getBoundingClientRect()])
      .filter(([, box]) => box.height > 0 && box.height < size)
      .map(([element, box]) => `${element.tagName} ${element.id || element.className} "${element.textContent.trim().slice(0, 30)}": ${Math.round(box.height)} px`), least);
    assert.deepEqual(small, []);
  }

  async accessible() {
    await this.page.evaluate(AXE);
    const violations = await this.page.evaluate(async () => (await globalThis.axe.run()).violations
      .map((violation) => `${violation.id}: ${violation.nodes.map((node) => node.target.join(" ")).join(", ")}`));
    assert.deepEqual(violations, []);
  }

  /** Closes the window; what it complained about fails the test, but for what is expected. */
  async close(expected = /^$/) {
    await this.#context.close();
    assert.deepEqual(this.#complaints.filter((complaint) => !expected.test(complaint)), []);
  }
}
