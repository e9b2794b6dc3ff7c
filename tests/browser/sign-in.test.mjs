// Signing in where the application's users do, at another origin, and what the page says where that fails.

import assert from "node:assert/strict";
import { after, before, beforeEach, test } from "node:test";
import { Endpoint } from "./endpoint.mjs";
import { Server } from "./server.mjs";
import { launch, openWindow } from "./window.mjs";

const REFUSED = /status of (4\d\d|500)/;
// What a browser says by itself where a page may not read an answer, or there is none.
const HIDDEN = /net::ERR_|CORS policy|status of/;

let server;
let endpoint;
let browser;

before(async () => {
  endpoint = await Endpoint.start();
  server = await Server.start({ production: true, more: `server: { sign_in: "${endpoint.url}" }\n` });
  browser = await launch();
});

after(async () => {
  await browser?.close();
  await server?.remove();
  await endpoint?.stop();
});

beforeEach(() => {
  endpoint.allowed = server.url;
  endpoint.asked = [];
});

for (const [place, title] of [["/", "chat"], ["/diagnostic", "diagnosis"], ["/admin", "overview"]]) {
  test(`the ${title} signs in at another origin`, async () => {
    const token = await server.issue(2, 'notify={"admin":true}');
    endpoint.answer = () => ({ status: 200, json: { data: { token } } });
    const window = await openWindow(browser, server.url + place);
    assert.equal(await window.get("endpoint").inputValue(), endpoint.url);
    assert.equal(await window.get("users").count(), 0);
    await signIn(window);
    const connected = { "/": "open", "/admin": "live" }[place];
    if (connected) await window.connection(connected);
    else await window.page.locator("[data-testid=step-confirmation]:is([data-state=ok], [data-state=warn])").waitFor();
    assert.deepEqual(endpoint.asked, [{ username: "bashir", email: "bashir", password: "secret" }]);
    assert.doesNotMatch(await window.page.content(), /eyJ|secret/);
    await window.get("sign-out").click();
    await window.get("endpoint-connect").waitFor();
    assert.equal(await window.get("endpoint-password").inputValue(), "");
    await window.close();
  });
}

const FAULTS = {
  "a wrong password": [() => ({ status: 401, json: { message: "no such user" } }), "Name or password were refused: no such user"],
  "an endpoint that fails": [() => ({ status: 500, text: "<h1>Oops</h1>", type: "text/html" }), /could not sign you in, and answered 500/],
  "a page instead of an answer": [() => ({ status: 200, text: "<!doctype html><title>Welcome</title>", type: "text/html" }), /no JSON \(text\/html\)/],
  "JSON that is none": [() => ({ status: 200, text: "{\"token\":" }), /no JSON \(application\/json\)/],
  "an answer without a token": [() => ({ status: 200, json: { user: "bashir", token: { value: 1 } } }), /without an access_token or token/],
  "null": [() => ({ status: 200, text: "null" }), /no JSON/],
  "a token that is none": [() => ({ status: 200, json: { access_token: "0f8fad5b-d9cb-469f-a165-70867728950e" } }), /no JSON Web Token/],
  "words with markup in them": [() => ({ status: 403, json: { error: "<img src=x onerror=alert(1)>" } }), "<img src=x onerror=alert(1)>"],
};

for (const [fault, [answer, words]] of Object.entries(FAULTS)) {
  test(`${fault} is told, and tried again`, async () => {
    endpoint.answer = answer;
    const window = await openWindow(browser, server.url);
    await signIn(window);
    await told(window, words);
    assert.equal(await window.page.locator("main img").count(), 0);
    const token = await server.issue(2);
    endpoint.answer = () => ({ status: 200, json: { access_token: token } });
    await signIn(window);
    await window.connection("open");
    await window.close(REFUSED);
  });
}

test("an address with nothing behind it is told", async () => {
  const window = await openWindow(browser, server.url);
  await window.get("endpoint").fill(endpoint.url.replace("signin", "login"));
  await signIn(window);
  await told(window, /nothing to sign in at .*\/login: it answered 404/);
  await window.close(REFUSED);
});

test("an endpoint that lets the page read nothing is told from one that is down", async () => {
  const window = await openWindow(browser, server.url);
  endpoint.allowed = "https://app.example.com";
  await signIn(window);
  await told(window, new RegExp(`${endpoint.host} answers, but does not let this page read it \\(CORS\\).*${server.url}`));
  await window.accessible();
  await window.picture("sign-in-cors");
  await endpoint.stop();
  await signIn(window);
  await told(window, new RegExp(`${endpoint.host} does not answer`));
  await endpoint.startAgain();
  await window.close(HIDDEN);
});

test("an endpoint that is silent is given up", async () => {
  const window = await openWindow(browser, "about:blank");
  await window.page.goto(server.url);
  endpoint.answer = () => null;
  await signIn(window);
  await window.get("endpoint-connect").getByText("Signing in").waitFor();
  assert.equal(await window.get("endpoint-connect").isDisabled(), true);
  await told(window, /did not answer within 15 s/, 20_000);
  assert.equal(await window.get("endpoint-connect").isEnabled(), true);
  await window.close(HIDDEN);
});

test("what the server refuses of the endpoint's tokens is told as the endpoint's", async () => {
  const window = await openWindow(browser, server.url);
  const from = `refused the token that ${endpoint.host} gave`;
  for (const [claim, why] of [["exp=1000000000", "the token has expired"], ["iss=https://other.example", "another issuer"]]) {
    const token = await server.issue(2, claim);
    endpoint.answer = () => ({ status: 200, json: { access_token: token } });
    await signIn(window);
    await told(window, new RegExp(`${from}: .*${why}`));
  }
  await window.close(REFUSED);
});

test("a token of the endpoint that runs out ends in a new sign-in, with the reason", async () => {
  const token = await server.issue(2, `exp=${Math.floor(Date.now() / 1000) - 55}`); // good for 5 s more, by the leeway
  endpoint.answer = () => ({ status: 200, json: { access_token: token } });
  const window = await openWindow(browser, server.url);
  const streams = [];
  window.page.on("request", (request) => { if (new URL(request.url()).pathname === "/events") streams.push(request.url()); });
  await signIn(window);
  await window.connection("open");
  await told(window, /the token has expired/);
  // It is tried again, with pauses, for the second until the server takes the token for expired, and not before.
  assert.ok(streams.length < 10, streams.join("\n"));
  await window.close(REFUSED);
});

async function signIn(window) {
  await window.get("endpoint-user").fill("bashir");
  await window.get("endpoint-password").fill("secret");
  await window.get("endpoint-connect").click();
}

async function told(window, words, timeout) {
  await window.get("sign-in-error").getByText(words).waitFor(timeout && { timeout });
}
