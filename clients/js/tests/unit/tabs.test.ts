// One connection for all tabs of a browser, and who has it when.

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { FakeBrowser, FakeServer, type Heard, listen, message, settle, tokens } from "../support/fake.js";

let server: FakeServer;
let browser: FakeBrowser;

beforeEach(() => {
  vi.useFakeTimers();
  server = new FakeServer();
  browser = new FakeBrowser();
});

afterEach(() => {
  vi.useRealTimers();
});

type Tab = Heard & ReturnType<FakeBrowser["tab"]>["tab"] & { freeze(): void; wake(): void };

async function open(options: Parameters<typeof listen>[1] = {}): Promise<Tab> {
  const { environment, tab } = browser.tab(server);
  const heard = listen(server, { getToken: tokens(), ...options }, environment);
  await settle();
  return Object.assign(heard, tab, { freeze: () => void (tab.frozen = true), wake: () => void (tab.frozen = false) }) as Tab;
}

const streams = (): number => server.open.filter((request) => request.path === "/events").length;

test("ten tabs have one connection, and each hears everything once", async () => {
  const tabs = [await open()];
  await server.asked.confirm();
  while (tabs.length < 10) tabs.push(await open());
  expect(streams()).toBe(1);
  await server.requests[0]!.send(message(1), "e-1-0");
  await server.requests[0]!.send({ type: "typing_started", chat_id: 1 });
  await settle();
  for (const tab of tabs) {
    expect(tab.messages).toEqual([1]);
    expect(tab.client.state).toEqual({ status: "open", transport: "fetch" });
    expect(tab.client.lastEventId).toBe("e-1-0");
  }
});

test("a tab that comes later is told the confirmation, too", async () => {
  await open();
  await server.asked.confirm("e-3-0", { connection_id: "abc" });
  const { environment } = browser.tab(server);
  const heard = listen(server, { getToken: tokens() }, environment);
  const confirmed: unknown[] = [];
  heard.client.on("connection_confirmed", (event) => confirmed.push(event.connection_id));
  await settle();
  expect(confirmed).toEqual(["abc"]);
});

test("when the leader closes another tab goes on from the last id, without loss or double", async () => {
  const first = await open();
  await server.asked.confirm();
  const second = await open();
  const third = await open();
  await server.requests[0]!.send(message(1), "e-1-0");
  await settle();
  first.client.close();
  await settle();
  expect(server.asked.parameter("last_event_id")).toBe("e-1-0");
  await server.asked.confirm("e-1-0");
  await server.requests[1]!.send(message(2), "e-2-0");
  await settle();
  expect(first.messages).toEqual([1]);
  expect(second.messages).toEqual([1, 2]);
  expect(third.messages).toEqual([1, 2]);
  expect(streams()).toBe(1);
  // Taking over is not shown as a new beginning.
  expect(second.states.map((state) => state.status)).toEqual(["connecting", "open"]);
  expect(second.client.state.status).toBe("open");
});

test("what the leader has passed on and its successor gets again is told once", async () => {
  const first = await open();
  await server.asked.confirm("e-0-0");
  const second = await open();
  await server.requests[0]!.send(message(1), "e-1-0");
  first.client.close();
  await settle();
  // The successor was one behind when it asked, and the last word of the leader came after.
  await server.requests.at(-1)!.confirm("e-0-0");
  await server.requests.at(-1)!.send(message(1), "e-1-0");
  await settle();
  expect(second.messages).toEqual([1]);
});

test("failures are shown in all tabs, and any of them can be impatient", async () => {
  await open();
  await server.asked.confirm();
  const follower = await open();
  await server.requests[0]!.end();
  await settle();
  expect(follower.client.state).toMatchObject({ status: "reconnecting", attempt: 1 });
  follower.client.reconnect();
  await settle();
  await server.asked.confirm();
  await settle();
  expect(follower.client.state.status).toBe("open");
});

test("a leader that is asleep is found out and loses the lock; awake again it follows", async () => {
  const leader = await open();
  await server.asked.confirm();
  const follower = await open();
  leader.freeze();
  await vi.advanceTimersByTimeAsync(45_000);
  await vi.advanceTimersByTimeAsync(7_500);
  const stream = server.requests.at(-1)!;
  expect(stream).not.toBe(server.requests[0]);
  await stream.confirm();
  await stream.send(message(1), "e-1-0");
  expect(follower.messages).toEqual([1]);
  expect(follower.client.state.status).toBe("open");
  // What it has slept through did not come here: that is told, and then it follows.
  leader.wake();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(leader.gaps).toEqual([{ type: "gap", reason: "unknown", from: "e-0-0", to: "e-1-0" }]);
  await stream.send(message(2), "e-2-0");
  expect(leader.messages).toEqual([2]);
  expect(streams()).toBe(1);
});

test("a tab that stood still while others heard is told that it has missed something, once", async () => {
  await open();
  await server.asked.confirm("e-0-0");
  const [follower, other] = [await open(), await open()];
  await server.requests[0]!.send(message(1), "e-1-0");
  follower.freeze();
  await server.requests[0]!.send(message(2), "e-2-0");
  follower.wake();
  await server.requests[0]!.send({ type: "ping" });
  await server.requests[0]!.send(message(3), "e-3-0");
  await server.requests[0]!.send({ type: "ping" });
  await settle();
  expect(follower.messages).toEqual([1, 3]);
  expect(follower.gaps).toEqual([{ type: "gap", reason: "unknown", from: "e-1-0", to: "e-2-0" }]);
  expect(other.messages).toEqual([1, 2, 3]);
  expect(other.gaps).toEqual([]);
});

test("where locks are denied, as in a frame without an origin, a tab leads for itself", async () => {
  const { environment } = browser.tab(server);
  const request = vi.fn(() => Promise.reject(new DOMException("no origin", "SecurityError")));
  const heard = listen(server, { getToken: tokens() }, { ...environment, locks: { request } as unknown as LockManager });
  await settle();
  await server.asked.confirm();
  expect(heard.client.state.status).toBe("open");
  expect(request).toHaveBeenCalledTimes(1);
  heard.client.close();
  expect(vi.getTimerCount()).toBe(0);
});

test("what a leader has polled and passed on, and its successor polls again, is told once", async () => {
  const first = await open({ transport: "poll" });
  await server.asked.json({ events: [], ids: [], last_id: "e-0-0", gap: false });
  // This one hears nothing of the leader's last words, and is next.
  const second = await open({ transport: "poll" });
  const third = await open({ transport: "poll" });
  second.freeze();
  await server.asked.json({ events: [message(1)], ids: ["e-1-0"], last_id: "e-1-0", gap: false });
  second.wake();
  first.client.close();
  await settle();
  expect(server.asked.parameter("after")).toBe("e-0-0");
  await server.asked.json({ events: [message(1), message(2)], ids: ["e-1-0", "e-2-0"], last_id: "e-2-0", gap: false });
  await settle();
  expect(second.messages).toEqual([1, 2]);
  expect(third.messages).toEqual([1, 2]);
});

test("a tab that is closed by what it hears takes nothing over", async () => {
  await open();
  await server.asked.confirm();
  const follower = await open();
  follower.client.on("new_message", () => follower.client.close());
  await server.requests[0]!.send(message(1), "e-1-0");
  await settle();
  expect(follower.client.state).toMatchObject({ status: "closed" });
  await server.requests[0]!.send({ type: "closing", reason: "disconnected", reconnect: false, retry_ms: 0 });
  await vi.advanceTimersByTimeAsync(600_000);
  expect(server.requests).toHaveLength(1);
  expect(vi.getTimerCount()).toBe(0);
});

test("a leader that lives is left in peace, however quiet the stream is", async () => {
  await open();
  await server.asked.confirm("e-0-0", { ping_interval_ms: 600_000 });
  await open();
  await vi.advanceTimersByTimeAsync(1_400_000);
  expect(server.requests).toHaveLength(1);
});

test("tokens of different users, other channels and other servers share nothing", async () => {
  await open({ getToken: tokens({ sub: "1" }) });
  await server.asked.confirm();
  await open({ getToken: tokens({ sub: "2" }) });
  await server.asked.confirm();
  await open({ getToken: tokens({ sub: "1" }), channels: ["job:1"] });
  await server.asked.confirm();
  await open({ getToken: tokens({ sub: "1" }), url: "https://other.test" });
  await server.asked.confirm();
  expect(server.open).toHaveLength(4);
});

test("tokens that can't be read and cookies are shared by name only", async () => {
  for (const getToken of [() => "opaque", undefined]) {
    for (const share of [undefined, undefined, "user 2", "user 2", false]) {
      await open({ getToken, share });
      if (!server.requests.at(-1)!.answered) await server.asked.confirm();
    }
  }
  // Of each five, the two with the name share one; opaque tokens and cookies share it, since the name says so.
  expect(server.open).toHaveLength(3 + 3 + 1);
});

test("who comes with an id of its own has its own connection", async () => {
  await open();
  await server.asked.confirm("e-9-0");
  await open({ lastEventId: "e-1-0" });
  expect(server.asked.parameter("last_event_id")).toBe("e-1-0");
});

test("a leader whose token is refused leaves the others theirs", async () => {
  const first = await open();
  await server.asked.confirm();
  const second = await open();
  await server.requests[0]!.end();
  await vi.advanceTimersByTimeAsync(500);
  await server.asked.refuse(401);
  await server.asked.refuse(401);
  await settle();
  expect(first.client.state).toMatchObject({ status: "closed", reason: "unauthorized" });
  await server.asked.confirm();
  expect(second.client.state.status).toBe("open");
});

test("whom the server sends away is away in all tabs", async () => {
  const first = await open();
  await server.asked.confirm();
  const second = await open();
  await server.requests[0]!.send({ type: "closing", reason: "disconnected", reconnect: false, retry_ms: 0 });
  await settle();
  for (const tab of [first, second]) expect(tab.client.state).toMatchObject({ status: "closed", reason: "disconnected" });
  expect(server.requests).toHaveLength(1);
});

test("a renewed token for somebody else leaves the group, whose events are not for it", async () => {
  let who = "1";
  let n = 0;
  const moving = await open({ getToken: () => tokens({ sub: who, n: who === "1" ? 0 : ++n - n })() });
  await server.asked.confirm();
  const staying = await open({ getToken: tokens({ sub: "1", n: 0 }) });
  expect(streams()).toBe(1);
  who = "2";
  await server.requests[0]!.send({ type: "token_expiring", expires_in_ms: 1000 });
  await vi.advanceTimersByTimeAsync(500);
  await server.asked.confirm();
  await settle();
  for (const request of server.requests.filter((request) => !request.answered && !request.gone)) await request.confirm();
  await settle();
  expect(streams()).toBe(2);
  const [mine, theirs] = [moving, staying].map((tab) => tab.messages.length);
  expect([mine, theirs]).toEqual([0, 0]);
  const ofOne = server.open.find((request) => request.path === "/events" && atob(request.token!.split(".")[1]!).includes('"sub":"1"'))!;
  await ofOne.send(message(1), "e-1-0");
  await settle();
  expect(moving.messages).toEqual([]);
  expect(staying.messages).toEqual([1]);
});

test("a page that is put away hands over, and is told of the gap when it is back", async () => {
  const first = await open();
  await server.asked.confirm("e-0-0");
  const second = await open();
  first.events.dispatchEvent(new Event("pagehide"));
  await settle();
  await server.asked.confirm("e-0-0");
  await server.requests.at(-1)!.send(message(1), "e-1-0");
  await settle();
  const back = Object.assign(new Event("pageshow"), { persisted: true });
  first.events.dispatchEvent(back);
  await settle();
  expect(streams()).toBe(1);
  expect(second.messages).toEqual([1]);
  expect(first.messages).toEqual([]);
  expect(first.gaps).toEqual([{ type: "gap", reason: "unknown", from: "e-0-0", to: "e-1-0" }]);
  await server.requests.at(-1)!.send(message(2), "e-2-0");
  await settle();
  expect(first.messages).toEqual([2]);
});

test("what is polled reaches all tabs", async () => {
  await open({ transport: "poll" });
  await server.asked.json({ events: [], last_id: "e-1-0", gap: false });
  const follower = await open({ transport: "poll" });
  await server.asked.json({ events: [message(2)], last_id: "e-2-0", gap: false });
  await settle();
  expect(follower.messages).toEqual([2]);
  expect(follower.client.state.status).toBe("polling");
  expect(follower.client.lastEventId).toBe("e-2-0");
});
