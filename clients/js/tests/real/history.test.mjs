// <MessageStream> and the Vue composable in a real Chromium: the history of a real server with PostgreSQL, joined to what comes live
// while messages are being written. What is shown in the end is what the database has.

import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { launch, openWindow } from "../../../../tests/browser/window.mjs";
import { Backend } from "./backend.mjs";
import { Front } from "./front.mjs";
import { pages } from "./pages.mjs";
import { eventually } from "./wait.mjs";

const CLAIM = 'notify={"subscribe":["session:*"],"publish":["*"]}';
const PEOPLE = `INSERT INTO users (id, name) VALUES (1, 'Ann'), (2, 'Bo');
  INSERT INTO chats (id, name) VALUES (5, 'five');
  INSERT INTO chat_members (chat_id, user_id) VALUES (5, 1), (5, 2);`;
const GONE = /net::ERR_|50\d/; // what a browser says of a server that is down, or has no log
/** Between the messages of a writer: some 20 a second from all of them. */
const BETWEEN_MS = 80;

let backend;
let postgres;
let nats;
let server;
let front;
let browser;
let token;

before(async () => {
  backend = await Backend.start();
  ({ postgres, nats, server } = backend);
  await postgres.query(PEOPLE);
  token = () => server.run("token", "--user", "2", "--claim", CLAIM);
  front = await Front.start(server.url, token);
  front.pages = await pages();
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await front?.remove();
  await backend?.remove();
});

// A failed test must not write on.
let writing;
afterEach(() => writing?.stop());

/** Writes messages to a session and to chat 5 until it is stopped, in three ways at once. */
class Writers {
  #session;
  #running = [];
  #stopped = false;

  constructor(session) {
    this.#session = session;
    writing = this;
    this.#running = [this.#overHttp(), this.#inSql(), this.#slowly()];
  }

  async stop() {
    this.#stopped = true;
    await Promise.all(this.#running);
  }

  /** As clients do, each message once, whatever happens to the server meanwhile. */
  async #overHttp() {
    const headers = { authorization: `Bearer ${await token()}`, "content-type": "application/json" };
    for (let n = 1; !this.#stopped; n++) {
      const key = `${this.#session}-http-${n}`;
      const message = JSON.stringify({ sessionId: this.#session, chatId: 5, content: key });
      const request = { method: "POST", headers: { ...headers, "idempotency-key": key }, body: message };
      for (;;) {
        const answer = await fetch(`${server.url}/api/messages`, request).catch(() => undefined);
        if (answer?.status === 201) break;
        await pause(50);
      }
      await pause(BETWEEN_MS);
    }
  }

  /** As a backend does that knows nothing of this server. */
  async #inSql() {
    for (let n = 1; !this.#stopped; n++) {
      await postgres.query(this.#insert(`sql-${n}`));
      await pause(BETWEEN_MS);
    }
  }

  /** Committed long after it was written, when what was written later is already shown. */
  async #slowly() {
    for (let n = 1; !this.#stopped; n++) await postgres.query(`BEGIN; ${this.#insert(`slow-${n}`)}; SELECT pg_sleep(0.4); COMMIT`);
  }

  #insert(text) {
    return `INSERT INTO messages (session_id, chat_id, content) VALUES ('${this.#session}', 5, '${this.#session}-${text}')`;
  }
}

const shown = (window) => window.page.locator("[data-message-id]").evaluateAll((lines) => lines.map((line) => line.dataset.messageId));
const open = (window) => window.page.locator(".notify-banner[data-state=open]").waitFor({ state: "attached" });
const more = (window, ids) => eventually("more messages", () => shown(window), (now) => now.some((id) => !ids.includes(id)));

/** Presses the button for older messages, and says whether there was one. It moves while messages come, and sleeps while others are loaded. */
const press = (window) =>
  window.page.evaluate(() => {
    const button = [...document.querySelectorAll("button")].find(({ textContent }) => textContent === "Older messages");
    button?.click();
    return !!button;
  });

/** Asks for what is older until it is there. */
async function older(window) {
  const [first] = await shown(window);
  const asked = async () => {
    await press(window);
    return shown(window);
  };
  await eventually("older messages", asked, ([now]) => now !== first);
}

/** Loads what is older until there is no more, and compares it all with the database. */
async function compare(window, where) {
  const stored = await postgres.query(`SELECT id FROM messages WHERE ${where} ORDER BY position`);
  // Not one by one: what was asked for before may come, and be the last, between the look and the press.
  await eventually("the oldest message", () => press(window), (more) => !more, 60_000);
  // What was committed last may still be on its way.
  const missing = async () => {
    const ids = new Set(await shown(window));
    return stored.flatMap((id, n) => (ids.has(id) ? [] : [`${n + 1} of ${stored.length}`]));
  };
  await eventually("nothing is missing", missing, (ids) => !ids.length);
  const ids = await shown(window);
  assert.equal(new Set(ids).size, ids.length, "nothing is shown twice");
  assert.deepEqual([...ids].sort(), [...stored].sort(), "what is shown is what the database has");
  const texts = await window.page.locator("[data-message-id]").allTextContents();
  for (const writer of ["http", "sql", "slow"]) {
    const numbers = texts.map((text) => new RegExp(`${writer}-(\\d+)`).exec(text)?.[1]).filter(Boolean).map(Number);
    assert.deepEqual(numbers, numbers.map((_, n) => n + 1), `the messages of one writer are in order: ${writer}`);
  }
}

test("while messages are written, pages open, page back, lose the server and get it back: no hole and no double", async () => {
  const writers = new Writers("a");
  const room = `SELECT id FROM messages WHERE session_id = 'a'`;
  await eventually("some history", () => postgres.query(room), (ids) => ids.length > 50);
  const windows = [];
  for (const address of ["/messages?session=a", "/messages?chat=5", "/messages-vue?session=a", "/messages-vue?chat=5"]) {
    const window = await openWindow(browser, `${front.url}${address}`);
    windows.push(window);
    await open(window);
    await older(window);
  }
  for (const window of windows) await more(window, await shown(window));
  await server.kill();
  for (const window of windows) await window.page.locator(".notify-banner[data-state=reconnecting]").waitFor();
  await server.startAgain();
  for (const window of windows) {
    await open(window);
    await more(window, await shown(window));
  }
  await writers.stop();
  for (const window of windows) {
    await compare(window, window.page.url().includes("chat") ? "chat_id = 5" : "session_id = 'a'");
    await window.close(GONE);
  }
});

test("while messages are written, the log is lost: the gap is closed from the history", async () => {
  const writers = new Writers("b");
  const windows = [];
  for (const address of ["/messages?session=b", "/messages-vue?session=b"]) {
    const window = await openWindow(browser, `${front.url}${address}`);
    windows.push(window);
    await open(window);
    await more(window, await shown(window));
  }
  front.asked = [];
  await nats.loseAll();
  const asked = () => front.asked.filter((address) => address.startsWith("/api/messages?")).length;
  await eventually("the history is asked for again", asked, (count) => count >= windows.length, 60_000);
  for (const window of windows) await more(window, await shown(window));
  await writers.stop();
  for (const window of windows) {
    await compare(window, "session_id = 'b'");
    await window.close(GONE);
  }
});
