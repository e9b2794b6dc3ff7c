// The diagnosis, by those who see no data: why, and whether the page says so.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, test } from "node:test";
import { buffering, caching, compressing, cutting, freezing } from "./proxy.mjs";
import { Server } from "./server.mjs";
import { tokenOf } from "./traffic.mjs";
import { launch, openWindow } from "./window.mjs";

const ALL = [
  "health", "protocol", "clock", "token", "accepted", "headers", "first_byte", "confirmation", "buffering", "compression", "ticket", "eventsource",
  "publish", "poll", "idle",
];
const OWN = ["accepted", "eventsource"]; // steps that only a browser can take, or that the doctor counts to others
const DOCTORS = ["reachable", "cookies", "query"]; // what a page can't see
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
  assert.match(await window.get("step-publish").innerText(), /seen after \d+ ms by the stream, and after \d+ ms by EventSource/);
  assert.match(await window.get("step-protocol").innerText(), /http\/1\.1, on this machine/);
  await became(window, "cors", "skip"); // nobody asked
  await window.get("copy-report").click();
  await window.get("copy-report").getByText("Copied").waitFor();
  const report = await window.page.evaluate(() => navigator.clipboard.readText());
  for (const part of [server.url, "EdDSA", "text/event-stream", "http/1.1", "As user 2, in 3 chats", "[good] first_byte: "]) assert.ok(report.includes(part), `${part} in ${report}`);
  assert.doesNotMatch(report, /eyJ/);
  await window.close();
});

test("a token that has expired is found, and what needs it is not tried", async () => {
  const window = await withToken(await server.run("token", "--user", "2", "--claim", "exp=1000000000"));
  await became(window, "token", "fail");
  await became(window, "accepted", "fail");
  assert.match(await window.get("step-token").innerText(), /expired .* ago/);
  assert.match(await window.get("step-accepted").innerText(), /the token has expired/);
  for (const step of ["headers", "first_byte", "confirmation", "buffering", "compression", "ticket", "eventsource", "publish", "idle"]) await became(window, step, "skip");
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
  await became(window, "publish", "skip");
  const command = await window.get("step-publish").getByTestId("command").innerText();
  const [subject, payload] = [...command.matchAll(/'([^']*)'/g)].map(([, word]) => word);
  await became(window, "idle", "ok");
  await server.run("publish", subject, payload, "--server", server.url);
  await became(window, "publish", "ok");
  await window.close(REFUSED);
});

test("something that holds streams back is found", async () => {
  const proxy = await buffering(server.url);
  const window = await openWindow(browser, "about:blank");
  await window.page.clock.install();
  await window.page.goto(`${proxy.url}/diagnostic`);
  // Behind a proxy development mode gives no tokens.
  await paste(window, await server.run("token", "--user", "2"));
  await became(window, "headers", "running");
  await window.page.clock.fastForward(16_000);
  await became(window, "headers", "fail");
  await became(window, "buffering", "fail");
  await became(window, "eventsource", "running");
  await window.page.clock.fastForward(16_000);
  await became(window, "eventsource", "fail");
  await became(window, "poll", "ok");
  assert.match(await window.get("step-headers").innerText(), /No headers within 15 s/);
  assert.match(await window.get("step-buffering").innerText(), /arrived together/);
  assert.match(await window.get("step-buffering").innerText(), /proxy_buffering off/);
  await window.accessible();
  await window.picture("diagnostic-buffering-proxy", { fullPage: true });
  await window.close(REFUSED);
  await proxy.close();
});

test("something that compresses streams is found", async () => {
  const proxy = await compressing(server.url);
  const window = await openWindow(browser, `${proxy.url}/diagnostic`);
  await paste(window, await server.run("token", "--user", "2"));
  await became(window, "compression", "fail");
  assert.match(await window.get("step-compression").innerText(), /compressed \(gzip\)[\s\S]*gzip_types/);
  await window.close(REFUSED);
  await proxy.close();
});

test("something else at this address, and no server at all, are found", async () => {
  const window = await openWindow(browser, `${server.url}/diagnostic`);
  await window.page.route("**/health", (route) => route.fulfill({ contentType: "text/html", body: "<h1>welcome</h1>" }));
  await window.get("user-2").click();
  await became(window, "health", "fail");
  assert.match(await window.get("step-health").innerText(), /not notify-server/);
  for (const step of ALL.slice(1)) await became(window, step, "skip");
  await window.page.unroute("**/health");
  await window.page.route("**/health", (route) => route.abort());
  await window.get("again").click();
  await window.get("step-health").getByText("No answer from").waitFor();
  await window.page.unroute("**/health");
  await window.get("again").click();
  await became(window, "accepted", "ok");
  await window.close(/net::ERR_/);
});

for (const [device, viewport] of [["desktop", { width: 1280, height: 800 }], ["phone", { width: 390, height: 844 }]]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`the page is accessible and fits, ${device}, ${colorScheme}`, async () => {
      const window = await openWindow(browser, `${server.url}/diagnostic#user=2`, { viewport, colorScheme, isMobile: device === "phone", hasTouch: device === "phone" });
      await became(window, "idle", "ok");
      await window.get("step-headers").locator("summary").click();
      await window.accessible();
      await window.fits();
      if (device === "phone") await window.touchable();
      await window.picture(`diagnostic-${device}-${colorScheme}`, { fullPage: true });
      await window.close();
    });
  }
}

test("a server that goes away is told, and so is its return", async () => {
  const own = await Server.start();
  const window = await openWindow(browser, `${own.url}/diagnostic#user=2`);
  await became(window, "confirmation", "ok");
  await own.kill();
  await window.get("again").click();
  await window.get("step-health").getByText("No answer from").waitFor();
  await window.get("step-health").getByText("Is the server running").waitFor();
  await window.get("verdict").getByText("One step fails").waitFor();
  await own.startAgain();
  await window.get("again").click();
  await became(window, "confirmation", "ok");
  await window.close(/net::ERR_/);
  await own.remove();
});

test("a token of another issuer is found, with what to compare", async () => {
  const strict = await Server.start({ production: true });
  const window = await openWindow(browser, `${strict.url}/diagnostic`);
  await paste(window, await strict.issue(2, "iss=https://other.example"));
  await became(window, "token", "ok");
  await became(window, "accepted", "fail");
  const step = await window.get("step-accepted").innerText();
  assert.match(step, /the token is from another issuer \(iss\)[\s\S]*auth\./);
  await window.get("step-token").locator("summary").click();
  await window.get("step-token").getByText("https://other.example").waitFor();
  await window.close(REFUSED);
  await strict.remove();
});

for (const [minutes, state, side] of [[-2, "fail", "ahead of"], [0.2, "warn", "behind"]]) {
  test(`a clock that is ${minutes} min off is found, and the token judged by the server's`, async () => {
    const window = await openWindow(browser, "about:blank");
    await window.page.clock.install({ time: Date.now() + minutes * 60_000 });
    await window.page.goto(`${server.url}/diagnostic#user=2`);
    await became(window, "clock", state);
    assert.match(await window.get("step-clock").innerText(), new RegExp(`${side} this device's[\\s\\S]*time server`));
    await became(window, "token", "ok");
    await became(window, "accepted", "ok");
    await window.close();
  });
}

for (const [fault, proxied, every, step, words] of [
  ["cuts streams", (target) => cutting(target, 5_000), "15s", "idle", /ended after \d+ s[\s\S]*timeouts/],
  ["lets streams fall silent", (target) => freezing(target, 2_000), "3s", "idle", /No ping within \d+ s[\s\S]*proxy_read_timeout/],
  ["caches streams", caching, "3s", "headers", /max-age=60[\s\S]*cache nothing/],
]) {
  test(`something that ${fault} is found`, async () => {
    const own = await Server.start({ stream: `ping_interval: ${every}` });
    const proxy = await proxied(own.url);
    const window = await openWindow(browser, `${proxy.url}/diagnostic`);
    await paste(window, await own.run("token", "--user", "2"));
    await window.page.locator(`[data-testid=step-${step}][data-state=fail]`).waitFor({ timeout: 60_000 });
    assert.match(await window.get(`step-${step}`).innerText(), words);
    await window.close(/status of 403|net::ERR_/);
    await proxy.close();
    await own.remove();
  });
}

test("another page at the address of streams, and too many streams, are found", async () => {
  const window = await openWindow(browser, "about:blank");
  const answers = [{ contentType: "text/html", body: "<h1>welcome</h1>" }, { status: 429, contentType: "application/problem+json", body: '{"detail":"20 streams are open"}' }];
  await window.page.route(/\/events(\?|$)/, (route) => (route.request().method() === "GET" ? route.fulfill(answers[0]) : route.continue()));
  await window.page.goto(`${server.url}/diagnostic#user=2`);
  await became(window, "headers", "fail");
  assert.match(await window.get("step-headers").innerText(), /text\/html, no event stream[\s\S]*login page/);
  answers.shift();
  await window.get("again").click();
  await window.get("step-headers").getByText("429: 20 streams are open").waitFor();
  await window.get("step-headers").getByText("max_connections_per_user").waitFor();
  await window.close(/status of 429/);
});

test("whose pages may read is asked, and blocked ones are told what to allow", async () => {
  const own = await Server.start({ more: 'server: { allowed_origins: ["https://app.example.com"] }\n' });
  const window = await openWindow(browser, `${own.url}/diagnostic#user=2`);
  await became(window, "cors", "skip");
  const ask = async (origin) => {
    await window.get("origin").fill(origin);
    await window.get("origin-check").click();
  };
  await ask("https://other.example.com/page");
  await became(window, "cors", "fail");
  assert.match(await window.get("step-cors").innerText(), /no page of https:\/\/other\.example\.com read[\s\S]*server\.allowed_origins/);
  assert.equal(await window.get("origin").inputValue(), "https://other.example.com/page");
  await ask("https://app.example.com");
  await became(window, "cors", "ok");
  const command = await window.get("step-cors").getByTestId("command").innerText();
  assert.equal(command, `notify-server doctor ${own.url} --origin https://app.example.com`);
  await ask("javascript:alert(1)");
  await window.get("step-cors").getByText("is no origin").waitFor();
  await ask(own.url);
  await window.get("step-cors").getByText("this very address").waitFor();
  await window.close();
  await own.remove();
});

test("steps are named as the doctor's checks", async () => {
  const window = await openWindow(browser, `${server.url}/diagnostic#user=2`);
  await window.get("step-idle").waitFor();
  const steps = await window.get("steps").locator(":scope > li").evaluateAll((list) => list.map(({ dataset }) => dataset.step));
  await window.close();
  const report = JSON.parse(await server.run("doctor", server.url, "--token", await tokenOf(server, 2), "--idle", "0s", "--json"));
  const checks = report.checks.map(({ check }) => check);
  assert.deepEqual(steps.filter((step) => !OWN.includes(step)).sort(), checks.filter((check) => !DOCTORS.includes(check)).sort());
});

test("the command that a page shows is one word of a shell each", async () => {
  const window = await withToken(await server.run("token", "--user", "2"));
  await became(window, "publish", "skip");
  const command = await window.get("step-publish").getByTestId("command").innerText();
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
