// The diagnosis, by those who see no data: why, and whether the page says so.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, test } from "node:test";
import { buffering, compressing } from "./proxy.mjs";
import { Server } from "./server.mjs";
import { launch, openWindow } from "./window.mjs";

const ALL = ["server", "token", "accepted", "fetch", "confirmed", "spaced", "native", "event", "poll", "ping"];
const REFUSED = /status of (401|403|404)/;

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

test("where all is well every step is green, and the report says so without the token", async () => {
  const window = await openWindow(browser, `${server.url}/diagnostic#user=2`, { permissions: ["clipboard-read", "clipboard-write"] });
  for (const step of ALL) await became(window, step, "ok");
  await window.get("verdict").getByText("All is well").waitFor();
  assert.match(await window.get("step-event").innerText(), /seen after \d+ ms by the stream, and after \d+ ms by EventSource/);
  assert.match(await window.get("step-fetch").innerText(), /HTTP\/1\.1/);
  await window.get("copy-report").click();
  await window.get("copy-report").getByText("Copied").waitFor();
  const report = await window.page.evaluate(() => navigator.clipboard.readText());
  for (const part of [server.url, "EdDSA", "text/event-stream", "http/1.1", "As user 2, in 3 chats"]) assert.ok(report.includes(part), `${part} in ${report}`);
  assert.doesNotMatch(report, /eyJ/);
  await window.close();
});

test("a token that has expired is found, and what needs it is not tried", async () => {
  const window = await withToken(await server.run("token", "--user", "2", "--claim", "exp=1000000000"));
  await became(window, "token", "fail");
  await became(window, "accepted", "fail");
  assert.match(await window.get("step-token").innerText(), /expired .* ago/);
  assert.match(await window.get("step-accepted").innerText(), /the token has expired/);
  for (const step of ["fetch", "confirmed", "native", "event", "ping"]) await became(window, step, "skip");
  await window.get("verdict").getByText("2 steps fail").waitFor();
  assert.doesNotMatch(await window.page.content(), /eyJ/);
  assert.doesNotMatch(await window.get("report-text").textContent(), /eyJ/);
  await window.close(REFUSED);
});

test("what is no token is found", async () => {
  const window = await withToken("some words <img src=x onerror=alert(1)>");
  await became(window, "token", "fail");
  assert.match(await window.get("step-token").innerText(), /no JSON Web Token/);
  await became(window, "accepted", "fail");
  await window.close(REFUSED);
});

test("hostile claims are shown as text", async () => {
  const markup = '"><img src=x onerror=alert(1)>';
  const window = await withToken(await server.run("token", "--user", "2", "--claim", `iss=${markup}`, "--claim", `aud=${markup}`));
  await became(window, "token", "ok");
  await window.get("step-token").locator("summary").click();
  await window.get("step-token").getByText("onerror").first().waitFor();
  assert.equal(await window.page.locator("main img").count(), 0);
  await window.close(REFUSED);
});

test("who may not publish is given a command, and the page waits for its event", async () => {
  const window = await withToken(await server.run("token", "--user", "2"));
  await became(window, "event", "skip");
  const command = await window.get("step-event").getByTestId("command").innerText();
  const [subject, payload] = [...command.matchAll(/'([^']*)'/g)].map(([, word]) => word);
  await became(window, "ping", "ok");
  await server.run("publish", subject, payload, "--server", server.url);
  await became(window, "event", "ok");
  await window.close(REFUSED);
});

test("something that holds streams back is found", async () => {
  const proxy = await buffering(server.url);
  const window = await openWindow(browser, "about:blank");
  await window.page.clock.install();
  await window.page.goto(`${proxy.url}/diagnostic`);
  // Behind a proxy development mode gives no tokens.
  await paste(window, await server.run("token", "--user", "2"));
  await became(window, "fetch", "running");
  await window.page.clock.fastForward(16_000);
  await became(window, "fetch", "fail");
  await became(window, "spaced", "fail");
  await became(window, "native", "running");
  await window.page.clock.fastForward(16_000);
  await became(window, "native", "warn");
  await became(window, "poll", "ok");
  assert.match(await window.get("step-fetch").innerText(), /No headers within 15 s/);
  assert.match(await window.get("step-spaced").innerText(), /arrived together/);
  assert.match(await window.get("step-spaced").innerText(), /proxy_buffering off/);
  await window.picture("diagnostic-buffering-proxy", { fullPage: true });
  await window.close(REFUSED);
  await proxy.close();
});

test("something that compresses streams is found", async () => {
  const proxy = await compressing(server.url);
  const window = await openWindow(browser, `${proxy.url}/diagnostic`);
  await paste(window, await server.run("token", "--user", "2"));
  await became(window, "fetch", "warn");
  assert.match(await window.get("step-fetch").innerText(), /compressed \(gzip\)/);
  await window.close(REFUSED);
  await proxy.close();
});

test("something else at this address, and no server at all, are found", async () => {
  const window = await openWindow(browser, `${server.url}/diagnostic`);
  await window.page.route("**/health", (route) => route.fulfill({ contentType: "text/html", body: "<h1>welcome</h1>" }));
  await window.get("user-2").click();
  await became(window, "server", "fail");
  assert.match(await window.get("step-server").innerText(), /not notify-server/);
  for (const step of ALL.slice(1)) await became(window, step, "skip");
  await window.page.unroute("**/health");
  await window.page.route("**/health", (route) => route.abort());
  await window.get("again").click();
  await window.get("step-server").getByText("No answer from").waitFor();
  await window.page.unroute("**/health");
  await window.get("again").click();
  await became(window, "accepted", "ok");
  await window.close(/net::ERR_/);
});

for (const [device, viewport] of [["desktop", { width: 1280, height: 800 }], ["phone", { width: 390, height: 844 }]]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`the page is accessible and fits, ${device}, ${colorScheme}`, async () => {
      const window = await openWindow(browser, `${server.url}/diagnostic#user=2`, { viewport, colorScheme });
      await became(window, "ping", "ok");
      await window.get("step-fetch").locator("summary").click();
      await window.accessible();
      await window.fits();
      await window.picture(`diagnostic-${device}-${colorScheme}`, { fullPage: true });
      await window.close();
    });
  }
}

test("the command that a page shows is one word of a shell each", async () => {
  const window = await withToken(await server.run("token", "--user", "2"));
  await became(window, "event", "skip");
  const command = await window.get("step-event").getByTestId("command").innerText();
  const words = await new Promise((resolve, reject) => {
    execFile("sh", ["-c", `printf '%s\\n' ${command}`], (error, stdout) => (error ? reject(error) : resolve(stdout.trim().split("\n"))));
  });
  assert.equal(words.length, 4);
  assert.equal(JSON.parse(words[3]).channel, "user:2");
  await window.close(REFUSED);
});

async function withToken(token) {
  const window = await openWindow(browser, `${server.url}/diagnostic`);
  await paste(window, token);
  return window;
}

async function paste(window, token) {
  const choice = window.get("token-choice");
  await choice.waitFor();
  if ((await choice.getAttribute("open")) === null) await choice.locator("summary").click();
  await window.get("token").fill(token);
  await window.get("token-connect").click();
}

async function became(window, step, state) {
  await window.page.locator(`[data-testid=step-${step}][data-state=${state}]`).waitFor();
}
