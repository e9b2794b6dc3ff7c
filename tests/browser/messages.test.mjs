// Messages of every kind: media that are shown, what somebody might hide in them, and history.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Server } from "./server.mjs";
import { launch, openWindow } from "./window.mjs";

const CHAT = "fechatter.realtime.chat.2"; // of which users 1 and 2 are members
const KINDS = ["text", "image", "audio", "video", "file"];
const MARKUP = `"><img src="/nowhere" onerror="alert(1)"><script>alert(2)</script><svg onload=alert(3)>`;
// What an address can do besides leading to a file of this or another host.
const HOSTILE = [
  "javascript:alert(1)", " javascript:alert(1)", "java\tscript:alert(1)", "JaVaScRiPt://host/%0aalert(1)", "vbscript:msgbox(1)",
  "data:text/html,<script>alert(1)</script>", "data:image/svg+xml,<svg onload=alert(1)>", "data:image/svg+xml;base64,PHN2Zy8+",
  "data:application/javascript,alert(1)", "file:///etc/passwd", "blob:https://elsewhere.example/1", "https://user:password@files.example.com/x.png",
  "ftp://files.example.com/x.png", "filesystem:http://127.0.0.1/x",
];

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

test("what is attached is seen in the other window", async () => {
  const [one, two] = await Promise.all([1, 2].map((user) => signedIn(user)));
  for (const kind of ["image", "audio", "video", "file"]) {
    await one.get("attach").locator("summary").click();
    await one.get(`sample-${kind}`).click();
    assert.equal(await one.get("attach").getAttribute("open"), null);
  }
  for (const window of [one, two]) {
    const images = window.get("media").locator("img.picture");
    await images.waitFor();
    await window.page.waitForFunction(() => document.querySelector("img.picture")?.naturalWidth > 0);
    for (const tag of ["audio", "video"]) {
      await window.get("media").locator(tag).waitFor();
      await window.page.waitForFunction((name) => document.querySelector(`#messages ${name}`)?.duration > 0, tag);
    }
    const link = window.get("media-link");
    assert.equal(await link.getAttribute("href"), `${server.url}/assets/sample.txt`);
    assert.match(await link.getAttribute("rel"), /noopener.*noreferrer/);
  }
  await Promise.all([one.close(), two.close()]);
});

test("a picture of one's own is made small and travels in the message", async () => {
  const [one, two] = await Promise.all([1, 2].map((user) => signedIn(user)));
  const large = await one.page.evaluate(async () => {
    const canvas = document.createElement("canvas");
    canvas.width = 3_000;
    canvas.height = 2_000;
    const context = canvas.getContext("2d");
    const noise = context.createImageData(3_000, 2_000);
    for (let index = 0; index < noise.data.length; index += 1) noise.data[index] = index % 4 === 3 ? 255 : (index * 2_654_435_761) >>> 24;
    context.putImageData(noise, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1];
  });
  await one.get("picture").setInputFiles({ name: "large.png", mimeType: "image/png", buffer: Buffer.from(large, "base64") });
  const shown = two.get("media").locator("img[src^='data:']");
  await shown.waitFor();
  const source = await shown.getAttribute("src");
  assert.match(source, /^data:image\/(webp|png|jpeg);base64,/);
  assert.ok(source.length < 200_000, `${source.length} characters`);
  await one.get("picture").setInputFiles({ name: "no.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
  await one.get("composer-error").getByText("no picture that the browser can read").waitFor();
  await Promise.all([one.close(), two.close()]);
});

test("what is elsewhere is a link, and not loaded", async () => {
  const window = await signedIn(2);
  const asked = [];
  window.page.on("request", (request) => asked.push(request.url()));
  const files = ["https://files.example.com/a.png", "https://files.example.com/b.mp3", "http://files.example.com/c.mp4", "https://files.example.com/d%20e.pdf"];
  await publish({ id: "elsewhere", content: "four files", files });
  const message = await window.message("elsewhere");
  const links = await message.getByTestId("media-link").evaluateAll((found) => found.map(({ href, rel, target }) => ({ href, rel, target })));
  assert.deepEqual(links.map(({ href }) => href), files);
  for (const { rel, target } of links) {
    assert.match(rel, /noopener/);
    assert.equal(target, "_blank");
  }
  await message.getByText("d e.pdf").waitFor();
  assert.deepEqual(asked.filter((url) => !url.startsWith(server.url)), []);
  await window.close();
});

test("a picture that is not there becomes a link", async () => {
  const window = await signedIn(2);
  await publish({ id: "missing", content: "", files: ["/assets/missing.png"] });
  await (await window.message("missing")).getByTestId("media-link").getByText("missing.png").waitFor();
  await window.close(/status of 404/);
});

for (const kind of KINDS) {
  test(`hostile addresses and markup in messages of kind ${kind} are shown as text`, async () => {
    const window = await signedIn(2);
    // As the chat backend spells a message, and as the message API does.
    await server.publishAll(CHAT, [...HOSTILE, MARKUP].flatMap((content, index) => [
      received({ id: `${kind}-${index}`, content, message_type: kind, sender_id: 9, sender_name: MARKUP, files: kind === "file" ? [content] : [] }),
      {
        type: "message", channel: "chat:2",
        data: { id: `api-${kind}-${index}`, chatId: 2, content, messageType: kind, senderId: MARKUP, senderName: MARKUP, createdAt: MARKUP },
      },
    ]));
    const last = `api-${kind}-${HOSTILE.length}`;
    await window.message(last);
    const own = `[data-message-id^="${kind}-"] *, [data-message-id^="api-${kind}-"] *`;
    const addresses = await window.get("messages").evaluate((list, those) =>
      [...list.querySelectorAll(those)].flatMap((element) => [...element.attributes].filter(({ name }) => ["href", "src", "action", "srcdoc", "data"].includes(name)).map(({ value }) => value)), own);
    for (const address of addresses) assert.match(address, /^https?:\/\/[^@]*$/, address);
    const handlers = await window.get("messages").evaluate((list) => [...list.querySelectorAll("*")].flatMap((element) => element.getAttributeNames().filter((name) => name.startsWith("on"))));
    assert.deepEqual(handlers, []);
    assert.equal(await window.get("messages").locator("script, iframe, object, embed, svg, style, form").count(), 0);
    // Nobody runs a thing by clicking, either.
    const before = window.page.url();
    for (const chip of await window.get("blocked").all()) await chip.click();
    assert.equal(window.page.url(), before);
    await window.close(/status of 404/);
  });
}

test("markup in names, states, types and ids is shown as text", async () => {
  const window = await signedIn(2);
  await server.publish(`${CHAT}.typing`, { TypingStarted: { chat_id: 2, user_id: 9, user_name: MARKUP } });
  await window.get("typing").getByText("onerror").waitFor();
  await server.publish("fechatter.chat.events", { event_type: "member_added", chat_id: 2, user_id: 77, user_name: MARKUP, chat_name: MARKUP });
  await window.get("note").getByText("onerror").waitFor();
  await server.publish("fechatter.realtime.user.1.presence", { UserPresence: { user_id: 1, status: MARKUP, last_seen: null } });
  await window.page.locator("[data-testid=member-1][data-presence]").waitFor();
  await publish({ id: MARKUP, content: "an id", sender_id: 9, sender_name: MARKUP });
  await window.get("content").getByText("an id").waitFor();
  await server.publish(CHAT, { type: MARKUP, channel: "chat:2", data: { [MARKUP]: MARKUP } });
  await window.get("log-entry").getByText("onerror").first().waitFor();
  await server.publish("fechatter.realtime.chat.2.edited", { event_type: "message_edited", chat_id: 2, message: { id: MARKUP, content: MARKUP } });
  await window.get("content").getByText("onerror").waitFor();
  await publish({ id: "last", content: "last" });
  await window.message("last");
  assert.equal(await window.page.locator("img:not(.picture), script:not([src^='/assets/']), svg[onload]").count(), 0);
  await window.close();
});

test("history comes before what is live, without hole or double, a page at a time", async () => {
  const window = await openWindow(browser, "about:blank");
  // As GET and POST /api/messages answer: the newest first.
  const kept = [...Array(40).keys()].map((number) => ({
    id: `h${number}`, chatId: 2, content: number === 39 ? MARKUP : `line ${number}`, senderType: "user", senderId: "1", senderName: "Ada",
    messageType: "text", createdAt: new Date(Date.UTC(2026, 0, 1, 0, number)).toISOString(),
  })).reverse();
  const written = [];
  await window.page.route("**/api/messages*", async (route) => {
    const request = route.request();
    if (request.method() === "POST") {
      const body = request.postDataJSON();
      const message = { ...body, id: `w${written.length}`, senderId: "2", senderType: "user", createdAt: new Date().toISOString() };
      written.push(body);
      await server.publish(CHAT, { type: "message", channel: "chat:2", data: message });
      return route.fulfill({ status: 201, json: { success: true, data: message } });
    }
    const query = new URL(request.url()).searchParams;
    const from = query.get("before") ? kept.findIndex(({ id }) => id === query.get("before")) + 1 : 0;
    const messages = query.get("chatId") === "2" ? kept.slice(from, from + Number(query.get("limit"))) : [];
    const next = messages.length && messages.at(-1).id !== "h0" ? messages.at(-1).id : null;
    await route.fulfill({ json: { success: true, data: { messages, next } } });
  });
  await window.page.goto(`${server.url}/#user=2`);
  await window.connection("open");
  await window.get("chat-2").click();
  await window.message("h39");
  const ids = () => window.get("message").evaluateAll((lines) => lines.map((line) => line.dataset.messageId));
  assert.equal((await ids()).length, 30);
  await window.get("older").click();
  await window.message("h0");
  assert.deepEqual(await ids(), kept.map(({ id }) => id).reverse());
  assert.equal(await window.get("older").isVisible(), false);
  // One that the history has had, and a new one.
  await server.publish(CHAT, { type: "message", channel: "chat:2", data: kept[0] });
  await window.get("draft").fill("kept by the server");
  await window.get("send").click();
  const own = await window.message("w0");
  await own.getByText(/^delivered in \d+ ms$/).waitFor();
  assert.deepEqual(written, [{ chatId: 2, content: "kept by the server", messageType: "text", senderName: "Bashir" }]);
  await window.get("attach").locator("summary").click();
  await window.get("sample-image").click();
  await (await window.message("w1")).locator("img").waitFor();
  assert.deepEqual(await ids(), [...kept.map(({ id }) => id).reverse(), "w0", "w1"]);
  await window.close();
});

async function signedIn(user) {
  const window = await openWindow(browser, `${server.url}/#user=${user}`);
  await window.connection("open");
  await window.get("chat-2").click();
  return window;
}

function publish(parts) {
  return server.publish(CHAT, received(parts));
}

function received(parts) {
  return { MessageReceived: { chat_id: 2, message: { chat_id: 2, sender_id: 1, files: [], ...parts } } };
}
