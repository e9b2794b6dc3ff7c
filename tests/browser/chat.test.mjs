// The chat, as its users meet it: a real server, a real browser, one window per user.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, test } from "node:test";
import { Server } from "./server.mjs";
import { tokenOf } from "./traffic.mjs";
import { launch, openWindow } from "./window.mjs";

const CHAT = "fechatter.realtime.chat.2"; // of which users 1 and 2 are members
const EVERYBODY = "fechatter.realtime.chat.1";
const SERVER_GONE = /net::ERR_/; // what a browser says of a server that is down

let server;
let browser;
let users;

before(async () => {
  server = await Server.start();
  users = (await (await fetch(`${server.url}/api/dev/users`)).json()).users;
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await server?.remove();
});

test("a demo user is chosen and the stream is confirmed", async () => {
  const window = await openWindow(browser, server.url);
  await window.get("user-2").click();
  await window.connection("open");
  const { name, chats } = users.find((user) => user.id === 2);
  assert.match(await window.get("identity").innerText(), new RegExp(name));
  assert.equal(await window.logged("connection_confirmed"), 1);
  assert.equal(await window.get("chats").getByRole("button").count(), chats.length);
  for (const chat of chats) await window.get(`chat-${chat}`).waitFor();
  await window.close();
});

test("a message reaches every member's window, the sender's included", async () => {
  const [one, two] = await Promise.all([1, 2].map((user) => signedIn(user, 2)));
  await server.publish(CHAT, message(2, { id: "to-all", sender_id: 2, content: "hello from the command line" }));
  for (const window of [one, two]) {
    assert.equal(await contentOf(window, "to-all"), "hello from the command line");
  }
  assert.match(await (await two.message("to-all")).innerText(), /^You/);
  await Promise.all([one.close(), two.close()]);
});

test("a message written on the page reaches both windows and says how long it took", async () => {
  const [one, two] = await Promise.all([1, 2].map((user) => signedIn(user, 2)));
  await one.get("draft").fill("written by hand");
  await one.get("draft").press("Enter");
  const own = one.get("message").last();
  await own.getByText("written by hand").waitFor();
  await own.getByText(/^delivered in \d+ ms$/).waitFor();
  assert.equal(await one.get("draft").inputValue(), "");
  await two.get("message").getByText("written by hand").waitFor();
  await Promise.all([one.close(), two.close()]);
});

test("an event for one chat does not reach who is not a member, and is counted unread in another", async () => {
  const [member, stranger] = await Promise.all([signedIn(2, 1), signedIn(5, 1)]);
  await server.publish(CHAT, message(2, { id: "private", sender_id: 1, content: "for two" }));
  await server.publish(EVERYBODY, message(1, { id: "public", sender_id: 1, content: "for all" }));
  // The same publisher sent the public message after the private one, so a stray private one would be here.
  await Promise.all([member.message("public"), stranger.message("public")]);
  assert.equal(await stranger.logged("new_message"), 1);
  assert.match(await member.get("unread-2").innerText(), /^1/);
  await Promise.all([member.close(), stranger.close()]);
});

test("the command that an empty chat shows brings its first message", async () => {
  const window = await signedIn(3, 3);
  const command = await window.get("command").innerText();
  const words = await new Promise((resolve, reject) => {
    execFile("sh", ["-c", `printf '%s\\n' ${command}`], (error, stdout) => (error ? reject(error) : resolve(stdout.trim().split("\n"))));
  });
  assert.equal(words.shift(), "notify-server");
  await server.run(...words);
  await window.get("message").getByText("hello from a terminal").waitFor();
  await window.get("empty").waitFor({ state: "hidden" });
  await window.close();
});

test("typing is shown to the others and not to the typist", async () => {
  const [typist, reader] = await Promise.all([1, 2].map((user) => signedIn(user, 2)));
  await typist.get("draft").pressSequentially("I am");
  await reader.get("typing").getByText("is typing").waitFor();
  await typist.get("draft").fill("");
  await reader.page.locator("[data-testid=typing]:empty").waitFor();
  // A later event for the same chat has arrived, so earlier ones would have too.
  await server.publish(CHAT, message(2, { id: "after-typing", sender_id: 2, content: "go on" }));
  await typist.message("after-typing");
  assert.equal(await typist.logged("typing_started"), 0);
  assert.equal(await typist.logged("typing_stopped"), 0);
  await Promise.all([typist.close(), reader.close()]);
});

test("markup in a message, a name or an unknown event is shown as text", async () => {
  const window = await signedIn(2, 2);
  const markup = '<img src="/nowhere" onerror="alert(1)"><b>bold</b><script>alert(2)</script>';
  await server.publish(CHAT, message(2, { id: "markup", sender_id: 9, sender_name: markup, content: markup }));
  await server.publish(CHAT, { type: markup, channel: "chat:2", data: { markup } });
  assert.equal(await contentOf(window, "markup"), markup);
  assert.match(await (await window.message("markup")).innerText(), /<b>bold/);
  assert.equal(await window.page.locator("main img, main b, main script").count(), 0);
  await window.close();
});

test("presence, joins and leaves are shown", async () => {
  const window = await signedIn(2, 2);
  await server.publish("fechatter.realtime.user.1.presence", { UserPresence: { user_id: 1, status: "away", last_seen: null } });
  await window.page.locator("[data-testid=member-1][data-presence=away]").waitFor();
  const member = { chat_id: 2, user_id: 77, user_name: "Ada Newcomer" };
  await server.publish("fechatter.chat.events", { event_type: "member_added", ...member });
  await window.get("note").getByText("Ada Newcomer joined").waitFor();
  await window.get("member-77").waitFor();
  await server.publish("fechatter.chat.events", { event_type: "member_removed", ...member });
  await window.get("note").getByText("Ada Newcomer left").waitFor();
  await window.get("member-77").waitFor({ state: "detached" });
  await window.close();
});

test("who is online is shown, whoever came first", async () => {
  const first = await signedIn(2, 1);
  const second = await signedIn(3, 1);
  await first.page.locator("[data-testid=member-3][data-presence=online]").waitFor();
  await second.page.locator("[data-testid=member-2][data-presence=online]").waitFor();
  await Promise.all([first.close(), second.close()]);
});

test("a user who is added to a chat and removed again sees it come and go", async () => {
  const window = await signedIn(5, 1);
  const member = { chat_id: 2, user_id: 5 };
  await server.publish("fechatter.chat.events", { event_type: "member_added", ...member });
  await window.get("chat-2").click();
  await server.publish(CHAT, message(2, { id: "joined", sender_id: 1, content: "welcome" }));
  await window.message("joined");
  await server.publish("fechatter.chat.events", { event_type: "member_removed", ...member });
  await window.get("chat-2").waitFor({ state: "detached" });
  await window.close();
});

for (const end of ["stop", "kill"]) {
  test(`two windows side by side survive a server that ends (${end}) and starts again`, async () => {
    const windows = await Promise.all([1, 2].map((user) => signedIn(user, 2)));
    const [one, two] = windows;
    await Promise.all(windows.map((window) => window.page.evaluate(() => { globalThis.neverReloaded = true; })));
    await say(one, `before ${end}`);
    await two.get("message").getByText(`before ${end}`).waitFor();
    await server[end]();
    await Promise.all(windows.map((window) => window.connection("reconnecting")));
    await one.get("banner").getByText("interrupted").waitFor();
    assert.equal(await one.get("send").isDisabled(), true);
    await server.startAgain();
    await Promise.all(windows.map((window) => window.connection("open")));
    await one.get("banner").waitFor({ state: "hidden" });
    await say(two, `after ${end}`);
    for (const window of windows) {
      await window.get("message").getByText(`after ${end}`).waitFor();
      assert.equal(await window.get("message").getByText(`before ${end}`).count(), 1);
      assert.equal(await window.page.evaluate(() => globalThis.neverReloaded), true);
      assert.equal(await window.logged("connection_confirmed"), 2);
    }
    await Promise.all(windows.map((window) => window.close(SERVER_GONE)));
  });
}

test("tabs of one user share a connection, and another one takes over when its tab is closed", async () => {
  const first = await signedIn(2, 2);
  const second = await first.tab(`${server.url}/#user=2`);
  await second.connection("open");
  await second.get("chat-2").click();
  const own = async () => {
    const token = await tokenOf(server, 1, true);
    const page = await fetch(`${server.url}/api/v1/connections?user_id=2`, { headers: { authorization: `Bearer ${token}` } });
    return (await page.json()).connections.length;
  };
  assert.equal(await own(), 1);
  await server.publish(CHAT, message(2, { id: "shared", sender_id: 1, content: "for both tabs" }));
  await Promise.all([first.message("shared"), second.message("shared")]);
  await first.page.close();
  await server.publish(CHAT, message(2, { id: "taken-over", sender_id: 1, content: "for the one that is left" }));
  await second.message("taken-over");
  assert.equal(await second.page.locator("[data-message-id=shared]").count(), 1);
  assert.equal(await second.logged("gap"), 0);
  await second.close();
});

test("an interrupted connection says when it is tried again, and tries at once when asked", async () => {
  const window = await openWindow(browser, "about:blank");
  let asked = 0;
  await window.page.route(/\/events(\?|$)/, (route) => {
    asked += 1;
    return route.fulfill({ status: 503, headers: { "retry-after": "40" }, contentType: "application/problem+json", body: '{"detail":"full"}' });
  });
  await window.page.goto(`${server.url}/#user=2`);
  await window.connection("reconnecting");
  await window.get("banner").getByText(/Trying again in (3|4)\d seconds/).waitFor({ state: "attached" });
  assert.equal(asked, 1);
  await window.accessible();
  await window.picture("chat-interrupted");
  await window.page.unroute(/\/events(\?|$)/);
  await window.get("try-now").click();
  await window.connection("open");
  await window.get("banner").waitFor({ state: "hidden" });
  await window.close(/status of 503/);
});

test("where streams are held back events are polled, until streams get through", async () => {
  const window = await openWindow(browser, "about:blank");
  await window.page.clock.install();
  await window.page.route(/\/events\?/, () => {}); // never answered
  const asked = window.page.waitForRequest(/\/events\?/);
  await window.page.goto(`${server.url}/#user=2`);
  await asked;
  await window.page.clock.fastForward(16_000);
  await window.connection("polling");
  await window.get("banner").getByText("polled").waitFor();
  await window.get("chat-2").click();
  await server.publish(CHAT, message(2, { id: "polled", sender_id: 1, content: "by poll" }));
  await window.message("polled");
  await window.page.unroute(/\/events\?/);
  await window.page.clock.fastForward(31_000);
  await server.publish(CHAT, message(2, { id: "looked", sender_id: 1, content: "look again" }));
  await window.connection("open");
  await server.publish(CHAT, message(2, { id: "streamed", sender_id: 1, content: "by stream" }));
  await window.message("streamed");
  for (const id of ["polled", "looked", "streamed"]) assert.equal(await window.page.locator(`[data-message-id=${id}]`).count(), 1, id);
  await window.close();
});

test("no token stands in any address", async () => {
  const window = await openWindow(browser, "about:blank");
  const addresses = [];
  window.page.on("request", (request) => addresses.push(request.url()));
  await window.page.goto(`${server.url}/#user=2`);
  await window.connection("open");
  assert.ok(addresses.some((address) => /\/events\?/.test(address)), addresses.join("\n"));
  assert.deepEqual(addresses.filter((address) => /eyJ|access_token|ticket/.test(address)), []);
  await window.close();
});

test("signing in at an endpoint of one's own host", async () => {
  const window = await openWindow(browser, "about:blank");
  await window.page.route("**/api/dev/**", (route) => route.fulfill({ status: 404, body: "{}" }));
  const token = await server.run("token", "--user", "2");
  await window.page.route("**/api/signin", async (route) => {
    const { email, password } = route.request().postDataJSON();
    const good = email === "bashir" && password === "secret";
    await route.fulfill({ status: good ? 200 : 401, json: good ? { access_token: token } : { detail: "wrong password" } });
  });
  await window.page.goto(server.url);
  await window.get("endpoint-choice").locator("summary").click();
  const signIn = async (endpoint, password) => {
    await window.get("endpoint").fill(endpoint);
    await window.get("endpoint-user").fill("bashir");
    await window.get("endpoint-password").fill(password);
    await window.get("endpoint-connect").click();
  };
  await signIn("https://elsewhere.example/signin", "secret");
  await window.get("sign-in-error").getByText("server.sign_in").waitFor();
  await signIn("/api/signin", "guess");
  await window.get("sign-in-error").getByText("wrong password").waitFor();
  await signIn("/api/signin", "secret");
  await window.connection("open");
  await window.close(/status of (401|404)/);
});

test("outside development a token is pasted, and what it may not do is explained", async () => {
  const window = await openWindow(browser, "about:blank");
  await window.page.route("**/api/dev/**", (route) => route.fulfill({ status: 404, body: "{}" }));
  // Without the message API, writing takes the right to publish.
  await window.page.route("**/api/messages*", (route) => route.fulfill({ status: 404, body: "{}" }));
  await window.page.goto(server.url);
  await window.get("token").fill("not.a.token");
  await window.get("token-connect").click();
  await window.get("sign-in-error").getByText("refused this token").waitFor();
  await window.get("token").fill(await server.run("token", "--user", "2"));
  await window.get("token-connect").click();
  await window.connection("open");
  assert.equal(await window.page.content().then((html) => html.includes("eyJ")), false, "no token stands in the page");
  // That token may read and not publish, which the page can only find out by trying.
  await window.get("draft").fill("may I?");
  await window.get("draft").press("Enter");
  await window.get("composer-error").getByText("Not sent.").waitFor();
  assert.equal(await window.get("draft").inputValue(), "may I?");
  await window.close(/status( of)? (401|403|404)/);
});

for (const [device, viewport] of [["desktop", { width: 1280, height: 800 }], ["phone", { width: 390, height: 844 }]]) {
  for (const colorScheme of ["light", "dark"]) {
    test(`the page is accessible and fits, ${device}, ${colorScheme}`, async () => {
      const window = await openWindow(browser, server.url, { viewport, colorScheme, hasTouch: device === "phone", isMobile: device === "phone" });
      await window.get("user-2").waitFor();
      await window.accessible();
      if (device === "phone") await window.touchable();
      await window.picture(`sign-in-${device}-${colorScheme}`);
      await window.get("user-2").click();
      await window.connection("open");
      await conversation(window, `${device}-${colorScheme}`);
      await window.accessible();
      await window.picture(`chat-${device}-${colorScheme}`);
      await window.fits();
      if (device === "phone") await window.touchable();
      await window.close();
    });
  }
}

async function signedIn(user, chat) {
  const window = await openWindow(browser, `${server.url}/#user=${user}`);
  await window.connection("open");
  await window.get(`chat-${chat}`).click();
  return window;
}

async function say(window, text) {
  await window.get("draft").fill(text);
  await window.get("draft").press("Enter");
}

function message(chatId, parts) {
  return { MessageReceived: { chat_id: chatId, message: { chat_id: chatId, files: [], ...parts } } };
}

async function contentOf(window, id) {
  return (await window.message(id)).getByTestId("content").innerText();
}

async function conversation(window, prefix) {
  const lines = [
    [1, "Morning all. Version 2.4 goes out at ten."],
    [1, "The checklist is in the usual place."],
    [3, "Two small fixes are still in review:\nthe retry change and the new health check."],
    [1, "Seen from the office:", ["/assets/sample.svg"]],
    [3, "The notes of last week", ["https://files.example.com/notes%20of%20last%20week.pdf"]],
  ];
  for (const [index, [sender, content, files = []]] of lines.entries()) {
    await server.publish(EVERYBODY, message(1, { id: `${prefix}-${index}`, sender_id: sender, content, files }));
  }
  await window.message(`${prefix}-${lines.length - 1}`);
  await window.get("draft").fill("Good. I can take the rollback drill.");
  await window.get("send").click();
  await window.get("message").getByText("rollback drill").last().waitFor();
  await server.publish("fechatter.realtime.user.3.presence", { UserPresence: { user_id: 3, status: "online", last_seen: null } });
  await server.publish(`${EVERYBODY}.typing`, { TypingStarted: { chat_id: 1, user_id: 1, user_name: users[0].name } });
  await window.get("typing").getByText("is typing").waitFor();
}
