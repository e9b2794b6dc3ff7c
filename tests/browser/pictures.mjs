// Takes the pictures in docs/ anew, from a real run: two instances over NATS with people, jobs, a slow client and payloads
// that are no events. Run by hand: node tests/browser/pictures.mjs

import { writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { Nats } from "../../clients/js/tests/real/nats.mjs";
import { Server } from "./server.mjs";
import { publishRaw, stream, tokenOf } from "./traffic.mjs";
import { launch, openWindow } from "./window.mjs";

const DOCS = path.join(import.meta.dirname, "../../docs");
const CHAT = "fechatter.realtime.chat.1";
const AGENTS = ["Mozilla/5.0 Firefox/145.0", "Mozilla/5.0 Chrome/142.0.0.0 Safari/537.36", "Mozilla/5.0 Version/26.1 Safari/605.1.15", "notify-client/0.1"];
const BUSY_MS = 90_000;

const browser = await launch();
const nats = await Nats.start();
const settings = { nats: nats.url, stream: "ping_interval: 30s, outbox_events: 16, write_timeout: 2s" };
const servers = [await Server.start(settings), await Server.start(settings)];
const sockets = [];
try {
  await people();
  await chat();
  await overview();
} finally {
  await browser.close();
  sockets.forEach((socket) => socket.destroy());
  await Promise.all(servers.map((server) => server.remove()));
  await nats.remove();
}

async function people() {
  for (let number = 0; number < 7; number += 1) {
    const server = servers[number % 2];
    const user = 1 + (number % 5);
    const path = number === 5 ? `/sse/user/${user}` : "/events";
    sockets.push(await stream(server, user, { reads: true, path, agent: AGENTS[number % AGENTS.length] }));
  }
}

async function chat() {
  const [one, two] = await Promise.all([1, 2].map((user) => openWindow(browser, `${servers[user - 1].url}/#user=${user}`)));
  for (const window of [one, two]) {
    await window.connection("open");
    await window.get("chat-1").click();
  }
  const say = async (window, text) => {
    await window.get("draft").fill(text);
    await window.get("draft").press("Enter");
    for (const each of [one, two]) await each.get("message").getByText(text).waitFor();
  };
  await say(one, "Morning all. Version 2.4 goes out at ten.");
  await say(two, "Good. I can take the rollback drill.");
  await one.get("attach").locator("summary").click();
  await one.get("sample-image").click();
  await two.page.locator("img.picture").waitFor();
  await say(one, "Seen from the office.");
  await two.get("draft").pressSequentially("Almost as good as the view");
  await one.get("typing").getByText("is typing").waitFor();
  await keep(one, "chat");
  await Promise.all([one.close(), two.close()]);
}

async function overview() {
  await publishRaw(nats, CHAT, '{"MessageReceived":{"message":{"id":17,"content":"no chat"}}}');
  await publishRaw(nats, "fechatter.realtime.jobs", '{"progress":0.4');
  await publishRaw(nats, "fechatter.chat.events", '{"event_type":"member_added","user_id":3}');
  const slow = await stream(servers[1], 5);
  await servers[0].publishAll("fechatter.realtime.user.5", Array(80).fill({ type: "export", channel: "user:5", data: { rows: "x".repeat(200_000) } }));
  await eventually(async () => (await summary()).slow_consumers === 1);
  const window = await openWindow(browser, `${servers[0].url}/admin#user=1`);
  await window.connection("live");
  const until = Date.now() + BUSY_MS;
  for (let beat = 0; Date.now() < until; beat += 1) {
    const count = Math.round(6 + 5 * Math.sin(beat / 9) + 3 * Math.random());
    const payloads = Array.from({ length: count }, (_, index) => ({ type: "job.progress", channel: "chat:1", data: { step: beat, part: index } }));
    await servers[beat % 2].publishAll(CHAT, payloads);
    await setTimeout(300);
  }
  slow.destroy();
  await keep(window, "admin");
  await window.close();
}

async function summary() {
  const headers = { authorization: `Bearer ${await tokenOf(servers[0], 1, true)}` };
  return (await fetch(`${servers[0].url}/api/v1/connections/stats`, { headers })).json();
}

async function eventually(isTrue) {
  while (!(await isTrue())) await setTimeout(100);
}

/** As WebP, which the browser itself can write. */
async function keep(window, name) {
  const png = (await window.page.screenshot({ fullPage: true })).toString("base64");
  const scribe = await browser.newPage();
  const webp = await scribe.evaluate(async (data) => {
    const picture = new Image();
    picture.src = `data:image/png;base64,${data}`;
    await picture.decode();
    const canvas = document.createElement("canvas");
    Object.assign(canvas, { width: picture.width, height: picture.height });
    canvas.getContext("2d").drawImage(picture, 0, 0);
    return canvas.toDataURL("image/webp", 0.9).split(",")[1];
  }, png);
  await scribe.close();
  await writeFile(path.join(DOCS, `${name}.webp`), Buffer.from(webp, "base64"));
}
